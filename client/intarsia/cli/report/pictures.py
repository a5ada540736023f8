"""The report's galleries: what went in, what came out, borders close up."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from intarsia.cli.contact_sheet import label_overlay, segment_colour
from intarsia.cli.judgements import Judgement, number
from intarsia.cli.pictures import open_picture
from intarsia.cli.report.page import figure, gallery
from intarsia.cli.report.places import border_places, crop
from intarsia.cli.report.sources import Sources
from intarsia.request import KEEP

__all__ = ["made_of", "results_gallery", "zooms"]

_PLACES = 5
_ZOOM = 240


def made_of(content: Image.Image, segments: Image.Image, sources: Sources) -> str:
    """Returns the content image, its segments in their colours, and the style images."""
    shown = content.resize(segments.size, Image.Resampling.LANCZOS)
    tiles = [
        figure(content, "Content image", sources.content.name),
        figure(label_overlay(shown, segments), "Label map", sources.labels.name),
    ]
    for segment, label in enumerate(sources.order):
        look = sources.looks[label]
        if look == KEEP:
            continue
        style = open_picture(Path(look))
        tiles.append(figure(style, f"Style of label {label}", Path(look).name, swatch=segment_colour(segment)))
    return gallery(tiles, tile=250)


def results_gallery(judgements: Sequence[Judgement], results: Sequence[Image.Image], sources: Sources) -> str:
    """Returns the pictures that were judged, with the segment that wears its style least."""
    tiles = []
    for judgement, result in zip(judgements, results, strict=True):
        worst = max(
            (m for m in judgement.figures.margins if m.HasField("margin")), key=lambda m: m.margin, default=None
        )
        note = f"{judgement.path.name}, {result.width} × {result.height}"
        if worst is not None:
            note += f"; weakest style: {sources.label(worst.segment)} ({number(worst.margin)})"
        tiles.append(figure(result, judgement.name, note, side=1000))
    return gallery(tiles, tile=480 if len(tiles) <= 2 else 340)


def zooms(
    content: Image.Image,
    segments: Image.Image,
    judgements: Sequence[Judgement],
    results: Sequence[Image.Image],
    sources: Sources,
) -> str:
    """Returns the same places on borders, side by side for the content image and every picture."""
    kept = [segment for segment, label in enumerate(sources.order) if sources.looks[label] == KEEP]
    rows = []
    for place in border_places(segments, kept, _PLACES):
        tiles = [figure(crop(content, place, _ZOOM), "content")]
        for judgement, result in zip(judgements, results, strict=True):
            tiles.append(figure(crop(result, place, _ZOOM), judgement.name))
        words = " · ".join(sources.label(segment) for segment in place.segments)
        rows.append(f"<h3>{escape(words)}</h3>{gallery(tiles, tile=170)}")
    return "".join(rows)
