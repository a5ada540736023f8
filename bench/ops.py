"""The operators against what they replace: one unmasked Gram matrix by `mm`, and plain torch with masks.

`python -m bench.ops` from the repository's root. VGG-19's five style layers at 400x600 on a CPU, at 512x512 on a GPU.
All contenders run in this one process, each in turn, and are compared by medians; beside each time stands the error
of its results against float64.

"mm" is the least that an unmasked Gram matrix costs: F F^T forward, and one product backward, since D + D^T is known to
be symmetric. "composition" is what the masks cost in plain torch under autograd: each segment multiplies the feature
map by its mask and runs its own product.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from intarsia_server import ops
from torch import Tensor

from bench.maps import CHANNELS, SIZES, Case, features, hard_masks, pooled, soft_masks, upstream

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out" / "ops.json"
WARM_UP = 2
Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Contender:
    """One way to do a job: calls that each return (value, gradient), and what float64 says they should be.

    Short calls are repeated within a sample, so that the clock and sleeping threads do not count.
    """

    name: str
    runs: Sequence[Run]
    expected: Sequence[Run]
    repeats: int = 1


@dataclass(frozen=True)
class Row:
    """Timed calls of a contender, seconds, and its greatest relative error against float64."""

    name: str
    samples: tuple[float, ...]
    error: float

    @property
    def median(self) -> float:
        """Seconds for all layers, forward and backward."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Goal:
    """A bound on the ratio of two rows' medians."""

    what: str
    row: str
    over: str
    bound: float
    at_least: bool = False

    def ratio(self, rows: Mapping[str, Row]) -> float:
        """The figure that the bound is for."""
        return rows[self.row].median / rows[self.over].median

    def reached(self, rows: Mapping[str, Row]) -> bool:
        """Whether it is within the bound."""
        return self.ratio(rows) >= self.bound if self.at_least else self.ratio(rows) <= self.bound


