"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from intarsia.errors import RequestError

__all__ = ["parse_memory"]

_UNITS: dict[str, int] = {unit: 1024**power for power, unit in enumerate(("", "ki", "mi", "gi", "ti"))}


def parse_memory(value: int | str) -> int:
    """Returns a number of bytes, given as such or with a unit: 4294967296, "4GiB", "1.5 GiB", "3000MiB".

    Raises:
        RequestError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]i)b?)?", str(value).strip(), re.IGNORECASE)
    if match is None:
        raise RequestError(f"memory: expected an amount such as 4GiB or 3000MiB, got '{value}'")
    number, unit = match.groups()
    return round(float(number) * _UNITS[(unit or "").lower()])
