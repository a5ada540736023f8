"""Every knob of the server, from the environment (INTARSIA_...) or the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from intarsia_server.engine.request import SegmentationModel


def _from_json(value: object) -> object:
    """Decodes here, not in pydantic-settings: its own error does not name the variable as ours do."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError("is not JSON") from error


class Settings(BaseSettings):
    """Settings of a server; docs/operations.md lists them for operators."""

    model_config = SettingsConfigDict(env_prefix="INTARSIA_", frozen=True)

    address: str = Field("127.0.0.1:50051", description="HOST:PORT or unix:PATH to listen on.")
    devices: Annotated[list[str], NoDecode, BeforeValidator(_from_json)] = Field(
        default_factory=list,
        description='Devices to run one worker on each, as JSON: ["cuda:0"]. Empty: all GPUs, else the CPU.',
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="CPU threads of a CPU worker."
    )
    encoder: str = Field("embedded", description="Encoder that is loaded at the start and used by default.")
    encoder_files: Annotated[dict[str, Path], NoDecode, BeforeValidator(_from_json)] = Field(
        default_factory=dict, description='Further encoders, as JSON: {"name": "/path/to/vgg19.pth"}.'
    )
    segmentation_files: Annotated[dict[SegmentationModel, Path], NoDecode, BeforeValidator(_from_json)] = Field(
        default_factory=dict,
        description='Weights of automatic segmentation, as JSON: {"fcn_resnet101": "/path/to/weights.pth"}.',
    )
    allow_download: bool = Field(False, description="Let the server fetch torchvision's weights from the hub.")
    target_cache_mib: int = Field(
        128, ge=0, description="Memory in which each worker keeps statistics of style images, in MiB; 0 keeps none."
    )
    queue_capacity: int = Field(16, ge=0, description="Jobs that may wait.")
    queue_mib: int = Field(0, ge=0, description="Memory that waiting jobs may be thought to take, in MiB; 0: no limit.")
    client_jobs: int = Field(0, ge=0, description="Jobs of one client that may wait or run; 0: no limit.")
    max_pixels: int = Field(36_000_000, ge=1024, description="Largest picture that is decoded or made, in pixels.")
    max_message_bytes: int = Field(64 * 2**20, ge=2**20, description="Largest message that is taken.")
    result_chunk_bytes: int = Field(2**20, ge=1024, description="Results above this size are sent in chunks of it.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="Silence after which a stream gets a heartbeat.")
    drain_seconds: float = Field(30.0, ge=0, description="What running jobs are given after SIGTERM.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names that a request may ask for."""
        return ("embedded", "torchvision", *self.encoder_files)

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if self.encoder not in self.encoders:
            raise ValueError(f"INTARSIA_ENCODER: {self.encoder!r} is none of {', '.join(self.encoders)}")
        return self
