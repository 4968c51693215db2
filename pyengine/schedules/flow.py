"""Flow matching: straight lines from noise to pictures, without betas.

Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206 (Stable Diffusion 3),
section 3.1 and, of the shift, 5.3.2. On x = (1 - sigma) clean + sigma noise the model predicts the
velocity dx / dsigma = noise - clean, so that Euler's step is

    x' = x + (sigma' - sigma) m

or, where it is to be stochastic, the predicted clean sample with fresh noise at sigma'.
"""

import numpy as np

from .config import FlowEulerConfig
from .noise import respaced
from .plan import Evaluation, Plan, row
from .request import Request


def plan(config: FlowEulerConfig, request: Request) -> Plan:
    sigmas = _sigmas(config, request.steps)
    times = (sigmas * np.float32(config.num_train_timesteps)).tolist()
    steps = [*sigmas.astype(np.float64).tolist(), 0.0]
    begin = request.begin(times, config)
    return Plan(
        sampler="flow_euler",
        evaluations=tuple(
            _evaluation(config, times[i], steps[i], steps[i + 1]) for i in range(begin, len(times))
        ),
        init_noise_sigma=1.0,
        begin=begin,
    )


def _sigmas(config: FlowEulerConfig, n: int) -> np.ndarray:
    """[n] float32, descending. The ends are shifted, and then all are, as in diffusers."""
    train = config.num_train_timesteps
    ends = _shifted(config, np.array([train, 1], dtype=np.float32) / np.float32(train))
    high, low = ends.astype(np.float32).astype(np.float64) * train
    sigmas = _shifted(config, np.linspace(high, low, n) / train)
    if config.shift_terminal:
        # Stretched so that the last is shift_terminal.
        sigmas = 1 - (1 - sigmas) * ((1 - config.shift_terminal) / (1 - sigmas[-1]))
    chosen = respaced(config, float(sigmas[-1]), float(sigmas[0]), n)
    return (sigmas if chosen is None else chosen).astype(np.float32)


def _shifted(config: FlowEulerConfig, sigmas: np.ndarray) -> np.ndarray:
    """More noise for larger pictures, whose neighbouring pixels say the same."""
    shifted: np.ndarray = config.shift * sigmas / (1 + (config.shift - 1) * sigmas)
    return shifted


def _evaluation(config: FlowEulerConfig, t: float, sigma: float, after: float) -> Evaluation:
    step = {"x_x": 1.0, "x_m": after - sigma}
    if config.stochastic_sampling:
        step = {"x_d": 1 - after, "x_noise": after}
    return Evaluation(
        timestep=t,
        level=(1 - sigma, sigma),
        draws_noise=config.stochastic_sampling,
        row=row(p=1.0, q=-sigma, **step),
    )
