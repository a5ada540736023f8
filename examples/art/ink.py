"""Woodcut of a great wave: engraved lines in indigo ink on cream paper, and a vermilion sun.

Nothing here is shaded with grey.  A shape is filled with paper and then ruled with lines that run
from one of its edges over to the other; how much of the gap each line fills carries the tone, so
lines swell in the dark, thin out towards the light, and break off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from examples.art.common import Array, Points, curve, noise, resample, save_rgb, shrink, smoothstep

WIDTH, HEIGHT, SCALE = 576, 432, 3
PAPER, INK, SUN_RED = (243, 233, 208), (26, 30, 62), (206, 62, 38)
SUN = (432.0, 84.0, 36.0)
WAVE_BACK: Points = (
    (-70, 470), (-34, 330), (8, 222), (66, 132), (140, 80), (214, 74), (270, 104), (304, 152),
    (312, 186),
)  # fmt: skip
WAVE_FACE: Points = (
    (350, 470), (262, 404), (196, 352), (160, 290), (160, 232), (190, 190), (236, 172), (280, 174),
    (312, 186),
)  # fmt: skip
SMALL_BACK: Points = (
    (640, 450), (606, 372), (572, 318), (532, 282), (492, 272), (462, 288), (446, 312),
)  # fmt: skip
SMALL_FACE: Points = (
    (380, 450), (432, 420), (478, 392), (500, 358), (496, 328), (474, 312), (446, 312),
)  # fmt: skip
# Each bank of clouds: from x, to x, y, size of its rounds.
CLOUDS = (
    (330, 420, 150, 13),
    (470, 590, 138, 16),
    (60, 130, 44, 12),
    (300, 380, 36, 11),
    (500, 580, 34, 12),
)
# Each row of foam: depth below the crest, length of its claws, gap between them, size of rounds.
FOAM = ((21.0, 34.0, 9.0, 0.7), (11.0, 27.0, 7.0, 0.9), (2.0, 20.0, 5.2, 1.0))
Tone = Callable[[Array, Array], Array]


class Block:
    """The sheet being printed, ``SCALE`` times larger than the finished picture."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.sheet = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
        self.pen = ImageDraw.Draw(self.sheet)
        self.rng = rng

    def fill(self, outline: Array, colour: tuple[int, int, int]) -> None:
        """Fill a closed outline given in picture units."""
        self.pen.polygon([(float(x), float(y)) for x, y in outline * SCALE], fill=colour)

    def disc(self, x: float, y: float, r: float, colour: tuple[int, int, int]) -> None:
        """Fill a circle."""
        x, y, r = x * SCALE, y * SCALE, r * SCALE
        self.pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def line(self, path: Array, width: float, colour: tuple[int, int, int] = INK) -> None:
        """Draw a line that swells to ``width`` in its middle and runs out at both ends."""
        t = np.linspace(0.0, 1.0, len(path))
        half = 0.5 * width * (0.15 + 0.85 * np.sin(np.pi * t) ** 0.6)
        step = np.gradient(path, axis=0)
        side = np.column_stack([-step[:, 1], step[:, 0]]) / (np.hypot(*step.T) + 1e-9)[:, None]
        out = side * half[:, None]
        self.fill(np.vstack([path + out, (path - out)[::-1]]), colour)

    def engrave(self, a: Array, b: Array, count: int, tone: Tone) -> None:
        """Fill the band between two edges with paper, then rule ``count`` lines along it.

        ``tone(t, s)`` says how much of a line's gap is ink at ``t`` along and ``s`` across.
        """
        self.fill(np.vstack([a, b[::-1]]), PAPER)
        t = np.linspace(0.0, 1.0, len(a))
        for k in range(count):
            s = (k + 0.5) / count
            hand = np.interp(t, np.linspace(0, 1, 40), self.rng.normal(0.0, 0.05, 40))
            cut = np.clip(tone(t, np.full_like(t, s)) + hand, 0.0, 0.87)
            cut[cut < 0.10] = 0.0
            runs = np.flatnonzero(np.diff(np.concatenate([[0], (cut > 0).astype(int), [0]])))
            for start, stop in zip(runs[::2], runs[1::2], strict=True):
                if stop - start < 4:
                    continue
                part = slice(start, stop)
                near = (s - cut[part] / (2 * count))[:, None]
                far = (s + cut[part] / (2 * count))[:, None]
                edge = a[part] * (1 - near) + b[part] * near
                back = a[part] * (1 - far) + b[part] * far
                self.fill(np.vstack([edge, back[::-1]]), INK)


