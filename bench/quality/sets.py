"""What the quality table is made of: contents, label maps and styles."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

EXAMPLES = Path(__file__).parents[2] / "examples"

Outline = Sequence[tuple[float, float]]
"""A polygon's corners (x, y) in percent of the picture's width and height."""


@dataclass(frozen=True)
class QualitySet:
    """One picture to be stylised.

    Attributes:
        name: of the set.
        content: the content image.
        styles: a style image for each label.
        label_map: the label map, or None where `outlines` draw it.
        outlines: (label, polygon), painted over a background of label 0 in this order.
        merged: labels of the label map that are made into others.
        shipped: whether all its pictures come with the project, so that they may be shown.
    """

    name: str
    content: Path
    styles: Mapping[int, Path]
    label_map: Path | None = None
    outlines: Sequence[tuple[int, Outline]] = ()
    merged: Mapping[int, int] = field(default_factory=dict)
    shipped: bool = False

    @property
    def present(self) -> bool:
        """Whether every picture is at hand."""
        return self.content.is_file() and all(style.is_file() for style in self.styles.values())

    @property
    def slug(self) -> str:
        """The name, fit for a file's."""
        return self.name.replace(",", "").replace(" ", "-")

    def result(self, folder: Path, method: str, size: int) -> Path:
        """Where a method's picture of that longer side lies."""
        return folder / f"{self.slug}.{method}.{size}.png"

    def labels(self) -> bytes:
        """The label map as a PNG of the content image's size."""
        if self.label_map is not None:
            indexed = Image.open(self.label_map)
            # The indices of a palette picture, where `convert` would give the brightness of their colours.
            picture = Image.frombytes("L", indexed.size, indexed.tobytes())
            picture = picture.point([self.merged.get(value, value) for value in range(256)])
        else:
            with Image.open(self.content) as content:
                width, height = content.size
            picture = Image.new("L", (width, height))
            draw = ImageDraw.Draw(picture)
            for label, outline in self.outlines:
                draw.polygon([(x * width / 100, y * height / 100) for x, y in outline], fill=label)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()


def quality_sets(pictures: Path) -> list[QualitySet]:
    """Every set that can be made of the shipped pictures and of the paintings and the photograph in a folder.

    Args:
        pictures: holds tubingen.jpg, the_scream.jpg, starry_night_google.jpg and shipwreck.jpg, or some of them.
    """
    brush, glass, ink = (EXAMPLES / "styles" / f"{name}.png" for name in ("brush", "glass", "ink"))
    town, scream, starry, shipwreck = (
        pictures / f"{name}.jpg" for name in ("tubingen", "the_scream", "starry_night_google", "shipwreck")
    )
    cup, cup_labels = EXAMPLES / "content.png", EXAMPLES / "labels.png"
    sets = [
        QualitySet("cup", cup, {0: brush, 1: glass, 2: ink}, cup_labels, shipped=True),
        QualitySet("cup, styles in turn", cup, {0: glass, 1: ink, 2: brush}, cup_labels, shipped=True),
        QualitySet("cup, two segments", cup, {0: ink, 1: brush}, cup_labels, merged={2: 1}, shipped=True),
        QualitySet("town", town, {0: scream, 1: starry, 2: shipwreck}, outlines=[(1, _SKY), (2, _RIVER)]),
        QualitySet(
            "town, five segments",
            town,
            {0: scream, 1: starry, 2: shipwreck, 3: ink, 4: glass},
            outlines=[(1, _SKY), (2, _RIVER), (3, _TREE), (4, _RIGHT_HOUSES)],
        ),
        QualitySet(
            "scream",
            scream,
            {0: shipwreck, 1: starry, 2: ink, 3: brush},
            outlines=[(1, _RED_SKY), (2, _BRIDGE), (2, _RAIL), (3, _FIGURE)],
        ),
        QualitySet("shipwreck", shipwreck, {0: starry, 1: scream, 2: glass}, outlines=[(1, _STORM), (2, _LIGHT)]),
        QualitySet("night", starry, {0: scream, 1: ink, 2: shipwreck}, outlines=[(2, _VILLAGE), (1, _CYPRESS)]),
    ]
    return [each for each in sets if each.present]


_SKY: Outline = (
    (0, 0), (100, 0), (100, 24.5), (93.5, 24), (90, 29), (88.5, 33), (80, 30), (71, 30), (69.5, 36), (68, 36),
    (67.8, 30), (66.5, 24), (65.5, 16), (64.5, 24), (63, 30), (62.3, 36), (60, 36.5), (58, 44.5), (55, 43), (50, 41),
    (45, 40), (42, 41), (38, 43.5), (31, 43.5), (26.5, 44.5), (22, 48), (10, 47), (0, 50),
)  # fmt: skip
_RIVER: Outline = ((0, 71), (16, 75), (35, 79), (50, 80), (62, 86), (80, 94), (95, 100), (0, 100))
_TREE: Outline = ((0, 0), (7, 2), (12, 18), (16, 27), (17, 40), (12, 48), (0, 50))
_RIGHT_HOUSES: Outline = (
    (68, 78), (69.5, 36), (71, 30), (80, 30), (88.5, 33), (90, 29), (93.5, 24), (100, 24.5), (100, 82), (80, 80),
)  # fmt: skip
_RED_SKY: Outline = (
    (0, 0), (94, 0), (93, 25), (75, 25), (60, 26), (45, 29), (35, 30), (22, 29), (10, 29), (0, 28),
)  # fmt: skip
_BRIDGE: Outline = ((0, 42), (12, 44), (43, 61), (40, 67), (38, 80), (38, 100), (0, 100))
_RAIL: Outline = ((62, 70), (96, 88), (96, 100), (55, 100), (55, 88), (62, 80))
_FIGURE: Outline = (
    (38, 100), (38, 80), (40, 66), (44, 62), (42, 55), (46, 50), (50, 48.5), (57, 50), (60, 56), (61, 66), (64, 72),
    (62, 82), (55, 88), (55, 100),
)  # fmt: skip
_STORM: Outline = (
    (0, 0), (100, 0), (100, 48), (90, 40), (75, 33), (60, 28), (50, 22), (38, 28), (30, 30), (20, 25), (10, 25),
    (0, 30),
)  # fmt: skip
_LIGHT: Outline = (
    (33, 30), (45, 26), (55, 25), (65, 35), (83, 29), (90, 40), (80, 58), (66, 56), (60, 53), (48, 54), (40, 45),
)  # fmt: skip
_VILLAGE: Outline = (
    (0, 72), (15, 75), (40, 70), (58, 66), (65, 62), (72, 66), (80, 63), (92, 52), (100, 51), (100, 100), (0, 100),
)  # fmt: skip
_CYPRESS: Outline = (
    (19, 4), (20.5, 14), (20, 25), (22, 29), (24, 42), (26, 60), (29, 60), (31, 66), (36, 70), (38, 80), (46, 90),
    (46, 100), (13, 100), (13, 82), (15, 70), (14.5, 55), (16, 45), (15, 32), (18, 30), (18.5, 14),
)  # fmt: skip
