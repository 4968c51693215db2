"""unCLIP's sampler against diffusers' UnCLIPScheduler, told the next timestep as pipelines do."""

import inspect
from dataclasses import fields

import pytest
import torch
from sampler_runs import SHAPE, model

from pyengine.errors import ConfigError, RequestError
from pyengine.schedules.config import UnCLIPConfig
from pyengine.schedules.rows import AT
from pyengine.schedules.unclip import plan


def theirs(dtype=torch.float32, **config):
    from diffusers import UnCLIPScheduler

    scheduler = UnCLIPScheduler(**config)
    for name in ("betas", "alphas", "alphas_cumprod", "one"):
        setattr(scheduler, name, getattr(scheduler, name).to(dtype))
    return scheduler


def predict(x, t, channels):
    out = model(x, t)
    return out if channels == x.shape[1] else torch.cat([out, torch.sin(3 * x + 0.01 * t)], dim=1)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("variance", ["fixed_small_log", "learned_range"])
@pytest.mark.parametrize("clip", [{}, {"clip_sample_range": 5.0}, {"clip_sample": False}])
@pytest.mark.parametrize("steps", [2, 7, 25, 1000])
def test_diffusers_samples(prediction, variance, clip, steps):
    keys = {"prediction_type": prediction, "variance_type": variance, **clip}
    scheduler = theirs(torch.float64, **keys)
    scheduler.set_timesteps(steps)
    ours = plan(UnCLIPConfig.from_dict({"_class_name": "UnCLIPScheduler", **keys}), steps)
    assert ours.timesteps == scheduler.timesteps.tolist()
    channels = SHAPE[1] * (2 if variance == "learned_range" else 1)
    rng = torch.Generator().manual_seed(steps)
    want = noise = torch.randn(SHAPE, generator=rng, dtype=torch.float64)
    before = rng.get_state()
    for i, t in enumerate(scheduler.timesteps):
        following = None if i + 1 == steps else scheduler.timesteps[i + 1]
        out = predict(want, float(t), channels)
        want = scheduler.step(out, t, want, following, rng).prev_sample
    rng.set_state(before)
    state = ours.start(noise)
    for i, t in enumerate(ours.timesteps):
        fresh = None
        if ours.draws_noise[i]:
            fresh = torch.randn(SHAPE, generator=rng, dtype=torch.float64)
        state = ours.step(i, state, predict(state.x, float(t), channels), noise=fresh)
    assert float((state.x - want).norm() / want.norm()) < 1e-9


def test_defaults_and_keys_are_diffusers():
    from diffusers import UnCLIPScheduler

    signature = inspect.signature(UnCLIPScheduler.__init__).parameters
    wanted = {name: p.default for name, p in signature.items() if name != "self"}
    assert {f.name: f.default for f in fields(UnCLIPConfig)} == wanted


def test_float32_as_saved():
    """The tables are diffusers' float32 ones: the last step counts less than 1 of the clean."""
    ours = plan(UnCLIPConfig(), 25)
    scheduler = theirs()
    beta, rest = float(scheduler.betas[0]), float(1 - scheduler.alphas_cumprod[0])
    assert ours.rows[-1][AT["x_d"]] == pytest.approx(beta / rest, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 0, -3, 1001, 2.0, True, None, "25"])
def test_wrong_numbers_of_steps(steps):
    with pytest.raises(RequestError, match="num_inference_steps: expected 2 to 1000, given"):
        plan(UnCLIPConfig(), steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "DDPMScheduler"}, "_class_name is 'DDPMScheduler', expected UnCLIPSch"),
        ({"variance_type": "learned"}, "variance_type is 'learned', expected 'fixed_small_log'"),
        ({"prediction_type": "v_prediction"}, "prediction_type is 'v_prediction'"),
        ({"beta_schedule": "linear"}, "beta_schedule is 'linear'"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps is"),
        ({"clip_sample_range": 0}, "clip_sample_range is 0"),
        ({"ratio": 2}, "unknown keys 'ratio'"),
    ],
)
def test_refused_configs(change, message):
    with pytest.raises(ConfigError, match=message):
        UnCLIPConfig.from_dict(change)
