"""What setup.py compiles and says, what the compiled module says of itself, and what the CUDA compiler says of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from intarsia_server import ops
from intarsia_server.ops import native

from bench.gpu_check import kernels

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc")
with_nvcc = pytest.mark.skipif(
    NVCC is None or torch.version.cuda is None, reason="there is no nvcc, or no CUDA in torch"
)
SWITCHES = ("FORCE_CUDA", "FORCE_CPU", "CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST")
# Runs setup.py with arguments; `hidden` modules are as good as not installed.
SETUP = (
    "import runpy, sys; sys.modules.update(dict.fromkeys({hidden!r})); runpy.run_path('setup.py', run_name='__main__')"
)
# Prints what setup.py would compile.
EXTENSIONS = """
import json, setuptools
from distutils.core import run_setup
found = run_setup("setup.py", ["--name"], stop_after="config").ext_modules or []
print(json.dumps([[e.name, e.sources, dict(e.define_macros), e.include_dirs, e.extra_compile_args] for e in found]))
"""


def python(code: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new process, with no build switch but those given."""
    inherited = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env={**inherited, **environment}, cwd=cwd, capture_output=True, text=True, check=False
    )


def tools(folder: Path, *names: str) -> str:
    """A PATH with these programs and no other."""
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


def build(folder: Path, *hidden: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds the extension into a folder."""
    out = folder / "out"
    out.mkdir()
    where = ("build_ext", "--build-lib", str(out), "--build-temp", str(out))
    return python(SETUP.format(hidden=hidden), *where, **environment)


@dataclass(frozen=True)
class Extension:
    """What setup.py would compile, and what it says to that."""

    said: str
    name: str
    sources: list[str]
    macros: dict[str, str | None]
    folders: list[str]
    flags: dict[str, list[str]]


def extension(**environment: str) -> Extension:
    done = python(EXTENSIONS, **environment)
    assert done.returncode == 0, done.stderr
    ((name, sources, macros, folders, flags),) = json.loads(done.stdout.splitlines()[-1])
    return Extension(done.stderr, name, sources, macros, folders, flags)


@pytest.fixture(scope="module")
def default() -> Extension:
    return extension()


# setup.py


def test_without_a_compiler_it_says_so_and_goes_on(tmp_path: Path) -> None:
    done = build(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (
        "*** intarsia: operators are not compiled, they will run on plain torch: there is no C++ compiler ***"
        in done.stderr
    )
    assert not list((tmp_path / "out").iterdir())


def test_without_torch_it_says_so_and_goes_on(tmp_path: Path) -> None:
    done = build(tmp_path, "torch")
    assert done.returncode == 0, done.stderr
    assert "*** intarsia: operators are not compiled, they will run on plain torch: torch is not there" in done.stderr
    assert "--no-build-isolation" in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("switch", ["FORCE_CPU", "FORCE_CUDA"])
def test_forced_it_fails_without_torch_or_compiler(tmp_path: Path, switch: str) -> None:
    for hidden, path, reason in (
        (("torch",), os.environ["PATH"], "torch is not there"),
        ((), str(tmp_path), "there is no C++ compiler"),
    ):
        folder = tmp_path / reason.replace(" ", "-")
        folder.mkdir()
        done = build(folder, *hidden, PATH=path, **{switch: "1"})
        assert done.returncode == 1
        assert f"the operators cannot be compiled: {reason}" in done.stderr


def _no_cuda() -> str:
    return "there is no nvcc" if torch.version.cuda else "this torch is built without CUDA"


def test_force_cuda_fails_without_nvcc(tmp_path: Path) -> None:
    path = tools(tmp_path, "c++")
    done = build(tmp_path, PATH=path, CUDA_HOME=str(tmp_path), FORCE_CUDA="1")
    assert done.returncode == 1
    assert f"FORCE_CUDA is set, but {_no_cuda()}" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_without_nvcc_it_says_so_and_compiles_for_the_cpu(tmp_path: Path) -> None:
    found = extension(PATH=tools(tmp_path, "c++"), CUDA_HOME=str(tmp_path))
    assert f"*** intarsia: compiled for the CPU alone, CUDA will run on plain torch: {_no_cuda()} ***" in found.said
    assert found.name == native.NAME
    assert "csrc/ops.cpp" in found.sources
    assert not [source for source in found.sources if source.endswith(".cu")]
    assert "INTARSIA_CUDA" not in found.macros


def test_force_cpu_leaves_cuda_out_in_silence() -> None:
    found = extension(FORCE_CPU="1")
    cpu = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("csrc/cpu/*.cpp"))
    assert found.sources == ["csrc/ops.cpp", *cpu]
    assert "INTARSIA_CUDA" not in found.macros
    assert "***" not in found.said


@with_nvcc
def test_with_nvcc_it_compiles_for_cuda(default: Extension) -> None:
    cuda = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("csrc/cuda/*.cu")}
    assert {source for source in default.sources if source.endswith(".cu")} == cuda
    assert "INTARSIA_CUDA" in default.macros
    assert default.macros["INTARSIA_CUDA_ARCHITECTURES"] == '"8.0;8.6;8.9;9.0+PTX"'
    assert default.flags["nvcc"][default.flags["nvcc"].index("-Xptxas") + 1] == "-v"


@with_nvcc
def test_architectures_can_be_named() -> None:
    assert extension(TORCH_CUDA_ARCH_LIST="9.0").macros["INTARSIA_CUDA_ARCHITECTURES"] == '"9.0"'


# The compiled module


def test_build_info() -> None:
    module = native.load()
    assert module is not None
    info = module.build_info()
    assert info["devices"][0] == "cpu"
    assert info["torch"].split(".")[0] == torch.__version__.split(".")[0]
    assert info["compiler"]
    assert ("cuda" in info["devices"]) == bool(info["cuda_architectures"])
    assert native.implementation(module) == f"native ({', '.join(info['devices'])})"
    assert native.implementation(module) == ops.IMPLEMENTATION


@with_nvcc
def test_cuda_is_served_where_nvcc_is() -> None:
    module = native.load()
    assert module is not None
    assert module.build_info()["devices"] == ["cpu", "cuda"]


def package(folder: Path) -> Path:
    """A copy of the operators' package without its extension; the path that the extension would have."""
    source = Path(ops.__file__).parent
    copy = folder / "intarsia_server" / "ops"
    copy.mkdir(parents=True)
    (copy.parent / "__init__.py").touch()
    for file in source.glob("*.py"):
        shutil.copy(file, copy)
    return copy / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"


def test_without_the_extension_plain_torch_serves(tmp_path: Path) -> None:
    package(tmp_path)
    code = (
        "import torch; from intarsia_server import ops; print(ops.__file__, ops.IMPLEMENTATION, sep='\\n');"
        "print(ops.masked_gram(torch.ones(1, 2, 3, 4), ops.build_plan(torch.ones(1, 3, 4))).gram.tolist())"
    )
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where, implementation, gram = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert implementation == "torch"
    assert gram == "[[[[1.0, 1.0], [1.0, 1.0]]]]"


def test_an_extension_for_another_torch_names_version_and_symbol(tmp_path: Path) -> None:
    """It is never passed over in silence for slow kernels."""
    library, source = package(tmp_path), tmp_path / "broken.cpp"
    source.write_text(
        'extern "C" void gone_from_torch();\nextern "C" void* PyInit__native() { gone_from_torch(); return 0; }\n'
    )
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    done = python("import intarsia_server.ops", cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: the compiled operators do not load with torch {torch.__version__}: ")
    assert "undefined symbol: gone_from_torch" in last
    assert "--no-build-isolation" in last


def test_a_damaged_extension_is_an_error(tmp_path: Path) -> None:
    package(tmp_path).write_bytes(b"not a library")
    done = python("import intarsia_server.ops", cwd=tmp_path)
    assert done.returncode == 1
    assert f"ImportError: the compiled operators do not load with torch {torch.__version__}: " in done.stderr


# What processors without a bfloat16 unit run

WITHOUT_UNIT = """
import torch
from intarsia_server import ops
from ops_cases import features, hard_masks, soft_masks
from ops_checks import check_gram, check_gram_loss
assert ops.IMPLEMENTATION == "torch"
torch.ops.load_library({library!r})
for name in ("masked_gram", "masked_gram_loss", "masked_gram_backward"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"intarsia::{{name}}", "CPU")
for shape in ((2, 70, 9, 15), (1, 130, 33, 37)):
    for layout in ("contiguous", "channels_last"):
        x = features(shape, torch.bfloat16, layout, device=torch.device("cpu"))
        for masks in (hard_masks(3, *shape[2:], uncovered=0.2), soft_masks(3, *shape[2:])):
            check_gram(x, masks)
            check_gram_loss(x, masks, exact_weights=True)
"""


def test_without_a_bfloat16_unit_float32_serves(tmp_path: Path) -> None:
    """The same sources, compiled as for a processor that has no such instructions, round no weights."""
    found, library = extension(FORCE_CPU="1"), tmp_path / "masked_gram.so"
    package(tmp_path)
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-DINTARSIA_PORTABLE"]
    options += [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in found.macros.items()]
    options += [f"-I{folder}" for folder in found.folders]
    torch_libraries = Path(torch.__file__).parent / "lib"
    libraries = [f"-L{torch_libraries}", f"-Wl,-rpath,{torch_libraries}", "-ltorch", "-ltorch_cpu", "-lc10"]
    source = str(ROOT / "csrc/cpu/masked_gram.cpp")
    subprocess.run(["c++", *options, source, *libraries, "-o", str(library)], check=True)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    done = python(WITHOUT_UNIT.format(library=str(library)), cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


# nvcc's word on the kernels


def test_there_are_cuda_sources() -> None:
    assert list(ROOT.glob("csrc/cuda/*.cu"))


@with_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", sorted(path.name for path in ROOT.glob("csrc/cuda/*.cu")))
def test_no_kernel_spills(default: Extension, tmp_path: Path, source: str, architecture: str) -> None:
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

    assert NVCC is not None
    command = [NVCC, "-cubin", f"-arch={architecture}", *COMMON_NVCC_FLAGS, *default.flags["nvcc"]]
    command += [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in default.macros.items()]
    command += [f"-I{folder}" for folder in default.folders]
    command += ["-o", str(tmp_path / "kernels.cubin"), str(ROOT / "csrc/cuda" / source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = kernels(done.stderr)
    assert found
    assert not [kernel for kernel in found if kernel.spilled_bytes]
