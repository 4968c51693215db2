"""What a model's output m says about the sample x: coefficients (p, q) of p x + q m."""

import math

from ..errors import ConfigError
from .config import Clipping, Thresholding


def clean_from(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """The clean sample, where x = alpha clean + sigma noise.

    prediction: "epsilon" (m is the noise), "v_prediction" (m = alpha noise - sigma clean;
    Salimans & Ho 2022, arXiv:2202.00512) or "sample" (m is the clean sample).
    Raises ConfigError where it cannot be had: from epsilon without any signal.
    """
    if prediction == "epsilon":
        if alpha == 0:
            raise ConfigError(
                "scheduler config: prediction_type 'epsilon' cannot start from zero terminal SNR "
                "(rescale_betas_zero_snr); expected 'v_prediction' or 'sample'"
            )
        return 1 / alpha, -sigma / alpha
    if prediction == "v_prediction":
        return alpha, -sigma
    return 0.0, 1.0


def noise_from(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """The noise, where x = alpha clean + sigma noise."""
    if prediction == "epsilon":
        return 0.0, 1.0
    if prediction == "v_prediction":
        return sigma, alpha
    return 1 / sigma, -alpha / sigma


def clean_from_scaled(prediction: str, sigma: float) -> tuple[float, float]:
    """The clean sample, where x = clean + sigma noise and the model was given x / scale(sigma)."""
    scale = input_scale(sigma)
    p, q = clean_from(prediction, scale, sigma * scale)
    return p * scale, q


def slope_from_scaled(prediction: str, sigma: float) -> tuple[float, float]:
    """dx / dsigma = (x - clean) / sigma, which keeps its digits where sigma is small."""
    if prediction == "epsilon":
        return 0.0, 1.0
    if prediction == "v_prediction":
        return sigma / (sigma**2 + 1), input_scale(sigma)
    return 1 / sigma, -1 / sigma


def input_scale(sigma: float) -> float:
    """1 / sqrt(sigma^2 + 1): from clean + sigma noise to unit variance."""
    return 1 / math.sqrt(sigma * sigma + 1)


def limit_of(config: Clipping) -> float:
    """How far from 0 the predicted clean sample may be; thresholding sets its own limit."""
    if config.clip_sample and not getattr(config, "thresholding", False):
        return config.clip_sample_range
    return math.inf


def threshold_of(config: Thresholding) -> tuple[float, float] | None:
    """(ratio, largest) of dynamic thresholding, or None."""
    if not config.thresholding:
        return None
    return config.dynamic_thresholding_ratio, config.sample_max_value
