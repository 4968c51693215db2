"""DEIS, multistep, in log rho. Zhang & Chen 2022, arXiv:2204.13902, eq. 14 and table 1 (rho AB).

Exponential integrator of noise predictions: x' = (alpha' / alpha) x - sigma' times the integral of
e^h' eps over the step in lambda, with eps the polynomial through the last outputs. rho = sigma /
alpha, so log rho is -lambda, and the weights are DPM-Solver's with the whole last term.
"""

import math

from .dpmsolver import by_age, phi, split
from .noise import inner_sigmas
from .plan import Evaluation, Plan, row
from .predict import noise_from
from .request import Request
from .solver_config import DEISConfig

_FEW_STEPS = 15  # below this the last steps may be taken at a lower order


def plan(config: DEISConfig, request: Request) -> Plan:
    timesteps, inner, last = inner_sigmas(config, request.steps)
    sigmas = [*inner.astype("float32").astype(float).tolist(), last]
    n = len(timesteps)
    begin = request.begin(timesteps, config)

    def order_of(i: int) -> int:
        most = min(config.solver_order, i - begin + 1)
        few = config.lower_order_final and n < _FEW_STEPS
        return min(most, n - i) if few else most

    def evaluation(i: int) -> Evaluation:
        return _evaluation(config, timesteps[i], sigmas[max(i - 2, 0) : i + 2], order_of(i))

    return Plan(
        sampler="deis",
        evaluations=tuple(evaluation(i) for i in range(begin, n)),
        init_noise_sigma=1.0,
        begin=begin,
    )


def _evaluation(config: DEISConfig, t: int, sigmas: list[float], order: int) -> Evaluation:
    """sigmas: of up to two evaluations before, of this one and of the next."""
    *_, here, after = sigmas
    (alpha, sigma), (alpha_after, sigma_after) = split(here), split(after)
    h = math.log(here / after)
    weights = [math.expm1(h), h * phi(2, h), 2 * h * phi(3, h)][:order]
    ages = by_age([-sigma_after * w for w in weights], sigmas)
    p, q = noise_from(config.prediction_type, alpha, sigma)
    outputs = dict(zip(("x_d", "x_d1", "x_d2"), ages, strict=False))
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        row=row(p=p, q=q, x_x=alpha_after / alpha, **outputs),
    )
