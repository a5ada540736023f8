"""Impasto oil painting: a moonlit valley, laid down in strokes that follow a swirling flow.

The painter first has a plan: for every point a colour and a direction.  Strokes are then put down
from broad to fine, each one dragging bristles of slightly different paint and leaving ridges, and
at the end a raking light is cast over the relief of the paint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from examples.art.common import Array, Points, curve, hex_colours, noise, ramp, save_rgb, shrink, smoothstep

Tree = tuple[float, float, float, float]

WIDTH, HEIGHT, SCALE = 576, 432, 2
NIGHT = hex_colours("0a1648 122f80 1c4fa8 2c74c0 4f9fd0 86c6d4 d6e2c0")
GOLD = hex_colours("2f78b8 74b6b4 c9b24a f0b92c fbdc66 fff6cf")
FAR = hex_colours("10204f 1b3f78 2a6592 3f8fa0 79b5ae")
NEAR = hex_colours("0a2a3c 0f4d54 1d7470 45978a 9cc29a")
FIELD = hex_colours("12345e 1f6468 6d7f34 c9962a e9bd45 f8e08a")
CYPRESS = hex_colours("050f18 0b2724 164032 2f5f38 6b8440")
# Each light: x, y, radius of its core.  The first is the moon.
LIGHTS = (
    (462.0, 84.0, 27.0), (118.0, 60.0, 10.0), (258.0, 40.0, 8.0), (338.0, 172.0, 7.0),
    (40.0, 150.0, 9.0), (552.0, 196.0, 8.0), (190.0, 196.0, 7.0), (355.0, 34.0, 6.0),
)  # fmt: skip
# Each swirl: x, y, radius, sense of turning.
SWIRLS = ((252.0, 118.0, 66.0, 1.0), (356.0, 104.0, 40.0, -1.0), (152.0, 140.0, 42.0, -1.0))
FAR_LINE: Points = (
    (0, 250), (70, 228), (150, 246), (230, 222), (320, 246), (410, 214), (500, 238), (576, 216),
)  # fmt: skip
NEAR_LINE: Points = (
    (0, 276), (90, 284), (180, 264), (290, 290), (380, 272), (480, 262), (576, 282),
)  # fmt: skip
FIELD_LINE: Points = ((0, 318), (110, 326), (230, 310), (340, 330), (460, 318), (576, 334))
# Each cypress: x of its root, y of its foot and top, half its width.
TREES: tuple[Tree, ...] = (
    (70.0, 446.0, 46.0, 33.0),
    (124.0, 450.0, 178.0, 24.0),
    (22.0, 452.0, 236.0, 22.0),
)
# Each bush: x, y, radius.
BUSHES = (
    (204.0, 312.0, 15.0), (232.0, 318.0, 12.0), (330.0, 326.0, 11.0), (424.0, 318.0, 17.0),
    (452.0, 322.0, 13.0), (504.0, 326.0, 19.0), (542.0, 334.0, 22.0), (576.0, 338.0, 20.0),
)  # fmt: skip
BUSH_PAINT = hex_colours("08203a 0d4a4a 2b7a4c 7fa04a d9c65a")
SKY, FAR_HILL, NEAR_HILL, MEADOW, BUSH, TREE = range(6)


@dataclass
class Plan:
    """What the painter knows of every point: tone and palette by region, and brush direction."""

    tone: Array
    glow: Array
    angle: Array
    region: Array


def line_at(points: Points, x: Array) -> Array:
    """Height of a skyline at every column."""
    line = curve(points)
    return np.interp(x, line[:, 0], line[:, 1])


def sky(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Tone, golden glow and direction of the sky: a wind that curls around swirls and lights."""
    u = 1.0 + np.zeros_like(x)
    v = 0.55 * np.sin(x / 74.0 + 0.6) + 0.25 * np.sin(y / 31.0 + x / 120.0)
    tone = 0.30 + 0.25 * (y / 240.0) + 0.15 * np.sin(y / 11.0 - 2.2 * np.sin(x / 74.0) + x / 90.0)
    tone += 0.07 * noise(rng, (HEIGHT, WIDTH), (9, 40))
    for cx, cy, size, sense in SWIRLS:
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-6
        pull = 4.0 * np.exp(-((r / size) ** 2.6))
        u += pull * (-sense * dy - 0.32 * dx) / r
        v += pull * (sense * dx - 0.32 * dy) / r
        arms = np.sin(7.5 * np.log(r / 6.0 + 0.5) - 2.0 * sense * np.arctan2(dy, dx))
        tone += np.exp(-((r / size) ** 4)) * (0.30 * arms + 0.16)
    glow = np.zeros_like(x)
    for cx, cy, size in LIGHTS:
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-6
        pull = 9.0 * np.exp(-((r / (2.7 * size)) ** 3))
        u, v = u - pull * dy / r, v + pull * dx / r
        rings = 0.5 + 0.5 * np.cos(2 * np.pi * r / (0.85 * size))
        halo = np.exp(-((r / (1.9 * size)) ** 2)) * (0.62 + 0.38 * rings)
        glow = np.maximum(glow, np.where(r < 0.8 * size, 1.0, halo))
    return tone, glow, np.arctan2(v, u)


