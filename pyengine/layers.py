"""Layers that hold weights and call pyengine.ops.

Built on the meta device, with the parameter names and shapes that diffusers and transformers save,
so that a checkpoint's tensors can be compared with them before memory is taken. Activations are
NHWC pictures [N, H, W, C] or tokens [N, L, C]. `pack()` arranges a layer's weight for the ops once,
after loading; a layer that was never packed arranges it anew in every call.
"""

import torch
from torch import Tensor, nn

from . import ops


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


class Linear(nn.Module):
    """activation(x @ weight.T + bias) + residual; x: [..., in_features], x2 beside it in C."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.weight = _parameter(out_features, in_features)
        self.bias = _parameter(out_features) if bias else None

    def forward(
        self,
        x: Tensor,
        x2: Tensor | None = None,
        *,
        activation: str = "none",
        residual: Tensor | None = None,
    ) -> Tensor:
        return ops.linear(
            x, self.weight, self.bias, x2=x2, activation=activation, residual=residual
        )


class PointwiseConv2d(nn.Module):
    """A 1x1 convolution: a Linear over C whose weight is saved as [out, in, 1, 1]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = _parameter(out_channels, in_channels, 1, 1)
        self.bias = _parameter(out_channels)

    def pack(self) -> None:
        if self.weight.dim() == 4:
            self.weight = nn.Parameter(self.weight.flatten(1), requires_grad=False)

    def forward(
        self, x: Tensor, x2: Tensor | None = None, *, residual: Tensor | None = None
    ) -> Tensor:
        return ops.linear(x, self.weight.flatten(1), self.bias, x2=x2, residual=residual)


class Conv2d(nn.Module):
    """A convolution of [N, H, W, C] pictures; forward takes what ops.conv2d does before and after.

    padding: rows and columns of zeros on every side, or (top, bottom, left, right).
    The weight is saved as [out, in, kh, kw] and packed to [out, kh, kw, in].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int | tuple[int, int, int, int] = 1,
    ):
        super().__init__()
        self.weight = _parameter(out_channels, in_channels, kernel_size, kernel_size)
        self.bias = _parameter(out_channels)
        self.stride = stride
        self.padding = (padding,) * 4 if isinstance(padding, int) else padding
        self.packed = False

    def _ohwi(self) -> Tensor:
        return self.weight.permute(0, 2, 3, 1).contiguous()

    def pack(self) -> None:
        if not self.packed:
            self.weight = nn.Parameter(self._ohwi(), requires_grad=False)
            self.packed = True

    def forward(self, x: Tensor, **around) -> Tensor:
        weight = self.weight if self.packed else self._ohwi()
        return ops.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding, **around)


class GroupNorm(nn.Module):
    """group_norm over [N, H, W, C], applied by itself or handed to a convolution's prologue."""

    def __init__(self, groups: int, channels: int, eps: float):
        super().__init__()
        self.weight = _parameter(channels)
        self.bias = _parameter(channels)
        self.groups = groups
        self.eps = eps

    def scale_shift(self, x: Tensor, x2: Tensor | None = None) -> dict[str, Tensor]:
        """{"scale", "shift"}: [N, C] each, for Conv2d.forward."""
        scale, shift = ops.group_norm_scale_shift(
            x, self.weight, self.bias, self.groups, self.eps, x2
        )
        return {"scale": scale, "shift": shift}

    def forward(self, x: Tensor) -> Tensor:
        return ops.group_norm_silu(x, self.weight, self.bias, self.groups, self.eps, silu=False)


class LayerNorm(nn.Module):
    """layer_norm over the last dimension, [..., C]."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = _parameter(channels)
        self.bias = _parameter(channels)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class Embedding(nn.Module):
    """Rows of a table: ids [...] int64 in 0..count-1 -> [..., width]."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.weight = _parameter(count, width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]
