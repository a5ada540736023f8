"""The Ray executor: one detached actor per device, on this computer or anywhere in a cluster."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from intarsia_server.executors.base import ExecutorStartError
from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.pool import PoolExecutor

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES, WITH_HELPERS = 100 * 2**20, 512 * 2**20
"""Of a cluster of our own. Only pictures pass through it, and what does not fit goes to the disk; helpers get a large
picture's parts as floats with each step."""

CONNECT_SECONDS = 10.0

OWN_CLUSTER = {
    # Ray's own choice is the lowest: workers would stand behind everything else on this computer.
    "RAY_worker_niceness": "0",
    # A busy computer takes more than the usual half minute.
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_raylet_start_wait_time_s": "300",
}
"""Settings of Ray's for a cluster of our own, unless somebody has set them."""

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has a cluster's processes listen on loopback alone, as elsewhere than on Linux; no argument of Ray's does."""


class RayExecutor(PoolExecutor):
    """One actor per configuration.

    Args:
        configs: of the workers.
        address: of the cluster's head, or "auto"; "": a cluster of its own is started on this computer, on loopback.
        namespace: in which the actors have their names; an actor that is there already is ended.
        helpers: actors beside each worker, with a device like its own, that see some of its large pictures' tiles.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, configs: Sequence[WorkerConfig], *, address: str, namespace: str, helpers: int = 0) -> None:
        # A call that comes after the end must not start a cluster.
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
        if not address:
            os.environ.update(LOOPBACK)
        # Not before: Ray reads that as it is imported.
        from intarsia_server.executors.ray_worker import RayWorker, Surroundings

        self._configs = configs
        self._address = address
        self._namespace = namespace
        # One for each worker: a start waits for its turn to be carried out, and the others must not wait for it.
        self._surroundings = Surroundings(ThreadPoolExecutor(len(configs), thread_name_prefix="intarsia-ray"), helpers)
        # The cluster's processes end with the thread that has started them: it must last.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="intarsia-cluster")
        super().__init__(
            [partial(RayWorker, config, f"worker-{index}", self._surroundings) for index, config in enumerate(configs)]
        )

    async def start(self, on_ready: Callable[[bool], None]) -> None:
        """Joins the cluster, or starts one, and then its workers."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._starter, self._connect)
        except Exception as error:  # Ray's have nothing in common
            cause = str(error.__cause__ or "").strip()
            raise ExecutorStartError(
                f"no Ray cluster: {error}. {cause[cause.rfind(chr(10)) + 1 :]}".rstrip(". ")
            ) from error
        # Ray has put a handler before Python's that prints a stack.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        await super().start(on_ready)

    async def stop(self) -> None:
        """Ends the actors, and the cluster if it is its own."""
        await super().stop()
        await asyncio.get_running_loop().run_in_executor(self._starter, self._disconnect)
        self._surroundings.threads.shutdown(wait=False)
        self._starter.shutdown(wait=False)

    def _connect(self) -> None:
        import ray

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        logging.getLogger("ray").setLevel(logging.ERROR)
        join = partial(ray.init, namespace=self._namespace, log_to_driver=False, configure_logging=False)
        if self._address:
            _check_listens(self._address)
            join(self._address)
            return
        for name, value in OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        # Else Ray would leave one in the home folder, for all clusters of this user.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        self._surroundings.folder = tempfile.mkdtemp(prefix="intarsia-ray-")
        gpus = [config for config in self._configs if config.device.startswith("cuda")]
        together = 1 + self._surroundings.helpers
        join(
            "local",
            num_cpus=together * sum(1 if config in gpus else config.threads for config in self._configs),
            num_gpus=together * len(gpus),
            include_dashboard=False,
            object_store_memory=WITH_HELPERS if together > 1 else OBJECT_STORE_BYTES,
            _temp_dir=self._surroundings.folder,
        )

    def _disconnect(self) -> None:
        import ray

        ray.shutdown()
        if self._surroundings.folder is not None:
            shutil.rmtree(self._surroundings.folder, ignore_errors=True)


def _check_listens(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
