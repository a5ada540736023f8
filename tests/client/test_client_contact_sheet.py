"""The contact sheet: an even grid of unstretched pictures, and the label map in colours."""

from __future__ import annotations

from intarsia.cli.contact_sheet import Tile, contact_sheet, label_overlay, segment_colour
from PIL import Image, ImageChops


def box(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    difference = ImageChops.difference(sheet, Image.new("RGB", sheet.size, colour)).split()
    largest = ImageChops.lighter(ImageChops.lighter(*difference[:2]), difference[2])
    found = largest.point([255 * (value == 0) for value in range(256)]).getbbox()
    assert found is not None
    return found


def test_rows_fill_the_page_and_nothing_is_stretched() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    sizes = [(60, 40), (40, 40), (30, 50), (64, 48)]
    tiles = [
        Tile(Image.new("RGB", size, colour), "name", "note", (1, 2, 3))
        for size, colour in zip(sizes, colours, strict=True)
    ]
    sheet = contact_sheet("Title", "subtitle", [tiles[:3], tiles[3:]])
    boxes = [box(sheet, colour) for colour in colours]
    for (width, height), (left, top, right, bottom) in zip(sizes, boxes, strict=True):
        assert abs((right - left) / (bottom - top) - width / height) < 0.01
    first, second, third, fourth = boxes
    assert first[1] == second[1] == third[1]
    assert first[3] == second[3] == third[3]
    assert first[0] == fourth[0] == sheet.width - third[2] == sheet.width - fourth[2]
    assert second[0] - first[2] == third[0] - second[2] > 0
    assert fourth[1] > first[3]
    assert sheet.height > fourth[3]


def test_every_segment_has_its_colour_in_the_overlay() -> None:
    labels = Image.new("P", (60, 40))
    labels.paste(7, (30, 0, 60, 40))
    overlay = label_overlay(Image.new("RGB", (60, 40), (127, 127, 127)), labels)
    for index, position in enumerate([(10, 20), (50, 20)]):
        pixel = overlay.getpixel(position)
        assert isinstance(pixel, tuple)
        assert all(abs(part - wanted) < 8 for part, wanted in zip(pixel, segment_colour(index), strict=True))
