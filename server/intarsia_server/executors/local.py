"""The local executor: one spawned worker process per device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.pool import PoolExecutor
from intarsia_server.executors.process import WorkerProcess


class LocalExecutor(PoolExecutor):
    """One worker process per configuration."""

    def __init__(self, configs: Sequence[WorkerConfig]) -> None:
        super().__init__([partial(WorkerProcess, config) for config in configs])
