"""Which workers there are, by the settings, and the executor that has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from intarsia_server.executors.base import Executor, ExecutorStartError
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.ray import RayExecutor
from intarsia_server.settings import Settings


def make_executor(settings: Settings) -> Executor:
    """The one that the settings ask for, not yet started.

    Raises:
        ExecutorStartError: it is not installed.
    """
    if settings.executor == "local":
        return LocalExecutor(worker_configs(settings))
    configs = worker_configs(settings)
    try:
        return RayExecutor(
            configs,
            address=settings.ray_address,
            namespace=settings.ray_namespace,
            helpers=settings.ray_helpers,
        )
    except ImportError as error:
        raise ExecutorStartError(
            f"INTARSIA_EXECUTOR=ray needs Ray, which is not to be had ({error}): pip install 'intarsia[server,ray]'"
        ) from error


def worker_configs(settings: Settings) -> list[WorkerConfig]:
    """One for each device; local CPU workers beside each other have cores of their own."""
    devices = settings.devices or _default_devices()
    cores = sorted(os.sched_getaffinity(0))
    on_cpu = [index for index, device in enumerate(devices) if device == "cpu"]
    threads = settings.threads or max(1, len(cores) // max(1, len(on_cpu)))
    has_own_cores = settings.executor == "local" and 1 < len(on_cpu) <= len(cores) // threads

    def cores_of(index: int) -> tuple[int, ...]:
        if not has_own_cores or index not in on_cpu:
            return ()
        first = on_cpu.index(index) * threads
        return tuple(cores[first : first + threads])

    return [
        WorkerConfig(
            device=device,
            threads=threads,
            cores=cores_of(index),
            encoder=settings.encoder,
            encoder_files=settings.encoder_files,
            segmentation_files=settings.segmentation_files,
            allow_download=settings.allow_download,
            max_pixels=settings.max_pixels,
            target_cache_bytes=settings.target_cache_mib * 2**20,
            memory_bytes=settings.memory_mib * 2**20,
            checkpoint_seconds=settings.checkpoint_seconds,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        for index, device in enumerate(devices)
    ]


def _default_devices() -> list[str]:
    """All GPUs that torch can use, else the CPU. Asked of another process: torch must not be loaded in this one."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return ["cpu"]
    count = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=False)
    gpus = int(answer.stdout) if answer.returncode == 0 else 0
    return [f"cuda:{index}" for index in range(gpus)] or ["cpu"]