def pair(a: Points, b: Points, count: int = 260) -> tuple[Array, Array]:
    """Two edges as curves of equally many points."""
    both = []
    for points in (a, b):
        path = resample(curve(points), 0.5)
        both.append(path[np.linspace(0, len(path) - 1, count).astype(int)])
    return both[0], both[1]


def draw_sky(block: Block) -> None:
    """Long wind lines, dense at the top, that part around the sun."""
    x = np.linspace(-4, WIDTH + 4, 420)
    field = noise(block.rng, (64, 420), (7, 60))
    cx, cy, size = SUN
    for k in range(60):
        y0 = 5.1 * k - 6.0
        y = y0 + 7.0 * np.sin(x / 88.0 + 0.35 * np.sin(y0 / 30.0)) * np.sin(y0 / 70.0 + 0.6)
        away = (y - cy) / (size + 10.0)
        near = np.exp(-(((x - cx) / (1.5 * size)) ** 2) - away**2)
        y = y + 13.0 * near * np.tanh(3 * away)
        dark = 0.84 - 0.56 * np.clip(y / 300.0, 0.0, 1.0) ** 0.8 + 0.15 * field[k]
        cut = np.clip(dark + np.interp(x, x[::7], block.rng.normal(0, 0.05, len(x[::7]))), 0, 0.76)
        cut = np.where(cut < 0.16, 0.0, cut)
        half = 0.5 * 5.1 * cut
        runs = np.flatnonzero(np.diff(np.concatenate([[0], (cut > 0).astype(int), [0]])))
        for i, j in zip(runs[::2], runs[1::2], strict=True):
            if j - i > 5:
                top = np.column_stack([x[i:j], (y - half)[i:j]])
                low = np.column_stack([x[i:j], (y + half)[i:j]])
                block.fill(np.vstack([top, low[::-1]]), INK)
    block.disc(cx, cy, size + 5.0, PAPER)
    block.disc(cx, cy, size, SUN_RED)
    for k in range(9):
        y = cy - 4.0 + 4.6 * k
        half = np.sqrt(max(size**2 - (y - cy) ** 2, 0.0))
        across = np.linspace(cx - half, cx + half, 30)
        wave = y + np.sin(np.linspace(0, 6, 30))
        block.line(np.column_stack([across, wave]), 0.35 + 0.27 * k, PAPER)


def draw_lumps(block: Block, lumps: Array, rim: float, arcs: int, top: float = 0.0) -> None:
    """Cloud or foam: overlapping rounds with one common outline and curls inside.

    The curls lie low in the rounds; a share ``top`` of the rounds has some above as well.
    """
    for x, y, r in lumps:
        block.disc(x, y, r + rim, INK)
    for x, y, r in lumps:
        block.disc(x, y, r, PAPER)
    for x, y, r in lumps:
        low = block.rng.uniform(0.1, 0.9)
        high = low + 1.1 * np.pi
        for begin in (low, high) if block.rng.random() < top else (low,):
            for k in range(arcs):
                a = np.linspace(begin, begin + 2.3 - 0.25 * k, 16)
                rr = r * (0.86 - 0.24 * k)
                if rr > 1.6:
                    block.line(np.column_stack([x + rr * np.cos(a), y + rr * np.sin(a)]), 0.9)


def draw_clouds(block: Block) -> None:
    """Banks of scroll clouds at both sides."""
    rng = block.rng
    for x0, x1, y0, big in CLOUDS:
        x = np.arange(x0, x1, big * 0.9)
        arch = np.sin(np.pi * (x - x0) / (x1 - x0))
        r = big * (0.5 + 0.5 * arch) * rng.uniform(0.8, 1.2, len(x))
        draw_lumps(block, np.column_stack([x, y0 - 0.4 * big * arch, r]), 1.3, 3, 0.6)
        base = np.column_stack([np.linspace(x0 - 26, x1 + 26, 60), np.full(60, y0 + 0.62 * big)])
        for k in range(3):
            block.line(base + np.array([6.0 * k, 3.4 * k]), 2.0)


