"""The composition root: builds executor, jobs and servicer from the settings, and runs them until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence

import grpc
from pydantic import ValidationError

from intarsia_server.executors.base import Executor, ExecutorStartError
from intarsia_server.jobs.admission import Limits
from intarsia_server.jobs.archive import Archive
from intarsia_server.jobs.files import FileStore
from intarsia_server.jobs.folder import DataFolder, DataFolderError
from intarsia_server.jobs.manager import JobManager
from intarsia_server.jobs.observer import JobObserver
from intarsia_server.jobs.storage import StorageError, storage_errors
from intarsia_server.jobs.store import StoreError
from intarsia_server.jobs.uploads import UploadLimits, UploadStore
from intarsia_server.logs import set_up_logs
from intarsia_server.rpc.access import Access
from intarsia_server.rpc.certificates import AccessFileError
from intarsia_server.rpc.errors import code_of, to_status
from intarsia_server.rpc.requests import from_payload
from intarsia_server.rpc.server import METHODS, Health, build_server
from intarsia_server.rpc.servicer import StyleTransferServicer
from intarsia_server.settings import Settings
from intarsia_server.telemetry.present import Present
from intarsia_server.telemetry.telemetry import Telemetry
from intarsia_server.versions import versions
from intarsia_server.workers import make_executor

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.25
"""From the last job's end to the connections': a client that writes to one just as it is closed finds it broken, and
drops what it has not read yet, even the end of a job that succeeded."""


def main(arguments: Sequence[str] | None = None, new_executor: Callable[[Settings], Executor] = make_executor) -> int:
    """Runs the server; returns 0 after a drain, 1 when it cannot start, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="intarsia_server", description="The Intarsia server.")
    parser.add_argument("--address", help="HOST:PORT or unix:PATH to listen on; default INTARSIA_ADDRESS")
    parser.add_argument("--exit-with-stdin", action="store_true", help="drain when standard input is closed")
    options = parser.parse_args(arguments)
    try:
        settings = Settings(**({"address": options.address} if options.address else {}))
    except ValidationError as error:
        for problem in error.errors():
            # A problem between two settings has no place of its own and names the variable in its message.
            place = f"INTARSIA_{str(problem['loc'][0]).upper()}: " if problem["loc"] else ""
            print(f"{place}{problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    set_up_logs("server", level=settings.log_level, log_format=settings.log_format)
    try:
        access = Access(settings)
    except AccessFileError as error:
        log.error("cannot start: %s", error)  # noqa: TRY400 - no defect, no traceback
        return 1
    settle_memory()
    return asyncio.run(serve(settings, access, new_executor, exit_with_stdin=options.exit_with_stdin))


def settle_memory() -> None:
    """Has the garbage collector leave alone what was loaded at the start, which stays to the end.

    Going through all of it holds the event loop up for 40 ms, again and again.
    """
    gc.collect()
    gc.freeze()


async def serve(
    settings: Settings, access: Access, new_executor: Callable[[Settings], Executor], *, exit_with_stdin: bool
) -> int:
    """Serves until SIGTERM, SIGINT or the end of standard input, then drains."""
    # Pictures are decoded in threads beside the event loop, which would wait ten times as long for its turn.
    sys.setswitchinterval(0.0005)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_with_stdin:
        threading.Thread(target=_wait_for_stdin, args=(loop, stop), daemon=True).start()

    if access.reloadable:
        loop.add_signal_handler(signal.SIGHUP, access.reload)
    try:
        folder = DataFolder(settings.data_dir)
    except DataFolderError as error:
        log.error("cannot start: %s", error)  # noqa: TRY400 - no defect, no traceback
        return 1
    try:
        return await _serve(settings, access, new_executor, folder, stop)
    finally:
        folder.close()


async def _serve(
    settings: Settings,
    access: Access,
    new_executor: Callable[[Settings], Executor],
    folder: DataFolder,
    stop: asyncio.Event,
) -> int:
    """Serves from that folder until told to stop."""
    loop = asyncio.get_running_loop()
    telemetry = Telemetry(settings.metrics_address, code_of=lambda error: code_of(error).name, versions=versions())
    try:
        executor = new_executor(settings)
        archive, jobs = await _recovered_jobs(settings, executor, folder, telemetry.observers)
        uploads = _upload_store(settings, folder)
    except (ExecutorStartError, StorageError, StoreError) as error:
        log.error("cannot start: %s", error)  # noqa: TRY400 - no defect, no traceback
        return 1
    health = Health()
    await health.set(False)
    servicer = StyleTransferServicer(jobs, executor, uploads, settings)
    server = build_server(
        servicer,
        health,
        access,
        max_message_bytes=settings.max_message_bytes,
        interceptors=telemetry.interceptors(METHODS),
    )
    present = Present(lambda: jobs.jobs, settings.queue_capacity, executor.workers, folder.stored)
    if not await _listens(settings, server, access, telemetry, present):
        return 1
    jobs.start()
    tidying = asyncio.create_task(uploads.drop_unused_for_ever())
    pending: set[asyncio.Task[None]] = set()

    def on_ready(ready: bool) -> None:
        log.info("ready" if ready else "not ready")
        task = loop.create_task(health.set(ready))
        pending.add(task)
        task.add_done_callback(pending.discard)

    code = 0
    starting = asyncio.create_task(executor.start(on_ready))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and starting.exception() is not None:
        log.error("cannot start: %s", starting.exception())
        code = 1
    else:
        await stopping
        log.info("draining")
    await health.servicer.enter_graceful_shutdown()
    servicer.cancel_checks()
    had_jobs = bool(jobs.jobs)
    await jobs.drain(settings.drain_seconds if code == 0 else 0)
    if had_jobs:
        await asyncio.sleep(LINGER_SECONDS)
    await server.stop(grace=1)
    tidying.cancel()
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError, ExecutorStartError):
        await starting
    await executor.stop()
    await archive.close()
    await telemetry.stop()
    log.info("stopped")
    return code


