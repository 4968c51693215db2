"""Residual blocks with GELU, or with a scaled sum: those of DeepFloyd IF's U-Nets.

The kernels' prologue has SiLU alone, so a GELU comes between a norm and its convolution as an op of
its own: one pass more over each activation. Hendrycks & Gimpel 2016, arXiv:1606.08415.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ... import ops
from ...layers import GroupNorm
from .pooling import halved
from .resnet import ResnetBlock2D, modulated, nearest


def gelu(x: Tensor) -> Tensor:
    """GELU (erf) of [..., C], by the gated op with a value of 1.

    Not torch's, whose last bits depend on where its vectors end, and so on the batch.
    """
    return ops.geglu(torch.cat([torch.ones_like(x), x], dim=-1))


def activation(x: Tensor, name: str) -> Tensor:
    """SiLU or GELU of [..., C] by diffusers' names, of the same bits in any batch."""
    if name == "gelu":
        return gelu(x)
    return ops.swiglu(torch.cat([torch.ones_like(x), x], dim=-1))


def activated(norm: GroupNorm, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """GELU of the norm of x and of x2 beside it."""
    both = x if x2 is None else torch.cat([x, x2], dim=-1)
    return gelu(norm(both))


class VariantResnetBlock2D(ResnetBlock2D):
    """A ResnetBlock2D of another activation, whose sum is divided by `out_scale`.

    skip_time_act: the time embedding has had its activation already.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, eps: float, time_dim: int | None,
        *, activation: Literal["silu", "gelu"], out_scale: float, skip_time_act: bool,
        time_scale_shift: bool = False, resample: Literal["down", "up"] | None = None,
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, groups, eps, time_dim, time_scale_shift=time_scale_shift,
            resample=resample,
        )  # fmt: skip
        self.activation, self.out_scale = activation, out_scale
        self.skip_time_act = skip_time_act

    def embed_time(self, embedding: Tensor) -> Tensor:
        assert self.time_emb_proj is not None
        if self.skip_time_act:
            found: Tensor = self.time_emb_proj(embedding)
        elif self.activation == "gelu":
            found = self.time_emb_proj(gelu(embedding))
        else:
            found = super().embed_time(embedding)
        return found

    def forward(
        self, x: Tensor, x2: Tensor | None = None, *, time: Sequence[Tensor] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:  # fmt: skip
        if self.activation == "silu":
            y = super().forward(x, x2, time=time, size=size)
        else:
            y = self._forward(x, x2, time, size)
        return y if self.out_scale == 1 else y.div_(self.out_scale)

    def _forward(
        self, x: Tensor, x2: Tensor | None, time: Sequence[Tensor] | None,
        size: tuple[int, int] | None,
    ) -> Tensor:  # fmt: skip
        own = None if time is None or self.slot is None else time[self.slot]
        h = activated(self.norm1, x, x2)
        if self.resample == "down":
            x, h = halved(x), halved(h)
        elif self.resample == "up":
            wanted = size or (2 * x.shape[1], 2 * x.shape[2])
            x, h = nearest(x, wanted), nearest(h, wanted)
        h = self.conv1(h, channel_add=None if self.time_scale_shift else own)
        inner = self.norm2.scale_shift(h)
        if self.time_scale_shift and own is not None:
            inner = modulated(inner, own)
        # A product and a sum apart: each rounds alike wherever a number lies.
        scale, shift = (inner[name].to(h.dtype)[:, None, None] for name in ("scale", "shift"))
        h = gelu(h.mul_(scale).add_(shift))
        y: Tensor
        if self.conv_shortcut is None:
            y = self.conv2(h, residual=x)
        else:
            y = self.conv_shortcut(x, x2, residual=self.conv2(h))
        return y
