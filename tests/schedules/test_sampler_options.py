"""The options of single samplers against diffusers': kinds, orders, variants."""

import pytest
import torch
from sampler_runs import compare, config_of, loud, theirs

from pyengine.errors import ConfigError
from pyengine.schedules import from_config

# NumPy about diffusers' use of torch tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
