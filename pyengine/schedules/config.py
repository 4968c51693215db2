"""What a scheduler_config.json may say, per sampler, and how one sampler takes another's keys."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..errors import ConfigError, RequestError
from ..weights.config import read_config

Prediction = Literal["epsilon", "sample", "v_prediction"]
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Spacing = Literal["leading", "linspace", "trailing"]
Final = Literal["zero", "sigma_min"]

MAX_TRAIN_STEPS = 100_000

# Keys of other schedulers that diffusers saves beside a sampler's own and that do not touch it.
# One sampler's own keys are another's foreign ones, so every sampler ignores all of these that it
# does not declare.
FOREIGN_KEYS = frozenset(
    """
    algorithm_type clip_sample clip_sample_range disable_corrector dynamic_thresholding_ratio
    euler_at_final final_sigmas_type flow_shift interpolation_type invert_sigmas
    lambda_min_clipped lower_order_final noise_sampler_seed original_inference_steps
    predict_epsilon predict_x0 rescale_betas_zero_snr rho s_noise sample_max_value
    set_alpha_to_one shift_terminal sigma_data sigma_max sigma_min skip_prk_steps solver_order
    solver_p solver_type tensor_format thresholding time_shift_type timestep_scaling
    timestep_type use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_flow_sigmas
    use_karras_sigmas use_lu_lambdas variance_type
    """.split()  # noqa: SIM905
)


def _number(default: Any, low: float, high: float) -> Any:
    return field(default=default, metadata={"min": low, "max": high})


@dataclass(frozen=True)
class NoiseConfig:
    """Keys that every sampler has: the noise schedule and what the model predicts."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = FOREIGN_KEYS
    num_train_timesteps: int = _number(1000, 1, MAX_TRAIN_STEPS)
    beta_start: float = _number(0.0001, 1e-9, 0.999999)
    beta_end: float = _number(0.02, 1e-9, 0.999999)
    beta_schedule: Betas = "linear"
    trained_betas: tuple[float, ...] | None = field(
        default=None, metadata={"min": 0, "max": 1, "max_items": MAX_TRAIN_STEPS}
    )
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    steps_offset: int = _number(0, 0, MAX_TRAIN_STEPS)


@dataclass(frozen=True)
class _Clipping:
    """Keys that limit the predicted clean sample."""

    clip_sample: bool = True
    clip_sample_range: float = _number(1.0, 1e-6, 1e6)


@dataclass(frozen=True)
class _Thresholding:
    """Dynamic thresholding: Saharia et al. 2022, arXiv:2205.11487, section 2.3."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = _number(0.995, 0, 1)
    sample_max_value: float = _number(1.0, 1e-6, 1e6)


@dataclass(frozen=True)
class _SigmaSpacing:
    """Keys that choose the sigmas of a run other than from its timesteps."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False

    def check_sigmas(self) -> None:
        if self.use_karras_sigmas and self.use_exponential_sigmas:
            raise ValueError("use_karras_sigmas and use_exponential_sigmas exclude each other")
        _refuse_set(self, "use_beta_sigmas")


def _refuse_set(config: Any, *names: str) -> None:
    """Raise ValueError where an option that pyengine lacks is set."""
    for name in names:
        if getattr(config, name):
            raise ValueError(f"{name} is {getattr(config, name)!r}, which is not supported")


@dataclass(frozen=True)
class DDPMConfig(NoiseConfig, _Clipping, _Thresholding):
    beta_schedule: Literal[
        "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"
    ] = "linear"  # fmt: skip
    rescale_betas_zero_snr: bool = False
    # None is what a DPM-Solver config saves; it means fixed_small.
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large"] | None = "fixed_small"


@dataclass(frozen=True)
class DDIMConfig(NoiseConfig, _Clipping, _Thresholding):
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class PNDMConfig(NoiseConfig):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False

    def __post_init__(self) -> None:
        if not self.skip_prk_steps:
            raise ValueError(
                "skip_prk_steps is false: the Runge-Kutta warm-up is not supported, only PLMS"
            )


@dataclass(frozen=True)
class LCMConfig(NoiseConfig, _Clipping, _Thresholding):
    beta_start: float = _number(0.00085, 1e-9, 0.999999)
    beta_end: float = _number(0.012, 1e-9, 0.999999)
    beta_schedule: Betas = "scaled_linear"
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    original_inference_steps: int = _number(50, 1, MAX_TRAIN_STEPS)
    timestep_scaling: float = _number(10.0, 0, 1e6)


@dataclass(frozen=True)
class EulerConfig(NoiseConfig, _SigmaSpacing):
    timestep_spacing: Spacing = "linspace"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = _number(None, 1e-9, 1e9)
    sigma_max: float | None = _number(None, 1e-9, 1e9)
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Final = "zero"

    def __post_init__(self) -> None:
        self.check_sigmas()


@dataclass(frozen=True)
class EulerAncestralConfig(NoiseConfig):
    timestep_spacing: Spacing = "linspace"
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class HeunConfig(NoiseConfig, _SigmaSpacing, _Clipping):
    beta_start: float = _number(0.00085, 1e-9, 0.999999)
    beta_end: float = _number(0.012, 1e-9, 0.999999)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear"
    timestep_spacing: Spacing = "linspace"
    clip_sample: bool = False

    def __post_init__(self) -> None:
        self.check_sigmas()


