"""What a scheduler_config.json may say, one dataclass per class of diffusers."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

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
    algorithm_type base_image_seq_len base_shift beta_end beta_schedule beta_start clip_sample
    clip_sample_range corrector_order disable_corrector dynamic_thresholding_ratio euler_at_final
    final_sigmas_type flow_shift interpolation_type invert_sigmas lambda_min_clipped
    lower_order_final max_image_seq_len max_shift noise_sampler_seed original_inference_steps
    predict_epsilon predict_x0 prediction_type predictor_order rescale_betas_zero_snr rho s_noise
    sample_max_value set_alpha_to_one shift shift_terminal sigma_data sigma_max sigma_min
    sigma_schedule skip_prk_steps solver_order solver_p solver_type steps_offset stochastic_sampling
    tau_func tensor_format thresholding time_shift_type timestep_scaling timestep_spacing
    timestep_type trained_betas use_beta_sigmas use_dynamic_shifting use_exponential_sigmas
    use_flow_sigmas use_karras_sigmas use_lu_lambdas variance_type
    """.split()  # noqa: SIM905
)


def _number(default: Any, low: float, high: float) -> Any:
    return field(default=default, metadata={"min": low, "max": high})


@dataclass(frozen=True)
class SamplerConfig:
    """What every sampler has.

    takes_timesteps, takes_sigmas: whether a run may be given by its own, as diffusers' class lets
    it.  thins: whether strength may thin the timesteps of a run instead of cutting it.
    """

    IGNORED_KEYS: ClassVar[frozenset[str]] = FOREIGN_KEYS
    takes_timesteps: ClassVar[bool] = False
    takes_sigmas: ClassVar[bool] = False
    thins: ClassVar[bool] = False

    num_train_timesteps: int = _number(1000, 1, MAX_TRAIN_STEPS)


@dataclass(frozen=True)
class NoiseConfig(SamplerConfig):
    """The noise schedule of training, and what the model predicts."""

    beta_start: float = _number(0.0001, 1e-9, 0.999999)
    beta_end: float = _number(0.02, 1e-9, 0.999999)
    beta_schedule: Betas = "linear"
    trained_betas: tuple[float, ...] | None = field(
        default=None, metadata={"min": 0, "max": 1, "max_items": MAX_TRAIN_STEPS}
    )
    prediction_type: Prediction = "epsilon"


