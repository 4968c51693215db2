"""What all pipelines' jobs and steps have in common, as whoever drives them sees it."""

import gc
import inspect
import weakref

import numpy as np
import pytest
import torch

import pyengine
from pyengine import ops
from pyengine.errors import CancelledError, NotFiniteError, OutOfMemoryError, RequestError
from pyengine.ops import _memory, _replay
from pyengine.pipelines import Run, StopSampling, steps

KINDS = ("sd1", "amused", "image_gpt", "janus")


@pytest.fixture(params=KINDS)
def made(opened, request):
    """(pipeline, arguments of a call of 6 steps)"""
    return opened(request.param)


# --- jobs -----------------------------------------------------------------------------------------


def test_any_series_of_jobs_will_do_and_one_job_is_none(made):
    pipe, call = made
    jobs = pipe.prepare(pipe.request(**call))
    pipe.step(job for job in jobs)
    pipe.step(tuple(jobs))
    pipe.step([])
    assert jobs[0].steps == 2
    with pytest.raises(RequestError, match=r"^jobs: expected a list of jobs, given '\w+Job'"):
        pipe.step(jobs[0])


@pytest.mark.parametrize("shared", [False, True], ids=["own generators", "one generator"])
def test_a_step_that_memory_did_not_suffice_for_may_be_taken_again(made, shared, monkeypatch):
    """Also by fewer jobs at a time; what was drawn for it is drawn once."""
    pipe, call = made
    call = {**call, "num_images_per_prompt": 2}
    if "scheduler" in inspect.signature(pipe.__call__).parameters:
        call["scheduler"] = "euler_ancestral"

    def fail(*args, **kwargs):
        raise MemoryError

    def given():
        return {"seed": None, "generator": torch.Generator().manual_seed(3)} if shared else {}

    whole = pipe(**{**call, **given()}).images
    jobs = pipe.prepare(pipe.request(**{**call, **given()}))
    while jobs[0].active:
        with monkeypatch.context() as patch:
            patch.setattr(_memory, "empty", fail)
            patch.setattr(torch, "empty", fail)
            words = "fewer jobs in a step would help"
            # What was recorded has its memory.
            with _replay.unrecorded(), pytest.raises(OutOfMemoryError, match=words):
                pipe.step(jobs)
        pipe.step(jobs[1:])
        pipe.step(jobs[:1])
    assert torch.equal(torch.stack([pipe.finish(job) for job in jobs]), whole)


def test_an_interrupt_ends_no_jobs_that_somebody_steps(made, monkeypatch):
    pipe, call = made
    jobs = pipe.prepare(pipe.request(**call))
    inner = type(pipe)._step
    monkeypatch.setattr(type(pipe), "_step", lambda *given: pipe.interrupt() or inner(*given))
    pipe.step(jobs)
    assert jobs[0].active
    assert jobs[0].steps == 1


def test_an_error_is_raised_as_often_as_it_is_asked_for_and_pins_no_job(made):
    pipe, call = made
    gc.collect()
    gc.disable()
    try:
        (job,) = pipe.prepare(pipe.request(**call))
        pipe.step([job])
        job.error = NotFiniteError("spoilt")
        pipe.step([job])
        assert job.steps == 1
        for _ in range(2):
            with pytest.raises(NotFiniteError, match=r"^spoilt$"):
                pipe.finish(job)
        gone = weakref.ref(job)
        del job
        assert gone() is None
    finally:
        gc.enable()


def test_a_callback_finishes_a_picture_that_it_has_cancelled(made):
    pipe, call = made
    finished = []

    def callback(pipe, step, timestep, tensors):
        if step == 2:
            with pytest.raises(RequestError, match="complete or cancelled, given one that is at"):
                pipe.finish(pipe.jobs[0])
            pipe.jobs[0].cancel()
            finished.append(pipe.finish(pipe.jobs[0]))

    result = pipe(**call, callback_on_step_end=callback)
    assert result.report.steps == 3
    assert torch.equal(finished[0], result.images[0])


def test_a_picture_that_is_cancelled_between_a_look_and_a_step(made, monkeypatch):
    """By another thread, just after its call has seen that it is active."""
    pipe, call = made
    advance = steps.advance

    def late(pipe, call):
        if call.jobs[0].steps == 2:
            call.jobs[0].cancel()
        return advance(pipe, call)

    monkeypatch.setattr(steps, "advance", late)
    result = pipe(**call)
    assert (result.report.steps, result.report.interrupted) == (2, True)
    assert [step.step for step in pipe.steps(**call)] == [0, 1]


