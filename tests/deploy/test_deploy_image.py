"""What the Dockerfile promises, as far as can be told without building it; `make image-check` builds and runs it."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from deployment import GRPC, METRICS, ROOT, USER, arguments, environment, instruction, stages

RUNTIME = ("cpu", "gpu")
DOCS = (ROOT / "docs" / "deploy.md").read_text()


def test_stages() -> None:
    assert list(stages()) == ["", "cpu-build", "cpu", "gpu-build", "gpu"]
    for target in RUNTIME:
        assert f"`{target}`" in DOCS


@pytest.mark.parametrize(("one", "other"), [("cpu", "gpu"), ("cpu-build", "gpu-build")])
def test_both_devices_get_the_same(one: str, other: str) -> None:
    """But for the base image and what the compiler is told."""

    def plain(stage: str) -> list[tuple[str, str]]:
        return [
            (name, rest.replace("--from=gpu", "--from=cpu"))
            for name, rest in stages()[stage]
            if not (stage.endswith("build") and (name == "ENV" or "ARCH_LIST" in rest))
        ]

    assert plain(one) == plain(other)


@pytest.mark.parametrize("stage", RUNTIME)
def test_runtime(stage: str) -> None:
    assert instruction(stage, "USER") == f"{USER}:{USER}"
    assert json.loads(instruction(stage, "VOLUME")) == [environment(stage)["INTARSIA_DATA_DIR"]]
    assert json.loads(instruction(stage, "ENTRYPOINT")) == ["intarsia", "serve"]
    assert instruction(stage, "EXPOSE").split() == [str(GRPC), str(METRICS)]
    assert environment(stage)["INTARSIA_ADDRESS"] == f"0.0.0.0:{GRPC}"
    assert "INTARSIA_PLAINTEXT" not in environment(stage)
    check = instruction(stage, "HEALTHCHECK").partition(" CMD ")[2]
    assert json.loads(check) == ["intarsia-health"]
    assert not re.search(r"g\+\+|gcc|python3-dev|build-essential", str(stages()[stage]))


def test_versions() -> None:
    """Of the distribution, of torch, and the architectures are those of the rest of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for stage in RUNTIME:
        assert ("ARG", f"VERSION={project['version']}") in stages()[stage]
    assert f"TORCH := {arguments()['TORCH']}\n" in (ROOT / "Makefile").read_text()
    architectures = re.findall(r'^ARCHITECTURES = "(.+)"', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert ("ARG", f'TORCH_CUDA_ARCH_LIST="{architectures[0]}"') in stages()["gpu-build"]
    assert environment("gpu-build")["FORCE_CUDA"] == environment("cpu-build")["FORCE_CPU"] == "1"


def test_base_images_are_pinned() -> None:
    """By a tag that is not `latest`, and CUDA is the same in both stages."""
    images = {name: value for name, value in arguments().items() if name.endswith("_IMAGE")}
    assert len(images) == 3
    for name, image in images.items():
        assert re.fullmatch(r"[\w/]+:(?!latest)[\w.-]+", image)
        assert f"`{name}`" in DOCS
    cuda = {re.findall(r"cuda:([\d.]+)-", image)[0] for image in images.values() if "cuda" in image}
    assert len(cuda) == 1


def test_what_is_built_from_reaches_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py", "client", "csrc", "examples", "proto", "server"):
        assert f"!{name}" in ignored
        assert (ROOT / name).exists()
    assert {"*", "**/*_pb2*", "**/_native*.so"} <= set(ignored)
