"""What a CUDA graph does, on a CPU: the operators of one call are recorded and then called again, blindly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]

_READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")
"""Operators by which the host learns what a tensor holds."""


class Recording(TorchDispatchMode):
    """Records operators, and refuses those that no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[_Call] = []

    @property
    def names(self) -> list[str]:
        """Of the operators, in order."""
        return [str(function) for function, *_ in self._calls]

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if any(read in str(function) for read in _READS):
            raise RuntimeError(f"{function} makes the host wait for the device")
        found = function(*args, **(kwargs or {}))
        self._calls.append((function, args, dict(kwargs or {}), found))
        return found

    def replay(self) -> None:
        """Calls them again on the very tensors; whatever the first call made is overwritten."""
        for function, args, kwargs, made in self._calls:
            again = function(*args, **kwargs)
            for old, new in zip(_tensors(made), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, (list, tuple)):
        for each in found:
            yield from _tensors(each)
