"""What the front process and a worker process say to each other. No torch here: both sides import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from intarsia_server.engine.cost.speed import Speed
from intarsia_server.engine.request import Precision, SegmentationModel, Work
from intarsia_server.executors.base import ExecutorEvent, ExecutorInfo
from intarsia_server.logs import LogFormat


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """All that a worker process is told at its start; with `memory_bytes` 0 it may take most of what its device has."""

    device: str
    threads: int
    encoder: str
    encoder_files: Mapping[str, Path]
    segmentation_files: Mapping[SegmentationModel, Path]
    allow_download: bool
    max_pixels: int
    target_cache_bytes: int
    memory_bytes: int = 0
    checkpoint_seconds: float
    log_level: str
    log_format: LogFormat


@dataclass(frozen=True)
class Ready:
    """First message: the encoder is loaded."""

    info: ExecutorInfo


@dataclass(frozen=True)
class Learned:
    """A job has shown how fast the device is at its precision."""

    precision: Precision
    speed: Speed


@dataclass(frozen=True)
class Holding:
    """The worker holds that many bytes of its GPU's memory."""

    device_memory: int


@dataclass(frozen=True)
class Failed:
    """The work, or the start, ended with this error."""

    error: Exception


@dataclass(frozen=True)
class RunCommand:
    """Run this; `serial` grows by one with each request and is what a cancel refers to; `checkpoint` is its file.

    What is logged meanwhile has `log_fields`.
    """

    serial: int
    request: Work
    checkpoint: Path | None
    log_fields: Mapping[str, str]


WorkerMessage = Ready | Learned | Holding | Failed | ExecutorEvent
