"""How things stand: read when somebody asks, never kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from intarsia_server.executors.base import WorkerStatus
from intarsia_server.jobs.folder import Stored
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobState

WORKER = ("worker", "device")


class Present(Collector):
    """Queue, workers and data directory as they are.

    Args:
        jobs: those that wait or run, as one value: it is asked for in another thread.
        capacity: how many may wait.
        workers: as of `Executor.workers`.
        stored: as of `DataFolder.stored`.
    """

    def __init__(
        self,
        jobs: Callable[[], tuple[Job, ...]],
        capacity: int,
        workers: Callable[[], Iterable[WorkerStatus]],
        stored: Callable[[], Stored],
    ) -> None:
        self._jobs = jobs
        self._capacity = capacity
        self._workers = workers
        self._stored = stored

    def collect(self) -> Iterator[Metric]:
        """Reads all of it anew."""
        jobs = self._jobs()
        yield from self._queue(jobs)
        yield from self._processes()
        yield from self._folder(jobs)

    def _queue(self, jobs: Sequence[Job]) -> Iterator[Metric]:
        states = [job.state for job in jobs]
        memory = sum(job.memory for job in jobs if job.state is JobState.QUEUED)
        yield GaugeMetricFamily("intarsia_queued_jobs", "Jobs that wait.", states.count(JobState.QUEUED))
        yield GaugeMetricFamily("intarsia_running_jobs", "Jobs being worked on.", states.count(JobState.RUNNING))
        yield GaugeMetricFamily("intarsia_queue_capacity", "Jobs that may wait.", self._capacity)
        yield GaugeMetricFamily("intarsia_queued_memory_bytes", "That waiting jobs are estimated to take.", memory)

    def _processes(self) -> Iterator[Metric]:
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

    def _folder(self, jobs: Iterable[Job]) -> Iterator[Metric]:
        stored = self._stored()
        sizes = GaugeMetricFamily("intarsia_stored_bytes", "In the data directory.", labels=("what",))
        for what, size in stored.sizes.items():
            sizes.add_metric((what,), size)
        yield sizes
        yield GaugeMetricFamily("intarsia_storage_free_bytes", "Left where the data directory is.", stored.free)
        yield GaugeMetricFamily("intarsia_checkpoints", "Jobs that have one.", len(stored.checkpoints))
        age = GaugeMetricFamily("intarsia_checkpoint_age_seconds", "The oldest one's of a job being worked on.")
        running = (job.job_id for job in jobs if job.state is JobState.RUNNING)
        written = [stored.checkpoints[job_id] for job_id in running if job_id in stored.checkpoints]
        if written:
            age.add_metric((), max(0.0, time.time() - min(written)))
        yield age
