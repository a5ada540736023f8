"""From the proto's field names back to what the user typed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from intarsia.errors import IntarsiaError

__all__ = ["with_typed_names"]

_FLAGS = {
    "content": "CONTENT",
    "label_map": "--labels",
    "soft_masks": "--mask",
    "boxes": "--box",
    "scribbles": "--scribbles",
    "automatic": "--auto",
    "paper": "--paper",
    "precision": "--precision",
    "encoder": "--encoder",
    "method": "--method",
    "segments": "--style",
    "preview_interval": "--preview-every",
    "seed": "--seed",
    "request_id": "--request-id",
}
_KNOB_FLAGS = {
    "steps": "--steps",
    "until": "--until",
    "memory_bytes": "--memory",
    "size": "--size",
    "format": "--output",
}


def with_typed_names(
    error: IntarsiaError, styles: Mapping[int, str], others: Mapping[str, str] | None = None
) -> IntarsiaError:
    """Returns the error with each violation's field preceded by the argument that it came from.

    Args:
        error: As the server sent it: ("segments[1].style.data", "not an image").
        styles: By label, the text of --style: {0: "0=bg.jpg", 1: "1=dog.jpg"}.
        others: By field, what was typed for all that lies in it: {"boxes.boxes[0]": "--box 1=0,0,40,40"}.
    """
    violations = [(_typed(field, styles, others or {}), description) for field, description in error.violations]
    return IntarsiaError(error.code, error.message, violations, error.retry_after_seconds)


def _typed(field: str, styles: Mapping[int, str], others: Mapping[str, str]) -> str:
    inner = field.removeprefix("job.")  # that of an estimate
    flag = next((text for place, text in others.items() if inner == place or inner.startswith(f"{place}.")), "")
    flag = flag or _segment_flag(inner, styles) or _FLAGS.get(inner.partition(".")[0]) or _knob_flag(inner)
    return f"{flag} ({field})" if flag else field


def _segment_flag(field: str, styles: Mapping[int, str]) -> str:
    match = re.match(r"segments\[(\d+)\]\.?(\w*)", field)
    labels = sorted(styles)  # segments are sent in this order
    if match is None or int(match[1]) >= len(labels):
        return ""
    label = labels[int(match[1])]
    if match[2] in ("", "labels", "style", "keep"):
        return f"--style {styles[label]}"
    return f"--set {label}.{match[2]}"


def _knob_flag(field: str) -> str:
    # What is wrong with a picture is said of its data.
    message, _, name = field.removesuffix(".data").rpartition(".")
    if not message or "[" in message:
        return ""
    return _KNOB_FLAGS.get(name, f"--set {name}")