async def _listens(
    settings: Settings, server: grpc.aio.Server, access: Access, telemetry: Telemetry, present: Present
) -> bool:
    """Opens all addresses; False if one cannot be, which the log then says."""
    if _answers(settings.address):
        log.error("cannot listen on %s: a server is listening there already", settings.address)
        return False
    try:
        telemetry.start(present)
        access.listen(server, settings.address)
        await server.start()
    except (OSError, RuntimeError) as error:  # of the metrics, of gRPC
        address = settings.metrics_address if isinstance(error, OSError) else settings.address
        log.error("cannot listen on %s: %s", address, error)  # noqa: TRY400 - no defect, no traceback
        return False
    log.info("listening on %s", settings.address)
    return True


def _wait_for_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Whoever started the server holds the other end; its end means that nobody is left to serve.

    A thread, because an event loop cannot watch a file or /dev/null.
    """
    while os.read(sys.stdin.fileno(), 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has closed: the server has ended by itself
        loop.call_soon_threadsafe(stop.set)


def _answers(address: str) -> bool:
    """Whether a server listens on a Unix socket; gRPC would take the socket over in silence."""
    if not address.startswith("unix:"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address.removeprefix("unix:")) == 0


async def _recovered_jobs(
    settings: Settings, executor: Executor, folder: DataFolder, observers: Sequence[JobObserver]
) -> tuple[Archive, JobManager]:
    """What an earlier server left in the folder is taken over.

    Raises:
        StorageError, StoreError: the folder cannot be used.
    """
    archive = Archive(
        folder,
        retention_seconds=settings.retention_seconds,
        retention_bytes=settings.retention_mib * 2**20,
    )
    jobs = JobManager(
        executor,
        archive,
        folder.checkpoints,
        limits=_limits(settings),
        chunk_bytes=settings.result_chunk_bytes,
        durable=folder.durable,
        revive=functools.partial(from_payload, default_encoder=settings.encoder, encoders=settings.encoders),
        describe=lambda error: to_status(error).SerializeToString(),
        observers=observers,
    )
    await jobs.recover()
    return archive, jobs


def _upload_store(settings: Settings, folder: DataFolder) -> UploadStore:
    """The same of uploads.

    Raises:
        StorageError: the folder cannot be used.
    """
    limits = UploadLimits(
        upload_bytes=settings.max_upload_bytes,
        client_bytes=settings.max_client_upload_bytes,
        total_bytes=settings.max_total_upload_bytes,
        client_unfinished=settings.max_client_uploads,
        total_unfinished=settings.max_total_uploads,
        seconds=settings.upload_seconds,
    )
    with storage_errors("an upload"):
        # Files of its own: what a job keeps and what an upload has are not dropped for the same reasons.
        return UploadStore(folder.uploads / "unfinished", FileStore(folder.uploads / "complete"), limits)


def _limits(settings: Settings) -> Limits:
    return Limits(
        waiting=settings.queue_capacity,
        memory=settings.queue_mib * 2**20,
        per_client=settings.client_jobs,
    )
