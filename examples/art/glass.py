"""Leaded window: a sun over hills and a river, with poppies and leaves, in mouth-blown glass.

Every pane is a number in a map.  Panes come from ring-and-ray cuts around the sun, from uneven
Voronoi cells in the land, and from drawn petals and leaves.  Lead runs wherever the number
changes, heavier between parts of the picture than inside one.  Light shines through from behind.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage, spatial

from examples.art.common import Array, Points, curve, hex_colours, noise, save_rgb, shrink, smoothstep

Cut = NDArray[np.int64]

WIDTH, HEIGHT, SCALE = 576, 432, 2
SUN = (300.0, 168.0)
RINGS = (15.0, 33.0, 52.0, 86.0, 122.0, 160.0, 202.0, 248.0)
SKY_GLASS = (
    "fff3b0", "ffd23c ffe27a", "ff9a12 ffb52e", "f7c531 e8501a", "f08a14 d92a1c",
    "d9361a b3123a", "a81442 6d1a78", "5b1c86 3a1f8f", "38208a 27186b",
)  # fmt: skip
HILL_GLASS = (
    "0f7a4a 1f9a58 57b54a 0b5a45",
    "0a6a50 2fa05a 86bf3c 13804f",
    "0b4d3a 117a3e 3f9a35 9ac43a",
)
RIVER_GLASS = "1aa6b8 36c5cf 0f7fa6 7fdcd6 1564a0"
POPPY_GLASS = "e01b1b c20f24 f2452a a80a2a"
LEAF_GLASS = "149a4c 0c6b3a 5fbf3f 0f8060"
BORDER_GLASS = "6a1b8a d98a12 8a1030 4a1a7a e8a820 b01830"
LINES: tuple[Points, ...] = (
    ((0, 252), (80, 226), (170, 250), (280, 236), (380, 252), (480, 222), (576, 246)),
    ((0, 292), (110, 300), (210, 268), (300, 262), (400, 296), (500, 272), (576, 290)),
    ((0, 352), (120, 336), (230, 356), (330, 348), (440, 330), (576, 356)),
)
RIVER: Points = (
    (296, 258), (330, 272), (300, 296), (250, 322), (262, 358), (330, 388), (372, 440),
    (180, 440), (196, 392), (186, 350), (214, 312), (278, 282),
)  # fmt: skip
# Each poppy: x, y, radius, turn; each of its leaves: how far down the stem, and the way it grows.
POPPIES = (
    (92.0, 300.0, 36.0, 0.2),
    (486.0, 288.0, 40.0, 0.9),
    (410.0, 358.0, 27.0, 0.5),
    (150.0, 372.0, 24.0, 0.0),
)
LEAVES = ((44, -0.55), (62, np.pi + 0.5), (92, -0.75), (100, np.pi + 0.75))


class Window:
    """The map of panes, with the glass and the part of the picture each of them belongs to."""

    def __init__(self) -> None:
        shape = (HEIGHT * SCALE, WIDTH * SCALE)
        self.pane: Cut = np.zeros(shape, dtype=np.int64)
        self.part: Cut = np.zeros(shape, dtype=np.int64)
        self.glass: list[Array] = [np.zeros(3)]
        self.parts = 0

    def add(self, mask: NDArray[np.bool_], cut: Cut, glass: Array) -> None:
        """Set the panes numbered by ``cut`` into the place of ``mask`` as a new part."""
        self.parts += 1
        self.part[mask] = self.parts
        used, index = np.unique(cut[mask], return_inverse=True)
        self.pane[mask] = len(self.glass) + index
        self.glass.extend(glass[u % len(glass)] for u in used)


def shape_of(outline: Array) -> NDArray[np.bool_]:
    """Mask of a closed outline, given in picture units."""
    sheet = Image.new("1", (WIDTH * SCALE, HEIGHT * SCALE))
    ImageDraw.Draw(sheet).polygon([(float(x), float(y)) for x, y in outline * SCALE], fill=1)
    return np.array(sheet, dtype=bool)


def cells(rng: np.random.Generator, x: Array, y: Array, size: float, flat: float) -> Cut:
    """Uneven Voronoi cells, ``flat`` times wider than high, with edges that bend a little."""
    count = int(WIDTH * HEIGHT / (size * size * flat))
    seeds = np.column_stack([rng.uniform(0, WIDTH, count) / flat, rng.uniform(0, HEIGHT, count)])
    bend = [5.0 * noise(rng, (HEIGHT * SCALE, WIDTH * SCALE), 60.0) for _ in range(2)]
    at = np.column_stack([((x + bend[0]) / flat).ravel(), (y + bend[1]).ravel()])
    found = spatial.KDTree(seeds).query(at)[1]
    return np.asarray(found, dtype=np.int64).reshape(x.shape)


def set_sky(window: Window, x: Array, y: Array, rng: np.random.Generator) -> None:
    """Cut the sky into rays and rings around the sun, from pale gold out to deep violet."""
    dx, dy = x - SUN[0], y - SUN[1]
    r = np.hypot(dx, dy)
    turn = np.arctan2(dy, dx) / (2 * np.pi) + 0.5
    for k, codes in enumerate(SKY_GLASS):
        low = RINGS[k - 1] if k else 0.0
        rays = (1, 8, 16, 16, 16, 32, 32, 32, 48)[k]
        sway = 0.012 * np.sin(r / 24.0 + 3.0 * np.sin(turn * 6.28)) * min(1.0, k / 3)
        sector = (np.floor((turn + sway) * rays + 0.5 * (k % 2)) % rays).astype(np.int64)
        lobes = rays if k < 4 else rays // 2
        scallop = 0.10 * low * np.abs(np.sin(np.pi * (turn + sway) * lobes)) * (k > 1)
        colours = hex_colours(codes)
        pick = np.arange(rays) % len(colours) if k < 5 else rng.integers(0, 2, rays)
        window.add(r >= low + scallop, sector, colours[pick])


def set_land(window: Window, x: Array, y: Array, rng: np.random.Generator) -> None:
    """Three ranges of hills, back to front, with the river running down through them."""
    for points, codes, size in zip(LINES, HILL_GLASS, (19.0, 23.0, 27.0), strict=True):
        top = curve(points)
        mask = y > np.interp(x, top[:, 0], top[:, 1])
        glass = hex_colours(codes)
        window.add(mask, cells(rng, x, y, size, 2.4), glass[rng.integers(0, len(glass), 997)])
    glass = hex_colours(RIVER_GLASS)
    bank = shape_of(curve(RIVER, closed=True))
    window.add(bank, cells(rng, x, y, 13.0, 3.4), glass[rng.integers(0, len(glass), 997)])


def blade(x0: float, y0: float, length: float, turn: float, half: float) -> tuple[Array, Array]:
    """The two halves of a pointed leaf that grows from a point, curving as it goes."""
    t = np.linspace(0.0, 1.0, 24)
    angle = turn + 0.7 * (t - 0.3) * np.sign(np.cos(turn) + 1e-9)
    step = length / 23
    ahead = np.column_stack([np.cos(angle), np.sin(angle)])
    rib = np.array([x0, y0]) + np.cumsum(ahead, axis=0) * step
    aside = np.column_stack([-ahead[:, 1], ahead[:, 0]])
    out = aside * (half * np.sin(np.pi * t**0.8))[:, None]
    return np.vstack([rib, (rib + out)[::-1]]), np.vstack([rib, (rib - out)[::-1]])


def set_flower(window: Window, flower: tuple[float, float, float, float]) -> None:
    """A poppy seen from the front: stem, leaves, a ring of petals, a dark eye rimmed with gold."""
    cx, cy, size, turn = flower
    leaf, petal = hex_colours(LEAF_GLASS), hex_colours(POPPY_GLASS)
    one = np.zeros(window.pane.shape, dtype=np.int64)
    stem = curve([(cx, cy), (cx + 7, cy + 50), (cx - 3, cy + 110), (cx + 4, 450)])
    thick = np.array([2.4, 0.0])
    window.add(shape_of(np.vstack([stem - thick, (stem + thick)[::-1]])), one, leaf[1:2])
    for k, (down, angle) in enumerate(LEAVES):
        halves = blade(cx + 4, cy + down + size / 3, 1.75 * size, angle, 0.40 * size)
        for side, outline in enumerate(halves):
            window.add(shape_of(outline), one, leaf[[(k + 2 * side) % 4]])
    for k in (0, 2, 4, 1, 3, 5):
        a = turn + k * np.pi / 3
        t = np.linspace(-1, 1, 25)
        spread = 0.62 * np.sin(np.pi * t / 2)
        reach = size * (1 - 0.9 * np.abs(t) ** 7) * (1 + 0.07 * np.cos(13 * t + k))
        way = np.column_stack([np.cos(a + spread), 0.9 * np.sin(a + spread)])
        rim = np.array([cx, cy]) + reach[:, None] * way
        window.add(shape_of(np.vstack([[cx, cy], rim])), one, petal[[k % 4]])
    turns = np.linspace(0, 2 * np.pi, 40)
    ring = np.column_stack([np.cos(turns), np.sin(turns)])
    for radius, colour in ((0.34, "f6b91f"), (0.19, "3a1250")):
        window.add(shape_of(np.array([cx, cy]) + radius * size * ring), one, hex_colours(colour))


def set_border(window: Window, x: Array, y: Array) -> None:
    """A frame of small alternating panes around the whole."""
    side, flat = np.minimum(x, WIDTH - x), np.minimum(y, HEIGHT - y)
    along = np.where(flat <= side, x / 32.0, 40 + y / 30.86)
    corner = (side < 17) & (flat < 17)
    cut = np.where(corner, 91, np.floor(along)).astype(np.int64)
    window.add((side < 17) | (flat < 17), cut, hex_colours(BORDER_GLASS))


def through_glass(window: Window, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Light through the panes: streaks, waves and bubbles in the glass, uneven within each pane."""
    shape = x.shape
    count = len(window.glass)
    colour = np.array(window.glass)[window.pane]
    pane = window.pane.ravel()
    area = np.maximum(np.bincount(pane, minlength=count), 1)
    tilts = rng.uniform(-1, 1, (2, count)) * 1.6 / np.sqrt(area / SCALE**2)
    fall = np.zeros(shape)
    for at, tilt in zip((x, y), tilts, strict=True):
        middle = np.bincount(pane, weights=at.ravel(), minlength=count) / area
        fall += (at - middle[window.pane]) * tilt[window.pane]
    bands = np.stack([noise(rng, shape, c) for c in ((7, 90), (90, 7), (12, 60), (60, 12))])
    kind = rng.integers(0, 4, count)[window.pane]
    streak = np.take_along_axis(bands, kind[None], axis=0)[0]
    hammer = noise(rng, shape, 9.0) + 0.35 * noise(rng, shape, 4.0)
    gy, gx = np.gradient(hammer)
    light = 1.13 + 0.15 * streak + 0.24 * np.tanh(fall) + 0.085 * np.tanh(1.6 * (gx + gy))
    light *= rng.uniform(0.82, 1.14, count)[window.pane]
    light *= 1.20 - 0.34 * smoothstep(60.0, 380.0, np.hypot(x - SUN[0], y - SUN[1]))
    light += bubbles(shape, rng)
    hot = np.clip(light - 1.0, 0.0, 1.0)[..., None]
    lit: Array = colour ** (1.0 + 0.25 * np.clip(-streak, 0, 2))[..., None] * light[..., None]
    lit += 0.30 * hot * (1.0 - lit)
    return lit


