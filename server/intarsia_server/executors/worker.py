"""What a worker does, whatever process it is in: loads the encoder once, then runs one request after another."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from intarsia_server import ops
from intarsia_server.engine.automatic import Classifier
from intarsia_server.engine.cancel import Cancelled
from intarsia_server.engine.capabilities import (
    describe_device,
    memory_allowed,
    memory_held,
    resolve_precision,
    torch_dtype,
)
from intarsia_server.engine.cost.memory import job_budget, largest_buffer, peak_memory, tile_pixels_for
from intarsia_server.engine.cost.speed import Speedometer
from intarsia_server.engine.cost.work import Size, job_work
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.errors import CancelledError, InvalidInputError, WeightsUnavailableError
from intarsia_server.engine.evaluation.evaluate import evaluate
from intarsia_server.engine.evaluation.inputs import decode_evaluation_inputs
from intarsia_server.engine.events import StepDone, TransferEvent, TransferWarning
from intarsia_server.engine.images import Pixels, encode, fit_longer_side, resize
from intarsia_server.engine.inputs import Inputs, decode_inputs
from intarsia_server.engine.known_pictures import KnownPictures
from intarsia_server.engine.label_answer import answer_segmentation
from intarsia_server.engine.label_finder import Tools
from intarsia_server.engine.request import (
    EvaluationRequest,
    ImageFormat,
    Precision,
    SegmentationRequest,
    TransferRequest,
)
from intarsia_server.engine.stages import StageDone, StageStarted
from intarsia_server.engine.target_cache import TargetCache
from intarsia_server.engine.tile_share import Crew, Place
from intarsia_server.engine.transfer import TransferShare, describe, transfer
from intarsia_server.engine.weights import load_weights
from intarsia_server.executors.base import (
    EvaluatedEvent,
    ExecutionCancelledError,
    ExecutorInfo,
    ExecutorStartError,
    OutOfMemoryError,
    PreviewEvent,
    ProgressEvent,
    ResultEvent,
    ResumedEvent,
    SegmentedEvent,
)
from intarsia_server.executors.calibration import calibrate
from intarsia_server.executors.checkpoints import CheckpointWriter, read_checkpoint
from intarsia_server.executors.messages import Failed, Holding, Learned, RunCommand, WorkerConfig, WorkerMessage
from intarsia_server.executors.stopwatch import Stopwatch

log = logging.getLogger(__name__)

PREVIEW_SIDE = 320

HOLDING_STEPS = (1, 10)
"""Of a stage, counted from its start or from where it is taken up again, after which the GPU memory is told: the first
has taken the most, later ones may have become a graph."""


LARGEST_KEPT = 2**30
"""Bytes: glibc takes the number as an int, and the largest tiles' buffers would not fit in one."""


def start_worker(config: WorkerConfig) -> Worker:
    """Loads the encoder and finds out how fast the device is.

    Raises:
        ExecutorStartError: the worker cannot start; the message says why.
    """
    keep_memory()
    try:
        return Worker(config)
    except (WeightsUnavailableError, RuntimeError) as error:
        _log_cause(error)
        raise ExecutorStartError(str(error)) from error


def keep_memory(most: int = LARGEST_KEPT) -> None:
    """Tells glibc to keep freed memory: a step frees and takes the same buffers, and fresh pages cost more than it.

    Args:
        most: bytes of the largest buffers that are kept, no more than `LARGEST_KEPT`; larger ones come from the system
            and go back to it. Where a job is done in tiles, those of the whole picture are best apart from those of
            tiles: what lasts longer lies among what comes and goes, and leaves holes that nothing fits in.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # not glibc
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, min(most, LARGEST_KEPT))
    mallopt(trim_threshold, 2**31 - 1)


def release_memory(device: torch.device) -> None:
    """Returns freed memory to the system, or to the device, for once."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


