"""UniPC: predictor and corrector of one family. Zhao et al. 2023, arXiv:2302.04867.

The corrector of step i runs with step i's model output, after which the next predictor follows at
once; both are linear, so one row does the two. y is the corrected sample.
"""

import math

import numpy as np

from .dpmsolver import phi
from .noise import interpolate, respaced, spaced_inner, timestep_of, training_sigmas
from .plan import Evaluation, Plan, row
from .predict import clean_from, input_scale, noise_from, threshold_of
from .request import Request
from .solver_config import UniPCConfig


def plan(config: UniPCConfig, request: Request) -> Plan:
    timesteps, sigmas = _schedule(config, request)
    n = len(timesteps)
    begin = request.begin(timesteps, config)

    def order_of(i: int) -> int:
        most = n - i if config.lower_order_final else config.solver_order
        return min(config.solver_order, most, i - begin + 1)

    def evaluation(i: int) -> Evaluation:
        corrects = i > begin and i - 1 not in config.disable_corrector
        return _evaluation(
            config,
            timesteps[i],
            sigmas[max(i - 3, 0) : i + 2],
            order_of(i),
            order_of(i - 1) if corrects else 0,
        )

    return Plan(
        sampler="unipc",
        evaluations=tuple(evaluation(i) for i in range(begin, n)),
        init_noise_sigma=1.0,
        begin=begin,
        threshold=threshold_of(config) if config.predict_x0 else None,
    )


def _schedule(config: UniPCConfig, request: Request) -> tuple[list[int], list[float]]:
    """Timesteps and, one longer, sigmas."""
    train = training_sigmas(config)
    n = request.steps
    low = float(train[0]) if config.sigma_min is None else config.sigma_min
    high = float(train[-1]) if config.sigma_max is None else config.sigma_max
    sigmas = respaced(config, low, high, n)
    last = train[0]
    if sigmas is not None:
        log_sigmas = np.log(train)
        timesteps = np.array([timestep_of(s, log_sigmas) for s in sigmas])
        if config.use_karras_sigmas:
            timesteps = timesteps.round()
        last = sigmas[-1]
    else:
        timesteps = spaced_inner(config, n, config.num_train_timesteps)
        sigmas = interpolate(timesteps, train)
    if config.final_sigmas_type == "zero":
        last = 0.0
    sigmas = np.concatenate([sigmas, [last]]).astype(np.float32).astype(np.float64)
    return timesteps.astype(np.int64).tolist(), sigmas.tolist()


def _evaluation(
    config: UniPCConfig, t: int, sigmas: list[float], order: int, corrector: int
) -> Evaluation:
    """sigmas: of up to three evaluations before, of this one and of the next.

    corrector: the order of the corrector, 0 for none.
    """
    after, here, *before = sigmas[::-1]
    alpha, sigma = input_scale(here), here * input_scale(here)
    convert = clean_from if config.predict_x0 else noise_from
    p, q = convert(config.prediction_type, alpha, sigma)
    # The corrected sample: from (base, D, d1, d2, d3), or x itself.
    kept = {"x": 1.0}
    if corrector:
        on_base, weights = _update(config, here, before, corrector, corrects=True)
        kept = {"base": on_base, **dict(zip(("d1", "d", "d2", "d3"), weights, strict=False))}
    on_kept, weights = _update(config, after, [here, *before], order, corrects=False)
    new = {name: on_kept * weight for name, weight in kept.items()}
    for name, weight in zip(("d", "d1", "d2"), weights, strict=False):
        new[name] = new.get(name, 0.0) + weight
    coefficients = {f"y_{k}": v for k, v in kept.items()} | {f"x_{k}": v for k, v in new.items()}
    return Evaluation(timestep=t, level=(alpha, sigma), row=row(p=p, q=q, **coefficients))


def _update(
    config: UniPCConfig, target: float, past: list[float], order: int, corrects: bool
) -> tuple[float, list[float]]:
    """One step to sigma = target from sigma = past[0]; past: sigmas, newest first.

    Returns the coefficient of the sample at past[0] and those of the outputs: at past[0], then
    (corrector only) at the target, then at past[1], past[2].
    """
    start = past[0]
    alpha, sigma = input_scale(target), target * input_scale(target)
    h = math.log(start / target) if target else math.inf
    if config.predict_x0:
        on_x, scale, z = sigma / (start * input_scale(start)), -alpha, -h
        first = scale * math.expm1(z)
    else:
        on_x, scale, z = alpha / input_scale(start), -sigma, h
        first = sigma - alpha * start  # -sigma (e^h - 1), also where sigma is 0
    ratios = [-math.log(s / start) / h for s in past[1:order]]
    rho = _weights(config, z, ratios, corrects)
    growth = z if config.solver_type == "bh1" else math.expm1(z)
    differences = [scale * growth * r / ratio for r, ratio in zip(rho, ratios, strict=False)]
    if corrects:
        differences.insert(0, scale * growth * rho[-1])
    return on_x, [first - sum(differences), *differences]


def _weights(config: UniPCConfig, z: float, ratios: list[float], corrects: bool) -> list[float]:
    """The rho of each difference: at `ratios`, and (corrector) at the target, ratio 1.

    Solves sum_k rho_k r_k^(i-1) = z phi_(i+1)(z) i! / B(z) for i = 1, 2...; the lowest orders
    take 1/2 instead, as the paper's code does.
    """
    points = [*ratios, 1.0] if corrects else ratios
    if len(points) == 1:
        return [0.5]
    if not points:
        return []
    growth = z if config.solver_type == "bh1" else math.expm1(z)
    powers = range(1, len(points) + 1)
    matrix = [[r ** (i - 1) for r in points] for i in powers]
    wanted = [z * phi(i + 1, z) * math.factorial(i) / growth for i in powers]
    found: list[float] = np.linalg.solve(matrix, wanted).tolist()
    return found
