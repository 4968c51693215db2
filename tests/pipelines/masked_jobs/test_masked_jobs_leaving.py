"""Jobs of aMUSEd that end early, by themselves or by a fault, and calls watched step by step."""

import random
import threading

import pytest
import torch
from masked_calls import PROMPTS, calls, drive, prepare
from test_cuda_calls import Recorder

from pyengine.decoding import masked
from pyengine.errors import CancelledError, NotFiniteError, OutOfMemoryError, RequestError
from pyengine.pipelines import Run

# --- leaving --------------------------------------------------------------------------------------


def test_cancelled_before_during_and_after(pipe, alone):
    before, during, after, other = (prepare(pipe, **calls()[k]) for k in (0, 2, 1, 6))
    before.cancel()
    for tick in range(7):
        if tick == 2:
            during.cancel()
        pipe.step([before, during, after, other])
    after.cancel()
    assert before.cancelled
    assert before.steps == 0
    assert (before.result == -1).all()
    assert pipe.finish(before).shape == (3, 12, 12)
    assert (during.cancelled, during.complete, during.steps) == (True, False, 2)
    assert (after.cancelled, after.complete) == (False, True)
    assert torch.equal(pipe.finish(after), alone[1].images[0])
    assert torch.equal(pipe.finish(other), alone[6].images[0])

    def stop(pipe, step, timestep, tensors):
        if step == 1:
            pipe.interrupt()

    stopped = pipe(**calls()[2], callback_on_step_end=stop)
    assert torch.equal(during.result, stopped.tokens[0])
    assert torch.equal(pipe.finish(during), stopped.images[0])


def test_cancelled_from_another_thread(pipe, alone):
    jobs = [prepare(pipe, **calls()[k]) for k in (0, 6)]
    begun = threading.Event()

    def cancel():
        begun.wait(30)
        jobs[0].cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    while jobs[1].active:
        pipe.step(jobs)
        if jobs[1].steps == 3:
            begun.set()
            thread.join(30)
    assert (jobs[0].steps, jobs[0].cancelled) == (3, True)
    assert torch.equal(pipe.finish(jobs[1]), alone[6].images[0])


def test_a_run_that_is_interrupted_ends_its_jobs_alone(pipe, alone):
    run = Run()
    jobs = pipe.prepare(pipe.request(PROMPTS, num_inference_steps=6, seed=3, run=run))
    other = prepare(pipe, **calls()[0])
    assert run.jobs == tuple(jobs)
    pipe.step([*jobs, other])
    run.interrupt()
    while other.active:
        pipe.step([*jobs, other])
    assert [job.steps for job in jobs] == [1, 1]
    assert all(job.cancelled for job in jobs)
    assert torch.equal(pipe.finish(other), alone[0].images[0])


def test_a_callback_cancels_one_picture_of_its_call(pipe):
    call = {"prompt": PROMPTS, "seed": [4, 9], "num_inference_steps": 5}
    want = pipe(**call)
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(tensors["tokens"].clone())
        if step == 1:
            pipe.jobs[0].cancel()

    got = pipe(callback_on_step_end=callback, **call)
    assert len(seen) == got.report.steps == 5
    assert got.report.interrupted
    assert torch.equal(got.tokens[1], want.tokens[1])
    assert torch.equal(seen[1][0], seen[4][0])
    known = seen[1][0] != pipe.mask_token
    assert torch.equal(got.tokens[0][known], seen[1][0][known])


# --- faults ---------------------------------------------------------------------------------------


def spoil(job):
    for tensor in job.conditions.context.tensors():
        tensor.fill_(torch.nan)


def test_a_fault_of_one_job_leaves_the_others(pipe, alone):
    jobs = [prepare(pipe, **call) for call in calls()[:4]]
    pipe.step(jobs)
    bad = prepare(pipe, **calls()[1])
    spoil(bad)
    drive(pipe, [*jobs, bad], random.Random(5))
    assert bad.error.__traceback__ is None  # whose frames would hold on to the job
    assert (bad.steps, bad.active, bad.complete) == (0, False, False)
    with pytest.raises(NotFiniteError, match=r"logits: .* NaN in picture 0 at step 0 "):
        pipe.finish(bad)
    for job, want in zip(jobs, alone[:4], strict=True):
        assert torch.equal(pipe.finish(job), want.images[0])


