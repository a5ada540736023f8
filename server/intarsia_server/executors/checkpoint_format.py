"""A checkpoint as a file: plain numbers and text, nothing that runs when it is read, and a checksum over it all.

- a line with the format's name and version
- 8 bytes, little-endian: the header's length
- the header, JSON: the request's fingerprint, all that is not a tensor, and name, type and shape of each tensor
- the tensors' elements in that order, little-endian
- 32 bytes: SHA-256 of everything before
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from intarsia_server.engine.cancel import Cancelled, poll
from intarsia_server.engine.checkpoint import Checkpoint
from intarsia_server.engine.stages import StageDone

_NAME = b"intarsia checkpoint "
_FORMAT = _NAME + b"1\n"
_TYPES = {"float32": torch.float32, "float64": torch.float64}
_OPTIMIZER = "optimizer."
_LENGTH = 8
_DIGEST = hashlib.sha256().digest_size
_PIECE = 2**20
"""Elements that are copied, and bytes that are hashed, at a time."""


class UnusableCheckpointError(Exception):
    """The file is no checkpoint of this request; the message says why."""


def write(file: BinaryIO, checkpoint: Checkpoint, fingerprint: str, cancelled: Cancelled) -> None:
    """Writes all but the checksum.

    Args:
        file: empty.
        checkpoint: its tensors are read piece by piece; all of it has been when this returns.
        fingerprint: of all that the result depends on.
        cancelled: polled before each piece.

    Raises:
        OSError: it cannot be written.
        CancelledError: `cancelled` said so.
    """
    tensors = _tensors(checkpoint)
    header = {
        "fingerprint": fingerprint,
        "values": _values(checkpoint),
        "tensors": [[name, _type_name(tensor), list(tensor.shape)] for name, tensor in tensors.items()],
    }
    text = json.dumps(header).encode()
    file.write(_FORMAT + len(text).to_bytes(_LENGTH, "little") + text)
    for tensor in tensors.values():
        for piece in _pieces(tensor.detach()):
            poll(cancelled)
            file.write(piece.cpu().contiguous().numpy().view(np.uint8).data)


def seal(file: BinaryIO) -> None:
    """Adds the checksum of what has been written."""
    file.seek(0)
    file.write(_digest(file, os.fstat(file.fileno()).st_size))


def read(file: BinaryIO, fingerprint: str) -> Checkpoint:
    """The checkpoint, its tensors on the CPU.

    Raises:
        OSError: it cannot be read.
        UnusableCheckpointError: it is not whole, of another version, or of anything that has another fingerprint.
    """
    name = file.readline(len(_FORMAT))
    if name != _FORMAT:
        raise UnusableCheckpointError("it is of another version" if name.startswith(_NAME) else "it is none")
    size = os.fstat(file.fileno()).st_size - _DIGEST
    file.seek(0)
    if size < len(_FORMAT) or _digest(file, size) != file.read(_DIGEST):
        raise UnusableCheckpointError("it is damaged")
    file.seek(len(_FORMAT))
    header = json.loads(file.read(int.from_bytes(file.read(_LENGTH), "little")))
    if header["fingerprint"] != fingerprint:
        raise UnusableCheckpointError("it is of another request, or of other software")
    tensors = {name: _read_tensor(file, _TYPES[kind], shape) for name, kind, shape in header["tensors"]}
    return _checkpoint(header["values"], tensors)


def _values(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "earlier": [asdict(stage) for stage in checkpoint.earlier],
        "so_far": asdict(checkpoint.so_far),
        "ended": checkpoint.ended,
        "totals": checkpoint.totals,
        "ahead": checkpoint.ahead,
    }


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    others = {"composite": checkpoint.composite, "first": checkpoint.first}
    found = {name: tensor for name, tensor in others.items() if tensor is not None}
    return found | {_OPTIMIZER + name: tensor for name, tensor in checkpoint.optimizer.items()}


def _checkpoint(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    return Checkpoint(
        earlier=tuple(_summary(stage) for stage in values["earlier"]),
        so_far=_summary(values["so_far"]),
        ended=values["ended"],
        totals=tuple(values["totals"]),
        ahead=None if values["ahead"] is None else tuple(values["ahead"]),
        composite=tensors.get("composite"),
        first=tensors.get("first"),
        optimizer={
            name.removeprefix(_OPTIMIZER): tensor for name, tensor in tensors.items() if name.startswith(_OPTIMIZER)
        },
    )


def _summary(values: Mapping[str, Any]) -> StageDone:
    return StageDone(**{**values, "losses": tuple((name, segment, value) for name, segment, value in values["losses"])})


def _type_name(tensor: Tensor) -> str:
    return next(name for name, kind in _TYPES.items() if kind == tensor.dtype)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Its elements in order, without a copy of the whole."""
    if tensor.is_contiguous() or tensor.dim() < 2:
        yield from torch.split(tensor.reshape(-1), _PIECE)
        return
    for row in tensor:
        yield from _pieces(row)


def _read_tensor(file: BinaryIO, kind: torch.dtype, shape: list[int]) -> Tensor:
    tensor = torch.empty(shape, dtype=kind)
    if file.readinto(tensor.reshape(-1).numpy().view(np.uint8)) != tensor.nbytes:  # type: ignore[attr-defined]
        raise UnusableCheckpointError("it ends too soon")
    return tensor


def _digest(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of its next `size` bytes, or of as many as there are."""
    digest = hashlib.sha256()
    while size > 0 and (piece := file.read(min(_PIECE, size))):
        digest.update(piece)
        size -= len(piece)
    return digest.digest()
