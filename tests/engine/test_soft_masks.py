"""Soft masks: a partition of unity, what is left over, and the segments that wear them."""

from __future__ import annotations

import numpy as np
import pytest
from intarsia_server.engine.errors import CancelledError, InvalidInputError
from intarsia_server.engine.label_finder import NO_TOOLS, Tools, find_labels
from intarsia_server.engine.request import Segment, SoftMask, SoftMasks
from intarsia_server.engine.segment_finder import SegmentFinder, Segments
from pictures import LIMIT, encoded
from PIL import Image

HEIGHT, WIDTH = 64, 96
CONTENT = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
RAMP = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
WHITE = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)


def masks(**by_label: np.ndarray) -> SoftMasks:
    """From arrays named `m0`, `m1` and so on."""
    return SoftMasks(
        tuple(SoftMask(int(name[1:]), encoded(Image.fromarray(array))) for name, array in by_label.items())
    )


def styled(*labels: int) -> Segment:
    return Segment(labels=labels, style=b"style")


def kept(*labels: int) -> Segment:
    return Segment(labels=labels, style=None)


def found(source: SoftMasks, *segments: Segment, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Segments:
    finder = SegmentFinder(source, segments, CONTENT, max_pixels=LIMIT)
    finder.check(size)
    return finder.find(size, NO_TOOLS)


def refused(source: SoftMasks, *segments: Segment) -> InvalidInputError:
    finder = SegmentFinder(source, segments, CONTENT, max_pixels=LIMIT)
    with pytest.raises(InvalidInputError) as caught:
        finder.check((WIDTH, HEIGHT))
    return caught.value


def test_weights_are_scaled_to_a_partition_of_unity() -> None:
    result = found(masks(m1=RAMP, m2=WHITE), styled(1), styled(2))
    assert result.masks is not None
    assert result.masks.dtype == np.float32
    ramp = RAMP / 255
    np.testing.assert_allclose(result.masks[0], ramp / (ramp + 1), atol=1e-6)
    np.testing.assert_allclose(result.masks.sum(axis=0), 1, atol=1e-6)


def test_labels_are_the_greatest_weights() -> None:
    result = found(masks(m1=RAMP, m2=255 - RAMP), styled(2), styled(1))
    assert np.array_equal(result.labels, np.where(RAMP > 255 - RAMP, 1, 0))
    assert result.styled == (0, 1)


def test_label_0_has_what_the_others_leave() -> None:
    result = found(masks(m3=RAMP), styled(0), styled(3))
    assert result.masks is not None
    np.testing.assert_allclose(result.masks[0], 1 - RAMP / 255, atol=1e-6)
    assert result.warnings == ()


def test_a_mask_of_its_own_replaces_what_is_left() -> None:
    result = found(masks(m0=WHITE // 2, m3=RAMP), styled(0), styled(3))
    assert result.masks is not None
    np.testing.assert_allclose(result.masks[0], 127 / (127 + RAMP.astype(float)), atol=1e-6)


def test_masks_of_one_segment_add_up() -> None:
    half = WHITE // 2
    result = found(masks(m1=half, m2=half, m3=RAMP), styled(1, 2), styled(3))
    assert result.masks is not None
    np.testing.assert_allclose(result.masks[0], (254 / 255) / (254 / 255 + RAMP / 255), atol=1e-6)


def test_pixels_without_any_weight_go_to_the_nearest_mask() -> None:
    left, right = np.zeros_like(WHITE), np.zeros_like(WHITE)
    left[:, :40], right[:, 60:] = 200, 100
    result = found(masks(m1=left, m2=right), styled(1), styled(2))
    assert result.masks is not None
    assert np.array_equal(result.labels, np.tile(np.arange(WIDTH) >= 50, (HEIGHT, 1)))
    assert set(np.unique(result.masks)) == {0, 1}
    ((code, message),) = result.warnings
    assert code == "masks_filled"
    assert str(20 * HEIGHT) in message


def test_kept_segments_are_hard() -> None:
    result = found(masks(m1=RAMP, m2=255 - RAMP, m3=WHITE // 2 + 30), styled(1), kept(2), styled(3))
    assert result.masks is not None
    mine = result.labels == 1
    assert np.array_equal(result.masks[1], mine)
    assert (result.masks[[0, 2]][:, mine] == 0).all()
    np.testing.assert_allclose(result.masks.sum(axis=0), 1, atol=1e-6)
    assert result.masks[0][~mine].min() < 0.9
    assert result.styled == (0, 2)


def test_16_bits_and_another_size() -> None:
    wide = SoftMasks((SoftMask(1, encoded(Image.fromarray(RAMP.astype(np.uint16) * 257))),))
    result = found(wide, styled(0), styled(1), size=(WIDTH // 2, HEIGHT // 2))
    assert result.masks is not None
    assert result.masks.shape == (2, HEIGHT // 2, WIDTH // 2)
    np.testing.assert_allclose(result.masks[1], RAMP[::2, ::2] / 255, atol=0.01)


def test_dark_masks_of_16_bits_stay_dark() -> None:
    dark = SoftMasks((SoftMask(1, encoded(Image.fromarray(RAMP.astype(np.uint16)))), masks(m2=WHITE).masks[0]))
    assert refused(dark, styled(1), styled(2)).reason == "its mask is nowhere the largest"


def test_a_size_off_by_a_pixel_is_resampled() -> None:
    source = SoftMasks((SoftMask(1, encoded(Image.fromarray(RAMP).resize((WIDTH + 1, HEIGHT)))),))
    assert [code for code, _ in found(source, styled(0), styled(1)).warnings] == ["label_map_resized"]


@pytest.mark.parametrize(
    ("source", "segments", "field", "reason"),
    [
        (masks(m1=RAMP, m2=WHITE), (styled(1),), "soft_masks.masks", "without a style: 2"),
        (masks(m1=RAMP), (styled(0), styled(1), styled(4)), "segments[2].labels", "label 4 has no pixel in soft_masks"),
        (masks(m1=RAMP, m2=WHITE * 0), (styled(1), styled(2)), "soft_masks.masks[1].image.data", "black everywhere"),
        (masks(m1=WHITE, m2=RAMP // 2), (styled(1), styled(2)), "segments[1].labels", "nowhere the largest"),
        (masks(m1=WHITE[:-3]), (styled(1),), "soft_masks.masks[0].image.data", "is 96x61 pixels"),
        (SoftMasks((SoftMask(1, b"no picture"),)), (styled(1),), "soft_masks.masks[0].image.data", "decoded"),
        (
            SoftMasks((SoftMask(1, encoded(Image.new("RGBA", (WIDTH, HEIGHT)))),)),
            (styled(1),),
            "soft_masks.masks[0].image.data",
            "translucent",
        ),
    ],
)
def test_refusals_name_the_field(source: SoftMasks, segments: tuple[Segment, ...], field: str, reason: str) -> None:
    error = refused(source, *segments)
    assert error.field == field
    assert reason in error.reason


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_channel_is_no_matter(mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    result = found(SoftMasks((SoftMask(1, encoded(image)),)), styled(0), styled(1))
    assert result.masks is not None
    np.testing.assert_allclose(result.masks[1], RAMP / 255, atol=1e-6)


@pytest.mark.parametrize("white", [255, 65535, 2**24])
def test_32_bits_are_refused(white: int) -> None:
    """Nobody can say which value is white."""
    wide = SoftMasks((SoftMask(1, encoded(Image.fromarray((RAMP / 255 * white).astype(np.int32)), "TIFF")),))
    assert "other than 8 or 16 bits of grey" in refused(wide, styled(0), styled(1)).reason


def test_a_weak_mask_does_not_vanish_from_a_label_map() -> None:
    with pytest.raises(InvalidInputError, match="its mask is nowhere the largest") as caught:
        find_labels(masks(m2=RAMP, m1=WHITE // 4), CONTENT, claimed=None, max_pixels=LIMIT)
    assert caught.value.field == "soft_masks.masks[1].image.data"


def test_reading_can_be_cancelled_between_masks() -> None:
    answers = iter([False, True])
    finder = SegmentFinder(masks(m1=RAMP, m2=255 - RAMP), (styled(1), styled(2)), CONTENT, max_pixels=LIMIT)
    with pytest.raises(CancelledError):
        finder.check((WIDTH, HEIGHT), Tools(cancelled=lambda: next(answers)))
    assert list(answers) == []


def test_as_a_label_map() -> None:
    labels, warnings = find_labels(masks(m3=RAMP), CONTENT, claimed=None, max_pixels=LIMIT)
    assert np.array_equal(labels, np.where(RAMP > 127, 3, 0))
    assert warnings == ()
