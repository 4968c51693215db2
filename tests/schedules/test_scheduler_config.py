"""Scheduler configs: what is taken, what is refused, how one sampler reads another's."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_runs import config_of, their_class, theirs

from pyengine.errors import ConfigError, PyengineError, RequestError
from pyengine.ops import COLUMNS
from pyengine.schedules import SAMPLER_NAMES, from_config
from pyengine.schedules.samplers import CLASSES, SAMPLERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SAVED = {
    "sd15": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
    "sd21": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "xl": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
    "bare ddpm": {"_class_name": "DDPMScheduler", "skip_prk_steps": True},
    "odd unipc": {
        "_class_name": "UniPCMultistepScheduler",
        "solver_order": 3,
        "solver_type": "bh1",
        "final_sigmas_type": "sigma_min",
        "skip_prk_steps": True,
        "beta_schedule": "squaredcos_cap_v2",
        "timestep_spacing": "trailing",
        "variance_type": "fixed_small",
    },
    "odd dpm": {
        "_class_name": "DPMSolverMultistepScheduler",
        "solver_type": "logrho",
        "algorithm_type": "deis",
        "final_sigmas_type": "sigma_min",
        "use_karras_sigmas": True,
        "clip_sample": True,
        "steps_offset": 0,
        "skip_prk_steps": True,
        "variance_type": None,
    },
}


SD = "StableDiffusionPipeline"


def agree(ours, scheduler) -> None:
    for field in dataclasses.fields(ours):
        got, want = getattr(ours, field.name), getattr(scheduler.config, field.name)
        if field.name == "lambda_min_clipped":
            got = -float("inf") if got is None else got
        if isinstance(got, tuple):
            want = tuple(want)
        assert got == want, field.name


def pipeline_with(scheduler, stable_diffusion: bool):
    """diffusers' pipeline around a scheduler and nothing else, or just the scheduler."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    if not stable_diffusion:
        return scheduler
    logging.set_verbosity_error()
    parts = dict.fromkeys(["vae", "text_encoder", "tokenizer", "unet"])
    return StableDiffusionPipeline(
        **parts,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).scheduler


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("stable_diffusion", [False, True])
@pytest.mark.parametrize("saved", SAVED)
def test_the_saved_sampler(saved, stable_diffusion):
    ours = from_config(SAVED[saved], pipeline=SD if stable_diffusion else "")
    scheduler = pipeline_with(theirs(SAVED[saved]), stable_diffusion)
    assert ours.name == CLASSES[type(scheduler).__name__]
    agree(ours.config, scheduler)
    scheduler.set_timesteps(10)
    assert ours.plan(10).timesteps == scheduler.timesteps.tolist()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("stable_diffusion", [False, True])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("saved", SAVED)
def test_another_sampler_with_the_saved_keys(saved, name, stable_diffusion):
    if name == "lms":
        pytest.importorskip("scipy", reason="diffusers computes this with SciPy")
    if (name, saved) == ("sa_solver", "odd dpm"):
        pytest.skip("diffusers refuses the saved algorithm_type, ours takes its nearest")
    cls, extra = SAMPLERS[name].class_name, SAMPLERS[name].keys
    loaded = pipeline_with(theirs(SAVED[saved]), stable_diffusion)
    scheduler = their_class(cls).from_config(loaded.config, **extra)
    ours = from_config(SAVED[saved], name, pipeline=SD if stable_diffusion else "")
    assert ours.name == name
    agree(ours.config, scheduler)
    scheduler.set_timesteps(10)
    pairs = zip(ours.plan(10).timesteps, scheduler.timesteps.tolist(), strict=True)
    # On some CPUs dpm2_ancestral's middle between very unlike sigmas is diffusers' root of a
    # rounding error below 0.
    assert [t for t, other in pairs if not (t == other or (math.isnan(other) and t > 0))] == []


def test_configs_that_diffusers_writes_can_be_read(tmp_path):
    """Every key that it saves for our classes is one that we know."""
    for name in SAMPLER_NAMES:
        theirs(config_of(name)).save_config(tmp_path)
        saved = json.loads((tmp_path / "scheduler_config.json").read_text())
        for other in SAMPLER_NAMES:
            if (name, other) == ("dpmpp_2s", "unipc"):
                with pytest.raises(ConfigError, match="lower_order_final"):  # which divides by zero
                    from_config(saved, other)
                continue
            from_config(saved, other).plan(5)


