"""A sampler of one's own: a plan made by hand, and the shipped model driven by it.

The sampler is the two-step Adams-Bashforth method over sigmas: with d the slope dx / dsigma of this
evaluation and d1 that of the last, x' = x + (sigma' - sigma) ((1 + r / 2) d - r / 2 d1), r the
ratio of the two steps. As any sampler here it is linear in what it has seen, so it is a table.

python examples/own_sampler.py picture.png
"""

import math
import sys

import torch

import pyengine
from pyengine.images import from_tensor
from pyengine.schedules import Evaluation, Plan, from_config
from pyengine.schedules.plan import row


def adams_bashforth(steps: int, config: dict[str, object]) -> Plan:
    """The plan over Euler's noise levels, for models that predict v."""
    euler = from_config(config, "euler").plan(steps)
    sigmas = [*(evaluation.level[1] for evaluation in euler.evaluations), 0.0]
    evaluations = []
    for i, t in enumerate(euler.timesteps):
        sigma, step = sigmas[i], sigmas[i + 1] - sigmas[i]
        r = step / (sigma - sigmas[i - 1]) if i else 0.0
        # The slope of v: x sigma / (sigma^2 + 1) + v / sqrt(sigma^2 + 1), what the row remembers.
        slope = {"p": sigma / (sigma**2 + 1), "q": 1 / math.sqrt(sigma**2 + 1)}
        update = {"x_x": 1.0, "x_d": step * (1 + r / 2), "x_d1": -step * r / 2}
        evaluations.append(
            Evaluation(
                timestep=t,
                row=row(**slope, **update),
                level=(1.0, sigma),
                in_scale=1 / math.sqrt(sigma**2 + 1),
            )
        )
    return Plan("adams_bashforth", tuple(evaluations), euler.init_noise_sigma)


def main(target: str, steps: int = 12) -> None:
    pipe = pyengine.StableDiffusionPipeline.from_pretrained("emoji")
    plan = adams_bashforth(steps, dict(pipe.scheduler.config))
    text, negative = pipe.encode_prompt("a red heart")
    assert negative is not None
    context = pipe.unet.encode_context(torch.cat([negative, text]))
    generator = torch.Generator().manual_seed(1)
    size = pipe.unet.config.sample_size
    state = plan.start(torch.randn(1, 4, size, size, generator=generator))
    for i, t in enumerate(plan.timesteps):
        x = plan.scale_input(i, state.x).repeat(2, 1, 1, 1)  # unconditional rows first
        out = pipe.unet(x, t, context, return_dict=False)[0]
        state = plan.step(i, state, out, guidance_scale=3.0)
    from_tensor(pipe.pixels_of(state.x), "pil")[0].save(target)
    print(plan.describe())


if __name__ == "__main__":
    main(sys.argv[1])
