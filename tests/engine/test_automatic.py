"""Automatic segmentation: torchvision's real networks, with weights that the tests make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import example_scene
import known_network
import numpy as np
import pytest
import torch
from intarsia_server.engine.automatic import Classifier, load_network
from intarsia_server.engine.errors import InvalidInputError, WeightsUnavailableError
from intarsia_server.engine.inputs import Inputs, check_inputs, decode_inputs
from intarsia_server.engine.label_answer import answer_segmentation
from intarsia_server.engine.label_finder import Tools
from intarsia_server.engine.request import Automatic, Segment, SegmentationModel, SegmentationRequest, TransferRequest
from intarsia_server.engine.voc import CLASSES
from known_network import DOG, MODEL, PERSON
from pictures import LIMIT
from torchvision.models import get_model, get_model_weights


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = tmp_path_factory.mktemp("weights") / "known.pth"
    known_network.write_weights(path)
    return Classifier(files={MODEL: path}, allow_download=False, device=torch.device("cpu"))


def request(*segments: Segment) -> TransferRequest:
    made = example_scene.request("masked-gram", segmentation=Automatic(MODEL))
    return replace(made, content=example_scene.png(known_network.picture()), segments=segments)


def styled(*labels: int) -> Segment:
    return Segment(labels=labels, style=example_scene.style("ink", 96))


def decode(classifier: Classifier, *segments: Segment) -> Inputs:
    made = request(*segments)
    check_inputs(made, max_pixels=LIMIT)
    return decode_inputs(made, max_pixels=LIMIT, tools=Tools(classify=classifier))


def test_classes_are_torchvisions() -> None:
    for model in SegmentationModel:
        categories = get_model_weights(model.value).COCO_WITH_VOC_LABELS_V1.meta["categories"]
        assert tuple(categories) == ("__background__", *CLASSES[1:])


def test_the_network_says_what_is_where(classifier: Classifier) -> None:
    labels = classifier(known_network.picture(), MODEL)
    assert labels.dtype == np.int32
    assert labels.shape == (64, 96)
    assert set(np.unique(labels).tolist()) == {DOG, PERSON}
    assert (labels[:, :46] == DOG).mean() > 0.95
    assert (labels[:, 50:] == PERSON).mean() > 0.95
    assert np.array_equal(labels, classifier(known_network.picture(), MODEL))


def test_long_pictures_are_made_smaller(classifier: Classifier) -> None:
    """A strip at the preset's size would take a thousand times the memory of a photograph."""
    strip = np.tile(known_network.picture()[:8], (1, 20, 1))
    assert classifier(strip, MODEL).shape == (8, 1920)


def test_classes_become_segments(classifier: Classifier) -> None:
    inputs = decode(classifier, styled(DOG), styled(PERSON))
    assert inputs.warnings == ()
    assert (inputs.labels[:, :46] == 0).mean() > 0.95
    assert inputs.styled == (0, 1)


def test_unclaimed_classes_go_to_label_0(classifier: Classifier) -> None:
    inputs = decode(classifier, styled(0), styled(PERSON))
    ((code, message),) = inputs.warnings
    assert code == "classes_unclaimed"
    assert "dog (12)" in message
    assert (inputs.labels[:, :46] == 0).mean() > 0.95


def test_unclaimed_classes_without_label_0_are_refused(classifier: Classifier) -> None:
    with pytest.raises(InvalidInputError, match=r"found dog \(12\), which no segment claims") as caught:
        decode(classifier, styled(PERSON))
    assert caught.value.field == "automatic"


def test_an_absent_segment_keeps_its_index_and_has_no_part(classifier: Classifier) -> None:
    inputs = decode(classifier, styled(3, 4), styled(DOG), styled(PERSON))
    assert inputs.warnings == (
        ("segment_absent", "no bird (3), boat (4) was found: segments[0] has no pixel and no part"),
    )
    assert inputs.styled == (1, 2)
    assert set(np.unique(inputs.labels).tolist()) == {1, 2}


def test_nothing_with_a_style_is_refused(classifier: Classifier) -> None:
    with pytest.raises(InvalidInputError, match="and nothing with a style") as caught:
        decode(classifier, styled(3), Segment(labels=(DOG, PERSON), style=None))
    assert caught.value.field == "automatic"


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="label 21 is none of the classes 0 to 20") as caught:
        check_inputs(request(styled(0), styled(21)), max_pixels=LIMIT)
    assert caught.value.field == "segments[1].labels"


def test_the_answer_has_names_and_shares(classifier: Classifier) -> None:
    asked = SegmentationRequest(content=example_scene.png(known_network.picture()), segmentation=Automatic(MODEL))
    found = answer_segmentation(asked, max_pixels=LIMIT, tools=Tools(classify=classifier))
    assert [(label.label, label.name) for label in found.labels] == [(DOG, "dog"), (PERSON, "person")]
    assert sum(label.share for label in found.labels) == 1


@pytest.mark.parametrize("model", SegmentationModel)
def test_weights_are_not_fetched_unasked(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = get_model_weights(model.value).COCO_WITH_VOC_LABELS_V1.url.rpartition("/")[2]
    with pytest.raises(WeightsUnavailableError) as caught:
        load_network(model, files={}, allow_download=False)
    assert f"{name} is not in the torch hub cache" in str(caught.value)
    assert f'INTARSIA_SEGMENTATION_FILES=\'{{"{model.value}": ' in str(caught.value)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("model", SegmentationModel)
def test_published_state_dicts_fit(model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the hub's cache, under the published name, with the heads that the published files have."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = get_model_weights(model.value).COCO_WITH_VOC_LABELS_V1
    path = tmp_path / "hub" / "checkpoints" / published.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    options = {} if model is MODEL else {"aux_loss": True}
    torch.save(get_model(model.value, weights=None, weights_backbone=None, **options).state_dict(), path)
    network = load_network(model, files={}, allow_download=False)
    assert not network.training
    path.unlink()


@pytest.mark.parametrize("state", [{}, [1, 2], {"classifier.low_classifier.bias": torch.zeros(3)}])
def test_other_files_are_refused(state: object, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsUnavailableError, match="holds no state dict of this network"):
        load_network(MODEL, files={MODEL: tmp_path / "other.pth"}, allow_download=False)
