"""The local executor: one spawned worker process per device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.pool import PoolExecutor
from intarsia_server.executors.process import WorkerMain, WorkerProcess, enter_worker


class LocalExecutor(PoolExecutor):
    """One worker process per configuration; `main` is what each runs, as of `WorkerProcess`."""

    def __init__(self, configs: Sequence[WorkerConfig], main: WorkerMain = enter_worker) -> None:
        super().__init__([partial(WorkerProcess, config, main=main) for config in configs])
