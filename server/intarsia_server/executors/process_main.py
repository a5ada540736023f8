"""A worker process from within: commands come by a pipe, messages go by it."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

from intarsia_server.executors.base import ExecutorStartError
from intarsia_server.executors.messages import Failed, Ready, RunCommand, WorkerConfig
from intarsia_server.executors.worker import start_worker
from intarsia_server.logs import log_fields, set_up_logs

PR_SET_PDEATHSIG = 1


def run_worker(connection: Connection, cancelled_serial: ctypes.c_ulonglong, config: WorkerConfig) -> None:
    """The process's main function; returns when told None or when the connection's other end is closed.

    Args:
        connection: commands in, messages out.
        cancelled_serial: requests with a serial up to this value are to stop.
        config: of this worker.
    """
    # A Ctrl-C or a group-wide SIGTERM is the front's to handle: it drains and closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logs("worker", level=config.log_level, log_format=config.log_format)
    die_with_front()
    if config.cores:
        os.sched_setaffinity(0, config.cores)
    try:
        worker = start_worker(config)
    except ExecutorStartError as error:
        connection.send(Failed(error))
        return
    try:
        connection.send(Ready(worker.info))
        while True:
            command: RunCommand | None = connection.recv()
            if command is None:
                return
            serial = command.serial
            with log_fields(command.log_fields):
                worker.run(command, lambda serial=serial: cancelled_serial.value >= serial, connection.send)  # type: ignore[misc]
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the front is gone, or done with us


def die_with_front() -> None:
    """Has the system end this process with the front: by itself it would see that only after a step, which may be long.

    The next server's worker may have the same job by then, and the memory is not there twice.
    """
    with suppress(AttributeError, OSError):  # not Linux, and a step it is
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
