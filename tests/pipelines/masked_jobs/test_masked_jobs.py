"""Jobs of aMUSEd: whoever shares a step, each picture is the one that its call draws alone."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from masked_calls import PROMPTS, calls, drive, picture, prepare
from test_cuda_calls import Recorder

import pyengine
from pyengine.decoding import masked


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
        type(pipe.model),
        "logits",
        lambda model, tokens, context: seen.append(len(tokens)) or logits(model, tokens, context),
    )
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
