"""Runs that begin in the middle, and known latents put back, as diffusers' pipelines do them."""

import pytest
import torch
from sampler_runs import SHAPE, config_of, distance, draw, model, our_run, their_run, theirs

from pyengine.errors import RequestError
from pyengine.schedules import SAMPLER_NAMES, from_config

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


#: diffusers' IPNDM cannot begin from a picture.
BEGIN_ANYWHERE = [name for name in SAMPLER_NAMES if name != "ipndm"]


def their_timesteps(scheduler, steps: int, strength: float):
    """What diffusers' image-to-image and inpainting pipelines leave of a run."""
    kept = min(int(steps * strength), steps)
    begin = (steps - kept) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def noised(scheduler, clean, noise, timesteps):
    """`clean` at the noise level of these timesteps."""
    if hasattr(scheduler, "scale_noise"):  # of flow matching
        return scheduler.scale_noise(clean, timesteps, noise)
    return scheduler.add_noise(clean, noise, timesteps)


def clean_latents() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(42))


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("name", BEGIN_ANYWHERE)
def test_image_to_image(name, strength):
    for prediction, steps in (("epsilon", 20), ("v_prediction", 33)):
        config = config_of(name, prediction_type=prediction)
        scheduler = theirs(config)
        scheduler.set_timesteps(steps)
        timesteps = their_timesteps(scheduler, steps, strength)
        rng, noise = draw(1)
        x = noised(scheduler, clean_latents(), noise, timesteps[:1].repeat(SHAPE[0]))
        want = their_run(scheduler, x, rng, timesteps)

        plan = from_config(config).plan(steps, strength=strength)
        assert plan.timesteps == timesteps.tolist()
        assert sum(plan.ends_step) == plan.num_steps == int(steps * strength)
        ours_rng, noise = draw(1)
        state = plan.start(noise, clean_latents())
        assert distance(state.x, x) < 1e-6
        assert distance(our_run(plan, state, ours_rng), want) < 1e-5
        assert torch.equal(rng.get_state(), ours_rng.get_state())


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", BEGIN_ANYWHERE)
def test_inpainting_with_a_plain_unet(name, strength):
    steps = 12
    config = config_of(name)
    scheduler = theirs(config)
    scheduler.set_timesteps(steps)
    timesteps = their_timesteps(scheduler, steps, strength)
    plan = from_config(config).plan(steps, strength=strength)
    rng, noise = draw(1)
    ours_rng, _ = draw(1)
    clean = clean_latents()
    mask = (torch.arange(5) > 2).float().expand(1, 1, 6, 5)
    x, state = noised(scheduler, clean, noise, timesteps[:1]), plan.start(noise, clean)
    for i, t in enumerate(timesteps):
        x = their_run(scheduler, x, rng, [t])
        known = clean
        if i < len(timesteps) - 1:
            known = noised(scheduler, clean, noise, torch.tensor([timesteps[i + 1]]))
        x = (1 - mask) * known + mask * x

        out = model(plan.scale_input(i, state.x), plan.timesteps[i])
        fresh = torch.randn(SHAPE, generator=ours_rng) if plan.draws_noise[i] else None
        state = plan.step(i, state, out, noise=fresh)
        state = plan.keep_known(i, state, clean, noise, mask)
        assert distance(state.x, x) < 1e-5, f"evaluation {i}"
    assert torch.equal(state.x[..., :3], clean[..., :3])


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_steps_end_where_diffusers_moves_its_progress_bar(name):
    for steps in (1, 2, 9):
        plan = from_config(config_of(name)).plan(steps)
        scheduler = theirs(config_of(name))
        scheduler.set_timesteps(steps)
        length, order = len(scheduler.timesteps), scheduler.order
        warm_up = length - steps * order
        assert plan.ends_step == [
            i == length - 1 or (i + 1 > warm_up and (i + 1) % order == 0) for i in range(length)
        ]
        assert sum(plan.ends_step) == steps


@pytest.mark.parametrize("strength", [0.0, 0.01, -0.5, 1.01, float("nan"), "0.5", None, True])
def test_strength_out_of_range(strength):
    with pytest.raises(RequestError, match="strength"):
        from_config(config_of("ddim")).plan(20, strength=strength)
