"""Which pictures need not be decoded again to be checked. No torch here: the front process keeps these too."""

from __future__ import annotations

MOST = 4096
"""Pictures that are remembered; the least recently seen goes first."""


class KnownPictures:
    """Sizes (width, height) of pictures that were decoded without a warning, by the SHA-256 of their bytes.

    Several threads may share it: each step is one operation of the dictionary, and what two of them lose between
    their steps is no more than an entry, which costs a decoding.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._sizes: dict[str, tuple[int, int]] = {}

    def get(self, sha256: str) -> tuple[int, int] | None:
        """The size of that picture, upright; None where it is not known."""
        size = self._sizes.pop(sha256, None)
        if size is not None:
            self._sizes[sha256] = size  # now the last to go
        return size

    def add(self, sha256: str, size: tuple[int, int]) -> None:
        """Remembers a picture."""
        self._sizes.pop(sha256, None)
        self._sizes[sha256] = size
        for oldest in list(self._sizes)[: max(0, len(self._sizes) - self._most)]:
            self._sizes.pop(oldest, None)
