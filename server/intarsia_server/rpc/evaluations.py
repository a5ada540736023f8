"""From an evaluation's figures to a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.figures import Border, Evaluation, Margin, Seam
from intarsia_server.rpc.responses import to_warnings


def to_evaluate_response(evaluation: Evaluation) -> pb.EvaluateResponse:
    """The message; figures that are None are absent."""
    return pb.EvaluateResponse(
        width=evaluation.width,
        height=evaluation.height,
        style_margin=evaluation.style_margin,
        margins=map(_margin, evaluation.margins),
        seam=_seam(evaluation.seam),
        content_seam=_seam(evaluation.content_seam),
        transition=evaluation.transition,
        palette=evaluation.palette,
        borders=map(_border, evaluation.borders),
        content=evaluation.content,
        structure=evaluation.structure,
        warnings=to_warnings(evaluation.warnings),
    )


def _margin(margin: Margin) -> pb.StyleMargin:
    return pb.StyleMargin(
        segment=margin.segment,
        area=margin.area,
        distance=margin.distance,
        margin=margin.margin,
        nearest=margin.nearest,
    )


def _seam(seam: Seam | None) -> pb.Seam | None:
    return None if seam is None else pb.Seam(value=seam.value, profile=_points(seam.distances, seam.profile))


def _border(border: Border) -> pb.Border:
    return pb.Border(
        first=border.first,
        second=border.second,
        length=border.length,
        curve=_points(border.offsets, border.curve),
        jump=border.jump,
        palette=border.palette,
    )


def _points(offsets: Sequence[float], values: Sequence[float]) -> Iterator[pb.CurvePoint]:
    for offset, value in zip(offsets, values, strict=True):
        yield pb.CurvePoint(offset=offset, value=value)
