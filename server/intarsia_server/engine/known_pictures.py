"""Which pictures need not be decoded again to be checked. No torch here: the front process keeps these too."""

from __future__ import annotations

import threading
from collections import OrderedDict

MOST = 4096
"""Pictures that are remembered; the least recently seen goes first."""


class KnownPictures:
    """Sizes (width, height) of pictures that were decoded without a warning, by the SHA-256 of their bytes.

    Several threads may share it.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._sizes: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, sha256: str) -> tuple[int, int] | None:
        """The size of that picture, upright; None where it is not known."""
        with self._lock:
            if sha256 in self._sizes:
                self._sizes.move_to_end(sha256)
            return self._sizes.get(sha256)

    def add(self, sha256: str, size: tuple[int, int]) -> None:
        """Remembers a picture."""
        with self._lock:
            self._sizes[sha256] = size
            self._sizes.move_to_end(sha256)
            if len(self._sizes) > self._most:
                self._sizes.popitem(last=False)