@dataclass
class Worker:
    """Runs requests on one device.

    Args:
        config: of the worker.
        gather: has other workers get ready for their shares of a transfer's tiles; None: there are none.

    Raises:
        WeightsUnavailableError, RuntimeError: it cannot start.
    """

    config: WorkerConfig
    gather: Callable[[TransferRequest, Inputs, int], Crew] | None = None
    info: ExecutorInfo = field(init=False)
    _device: torch.device = field(init=False)
    _classifier: Classifier = field(init=False)
    _encoders: dict[tuple[str, Precision], Encoder] = field(init=False, default_factory=dict)
    _targets: TargetCache = field(init=False)
    _known: KnownPictures = field(init=False, default_factory=KnownPictures)
    _speedometers: dict[Precision, Speedometer] = field(init=False)

    def __post_init__(self) -> None:
        self._device = torch.device(self.config.device)
        self._targets = TargetCache(self.config.target_cache_bytes)
        if self._device.type == "cpu":
            torch.set_num_threads(self.config.threads)
        self._classifier = Classifier(
            files=self.config.segmentation_files, allow_download=self.config.allow_download, device=self._device
        )
        default = resolve_precision(Precision.AUTO, self._device)
        self._speedometers = calibrate(self._encoder(self.config.encoder, default), default)
        release_memory(self._device)
        self.info = ExecutorInfo(
            devices=(describe_device(self._device),),
            ops=ops.IMPLEMENTATION,
            default_precision=default,
            speeds={precision: meter.speed for precision, meter in self._speedometers.items()},
            idle_memory=memory_held(self._device),
            memory_budget=self.config.memory_bytes or memory_allowed(self._device),
        )

    def run(
        self,
        command: RunCommand,
        cancelled: Cancelled,
        send: Callable[[WorkerMessage], None],
        on_checkpoint: Callable[[Path], None] | None = None,
    ) -> None:
        """Runs one request; whatever goes wrong with it is sent, never raised, except that `send` has no receiver.

        Args:
            command: what to run.
            cancelled: whether to stop; polled with each step.
            send: takes what happens.
            on_checkpoint: as of `CheckpointWriter`.
        """
        log.debug("%s begins", command.request.kind)
        try:
            self._carry_out(command, cancelled, send, on_checkpoint)
        except CancelledError:
            send(Failed(ExecutionCancelledError()))
        except (InvalidInputError, WeightsUnavailableError) as error:
            _log_cause(error)
            send(Failed(error))
        except (torch.OutOfMemoryError, MemoryError):
            send(Failed(OutOfMemoryError("not enough memory on the device for a picture of this size")))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            log.exception("%s failed", command.request.kind)
            send(Failed(RuntimeError(f"the {command.request.kind} failed on the server")))

    def share(self, request: TransferRequest, inputs: Inputs, tile_pixels: int, place: Place) -> TransferShare:
        """A share of another worker's transfer, whose encoder this one has or loads.

        Raises:
            WeightsUnavailableError: it cannot.
        """
        encoder = self._encoder(request.encoder, request.precision)
        keep_memory(largest_buffer(request.precision, tile_pixels))
        return TransferShare(request, inputs, encoder, tile_pixels=tile_pixels, place=place, targets=self._targets)

    def _carry_out(
        self,
        command: RunCommand,
        cancelled: Cancelled,
        send: Callable[[WorkerMessage], None],
        on_checkpoint: Callable[[Path], None] | None,
    ) -> None:
        match command.request:
            case TransferRequest() as request:
                self._transfer(request, command.checkpoint, on_checkpoint, cancelled, send)
            case EvaluationRequest() as request:
                self._evaluate(request, cancelled, send)
            case SegmentationRequest() as request:
                tools = self._tools(cancelled)
                send(SegmentedEvent(answer_segmentation(request, max_pixels=self.config.max_pixels, tools=tools)))

    def _tools(self, cancelled: Cancelled) -> Tools:
        return Tools(classify=self._classifier, cancelled=cancelled, known=self._known)

    def _evaluate(
        self, request: EvaluationRequest, cancelled: Cancelled, send: Callable[[WorkerMessage], None]
    ) -> None:
        inputs = decode_evaluation_inputs(request, max_pixels=self.config.max_pixels, tools=self._tools(cancelled))
        encoder = self._encoder(request.encoder, Precision.FP32)
        send(EvaluatedEvent(evaluate(inputs, encoder, cancelled=cancelled)))

    def _transfer(
        self,
        request: TransferRequest,
        path: Path | None,
        on_checkpoint: Callable[[Path], None] | None,
        cancelled: Cancelled,
        send: Callable[[WorkerMessage], None],
    ) -> None:
        began = time.perf_counter()
        precision = resolve_precision(request.precision, self._device)
        request = replace(request, precision=precision)
        text = describe(request, _versions())
        fingerprint = hashlib.sha256(text["intarsia"].encode()).hexdigest()
        resume = None if path is None else read_checkpoint(path, fingerprint)
        stages: list[StageDone] = []
        if resume is not None:
            send(ResumedEvent(resume.so_far.stage, resume.so_far.steps))
            stages += resume.earlier
        is_whole = resume is None
        inputs = decode_inputs(request, max_pixels=self.config.max_pixels, tools=self._tools(cancelled))
        encoder = self._encoder(request.encoder, precision)
        stopwatch = Stopwatch()
        height, width = inputs.labels.shape
        tile_pixels = self._tile_pixels(request, (width, height), send if is_whole else _say_nothing)
        crew = None
        if tile_pixels is None:
            keep_memory()
        else:
            keep_memory(largest_buffer(precision, tile_pixels))
            if self.gather is not None:
                crew = self.gather(request, inputs, tile_pixels)
        steps = stopwatch.watch(
            transfer(
                request,
                inputs,
                encoder,
                cancelled=cancelled,
                targets=self._targets,
                resume=resume,
                tile_pixels=tile_pixels,
                crew=crew,
            )
        )
        del resume  # the transfer lets go of its tensors, too, before the first step
        with CheckpointWriter(path, fingerprint, self.config.checkpoint_seconds, on_checkpoint) as writer:
            pixels = _report(steps, request.preview_interval, stages, writer, cancelled, self._telling_memory(send))
        image = encode(pixels, request.output.format, quality=request.output.quality, text=text)
        if is_whole and crew is None:  # the rest of a job, or one with help, says nothing of how long a job takes
            outside = time.perf_counter() - began - sum(stage.seconds for stage in stages)
            meter = self._speedometers[precision]
            stopwatch.teach(meter, job_work(request, (width, height), stopwatch.areas, tile_pixels), outside)
            send(Learned(precision, meter.speed))
        send(ResultEvent(image, request.output.format, width, height, tuple(stages)))

    def _telling_memory(self, send: Callable[[WorkerMessage], None]) -> Callable[[WorkerMessage], None]:
        """A `send` that tells early in each stage, too, what is held of the GPU's memory."""
        if self._device.type != "cuda":
            return send
        steps: Counter[str] = Counter()

        def telling(message: WorkerMessage) -> None:
            if isinstance(message, ProgressEvent):
                steps[message.stage] += 1
                if steps[message.stage] in HOLDING_STEPS:
                    send(Holding(memory_held(self._device)))
            send(message)

        return telling

    def _tile_pixels(self, request: TransferRequest, size: Size, warn: Callable[[TransferWarning], None]) -> int | None:
        """The most that the encoder may see at a time; warns where that does not keep the job within its memory."""
        memory = request.optimization.memory_bytes or self.info.memory_budget
        if memory is None:
            return None
        loaded = (request.encoder, request.precision) == (self.config.encoder, self.info.default_precision)
        estimate = partial(peak_memory, request, size, precision=request.precision, loaded=loaded)
        tile_pixels = tile_pixels_for(estimate, size, job_budget(memory))
        if (needed := estimate(tile_pixels=tile_pixels) - job_budget(memory)) > 0:
            message = f"even in the smallest tiles the job takes about {needed >> 20} MiB more than it may"
            warn(TransferWarning("memory_exceeded", message))
        return tile_pixels

    def _encoder(self, name: str, precision: Precision) -> Encoder:
        key = (name, precision)
        if key not in self._encoders:
            weights = load_weights(name, files=self.config.encoder_files, allow_download=self.config.allow_download)
            self._encoders[key] = Encoder(weights, device=self._device, precision=torch_dtype(precision))
        return self._encoders[key]