@dataclass(frozen=True)
class SpacedConfig(NoiseConfig):
    """Keys that spread a run over the timesteps of training."""

    timestep_spacing: Spacing = "leading"
    steps_offset: int = _number(0, 0, MAX_TRAIN_STEPS)

    @property
    def takes_spacing(self) -> bool:
        """Whether timestep_spacing has an effect."""
        return True


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

    @property
    def respaces(self) -> bool:
        """Whether one of the options is set."""
        return bool(self.use_karras_sigmas or self.use_exponential_sigmas or self.use_beta_sigmas)

    def __post_init__(self) -> None:
        names = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        chosen = [name for name in names if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other")


def _refuse_set(config: Any, *names: str) -> None:
    """Raise ValueError where an option that pyengine lacks is set."""
    for name in names:
        if getattr(config, name):
            raise ValueError(f"{name} is {getattr(config, name)!r}, which is not supported")


@dataclass(frozen=True)
class SolverConfig(SpacedConfig, _SigmaSpacing):
    """Of those whose respaced sigmas run between the ends of training, not of timesteps."""

    timestep_spacing: Spacing = "linspace"

    @property
    def takes_spacing(self) -> bool:
        return not self.respaces


@dataclass(frozen=True)
class DDPMConfig(SpacedConfig, _Clipping, _Thresholding):
    takes_timesteps: ClassVar[bool] = True

    beta_schedule: Literal[
        "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"
    ] = "linear"  # fmt: skip
    rescale_betas_zero_snr: bool = False
    # None is what a DPM-Solver config saves; it means fixed_small.
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large"] | None = "fixed_small"


@dataclass(frozen=True)
class DDIMConfig(SpacedConfig, _Clipping, _Thresholding):
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class PNDMConfig(SpacedConfig):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


@dataclass(frozen=True)
class LCMConfig(SpacedConfig, _Clipping, _Thresholding):
    """Also TCD's, which has the same keys and limits nothing."""

    takes_timesteps: ClassVar[bool] = True
    thins: ClassVar[bool] = True

    beta_start: float = _number(0.00085, 1e-9, 0.999999)
    beta_end: float = _number(0.012, 1e-9, 0.999999)
    beta_schedule: Betas = "scaled_linear"
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    original_inference_steps: int = _number(50, 1, MAX_TRAIN_STEPS)
    timestep_scaling: float = _number(10.0, 0, 1e6)

    @property
    def takes_spacing(self) -> bool:
        return False


@dataclass(frozen=True)
class EulerConfig(SpacedConfig, _SigmaSpacing):
    takes_timesteps: ClassVar[bool] = True
    takes_sigmas: ClassVar[bool] = True

    timestep_spacing: Spacing = "linspace"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = _number(None, 1e-9, 1e9)
    sigma_max: float | None = _number(None, 1e-9, 1e9)
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Final = "zero"


@dataclass(frozen=True)
class EulerAncestralConfig(SpacedConfig):
    timestep_spacing: Spacing = "linspace"
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class HeunConfig(SpacedConfig, _SigmaSpacing, _Clipping):
    takes_timesteps: ClassVar[bool] = True

    beta_start: float = _number(0.00085, 1e-9, 0.999999)
    beta_end: float = _number(0.012, 1e-9, 0.999999)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear"
    timestep_spacing: Spacing = "linspace"
    clip_sample: bool = False


class _Algorithm:
    """What the names of DPM-Solver's kinds say."""

    algorithm_type: str

    @property
    def predicts_noise(self) -> bool:
        return not self.algorithm_type.endswith("++")

    @property
    def stochastic(self) -> bool:
        return self.algorithm_type.startswith("sde")


@dataclass(frozen=True)
class DPMSolverConfig(SolverConfig, _Thresholding, _Algorithm):
    takes_timesteps: ClassVar[bool] = True

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
    def takes_spacing(self) -> bool:
        return not (self.respaces or self.use_lu_lambdas)

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting")
        if self.variance_type in ("learned", "learned_range"):
            raise ValueError(f"variance_type {self.variance_type!r} is not supported")
        if self.use_lu_lambdas and self.respaces:
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
class UniPCConfig(SolverConfig, _Thresholding):
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
        super().__post_init__()
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


@dataclass(frozen=True)
class DEISConfig(SolverConfig, _Thresholding):
    solver_order: int = _number(2, 1, 3)
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"
    lower_order_final: bool = True
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # What is remembered is the noise; a limited clean sample cannot be told from it later.
        _refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting", "thresholding")


@dataclass(frozen=True)
class SinglestepConfig(NoiseConfig, _SigmaSpacing, _Thresholding, _Algorithm):
    takes_timesteps: ClassVar[bool] = True
    timestep_spacing: ClassVar[str] = "linspace"

    solver_order: int = _number(2, 1, 3)
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = False
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False
    final_sigmas_type: Final = "zero"
    lambda_min_clipped: float | None = None  # None: minus infinity
    variance_type: str | None = None  # DDPM's; only the learned kinds would matter

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting")
        if self.variance_type in ("learned", "learned_range"):
            raise ValueError(f"variance_type {self.variance_type!r} is not supported")
        if self.predicts_noise and self.final_sigmas_type == "zero":
            raise ValueError("algorithm_type 'dpmsolver' needs final_sigmas_type 'sigma_min'")
        if self.predicts_noise and self.thresholding:
            raise ValueError("algorithm_type 'dpmsolver' excludes thresholding")


@dataclass(frozen=True)
class SAConfig(SolverConfig, _Thresholding):
    predictor_order: int = _number(2, 1, 3)
    corrector_order: int = _number(2, 1, 4)
    tau_func: None = None
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lower_order_final: bool = True
    use_flow_sigmas: bool | None = False
    lambda_min_clipped: float | None = None  # None: minus infinity
    variance_type: str | None = None  # DDPM's; only the learned kinds would matter

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_set(self, "use_flow_sigmas")
        if self.variance_type in ("learned", "learned_range"):
            raise ValueError(f"variance_type {self.variance_type!r} is not supported")
        if self.algorithm_type == "noise_prediction" and self.thresholding:
            raise ValueError("algorithm_type 'noise_prediction' excludes thresholding")


@dataclass(frozen=True)
class LMSConfig(SpacedConfig, _SigmaSpacing):
    timestep_spacing: Spacing = "linspace"


@dataclass(frozen=True)
class KDPM2Config(SpacedConfig, _SigmaSpacing):
    """Of KDPM2 and its ancestral form."""

    beta_start: float = _number(0.00085, 1e-9, 0.999999)
    beta_end: float = _number(0.012, 1e-9, 0.999999)
    timestep_spacing: Spacing = "linspace"


@dataclass(frozen=True)
class SDEConfig(KDPM2Config):
    noise_sampler_seed: int | None = None


@dataclass(frozen=True)
class IPNDMConfig(SamplerConfig):
    trained_betas: None = None  # of a run, not of training: they would hold for one length only


@dataclass(frozen=True)
class _EDMConfig(SamplerConfig):
    """Sigmas by formula, without betas, and the model's preconditioning."""

    sigma_min: float = _number(0.002, 1e-9, 1e9)
    sigma_max: float = _number(80.0, 1e-9, 1e9)
    sigma_data: float = _number(0.5, 1e-6, 1e6)
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    rho: float = _number(7.0, 1e-3, 1e3)
    final_sigmas_type: Final = "zero"

    def __post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")


@dataclass(frozen=True)
class EDMEulerConfig(_EDMConfig):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


@dataclass(frozen=True)
class EDMDPMSolverConfig(_EDMConfig, _Thresholding, _Algorithm):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    solver_order: int = _number(2, 1, 3)
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stochastic and self.solver_order == 3:
            raise ValueError("algorithm_type 'sde-dpmsolver++' has solver_order 1 or 2, not 3")