def test_jobs_of_another_pipeline(made, opened):
    pipe, call = made
    jobs = pipe.prepare(pipe.request(**call))
    for kind in KINDS:
        other, _ = opened(kind)
        if other is pipe:
            continue
        with pytest.raises(RequestError, match=r"^jobs: expected jobs that this pipeline prepared"):
            other.step(jobs)
    same = type(pipe).from_pipe(pipe)  # whose parts may be exchanged
    with pytest.raises(RequestError, match=r"^job: expected jobs that this pipeline prepared"):
        same.finish(jobs[0])


@pytest.mark.parametrize("name", ["StableDiffusionInpaintPipeline", "AmusedInpaintPipeline"])
def test_a_request_of_a_class_for_one_task_has_what_the_task_needs(opened, name):
    pipe, call = opened("amused" if name.startswith("Amused") else "sd1")
    task = getattr(pyengine, name).from_pipe(pipe)
    for ask in (task, task.request, task.steps):
        with pytest.raises(RequestError, match=f"^image: a {name} needs one, given none"):
            ask(**call)


# --- steps ----------------------------------------------------------------------------------------


def test_steps_that_cannot_begin(made):
    """The reason is given once; then there is nothing."""
    pipe, call = made
    run = Run()
    run.interrupt()
    steps = pipe.steps(**call, run=run)
    with pytest.raises(CancelledError, match="before its run began"):
        next(steps)
    assert next(steps, None) is None
    with pytest.raises(CancelledError, match="before its first step"):
        _ = steps.output
    assert steps.jobs == ()


def test_steps_say_all_kernels_that_ran(made):
    pipe, call = made
    whole = pipe(**call).report
    steps = pipe.steps(**call)
    next(steps)
    with ops.force("reference", "linear"):
        next(steps)
    list(steps)
    found = steps.output.report.kernels
    assert found.keys() == whole.kernels.keys()
    assert set(found["linear"].split(", ")) == {"reference", *whole.kernels["linear"].split(", ")}


def test_steps_end_with_their_callback_their_run_and_their_jobs(made):
    pipe, call = made

    def stop(pipe, step, timestep, tensors):
        if step == 1:
            raise StopSampling

    assert [step.step for step in pipe.steps(**call, callback_on_step_end=stop)] == [0, 1]
    run = Run()
    seen = []
    for step in pipe.steps(**call, run=run):
        seen.append(step.step)
        run.interrupt()
    assert seen == [0]
    steps = pipe.steps(**call)
    for step in steps:
        step.jobs[0].cancel()
        cancelled = pipe.finish(step.jobs[0])
    assert step.step == 0
    assert torch.equal(cancelled, steps.output.images[0])
    assert steps.output is steps.output


def test_what_a_step_holds_is_a_copy(made):
    """Writing to it changes no picture, and later steps do not write to it."""
    pipe, call = made
    whole = pipe(**call)
    steps, seen = pipe.steps(**call), []
    for step in steps:
        assert (step.latents != 0).any()
        seen.append(step.latents.zero_())
    assert all((latents == 0).all() for latents in seen)
    assert torch.equal(steps.output.images, whole.images)


def test_a_preview_is_the_picture_of_these_latents(made, monkeypatch):
    """In its turn, as a run, and whatever the caller has set in torch."""
    pipe, call = made
    turns, preview = [], type(pipe)._preview

    def seen(pipe, *given):
        turns.append(pipe._runs.in_progress())
        return preview(pipe, *given)

    monkeypatch.setattr(type(pipe), "_preview", seen)
    for step in pipe.steps(**call):
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            shown = step.preview("pt")
    whole = pipe(**{**call, "output_type": "pt"}).images
    assert torch.equal(shown, whole)
    assert None not in turns
    assert len(turns) == step.step + 1
    assert [np.asarray(picture).shape for picture in step.preview()] == [
        step.preview("np")[0].shape
    ]
    with pytest.raises(RequestError, match=r"^output_type: expected one of pil, np, pt, given 'j"):
        step.preview("jpeg")
    with pytest.raises(RequestError, match=r"^output_type: expected one of pil, np, pt, given 'la"):
        step.preview("latent")