def _report(
    steps: Generator[TransferEvent, None, Pixels],
    preview_interval: int,
    stages: list[StageDone],
    writer: CheckpointWriter,
    cancelled: Cancelled,
    send: Callable[[WorkerMessage], None],
) -> Pixels:
    """Runs a transfer, sends what happens, adds the stages' summaries to `stages`, and returns the result."""
    pace = _Pace()
    while True:
        try:
            event = next(steps)
        except StopIteration as stop:
            pixels: Pixels = stop.value
            return pixels
        match event:
            case StageStarted() | TransferWarning():
                send(event)
            case StageDone():
                stages.append(event)
            case StepDone():
                send(
                    ProgressEvent(
                        stage=event.stage,
                        step=event.step,
                        total_steps=event.steps,
                        losses=event.losses,
                        total_loss=event.total,
                        fraction=event.fraction,
                        eta_seconds=pace.eta(event.fraction),
                        converged=event.converged,
                    )
                )
                if preview_interval and event.step % preview_interval == 0:
                    send(PreviewEvent(event.stage, event.step, _preview(event.image())))
                writer.offer(event.checkpoint, cancelled)


def _say_nothing(warning: TransferWarning) -> None:
    """A job that goes on has been warned."""


def _log_cause(error: Exception) -> None:
    """The cause may name a file of the server's, which is for its operator alone; so it does not cross to the front."""
    if isinstance(error, WeightsUnavailableError) and error.__cause__ is not None:
        log.warning("%s: %s", error, error.__cause__)


class _Pace:
    """Estimates the time to the end from the steps so far; the first one carries warm-up and does not count."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def eta(self, fraction: float) -> float | None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, fraction)
            return None
        began, done_before = self._first
        return (now - began) / (fraction - done_before) * (1 - fraction)


def _preview(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    if max(width, height) > PREVIEW_SIDE:
        pixels = resize(pixels, *fit_longer_side(width, height, PREVIEW_SIDE))
    return encode(pixels, ImageFormat.JPEG, quality=88)


def _versions() -> dict[str, str]:
    return {
        "intarsia": importlib.metadata.version("intarsia"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
