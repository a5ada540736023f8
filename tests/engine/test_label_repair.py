"""Label maps that are nearly right: what is mended, what is said about it, and what stays an error."""

from __future__ import annotations

import numpy as np
import pytest
from intarsia_server.engine.errors import CancelledError, InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.label_finder import find_labels
from intarsia_server.engine.label_repair import MOST_VALUES, fill_nearest, fit_size, repair_labels
from intarsia_server.engine.request import LabelMapSource
from intarsia_server.engine.segmentation import LabelPicture, Scale
from pictures import LIMIT, encoded
from PIL import Image

HEIGHT, WIDTH = 96, 128
COLOURS = (0xFF0000, 0x00A000, 0x2020FF)


def scene(values: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """A ground, a disc and a bar; [H, W] of those values."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    labels = np.full((HEIGHT, WIDTH), values[0], dtype=np.int32)
    labels[(x - 45) ** 2 + (y - 45) ** 2 < 30**2] = values[1]
    labels[20:80, 95:115] = values[2]
    return labels


def painted(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([labels >> 16, labels >> 8 & 255, labels & 255], axis=-1).astype(np.uint8))


def read(
    image: Image.Image, claimed: tuple[int, ...], file_format: str = "PNG", **options: object
) -> tuple[np.ndarray, Warnings]:
    content = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    source = LabelMapSource(encoded(image, file_format, **options))
    return find_labels(source, content, claimed=claimed, max_pixels=LIMIT)


def codes(warnings: Warnings) -> list[str]:
    return [code for code, _ in warnings]


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 100, 200), COLOURS])
def test_what_is_right_is_left_alone(values: tuple[int, ...]) -> None:
    labels = scene(values)
    image = painted(labels) if max(values) > 255 else Image.fromarray(labels.astype(np.uint8))
    found, warnings = read(image, values)
    assert np.array_equal(found, labels)
    assert warnings == ()


@pytest.mark.parametrize("quality", [95, 75, 50])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_colours_that_jpeg_moved(quality: int, subsampling: int) -> None:
    labels = scene(COLOURS)
    found, warnings = read(painted(labels), COLOURS, "JPEG", quality=quality, subsampling=subsampling)
    assert set(np.unique(found).tolist()) == set(COLOURS)
    assert (found == labels).mean() > 0.985
    assert codes(warnings)[0] == "label_colours_snapped"


def test_grey_values_that_jpeg_moved() -> None:
    labels = scene((0, 128, 255))
    found, warnings = read(Image.fromarray(labels.astype(np.uint8)), (0, 128, 255), "JPEG", quality=75)
    assert (found == labels).mean() > 0.99
    assert codes(warnings)[0] == "label_colours_snapped"


def test_anti_aliased_edges() -> None:
    big = painted(np.kron(scene(COLOURS), np.ones((4, 4), dtype=np.int32)))
    found, warnings = read(big.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), COLOURS)
    assert (found == scene(COLOURS)).mean() > 0.985
    assert "label_slivers_filled" in codes(warnings)


def test_grey_values_next_to_each_other_are_not_guessed() -> None:
    """0, 3 and 6 are lost in JPEG's noise; nobody can say which was which."""
    image = Image.fromarray(scene((0, 3, 6)).astype(np.uint8))
    noisy = np.asarray(image) + np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    found, warnings = read(Image.fromarray(noisy), (0, 3, 6), "WEBP", lossless=True)
    assert np.array_equal(found, noisy)
    assert warnings == ()


@pytest.mark.parametrize(("values", "claimed"), [((0, 1, 2), (0, 200)), ((0xFF0000, 0xFF0008, 0x0000FF), COLOURS)])
def test_an_area_of_a_nearby_value_in_a_lossless_file_stays_as_it_is(
    values: tuple[int, ...], claimed: tuple[int, ...]
) -> None:
    labels = scene(values)
    image = painted(labels) if max(values) > 255 else Image.fromarray(labels.astype(np.uint8))
    found, warnings = read(image, claimed)
    assert np.array_equal(found, labels)
    assert warnings == ()


def test_a_forgotten_area_stays_as_it_is() -> None:
    labels = scene()
    found, warnings = read(Image.fromarray(labels.astype(np.uint8)), (0, 1))
    assert np.array_equal(found, labels)
    assert warnings == ()


def test_a_forgotten_area_in_jpeg_stays_an_error() -> None:
    with pytest.raises(InvalidInputError, match="colours, at most 64"):
        read(painted(scene(COLOURS)), COLOURS[:2], "JPEG", quality=75)


def test_a_photograph_is_no_label_map() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    with pytest.raises(InvalidInputError, match="at most 64 are allowed"):
        read(Image.fromarray(noise), COLOURS)


def compared() -> bool:
    raise AssertionError("colours are compared")


@pytest.mark.parametrize(("scale", "what"), [(Scale.COLOUR, "colours"), (Scale.INDEX, "different labels")])
def test_more_values_than_any_label_map_has_are_refused_before_they_are_compared(scale: Scale, what: str) -> None:
    values = np.arange(MOST_VALUES + 1, dtype=np.int32)[None]
    with pytest.raises(InvalidInputError, match=f"has {MOST_VALUES + 1} {what}"):
        repair_labels(LabelPicture(values, scale), COLOURS, "label_map.data", cancelled=compared)


def test_many_colours_are_compared_in_parts_between_which_a_cancel_takes_effect() -> None:
    """More colours than are compared at a time."""
    many = np.arange(17_000, dtype=np.int32)[None] + 0x200000
    picture = LabelPicture(many, Scale.COLOUR)
    polls: list[int] = []
    with pytest.raises(InvalidInputError, match="colours, at most 64"):
        repair_labels(picture, (0, 0xFF0000), "label_map.data", cancelled=lambda: bool(polls.append(1)))
    assert len(polls) == 2
    with pytest.raises(CancelledError):
        repair_labels(picture, (0, 0xFF0000), "label_map.data", cancelled=lambda: True)


def test_specks_go_to_the_nearest_segment() -> None:
    labels = scene()
    expected = labels.copy()
    labels[45, 45], labels[5, 5], labels[50:53, 104:106] = 7, 9, 11
    found, warnings = read(Image.fromarray(labels.astype(np.uint8)), (0, 1, 2))
    assert np.array_equal(found, expected)
    ((code, message),) = warnings
    assert code == "label_slivers_filled"
    assert message.startswith("label_map.data: 8 pixels of labels that no segment claims")


def test_a_void_line_along_borders_is_filled() -> None:
    """As in VOC's own label maps: 255 between objects, 5 pixels wide."""
    labels = scene()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x - 45, y - 45)
    void = labels.copy()
    void[(distance > 28) & (distance < 32)] = 255
    image = Image.fromarray(void.astype(np.uint8))
    image.putpalette([9, 9, 9] * 256)
    found, warnings = read(image, (0, 1, 2))
    assert (found == labels).mean() > 0.99
    assert codes(warnings) == ["label_slivers_filled"]


