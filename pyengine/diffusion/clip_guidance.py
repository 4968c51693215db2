"""Guidance by CLIP: the gradient of how far a picture is from a text, through all that makes it.

After diffusers' community pipeline clip_guided_stable_diffusion, whose loss is a mean over the
batch; here each picture's gradient is its own, whatever is beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance import TEXT
from ..models import CLIPVisionModelWithProjection, TimeEmbedding
from .conditions import beside
from .controls import residuals_of
from .denoiser import Denoiser, ResidualDenoiser
from .gradients import Prediction, tracing
from .told import gather_contexts


@dataclass(frozen=True)
class ClipGuidance:
    """-scale * gradient of the squared great-circle distances of a picture to texts or pictures in
    CLIP's space, summed. The picture is decoded from the clean sample that the network predicts
    under what the picture is told last, its prompt or class.

    tower: float32. targets: [T, P]. mean, std: of CLIP's pixels. network: the pipeline's. pixels:
    [1, C or 1, H, W] in -1..1 of what is denoised.
    """

    tower: CLIPVisionModelWithProjection
    targets: Tensor
    scale: float
    prediction: Prediction
    mean: tuple[float, ...]
    std: tuple[float, ...]
    network: Denoiser
    pixels: Callable[[Tensor], Tensor]
    name = "clip_model"

    def gradient(self, x: Tensor, job: Any) -> Tensor:
        a, b = job.plan.evaluations[job.position].level
        alpha, sigma = a / math.hypot(a, b), b / math.hypot(a, b)
        with tracing():
            leaf = x.detach().float().requires_grad_()
            clean = self._clean(leaf, self._predicted(leaf, job), alpha, sigma)
            # Late in a run the picture itself counts more than what is predicted.
            shown = sigma * clean + (1 - sigma) * leaf
            (found,) = torch.autograd.grad(self._distance(shown), leaf)
        return -self.scale * found

    def _predicted(self, x: Tensor, job: Any) -> Tensor:
        """The network's output for x under what the picture is told last."""
        c = job.conditions
        row = c.row(TEXT, job.place)
        times = TimeEmbedding(
            tuple(_row(t, row) for t in c.times(self.network, job.plan, job.position).rows)
        )
        context = gather_contexts([c.context], [row])
        # What ControlNets add depends on the picture, too: the gradient goes through them.
        residuals = residuals_of([job], _OneRow(row), x)
        given = x
        if c.extra is not None:
            extra = c.extra_row(TEXT, job.place)
            given = torch.cat([x, c.extra[extra : extra + 1].to(x.dtype)], dim=1)
        with beside(c.adapters_of_rows[row : row + 1]):
            out: Tensor
            if residuals is None:
                out = self.network.evaluate(given, times, context)
            else:
                network = cast(ResidualDenoiser, self.network)
                out = network.evaluate(given, times, context, residuals)
        return out[:, : x.shape[1]].float()

    def _clean(self, x: Tensor, out: Tensor, alpha: float, sigma: float) -> Tensor:
        if self.prediction == "sample":
            return out
        if self.prediction == "v_prediction":
            return alpha * x - sigma * out
        return (x - sigma * out) / alpha

    def _distance(self, shown: Tensor) -> Tensor:
        picture = (self.pixels(shown).float() / 2 + 0.5).clamp(0, 1).expand(-1, 3, -1, -1)
        mean, std = (
            torch.tensor(v, device=picture.device).view(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        pixels = (middle(picture, self.tower.config.image_size) - mean) / std
        own = self.tower(pixels, return_dict=False)[0]
        chord = (F.normalize(own, dim=-1) - F.normalize(self.targets, dim=-1)).norm(dim=-1)
        distance: Tensor = chord.div(2).arcsin().square().mul(2).sum()
        return distance


@dataclass(frozen=True)
class _OneRow:
    """An evaluation of one row, what one picture is told last. row: of its conditions."""

    row: int
    entries = ((0, TEXT),)

    def source_rows(self, rows: Sequence[int]) -> list[int]:
        return [self.row for _ in rows]


def _row(t: Tensor, row: int) -> Tensor:
    return t if len(t) == 1 else t[row : row + 1]


def middle(picture: Tensor, side: int) -> Tensor:
    """[1, 3, H, W] -> [1, 3, side, side]: the shorter side made `side` long by antialiased
    bilinear interpolation, then the middle. In plain torch, since a gradient goes through.
    """
    height, width = picture.shape[2:]
    short = min(height, width)
    size = [side * s // short for s in (height, width)]
    picture = F.interpolate(
        picture, size=size, mode="bilinear", align_corners=False, antialias=True
    )
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return picture[:, :, top : top + side, left : left + side]
