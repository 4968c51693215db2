"""Jobs of aMUSEd: whoever shares a step, each picture is the one that its call draws alone."""

import gc
import random
import threading
import weakref

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_cuda_calls import Recorder

import pyengine
from pyengine.decoding import masked
from pyengine.errors import CancelledError, NotFiniteError, OutOfMemoryError, RequestError
from pyengine.pipelines import Run

PROMPTS = ["a red heart", "a photo of the big blue house in style"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tiny.write_amused(tmp_path_factory.mktemp("checkpoints") / "amused")
    return pyengine.from_pretrained(folder, device="cpu")


def picture():
    y, x = np.mgrid[0:12, 0:12]
    channels = (x / 11, y / 11, ((x // 4 + y // 4) % 2))
    return Image.fromarray((np.stack(channels, axis=-1) * 255).astype(np.uint8))


def hole():
    pixels = np.zeros((12, 12), np.uint8)
    pixels[3:9, 5:12] = 255
    return Image.fromarray(pixels)


CALLS = [
    {"prompt": PROMPTS[0], "num_inference_steps": 12},
    {"prompt": PROMPTS[1], "num_inference_steps": 3, "guidance_scale": 1.0},
    {"prompt": "a cat", "num_inference_steps": 7, "guidance_scale": 3.5, "top_k": 7,
     "negative_prompt": "a blue dog"},
    {"prompt": "a dog", "num_inference_steps": 9, "image": picture(), "strength": 0.7},
    {"prompt": "a dog", "num_inference_steps": 5, "image": picture(), "mask_image": hole(),
     "guidance_scale": 1.0, "top_p": 0.8},
    {"prompt": "x", "num_inference_steps": 4, "prefix": list(range(9)), "min_p": 0.02},
    {"prompt": "two cats", "num_inference_steps": 6, "temperature": (0.5, 3.0),
     "micro_conditioning_aesthetic_score": 3},
    {"prompt": PROMPTS[0], "num_inference_steps": 8, "height": 8, "width": 16, "top_k": 7},
]  # fmt: skip


def calls(**more):
    return [{**call, "seed": k, "output_type": "pt", **more} for k, call in enumerate(CALLS)]


def prepare(pipe, **call):
    """The only job of a call."""
    (job,) = pipe.prepare(pipe.request(**call))
    return job


@pytest.fixture(scope="module")
def alone(pipe):
    """Of each of `calls`, what the call gives."""
    return [pipe(**call) for call in calls()]


def drive(pipe, pending, chance):
    """Steps jobs to the end, which join at random ticks; returns how many shared a step."""
    running, shared = [], []
    while pending or running:
        while pending and (not running or chance.random() < 0.5):
            running.insert(chance.randrange(len(running) + 1), pending.pop())
        chance.shuffle(running)
        pipe.step(running)
        shared.append(len(running))
        running = [job for job in running if job.active]
    return shared


@pytest.mark.parametrize("seed", range(6))
def test_each_job_is_the_picture_of_its_call(pipe, alone, seed):
    chance = random.Random(seed)
    jobs = [prepare(pipe, **call) for call in calls()]
    pending = list(jobs)
    chance.shuffle(pending)
    shared = drive(pipe, pending, chance)
    assert max(shared) > 2
    for job, want in zip(jobs, alone, strict=True):
        assert job.complete
        assert job.steps == job.evaluations == want.report.steps
        assert torch.equal(job.result, want.tokens[0])
        assert torch.equal(pipe.finish(job), want.images[0])


def test_by_graphs_too(pipe, alone, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(pipe, "graphs", masked.TransformerGraphs(pipe.model, recorder))
    jobs = [prepare(pipe, **call) for call in calls()]
    drive(pipe, list(jobs), random.Random(1))
    for job, want in zip(jobs, alone, strict=True):
        assert torch.equal(pipe.finish(job), want.images[0])
    assert recorder.recorded > 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision(pipe, dtype):
    half = pyengine.from_pretrained(pipe.source, device="cpu", dtype=dtype)
    wants = [half(**call) for call in calls(num_inference_steps=3)]
    jobs = [prepare(half, **call) for call in calls(num_inference_steps=3)]
    drive(half, list(jobs), random.Random(2))
    for job, want in zip(jobs, wants, strict=True):
        assert torch.equal(half.finish(job), want.images[0])


def test_pictures_of_several_calls(pipe):
    """Of calls with two and three pictures, in any order; each has its seed and position."""
    given = [
        {"prompt": PROMPTS, "seed": [4, 9], "num_inference_steps": 4},
        {"prompt": "a cat", "num_images_per_prompt": 3, "seed": 5, "num_inference_steps": 6},
    ]
    wants = [pipe(**call) for call in given]
    groups = [pipe.prepare(pipe.request(**call)) for call in given]
    assert [(job.index, job.seed) for job in groups[1]] == [(0, 5), (1, 6), (2, 7)]
    drive(pipe, [job for group in groups for job in group], random.Random(3))
    for group, want in zip(groups, wants, strict=True):
        assert torch.equal(torch.stack([job.result for job in group]), want.tokens)
        assert all(map(np.array_equal, map(pipe.finish, group), want.images))


# --- what a step computes -------------------------------------------------------------------------


@pytest.fixture
def rows(pipe, monkeypatch):
    """The numbers of rows of the transformer's evaluations, as they come."""
    seen, logits = [], type(pipe.model).logits
    monkeypatch.setattr(
        type(pipe.model), "logits",
        lambda model, tokens, context: seen.append(len(tokens)) or logits(model, tokens, context),
    )  # fmt: skip
    return seen


def test_a_job_without_guidance_takes_one_row(pipe, rows):
    jobs = [prepare(pipe, **call) for call in calls()]
    pipe.step(jobs)
    assert sorted(rows) == [2, 12]  # the one of another size; 5 with guidance, 2 without


def test_the_conditions_of_jobs_that_stay_together_are_joined_once(pipe, monkeypatch):
    joined, make = [], masked.JoinedContext
    monkeypatch.setattr(masked, "JoinedContext", lambda jobs: joined.append(1) or make(jobs))
    first, second, third = (prepare(pipe, **calls()[k]) for k in (0, 2, 0))
    for _ in range(2):
        pipe.step([first, second])
        pipe.step([second, first])  # the order that they are given in says nothing
    assert len(joined) == 1
    pipe.step([first, second, third])
    pipe.step([third, second, first])  # of equal settings
    assert len(joined) == 2
    # A call's own jobs use its conditions as they are; keys and values take the most memory.
    jobs = pipe.prepare(pipe.request(PROMPTS, seed=1))
    pipe.step(jobs)
    assert {id(job.joined.context) for job in jobs} == {id(jobs[0].conditions.context)}
    pipe.step(jobs[1:])
    assert jobs[1].joined.context.rows == 2


def test_the_pipeline_holds_nothing_of_a_run(pipe):
    gc.disable()
    try:
        before = set(vars(pipe))
        jobs = [prepare(pipe, **call) for call in calls()[:3]]
        pipe.step(jobs)
        held = [weakref.ref(job.joined.context.layers[0][0][0]) for job in jobs]
        held += [weakref.ref(job) for job in jobs]
        assert set(vars(pipe)) == before
        del jobs
        assert [ref() for ref in held] == [None] * len(held)
    finally:
        gc.enable()


# --- one generator for several pictures -----------------------------------------------------------


def test_a_shared_generator_draws_for_the_whole_call(pipe):
    """Whichever of its jobs is stepped first, and how far."""
    call = {"prompt": PROMPTS, "num_inference_steps": 5, "image": picture()}

    def generator():
        return torch.Generator().manual_seed(7)

    want = pipe(generator=generator(), **call)
    chance = random.Random(4)
    for _ in range(3):
        jobs = pipe.prepare(pipe.request(generator=generator(), **call))
        others = [prepare(pipe, **c) for c in calls()[:2]]
        drive(pipe, [*jobs, *others], chance)
        assert torch.equal(torch.stack([job.result for job in jobs]), want.tokens)
        assert not jobs[0].numbers._drawn
    jobs = pipe.prepare(pipe.request(generator=generator(), **call))
    jobs[0].cancel()
    drive(pipe, jobs[1:], chance)
    assert torch.equal(jobs[1].result, want.tokens[1])
    assert not jobs[1].numbers._drawn


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