def unmasked(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """One Gram matrix by `mm`, and its gradient by one more."""
    _, channels, height, width = x.shape
    pixels = height * width
    symmetric = ((grad[0, 0] + grad[0, 0].T) / pixels).to(x.dtype)
    if x.is_contiguous():
        flat = x.view(channels, pixels)
        return flat @ flat.T / pixels, (symmetric @ flat).view_as(x)
    rows = x.permute(0, 2, 3, 1).reshape(pixels, channels)
    return rows.T @ rows / pixels, (rows @ symmetric).view(1, height, width, channels).permute(0, 3, 1, 2)


def masked(x: Tensor, plan: ops.MaskPlan, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The operator, forward and backward."""
    x = x.detach().requires_grad_()
    gram = ops.masked_gram(x, plan).gram
    return gram.detach(), torch.autograd.grad(gram, x, grad)[0]


def composed(x: Tensor, masks: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    x = x.detach().requires_grad_()
    channels = x.shape[1]
    wide = x.float()
    grams = []
    for mask in masks:
        weighted = (wide * mask).reshape(channels, -1)
        grams.append(weighted @ wide.reshape(channels, -1).T / mask.sum())
    gram = torch.stack(grams)[None]
    return gram.detach(), torch.autograd.grad(gram, x, grad)[0]


def tv_fused(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The operator."""
    x = x.detach().requires_grad_()
    loss = ops.masked_tv(x, weight)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def tv_eager(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain torch under autograd."""
    x = x.detach().requires_grad_()
    dy = (x[:, :, 1:] - x[:, :, :-1]).square() * ((weight[1:] + weight[:-1]) / 2)
    dx = (x[:, :, :, 1:] - x[:, :, :, :-1]).square() * ((weight[:, 1:] + weight[:, :-1]) / 2)
    loss = (dy.sum() + dx.sum()) / x.numel()
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def double_gram(x: Tensor, masks: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of masked Gram matrices in float64, on the CPU, one segment at a time."""
    wide, grad, masks = x.detach().cpu().double(), grad.cpu().double(), masks.cpu().double()
    channels = wide.shape[1]
    flat = wide.reshape(channels, -1)
    grams, gradient = [], torch.zeros_like(flat)
    for mask, upper in zip(masks.reshape(len(masks), -1), grad[0], strict=True):
        index = mask.nonzero().squeeze(1)
        part, weight = flat[:, index], mask[index] / mask.sum()
        grams.append(part * weight @ part.T)
        gradient[:, index] += (upper + upper.T) @ part * weight
    return torch.stack(grams)[None], gradient.view_as(wide)


def double_tv(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of the total variation in float64."""
    return tv_eager(x.cpu().double(), weight.cpu().double())


def loss(x: Tensor, plan: ops.MaskPlan, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The operator that the engine calls: distances to targets and their gradient."""
    x = x.detach().requires_grad_()
    losses = ops.masked_gram_loss(x, plan, targets, torch.ones_like(plan.mass))
    return losses.detach(), torch.autograd.grad(losses.sum(), x)[0]


def double_loss(x: Tensor, masks: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same in float64."""
    gram, _ = double_gram(x, masks, torch.zeros(1, *targets.shape))
    difference = gram - targets.cpu().double()
    _, gradient = double_gram(x, masks, 2 * difference)
    return difference.square().sum(dim=(2, 3)), gradient


def field(case: Case) -> Iterator[Contender]:
    """Everyone on the same features."""
    device, size = case.device, SIZES[case.device.type]
    maps = [features(size, layer, case) for layer in range(5)]

    def gram(name: str, masks: Sequence[Tensor], function: Callable[..., tuple[Tensor, ...]] = masked) -> Contender:
        arguments: Sequence[object] = masks if function is composed else [ops.build_plan(mask) for mask in masks]
        matrices = [upstream(len(masks[0]), channels, device) for channels in CHANNELS]
        reference: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]] = double_gram
        if function is loss:
            matrices = [matrix[0] @ matrix[0].mT / matrix.shape[2] for matrix in matrices]
            reference = double_loss
        rows = list(zip(maps, arguments, masks, matrices, strict=True))
        return Contender(
            name,
            [partial(function, x, argument, matrix) for x, argument, _, matrix in rows],
            [partial(reference, x, mask, matrix) for x, _, mask, matrix in rows],
        )

    def hard(segments: int) -> list[Tensor]:
        return [hard_masks(segments, x.shape[2], x.shape[3], device) for x in maps]

    whole = hard(1)
    matrices = [upstream(1, channels, device) for channels in CHANNELS]
    yield Contender(
        "mm, unmasked",
        [partial(unmasked, x, matrix) for x, matrix in zip(maps, matrices, strict=True)],
        [partial(double_gram, x, mask, matrix) for x, mask, matrix in zip(maps, whole, matrices, strict=True)],
    )
    yield gram("masked, R=1", whole)
    for segments in (3, 8, 32):
        yield gram(f"masked, R={segments}", hard(segments))
    feathered = soft_masks(3, *size, device)
    yield gram("masked, R=3, feathered", [pooled(feathered, layer) for layer in range(5)])
    for segments in (1, 3, 32):
        yield gram(f"loss, R={segments}", hard(segments), loss)
    for segments in (3, 8):
        yield gram(f"composition, R={segments}", hard(segments), composed)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(9)).to(device)
    weight = soft_masks(2, *size, device)[0]
    for name, function in (("TV, fused", tv_fused), ("TV, eager", tv_eager)):
        yield Contender(name, [partial(function, image, weight)], [partial(double_tv, image, weight)], repeats=10)


GOALS = (
    Goal("R=3 hard over one unmasked Gram by mm", "masked, R=3", "mm, unmasked", 1.15),
    Goal("R=32 hard over R=1", "masked, R=32", "masked, R=1", 1.15),
    Goal("R=3 hard over mm, loss form", "loss, R=3", "mm, unmasked", 1.15),
    Goal("R=32 hard over R=1, loss form", "loss, R=32", "loss, R=1", 1.15),
    Goal("plain torch over fused, R=3", "composition, R=3", "masked, R=3", 3, at_least=True),
    Goal("plain torch over fused, R=8", "composition, R=8", "masked, R=8", 8, at_least=True),
    Goal("R=3 feathered by 8 px over hard", "masked, R=3, feathered", "masked, R=3", 1.4),
    Goal("TV: eager torch over fused", "TV, eager", "TV, fused", 5, at_least=True),
)


def error(contender: Contender) -> float:
    """Greatest |out - float64| / |float64| over layers, of value and gradient."""
    worst = 0.0
    for run, expected in zip(contender.runs, contender.expected, strict=True):
        for got, wanted in zip(run(), expected(), strict=True):
            worst = max(
                worst, float((got.detach().cpu().double().reshape(wanted.shape) - wanted).norm() / wanted.norm())
            )
    return worst


def measure(contenders: Sequence[Contender], *, rounds: int, device: torch.device) -> list[Row]:
    """Times `rounds` calls of each contender in turn."""
    errors = {contender.name: error(contender) for contender in contenders}
    samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds + WARM_UP):
        for contender in contenders:
            seconds = timed(contender, device)
            if number >= WARM_UP:
                samples[contender.name].append(seconds)
    return [Row(name, tuple(times), errors[name]) for name, times in samples.items()]


def timed(contender: Contender, device: torch.device) -> float:
    """Seconds for all runs, one after the other; each result is dropped before the next."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(contender.repeats):
        for call in contender.runs:
            call()
    synchronise(device)
    return (time.perf_counter() - start) / contender.repeats


def synchronise(device: torch.device) -> None:
    """Waits for a GPU's work to end."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory() -> float:
    """MiB that the operators need at most beyond inputs and outputs, forward or backward: five layers, R=3, fp32.

    In a process of its own, with an allocator that keeps nothing: there the peak of resident memory tells.
    """
    command = [sys.executable, "-m", "bench.ops", "--peak"]
    # glibc would keep what is freed, and the second call would find its buffers already resident.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    return float(done.stdout)


def _peak() -> float:
    cpu = torch.device("cpu")
    worst = 0.0
    for layer in range(5):
        x = features(SIZES["cpu"], layer, Case(torch.float32, channels_last=True, device=cpu))
        plan = ops.build_plan(hard_masks(3, x.shape[2], x.shape[3], cpu))
        tensors = (plan.indices, plan.weights, plan.tile_segments, plan.group_tiles)
        grad, scales = upstream(3, x.shape[1], cpu), torch.ones(1, 3)
        forward = partial(torch.ops.intarsia.masked_gram, x, *tensors, plan.mass, True)
        backward = partial(torch.ops.intarsia.masked_gram_backward, x, *tensors, grad, False, scales, None, True)
        for call in (forward, backward):
            call()  # threads' stacks and the matrix library's own buffers
            before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            result = call()
            outputs = result.nbytes if isinstance(result, Tensor) else sum(tensor.nbytes for tensor in result)
            worst = max(worst, _resident("VmHWM") - before - outputs / 2**20)
    return worst


def _resident(name: str) -> float:
    """MiB, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def run(case: Case, *, rounds: int) -> dict[str, object]:
    """Measures a case and prints its table."""
    rows = {row.name: row for row in measure(list(field(case)), rounds=rounds, device=case.device)}
    print(f"\n{case.name}, forward and backward")
    for row in rows.values():
        print(f"  {row.name:42} {row.median * 1e3:9.2f} ms   error {row.error:.1e}")
    goals = []
    for goal in GOALS:
        ratio = goal.ratio(rows)
        sign = ">=" if goal.at_least else "<="
        print(f"  {goal.what:42} {ratio:9.2f}      {sign} {goal.bound:<5} {'' if goal.reached(rows) else 'missed'}")
        goals.append({"what": goal.what, "ratio": ratio, "goal": goal.bound, "reached": goal.reached(rows)})
    return {
        "case": case.name,
        "rows": [
            {"name": r.name, "median_s": r.median, "samples_s": r.samples, "error": r.error} for r in rows.values()
        ],
        "goals": goals,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.ops", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=sorted(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=OUT)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.peak:
        print(_peak())
        return
    device = torch.device(arguments.device)
    report: dict[str, object] = {"torch": torch.__version__, "operators": ops.IMPLEMENTATION}
    if device.type == "cpu":
        from intarsia_server.engine.capabilities import describe_device
        from intarsia_server.executors.worker import keep_memory

        report["device"] = describe_device(device).description
        report["threads"] = torch.get_num_threads()
        report["peak_mib"] = peak_memory()
        print(f"peak memory beyond inputs and outputs: {report['peak_mib']:.1f} MiB (<= 16)")
        keep_memory()  # as the worker does
    else:
        from bench.kernels import kernels

        report["device"] = torch.cuda.get_device_name()
        report["kernels"] = kernels()
    cases = [
        Case(dtype, channels_last=channels_last, device=device)
        for dtype in (torch.float32, torch.bfloat16)
        for channels_last in (True, False)
    ]
    report["cases"] = [run(case, rounds=arguments.rounds) for case in cases]
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten to {arguments.json}")


if __name__ == "__main__":
    main()
