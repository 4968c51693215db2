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
    model,
    our_run,
    their_run,
    theirs,
)

from pyengine.errors import ConfigError, RequestError
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


def loud(x, t):
    """Predictions far outside [-1, 1], for limits to act on."""
    return 3 * model(x, t)


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


@pytest.mark.parametrize(
    "keys",
    [
        {"interpolation_type": "log_linear"},
        {"sigma_min": 0.05, "sigma_max": 30.0, "use_karras_sigmas": True},
        {
            "sigma_min": 0.002,
            "sigma_max": 700.0,
            "use_karras_sigmas": True,
            "timestep_type": "continuous",
            "prediction_type": "v_prediction",
            "timestep_spacing": "leading",
        },
    ],
    ids=["log_linear", "range", "video"],
)
def test_euler_options(keys):
    for steps in (1, 2, 25):
        compare(config_of("euler", **keys), steps)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize(
    "algorithm", ["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers deprecates two of them
def test_dpm_solver_kinds(algorithm, solver, order):
    if algorithm == "sde-dpmsolver" and order == 3:
        pytest.skip("not defined")
    for final in ("zero", "sigma_min"):
        if final == "zero" and not algorithm.endswith("++"):
            continue
        config = config_of(
            "dpmpp_2m",
            algorithm_type=algorithm,
            solver_type=solver,
            solver_order=order,
            final_sigmas_type=final,
        )
        for steps in (1, 2, 3, 10, 30):
            compare(config, steps, within=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        {"lower_order_final": False},
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"use_lu_lambdas": True},
        {"lambda_min_clipped": -3.0},
        {"lambda_min_clipped": -3.0, "timestep_spacing": "trailing"},
        {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
        {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"},
    ],
    ids=str,
)
def test_dpm_solver_options(keys):
    for steps in (1, 3, 10, 30):
        compare(config_of("dpmpp_2m", **keys), steps)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver", ["bh1", "bh2"])
@pytest.mark.parametrize("predict_x0", [True, False])
def test_unipc_kinds(predict_x0, solver, order):
    # diffusers gets NaN from the others at sigma 0; see test_sampler_rows.py for ours.
    final = "zero" if predict_x0 and solver == "bh2" else "sigma_min"
    for keys in ({}, {"disable_corrector": [0, 1, 6]}):
        config = config_of(
            "unipc",
            predict_x0=predict_x0,
            solver_type=solver,
            solver_order=order,
            final_sigmas_type=final,
            **keys,
        )
        for steps in (1, 2, 3, 10, 30):
            compare(config, steps)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("keys", [{}, {"lower_order_final": False}, {"use_karras_sigmas": True}])
def test_deis_orders(order, keys):
    for steps in (1, 2, 3, 10, 30):
        compare(config_of("deis", solver_order=order, **keys), steps, within=2e-5)
        config = config_of("deis", solver_order=order, **keys)
        compare(config, steps, within=1e-9, dtype=torch.float64)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver", "sde-dpmsolver++"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_singlestep_kinds(algorithm, solver, order):
    for final in ("zero", "sigma_min"):
        if final == "zero" and algorithm == "dpmsolver":
            continue
        for lower in (True, False):
            config = config_of(
                "dpmpp_2s",
                algorithm_type=algorithm,
                solver_type=solver,
                solver_order=order,
                final_sigmas_type=final,
                lower_order_final=lower,
            )
            for steps in (1, 2, 3, 4, 5, 6, 30, 31):
                if not (steps < order and final == "sigma_min" and not lower):
                    compare(config, steps, within=1e-9, dtype=torch.float64)


@pytest.mark.parametrize(
    "keys",
    [
        {"lambda_min_clipped": -3.0},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.5},
        {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["dpmpp_2s", "sa_solver"])
def test_options_of_other_solvers(name, keys):
    for steps in (1, 3, 10, 30):
        compare(config_of(name, **keys), steps, predict=loud, within=2e-5)


@pytest.mark.parametrize("predictor", [1, 2, 3])
@pytest.mark.parametrize("corrector", [1, 2, 3, 4])
@pytest.mark.parametrize("algorithm", ["data_prediction", "noise_prediction"])
def test_sa_solver_kinds(algorithm, corrector, predictor):
    for lower in (True, False):
        config = config_of(
            "sa_solver",
            algorithm_type=algorithm,
            predictor_order=predictor,
            corrector_order=corrector,
            lower_order_final=lower,
        )
        for steps in (1, 2, 3, 10, 30):
            compare(config, steps, within=1e-8, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("name", ["edm_euler", "edm_dpmpp_2m"])
def test_edm_options(name, final, schedule):
    keys = {"sigma_schedule": schedule, "final_sigmas_type": final}
    other = {"sigma_min": 0.02, "sigma_max": 30.0, "sigma_data": 1.0, "rho": 5.0}
    for steps in (1, 2, 10, 30):
        compare(config_of(name, **keys), steps, within=2e-5)
        compare(config_of(name, **keys, **other), steps, within=2e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
def test_edm_solver_kinds(algorithm, solver, order):
    keys = {"algorithm_type": algorithm, "solver_type": solver, "solver_order": order}
    if order == 3 and algorithm.startswith("sde"):
        with pytest.raises(ConfigError, match="solver_order"):  # diffusers fails in the step
            from_config(config_of("edm_dpmpp_2m", **keys))
        return
    for steps in (1, 2, 3, 10, 30):
        compare(config_of("edm_dpmpp_2m", **keys), steps, within=1e-9, dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.05, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("original", [None, 40])
def test_tcd_eta(eta, original):
    for steps in (1, 2, 4, 8, 40):
        compare(config_of("tcd", original_inference_steps=original or 50), steps, eta=eta)


def test_tcd_with_original_steps_in_the_call():
    """Over all training timesteps then, however many there are."""
    scheduler = theirs(config_of("tcd"))
    for steps, strength in ((4, 1.0), (8, 0.5), (20, 0.03)):
        scheduler.set_timesteps(steps, original_inference_steps=60, strength=strength)
        plan = from_config(config_of("tcd")).plan(
            steps, original_inference_steps=60, strength=strength, all_steps=True
        )
        assert plan.timesteps == scheduler.timesteps.tolist()


def test_unipc_high_order_to_the_end():
    config = config_of("unipc", lower_order_final=False, final_sigmas_type="sigma_min")
    compare(config, 20)


@pytest.mark.parametrize("original", [20, 50, 100])
def test_lcm_original_steps(original):
    config = config_of("lcm", original_inference_steps=original, timestep_scaling=7.0)
    for steps in (1, 2, 4, 7, 20):
        compare(config, steps)


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
