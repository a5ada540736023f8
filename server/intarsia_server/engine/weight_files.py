"""Files of weights: where they may lie, and what to say when they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from intarsia_server.engine.errors import WeightsUnavailableError


def read_state(path: Path, what: str) -> object:
    """Reads a file of weights.

    Args:
        path: of the file.
        what: the network, for the error.

    Raises:
        WeightsUnavailableError: it cannot be read.
    """
    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises a dozen kinds for a missing, truncated or foreign file; all mean the same to the caller.
        raise WeightsUnavailableError(f"{what}: its weights file cannot be read") from error
    return state


def hub_state(weights: Any, what: str, *, allow_download: bool, elsewhere: str = "") -> object:
    """Weights that torchvision publishes, from the torch hub's cache, or from the hub if that is allowed.

    Args:
        weights: a member of one of torchvision's enums of weights (which have no types).
        what: the network, for the error.
        allow_download: whether to fetch a file that is not cached.
        elsewhere: another way to bring the weights, for the error: "or name a file in ...".

    Raises:
        WeightsUnavailableError: they are not at hand, or are not what they should be.
    """
    name = weights.url.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if cached.is_file():
        return read_state(cached, what)
    if not allow_download:
        raise WeightsUnavailableError(
            f"{what}: {name} is not in the torch hub cache; put it there (hub/checkpoints under TORCH_HOME), "
            f"{elsewhere}or set INTARSIA_ALLOW_DOWNLOAD=true to let the server fetch its "
            f"{weights.meta['_file_size']:.0f} MB"
        )
    try:
        state: object = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailableError(f"{what}: the weights could not be fetched") from error
    return state