def draw_mountain(block: Block) -> None:
    """A snow-capped cone, dark on the side away from the sun."""
    lit: Points = ((398, 178), (370, 222), (326, 262), (250, 306))
    dark: Points = ((416, 178), (446, 220), (500, 264), (590, 306))
    left, right = pair(lit, dark)
    rng = block.rng
    snow = np.interp(np.linspace(0, 1, 46), np.linspace(0, 1, 12), rng.uniform(0.26, 0.52, 12))

    def tone(t: Array, s: Array) -> Array:
        cap = np.interp(s, np.linspace(0, 1, 46), snow)
        side = 0.72 - 0.42 * smoothstep(0.35, 0.75, s)
        return np.asarray(smoothstep(0.0, 0.16, t - cap) * side * (1.0 - 0.35 * t))

    block.engrave(left, right, 46, tone)
    block.line(left, 2.4)
    block.line(right, 2.0)
    block.line(np.array([[396.0, 179], [402, 176], [407, 179], [412, 176], [418, 179]]), 2.2)


def draw_sea(block: Block) -> None:
    """Open water behind the waves: bands of swell, each darker below its crest."""
    x = np.linspace(-10, WIDTH + 10, 300)
    for k in range(7):
        base, gap = 288.0 + 5.0 * k + 2.6 * k * k, 12.0 + 7.0 * k
        lift = (3.0 + 2.4 * k) * np.sin(x / (34.0 + 9.0 * k) + 2.1 * k)
        top = np.column_stack([x, base + lift])
        low = np.column_stack([x, base + 0.4 * lift + gap + 30])
        phase = 1.7 * k

        def tone(t: Array, s: Array, phase: float = phase) -> Array:
            roll = 0.5 + 0.5 * np.sin(21.0 * t + 4.0 * s + phase)
            return np.asarray(0.22 + 0.55 * roll * (1 - 0.5 * s))

        block.engrave(top, low, 8 + k, tone)
        block.line(top, 2.0)
        for start in block.rng.integers(0, 270, 4 if k > 2 else 0):
            spot = top[start : start + 5 + 2 * k]
            r = (0.8 + 0.62 * k) * np.sin(np.linspace(0.5, 2.7, len(spot)))
            r = r * block.rng.uniform(0.7, 1.2, len(spot))
            draw_lumps(block, np.column_stack([spot, r]), 0.9, 1)


def claw(block: Block, x: float, y: float, angle: float, size: float, bend: float) -> None:
    """One finger of breaking foam: a hooked drop with an outline and a vein."""
    t = np.linspace(0.0, 1.0, 18)
    heading = angle + bend * 2.4 * t**1.5
    ahead = np.column_stack([np.cos(heading), np.sin(heading)])
    spine = np.array([x, y]) + np.cumsum(ahead, axis=0) * size / 18
    side = np.column_stack([-ahead[:, 1], ahead[:, 0]])
    for grow, colour in ((1.1, INK), (0.0, PAPER)):
        half = 0.27 * size * (1 - t) ** 0.7 * (0.6 + 1.2 * t * (1 - t)) + grow * (1 - 0.5 * t)
        out = side * half[:, None]
        block.fill(np.vstack([spine + out, (spine - out)[::-1]]), colour)
    block.line(spine[2:13], 0.9)


def draw_wave(
    block: Block,
    edges: tuple[Points, Points],
    lines: int,
    sense: float,
    size: float,
) -> None:
    """A breaking wave: ribs that sweep up its hollow face, a cap of foam, claws and spray."""
    a, b = pair(*edges)

    def tone(t: Array, s: Array) -> Array:
        stripe = 0.5 + 0.5 * np.sin(2 * np.pi * (4.5 * s + 0.35 * np.sin(3.0 * t)))
        hollow = 0.30 + 0.75 * smoothstep(0.35, 0.75, stripe)
        edge = smoothstep(0.0, 0.14, s)
        return np.asarray(hollow * edge * (1.0 - 0.55 * smoothstep(0.78, 1.0, t)))

    block.engrave(a, b, lines, tone)
    block.line(b, 2.6)
    block.line(a, 2.6)
    draw_foam(block, a, b, sense, size)


