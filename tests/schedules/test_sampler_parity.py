"""Every sampler against diffusers': timesteps, generators and samples."""

import pytest
import torch
from sampler_runs import (
    MISSING,
    SLACK,
    WIDENED,
    compare,
    config_of,
    distance,
    draw,
    loud,
    our_run,
    their_run,
    theirs,
)

from pyengine.errors import RequestError
from pyengine.schedules import SAMPLER_NAMES, from_config
from pyengine.schedules.config import NoiseConfig
from pyengine.schedules.samplers import SAMPLERS

# NumPy about diffusers' use of torch tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEUN_64 = {"within": 1e-9, "dtype": torch.float64}

STEPS = (1, 2, 5, 20, 50)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_sampler(name, prediction, spacing):
    if (name, prediction) in MISSING:
        pytest.skip("diffusers does not have it")
    config = config_of(name, prediction_type=prediction, timestep_spacing=spacing)
    for steps in STEPS:
        if (name, steps) != ("ipndm", 1):  # whose only step gives zeros
            compare(config, steps, **SLACK.get(name, {}))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_formulas_in_float64(name, prediction):
    config = config_of(name, prediction_type=prediction)
    if (name, prediction) in MISSING or config["_class_name"] not in WIDENED:
        pytest.skip("diffusers does not have it, or computes in float32 whatever comes")
    # Some of diffusers' tables have been rounded before they are widened.
    within = 1e-6 if name in ("dpm2_ancestral", "edm_euler", "ipndm", "lcm") else 1e-9
    for steps in (2, 3, 16, 50):
        compare(config, steps, within=within, dtype=torch.float64)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize(
    "betas",
    [
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.001 + 0.0006 * i for i in range(60)], "num_train_timesteps": 60},
    ],
    ids=["linear", "cosine", "trained"],
)
def test_betas(name, betas):
    if not issubclass(SAMPLERS[name].config, NoiseConfig):
        pytest.skip("has no betas")
    if name == "dpm2_ancestral" and betas.get("beta_schedule") == "squaredcos_cap_v2":
        pytest.skip("diffusers divides by zero; see test_unlike_sigmas")
    for steps in (3, 17):
        config = config_of(name, **betas, prediction_type="v_prediction")
        wide = config["_class_name"] in WIDENED and SAMPLERS[name].class_name != "LCMScheduler"
        exact = {**HEUN_64, "within": 1e-6} if name == "dpm2_ancestral" else HEUN_64
        compare(config, steps, **(exact if wide else {}))


def test_unlike_sigmas():
    """The middle of an ancestral step is the step's end; float32 leaves nothing of that here."""
    config = config_of("dpm2_ancestral", beta_schedule="squaredcos_cap_v2")
    plan = from_config(config).plan(3)
    _, noise = draw(0)
    assert torch.isfinite(our_run(plan, plan.start(noise), draw(0)[0])).all()


@pytest.mark.parametrize(
    ("name", "kind"), [("ddpm", "sigmoid"), ("ddpm", "laplace"), ("heun", "exp")]
)
def test_betas_of_one_class(name, kind):
    compare(config_of(name, beta_schedule=kind, prediction_type="v_prediction"), 10)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    "name", ["ddpm", "ddim", "lcm", "euler", "euler_ancestral", "dpmpp_2m", "unipc"]
)
def test_zero_terminal_snr(name, spacing):
    for prediction in ("v_prediction", "sample"):
        if (name, prediction) in MISSING:
            continue
        for betas in ({}, {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}):
            config = config_of(
                name,
                prediction_type=prediction,
                timestep_spacing=spacing,
                rescale_betas_zero_snr=True,
                **betas,
            )
            for steps in (1, 8, 25):
                compare(config, steps)