def cypress(x: Array, y: Array, tree: Tree) -> tuple[NDArray[np.bool_], Array]:
    """Where a flame-shaped tree stands, and how far across it (-1..1) a point is."""
    root, foot, top, half = tree
    t = np.clip((foot - y) / (foot - top), 0.0, 1.0)
    bend = root + 9.0 * np.sin(3.4 * t) * t - 4.0 * t
    side = np.sign(x - bend)
    licks = 0.20 * np.sin(23 * t + root + 1.3 * side) + 0.13 * np.sin(51 * t + 2.0 * side)
    width = half * (1 - t) ** 0.75 * (0.62 + 0.9 * t) * (1 + licks)
    across = (x - bend) / np.maximum(width, 0.6)
    return (np.abs(across) < 1.0) & (y > top), np.clip(across, -1.0, 1.0)


def make_plan(rng: np.random.Generator) -> Plan:
    """Compose the picture: sky, two ranges of hills, a field in rows, and cypresses in front."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    tone, glow, angle = sky(x, y, rng)
    region = np.zeros_like(x)
    lines = ((FAR_LINE, FAR_HILL, 26.0), (NEAR_LINE, NEAR_HILL, 30.0), (FIELD_LINE, MEADOW, 60.0))
    for points, name, fall in lines:
        top = line_at(points, x)
        mask = y > top
        depth = (y - top) / fall
        slope = np.arctan(np.gradient(top, axis=1))
        wave = 0.5 * np.sin(x / 37.0 + 1.7 * name + depth)
        shade = 0.72 - 0.42 * depth + 0.20 * np.sin(x / 23.0 + 3.0 * depth + name)
        if name == MEADOW:
            rows = np.arctan2(y - 262.0, (x - 350.0) * 0.9)
            slope = np.where(np.cos(rows) < 0, rows - np.pi, rows) * 0.9
            gust = np.sin(y / 10.0 + 1.5 * np.sin(x / 31.0))
            shade = 0.56 + 0.26 * np.sin(rows * 21.0) + 0.20 * gust
            wave = 0.6 * np.sin(y / 13.0 + x / 34.0)
        else:
            slope = slope * (1 + depth) + wave * np.clip(depth, 0, 1)
        angle = np.where(mask, slope + (wave if name == MEADOW else 0.0), angle)
        tone, region = np.where(mask, shade, tone), np.where(mask, float(name), region)
        glow = np.where(mask, 0.0, glow)
    for cx, cy, size in BUSHES:
        dx, dy = (x - cx) / size, (y - cy) / (0.8 * size)
        mask = dx**2 + dy**2 < 1.0 + 0.18 * np.sin(5.0 * np.arctan2(dy, dx) + cx)
        curl = np.pi / 2 + 1.1 * dx * (0.4 - dy) + 0.5 * np.sin(5.0 * dx + 3.0 * dy + cx)
        lobes = 0.36 - 0.34 * dy + 0.20 * dx + 0.13 * np.sin(6.0 * dx + cx) * np.cos(5.0 * dy)
        angle, tone = np.where(mask, curl, angle), np.where(mask, lobes, tone)
        region, glow = np.where(mask, float(BUSH), region), np.where(mask, 0.0, glow)
    for tree in TREES:
        mask, across = cypress(x, y, tree)
        lick = np.pi / 2 + 0.75 * across * np.cos(y / 19.0) + 0.3 * np.sin(y / 23.0 + tree[0])
        flame = 0.42 + 0.26 * across + 0.30 * np.sin(y / 10.0 + 6.0 * across)
        angle, tone = np.where(mask, lick, angle), np.where(mask, flame, tone)
        region, glow = np.where(mask, float(TREE), region), np.where(mask, 0.0, glow)
    return Plan(tone, glow, angle, region)


def paint_of(region: int, tone: Array, glow: Array) -> Array:
    """Mix the paint for tones of one region; a glow in the sky turns the blue to gold."""
    palette = (NIGHT, FAR, NEAR, FIELD, BUSH_PAINT, CYPRESS)[region]
    colour = ramp(palette, tone)
    if region == SKY:
        part = smoothstep(0.06, 0.55, glow)[..., None]
        colour = colour * (1 - part) + ramp(GOLD, glow * 0.95 + 0.25 * (tone - 0.45)) * part
    return colour


def trace(plan: Plan, start: Array, length: float, steps: int) -> Array:
    """Follow the flow from many starts at once, both ways, stopping at the edge of the region."""
    step = length / (2 * steps)
    home = sample(plan.region, start)
    halves = []
    for sense in (-1.0, 1.0):
        at, heading = start.copy(), sample(plan.angle, start) + (np.pi if sense < 0 else 0.0)
        path = [at]
        for _ in range(steps):
            turn = sample(plan.angle, at) - heading
            heading = heading + np.arctan2(np.sin(2 * turn), np.cos(2 * turn)) / 2
            ahead = at + step * np.column_stack([np.cos(heading), np.sin(heading)])
            stay = (sample(plan.region, ahead) == home)[:, None]
            at = np.where(stay, ahead, at)
            path.append(at)
        halves.append(np.stack(path, axis=1))
    return np.concatenate([halves[0][:, :0:-1], halves[1]], axis=1)


def sample(field: Array, at: Array) -> Array:
    """Nearest value of a field at points (x, y); outside, that of the border."""
    ix = np.clip(at[:, 0], 0, WIDTH - 1).astype(int)
    iy = np.clip(at[:, 1], 0, HEIGHT - 1).astype(int)
    picked: Array = field[iy, ix]
    return picked


class Canvas:
    """Wet paint: a colour and a relief, ``SCALE`` times finer than the finished picture."""

    def __init__(self) -> None:
        self.colour = np.zeros((HEIGHT * SCALE, WIDTH * SCALE, 3)) + NIGHT[0]
        self.relief = np.zeros((HEIGHT * SCALE, WIDTH * SCALE))

    def stroke(self, path: Array, width: float, paints: Array, rng: np.random.Generator) -> None:
        """Drag one brush along ``path``; ``paints`` are the two colours loaded side by side."""
        path = path * SCALE
        gaps = np.hypot(*np.diff(path, axis=0).T)
        travel = np.concatenate([[0.0], np.cumsum(gaps)])
        if travel[-1] < width:
            return
        at = np.linspace(0.0, travel[-1], int(travel[-1] / 0.6) + 4)
        px, py = np.interp(at, travel, path[:, 0]), np.interp(at, travel, path[:, 1])
        dx, dy = np.gradient(px), np.gradient(py)
        norm = np.hypot(dx, dy) + 1e-9
        u = (at / travel[-1])[:, None]
        half = width * SCALE / 2
        v = np.linspace(-1.0, 1.0, int(half * 2 / 0.6) + 3)[None, :]
        body = np.minimum(1.0, (u / 0.10 + 0.25)) ** 0.5 * (1 - 0.65 * smoothstep(0.55, 1.0, u))
        x = (px[:, None] - dy[:, None] / norm[:, None] * v * half * body).astype(int)
        y = (py[:, None] + dx[:, None] / norm[:, None] * v * half * body).astype(int)
        hairs = rng.standard_normal(max(4, int(width * 1.3)))
        bristle = np.interp(v[0], np.linspace(-1, 1, len(hairs)), hairs)[None, :]
        bristle = bristle * (0.75 + 0.25 * np.sin(9.0 * u + 5.0 * bristle))
        lift = smoothstep(0.62, 1.0, u) * 1.9 - 1.5 > bristle
        keep = (x >= 0) & (y >= 0) & (x < WIDTH * SCALE) & (y < HEIGHT * SCALE) & ~lift
        x, y = x[keep], y[keep]
        blend = np.clip(0.5 + 0.55 * v + 0.3 * bristle, 0.0, 1.0)[..., None]
        colour = paints[0] * (1 - blend) + paints[1] * blend + 0.028 * bristle[..., None]
        ridge = 0.55 * np.abs(v) ** 3 + 0.22 * bristle + 0.5 * smoothstep(0.8, 1.0, u)
        self.colour[y, x] = colour[keep]
        self.relief[y, x] = 0.35 * self.relief[y, x] + (ridge[keep] + 0.6) * half**0.5

    def lit(self) -> Array:
        """The painting under a lamp at the upper left, with a wet gleam on the ridges."""
        relief = ndimage.gaussian_filter(self.relief, 0.9)
        gy, gx = np.gradient(relief)
        slope = -(gx * 0.6 + gy * 0.8)
        shade = np.clip(1.0 + 0.5 * np.tanh(1.3 * slope), 0.45, 1.6)[..., None]
        gleam = np.clip(np.tanh(1.2 * slope) - 0.35, 0.0, 1.0)[..., None]
        picture: Array = self.colour * shade + 0.30 * gleam
        return picture


def coat(canvas: Canvas, plan: Plan, rng: np.random.Generator, spacing: float, size: float) -> None:
    """One pass over the whole canvas with brushes of about ``size`` pixels, back to front."""
    grid = np.mgrid[0 : HEIGHT + spacing : spacing, 0 : WIDTH + spacing : spacing]
    start = np.column_stack([grid[1].ravel(), grid[0].ravel()])
    start = start + rng.uniform(-0.7, 0.7, start.shape) * spacing
    region = sample(plan.region, start).astype(int)
    order = np.argsort(region + rng.uniform(0, 0.9, len(start)), kind="stable")
    start, region = start[order], region[order]
    paths = trace(plan, start, size * 5.2, 9)
    tone, glow = sample(plan.tone, start), sample(plan.glow, start)
    glow = glow * rng.uniform(0.62, 1.12, len(start))
    tone = tone + rng.normal(0, 0.085, len(start))
    for k, path in enumerate(paths):
        shift = rng.normal(0.0, 0.10, 2)
        paints = paint_of(region[k], tone[k] + shift, np.repeat(glow[k], 2))
        if region[k] == SKY and size < 12.0 and rng.random() < 0.03:
            paints = ramp(GOLD, np.array([0.45, 0.62]))
        slim = (1.0, 1.0, 0.9, 0.85, 0.6, 0.6)[region[k]]
        canvas.stroke(path, size * slim * rng.uniform(0.75, 1.2), paints, rng)


def make(path: Path) -> None:
    """Paint the picture and save it."""
    rng = np.random.default_rng(1889)
    plan = make_plan(rng)
    canvas = Canvas()
    for spacing, size in ((11.0, 19.0), (7.0, 11.0), (5.0, 7.0), (5.0, 4.6)):
        coat(canvas, plan, rng, spacing, size)
    save_rgb(shrink(canvas.lit(), SCALE), path)
