"""Every method through a real server: which events come, in which order, and what they say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import FEW_STEPS, Outcome, run_job, tiny_request

METHODS = tuple(FEW_STEPS)
WHOLE = {(name, None) for name in ("content", "tv")}
STYLES = {("style", 0), ("style", 1), ("style", 2)}

STAGES: dict[str, dict[str, tuple[int, set[tuple[str, int | None]]]]] = {
    "gatys": {"vanilla": (3, WHOLE | {("style", 0)})},
    "masked_gram": {"masked gram": (3, WHOLE | STYLES)},
    "sequential": {
        "vanilla": (2, {("content", None), ("style", 0)}),
        "segment 1": (2, {("content", None), ("style", 1)}),
        "segment 2": (2, {("content", None), ("style", 2)}),
        "smoothing": (2, {("tv", None)}),
    },
    "sequential_smooth": {
        "vanilla": (2, {("content", None), ("style", 0)}),
        "segment 1": (2, {("content", None), ("style", 1)}),
        "segment 2": (2, {("content", None), ("style", 2)}),
        "smoothing": (3, WHOLE | {("style", 0)}),
        "border smoothing": (2, {("border tv", None)}),
    },
    "single_shot": {"single shot": (3, WHOLE | {("style", None), ("surrogate", None)})},
    "blended": {"blend": (3, WHOLE | STYLES | {("border style", None), ("border tv", None)})},
}
"""Per method its stages in order, each with its steps and its losses by name and segment."""


@pytest.fixture(scope="module")
def outcomes(stub: StyleTransferServiceStub) -> dict[str, Outcome]:
    def request(method: str) -> pb.StylizeRequest:
        request = tiny_request(method)
        request.preview_interval = 2
        return request

    return {method: run_job(stub, request(method)) for method in METHODS}


@pytest.fixture(params=METHODS)
def outcome(outcomes: dict[str, Outcome], request: pytest.FixtureRequest) -> Outcome:
    return outcomes[request.param]


@pytest.fixture
def stages(outcome: Outcome, outcomes: dict[str, Outcome]) -> dict[str, tuple[int, set[tuple[str, int | None]]]]:
    return next(STAGES[method] for method, other in outcomes.items() if other is outcome)


def test_events_come_in_order(outcome: Outcome) -> None:
    kinds = outcome.kinds
    assert kinds[:2] == ["accepted", "stage"]
    assert kinds[-2:] == ["result", "completed"]
    assert set(kinds[1:-2]) == {"stage", "progress", "preview"}
    assert [response.sequence for response in outcome.responses] == list(range(1, len(kinds) + 1))
    times = [response.event_time.ToNanoseconds() for response in outcome.responses]
    assert times == sorted(times)
    assert times[0] > 0


def test_accepted_says_what_is_coming(outcome: Outcome) -> None:
    (accepted,) = outcome.of("accepted")
    assert accepted.job_id
    assert accepted.request_id
    assert accepted.queue_position == 0
    assert (accepted.width, accepted.height) == pictures.CONTENT_SIZE


def test_stages_and_steps(outcome: Outcome, stages: dict[str, tuple[int, Any]]) -> None:
    announced = [(stage.stage, stage.index, stage.stage_count, stage.total_steps) for stage in outcome.of("stage")]
    assert announced == [(name, index, len(stages), steps) for index, (name, (steps, _)) in enumerate(stages.items())]
    done = [(progress.stage, progress.step, progress.total_steps) for progress in outcome.of("progress")]
    assert done == [(name, step, steps) for name, (steps, _) in stages.items() for step in range(1, steps + 1)]
    # A stage's progress comes between its own announcement and the next one's.
    current = ""
    for response in outcome.responses:
        current = response.stage.stage or current
        if response.HasField("progress"):
            assert response.progress.stage == current


def test_fraction_and_time_to_the_end(outcome: Outcome) -> None:
    progress = outcome.of("progress")
    assert [round(event.fraction * len(progress), 9) for event in progress] == list(range(1, len(progress) + 1))
    assert not progress[0].HasField("eta")
    assert progress[-1].eta.ToNanoseconds() == 0
    assert all(event.HasField("eta") for event in progress[1:])


def test_losses_by_name_and_segment(outcome: Outcome, stages: dict[str, tuple[int, set[Any]]]) -> None:
    for progress in outcome.of("progress"):
        _, expected = stages[progress.stage]
        assert len(progress.losses) == len(expected)
        assert {(x.name, x.segment if x.HasField("segment") else None) for x in progress.losses} == expected
        assert all(math.isfinite(loss.value) and loss.value >= 0 for loss in progress.losses)
        assert progress.total_loss == pytest.approx(sum(loss.value for loss in progress.losses), rel=1e-4)
        assert progress.total_loss > 0


def test_losses_do_not_rise_within_a_stage(outcome: Outcome) -> None:
    totals: dict[str, list[float]] = {}
    for progress in outcome.of("progress"):
        totals.setdefault(progress.stage, []).append(progress.total_loss)
    for values in totals.values():
        assert values == sorted(values, reverse=True)


def test_previews_at_every_second_step(outcome: Outcome, stages: dict[str, tuple[int, Any]]) -> None:
    previews = outcome.of("preview")
    expected = [(name, step) for name, (steps, _) in stages.items() for step in range(2, steps + 1, 2)]
    assert [(preview.stage, preview.step) for preview in previews] == expected
    for preview in previews:
        image = pictures.opened(preview.image.data)
        assert image.format == "JPEG"
        assert image.size == pictures.CONTENT_SIZE


def test_result_is_a_picture_of_the_promised_size(outcome: Outcome) -> None:
    assert outcome.result.format == pb.IMAGE_FORMAT_PNG
    assert outcome.result.chunk_count == 0
    image = pictures.opened(outcome.image)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", pictures.CONTENT_SIZE)
    assert outcome.image != pictures.content()


def test_completed_sums_up_the_stages(outcome: Outcome, stages: dict[str, tuple[int, Any]]) -> None:
    (completed,) = outcome.of("completed")
    assert [(stage.stage, stage.steps) for stage in completed.stages] == [(n, s) for n, (s, _) in stages.items()]
    last = {progress.stage: progress for progress in outcome.of("progress")}
    for stage in completed.stages:
        assert stage.final_total_loss == last[stage.stage].total_loss
        assert list(stage.final_losses) == list(last[stage.stage].losses)
        assert stage.run_time.ToNanoseconds() > 0
    assert completed.run_time.ToNanoseconds() >= sum(stage.run_time.ToNanoseconds() for stage in completed.stages)


def test_methods_give_different_pictures(outcomes: dict[str, Outcome]) -> None:
    assert len({outcome.image for outcome in outcomes.values()}) == len(METHODS)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "blended"])
def test_paper_runs_with_explicit_steps(
    stub: StyleTransferServiceStub, outcomes: dict[str, Outcome], method: str
) -> None:
    request = tiny_request(method)
    request.paper = True
    outcome = run_job(stub, request)
    totals = [(stage.stage, stage.total_steps) for stage in outcome.of("stage")]
    assert totals == [(name, steps) for name, (steps, _) in STAGES[method].items()]
    assert all(math.isfinite(progress.total_loss) for progress in outcome.of("progress"))
    assert outcome.image != outcomes[method].image


@pytest.mark.parametrize(("paper", "default"), [(False, ("blend", 50)), (True, ("single shot", 1500))])
def test_default_method(stub: StyleTransferServiceStub, paper: bool, default: tuple[str, int]) -> None:
    request = tiny_request()
    request.ClearField("method")
    request.paper = paper
    responses = stub.Stylize(request, timeout=60)
    stage = next(response.stage for response in responses if response.HasField("stage"))
    responses.cancel()
    assert (stage.stage, stage.total_steps) == default


def test_converged_stages_end_early(stub: StyleTransferServiceStub) -> None:
    """Where nothing is wanted but the content, and it is started from, no step lowers the objective."""
    request = tiny_request("sequential", style_weight=0.0)
    request.sequential.ClearField("steps")
    request.optimization.start = pb.START_CONTENT
    request.optimization.until = pb.UNTIL_CONVERGED
    outcome = run_job(stub, request)
    caps = dict.fromkeys(("vanilla", "segment 1", "segment 2"), 500) | {"smoothing": 2}
    assert {stage.stage: stage.total_steps for stage in outcome.of("stage")} == caps
    progress = outcome.of("progress")
    assert all(step.total_steps == caps[step.stage] for step in progress)
    fractions = [step.fraction for step in progress]
    assert fractions == sorted(set(fractions))
    assert fractions[-1] == 1
    last = {step.stage: step for step in progress}
    (completed,) = outcome.of("completed")
    assert {stage.stage: stage.steps for stage in completed.stages} == {name: last[name].step for name in caps}
    assert all(last[name].step < 50 for name in caps)
    converged = {name: name != "smoothing" for name in caps}
    assert {stage.stage: stage.converged for stage in completed.stages} == converged
    assert [step.converged for step in progress] == [
        step is last[step.stage] and converged[step.stage] for step in progress
    ]
    parameters = json.loads(pictures.opened(outcome.image).text["intarsia"])  # type: ignore[attr-defined]
    assert parameters["optimization"]["until"] == "converged"
    assert parameters["parameters"]["steps"] == 500


@pytest.mark.parametrize(
    ("method", "paper", "steps", "cap"),
    [("gatys", False, None, 500), ("gatys", False, 7, 7), ("gatys", True, None, 1000), ("single_shot", True, 7, 7)],
)
def test_most_steps_of_a_stage_that_may_converge(
    stub: StyleTransferServiceStub, method: str, paper: bool, steps: int | None, cap: int
) -> None:
    request = tiny_request(method)
    getattr(request, method).ClearField("steps")
    if steps is not None:
        getattr(request, method).steps = steps
    request.paper = paper
    request.optimization.until = pb.UNTIL_CONVERGED
    responses = stub.Stylize(request, timeout=60)
    stage = next(response.stage for response in responses if response.HasField("stage"))
    responses.cancel()
    assert stage.total_steps == cap


def test_capped_gradients_give_another_picture(stub: StyleTransferServiceStub, outcomes: dict[str, Outcome]) -> None:
    assert run_job(stub, tiny_request(capped_gradients=True)).image != outcomes["masked_gram"].image


def test_background_chooses_the_style(stub: StyleTransferServiceStub, outcomes: dict[str, Outcome]) -> None:
    outcome = run_job(stub, tiny_request("gatys", background=2))
    assert {loss.segment for loss in outcome.of("progress")[0].losses if loss.name == "style"} == {2}
    assert outcome.image != outcomes["gatys"].image


def test_large_pictures_have_small_previews(stub: StyleTransferServiceStub) -> None:
    request = tiny_request(steps=1, coarse_steps=0)
    request.output.size = 360
    request.preview_interval = 1
    outcome = run_job(stub, request)
    (preview,) = outcome.of("preview")
    assert pictures.opened(preview.image.data).size == (320, 213)
    assert pictures.opened(outcome.image).size == (360, 240)
