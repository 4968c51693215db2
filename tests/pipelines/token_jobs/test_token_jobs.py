"""Jobs of models that draw token after token: whoever shares a step, each picture is its call's."""

import random

import pytest
import torch
from test_cuda_calls import Recorder
from token_calls import calls, drive, fitting, makers, same

import pyengine
from pyengine.decoding.recorded import TokenGraphs


@pytest.mark.parametrize("seed", range(5))
def test_each_job_is_the_picture_of_its_call(pipe, alone, seed):
    chance, made = random.Random(seed), {}
    pending = makers(pipe, calls(pipe), made)
    chance.shuffle(pending)
    shared = drive(pipe, pending, chance)
    assert max(shared) > 2
    for k, want in enumerate(alone):
        same(pipe, made[k], want)
    assert pipe.decoder.pool.held == 0


def test_by_graphs_too(pipe, alone, monkeypatch):
    """Those that draw one after another are not looked at until they are finished."""
    recorder = Recorder()
    monkeypatch.setattr(pipe, "graphs", TokenGraphs(recorder))
    made = {}
    for seed in range(3):
        drive(pipe, makers(pipe, calls(pipe), made), random.Random(seed))
        for k, want in enumerate(alone):
            assert torch.equal(pipe.finish(made[k]), want.images[0])
            assert (made[k].steps, made[k].evaluations) == (
                want.report.steps,
                want.report.evaluations,
            )
    assert recorder.recorded
    assert recorder.replayed > 3 * recorder.recorded
    assert pipe.decoder.pool.held == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision(pipe, dtype):
    half = pyengine.from_pretrained(pipe.source, device="cpu", dtype=dtype)
    wants, made = [half(**call) for call in calls(half)], {}
    drive(half, makers(half, calls(half), made), random.Random(7))
    for k, want in enumerate(wants):
        same(half, made[k], want)


@pytest.mark.parametrize("shared", [False, True])
def test_pictures_of_several_calls(pipe, shared):
    """Each has its seed and position; where one generator serves a call, its pictures draw from it
    in the call's order, though they come to their tokens at different steps.
    """
    given = [
        {"prompt": ["a red heart", "a dog"], "num_images_per_prompt": 2, "seed": [4, 9, 2, 7]},
        {
            "prompt": "a cat",
            "num_images_per_prompt": 3,
            "seed": 5,
            "decoding": "jacobi",
            "window": 3,
        },
        {"prompt": "a cat", "num_images_per_prompt": 2, "seed": 6, "guidance_scale": 1.0},
    ]
    given = [fitting(pipe, call) for call in given]
    if not pipe.takes_prompt:
        given[0]["num_images_per_prompt"] = 4

    def with_generators(call, k):
        if not shared:
            return call
        others = {name: value for name, value in call.items() if name != "seed"}
        return others | {"generator": torch.Generator().manual_seed(k)}

    wants = [pipe(**with_generators(call, k)) for k, call in enumerate(given)]
    groups = [pipe.prepare(pipe.request(**with_generators(c, k))) for k, c in enumerate(given)]
    if not shared:
        assert [(job.index, job.seed) for job in groups[1]] == [(0, 5), (1, 6), (2, 7)]
    chance = random.Random(3)
    pending = [lambda job=job: job for group in groups for job in group]
    chance.shuffle(pending)
    drive(pipe, pending, chance)
    for group, want in zip(groups, wants, strict=True):
        drawn = torch.tensor([job.tokens for job in group])
        assert torch.equal(drawn, want.tokens.flatten(1))