@pytest.mark.parametrize("keys", [{}, {"use_karras_sigmas": True}, {"use_beta_sigmas": True}])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc"])
def test_linear_betas_with_zero_terminal_snr(name, keys):
    """Their sigmas rise above the last one before they reach it: linear betas leave little."""
    betas = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    for steps in (2, 10, 120):
        config = config_of(
            name,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            **betas,
            **keys,
        )
        compare(config, steps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddpm", "ddim", "lcm", "heun"])
def test_clip_sample(name, prediction):
    config = config_of(name, prediction_type=prediction, clip_sample=True, clip_sample_range=1.5)
    for steps in (2, 20):
        compare(config, steps, predict=loud, **(HEUN_64 if name == "heun" else {}))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddpm", "ddim", "lcm", "dpmpp_2m", "unipc"])
def test_dynamic_thresholding(name, prediction):
    config = config_of(
        name,
        prediction_type=prediction,
        thresholding=True,
        dynamic_thresholding_ratio=0.9,
        sample_max_value=2.5,
    )
    for steps in (2, 20):
        compare(config, steps, predict=loud)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_eta(eta, spacing):
    for alpha_to_one in (True, False):
        config = config_of("ddim", timestep_spacing=spacing, set_alpha_to_one=alpha_to_one)
        for steps in (1, 7, 50):
            compare(config, steps, eta=eta)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", None])
def test_ddpm_variance(variance):
    for steps in (1, 13, 200):
        compare(config_of("ddpm", variance_type=variance), steps)


@pytest.mark.parametrize("alpha_to_one", [True, False])
def test_pndm_final_alpha(alpha_to_one):
    for steps in (1, 2, 3, 4, 5, 6, 30):
        compare(config_of("pndm", set_alpha_to_one=alpha_to_one), steps)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_pndm_with_its_warm_up(spacing, prediction):
    keys = {"skip_prk_steps": False, "prediction_type": prediction, "timestep_spacing": spacing}
    for steps in (4, 5, 7, 20, 50):
        compare(config_of("pndm", **keys), steps, within=1e-9, dtype=torch.float64)
        compare(config_of("pndm", **keys), steps)


def test_pndm_with_its_warm_up_needs_four_steps():
    for steps in (1, 2, 3):  # diffusers fails with a broadcasting error
        with pytest.raises(RequestError, match="at least 4"):
            from_config(config_of("pndm", skip_prk_steps=False)).plan(steps)


@pytest.mark.parametrize(
    "keys",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "name",
    [
        *("euler", "heun", "dpmpp_2m", "unipc", "deis", "dpm2", "dpm2_ancestral", "dpmpp_2s"),
        *("dpmpp_sde", "lms", "sa_solver"),
    ],
)
def test_sigma_spacings(name, keys):
    if "final_sigmas_type" in keys and not hasattr(SAMPLERS[name].config, "final_sigmas_type"):
        pytest.skip("not an option of this class")
    for prediction in ("epsilon", "v_prediction"):
        for steps in (1, 2, 12, 25):
            config = config_of(name, **keys, prediction_type=prediction)
            compare(config, steps, **SLACK.get(name, {}))


def test_trailing_takes_no_step_before_the_first_timestep():
    """diffusers takes a 62nd step of 61, at timestep -1, where the spacing is rounded."""
    for name in SAMPLER_NAMES:
        config = config_of(name, timestep_spacing="trailing")
        scheduler = theirs(config)
        if not from_config(config).takes_spacing or (scheduler.order == 2 and name != "heun"):
            continue  # whose middle of that step is at a timestep above
        for steps in (61, 103):
            scheduler.set_timesteps(steps)
            assert min(scheduler.timesteps.tolist()) == -1
            plan = from_config(config).plan(steps)
            assert plan.num_steps == steps
            assert [t for t in scheduler.timesteps.tolist() if t >= 0] == plan.timesteps


@pytest.mark.parametrize(
    "name", ["ddpm", "lcm", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "tcd"]
)
def test_own_timesteps(name):
    own = [959, 700, 519, 99, 19]
    config = config_of(name)
    scheduler = theirs(config)
    scheduler.set_timesteps(timesteps=own)
    rng, noise = draw(0)
    want = their_run(scheduler, noise * scheduler.init_noise_sigma, rng)
    plan = from_config(config).plan(timesteps=own)
    assert plan.timesteps == scheduler.timesteps.tolist()
    rng, noise = draw(0)
    assert distance(our_run(plan, plan.start(noise), rng), want) <= 5e-6


@pytest.mark.parametrize("name", ["ddim", "pndm", "euler_ancestral", "unipc", "dpmpp_2m_karras"])
def test_own_timesteps_are_refused_where_diffusers_has_none(name):
    with pytest.raises(RequestError, match="timesteps"):
        from_config(config_of(name)).plan(timesteps=[900, 500])


def test_own_sigmas():
    own = [13.0, 6.0, 2.5, 0.7, 0.1, 0.0]
    config = config_of("euler")
    scheduler = theirs(config)
    scheduler.set_timesteps(sigmas=own)
    _, noise = draw(0)
    want = their_run(scheduler, noise * scheduler.init_noise_sigma, None)
    plan = from_config(config).plan(sigmas=own)
    assert plan.timesteps == scheduler.timesteps.tolist()
    assert distance(our_run(plan, plan.start(noise), None), want) <= 5e-6


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddpm", "ddim", "pndm", "lcm", "heun", "unipc"])
def test_in_float64(name, prediction):
    """With its tables widened, diffusers agrees to float64 rounding: the formulas are the same."""
    if (name, prediction) in MISSING:
        pytest.skip("diffusers does not have it")
    # LCM's boundary conditions are computed from a float32 timestep.
    within = 3e-7 if name == "lcm" else 2e-10
    for steps in (5, 30):
        config = config_of(name, prediction_type=prediction)
        compare(config, steps, within=within, dtype=torch.float64)
