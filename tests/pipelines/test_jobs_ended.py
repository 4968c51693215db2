"""Pictures in the making that are cancelled, go wrong, are stepped by several threads, watched."""

import gc
import threading
import weakref

import numpy as np
import pytest
import tiny
import torch

import pyengine
from pyengine.errors import CancelledError, NotFiniteError, RequestError
from pyengine.pipelines import Run

SIZE = {"height": 48, "width": 80, "output_type": "latent"}

CALL = {"prompt": ["a cat", "a dog", "a fox"], "num_inference_steps": 4, "seed": 1, **SIZE}


def prepared(pipe, **more):
    return pipe.prepare(pipe.request(**{**CALL, **more}))


def test_a_job_is_cancelled_alone(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    before, during, after = jobs = prepared(pipe)
    before.cancel()
    pipe.step(jobs)
    thread = threading.Thread(target=during.cancel)
    thread.start()
    thread.join()
    while after.active:
        pipe.step(jobs)
    after.cancel()
    assert [job.steps for job in jobs] == [0, 1, 4]
    assert [job.cancelled for job in jobs] == [True, True, False]
    assert torch.equal(pipe.finish(after), whole[2])
    assert pipe.finish(during).shape == whole[1].shape
    assert torch.isfinite(pipe.finish(before)).all()


def test_a_job_is_cancelled_by_a_callback_and_the_others_go_on(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(pipe.jobs)
        if step == 1:
            pipe.jobs[1].cancel()

    result = pipe(**CALL, callback_on_step_end=callback)
    assert [len(jobs) for jobs in seen] == [3] * 4
    assert torch.equal(result.images[0], whole[0])
    assert torch.equal(result.images[2], whole[2])
    assert not torch.equal(result.images[1], whole[1])
    assert result.report.interrupted
    assert result.report.steps == 4


def test_a_run_ends_all_its_jobs_and_no_others(pair):
    pipe = pair("sd1").own
    run = Run()
    mine, others = prepared(pipe, run=run), prepared(pipe)
    pipe.step([*mine, *others])
    run.interrupt()
    assert all(job.cancelled for job in mine)
    assert run.jobs == tuple(mine)
    while any(job.active for job in others):
        pipe.step([*mine, *others])
    assert {job.steps for job in mine} == {1}
    whole = pipe(**CALL).images
    assert all(torch.equal(pipe.finish(job), whole[k]) for k, job in enumerate(others))


def test_a_nested_call_between_steps(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    jobs = prepared(pipe)
    while any(job.active for job in jobs):
        pipe.step(jobs)
        pipe("something else", num_inference_steps=1, seed=9, **SIZE)
    assert all(torch.equal(pipe.finish(job), whole[k]) for k, job in enumerate(jobs))


def test_threads_step_their_own_jobs(pair):
    pipe = pair("sd1").own
    whole, found = pipe(**CALL).images, {}

    def work(name):
        jobs = prepared(pipe)
        while any(job.active for job in jobs):
            pipe.step(jobs)
        found[name] = torch.stack([pipe.finish(job) for job in jobs])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(latents, whole) for latents in found.values())
    assert len(found) == 3


def test_a_fault_of_one_job_ends_no_other(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    jobs = prepared(pipe)
    pipe.step(jobs)
    jobs[1].batch.state.x[1, 0, 0, 0] = float("nan")
    while any(job.active for job in jobs):
        pipe.step(jobs)
    with pytest.raises(NotFiniteError, match=r"unet: .* NaN in picture 1 at step 1 \(timestep"):
        pipe.finish(jobs[1])
    assert torch.equal(pipe.finish(jobs[0]), whole[0])
    assert torch.equal(pipe.finish(jobs[2]), whole[2])


def test_pictures_of_each_kind(pair):
    pipe = pair("sd1").own
    for output_type in ("pil", "np", "pt", "latent"):
        call = {**CALL, "output_type": output_type, "num_inference_steps": 1}
        jobs = pipe.prepare(pipe.request(**call))
        pipe.step(jobs)
        for job, want in zip(jobs, pipe(**call).images, strict=True):
            assert np.array_equal(np.asarray(pipe.finish(job)), np.asarray(want))


def test_what_is_refused(pair):
    pipe, other = pair("sd1").own, pair("sd2").own
    jobs = prepared(pipe)
    with pytest.raises(RequestError, match="job: expected one that is complete or cancelled"):
        pipe.finish(jobs[0])
    with pytest.raises(RequestError, match="jobs: expected each of them once"):
        pipe.step([jobs[0], jobs[0]])
    with pytest.raises(RequestError, match="jobs: expected jobs that this pipeline prepared"):
        other.step(jobs)
    with pytest.raises(RequestError, match=r"jobs: expected what pipe.prepare\(...\) gives"):
        pipe.step(["a"])
    with pytest.raises(RequestError, match=r"request: expected what pipe.request\(...\) gives"):
        pipe.prepare("a cat")
    with pytest.raises(RequestError, match="num_inference_steps"):
        pipe.request("a cat", num_inference_steps=0)
    with pytest.raises(RequestError, match="hieght"):
        pipe.request("a cat", hieght=8)
    with pytest.raises(RequestError, match="request: "):
        pipe.request(*range(99))
    run = Run()
    request = pipe.request(**CALL, run=run)
    pipe.prepare(request)
    with pytest.raises(RequestError, match="run: expected a Run of its own"):
        pipe.prepare(request)
    run = Run()
    run.interrupt()
    with pytest.raises(CancelledError):
        pipe.prepare(pipe.request(**CALL, run=run))


def test_jobs_of_a_pipeline_that_was_moved(tmp_path):
    folder = tiny.write_sd1(tmp_path / "sd1", unet={"layers_per_block": 1})
    pipe = pyengine.from_pretrained(folder, device="cpu")
    jobs = prepared(pipe)
    pipe.step(jobs)
    pipe.to(torch.bfloat16)
    with pytest.raises(RequestError, match="jobs: expected jobs prepared since the pipeline was"):
        pipe.step(jobs)
    jobs[0].cancel()
    with pytest.raises(RequestError, match="job: expected jobs prepared since"):
        pipe.finish(jobs[0])
    assert all(job.active for job in prepared(pipe))


def test_jobs_let_go_of_their_memory(pair):
    """No reference cycle: what is not held is freed at once."""
    pipe = pair("sd1").own
    gc.collect()
    gc.disable()
    try:
        jobs = prepared(pipe)
        pipe.step(jobs)
        pipe.step(jobs[1:])
        gone = [weakref.ref(job) for job in jobs]
        gone += [weakref.ref(jobs[0].batch), weakref.ref(jobs[1].batch)]
        gone.append(weakref.ref(jobs[0].conditions))
        del jobs
        assert [there() for there in gone] == [None] * len(gone)
    finally:
        gc.enable()


# --- watched --------------------------------------------------------------------------------------


def test_steps_one_by_one(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL)
    seen = []
    steps = pipe.steps(**CALL)
    for step in steps:
        seen.append(step)
        pipe("something else", num_inference_steps=1, seed=9, **SIZE)
    assert [step.step for step in seen] == [0, 1, 2, 3]
    assert [step.timestep for step in seen] == pipe.scheduler.plan(4).timesteps
    assert torch.equal(seen[-1].latents, whole.images)
    assert not torch.equal(seen[0].latents, seen[1].latents)
    assert torch.equal(steps.output.images, whole.images)
    assert steps.output.report.steps == 4
    assert not steps.output.report.interrupted
    assert steps.output.report.kernels == whole.report.kernels
    assert [p.size for p in seen[0].preview()] == [(80, 48)] * 3


def test_steps_that_are_left(pair):
    pipe = pair("sd1").own
    steps = pipe.steps(**CALL)
    for step in steps:
        if step.step == 1:
            break
    output = steps.output
    assert torch.equal(output.images, step.latents)
    assert output.report.interrupted
    assert output.report.steps == 2
    assert next(steps, None) is None
    with pytest.raises(CancelledError):
        pipe.steps(**CALL).output  # noqa: B018 - ended before its first step
    run = Run()
    for _ in pipe.steps(**CALL, run=run):
        run.interrupt()
    assert {job.steps for job in run.jobs} <= {1}


def test_steps_with_a_callback(pair):
    pipe = pair("sd1").own
    got = []

    def callback(pipe, step, timestep, tensors):
        got.append((step, timestep, len(pipe.jobs)))
        pipe._guidance_scale = 1.0

    call = {**CALL, "callback_on_step_end": callback}
    assert torch.equal(list(pipe.steps(**call))[-1].latents, pipe(**call).images)
    assert got[:4] == got[4:]
