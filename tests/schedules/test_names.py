"""What people call samplers, and whose keys these take."""

import dataclasses
from pathlib import Path

import pytest
from sampler_runs import config_of, their_class, theirs

from pyengine.errors import ConfigError, RequestError
from pyengine.schedules import CLASSES, SAMPLER_NAMES, find_name, from_config

CALLED = {
    "DDIM": "ddim",
    "ddim": "ddim",
    "Euler": "euler",
    "Euler a": "euler_ancestral",
    "euler_ancestral": "euler_ancestral",
    "EULER-ANCESTRAL": "euler_ancestral",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "eulerancestraldiscrete": "euler_ancestral",
    "Heun": "heun",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M Karras": "dpmpp_2m_karras",
    "dpmpp-2m-karras": "dpmpp_2m_karras",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Karras": "dpmpp_2m_sde_karras",
    "DPM++ 2M SDE Exponential": "dpmpp_2m_sde_exponential",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "PLMS": "pndm",
    "PNDMScheduler": "pndm",
    "UniPC": "unipc",
    "uni_pc": "unipc",
    "UniPCMultistepScheduler": "unipc",
    "LCM": "lcm",
    "Euler SGM Uniform": "euler_trailing",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ SDE Karras": "dpmpp_sde_karras",
    "dpmpp_sde_exponential": "dpmpp_sde_exponential",
    "DPM2": "dpm2",
    "dpm_2": "dpm2",
    "DPM2 a": "dpm2_ancestral",
    "dpm_2_ancestral": "dpm2_ancestral",
    "DPM2 a Karras": "dpm2_ancestral_karras",
    "KDPM2DiscreteScheduler": "dpm2",
    "kdpm2": "dpm2",
    "KDPM2 Ancestral": "dpm2_ancestral",
    "DPMSolver": "dpmpp_2m",
    "LMS": "lms",
    "LMS Karras": "lms_karras",
    "LMSDiscreteScheduler": "lms",
    "DEIS": "deis",
    "TCD": "tcd",
    "SASolverScheduler": "sa_solver",
    "EDMDPMSolverMultistepScheduler": "edm_dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "DDIMParallelScheduler": "ddim",
    "DDPMParallelScheduler": "ddpm",
    "euler_beta": "euler_beta",
    "Heun Karras": "heun_karras",
    "DDIM trailing": "ddim_trailing",
}


@pytest.mark.parametrize("called", CALLED)
def test_names_of_other_tools(called):
    assert find_name(called) == CALLED[called]
    scheduler = from_config(config_of("ddim"), called)
    assert scheduler.name == CALLED[called]
    assert len(scheduler.plan(5)) >= 5


def test_every_name_and_class_finds_itself():
    for name in SAMPLER_NAMES:
        assert find_name(name) == name
    for cls, name in CLASSES.items():
        assert find_name(cls) == name


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("eular", "euler"),
        ("DPM++ 2N Karras", "dpmpp_2m_karras"),
        ("PNDMSchedular", "PNDMScheduler"),
        ("ddim_karras", None),  # diffusers' class has no such option
        ("dpmpp_2m_karras_beta", None),
        ("lcm_trailing", None),
        ("karras", None),
    ],
)
def test_a_wrong_name_is_told_the_nearest(wrong, nearest):
    with pytest.raises(RequestError, match="scheduler: expected one of") as e:
        find_name(wrong)
    if nearest is not None:
        assert str(e.value).endswith(f"did you mean {nearest}?")


def test_a_spacing_in_the_name_sets_the_key():
    for name, key, value in (
        ("euler_karras", "use_karras_sigmas", True),
        ("heun_exponential", "use_exponential_sigmas", True),
        ("dpmpp_2m_beta", "use_beta_sigmas", True),
        ("ddpm_trailing", "timestep_spacing", "trailing"),
        ("dpmpp_2m_sde_karras", "algorithm_type", "sde-dpmsolver++"),
    ):
        assert getattr(from_config(config_of("ddim"), name).config, key) == value


STRANGERS = [
    {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "base_shift": 0.5},
    {"_class_name": "SomebodysScheduler", "wonders": [1, 2], "beta_start": 0.00085, "depth": "x"},
    {"_class_name": ["my_scheduler", "MyScheduler"], "beta_schedule": "scaled_linear"},
    {"beta_start": 0.00085},
]


@pytest.mark.parametrize("saved", STRANGERS)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_named_sampler_takes_any_class_and_its_keys(saved, name):
    scheduler = from_config(saved, name)
    for key in ("beta_start", "beta_schedule"):
        if key in saved and hasattr(scheduler.config, key):
            assert getattr(scheduler.config, key) == saved[key]
    assert len(scheduler.plan(6)) >= 6


@pytest.mark.parametrize(
    ("cls", "nearest"),
    [
        ("FlowMatchHeunDiscreteScheduler", "flow_euler"),
        ("DDIMInverseScheduler", "ddim"),
        ("DPMSolverMultistepInverseScheduler", "dpmpp_2m"),
        ("CMStochasticIterativeScheduler", "lcm"),
        ("DDIMSheduler", "ddim"),
    ],
)
def test_a_class_that_is_not_here_is_told_the_nearest(cls, nearest):
    with pytest.raises(ConfigError, match=f'the nearest is .{nearest}.: .*scheduler="{nearest}"'):
        from_config({**config_of("ddim"), "_class_name": cls})


