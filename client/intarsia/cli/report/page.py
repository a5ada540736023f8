"""The report's page: its look, and the few elements it is made of."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

from PIL import Image

__all__ = ["chart", "figure", "gallery", "page", "section"]

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #23211e; --quiet: #6d6a64; --rule: #e0dcd3; --well: #f3f0e9;
  --accent: #a8431f; }
@media (prefers-color-scheme: dark) { :root { --paper: #171614; --ink: #ece8e0; --quiet: #a09b92; --rule: #36332e;
  --well: #211f1c; --accent: #f0916a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 3.5rem 2rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 3.2rem 0 .3rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 1.6rem 0 .5rem; }
p { margin: 0 0 1rem; max-width: 46rem; color: var(--quiet); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 34rem; }
th, td { padding: .42rem 1.1rem .42rem 0; text-align: right; border-bottom: 1px solid var(--rule); font-weight: 400; }
thead th { color: var(--quiet); font-size: .85rem; vertical-align: bottom; }
th:first-child, th:last-child, td:last-child { text-align: left; }
td:last-child { color: var(--quiet); font-size: .85rem; }
tr.part th, tr.part td { color: var(--quiet); font-size: .88rem; }
tr.part th { padding-left: 1.2rem; }
td.best { font-weight: 650; color: var(--accent); }
.gallery { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fill, minmax(var(--tile), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 3px; background: var(--well); }
figcaption { margin-top: .4rem; font-size: .85rem; line-height: 1.4; overflow-wrap: anywhere; }
figcaption span { display: block; color: var(--quiet); }
figcaption i { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .45em; }
.charts { display: grid; gap: 1.6rem 2.4rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); }
.charts + .gallery { margin-top: 1.6rem; }
.charts svg { display: block; width: 100%; height: auto; }
.charts svg.key { display: inline-block; width: 22px; height: 8px; margin-right: .5em; vertical-align: middle; }
.grid { stroke: var(--rule); } line.mark { stroke: var(--quiet); stroke-dasharray: 2 3; }
svg text { fill: var(--quiet); font: 12px ui-sans-serif, system-ui, sans-serif; }
.legend { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .85rem; display: flex; flex-wrap: wrap;
  gap: .1rem 1.3rem; }
footer { margin-top: 4rem; color: var(--quiet); font-size: .85rem; }
@media print { body { padding: 0; } h2 { break-after: avoid; } figure, .charts > div { break-inside: avoid; } }
"""


def page(title: str, subtitle: str, body: Iterable[str], footer: str) -> str:
    """Returns the whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header><main>{''.join(body)}</main>"
        f"<footer>{escape(footer)}</footer></body></html>\n"
    )


def section(title: str, words: str, *parts: str) -> str:
    """Returns a section, or "" when its parts are all empty."""
    inner = "".join(parts)
    return f"<section><h2>{escape(title)}</h2><p>{escape(words)}</p>{inner}</section>" if inner else ""


def figure(
    picture: Image.Image, caption: str, note: str = "", *, side: int = 720, swatch: tuple[int, int, int] | None = None
) -> str:
    """Returns a picture, made smaller where it is larger than `side`, with its caption."""
    shown = picture.copy()
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=90, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    colour = f'<i style="background:rgb{swatch}"></i>' if swatch else ""
    quiet = f"<span>{escape(note)}</span>" if note else ""
    return (
        f'<figure><img alt="{escape(caption)}" width="{shown.width}" height="{shown.height}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption>{colour}{escape(caption)}{quiet}</figcaption></figure>'
    )


def gallery(figures: Iterable[str], *, tile: int) -> str:
    """Returns figures side by side, each at least `tile` pixels wide."""
    inner = "".join(figures)
    return f'<div class="gallery" style="--tile:{tile}px">{inner}</div>' if inner else ""


def chart(title: str, svg: str) -> str:
    """Returns a chart under its title, or "" without one."""
    return f"<div><h3>{escape(title)}</h3>{svg}</div>" if svg else ""
