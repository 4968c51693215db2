"""DDPM: ancestral sampling. Ho et al. 2020, arXiv:2006.11239, algorithm 2 and eq. 7.

x' = mean + sqrt(variance) noise, where the variance is that of q(x' | x, clean) (fixed_small), the
step's beta (fixed_large), what the model predicts (learned), or between the first two in the
logarithm, by what the model predicts from -1 to 1 (learned_range: Nichol & Dhariwal 2021,
arXiv:2102.09672, eq. 15; DeepFloyd IF).
"""

import math

from .config import DDPMConfig, UnCLIPConfig
from .noise import alphas_cumprod, check_range, spaced
from .plan import Evaluation, Plan, learned_variance, row
from .predict import clean_from, limit_of, threshold_of
from .request import Request


def plan(config: DDPMConfig, request: Request) -> Plan:
    a_bar = alphas_cumprod(config).double().tolist()
    visited = request.own_timesteps()
    if visited is None:
        visited = spaced(config, request.steps)
    check_range(visited, config)
    steps = [int(t) for t in visited]
    following = [*steps[1:], -1]
    begin = request.begin(steps, config)
    return Plan(
        sampler="ddpm",
        evaluations=tuple(
            evaluation(config, t, a_bar[t], a_bar[after] if after >= 0 else 1.0)
            for t, after in list(zip(steps, following, strict=True))[begin:]
        ),
        init_noise_sigma=1.0,
        begin=begin,
        threshold=threshold_of(config),
        variance=learned_variance(config.variance_type),
    )


def evaluation(
    config: DDPMConfig | UnCLIPConfig,
    t: int,
    a: float,
    a_next: float,
    step: tuple[float, float] | None = None,
) -> Evaluation:
    """The step from timestep t, of signal variance a, to one of a_next.

    step: its (beta, 1 - beta), where those of training are rounded otherwise than a / a_next.
    """
    alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
    beta, kept = step or (1 - a / a_next, a / a_next)
    p, q = clean_from(config.prediction_type, alpha, sigma)
    variance = max((1 - a_next) / (1 - a) * beta, 1e-20)
    if config.variance_type == "fixed_large":
        variance = beta
    on_noise = {"x_noise": math.sqrt(variance)}
    if config.variance_type == "learned":
        on_noise = {"x_noise": 1.0, "v_v": 0.5}  # of its logarithm
    elif config.variance_type == "learned_range":
        # Half the logarithm: from the smaller at -1 to the larger at 1.
        low, high = math.log(variance), math.log(beta)
        on_noise = {"x_noise": 1.0, "v_1": (high + low) / 4, "v_v": (high - low) / 4}
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        draws_noise=t > 0,
        variance=variance,
        row=row(
            p=p,
            q=q,
            limit=limit_of(config),
            x_d=math.sqrt(a_next) * beta / (1 - a),
            x_x=math.sqrt(kept) * (1 - a_next) / (1 - a),
            **(on_noise if t > 0 else {}),
        ),
    )
