"""What is known of style images from earlier jobs: a bounded cache in the worker, and one job's view of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from intarsia_server.engine.palette import Palette

Grams = Mapping[str, Tensor]
"""Mean Gram matrix [C, C] by layer."""

Statistics = TypeVar("Statistics", Palette, Grams)

ENTRY_BYTES = 1024
"""What a key and its place in the cache take, beside the tensors."""


class TargetCache:
    """Statistics of style images by all that they depend on; past its capacity the least recently used go first.

    Nobody may change a tensor that was put in or came out.

    Args:
        capacity: bytes; at 0 nothing is kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes in use, never more than the capacity."""
        return self._size

    def get(self, key: Hashable) -> Any:
        """What was put under that key, or None."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Hashable, value: Palette | Grams) -> None:
        """Keeps a value, if there is room for it at all."""
        tensors = value.values() if isinstance(value, Mapping) else value
        size = ENTRY_BYTES + sum(tensor.nbytes for tensor in tensors)
        if size > self._capacity:
            return
        self._size += size - self._entries.pop(key, (None, 0))[1]
        self._entries[key] = value, size
        while self._size > self._capacity:
            _, (_, freed) = self._entries.popitem(last=False)
            self._size -= freed


@dataclass(frozen=True)
class Counts:
    """Sets of Gram matrices, one set per style image and size: all, and those that an earlier job had computed."""

    total: int = 0
    cached: int = 0

    def __sub__(self, earlier: Counts) -> Counts:
        """What has been added since."""
        return Counts(self.total - earlier.total, self.cached - earlier.cached)


class JobTargets:
    """One job's statistics: computed at most once, whatever room the cache has.

    Args:
        cache: of the worker; None: nothing is shared between jobs.

    Attributes:
        counts: of what the job has asked for so far.
    """

    def __init__(self, cache: TargetCache | None = None) -> None:
        self._cache = TargetCache(0) if cache is None else cache
        self._own: dict[Hashable, Any] = {}
        self.counts = Counts()

    def palette(self, key: Hashable, compute: Callable[[], Palette]) -> Palette:
        """The palette of what `key` tells apart from everything else."""
        value, _, _ = self._find(("palette", key), compute)
        return value

    def grams(self, key: Hashable, compute: Callable[[], Grams]) -> Grams:
        """The Gram matrices of what `key` tells apart from everything else."""
        value, is_first, is_cached = self._find(("grams", key), compute)
        self.counts = Counts(self.counts.total + is_first, self.counts.cached + is_cached)
        return value

    def _find(self, key: Hashable, compute: Callable[[], Statistics]) -> tuple[Statistics, bool, bool]:
        """The value, whether this job asks for it the first time, and whether it then came from the cache."""
        if key in self._own:
            return self._own[key], False, False
        value = self._cache.get(key)
        is_cached = value is not None
        if not is_cached:
            value = compute()
            self._cache.put(key, value)
        self._own[key] = value
        return value, True, is_cached
