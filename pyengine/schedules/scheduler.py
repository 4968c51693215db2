"""A sampler with its config: compiles runs to plans."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import PyengineError, RequestError
from ..ops import COLUMNS
from . import ddim, ddpm, dpmsolver, euler, heun, lcm, pndm, unipc
from .config import SAMPLERS, NoiseConfig, read_scheduler_config
from .plan import Plan
from .request import make_request

#: Names that `from_config` takes.
SAMPLER_NAMES = tuple(sorted(SAMPLERS))

_PLANS = {
    "ddim": ddim.plan,
    "ddpm": ddpm.plan,
    "dpmpp_2m": dpmsolver.plan,
    "dpmpp_2m_karras": dpmsolver.plan,
    "euler": euler.plan,
    "euler_ancestral": euler.plan_ancestral,
    "heun": heun.plan,
    "lcm": lcm.plan,
    "pndm": pndm.plan,
    "unipc": unipc.plan,
}
_BOUNDED = [c != "limit" for c in COLUMNS]


@dataclass(frozen=True)
class Scheduler:
    """A sampler and its checked config. name: one of SAMPLER_NAMES."""

    name: str
    config: NoiseConfig

    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        strength: float = 1.0,
        eta: float = 0.0,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        original_inference_steps: int | None = None,
    ) -> Plan:
        """The table of one run.

        num_inference_steps: denoising steps of the whole run, 1 to num_train_timesteps; or the
        run is given by `timesteps` (DDPM, LCM, Euler, Heun, DPM-Solver) or by `sigmas` (Euler),
        descending.  strength: the share of the steps that runs, from the end (image-to-image).
        eta: DDIM's noise, 0 to 1; others ignore it.  original_inference_steps: LCM's.
        Raises RequestError for arguments out of range or steps that the noise schedule cannot
        tell apart, ConfigError for a config that cannot run at all.
        """
        request = make_request(
            self.config,
            num_inference_steps,
            strength,
            eta,
            timesteps,
            sigmas,
            original_inference_steps,
        )
        try:
            plan = _PLANS[self.name](self.config, request)
        except PyengineError:
            raise
        except (ArithmeticError, ValueError) as e:  # of math and numpy.linalg, on odd schedules
            raise RequestError(_unusable(self.name, request.steps)) from e
        numbers = [plan.rows[:, _BOUNDED], plan.in_scale, plan.init_noise_sigma]
        if not all(np.isfinite(n).all() for n in numbers):
            raise RequestError(_unusable(self.name, request.steps))
        return plan


def _unusable(name: str, steps: int) -> str:
    return (
        f"num_inference_steps: {name} cannot take {steps} steps through this noise schedule "
        "(two of them meet the same noise level); expected fewer"
    )


def from_config(
    config: dict,
    name: str | None = None,
    *,
    stable_diffusion: bool = False,
    where: str = "scheduler_config.json",
) -> Scheduler:
    """The sampler that a checkpoint's scheduler config asks for, or another one in its place.

    config: the parsed JSON.  name: one of SAMPLER_NAMES: that sampler with the keys that the
    checkpoint saved, and its own defaults for the rest, as diffusers'
    `Cls.from_config(pipe.scheduler.config)` makes it.  stable_diffusion: apply what diffusers'
    Stable Diffusion 1.x/2.x pipelines (not XL) do to the schedulers they are given, steps_offset 1
    and clip_sample False.  where: how errors call the config.
    Raises ConfigError, or RequestError for an unknown name.
    """
    return Scheduler(*read_scheduler_config(config, name, stable_diffusion, where))


__all__ = ["SAMPLER_NAMES", "Scheduler", "from_config"]
