"""A sampler with its config: compiles runs to plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import numpy as np

from ..errors import PyengineError, RequestError
from ..ops import COLUMNS
from ..weights.text import show
from .config import SamplerConfig, SpacedConfig, Spacing
from .plan import Plan
from .request import Request, make_request
from .samplers import SAMPLER_NAMES, SAMPLERS, sampler
from .saved import convention, read_scheduler_config

_BOUNDED = [c != "limit" for c in COLUMNS]


@dataclass(frozen=True)
class Scheduler:
    """A sampler and its checked config.

    name: one of SAMPLER_NAMES, or one of them with a spacing ("euler_beta").  saved: the keys that
    it was made from.  warnings: what these ask for and do not get.
    """

    name: str
    config: SamplerConfig
    saved: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def class_name(self) -> str:
        """diffusers' class."""
        return sampler(self.name).class_name

    @property
    def takes_timesteps(self) -> bool:
        return self.config.takes_timesteps

    @property
    def takes_sigmas(self) -> bool:
        return self.config.takes_sigmas

    @property
    def takes_spacing(self) -> bool:
        return isinstance(self.config, SpacedConfig) and self.config.takes_spacing

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the saved keys ask for and do not get; models that expect another sampler."""
        found = []
        if self.saved.get(_ZERO_SNR) is True and not hasattr(self.config, _ZERO_SNR):
            have = [n for n in SAMPLER_NAMES if hasattr(SAMPLERS[n].config, _ZERO_SNR)]
            found.append(
                f"scheduler config: {_ZERO_SNR} is true, and {self.name} has no such option: "
                f"it has no effect; these have it: {', '.join(have)}"
            )
        saved_class = self.saved.get("_class_name")
        told, tells = convention(saved_class), convention(self.class_name)
        if isinstance(saved_class, str) and told != tells:
            found.append(
                f"scheduler: the checkpoint was saved with {saved_class}, whose models expect "
                f"{told}; {self.name} gives them {tells}, so expect noise for a picture"
            )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """What diffusers' `scheduler.config` holds; `from_config` makes the same sampler of it."""
        own: dict[str, Any] = {f.name: getattr(self.config, f.name) for f in fields(self.config)}
        if own.get("lambda_min_clipped", 0) is None:
            own["lambda_min_clipped"] = -np.inf
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
        others = {k: v for k, v in self.saved.items() if not k.startswith("_")}
        chosen = set(self.saved) | set(sampler(self.name).keys)
        return {
            **others,
            **own,
            "_class_name": self.class_name,
            "_use_default_values": sorted(k for k in own if k not in chosen),
        }

    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        strength: float = 1.0,
        eta: float = 0.0,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        timestep_spacing: Spacing | None = None,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        original_inference_steps: int | None = None,
        all_steps: bool = False,
        use_clipped_model_output: bool = False,
    ) -> Plan:
        """The table of one run.

        Args:
            num_inference_steps: denoising steps of the whole run, 1 to num_train_timesteps; None
                with timesteps or sigmas.
            strength: the share of the steps that runs, from the end (image-to-image).
            eta: the noise of DDIM and TCD, 0 to 1; others ignore it.
            timesteps, sigmas: the steps themselves, descending, where `takes_timesteps` or
                `takes_sigmas` says so.
            timestep_spacing: "leading", "linspace" or "trailing", in place of the config's.
            denoising_start: the share of the training timesteps, above 0 and below 1, at which the
                run begins, whatever strength is; begin from latents that are so noisy already
                (`State(latents)`).
            denoising_end: the share at which the run ends, with latents that are still noisy.
            original_inference_steps: LCM's and TCD's.
            all_steps: strength thins the timesteps instead, and all steps run (LCM and TCD, as in
                diffusers' LatentConsistencyModelImg2ImgPipeline).
            use_clipped_model_output: DDIM alone: the noise of a step is what is left of the sample
                beside the clipped clean one, not the model's.

        Raises:
            RequestError: for arguments out of range or steps that the noise schedule cannot tell
                apart.
            ConfigError: for a config that cannot run at all.
        """
        config = self._spaced(timestep_spacing)
        for name, own, takes in (
            ("timesteps", timesteps, self.takes_timesteps),
            ("sigmas", sigmas, self.takes_sigmas),
        ):
            if own is not None and not takes:
                raise RequestError(f"{name}: {self.name} does not take any; {_that_take(name)} do")
        if use_clipped_model_output and self.name != "ddim":
            raise RequestError(
                f"use_clipped_model_output: {self.name} has no such option; ddim does"
            )
        request = make_request(
            config,
            num_inference_steps,
            strength=strength,
            eta=eta,
            timesteps=timesteps,
            sigmas=sigmas,
            original_inference_steps=original_inference_steps,
            all_steps=all_steps,
            denoising_start=denoising_start,
            denoising_end=denoising_end,
            use_clipped_model_output=use_clipped_model_output,
        )
        plan = self._compiled(config, request)
        if request.denoising_end is not None and request.denoising_end < 1:
            plan = plan.until(request.cutoff(request.denoising_end, config))
        return plan

    def _spaced(self, spacing: Spacing | None) -> SamplerConfig:
        """The config with another timestep_spacing."""
        if spacing is None:
            return self.config
        if not isinstance(spacing, str) or spacing not in get_args(Spacing):
            raise RequestError(
                f"timestep_spacing: expected one of {', '.join(get_args(Spacing))}, "
                f"got {show(spacing)}"
            )
        if not (isinstance(self.config, SpacedConfig) and self.takes_spacing):
            raise RequestError(f"timestep_spacing: it has no effect on {self.name}")
        return replace(self.config, timestep_spacing=spacing)

    def _compiled(self, config: SamplerConfig, request: Request) -> Plan:
        try:
            plan = sampler(self.name).plan(config, request)
        except PyengineError:
            raise
        except (ArithmeticError, ValueError) as e:  # of math and numpy.linalg, on odd schedules
            raise RequestError(_unusable(self.name, request.steps)) from e
        numbers: list[Any] = [plan.rows[:, _BOUNDED], plan.in_scale, plan.init_noise_sigma]
        if not all(np.isfinite(n).all() for n in numbers):
            raise RequestError(_unusable(self.name, request.steps))
        return plan


