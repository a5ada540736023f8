"""The label map of the coffee picture: outlines set point by point, filled with hard edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from examples.art.common import Points, curve

SIZE = (600, 400)
TABLE, SAUCER, CUP = 0, 1, 2
PALETTE = (38, 70, 83, 233, 156, 64, 231, 75, 82)  # teal table, amber saucer, red cup

# Points run clockwise in pixels of the photo, where (0, 0) is the corner of the first pixel.
SAUCER_EDGE: Points = (
    (182, 67.5), (200, 62), (300, 60), (400, 90), (416, 104), (428, 113.6), (441, 125.5),
    (451.5, 137.5), (461, 152.6), (468.5, 170), (474.5, 190), (478.4, 208), (479.6, 225),
    (477.2, 245), (472.7, 264), (467, 280), (459, 296.5), (445.5, 316.4), (434, 328),
    (420.5, 339.5), (400, 355), (379.5, 366.4), (360, 375.5), (341, 382), (320.5, 387),
    (300, 389.7), (280, 390.3), (260, 389.3), (240, 386.5), (220, 383), (200, 378), (180, 370),
    (162, 360.5), (148, 350.5), (136, 340), (116.5, 320.5), (101, 300), (91, 280.5), (83.5, 261),
    (79, 241), (76.6, 220), (76.6, 200), (79, 181), (84, 162), (91, 146), (100, 132),
    (110, 119.5), (121.6, 107.5), (140, 91), (160, 78),
)  # fmt: skip
SPOON_END: Points = (
    (390, 80), (396.5, 74.5), (401, 69.5), (407, 67), (414, 67.2), (420, 70.5), (424.3, 77),
    (423.5, 84), (420.5, 93), (417.5, 103), (414, 118), (405, 150), (395, 150),
)  # fmt: skip
CUP_EDGE: Points = (
    (281, 17.7), (300, 18.6), (320, 22.3), (340, 28.8), (360, 38.8), (377, 51.5), (390, 66),
    (396.5, 75), (401, 83), (405, 92), (407.6, 101), (409, 111), (409.3, 120), (408.3, 131),
    (406.8, 143), (404.3, 155), (401.2, 168), (397.5, 180), (393.4, 188), (389.5, 197),
    (384.6, 204), (380.5, 211), (375, 218), (366.5, 226), (360, 231), (356, 236.5), (353, 242),
    (349, 247.7), (340, 252.8), (333.5, 258.5), (331, 263.5), (329, 269), (322, 276),
    (313, 281.5), (300, 285.5), (285, 287), (270, 286.5), (259, 283.5), (254.5, 281),
    (250.3, 287), (243.7, 293.6), (235, 300.5), (229.5, 304.5), (224, 308.8), (217.4, 308),
    (209.7, 305), (202, 300), (198, 294.7), (196, 289), (195.9, 281), (197.4, 272.5),
    (200.3, 265), (204.7, 256.5), (209.7, 250), (214, 243), (217.4, 236), (210, 229.5),
    (201, 221.5), (195, 214.5), (189.4, 206), (183.7, 195), (179.5, 184), (176.5, 171),
    (174.2, 160), (172.6, 150), (172.4, 138), (172.6, 127), (172.8, 115), (173, 104), (174.8, 91),
    (180, 75.8), (186.6, 65), (200, 49.4), (220, 34.7), (240, 26), (260, 20.5),
)  # fmt: skip


def inside(edge: Points, scale: int = 5) -> NDArray[np.bool_]:
    """Pixels of which the closed curve through ``edge`` covers more than half."""
    sheet = Image.new("L", (SIZE[0] * scale, SIZE[1] * scale))
    outline = curve(edge, closed=True) * scale - 0.5
    ImageDraw.Draw(sheet).polygon([(float(x), float(y)) for x, y in outline], fill=1)
    cover = np.asarray(sheet).reshape(SIZE[1], scale, SIZE[0], scale).mean(axis=(1, 3))
    return np.asarray(cover > 0.5)


def label_map() -> NDArray[np.uint8]:
    """Table everywhere, the saucer and its spoon over it, the cup over both."""
    labels = np.full((SIZE[1], SIZE[0]), TABLE, dtype=np.uint8)
    labels[inside(SAUCER_EDGE) | inside(SPOON_END)] = SAUCER
    labels[inside(CUP_EDGE)] = CUP
    return labels


def make(path: Path) -> None:
    """Write the map as a palette picture, so that the indices are the labels."""
    picture = Image.frombytes("P", SIZE, label_map().tobytes())
    picture.putpalette(PALETTE)
    picture.save(path, optimize=True)
