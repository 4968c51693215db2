"""DDPM with a variance that the model predicts, against diffusers'."""

import numpy as np
import pytest
import torch
from sampler_runs import (
    SHAPE,
    WIDENED,
    config_of,
    distance,
    draw,
    model,
    their_run,
    theirs,
)

from pyengine.errors import ConfigError
from pyengine.ops import COLUMNS
from pyengine.schedules import State, from_config, stack_rows, step_rows

KINDS = ("learned", "learned_range")
AT = {name: i for i, name in enumerate(COLUMNS)}


def predicting(kind, shift=0.0):
    """The model, and in as many channels more what it says of the variance."""

    def predict(x, t):
        said = torch.sin(3 * x + 0.01 * float(t) + shift)
        if kind == "learned":
            said = 0.01 * (1.1 + said)  # a variance itself
        return torch.cat([model(x, t), said], dim=1)

    return predict


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diffusers_samples(kind, prediction, dtype):
    for keys in ({}, {"clip_sample": True}, {"thresholding": True}):
        config = config_of("ddpm", variance_type=kind, prediction_type=prediction, **keys)
        for steps in (1, 2, 12, 50):
            scheduler = theirs(config)
            scheduler.set_timesteps(steps)
            if dtype == torch.float64:
                for attribute in WIDENED["DDPMScheduler"]:
                    setattr(scheduler, attribute, getattr(scheduler, attribute).double())
            plan = from_config(config).plan(steps)
            assert plan.variance == kind
            theirs_rng, noise = draw(steps, dtype)
            want = their_run(scheduler, noise, theirs_rng, predict=predicting(kind))
            ours_rng, noise = draw(steps, dtype)
            got = our_run_of(plan, plan.start(noise), ours_rng, predicting(kind))
            assert torch.equal(ours_rng.get_state(), theirs_rng.get_state())
            assert distance(got, want) < (1e-9 if dtype == torch.float64 else 1e-6)


def our_run_of(plan, state, generator, predict):
    """our_run, whose noise is like the sample and not like the output."""

    def fresh(i):
        if plan.draws_noise[i]:
            return torch.randn(state.x.shape, generator=generator, dtype=state.x.dtype)
        return None

    for i, t in enumerate(plan.timesteps):
        state = plan.step(i, state, predict(plan.scale_input(i, state.x), t), noise=fresh(i))
    return state.x


def test_the_variance_matters():
    config = config_of("ddpm", variance_type="learned_range")
    plan = from_config(config).plan(12)
    runs = []
    for shift in (0.0, 1.0):
        rng, noise = draw(1)
        runs.append(our_run_of(plan, plan.start(noise), rng, predicting("learned_range", shift)))
    assert distance(*runs) > 0.01


def test_a_guided_pictures_variance_is_the_conditional_rows():
    """As diffusers' IFPipeline has it: guidance of the first half, the text's second half."""
    plan = from_config(config_of("ddpm", variance_type="learned_range")).plan(9)
    _, x = draw(2)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    uncond, cond = (predicting("learned_range", s)(x, 500) for s in (0.0, 1.0))
    got = plan.step(3, State(x), torch.cat([uncond, cond]), guidance_scale=4.0, noise=noise).x
    c = x.shape[1]
    guided = uncond[:, :c] + 4.0 * (cond - uncond)[:, :c]
    alone = torch.cat([guided, cond[:, c:]], dim=1)
    want = plan.step(3, State(x), alone, noise=noise).x
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_pictures_of_all_kinds_share_a_batch():
    """Each has the bits that it has alone, where it draws by its own rule."""
    plans = [from_config(config_of("ddpm", variance_type=kind)).plan(9) for kind in KINDS]
    plans.append(from_config(config_of("euler_ancestral")).plan(9))
    _, x = draw(2)
    x = x[[0, 1, 0]]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    outs = [predicting(kind)(x[i : i + 1], 500) for i, kind in enumerate((*KINDS, KINDS[0]))]
    steps = [2, 5, 3]
    together = step_rows(
        State(x), torch.cat(outs), stack_rows(list(zip(plans, steps, strict=True))), noise
    ).x
    for i, (plan, step) in enumerate(zip(plans, steps, strict=True)):
        here = slice(i, i + 1)
        out = outs[i] if plan.variance else outs[i][:, : x.shape[1]]
        alone = plan.step(step, State(x[here]), out, noise=noise[here]).x
        assert torch.equal(alone, together[here])


def test_the_last_step_draws_nothing():
    row = from_config(config_of("ddpm", variance_type="learned_range", steps_offset=0)).plan(9)
    assert np.all(row.rows[-1, [AT["x_noise"], AT["v_1"], AT["v_v"]]] == 0)
    assert np.all(row.rows[:-1, AT["x_noise"]] == 1)


def test_a_model_without_a_variance_is_refused():
    plan = from_config(config_of("ddpm", variance_type="learned_range")).plan(9)
    _, x = draw(2)
    with pytest.raises(ConfigError, match=r"'learned_range' is for models .* 8 channels, got"):
        plan.step(0, State(x), x, noise=x)
    with pytest.raises(ValueError, match="expected output of 2 or 4 pictures"):
        from_config(config_of("ddpm")).plan(9).step(0, State(x), torch.cat([x, x], 1), noise=x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples_beside_a_model_in_float32(dtype):
    plan = from_config(config_of("ddpm", variance_type="learned_range")).plan(9)
    _, x = draw(2)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)).to(dtype)
    out = predicting("learned_range")(x, 500)
    want = plan.step(3, State(x.to(dtype).float()), out, noise=noise.float()).x
    got = plan.step(3, State(x.to(dtype)), out, noise=noise).x
    assert torch.equal(got, want.to(dtype))