def test_transparent_specks_are_filled() -> None:
    rgba = painted(scene(COLOURS)).convert("RGBA")
    rgba.paste((1, 2, 3, 0), (40, 40, 44, 44))
    found, warnings = read(rgba, COLOURS)
    assert np.array_equal(found, scene(COLOURS))
    assert warnings == (
        ("label_slivers_filled", "label_map.data: 16 pixels of transparent pixels went to the nearest segment"),
    )


def test_a_transparent_area_is_refused() -> None:
    rgba = painted(scene(COLOURS)).convert("RGBA")
    rgba.paste((1, 2, 3, 0), (40, 40, 70, 70))
    with pytest.raises(InvalidInputError, match="translucent"):
        read(rgba, COLOURS)


@pytest.mark.parametrize(("wider", "higher"), [(1, 0), (0, -1), (-2, 2), (2, 1)])
def test_a_pixel_or_two_more_or_less(wider: int, higher: int) -> None:
    size = (WIDTH + wider, HEIGHT + higher)
    image = Image.fromarray(scene().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    found, warnings = read(image, (0, 1, 2))
    assert found.shape == (HEIGHT, WIDTH)
    assert (found == scene()).mean() > 0.97
    assert warnings == (
        (
            "label_map_resized",
            f"label_map.data is {size[0]}x{size[1]} pixels, the content image {WIDTH}x{HEIGHT}; it was resampled",
        ),
    )


@pytest.mark.parametrize("size", [(WIDTH + 3, HEIGHT), (WIDTH, HEIGHT - 3), (2 * WIDTH, 2 * HEIGHT)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInputError, match=f"is {size[0]}x{size[1]} pixels, the content image {WIDTH}x{HEIGHT}"):
        read(Image.new("L", size), (0,))


def test_resampling_keeps_every_row_and_column_in_place() -> None:
    values = np.arange(12, dtype=np.int32).reshape(3, 4)
    found, _ = fit_size(values, 5, 3, "label_map.data")
    assert found[:, 0].tolist() == values[:, 0].tolist()
    assert found[:, -1].tolist() == values[:, -1].tolist()
    assert (np.diff(found[0]) >= 0).all()


def test_filling_takes_the_nearest_value() -> None:
    values = np.zeros((20, 30), dtype=np.int32)
    values[:, 15:] = 5
    holes = np.zeros_like(values, dtype=bool)
    holes[5:15, 5:25] = True
    spoiled = np.where(holes, -1, values)
    assert np.array_equal(fill_nearest(spoiled, holes), values)


def test_without_claims_nothing_is_mended() -> None:
    content = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    source = LabelMapSource(encoded(painted(scene(COLOURS)), "JPEG", quality=50))
    with pytest.raises(InvalidInputError, match="colours, at most 64"):
        find_labels(source, content, claimed=None, max_pixels=LIMIT)
