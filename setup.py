"""Builds the distribution: generates the protobuf code, compiles the operators, packages client, server and example.

Without torch or a compiler the operators are left out, and run on plain torch.

Switches, by environment: FORCE_CUDA=1 fails without nvcc; FORCE_CPU=1 leaves the CUDA kernels out;
TORCH_CUDA_ARCH_LIST names the GPU architectures.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PROTO = "intarsia/v1/style_transfer.proto"
ARCHITECTURES = "8.0;8.6;8.9;9.0+PTX"
STABLE_ABI = "0x020b000000000000"
"""torch 2.11: a build serves that version and every later one."""


class BuildWithProtos(build_py):
    """Generates `intarsia/v1/*_pb2*` into the source tree first, so that editable installs see it too."""

    def run(self) -> None:
        """Generates, then packages."""
        generate_protos()
        super().run()


def generate_protos() -> None:
    """Runs protoc on the API; never committed, so code and proto cannot disagree."""
    from grpc_tools import protoc

    include = Path(protoc.__file__).parent / "_proto"
    out = ROOT / "client"
    arguments = [
        "protoc",
        f"-I{ROOT / 'proto'}",
        f"-I{include}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out={out}",
        f"--mypy_grpc_out={out}",
        PROTO,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"protoc failed on {PROTO}")


def announce(message: str) -> None:
    """A line that stands out in a build log."""
    print(f"\n*** intarsia: {message} ***\n", file=sys.stderr)


def switched(name: str) -> bool:
    """Whether an environment switch is on."""
    return os.environ.get(name, "0").lower() in {"1", "true", "yes", "on"}


def operators() -> dict[str, Any]:
    """The extension for `setup`; nothing where torch or a compiler is missing."""
    forced = switched("FORCE_CUDA") or switched("FORCE_CPU")
    missing = None
    if importlib.util.find_spec("torch") is None:
        missing = "torch is not there (install it first and use --no-build-isolation)"
    elif shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
        missing = "there is no C++ compiler"
    if missing is not None:
        if forced:
            raise SystemExit(f"the operators cannot be compiled: {missing}")
        announce(f"operators are not compiled, they will run on plain torch: {missing}")
        return {}

    # cpp_extension reads both as it is imported; without a GPU and without the list it fails.
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    home = toolkit()
    if home is not None:
        os.environ.setdefault("CUDA_HOME", home)
    import torch
    from torch.utils import cpp_extension

    cuda = with_cuda(torch.version.cuda, cpp_extension.CUDA_HOME)
    sources = ["csrc/ops.cpp", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc/cpu").glob("*.cpp"))]
    architectures = os.environ["TORCH_CUDA_ARCH_LIST"] if cuda else ""
    defines: list[tuple[str, str | None]] = [
        ("TORCH_TARGET_VERSION", STABLE_ABI),
        ("INTARSIA_BUILT_WITH_TORCH", f'"{torch.__version__}"'),
        ("INTARSIA_CUDA_ARCHITECTURES", f'"{architectures}"'),
    ]
    # Error messages quote their source file: without the folder that it was built in.
    host = ["-fvisibility=hidden", f"-fmacro-prefix-map={ROOT}/="]
    flags = {"cxx": ["-O3", "-std=c++20", "-Wall", "-Wno-attributes", *host]}
    extension = cpp_extension.CppExtension
    if cuda:
        extension = cpp_extension.CUDAExtension
        sources += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc/cuda").glob("*.cu"))
        defines.append(("INTARSIA_CUDA", None))
        # -v: registers and spills of each kernel in the log.
        flags["nvcc"] = ["-O3", "-std=c++20", "-Xptxas", "-v", "--threads", "2", "-Xcompiler", ",".join(host)]
    module = extension("intarsia_server.ops._native", sources, define_macros=defines, extra_compile_args=flags)
    return {"ext_modules": [module], "cmdclass": {"build_ext": cpp_extension.BuildExtension}}


def toolkit() -> str | None:
    """The folder of the CUDA toolkit, by nvcc's own word: on the path there may be a script that calls the real one."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    said = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    found = re.search(r"TOP=(\S+)", said.stderr)
    return None if found is None else str(Path(found[1]).resolve())


def with_cuda(version: str | None, home: str | None) -> bool:
    """Whether to compile the CUDA kernels: where torch is built for CUDA and nvcc is there, unless told otherwise."""
    if switched("FORCE_CPU"):
        return False
    missing = None
    if version is None:
        missing = "this torch is built without CUDA"
    elif home is None or not (Path(home) / "bin/nvcc").exists():
        missing = "there is no nvcc"
    if missing is None:
        return True
    if switched("FORCE_CUDA"):
        raise SystemExit(f"FORCE_CUDA is set, but {missing}")
    announce(f"compiled for the CPU alone, CUDA will run on plain torch: {missing}")
    return False


arguments = operators()
setup(cmdclass={"build_py": BuildWithProtos, **arguments.pop("cmdclass", {})}, **arguments)
