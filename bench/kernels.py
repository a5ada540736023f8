"""The CUDA kernels against what the card can do: bytes that must move over the bandwidth of a copy.

Times are of replayed CUDA graphs, so that launches from Python do not count; inputs rotate, so that the cache of the
card does not hold them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from intarsia_server import ops

from bench.maps import CHANNELS, SIZES, Case, features, hard_masks, soft_masks, upstream

CUDA = torch.device("cuda")
ROTATE = 256 * 2**20
"""Bytes of inputs that take turns: several times the cache."""
REPLAYS = 30
TV_SIZE = (4096, 4096)


def seconds(calls: Sequence[Callable[[], object]]) -> float:
    """Median time of one call, by replays of a graph of all of them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    samples = []
    for _ in range(REPLAYS):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        samples.append(float(began.elapsed_time(ended)) / 1e3 / len(calls))
    return statistics.median(samples)


def copy_bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.randn(2**28, device=CUDA)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds([lambda: target.copy_(source)])


def kernels() -> list[dict[str, object]]:
    """Each layer and the total variation; prints a table."""
    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    report: list[dict[str, object]] = [{"what": "copy", "bytes_per_s": bandwidth}]

    def row(what: str, time: float, moved: int) -> None:
        share = moved / time / bandwidth
        print(f"  {what:48} {time * 1e6:9.1f} us   {share:5.0%} of copy bandwidth")
        report.append({"what": what, "s": time, "of_copy_bandwidth": share})

    for dtype in (torch.float32, torch.bfloat16):
        for channels_last in (True, False):
            for precision in ("highest", "high") if dtype is torch.float32 else ("high",):
                torch.set_float32_matmul_precision(precision)
                case = Case(dtype, channels_last=channels_last, device=CUDA)
                for segments in (1, 3, 8):
                    _layers(case, f"{case.name}, {precision}, R={segments}", segments, row)
    torch.set_float32_matmul_precision("highest")
    image = torch.randn(1, 3, *TV_SIZE, device=CUDA)
    weight = soft_masks(2, *TV_SIZE, CUDA)[0]
    for name, map_ in (("TV", None), ("TV, weighted", weight)):
        time = seconds([partial(torch.ops.intarsia.masked_tv, image, map_, False)])
        row(f"{name}, {TV_SIZE[0]}x{TV_SIZE[1]}", time, 2 * image.nbytes + (0 if map_ is None else weight.nbytes))
    return report


def _layers(case: Case, name: str, segments: int, row: Callable[[str, float, int], None]) -> None:
    exact = torch.get_float32_matmul_precision() == "highest"
    totals, bytes_moved = [0.0, 0.0], [0, 0]
    for layer, channels in enumerate(CHANNELS):
        first = features(SIZES["cuda"], layer, case)
        copies = [first, *(first.clone() for _ in range(ROTATE // first.nbytes))]
        plan = ops.build_plan(hard_masks(segments, first.shape[2], first.shape[3], CUDA))
        tensors = (plan.indices, plan.weights, plan.tile_segments, plan.group_tiles)
        matrices = upstream(segments, channels, CUDA)
        matrices = matrices + matrices.mT
        scales = torch.ones(1, segments, device=CUDA)
        operators = torch.ops.intarsia
        forward = [partial(operators.masked_gram, x, *tensors, plan.mass, exact) for x in copies]
        backward = [
            partial(operators.masked_gram_backward, x, *tensors, matrices, True, scales, None, exact) for x in copies
        ]
        moved = (first.nbytes + matrices.nbytes, 2 * first.nbytes + matrices.nbytes)
        for number, (kind, calls) in enumerate((("forward", forward), ("backward", backward))):
            time = seconds(calls)
            row(f"{name}, C={channels}, {kind}", time, moved[number])
            totals[number] += time
            bytes_moved[number] += moved[number]
    for kind, time, moved_bytes in zip(("forward", "backward"), totals, bytes_moved, strict=True):
        row(f"{name}, five layers, {kind}", time, moved_bytes)
