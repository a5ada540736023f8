"""Flags of the form KEY=VALUE that may be given several times."""

from __future__ import annotations

from collections.abc import Sequence

from intarsia.errors import RequestError

__all__ = ["parse_pairs"]


def parse_pairs(flag: str, texts: Sequence[str], *, expected: str = "KEY=VALUE") -> dict[str, str]:
    """Returns the values by key.

    Args:
        flag: As it is typed, for errors.
        texts: What was typed after it, each time.
        expected: Their form, for errors.

    Raises:
        RequestError: A text of another form, or a key that is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or not value:
            raise RequestError(f"{flag} {text}: expected {expected}")
        if key in pairs:
            raise RequestError(f"{flag} {key} is given twice")
        pairs[key] = value
    return pairs
