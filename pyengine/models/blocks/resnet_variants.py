"""Residual blocks with GELU, or with a scaled sum: those of DeepFloyd IF's U-Nets.

GELU: Hendrycks & Gimpel 2016, arXiv:1606.08415.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ... import ops
from ...ops._moves import beside_ones, divide_
from .resnet import ResnetBlock2D


def gelu(x: Tensor) -> Tensor:
    """GELU (erf) of [..., C], by the gated op with a value of 1.

    Not torch's, whose last bits depend on where its vectors end, and so on the batch.
    """
    return ops.geglu(beside_ones(x))


def activation(x: Tensor, name: str) -> Tensor:
    """SiLU or GELU of [..., C] by diffusers' names, of the same bits in any batch."""
    if name == "gelu":
        return gelu(x)
    return ops.swiglu(beside_ones(x))


class VariantResnetBlock2D(ResnetBlock2D):
    """A ResnetBlock2D of another activation, whose sum is divided by `out_scale`.

    skip_time_act: the time embedding has had its activation already.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        eps: float,
        time_dim: int | None,
        *,
        activation: Literal["silu", "gelu"],
        out_scale: float,
        skip_time_act: bool,
        time_scale_shift: bool = False,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__(
            in_channels,
            out_channels,
            groups,
            eps,
            time_dim,
            time_scale_shift=time_scale_shift,
            resample=resample,
        )
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
        self,
        x: Tensor,
        x2: Tensor | None = None,
        *,
        time: Sequence[Tensor] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        y = super().forward(x, x2, time=time, size=size)
        return y if self.out_scale == 1 else divide_(y, self.out_scale)

    def _activated(self, x: Tensor) -> Tensor:
        return gelu(self.norm1(x)) if self.activation == "gelu" else super()._activated(x)
