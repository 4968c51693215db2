"""guidance_start, guidance_end: guided between these shares of the steps alone."""

import diffusers
import pytest
import tiny
import torch
from pairs import generators

import pyengine
from pyengine.errors import RequestError

PROMPTS = ["a red heart", "two cats"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("interval")
    return tiny.write_sd1(place / "sd", unet={"layers_per_block": 1})


@pytest.fixture(scope="module")
def pipe(folder):
    return pyengine.from_pretrained(folder, device="cpu")


def draw(pipe, **call):
    return pipe(
        **{
            "prompt": PROMPTS,
            "seed": [7, 8],
            "height": 64,
            "width": 64,
            "num_inference_steps": 5,
            "guidance_scale": 4.0,
            "output_type": "latent",
            "scheduler": "ddim",
            **call,
        }
    ).images


@torch.no_grad()
def loop(folder, begin, end):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    text, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    side = 64 // pipe.vae_scale_factor
    x = torch.cat([torch.randn((1, 4, side, side), generator=g) for g in generators([7, 8])])
    scheduler.set_timesteps(5)
    for i, t in enumerate(scheduler.timesteps):
        noise = pipe.unet(x, t, text).sample
        if begin <= i < end:
            away = pipe.unet(x, t, negative).sample
            noise = away + 4.0 * (noise - away)
        x = scheduler.step(noise, t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("interval", "steps"), [((0.2, 0.6), (1, 3)), ((0, 0.5), (0, 3)), ((0.5, 1), (3, 5))]
)
def test_pictures_are_a_loops(folder, pipe, interval, steps):
    """The step that begins at a share of the steps below the end is guided."""
    want = loop(folder, *steps)
    got = draw(pipe, guidance_start=interval[0], guidance_end=interval[1])
    assert float((got - want).norm() / want.norm()) < 1e-4
    assert float((got - draw(pipe)).norm() / want.norm()) > 0.004


def test_the_ends(pipe):
    assert torch.equal(draw(pipe, guidance_start=0, guidance_end=1), draw(pipe))
    unguided = draw(pipe, guidance_scale=1.0)
    assert torch.equal(draw(pipe, guidance_start=0.3, guidance_end=0.3), unguided)


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "euler_ancestral"])
def test_outside_a_picture_takes_one_row(pipe, monkeypatch, scheduler):
    rows, evaluate = [], pipe.unet.evaluate

    def counted(x, times, context):
        rows.append(len(x))
        return evaluate(x, times, context)

    monkeypatch.setattr(pipe.unet, "evaluate", counted)
    draw(pipe, guidance_start=0.2, guidance_end=0.6, scheduler=scheduler)
    each = [2, 4, 4, 2, 2]
    if scheduler == "heun":  # both evaluations of a step alike; the last step has one
        each = [n for n in each for _ in range(2)][:-1]
    assert rows == each


def test_bits_alone_and_beside_others(pipe):
    calls = [
        {
            "guidance_start": 0.2 * k,
            "guidance_end": 0.5 + 0.1 * k,
            "guidance_scale": 2.0 + k,
            "num_inference_steps": 3 + k,
            "prompt": PROMPTS[k % 2],
            "seed": k,
            "height": 64,
            "width": 64,
            "output_type": "latent",
            "scheduler": ("ddim", "heun")[k % 2],
        }
        for k in range(4)
    ]
    wanted = [pipe(**call).images for call in calls]
    jobs = [pipe.prepare(pipe.request(**call))[0] for call in calls]
    while active := [job for job in jobs if job.active]:
        pipe.step(active)
    for job, want in zip(jobs, wanted, strict=True):
        assert torch.equal(pipe.finish(job).reshape(want.shape), want)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"guidance_start": -0.1}, "guidance_start: expected a number from 0 to 1, given -0.1"),
        ({"guidance_end": 1.5}, "guidance_end: expected a number from 0 to 1, given 1.5"),
        ({"guidance_start": 0.7, "guidance_end": 0.5},
         "guidance_start: expected at most guidance_end 0.5, given 0.7"),
    ],
)  # fmt: skip
def test_what_is_no_interval(pipe, call, text):
    with pytest.raises(RequestError, match=text):
        draw(pipe, **call)