def test_every_default_is_diffusers_own():
    for name in SAMPLER_NAMES:
        sampler = SAMPLERS[name]
        keys = {**sampler.keys, "skip_prk_steps": True} if name == "pndm" else sampler.keys
        agree(sampler.config(**keys), theirs({"_class_name": sampler.class_name, **keys}))


DAMAGED = {
    "no class": ({"_class_name": None}, "_class_name"),
    "a class of no sampler": ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler"),
    "a class that is a list": ({"_class_name": ["DDIMScheduler"]}, "_class_name"),
    "an unknown key": ({"bogus": 1}, "bogus"),
    "a string for a number": ({"beta_start": "0.1"}, "beta_start"),
    "true for a number": ({"num_train_timesteps": True}, "num_train_timesteps"),
    "no training steps": ({"num_train_timesteps": 0}, "num_train_timesteps"),
    "too many training steps": ({"num_train_timesteps": 10**9}, "num_train_timesteps"),
    "half a training step": ({"num_train_timesteps": 999.5}, "num_train_timesteps"),
    "a negative beta": ({"beta_start": -0.1}, "beta_start"),
    "a beta of 1": ({"beta_end": 1.0}, "beta_end"),
    "a beta that is no number": ({"beta_end": float("nan")}, "beta_end"),
    "an infinite beta": ({"beta_end": float("inf")}, "beta_end"),
    "an unknown beta schedule": ({"beta_schedule": "cubic"}, "beta_schedule"),
    "another class's beta schedule": ({"beta_schedule": "exp"}, "beta_schedule"),
    "betas out of range": ({"trained_betas": [0.1, 1.5]}, "trained_betas"),
    "too few betas": ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
    "betas that are no list": ({"trained_betas": 0.1}, "trained_betas"),
    "an unknown prediction": ({"prediction_type": "flow_prediction"}, "prediction_type"),
    "a spacing that is no string": ({"timestep_spacing": 3}, "timestep_spacing"),
    "a negative offset": ({"steps_offset": -1}, "steps_offset"),
    "a ratio above 1": ({"dynamic_thresholding_ratio": 1.5}, "dynamic_thresholding_ratio"),
    "null for a bool": ({"thresholding": None}, "thresholding"),
    "no range to clip to": ({"clip_sample_range": 0}, "clip_sample_range"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_configs(case):
    keys, named = DAMAGED[case]
    with pytest.raises(ConfigError, match=named):
        from_config({**config_of("ddim"), **keys}).plan(5)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("pndm", {"prediction_type": "sample"}),
        ("ddpm", {"variance_type": "fixed_large_log"}),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("euler", {"use_karras_sigmas": True, "use_exponential_sigmas": True}),
        ("euler", {"use_karras_sigmas": True, "use_beta_sigmas": True}),
        ("euler", {"sigma_min": 0}),
        ("dpmpp_2m", {"solver_order": 4}),
        ("dpmpp_2m", {"solver_type": "bogus"}),
        ("dpmpp_2m", {"use_flow_sigmas": True}),
        ("dpmpp_2m", {"algorithm_type": "dpmsolver"}),
        (
            "dpmpp_2m",
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "thresholding": True},
        ),
        ("unipc", {"lower_order_final": False}),
        ("unipc", {"disable_corrector": [0.5]}),
        ("unipc", {"solver_p": {"_class_name": "DDIMScheduler"}}),
        ("euler", {"trained_betas": [0.0] * 4 + [0.1] * 6, "num_train_timesteps": 10}),
        ("heun", {"trained_betas": [1.0] * 10, "num_train_timesteps": 10}),
        ("euler", {"beta_end": 0.9, "rescale_betas_zero_snr": True}),
    ],
    ids=str,
)
def test_options_that_cannot_run(name, keys):
    with pytest.raises(ConfigError):
        from_config(config_of(name, **keys)).plan(5)


@pytest.mark.parametrize("data", [None, [], "DDIMScheduler", 3, {}])
def test_no_config_at_all(data):
    with pytest.raises(ConfigError):
        from_config(data)


@pytest.mark.parametrize("name", ["", "DDIMS", "dpm", "../ddim", 3, "a" * 10**6, ["ddim"]])
def test_unknown_names(name):
    with pytest.raises(RequestError, match="scheduler"):
        from_config(config_of("ddim"), name)


