"""How much of the picture each stage works on, as far as it is known before the job runs."""

from __future__ import annotations

import numpy as np

from intarsia_server.engine.cost.work import Size, plan_of
from intarsia_server.engine.request import TransferRequest
from intarsia_server.engine.segmentation import LabelMap
from intarsia_server.engine.window import window_of


def stage_areas(request: TransferRequest, size: Size, labels: LabelMap | None) -> dict[str, float]:
    """The shares of the picture that windowed stages work on.

    Args:
        request: to run.
        size: of the output.
        labels: segment index of every pixel of the output; None: not known.

    Returns:
        By stage, as `job_work` takes them; a stage of which nothing is known is missing.
    """
    scopes = {stage.name: stage.scope for stage in plan_of(request, size) if stage.windowed}
    if labels is None or not scopes:
        return {}
    width, height = size
    rows = np.zeros((len(request.segments), height), dtype=bool)
    columns = np.zeros((len(request.segments), width), dtype=bool)
    # One pass for all segments, row by row: the picture may have millions of pixels and hundreds of segments.
    for y, row in enumerate(labels):
        rows[row, y] = True
        columns[row, np.arange(width)] = True
    areas = {}
    for name, scope in scopes.items():
        if rows[scope].any():
            window = window_of(rows[scope], columns[scope])
            areas[name] = 1.0 if window is None else window.share
    return areas