def bubbles(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Small air bubbles caught in the glass: a bright crescent on a darker round."""
    layer = np.zeros(shape)
    for _ in range(420):
        r = rng.uniform(1.6, 4.2)
        cy, cx = rng.uniform(6, shape[0] - 7), rng.uniform(6, shape[1] - 7)
        yy, xx = np.mgrid[int(cy) - 6 : int(cy) + 7, int(cx) - 6 : int(cx) + 7]
        d = np.hypot(xx - cx, (yy - cy) * 1.25) / r
        face = ((xx - cx) + (yy - cy)) / r
        spot = np.where(d < 1.0, 0.14 - 0.55 * face * d**2, 0.0)
        layer[int(cy) - 6 : int(cy) + 7, int(cx) - 6 : int(cx) + 7] += spot
    return layer


def seams(number: Cut) -> NDArray[np.bool_]:
    """Pixels at which the number to the right or below is another one."""
    edge = np.zeros(number.shape, dtype=bool)
    edge[:, :-1] |= number[:, 1:] != number[:, :-1]
    edge[:-1] |= number[1:] != number[:-1]
    return edge


def make(path: Path) -> None:
    """Cut the panes, light them, lay the lead, and save the picture."""
    rng = np.random.default_rng(1225)
    y, x = np.mgrid[0 : HEIGHT * SCALE, 0 : WIDTH * SCALE].astype(np.float64) / SCALE
    window = Window()
    set_sky(window, x, y, rng)
    set_land(window, x, y, rng)
    for flower in POPPIES:
        set_flower(window, flower)
    set_border(window, x, y)
    glass = through_glass(window, x, y, rng)
    save_rgb(shrink(leaded(window, glass, rng), SCALE), path)


def leaded(window: Window, glass: Array, rng: np.random.Generator) -> Array:
    """Lay round lead over the seams, shade the glass beside it, and let bright panes glow."""
    wobble = 1.0 + 0.16 * noise(rng, window.pane.shape, 26.0)
    thin: Array = ndimage.distance_transform_edt(~seams(window.pane))
    thick: Array = ndimage.distance_transform_edt(~seams(window.part))
    away = np.minimum(thin / (2.5 * wobble), thick / (3.9 * wobble))
    glow = np.stack([ndimage.gaussian_filter(glass[..., c], 9.0) for c in range(3)], axis=-1)
    shadow = (0.55 + 0.45 * smoothstep(0.8, 5.0, away))[..., None]
    bar = np.sqrt(np.clip(1.0 - away**2, 0.0, 1.0))
    bar = ndimage.gaussian_filter(bar, 0.8)
    gy, gx = np.gradient(bar)
    gleam = np.clip(gx + gy, 0.0, 0.5)
    lead = np.array([0.06, 0.055, 0.07]) + gleam[..., None] * np.array([1.15, 1.18, 1.25])
    lead = lead * (1.0 + 0.15 * noise(rng, window.pane.shape, 4.0))[..., None]
    cover = 1.0 - smoothstep(0.85, 1.2, away)[..., None]
    picture: Array = (glass * shadow) * (1 - cover) + lead * cover
    return picture + 0.10 * glow * (1.0 - picture)
