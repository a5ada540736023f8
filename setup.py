"""Builds the distribution: generates the protobuf code, then packages client, server and the example."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PROTO = "intarsia/v1/style_transfer.proto"


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


setup(cmdclass={"build_py": BuildWithProtos})
