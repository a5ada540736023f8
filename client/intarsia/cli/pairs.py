"""Flags of the form KEY=VALUE that may be given several times."""

from __future__ import annotations

from collections.abc import Sequence

from intarsia.errors import RequestError

__all__ = ["parse_pairs"]


def parse_pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """Returns the values by key.

    Raises:
        RequestError: A text of another form, or a key that is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or not value:
            raise RequestError(f"{flag} {text}: expected {'LABEL=STYLE' if flag == '--style' else 'KEY=VALUE'}")
        if key in pairs:
            raise RequestError(f"{flag} {key} is given twice")
        pairs[key] = value
    return pairs