def draw_foam(block: Block, a: Array, b: Array, sense: float, size: float) -> None:
    """The foam of a wave: fans of claws over the hollow, a lumpy cap along the crest, spray."""
    rng = block.rng
    inward = (b - a) / (np.hypot(*(b - a).T) + 1e-9)[:, None]
    inward[-12:] = inward[-13]
    heading = np.unwrap(np.arctan2(*np.gradient(a, axis=0).T[::-1]))
    begin = int(0.36 * len(a))
    for depth, reach, gap, swell in FOAM:
        travel = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(a[begin:], axis=0).T))])
        stops = np.arange(0.0, travel[-1], gap * size)
        at = begin + np.searchsorted(travel, stops)
        grow = 0.45 + 0.55 * smoothstep(0.0, 0.55, stops / travel[-1])
        root = a[at] + inward[at] * (depth * size * grow)[:, None]
        root = root + rng.normal(0, 1.2, root.shape)
        for k, (x, y) in enumerate(root):
            for fan in rng.permutation([0.15, 0.75, 1.25]):
                turn = heading[at[k]] + sense * (fan + rng.normal(0, 0.12))
                length = reach * size * grow[k] * rng.uniform(0.55, 1.15)
                claw(block, x, y, turn, length, sense * rng.uniform(0.35, 0.75))
        r = rng.uniform(0.6, 1.3, len(at)) * 8.4 * size * grow * swell
        draw_lumps(block, np.column_stack([root, r]), 1.0, 3)
    for _ in range(int(90 * size)):
        drift = rng.gamma(1.6, 20.0) * size
        x, y = a[-1] + [sense * (drift - 8.0), rng.normal(8.0, 10.0 + 0.45 * drift)]
        drop = rng.uniform(0.7, 2.1)
        block.disc(x, y, drop + 0.9, INK)
        block.disc(x, y, drop, PAPER)


def draw_seal(block: Block) -> None:
    """A title strip with three brushed waves, and the cutter's red seal below it."""
    for grow, colour in ((1.6, INK), (0.4, PAPER), (-1.4, INK), (-2.0, PAPER)):
        x0, y0, x1, y1 = 24.0 - grow, 20.0 - grow, 44.0 + grow, 84.0 + grow
        block.fill(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), colour)
    x = np.linspace(28.5, 39.5, 40)
    for k in range(3):
        for j in range(3):
            y = 29.0 + 13.0 * k + 3.4 * j + 1.8 * np.sin((x - 28.5) * 0.57 + k)
            block.line(np.column_stack([x, y]), 2.6 - 0.5 * j)
    block.fill(np.array([[28.4, 67], [39.8, 67], [39.8, 79.6], [28.4, 79.6]]), SUN_RED)
    for level in (70.4, 73.4, 76.4):
        block.line(np.column_stack([x, level + 0.9 * np.sin(x * 1.1)]), 1.3, PAPER)


def make(path: Path) -> None:
    """Cut and print the picture, and save it."""
    rng = np.random.default_rng(1831)
    block = Block(rng)
    draw_sky(block)
    draw_mountain(block)
    draw_clouds(block)
    draw_sea(block)
    draw_wave(block, (SMALL_BACK, SMALL_FACE), 26, -1.0, 0.7)
    draw_wave(block, (WAVE_BACK, WAVE_FACE), 40, 1.0, 1.0)
    draw_seal(block)
    picture = shrink(np.asarray(block.sheet, dtype=np.float64) / 255.0, SCALE)
    shape = (HEIGHT, WIDTH)
    grain = 0.012 * noise(rng, shape, (1.5, 9.0)) + 0.010 * noise(rng, shape, 40.0)
    save_rgb(picture + grain[..., None], path)
