"""Runs that begin or end in the middle by SDXL's denoising_start and denoising_end."""

import pytest
import torch
from sampler_runs import SHAPE, SLACK, config_of, distance, draw, model, our_run, their_run, theirs

from pyengine.errors import RequestError
from pyengine.schedules import SAMPLER_NAMES, State, from_config

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def their_cut(scheduler, start: float | None, end: float | None) -> torch.Tensor:
    """The timesteps that StableDiffusionXLImg2ImgPipeline visits."""
    train, timesteps = scheduler.config.num_train_timesteps, scheduler.timesteps
    begin = 0
    if start is not None:
        cutoff = round(train - start * train)
        left = (timesteps < cutoff).sum().item()
        if scheduler.order == 2 and left % 2 == 0:
            left += 1
        begin = len(timesteps) - left
        timesteps = timesteps[begin:]
    if end is not None:
        cutoff = round(train - end * train)
        timesteps = timesteps[: len([t for t in timesteps if t >= cutoff])]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return timesteps


CUTS = [(None, 0.8), (0.8, None), (0.31, None), (None, 0.05), (0.3, 0.66)]


@pytest.mark.parametrize(("start", "end"), CUTS)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_cut_run(name, start, end):
    for steps in (3, 10, 25):
        scheduler = theirs(config_of(name))
        scheduler.set_timesteps(steps)
        timesteps = their_cut(scheduler, start, end)
        ask = {"denoising_start": start, "denoising_end": end}
        if len(timesteps) == 0:
            with pytest.raises(RequestError, match="denoising_"):
                from_config(config_of(name)).plan(steps, **ask)
            continue
        plan = from_config(config_of(name)).plan(steps, strength=0.5 if start else 1.0, **ask)
        assert plan.timesteps == timesteps.tolist()
        theirs_rng, x = draw(steps)
        ours_rng, _ = draw(steps)
        x = x * plan.init_noise_sigma if start is None else x * plan.level[1] + plan.level[0]
        want = their_run(scheduler, x, theirs_rng, timesteps)
        got = our_run(plan, State(x), ours_rng)
        assert torch.equal(ours_rng.get_state(), theirs_rng.get_state())
        within = SLACK.get(name, {}).get("within", 5e-6)
        within = max(within, 1e-7 * plan.init_noise_sigma)
        assert distance(got, want) <= within
        assert sum(plan.ends_step) == plan.num_steps >= 1
        assert plan.ends_step[-1]


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "unipc", "dpmpp_2m", "pndm"])
def test_base_and_refiner_meet(name):
    """What the base leaves out is what the refiner begins with."""
    for share in (0.2, 0.5, 0.8, 0.95):
        whole = from_config(config_of(name)).plan(30)
        base = from_config(config_of(name)).plan(30, denoising_end=share)
        refiner = from_config(config_of(name)).plan(30, denoising_start=share)
        cutoff = round(1000 - share * 1000)
        assert all(t >= cutoff for t in base.timesteps)
        assert base.timesteps == whole.timesteps[: len(base)]
        assert refiner.timesteps == whole.timesteps[refiner.begin :]
        # A second-order step is not begun in its middle: its first half may be run twice.
        assert refiner.begin == len(base) - (refiner.order == 2 and len(base) % 2)


def test_a_whole_run_ends_at_one():
    plan = from_config(config_of("ddim")).plan(7, denoising_end=1.0)
    assert len(plan) == 7


@pytest.mark.parametrize("name", ["denoising_start", "denoising_end"])
@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.5, float("nan"), "0.5", True, [0.5]])
def test_shares_out_of_range(name, value):
    with pytest.raises(RequestError, match=name):
        from_config(config_of("euler")).plan(20, **{name: value})


def test_shares_that_leave_nothing():
    plan = from_config(config_of("euler")).plan
    with pytest.raises(RequestError, match=r"denoising_start.*less than denoising_end 0.4"):
        plan(20, denoising_start=0.6, denoising_end=0.4)
    with pytest.raises(RequestError, match="denoising_start"):
        plan(20, denoising_start=1.0)
    with pytest.raises(RequestError, match="denoising_end"):
        plan(2, denoising_end=0.0001)


def test_known_latents_of_a_cut_run_end_clean():
    """diffusers' inpainting puts clean latents back after the last step that it runs."""
    plan = from_config(config_of("ddim")).plan(10, denoising_end=0.6)
    clean, noise = torch.ones(SHAPE), torch.randn(SHAPE)
    state = plan.start(noise, clean)
    for i, t in enumerate(plan.timesteps):
        state = plan.step(i, state, model(plan.scale_input(i, state.x), t))
        state = plan.keep_known(i, state, clean, noise, torch.zeros(1, 1, 6, 5))
    assert torch.equal(state.x, clean)
