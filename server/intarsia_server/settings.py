"""Every knob of the server, from the environment (INTARSIA_...) or the command line."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of a server; docs/operations.md lists them for operators."""

    model_config = SettingsConfigDict(env_prefix="INTARSIA_", frozen=True)

    address: str = Field("127.0.0.1:50051", description="HOST:PORT or unix:PATH to listen on.")
    devices: list[str] = Field(
        default_factory=list,
        description='Devices to run one worker on each, as JSON: ["cuda:0"]. Empty: all GPUs, else the CPU.',
    )
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="CPU threads of a CPU worker.")
    encoder: str = Field("embedded", description="Encoder that is loaded at the start and used by default.")
    encoder_files: dict[str, Path] = Field(
        default_factory=dict, description='Further encoders, as JSON: {"name": "/path/to/vgg19.pth"}.'
    )
    allow_download: bool = Field(False, description="Let the encoder 'torchvision' fetch its weights from the hub.")
    queue_capacity: int = Field(16, ge=0, description="Jobs that may wait.")
    max_pixels: int = Field(36_000_000, ge=1024, description="Largest picture that is decoded or made, in pixels.")
    max_message_bytes: int = Field(64 * 2**20, ge=2**20, description="Largest message that is taken.")
    result_chunk_bytes: int = Field(2**20, ge=1024, description="Results above this size are sent in chunks of it.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="Silence after which a stream gets a heartbeat.")
    drain_seconds: float = Field(30.0, ge=0, description="What running jobs are given after SIGTERM.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