_ZERO_SNR = "rescale_betas_zero_snr"


def _that_take(name: str) -> str:
    return ", ".join(n for n in SAMPLER_NAMES if getattr(SAMPLERS[n].config, f"takes_{name}"))


def _unusable(name: str, steps: int) -> str:
    return (
        f"num_inference_steps: {name} cannot take {steps} steps through this noise schedule "
        "(two of them meet the same noise level); expected fewer"
    )


def from_config(
    config: Mapping[str, Any],
    name: str | None = None,
    *,
    pipeline: str = "",
    where: str = "scheduler_config.json",
) -> Scheduler:
    """The sampler that a checkpoint's scheduler config asks for, or another one in its place.

    Args:
        config: the parsed JSON.
        name: whatever `find_name` knows: that sampler with the keys that the checkpoint saved, of
            whatever class, and its own defaults for the rest, as diffusers'
            `Cls.from_config(pipe.scheduler.config)` makes it.
        pipeline: the class of diffusers' pipeline that the checkpoint is loaded into; what its
            __init__ changes in the scheduler that it is given is changed (Stable Diffusion 1.x/2.x:
            steps_offset 1, clip_sample False).
        where: how errors call the config.

    Raises:
        ConfigError: for a config that cannot be used.
        RequestError: for an unknown name.
    """
    found, checked = read_scheduler_config(config, name, pipeline, where)
    return Scheduler(found, checked, dict(config))


__all__ = ["SAMPLER_NAMES", "Scheduler", "from_config"]