@pytest.mark.parametrize("name", ["ddim", "ddpm", "pndm", "euler", "lcm", "heun", "dpmpp_2m"])
@pytest.mark.parametrize(
    "keys", [{}, {"clip_sample": True, "steps_offset": 0}], ids=["bare", "set"]
)
@pytest.mark.parametrize(
    "pipeline",
    [
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_pipelines_mend_schedulers_as_diffusers_do(pipeline, keys, name):
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()
    saved = {"_class_name": config_of(name)["_class_name"], "skip_prk_steps": True, **keys}
    cls = getattr(diffusers, pipeline)
    parts = dict.fromkeys(["vae", "text_encoder", "tokenizer", "unet"])
    if "XL" in pipeline:
        parts |= dict.fromkeys(["text_encoder_2", "tokenizer_2"])
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts |= {"requires_safety_checker": False}
    mended = cls(**parts, scheduler=theirs(saved)).scheduler
    ours = from_config(saved, pipeline=pipeline)
    for field in dataclasses.fields(ours.config):
        if field.name in ("clip_sample", "steps_offset", "skip_prk_steps"):
            assert getattr(ours.config, field.name) == getattr(mended.config, field.name)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_config_makes_the_same_sampler_again(name):
    scheduler = from_config(config_of(name))
    again = from_config(scheduler.as_dict())
    assert again.config == scheduler.config
    their = theirs(config_of(name)).config
    ours = scheduler.as_dict()
    absent = {"flow_shift", "time_shift_type", "shift_terminal"} - set(vars(scheduler.config))
    for key, value in their.items():
        if not key.startswith("_") and key not in absent:  # options that are not here
            assert ours[key] == (list(value) if isinstance(value, tuple) else value), key
    assert set(ours["_use_default_values"]) == set(their["_use_default_values"]) - absent


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("saved", ["ddim", "pndm", "euler", "lcm"])
def test_a_diffusers_scheduler_can_be_handed_over(saved, name):
    """Its config, then another class from that config: as diffusers makes it."""
    bare = {"_class_name": config_of(saved)["_class_name"], "skip_prk_steps": True}
    handed = theirs(bare)
    ours = from_config({**handed.config, "_class_name": type(handed).__name__}, name)
    if name == "lms":
        pytest.importorskip("scipy", reason="diffusers computes this with SciPy")
    target, keys = ours.class_name, config_of(name)
    extra = {k: v for k, v in keys.items() if k in ("algorithm_type", "use_karras_sigmas")}
    want = their_class(target).from_config(handed.config, **extra).config
    for field in dataclasses.fields(ours.config):
        got = getattr(ours.config, field.name)
        if field.name == "lambda_min_clipped":
            got = -float("inf") if got is None else got
        assert got == (tuple(want[field.name]) if isinstance(got, tuple) else want[field.name])
    twice = from_config(from_config(bare).as_dict(), name)
    assert twice.config == ours.config


def test_zero_terminal_snr_that_has_no_effect_is_told():
    saved = {**config_of("pndm"), "rescale_betas_zero_snr": True}
    (warning,) = from_config(saved).warnings
    assert "rescale_betas_zero_snr" in warning
    assert "pndm" in warning
    assert "ddim" in warning
    assert from_config(saved, "ddim").warnings == ()
    assert from_config(config_of("pndm")).warnings == ()


@pytest.mark.parametrize(
    ("saved", "name", "warns"),
    [
        ("EDMDPMSolverMultistepScheduler", None, False),
        ("EDMDPMSolverMultistepScheduler", "edm_euler", False),
        ("EDMDPMSolverMultistepScheduler", "euler", True),
        ("FlowMatchEulerDiscreteScheduler", "euler", True),
        ("DDIMScheduler", "edm_euler", True),
        ("DDIMScheduler", "ipndm", True),
        ("DDIMScheduler", "tcd", False),
    ],
)
def test_a_sampler_for_models_of_another_kind_is_told(saved, name, warns):
    warnings = from_config({"_class_name": saved}, name).warnings
    assert bool(warnings) == warns
    if warns:
        assert saved in warnings[0]


def test_the_documented_table():
    """docs/samplers.md: every sampler, its class, names that are taken, its evaluations."""
    text = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `")][: len(SAMPLER_NAMES)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0].strip("`") for row in rows] == list(SAMPLER_NAMES)
    for name, classes, others, evaluations, draws in rows:
        name = name.strip("`")
        own = [c for c in classes.split(", ") if c.endswith("Scheduler")]
        for other in [*own, *filter(None, others.split(", "))]:
            assert find_name(other) == name
        plan = from_config(config_of(name)).plan(7)
        assert len(plan) == {"n": 7, "2n - 1": 13, "n + 1": 8}[evaluations.split(";")[0]]
        if "eta" not in draws:
            assert any(plan.draws_noise) == draws.startswith("yes")
    taken = {
        kind: {
            n.partition("_karras")[0].removesuffix("_sde")
            for n in SAMPLER_NAMES
            if getattr(from_config(config_of(n)), f"takes_{kind}")
        }
        for kind in ("timesteps", "sigmas")
    }
    assert f"`timesteps` ({', '.join(sorted(taken['timesteps']))})" in " ".join(text.split())
    assert f"`sigmas` ({', '.join(sorted(taken['sigmas']))})" in " ".join(text.split())
