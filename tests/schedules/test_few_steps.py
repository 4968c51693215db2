"""Runs of distilled models: own timesteps, another spacing, and LCM's reading of strength."""

import pytest
import torch
from sampler_runs import config_of, distance, draw, our_run, their_run, theirs

from pyengine.errors import RequestError
from pyengine.schedules import SAMPLER_NAMES, from_config

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

THIN = [name for name in SAMPLER_NAMES if from_config(config_of(name)).config.thins]


@pytest.mark.parametrize("original", [None, 40])
@pytest.mark.parametrize("strength", [0.11, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", THIN)
def test_strength_thins_what_the_model_was_distilled_on(name, strength, original):
    """diffusers' LatentConsistencyModelImg2ImgPipeline: all steps run, between closer timesteps."""
    for steps in (1, 2, 4, 8):
        scheduler = theirs(config_of(name))
        ours = from_config(config_of(name))
        ask = {"original_inference_steps": original, "strength": strength}
        try:
            scheduler.set_timesteps(steps, **ask)
        except ValueError:
            with pytest.raises(RequestError, match="num_inference_steps"):
                ours.plan(steps, all_steps=True, **ask)
            continue
        plan = ours.plan(steps, all_steps=True, **ask)
        assert plan.timesteps == scheduler.timesteps.tolist()
        assert (plan.num_steps, plan.begin) == (steps, 0)
        theirs_rng, noise = draw(steps)
        clean = torch.ones_like(noise)
        x = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
        want = their_run(scheduler, x, theirs_rng)
        ours_rng, _ = draw(steps)
        got = our_run(plan, plan.start(noise, clean), ours_rng)
        assert torch.equal(ours_rng.get_state(), theirs_rng.get_state())
        assert distance(got, want) < 5e-6


def test_own_timesteps_end_clean_whatever_the_strength():
    """diffusers adds noise after the last step there, as it counts the steps that were left out."""
    for name in THIN:
        own = [999, 759, 499, 259]
        plan = from_config(config_of(name)).plan(timesteps=own, strength=0.5, all_steps=True)
        assert plan.timesteps == own[2:]
        assert not plan.draws_noise[-1]


@pytest.mark.parametrize("name", [n for n in SAMPLER_NAMES if n not in THIN])
def test_other_samplers_do_not_thin(name):
    with pytest.raises(RequestError, match="all_steps"):
        from_config(config_of(name)).plan(5, strength=0.5, all_steps=True)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_spacing_in_place_of_the_configs(name, spacing):
    ours = from_config(config_of(name))
    if not ours.takes_spacing:
        with pytest.raises(RequestError, match="timestep_spacing"):
            ours.plan(4, timestep_spacing=spacing)
        return
    scheduler = theirs(config_of(name, timestep_spacing=spacing))
    for steps in (4, 8):
        scheduler.set_timesteps(steps)
        plan = ours.plan(steps, timestep_spacing=spacing)
        assert plan.timesteps == scheduler.timesteps.tolist()
        if spacing == "trailing":
            assert round(plan.timesteps[0], 6) == 999  # where Turbo, Lightning and Hyper-SD begin


@pytest.mark.parametrize("spacing", ["", "middle", 3, None, ["trailing"]])
def test_unknown_spacings(spacing):
    ours = from_config(config_of("euler"))
    if spacing is None:
        assert ours.plan(4, timestep_spacing=None).timesteps == ours.plan(4).timesteps
        return
    with pytest.raises(RequestError, match="timestep_spacing: expected one of"):
        ours.plan(4, timestep_spacing=spacing)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("kind", ["timesteps", "sigmas"])
def test_own_runs_where_diffusers_takes_them(name, kind):
    """By the signature of its set_timesteps, as its pipelines ask."""
    import inspect

    scheduler, ours = theirs(config_of(name)), from_config(config_of(name))
    takes = kind in inspect.signature(scheduler.set_timesteps).parameters
    left_out = {("unipc", "sigmas"), ("edm", "sigmas"), ("flow", "sigmas"), ("flow", "timesteps")}
    if (name.partition("_")[0], kind) in left_out:
        # For flow matching only; not sigmas but places between two of them; neither, since what is
        # given is shifted there once more.
        takes = False
    assert getattr(ours, f"takes_{kind}") == takes
    if not takes:
        with pytest.raises(
            RequestError, match=f"{kind}: {ours.name} does not take any; .*euler.* do"
        ):
            ours.plan(**{kind: [9.0, 0.0]})


def test_half_of_own_timesteps():
    """Strength counts the evaluations of own timesteps, as diffusers does."""
    own = [959, 700, 519, 99, 19]
    for name in ("heun", "euler", "dpmpp_2m"):
        for strength in (0.5, 0.8, 1.0):
            scheduler = theirs(config_of(name))
            scheduler.set_timesteps(timesteps=own)
            count = len(scheduler.timesteps)
            skip = (count - int(count * strength)) * scheduler.order
            ours = from_config(config_of(name))
            if skip >= count:
                with pytest.raises(RequestError, match="strength"):
                    ours.plan(timesteps=own, strength=strength)
                continue
            plan = ours.plan(timesteps=own, strength=strength)
            assert plan.timesteps == scheduler.timesteps[skip:].tolist()
