"""What a scheduler_config.json may say of solvers of higher order and of EDM's samplers."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .config import (
    MAX_TRAIN_STEPS,
    Betas,
    Final,
    NoiseConfig,
    RespacedConfig,
    SamplerConfig,
    SigmaSpacing,
    Spacing,
    Thresholding,
    number,
    refuse_set,
)


@dataclass(frozen=True)
class SolverConfig(RespacedConfig):
    """Of those whose respaced sigmas run between the ends of training, not of timesteps."""

    beta_schedule: Betas = "linear"
    timestep_spacing: Spacing = "linspace"

    @property
    def takes_spacing(self) -> bool:
        return not self.respaces


class Algorithm:
    """What the names of DPM-Solver's kinds say."""

    algorithm_type: str

    @property
    def predicts_noise(self) -> bool:
        return not self.algorithm_type.endswith("++")

    @property
    def stochastic(self) -> bool:
        return self.algorithm_type.startswith("sde")


@dataclass(frozen=True)
class DPMSolverConfig(SolverConfig, Thresholding, Algorithm):
    takes_timesteps: ClassVar[bool] = True

    solver_order: int = number(2, 1, 3)
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"] = (
        "dpmsolver++"
    )
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False
    final_sigmas_type: Final = "zero"
    lambda_min_clipped: float | None = None  # None: minus infinity
    variance_type: str | None = None  # DDPM's: a variance that the model learned is left out
    rescale_betas_zero_snr: bool = False

    @property
    def takes_spacing(self) -> bool:
        return not (self.respaces or self.use_lu_lambdas)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting")
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
class UniPCConfig(SolverConfig, Thresholding):
    solver_order: int = number(2, 1, 3)
    predict_x0: bool = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = field(default=(), metadata={"max_items": MAX_TRAIN_STEPS})
    solver_p: None = None
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False
    final_sigmas_type: Final = "zero"
    rescale_betas_zero_snr: bool = False
    sigma_min: float | None = number(None, 1e-9, 1e9)
    sigma_max: float | None = number(None, 1e-9, 1e9)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting")
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
class DEISConfig(SolverConfig, Thresholding):
    solver_order: int = number(2, 1, 3)
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"
    lower_order_final: bool = True
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # What is remembered is the noise; a limited clean sample cannot be told from it later.
        refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting", "thresholding")


@dataclass(frozen=True)
class SinglestepConfig(NoiseConfig, SigmaSpacing, Thresholding, Algorithm):
    takes_timesteps: ClassVar[bool] = True
    timestep_spacing: ClassVar[Literal["linspace"]] = "linspace"

    solver_order: int = number(2, 1, 3)
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = False
    use_flow_sigmas: bool | None = False
    use_dynamic_shifting: bool = False
    final_sigmas_type: Final = "zero"
    lambda_min_clipped: float | None = None  # None: minus infinity
    variance_type: str | None = None  # DDPM's: a variance that the model learned is left out

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_set(self, "use_flow_sigmas", "use_dynamic_shifting")
        if self.predicts_noise and self.final_sigmas_type == "zero":
            raise ValueError("algorithm_type 'dpmsolver' needs final_sigmas_type 'sigma_min'")
        if self.predicts_noise and self.thresholding:
            raise ValueError("algorithm_type 'dpmsolver' excludes thresholding")


@dataclass(frozen=True)
class SAConfig(SolverConfig, Thresholding):
    predictor_order: int = number(2, 1, 3)
    corrector_order: int = number(2, 1, 4)
    tau_func: None = None
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lower_order_final: bool = True
    use_flow_sigmas: bool | None = False
    lambda_min_clipped: float | None = None  # None: minus infinity
    variance_type: str | None = None  # DDPM's: a variance that the model learned is left out

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_set(self, "use_flow_sigmas")
        if self.algorithm_type == "noise_prediction" and self.thresholding:
            raise ValueError("algorithm_type 'noise_prediction' excludes thresholding")


@dataclass(frozen=True)
class EDMConfig(SamplerConfig):
    """Sigmas by formula, without betas, and the model's preconditioning."""

    sigma_min: float = number(0.002, 1e-9, 1e9)
    sigma_max: float = number(80.0, 1e-9, 1e9)
    sigma_data: float = number(0.5, 1e-6, 1e6)
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    rho: float = number(7.0, 1e-3, 1e3)
    final_sigmas_type: Final = "zero"

    def __post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")


@dataclass(frozen=True)
class EDMEulerConfig(EDMConfig):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


@dataclass(frozen=True)
class EDMDPMSolverConfig(EDMConfig, Thresholding, Algorithm):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    solver_order: int = number(2, 1, 3)
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stochastic and self.solver_order == 3:
            raise ValueError("algorithm_type 'sde-dpmsolver++' has solver_order 1 or 2, not 3")
