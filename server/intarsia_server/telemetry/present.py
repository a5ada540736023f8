"""How things stand: read when somebody asks, never kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from intarsia_server.executors.base import WorkerStatus
from intarsia_server.jobs.model import Job, JobState

WORKER = ("worker", "device")


class Present(Collector):
    """Queue and workers as they are.

    Args:
        jobs: those that wait or run, as one value: it is asked for in another thread.
        capacity: how many may wait.
        workers: as of `Executor.workers`.
    """

    def __init__(
        self, jobs: Callable[[], tuple[Job, ...]], capacity: int, workers: Callable[[], Iterable[WorkerStatus]]
    ) -> None:
        self._jobs = jobs
        self._capacity = capacity
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Reads all of it anew."""
        states = [job.state for job in self._jobs()]
        yield GaugeMetricFamily("intarsia_queued_jobs", "Jobs that wait.", states.count(JobState.QUEUED))
        yield GaugeMetricFamily("intarsia_running_jobs", "Jobs being worked on.", states.count(JobState.RUNNING))
        yield GaugeMetricFamily("intarsia_queue_capacity", "Jobs that may wait.", self._capacity)
        up = GaugeMetricFamily("intarsia_worker_up", "Whether the worker has a process.", labels=WORKER)
        restarts = CounterMetricFamily("intarsia_worker_restarts", "Processes that replaced one.", labels=WORKER)
        resident = GaugeMetricFamily("intarsia_worker_resident_memory_bytes", "Of the worker's process.", labels=WORKER)
        device = GaugeMetricFamily(
            "intarsia_worker_gpu_memory_bytes", "That the worker held on its GPU when it last said so.", labels=WORKER
        )
        for index, worker in enumerate(self._workers()):
            labels = (str(index), worker.device)
            up.add_metric(labels, worker.pid is not None)
            restarts.add_metric(labels, worker.restarts)
            resident.add_metric(labels, worker.resident_memory)
            if worker.device_memory:
                device.add_metric(labels, worker.device_memory)
        yield from (up, restarts, resident, device)
