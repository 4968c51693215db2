"""A run of diffusers' scheduler and a run of ours, on the same fake model and generators."""

import importlib
import inspect
import sys
import types

import pytest
import torch

from pyengine.schedules import from_config
from pyengine.schedules.samplers import sampler

SHAPE = (2, 4, 6, 5)
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

_MIX = torch.randn(120, 120, generator=torch.Generator().manual_seed(7), dtype=torch.float64) / 11


def model(x: torch.Tensor, t) -> torch.Tensor:
    """A fixed nonlinear function of sample and timestep, computed in float64."""
    f = x.flatten(1).double()
    return (
        (torch.tanh(f @ _MIX + 0.002 * float(t) - 1) + 0.4 * f / (1 + 0.2 * f.abs()))
        .reshape(x.shape)
        .to(x.dtype)
    )


def loud(x, t):
    """Predictions far outside [-1, 1], for limits to act on."""
    return 3 * model(x, t)


def config_of(name: str, **keys) -> dict:
    """A scheduler_config.json for the sampler `name`."""
    ours = sampler(name)
    own = {"skip_prk_steps": True} if name == "pndm" else {}
    return {"_class_name": ours.class_name, **BETAS, "steps_offset": 1, **own, **ours.keys, **keys}


class BrownianPath:
    """Noise for diffusers' DPMSolverSDEScheduler from a generator, as ours comes from one.

    In a step it asks for the path from sigma to the middle, then from the same sigma to the end.
    """

    def __init__(self, x: torch.Tensor, generator: torch.Generator):
        self.like, self.generator = x, generator
        self.began = self.half = self.first = None

    def __call__(self, sigma, sigma_next):
        fresh = torch.randn(self.like.shape, generator=self.generator, dtype=self.like.dtype)
        if self.began != sigma:
            self.began, self.half, self.first = sigma, sigma_next, fresh
            return fresh
        share = ((sigma - self.half) / (sigma - sigma_next)).double()
        return share.sqrt() * self.first + (1 - share).sqrt() * fresh


def their_class(name: str):
    """diffusers' class; one of them imports torchsde, for noise that is replaced here."""
    import diffusers

    if name != "DPMSolverSDEScheduler":
        return getattr(diffusers, name)
    sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    return module.DPMSolverSDEScheduler


def theirs(config: dict):
    """diffusers' scheduler for a config."""
    if config.get("use_beta_sigmas") or config["_class_name"] == "LMSDiscreteScheduler":
        pytest.importorskip("scipy", reason="diffusers computes this with SciPy")
    return their_class(config["_class_name"]).from_config(config)


