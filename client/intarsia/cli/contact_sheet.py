"""The demo's one-page summary: what went in above, what came out below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

__all__ = ["Tile", "contact_sheet", "label_overlay", "segment_colour"]

Colour = tuple[int, int, int]

_PAPER: Colour = (251, 250, 247)
_INK: Colour = (34, 34, 34)
_GREY: Colour = (122, 120, 115)
_RULE: Colour = (222, 219, 212)
_SEGMENT_COLOURS: tuple[Colour, ...] = ((214, 96, 66), (54, 112, 166), (232, 176, 62), (66, 144, 110), (128, 90, 160))

_WIDTH, _MARGIN, _GUTTER = 2000, 84, 32  # pixels
_TITLE, _CAPTION, _NOTE = 46, 25, 21  # font sizes
_CAPTION_GAP, _ROW_GAP, _SWATCH = 16, 56, 18


@dataclass(frozen=True)
class Tile:
    """A picture with its caption.

    Attributes:
        picture: RGB, of any size; it is scaled, never stretched or cut.
        caption: Its name.
        note: A second, quieter line.
        swatch: Colour of a small square before the caption, if any.
    """

    picture: Image.Image
    caption: str
    note: str = ""
    swatch: Colour | None = None


def contact_sheet(title: str, subtitle: str, rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Lays out rows of pictures, each row as high as makes it exactly as wide as the page.

    Returns:
        An RGB picture, 2000 pixels wide.
    """
    scaled = [_fit(row) for row in rows]
    caption_height = _CAPTION_GAP + _CAPTION + 10 + _NOTE
    head = _MARGIN + _TITLE + 30
    height = head + sum(_ROW_GAP + row[0].picture.height + caption_height for row in scaled) + _MARGIN
    sheet = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, head - 30), title, _INK, ImageFont.load_default(_TITLE), anchor="ls")
    draw.text((_WIDTH - _MARGIN, head - 30), subtitle, _GREY, ImageFont.load_default(_CAPTION), anchor="rs")
    draw.line((_MARGIN, head, _WIDTH - _MARGIN - 1, head), _RULE, 2)
    top = head
    for row in scaled:
        top += _ROW_GAP
        left = _MARGIN
        for tile in row:
            sheet.paste(tile.picture, (left, top))
            _write_caption(draw, tile, left, top + tile.picture.height + _CAPTION_GAP)
            left += tile.picture.width + _GUTTER
        top += row[0].picture.height + caption_height
    return sheet


def label_overlay(content: Image.Image, labels: Image.Image) -> Image.Image:
    """Returns the content image, RGB, with each segment tinted in its colour and outlined.

    Args:
        content: The content image.
        labels: Grey or palette label map of the same size.
    """
    grey = ImageOps.grayscale(content)
    overlay = Image.new("RGB", content.size)
    outlines = Image.new("L", content.size)
    for index, label in enumerate(sorted(value for _, value in labels.getcolors(256) or [] if isinstance(value, int))):
        mask = labels.point([255 * (value == label) for value in range(256)], "L")
        dark = tuple(part // 4 for part in segment_colour(index))
        pale = tuple(255 - (255 - part) // 3 for part in segment_colour(index))
        overlay.paste(ImageOps.colorize(grey, dark, pale, mid=segment_colour(index)), mask=mask)
        outlines = ImageChops.lighter(outlines, ImageChops.difference(mask, mask.filter(ImageFilter.MinFilter(3))))
    overlay.paste(_PAPER, mask=outlines)
    return overlay


def segment_colour(index: int) -> Colour:
    """Returns the colour that stands for the segment at `index` of the request."""
    return _SEGMENT_COLOURS[index % len(_SEGMENT_COLOURS)]


def _fit(row: Sequence[Tile]) -> list[Tile]:
    room = _WIDTH - 2 * _MARGIN - _GUTTER * (len(row) - 1)
    height = room / sum(tile.picture.width / tile.picture.height for tile in row)
    widths = [round(height * tile.picture.width / tile.picture.height) for tile in row]
    widths[-1] += room - sum(widths)  # a pixel or two of rounding, so that the right edges align
    return [
        Tile(
            tile.picture.convert("RGB").resize((width, round(height)), Image.Resampling.LANCZOS),
            tile.caption,
            tile.note,
            tile.swatch,
        )
        for tile, width in zip(row, widths, strict=True)
    ]


def _write_caption(draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    baseline = top + round(_CAPTION * 0.78)
    text_left = left
    if tile.swatch is not None:
        draw.rectangle((left, baseline - _SWATCH, left + _SWATCH - 1, baseline - 1), tile.swatch)
        text_left += _SWATCH + 10
    draw.text((text_left, baseline), tile.caption, _INK, ImageFont.load_default(_CAPTION), anchor="ls")
    draw.text((left, baseline + 10 + _NOTE), tile.note, _GREY, ImageFont.load_default(_NOTE), anchor="ls")
