"""Guidance by gradients: what a picture's sampler is told besides its network's output.

Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4. By torch's autograd over the specifications of
the ops (models.differentiable), which is several times slower than the kernels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..models import EncoderUNetModel, differentiable

Prediction = Literal["epsilon", "v_prediction", "sample"]


class GradientGuidance(Protocol):
    """What moves one picture by a gradient. name: the argument of calls that asks for it;
    prediction: what the network that it guides predicts.
    """

    @property
    def name(self) -> str: ...

    @property
    def prediction(self) -> Prediction: ...

    def gradient(self, x: Tensor, job: Any) -> Tensor:
        """[1, C, h, w]: what it follows, scale included, at the noised picture x [1, C, h, w] of
        the DenoisingJob; of variance 1 where picture and noise have.
        """
        ...


@contextmanager
def tracing() -> Iterator[None]:
    """Within the block gradients are computed on one thread: the last bits of torch's convolutions
    and sums depend on how many there are, and a picture's must not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with differentiable():
            yield
    finally:
        torch.set_num_threads(threads)


class Together:
    """Several that guide one picture: the sum of their gradients, in their order."""

    def __init__(self, parts: Sequence[GradientGuidance]):
        self.parts, self.name = tuple(parts), " and ".join(part.name for part in parts)
        self.prediction: Prediction = parts[0].prediction

    def gradient(self, x: Tensor, job: Any) -> Tensor:
        first, *others = (part.gradient(x, job).float() for part in self.parts)
        for g in others:
            first = first + g
        return first


def together(parts: Sequence[GradientGuidance]) -> GradientGuidance | None:
    """What moves a picture by all of `parts`; None where there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return Together(parts)


class ClassifierGuidance:
    """scale * gradient of log p(label | x, timestep). One picture at a time, so that its bits do
    not depend on others.
    """

    name = "classifier"

    def __init__(self, model: EncoderUNetModel, label: int, scale: float, prediction: Prediction):
        self.model, self.label, self.scale, self.prediction = model, label, scale, prediction

    def gradient(self, x: Tensor, job: Any) -> Tensor:
        timestep = job.plan.timesteps[job.position]
        with tracing():
            leaf = x.detach().clone().requires_grad_()
            log_p = self.model(leaf, timestep).log_softmax(dim=-1)[0, self.label]
            (found,) = torch.autograd.grad(log_p, leaf)
        return self.scale * found
