"""SA-Solver: stochastic Adams, predictor and corrector. Xue et al. 2023, arXiv:2309.05019.

The corrector of a step runs with the next model output, after which the next predictor follows at
once: one row does the two, as for UniPC. Corrector and predictor share the sample that they begin
from and the noise, so the corrected sample is the predicted one with other weights of the outputs.
"""

import math

import numpy as np

from .dpmsolver import phi, split
from .noise import inner_sigmas
from .plan import Evaluation, Plan, row
from .predict import clean_from, noise_from, threshold_of
from .request import Request
from .solver_config import SAConfig

_AGES = ("d", "d1", "d2", "d3")


def plan(config: SAConfig, request: Request) -> Plan:
    timesteps, inner, last = inner_sigmas(config, request.steps)
    sigmas = [*inner.astype(np.float32).astype(np.float64).tolist(), last]
    n = len(timesteps)
    begin = request.begin(timesteps, config)
    longest = max(config.predictor_order, config.corrector_order - 1)

    def order_of(i: int, highest: int, more: int) -> int:
        left = n - i + more if config.lower_order_final else highest
        return min(highest, left, min(i - begin, longest) + 1 + more)

    def predictor(i: int) -> tuple[float, list[float], float]:
        order = order_of(i, config.predictor_order, 0)
        step = (sigmas[i], sigmas[i + 1])
        return _update(config, timesteps[i], step, sigmas[i - order + 1 : i + 1][::-1])

    def corrector(i: int) -> list[float]:
        """Weights of the step that led to evaluation i, its own output's first."""
        order = order_of(i - 1, config.corrector_order, 1)
        step = (sigmas[i - 1], sigmas[i])
        return _update(config, timesteps[i - 1], step, sigmas[i - order + 1 : i + 1][::-1])[1]

    def evaluation(i: int) -> Evaluation:
        correction = np.zeros(len(_AGES))
        if i > begin:
            for sign, weights in ((1, corrector(i)), (-1, [0.0, *predictor(i - 1)[1]])):
                correction[: len(weights)] += sign * np.array(weights)
        on_x, weights, on_noise = predictor(i)
        outputs = on_x * correction
        outputs[: len(weights)] += weights
        return _evaluation(config, timesteps[i], sigmas[i], on_x, outputs.tolist(), on_noise)

    return Plan(
        sampler="sa_solver",
        evaluations=tuple(evaluation(i) for i in range(begin, n)),
        init_noise_sigma=1.0,
        begin=begin,
        threshold=threshold_of(config),
    )


def _evaluation(
    config: SAConfig, t: int, sigma: float, on_x: float, outputs: list[float], on_noise: float
) -> Evaluation:
    convert = clean_from if config.algorithm_type == "data_prediction" else noise_from
    level = split(sigma)
    p, q = convert(config.prediction_type, *level)
    ages = {f"x_{age}": weight for age, weight in zip(_AGES, outputs, strict=True)}
    return Evaluation(
        timestep=t,
        level=level,
        draws_noise=True,
        row=row(p=p, q=q, x_x=on_x, x_noise=on_noise, **ages),
    )


def _update(
    config: SAConfig, t: int, step: tuple[float, float], nodes: list[float]
) -> tuple[float, list[float], float]:
    """Coefficients of the sample at the step's begin, of the outputs at `nodes`, of the noise.

    t: the timestep of the step's begin.  step: sigmas of its ends.  nodes: sigmas of outputs,
    newest first; the step's end itself is the first of them for a corrector.
    """
    here, after = step
    tau = 1.0 if 200 <= t <= 800 else 0.0  # stochastic in the middle of the run, as diffusers
    k = 1 + tau**2
    h = math.log(here / after)
    (alpha_here, sigma_here), (alpha, sigma) = split(here), split(after)
    places = [math.log(here / node) for node in nodes]
    if config.algorithm_type == "noise_prediction":
        weights = [-k * sigma * w for w in _integrals(places, h, h)]
        return alpha / alpha_here, weights, tau * sigma * math.sqrt(math.expm1(2 * h))
    weights = [k * alpha * w for w in _integrals(places, h, -k * h)]
    if len(nodes) == 2:
        # What diffusers (and the authors' code) add at order 2.
        more = k * alpha * h**2 * (0.5 - phi(2, -k * h)) / (places[0] - places[1])
        weights = [weights[0] + more, weights[1] - more]
    on_noise = sigma * math.sqrt(-math.expm1(-2 * tau**2 * h))
    return math.exp(-(tau**2) * h) * sigma / sigma_here, weights, on_noise


def _integrals(places: list[float], h: float, z: float) -> list[float]:
    """Integrals over s in 0..h of e^(z (1 - s / h)) times each place's Lagrange polynomial."""
    powers = range(len(places))
    moments = [h ** (n + 1) * math.factorial(n) * phi(n + 1, z) for n in powers][::-1]
    result = []
    for j, place in enumerate(places):
        others = [other for i, other in enumerate(places) if i != j]
        scale = math.prod(place - other for other in others)
        result.append(float(np.dot(np.atleast_1d(np.poly(others)), moments)) / scale)
    return result
