"""What a scheduler_config.json may say, one dataclass per class of diffusers."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..weights import read_config

Prediction = Literal["epsilon", "sample", "v_prediction"]
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
#: Those of any sampler; most take only Betas.
AnyBetas = Betas | Literal["sigmoid", "laplace", "exp"]
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


def number(default: Any, low: float, high: float) -> Any:
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

    num_train_timesteps: int = number(1000, 1, MAX_TRAIN_STEPS)


@dataclass(frozen=True)
class NoiseConfig(SamplerConfig):
    """The noise schedule of training, and what the model predicts."""

    beta_start: float = number(0.0001, 1e-9, 0.999999)
    beta_end: float = number(0.02, 1e-9, 0.999999)
    beta_schedule: AnyBetas = "linear"
    trained_betas: tuple[float, ...] | None = field(
        default=None, metadata={"min": 0, "max": 1, "max_items": MAX_TRAIN_STEPS}
    )
    prediction_type: Prediction = "epsilon"


@dataclass(frozen=True)
class SpacedConfig(NoiseConfig):
    """Keys that spread a run over the timesteps of training."""

    timestep_spacing: Spacing = "leading"
    steps_offset: int = number(0, 0, MAX_TRAIN_STEPS)

    @property
    def takes_spacing(self) -> bool:
        """Whether timestep_spacing has an effect."""
        return True


@dataclass(frozen=True)
class Clipping:
    """Keys that limit the predicted clean sample."""

    clip_sample: bool = True
    clip_sample_range: float = number(1.0, 1e-6, 1e6)


@dataclass(frozen=True)
class Thresholding:
    """Dynamic thresholding: Saharia et al. 2022, arXiv:2205.11487, section 2.3."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = number(0.995, 0, 1)
    sample_max_value: float = number(1.0, 1e-6, 1e6)


@dataclass(frozen=True)
class SigmaSpacing:
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


@dataclass(frozen=True)
class RespacedConfig(SpacedConfig, SigmaSpacing):
    """Of those that can also be spread over sigmas."""


def refuse_set(config: Any, *names: str) -> None:
    """Raise ValueError where an option that pyengine lacks is set."""
    for name in names:
        if getattr(config, name):
            raise ValueError(f"{name} is {getattr(config, name)!r}, which is not supported")


@dataclass(frozen=True)
class DDPMConfig(SpacedConfig, Clipping, Thresholding):
    takes_timesteps: ClassVar[bool] = True

    beta_schedule: Betas | Literal["sigmoid", "laplace"] = "linear"
    rescale_betas_zero_snr: bool = False
    # None is what a DPM-Solver config saves; it means fixed_small. The learned ones are for models
    # that predict a variance beside the noise, in as many channels more.
    variance_type: (
        Literal["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"] | None
    ) = "fixed_small"


@dataclass(frozen=True)
class DDIMConfig(SpacedConfig, Clipping, Thresholding):
    beta_schedule: Betas = "linear"
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class PNDMConfig(SpacedConfig):
    beta_schedule: Betas = "linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


@dataclass(frozen=True)
class LCMConfig(SpacedConfig, Clipping, Thresholding):
    """Also TCD's, which has the same keys and limits nothing."""

    takes_timesteps: ClassVar[bool] = True
    thins: ClassVar[bool] = True

    beta_start: float = number(0.00085, 1e-9, 0.999999)
    beta_end: float = number(0.012, 1e-9, 0.999999)
    beta_schedule: Betas = "scaled_linear"
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    original_inference_steps: int = number(50, 1, MAX_TRAIN_STEPS)
    timestep_scaling: float = number(10.0, 0, 1e6)

    @property
    def takes_spacing(self) -> bool:
        return False


@dataclass(frozen=True)
class EulerConfig(RespacedConfig):
    takes_timesteps: ClassVar[bool] = True
    takes_sigmas: ClassVar[bool] = True

    beta_schedule: Betas = "linear"
    timestep_spacing: Spacing = "linspace"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = number(None, 1e-9, 1e9)
    sigma_max: float | None = number(None, 1e-9, 1e9)
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Final = "zero"


@dataclass(frozen=True)
class EulerAncestralConfig(SpacedConfig):
    beta_schedule: Betas = "linear"
    timestep_spacing: Spacing = "linspace"
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class HeunConfig(RespacedConfig, Clipping):
    takes_timesteps: ClassVar[bool] = True

    beta_start: float = number(0.00085, 1e-9, 0.999999)
    beta_end: float = number(0.012, 1e-9, 0.999999)
    beta_schedule: Betas | Literal["exp"] = "linear"
    timestep_spacing: Spacing = "linspace"
    clip_sample: bool = False


@dataclass(frozen=True)
class LMSConfig(RespacedConfig):
    beta_schedule: Betas = "linear"
    timestep_spacing: Spacing = "linspace"


@dataclass(frozen=True)
class KDPM2Config(RespacedConfig):
    """Of KDPM2 and its ancestral form."""

    beta_schedule: Betas = "linear"
    beta_start: float = number(0.00085, 1e-9, 0.999999)
    beta_end: float = number(0.012, 1e-9, 0.999999)
    timestep_spacing: Spacing = "linspace"


@dataclass(frozen=True)
class SDEConfig(KDPM2Config):
    noise_sampler_seed: int | None = None


@dataclass(frozen=True)
class IPNDMConfig(SamplerConfig):
    trained_betas: None = None  # of a run, not of training: they would hold for one length only


@dataclass(frozen=True)
class FlowEulerConfig(SamplerConfig, SigmaSpacing):
    """Sigmas from 1 to 0, without betas: those of flow matching."""

    shift: float = number(1.0, 1e-3, 1e3)
    #: A shift by the picture's size, which comes with the call in diffusers: not supported.
    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = number(256, 1, 1 << 24)
    max_image_seq_len: int = number(4096, 1, 1 << 24)
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    invert_sigmas: bool = False
    shift_terminal: float | None = number(None, 0, 0.999999)
    stochastic_sampling: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_set(self, "use_dynamic_shifting", "invert_sigmas")


@dataclass(frozen=True)
class UnCLIPConfig(SamplerConfig, Clipping):
    """A scheduler_config.json of diffusers' UnCLIPScheduler; names and defaults are its own."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("UnCLIPScheduler",)

    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "scheduler_config.json") -> "UnCLIPConfig":
        """From the parsed file; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)