def draw(seed: int, dtype=torch.float32) -> tuple[torch.Generator, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return generator, torch.randn(SHAPE, generator=generator, dtype=dtype)


def their_run(scheduler, x, generator, timesteps=None, predict=model, eta=0.0):
    """x after all of diffusers' steps (after set_timesteps)."""
    accepted = inspect.signature(scheduler.step).parameters
    keywords = {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in accepted}
    if timesteps is None and hasattr(scheduler, "set_begin_index"):
        # As its XL pipeline does; without it a run whose first timesteps are equal (after
        # rounding) skips one and fails at its end.
        scheduler.set_begin_index(0)
    if hasattr(scheduler, "noise_sampler") and scheduler.noise_sampler is None:
        scheduler.noise_sampler = BrownianPath(x, generator)
    for t in scheduler.timesteps if timesteps is None else timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        out = predict(scaled, t)
        x = scheduler.step(out, t, x, **keywords).prev_sample
    return x


def our_run(plan, state, generator, predict=model, drawn_in=None):
    """drawn_in: the dtype to draw noise in, the sample's unless told."""
    for i, t in enumerate(plan.timesteps):
        out = predict(plan.scale_input(i, state.x), t)
        noise = None
        if plan.draws_noise[i]:
            noise = torch.randn(out.shape, generator=generator, dtype=drawn_in or out.dtype)
            noise = noise.to(out.dtype)
        state = plan.step(i, state, out, noise=noise)
    return state.x


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative L2."""
    assert torch.isfinite(want).all(), "the reference itself is not finite"
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


#: diffusers' tensors to widen for a run in float64; the other classes cast to float32 in between.
WIDENED = {
    "DDPMScheduler": ("alphas_cumprod", "one"),
    "DDIMScheduler": ("alphas_cumprod", "final_alpha_cumprod"),
    "PNDMScheduler": ("alphas_cumprod", "final_alpha_cumprod"),
    "LCMScheduler": ("alphas_cumprod",),
    "HeunDiscreteScheduler": ("sigmas",),
    "UniPCMultistepScheduler": ("sigmas",),
    "DEISMultistepScheduler": ("sigmas",),
    "DPMSolverSDEScheduler": ("sigmas",),
    "DPMSolverSinglestepScheduler": ("sigmas",),
    "EDMDPMSolverMultistepScheduler": ("sigmas",),
    "EDMEulerScheduler": ("sigmas",),
    "IPNDMScheduler": ("alphas", "betas"),
    "KDPM2AncestralDiscreteScheduler": ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down"),
    "KDPM2DiscreteScheduler": ("sigmas", "sigmas_interpol"),
    "LMSDiscreteScheduler": ("sigmas",),
    "SASolverScheduler": ("sigmas",),
    "TCDScheduler": ("alphas_cumprod",),
}

#: Where diffusers' own float32 loses more than the tolerance: by subtracting the clean sample and
#: dividing by a small sigma (Heun), by sigmas' differences (the others). float64 runs are closer.
SLACK = {
    "heun": {"within": 3e-5},
    "dpm2_ancestral": {"within": 2e-5},
    "dpmpp_sde": {"within": 2e-5},
    "dpmpp_sde_karras": {"within": 2e-5},
    "edm_euler": {"within": 2e-5},
    "deis": {"within": 1e-5},
}

#: What diffusers does not have, or what says nothing to the class.
MISSING = {
    *((name, "sample") for name in ("pndm", "euler_ancestral", "dpm2", "dpm2_ancestral")),
    *((name, "sample") for name in ("dpmpp_sde", "dpmpp_sde_karras", "edm_euler", "edm_dpmpp_2m")),
    *(("flow_euler", prediction) for prediction in ("v_prediction", "sample")),
    *(("ipndm", prediction) for prediction in ("v_prediction", "sample")),
}


def compare(
    config: dict,
    steps: int,
    eta: float = 0.0,
    predict=model,
    within: float = 5e-6,
    dtype: torch.dtype = torch.float32,
):
    """Run both from noise; timesteps and generators must agree exactly, samples closely.

    within: relative L2, or in float32 1e-7 of the largest sigma where that is more: samplers that
    count in sigmas subtract numbers of that size. test_sampler_rows.py holds ours to float64.
    dtype: float64 also widens diffusers' tables, so that only the formulas are compared.
    """
    scheduler = theirs(config)
    scheduler.set_timesteps(steps)
    plan = from_config(config).plan(steps, eta=eta)
    if config.get("use_beta_sigmas"):  # SciPy's quantiles and ours differ in the last bits
        assert plan.timesteps == pytest.approx(scheduler.timesteps.tolist(), rel=1e-9)
    else:
        assert plan.timesteps == scheduler.timesteps.tolist()
    sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
    assert abs(plan.init_noise_sigma - sigma) <= 1e-6 * sigma
    if dtype == torch.float64:
        for attribute in WIDENED[config["_class_name"]]:
            setattr(scheduler, attribute, getattr(scheduler, attribute).double())
    else:
        within = max(within, 1e-7 * sigma)
    theirs_rng, noise = draw(steps, dtype)
    state = plan.start(noise)
    want = their_run(scheduler, state.x, theirs_rng, predict=predict, eta=eta)
    ours_rng, _ = draw(steps, dtype)
    got = our_run(plan, state, ours_rng, predict)
    assert torch.equal(ours_rng.get_state(), theirs_rng.get_state())
    assert distance(got, want) <= within, f"{steps} steps: {distance(got, want):.2e}"