def test_a_fault_names_the_picture_of_its_call_and_its_step(pipe, monkeypatch):
    jobs = pipe.prepare(pipe.request(PROMPTS, num_inference_steps=4, seed=1))
    pipe.step(jobs)
    for tensor in jobs[1].conditions.context.tensors():
        tensor[3].fill_(torch.nan)  # its row with the prompt
    pipe.step(jobs)
    assert jobs[0].error is None
    assert str(jobs[1].error).startswith(f"{pipe.source}: logits: expected finite numbers, found")
    assert "NaN in picture 1 at step 1" in str(jobs[1].error)
    begin = type(pipe)._begin

    def spoilt(*given):
        call = begin(*given)
        for tensor in call.jobs[1].conditions.context.tensors():
            tensor[3].fill_(torch.nan)
        return call

    monkeypatch.setattr(type(pipe), "_begin", spoilt)
    with pytest.raises(NotFiniteError, match="NaN in picture 1 at step 0"):
        pipe(PROMPTS, num_inference_steps=4, seed=1)


def test_a_fault_that_no_step_waited_for_is_found_at_the_end(pipe, alone, monkeypatch):
    monkeypatch.setattr(pipe, "graphs", masked.TransformerGraphs(pipe.model, Recorder()))
    good, bad = (prepare(pipe, **calls()[k]) for k in (2, 2))
    spoil(bad)
    while good.active or bad.active:
        pipe.step([good, bad])
    with pytest.raises(NotFiniteError, match=r"logits: .* picture 0 at token 0"):
        pipe.finish(bad)
    assert torch.equal(pipe.finish(good), alone[2].images[0])


def test_a_step_without_memory_may_be_taken_again(pipe, alone, monkeypatch):
    """Random numbers that were drawn for it are kept, so the bits are the same."""
    jobs = [prepare(pipe, **calls()[k]) for k in (0, 2)]

    def too_much(*given):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(masked.ops, "mask_refine", too_much)
        with pytest.raises(OutOfMemoryError, match="fewer jobs in a step would help"):
            pipe.step(jobs)
    drive(pipe, list(jobs), random.Random(6))
    for job, k in zip(jobs, (0, 2), strict=True):
        assert torch.equal(pipe.finish(job), alone[k].images[0])


def test_what_is_refused(pipe):
    job = prepare(pipe, **calls()[0])
    with pytest.raises(RequestError, match="jobs: expected each of them once"):
        pipe.step([job, job])
    with pytest.raises(RequestError, match="jobs: expected what pipe"):
        pipe.step([1])
    with pytest.raises(RequestError, match="job: expected one that is complete or cancelled"):
        pipe.finish(job)
    with pytest.raises(RequestError, match="request: expected what pipe"):
        pipe.prepare("a cat")
    with pytest.raises(RequestError, match="num_inference_steps: "):
        pipe.request("a cat", num_inference_steps=0)


# --- watched step by step -------------------------------------------------------------------------


def test_steps(pipe, alone):
    steps = pipe.steps(**calls()[0])
    seen = []
    for step in steps:
        seen.append((step.step, step.timestep, step.latents))
        assert len(step.jobs) == 1
        pipe(**calls()[1])  # another call between two steps
        assert step.preview("pt").shape == (1, 3, 12, 12)
    assert [s[:2] for s in seen] == [(i, 11 - i) for i in range(12)]
    assert torch.equal(steps.output.tokens, alone[0].tokens)
    assert torch.equal(steps.output.images, alone[0].images)
    assert torch.equal(seen[-1][2], alone[0].tokens)
    report = steps.output.report
    assert (report.steps, report.evaluations, report.interrupted) == (12, 12, False)


def test_steps_left_early(pipe, alone):
    steps = pipe.steps(**calls()[0])
    for step in steps:
        if step.step == 4:
            preview = step.preview("pt")
            break
    output = steps.output
    assert (output.report.steps, output.report.interrupted) == (5, True)
    assert torch.equal(output.tokens, step.latents)
    assert torch.equal(output.images, preview)
    assert not list(steps)
    unbegun = pipe.steps(**calls()[0])
    with pytest.raises(CancelledError, match="before its first step"):
        unbegun.output  # noqa: B018 - a property that makes the pictures
    assert torch.equal(pipe(**calls()[0]).tokens, alone[0].tokens)