@dataclass(frozen=True)
class DPMSolverConfig(NoiseConfig, _SigmaSpacing, _Thresholding):
    timestep_spacing: Spacing = "linspace"
    solver_order: int = _number(2, 1, 3)
    algorithm_type: Literal[
        "dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"
    ] = "dpmsolver++"  # fmt: skip
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False
    final_sigmas_type: Final = "zero"
    lambda_min_clipped: float | None = None  # None: minus infinity
    variance_type: str | None = None  # DDPM's; only the learned kinds would matter
    rescale_betas_zero_snr: bool = False

    @property
    def predicts_noise(self) -> bool:
        return not self.algorithm_type.endswith("++")

    @property
    def stochastic(self) -> bool:
        return self.algorithm_type.startswith("sde")

    def __post_init__(self) -> None:
        self.check_sigmas()
        _refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting")
        if self.variance_type in ("learned", "learned_range"):
            raise ValueError(f"variance_type {self.variance_type!r} is not supported")
        if self.use_lu_lambdas and (self.use_karras_sigmas or self.use_exponential_sigmas):
            raise ValueError("use_lu_lambdas excludes the other use_*_sigmas")
        if self.predicts_noise and self.final_sigmas_type == "zero":
            raise ValueError(
                f"algorithm_type {self.algorithm_type!r} needs final_sigmas_type 'sigma_min'"
            )
        if self.predicts_noise and self.thresholding:
            raise ValueError(f"algorithm_type {self.algorithm_type!r} excludes thresholding")
        if self.algorithm_type == "sde-dpmsolver" and self.solver_order == 3:
            raise ValueError("algorithm_type 'sde-dpmsolver' has solver_order 1 or 2, not 3")


@dataclass(frozen=True)
class UniPCConfig(NoiseConfig, _SigmaSpacing, _Thresholding):
    timestep_spacing: Spacing = "linspace"
    solver_order: int = _number(2, 1, 3)
    predict_x0: bool = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = field(default=(), metadata={"max_items": MAX_TRAIN_STEPS})
    solver_p: None = None
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False
    final_sigmas_type: Final = "zero"
    rescale_betas_zero_snr: bool = False
    sigma_min: float | None = _number(None, 1e-9, 1e9)
    sigma_max: float | None = _number(None, 1e-9, 1e9)

    def __post_init__(self) -> None:
        self.check_sigmas()
        _refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting")
        if (
            self.final_sigmas_type == "zero"
            and not self.lower_order_final
            and self.solver_order > 1
        ):
            raise ValueError(
                "lower_order_final false with final_sigmas_type 'zero' divides by zero in the "
                "last step; use 'sigma_min'"
            )


#: name -> (diffusers class, config, keys that the name itself sets)
SAMPLERS: dict[str, tuple[str, type[NoiseConfig], dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", DDIMConfig, {}),
    "ddpm": ("DDPMScheduler", DDPMConfig, {}),
    "euler": ("EulerDiscreteScheduler", EulerConfig, {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", EulerAncestralConfig, {}),
    "heun": ("HeunDiscreteScheduler", HeunConfig, {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", DPMSolverConfig, {}),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        DPMSolverConfig,
        {"use_karras_sigmas": True},
    ),
    "unipc": ("UniPCMultistepScheduler", UniPCConfig, {}),
    "lcm": ("LCMScheduler", LCMConfig, {}),
    "pndm": ("PNDMScheduler", PNDMConfig, {}),
}
#: diffusers class -> our name
CLASSES = {cls: name for name, (cls, _, extra) in SAMPLERS.items() if not extra}

# What a solver makes of another family's solver_type and algorithm_type, as diffusers does.
_SYNONYMS = {
    "DPMSolverMultistepScheduler": {
        "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
        "algorithm_type": {"deis": "dpmsolver++"},
    },
    "UniPCMultistepScheduler": {
        "solver_type": {"midpoint": "bh2", "heun": "bh2", "logrho": "bh2"},
    },
}


def read_scheduler_config(
    data: object, name: str | None, stable_diffusion: bool, where: str
) -> tuple[str, NoiseConfig]:
    """Our name for the sampler and its checked config; see `from_config` for the arguments."""
    if name is not None and name not in SAMPLERS:
        raise RequestError(
            f"scheduler: expected one of {', '.join(sorted(SAMPLERS))}, got {name!r:.100}"
        )
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {type(data).__name__}")
    saved_class = data.get("_class_name")
    if not isinstance(saved_class, str) or saved_class not in CLASSES:
        raise ConfigError(
            f"{where}: _class_name is {saved_class!r:.100}, supported are "
            f"{', '.join(sorted(CLASSES))}"
        )
    keys = _translate(data, saved_class)
    target, cls, extra = SAMPLERS[name or CLASSES[saved_class]]
    if stable_diffusion:
        _correct_outdated(keys, cls if name is None else None)
    keys = _translate(keys, target) | extra | {"_class_name": target}
    return name or CLASSES[saved_class], read_config(cls, keys, where)


def _translate(keys: dict, cls_name: str) -> dict:
    """`keys` in the words of a diffusers class."""
    result = dict(keys)
    for key, words in _SYNONYMS.get(cls_name, {}).items():
        if isinstance(result.get(key), str):
            result[key] = words.get(result[key], result[key])
    if result.get("lambda_min_clipped") == -math.inf:
        del result["lambda_min_clipped"]
    return result


def _correct_outdated(keys: dict, own_class: type | None) -> None:
    """What diffusers' Stable Diffusion 1.x/2.x pipelines do to the scheduler they are given.

    They set steps_offset to 1 and clip_sample to False in the loaded scheduler. A sampler that is
    named instead takes a corrected value only where the checkpoint saved the key at all.
    own_class: the config class if the checkpoint's own sampler runs, else None.
    """
    for key in ("steps_offset", "clip_sample"):
        if hasattr(own_class, key):
            keys.setdefault(key, getattr(own_class, key))
    if type(keys.get("steps_offset")) is int:
        keys["steps_offset"] = 1
    if keys.get("clip_sample") is True:
        keys["clip_sample"] = False
