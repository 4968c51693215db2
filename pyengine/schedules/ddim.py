"""DDIM. Song et al. 2020, arXiv:2010.02502, eqs. 12 and 16."""

import math

from .config import DDIMConfig
from .noise import alphas_cumprod, check_range, spaced
from .plan import Evaluation, Plan, row
from .predict import clean_from, limit_of, noise_from, threshold_of
from .request import Request


def plan(config: DDIMConfig, request: Request) -> Plan:
    a_bar = alphas_cumprod(config).double().tolist()
    final = 1.0 if config.set_alpha_to_one else a_bar[0]
    steps = spaced(config, request.steps)
    check_range(steps, config)
    stride = config.num_train_timesteps // request.steps

    def evaluation(t: int) -> Evaluation:
        # Always one stride back, whatever the spacing.
        a_next = a_bar[t - stride] if t >= stride else final
        return _evaluation(config, t, a_bar[t], a_next, request)

    begin = request.begin(steps.tolist(), config)
    return Plan(
        sampler="ddim",
        evaluations=tuple(evaluation(int(t)) for t in steps[begin:]),
        init_noise_sigma=1.0,
        begin=begin,
        threshold=threshold_of(config),
    )


def _evaluation(
    config: DDIMConfig, t: int, a: float, a_next: float, request: Request
) -> Evaluation:
    alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
    p, q = clean_from(config.prediction_type, alpha, sigma)
    # The direction to x_t comes from the model's output before clipping, or, where the call asks
    # for that, from the clipped clean sample: (x - alpha clean) / sigma.
    noise_x, noise_m, noise_d = *noise_from(config.prediction_type, alpha, sigma), 0.0
    if request.use_clipped_model_output:
        noise_x, noise_m, noise_d = 1 / sigma, 0.0, -alpha / sigma
    eta = request.eta
    variance = eta**2 * (1 - a_next) / (1 - a) * (1 - a / a_next)
    direction = math.sqrt(max(1 - a_next - variance, 0.0))
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        draws_noise=eta > 0,
        row=row(
            p=p,
            q=q,
            limit=limit_of(config),
            x_d=math.sqrt(a_next) + direction * noise_d,
            x_x=direction * noise_x,
            x_m=direction * noise_m,
            x_noise=math.sqrt(max(variance, 0.0)),
        ),
    )