@pytest.mark.parametrize("steps", [0, -1, 1001, 10**12, 2.0, "20", True, None, float("nan")])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_steps_out_of_range(name, steps):
    with pytest.raises(RequestError, match="num_inference_steps"):
        from_config(config_of(name)).plan(steps)


@pytest.mark.parametrize(
    ("name", "keywords", "named"),
    [
        ("lcm", {"num_inference_steps": 51}, "original_inference_steps"),
        ("lcm", {"num_inference_steps": 4, "original_inference_steps": 0}, "original_inference"),
        ("lcm", {"num_inference_steps": 4, "original_inference_steps": 2000}, "original_inference"),
        ("lcm", {"num_inference_steps": 11, "original_inference_steps": 10}, "original_inference"),
        ("ddim", {"num_inference_steps": 5, "eta": 1.5}, "eta"),
        ("ddim", {"num_inference_steps": 5, "eta": float("nan")}, "eta"),
        ("ddim", {"num_inference_steps": 1000}, "timesteps"),  # steps_offset leads to 1000
        ("ddpm", {"timesteps": [5, 6]}, "descending"),
        ("ddpm", {"timesteps": [1000, 6]}, "timesteps"),
        ("ddpm", {"timesteps": []}, "timesteps"),
        ("ddpm", {"timesteps": [10.5, 6]}, "whole"),
        ("ddpm", {"timesteps": "900"}, "timesteps"),
        ("ddpm", {"timesteps": [5], "num_inference_steps": 1}, "exactly one"),
        ("ddpm", {"sigmas": [5.0, 0.0]}, "sigmas"),
        ("euler", {"sigmas": [5.0, 7.0]}, "descending"),
        ("euler", {"sigmas": [5.0]}, "sigmas"),
        ("euler", {"sigmas": [float("nan"), 0.0]}, "sigmas"),
        ("dpmpp_2m", {"num_inference_steps": 1000}, "fewer"),
        ("unipc", {"num_inference_steps": 1000}, "fewer"),
    ],
    ids=str,
)
def test_requests_that_cannot_run(name, keywords, named):
    with pytest.raises(RequestError, match=named):
        from_config(config_of(name)).plan(**keywords)


LIMIT = COLUMNS.index("limit")
betas = st.floats(1e-5, 0.2)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(SAMPLER_NAMES),
    steps=st.integers(1, 60),
    strength=st.sampled_from([0.2, 0.9, 1.0]),
    keys=st.fixed_dictionaries(
        {
            "num_train_timesteps": st.integers(1, 1200),
            "beta_start": betas,
            "beta_end": betas,
            "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
            "prediction_type": st.sampled_from(["epsilon", "v_prediction", "sample"]),
            "timestep_spacing": st.sampled_from(["leading", "trailing", "linspace"]),
            "steps_offset": st.integers(0, 2),
            "rescale_betas_zero_snr": st.booleans(),
            "use_karras_sigmas": st.booleans(),
            "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
            "solver_order": st.integers(1, 3),
            "clip_sample": st.booleans(),
        }
    ),
)
def test_any_plan_is_finite_or_refused(name, steps, strength, keys):
    try:
        plan = from_config(config_of(name, **keys)).plan(steps, strength=strength)
    except PyengineError:
        return
    rows = np.delete(plan.rows, LIMIT, axis=1)
    assert np.isfinite(rows).all()
    assert (plan.rows[:, LIMIT] > 0).all()
    assert np.isfinite(plan.in_scale).all()
    assert np.isfinite(plan.timesteps).all()
    assert np.isfinite(plan.renoise).all()
    assert np.isfinite(plan.level).all()
    assert 0 < plan.init_noise_sigma < np.inf
    assert plan.num_steps == int(steps * strength)
    assert sum(plan.ends_step) >= 1
    levels = [b / a if a else np.inf for a, b in (*[e.level for e in plan.evaluations], (1, 0))]
    # Nor has dpm2_ancestral exactly the end of its step for a middle, but for float32's rounding.
    if (
        not keys["rescale_betas_zero_snr"] and name != "dpm2_ancestral"
    ):  # which may put a higher sigma than the first behind it
        assert levels == sorted(levels, reverse=True)
        assert plan.timesteps == sorted(plan.timesteps, reverse=True)
