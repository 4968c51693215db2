"""Noise schedules: betas, the alphas they leave, sigmas, and the timesteps that a run visits.

Kept in float32 wherever training code and diffusers keep them so, because timesteps are rounded
from these numbers; the coefficient tables are computed in float64 from what is here.
Units: sigma is the noise level relative to the signal, sqrt((1 - a) / a), with a = prod(1 - beta).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, RequestError
from .config import NoiseConfig, RespacedConfig, SamplerConfig, SigmaSpacing, SpacedConfig
from .solver_config import SinglestepConfig

#: The last alpha where its true value would be 0 and sigma infinite (the smallest fp16 subnormal).
TINY_ALPHA = 2.0**-24


def _cosine(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _exponential(t: float) -> float:
    return math.exp(-12.0 * t)


def _laplace(t: float) -> float:
    log_snr = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    snr = math.exp(log_snr)
    return math.sqrt(snr / (1 + snr))


_CURVES = {"squaredcos_cap_v2": _cosine, "exp": _exponential, "laplace": _laplace}


def betas(config: NoiseConfig) -> Tensor:
    """[num_train_timesteps] float32: the variance added at each training timestep.

    linear: Ho et al. 2020, arXiv:2006.11239; scaled_linear: latent diffusion, arXiv:2112.10752;
    squaredcos_cap_v2 (cosine): Nichol & Dhariwal 2021, arXiv:2102.09672.
    """
    n, low, high = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas is not None:
        if len(config.trained_betas) != n:
            raise ConfigError(
                f"scheduler config: trained_betas has {len(config.trained_betas)} values, "
                f"num_train_timesteps is {n}"
            )
        return torch.tensor(config.trained_betas, dtype=torch.float32)
    kind = config.beta_schedule
    if kind == "linear":
        return torch.linspace(low, high, n, dtype=torch.float32)
    if kind == "scaled_linear":
        return torch.linspace(low**0.5, high**0.5, n, dtype=torch.float32) ** 2
    if kind == "sigmoid":
        share: Tensor = torch.sigmoid(torch.linspace(-6, 6, n))
        return share * (high - low) + low
    curve = _CURVES[kind]
    steps = (1 - curve((i + 1) / n) / curve(i / n) for i in range(n))
    return torch.tensor([min(beta, 0.999) for beta in steps], dtype=torch.float32)


def zero_terminal_snr(beta: Tensor) -> Tensor:
    """Betas moved and scaled so that the last timestep is pure noise.

    Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    root = torch.cumprod(1.0 - beta, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    alpha_bar = root**2
    alpha = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return 1 - alpha


def alphas_cumprod(config: NoiseConfig, floor: bool = False) -> Tensor:
    """[num_train_timesteps] float32: the share of signal variance left at each timestep.

    floor: give the last one TINY_ALPHA instead of zero after rescaling to zero terminal SNR, for
    samplers that count in sigmas.
    """
    beta = betas(config)
    rescale = getattr(config, "rescale_betas_zero_snr", False)
    if rescale:
        beta = zero_terminal_snr(beta)
    alpha_bar = torch.cumprod(1.0 - beta, dim=0)
    if rescale and floor:
        alpha_bar[-1] = TINY_ALPHA
    low, high = alpha_bar.min().item(), alpha_bar.max().item()
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise ConfigError(
            f"scheduler config: the betas leave a share of signal of {low} to {high}, "
            "expected 0 to 1"
        )
    return alpha_bar


def training_sigmas(config: NoiseConfig) -> np.ndarray:
    """[num_train_timesteps] float32, ascending: sigma of each training timestep."""
    alpha_bar = alphas_cumprod(config, floor=True)
    sigmas = (((1 - alpha_bar) / alpha_bar) ** 0.5).numpy()
    # Not all ascending: TINY_ALPHA may be more than what is left before it (linear betas).
    if not (np.isfinite(sigmas).all() and sigmas.min() > 0):
        raise ConfigError(
            f"scheduler config: the betas give sigmas of {sigmas.min()} to {sigmas.max()}, "
            "expected positive and finite ones"
        )
    return sigmas


def spaced(config: SpacedConfig, n: int, dtype: type[np.number[Any]] = np.int64) -> np.ndarray:
    """[n] timesteps, descending, spread over the training timesteps.

    dtype: int64, or a floating one for samplers whose linspace is not rounded.
    Lin et al. 2023, arXiv:2305.08891, table 2.
    """
    train = config.num_train_timesteps
    steps: np.ndarray
    if config.timestep_spacing == "linspace":
        if dtype != np.int64:
            return np.linspace(0, train - 1, n, dtype=dtype)[::-1].copy()
        steps = np.linspace(0, train - 1, n).round()[::-1]
    elif config.timestep_spacing == "leading":
        steps = (np.arange(n) * (train // n))[::-1] + config.steps_offset
    else:
        steps = _trailing(train, train, n)
    return steps.astype(dtype)


def spaced_inner(config: SpacedConfig | SinglestepConfig, n: int, last: int) -> np.ndarray:
    """[n] int64 timesteps, descending: n + 1 of them spread, without the lowest.

    last: one more than the highest timestep to visit.
    """
    train = config.num_train_timesteps
    steps: np.ndarray
    if config.timestep_spacing == "linspace":
        steps = np.linspace(0, last - 1, n + 1).round()[:0:-1]
    elif config.timestep_spacing == "leading":
        steps = (np.arange(n + 1) * (last // (n + 1)))[:0:-1] + config.steps_offset
    else:
        steps = _trailing(train, last, n)
    return steps.astype(np.int64)


def _trailing(train: int, last: int, n: int) -> np.ndarray:
    # For n = 61 and some others the last of arange's values is a rounding error above 0, hence
    # one step too many, at timestep -1. diffusers takes that step; we do not.
    steps = np.arange(last, 0, -train / n).round() - 1
    return steps[:n][steps[:n] >= 0]


def interpolate(timesteps: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """float64 sigmas at (fractional) timesteps."""
    found: np.ndarray = np.interp(timesteps, np.arange(len(sigmas)), sigmas)
    return found


def timestep_of(
    sigma: float | np.floating[Any] | np.ndarray, log_sigmas: np.ndarray, narrow: bool = False
) -> float | np.floating[Any]:
    """The fractional training timestep whose sigma this is, linear in log sigma.

    sigma: a float or NumPy scalar; its type decides the precision.
    log_sigmas: of the training timesteps; the last of them that is not above sigma counts.
    narrow: compute the result in sigma's type too, not in float64.
    """
    if len(log_sigmas) == 1:
        return 0.0
    log_sigma = np.log(np.maximum(sigma, 1e-10))
    low = np.flatnonzero(log_sigmas <= log_sigma)[-1:].sum()
    low = min(int(low), len(log_sigmas) - 2)
    below, above = log_sigmas[low], log_sigmas[low + 1]
    w = np.clip((below - log_sigma) / (below - above), 0, 1)
    place = w.dtype.type(low) if narrow else np.int64(low)
    found: np.floating[Any] = (1 - w) * place + w * (place + 1)
    return found


def karras(sigma_min: float, sigma_max: float, n: int) -> np.ndarray:
    """[n] float64 sigmas, descending. Karras et al. 2022, arXiv:2206.00364, eq. 5, rho = 7."""
    low, high = sigma_min ** (1 / 7.0), sigma_max ** (1 / 7.0)
    sigmas: np.ndarray = (high + np.linspace(0, 1, n) * (low - high)) ** 7.0
    return sigmas


def exponential(sigma_min: float, sigma_max: float, n: int) -> np.ndarray:
    """[n] float64 sigmas, descending, evenly spaced in log sigma."""
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), n))


def beta_spaced(sigma_min: float, sigma_max: float, n: int) -> np.ndarray:
    """[n] float64 sigmas, descending: quantiles of a symmetric beta distribution.

    Lee et al. 2024, arXiv:2407.12173.
    """
    return sigma_min + beta_quantile(1 - np.linspace(0, 1, n), 0.6) * (sigma_max - sigma_min)


def beta_quantile(p: np.ndarray, a: float) -> np.ndarray:
    """x [n] with I_x(a, a) = p: quantiles of the beta distribution whose two parameters are a.

    p: [n] float64 in 0..1.  a: above 0, at most 1.  Newton's method in log x and log p, in which
    the lower half is nearly a line, of slope a; the upper half is its mirror image.
    """
    lower = np.minimum(p, 1 - p)
    inside = lower > 0
    log_p = np.log(lower[inside])
    # B(a, a) = gamma(a)^2 / gamma(2 a), and I_x(a, a) -> x^a / (a B(a, a)) for small x.
    log_scale = 2 * math.lgamma(a) - math.lgamma(2 * a) + math.log(a)
    x = np.minimum(np.exp((log_p + log_scale) / a), 0.5)
    for _ in range(12):
        series = _beta_series(x, a)
        log_slope = (1 - x) ** (a - 1) / series * a
        x = np.minimum(
            x * np.exp((log_p + log_scale - a * np.log(x) - np.log(series)) / log_slope), 0.5
        )
    result = np.zeros_like(p)
    result[inside] = x
    return np.where(p > 0.5, 1 - result, result)


def _beta_series(x: np.ndarray, a: float) -> np.ndarray:
    """F(a, 1 - a; a + 1; x) for x in 0..1/2: I_x(a, a) without its factor x^a / (a B(a, a))."""
    total = term = np.ones_like(x)
    for k in range(60):
        term = term * x * ((k + 1 - a) / (k + 1))
        total = total + term * (a / (a + k + 1))
    return total


def respaced(config: SigmaSpacing, sigma_min: float, sigma_max: float, n: int) -> np.ndarray | None:
    """The sigmas that a `use_*_sigmas` option asks for, or None where none does."""
    if config.use_karras_sigmas:
        return karras(sigma_min, sigma_max, n)
    if config.use_exponential_sigmas:
        return exponential(sigma_min, sigma_max, n)
    if config.use_beta_sigmas:
        return beta_spaced(sigma_min, sigma_max, n)
    return None


def spaced_sigmas(
    config: RespacedConfig,
    n: int,
    dtype: type[np.number[Any]] = np.float32,
    own: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """[n] timesteps in `dtype` (float64 where sigmas are respaced) and their float64 sigmas.

    For samplers whose respaced sigmas run between those of the first and the last timestep.
    own: the caller's timesteps, or None.
    """
    train = training_sigmas(config)
    timesteps = spaced(config, n, dtype) if own is None else np.array(own, dtype=dtype)
    sigmas = interpolate(timesteps, train)
    chosen = respaced(config, float(sigmas[-1]), float(sigmas[0]), n)
    if chosen is None:
        return timesteps, sigmas
    log_sigmas = np.log(train)
    return np.array([timestep_of(s, log_sigmas) for s in chosen]), chosen


def inner_sigmas(
    config: RespacedConfig | SinglestepConfig, n: int, own: np.ndarray | None = None
) -> tuple[list[int], np.ndarray, float]:
    """[n] timesteps, their float64 sigmas, and the sigma that is left after the last step.

    For solvers whose respaced sigmas run between the ends of training.
    own: [n] int64, the caller's timesteps, or None.
    """
    train = training_sigmas(config)
    sigmas = respaced(config, float(train[0]), float(train[-1]), n)
    if sigmas is None:
        timesteps = spaced_inner(config, n, clipped_end(config)) if own is None else own
        return timesteps.tolist(), interpolate(timesteps, train), float(train[0])
    log_sigmas = np.log(train)
    timesteps = np.array([timestep_of(s, log_sigmas) for s in sigmas])
    if config.use_karras_sigmas:
        timesteps = timesteps.round()
    return timesteps.astype(np.int64).tolist(), sigmas, float(sigmas[-1])


def clipped_end(config: NoiseConfig) -> int:
    """One more than the highest timestep whose lambda, log(alpha / sigma), is not too small."""
    least: float | None = getattr(config, "lambda_min_clipped", None)
    if least is None:
        return config.num_train_timesteps
    alpha_bar = alphas_cumprod(config, floor=True)
    lambdas = torch.log(alpha_bar.sqrt()) - torch.log((1 - alpha_bar).sqrt())
    too_small = torch.searchsorted(lambdas.flip(0), least)
    return config.num_train_timesteps - int(too_small)


def check_range(timesteps: np.ndarray, config: SamplerConfig) -> None:
    """Raise RequestError unless every timestep indexes a training timestep."""
    train = config.num_train_timesteps
    if len(timesteps) == 0 or timesteps.min() < 0 or timesteps.max() >= train:
        seen = f"{timesteps.min()} to {timesteps.max()}" if len(timesteps) else "none"
        raise RequestError(
            f"timesteps: expected 0 to {train - 1} (num_train_timesteps - 1), got {seen}; "
            "use fewer num_inference_steps"
        )
