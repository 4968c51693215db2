"""Layers that hold weights and call pyengine.ops.

Built on the meta device, with the parameter names and shapes that diffusers and transformers save,
so that a checkpoint's tensors can be compared with them before memory is taken. Activations are
NHWC pictures [N, H, W, C] or tokens [N, L, C].

`pack()` arranges a layer's weight for the ops once, after loading: panels on CPUs, plain matrices
and [out, kh, kw, in] elsewhere. A layer that was never packed arranges its weight anew in every
call. The weights that WIDENED names may be narrower than the activations: float16 weights stay so
in memory and are widened, exactly, where they are used. A Linear that was told to `quantize()`
packs its weight in 8 bits, and may round what it reads.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import branches, ops
from .ops._pack import arranged, arranged_filters, ohwi

#: What a side branch may lie beside (pyengine.branches): its name beside the layer's own, or None
#: for that; its first column; its weight's shape in checkpoints, a 1x1 convolution's flattened.
BranchTarget = tuple[str | None, int, tuple[int, ...]]


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


def _fixed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


class Layer(nn.Module):
    """Whose call gives one tensor."""

    #: Whether pack() lays a bfloat16 weight in pairs, for activations of bfloat16.
    pairs = False
    __call__: Callable[..., Tensor]


class Linear(Layer):
    """linear(x): ops.linear with this weight; x: [..., in_features], x2 beside it in C."""

    WIDENED: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _parameter(*self._saved_shape())
        self.bias = _parameter(out_features) if bias else None
        #: [out_features] where the packed weight has 8 bits.
        self.weight_scale: Tensor | None
        self.register_buffer("weight_scale", None, persistent=False)
        self.packed = False
        self.quantized: torch.dtype | None = None
        self.quantize_x = False

    def _saved_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features

    def quantize(self, dtype: torch.dtype = torch.int8, inputs: bool = False) -> None:
        """Makes pack() store the weight in 8 bits, int8 or float8_e4m3fn: ops.quantize_weight.

        inputs: once packed, the layer rounds its inputs too, as ops.linear's quantize_x.
        """
        self.quantized, self.quantize_x = dtype, inputs

    def _arranged(self) -> tuple[Tensor, Tensor | None]:
        """([out_features, in_features], [out_features] or None) from weight and bias as saved."""
        return self.weight.flatten(1), self.bias

    def pack(self) -> None:
        if not self.packed:
            weight, bias = self._arranged()
            weight = weight.detach()
            if self.quantized:
                weight, self.weight_scale = ops.quantize_weight(
                    weight, self.quantized, self.quantize_x
                )
            else:
                weight = arranged(weight, self.pairs)
            self.weight = _fixed(weight)
            self.bias = None if bias is None else _fixed(bias.detach())
            self.packed = True

    def forward(self, x: Tensor, x2: Tensor | None = None, **around: Any) -> Tensor:
        """around: activation, gate, residual, scale, shift, silu as ops.linear takes them."""
        weight, bias = (self.weight, self.bias) if self.packed else self._arranged()

        def product(x: Tensor, x2: Tensor | None, around: dict[str, Any]) -> Tensor:
            return ops.linear(
                x,
                weight,
                bias,
                x2=x2,
                out_features=self.out_features,
                weight_scale=self.weight_scale,
                quantize_x=self.packed and self.quantize_x,
                **around,
            )

        adapted = branches.active()
        if adapted is None:
            return product(x, x2, around)
        return adapted.linear(self, self.out_features, x, around, x2, product)

    def product(self) -> dict[str, Any]:
        """The product without the bias, as ops.linear takes it, and `rows`, its outputs."""
        return {
            "weight": self.weight if self.packed else self._arranged()[0],
            "weight_scale": self.weight_scale,
            "quantize_x": self.packed and self.quantize_x,
            "rows": self.out_features,
        }

    def branch_targets(self) -> Iterator[BranchTarget]:
        yield None, 0, (self.out_features, self.in_features)


class PointwiseConv2d(Linear):
    """A 1x1 convolution: a Linear over C whose weight is saved as [out, in, 1, 1]."""

    def _saved_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features, 1, 1


class TransposedLinear(Linear):
    """A Linear whose weight is saved as [in, out]."""

    def _saved_shape(self) -> tuple[int, ...]:
        return self.in_features, self.out_features

    def _arranged(self) -> tuple[Tensor, Tensor | None]:
        return self.weight.T, self.bias


class Fused(nn.Module):
    """Linear layers of one input side by side in one weight, so that the input is read once.

    Takes the packed weights out of `parts`, which are of no use afterwards. forward returns their
    results as views of one tensor, which ops.attention reads in place.
    """

    __call__: Callable[..., tuple[Tensor, ...]]

    def __init__(self, *parts: Linear, names: Sequence[str] = ()):
        super().__init__()
        #: What the parts were called, so that they can still be told by their names.
        self.names = tuple(names)
        self.widths = tuple(part.out_features for part in parts)
        self.in_features, self.quantize_x = parts[0].in_features, parts[0].quantize_x
        # In panels each part begins with a panel of its own, and so may be padded.
        panels = parts[0].weight.dim() in (3, 4)
        self.steps = tuple(
            part.weight.shape[0] * ops.PANEL if panels else part.out_features for part in parts
        )
        self.weight = _fixed(_below_each_other([part.weight.detach() for part in parts]))
        bias, scale = (self._joined(parts, name) for name in ("bias", "weight_scale"))
        self.bias = None if bias is None else _fixed(bias)
        self.weight_scale: Tensor | None
        self.register_buffer("weight_scale", scale, persistent=False)

    def _joined(self, parts: tuple[Linear, ...], name: str) -> Tensor | None:
        """[sum of steps]: what each part has for its outputs, side by side."""
        if getattr(parts[0], name) is None:
            return None
        pairs = zip(parts, self.steps, strict=True)
        return torch.cat(
            [
                nn.functional.pad(getattr(part, name).detach(), (0, step - part.out_features))
                for part, step in pairs
            ]
        )

    def product(self) -> dict[str, Any]:
        """As Linear.product, of all parts side by side, padded as the result is."""
        return {
            "weight": self.weight,
            "weight_scale": self.weight_scale,
            "quantize_x": self.quantize_x,
            "rows": sum(self.steps),
        }

    def branch_targets(self) -> Iterator[BranchTarget]:
        begins = itertools.accumulate(self.steps, initial=0)
        for name, begin, width in zip(self.names, begins, self.widths, strict=False):
            yield name, begin, (width, self.in_features)

    def _all(self, x: Tensor, around: dict[str, Any]) -> Tensor:

        def product(x: Tensor, x2: Tensor | None, around: dict[str, Any]) -> Tensor:
            return ops.linear(
                x,
                self.weight,
                self.bias,
                x2=x2,
                out_features=sum(self.steps),
                weight_scale=self.weight_scale,
                quantize_x=self.quantize_x,
                **around,
            )

        adapted = branches.active()
        if adapted is None:
            return product(x, None, around)
        return adapted.linear(self, sum(self.steps), x, around, None, product)

    def forward(self, x: Tensor, **around: Any) -> tuple[Tensor, ...]:
        """[..., in_features] -> a [..., out_features] of each part; around: as Linear.forward."""
        parts: tuple[Tensor, ...] = self._all(x, around).split(self.steps, dim=-1)
        if self.steps == self.widths:
            return parts
        return tuple(part[..., :width] for part, width in zip(parts, self.widths, strict=True))

    def joined(self, x: Tensor, **around: Any) -> Tensor:
        """The same side by side in one contiguous tensor."""
        if self.steps == self.widths:
            return self._all(x, around)
        return torch.cat(self(x, **around), dim=-1)


def _below_each_other(weights: list[Tensor]) -> Tensor:
    """torch.cat, which on CUDA has not always taken float8: those as bytes."""
    dtype = weights[0].dtype
    if dtype.itemsize > 1:
        return torch.cat(weights)
    return torch.cat([weight.view(torch.uint8) for weight in weights]).view(dtype)


def fuse(owner: nn.Module, *names: str) -> Fused:
    """The Fused of the Linear layers that `owner` has under `names`, which it has no longer."""
    parts = [getattr(owner, name) for name in names]
    for part in parts:
        part.pack()
    for name in names:
        delattr(owner, name)
    return Fused(*parts, names=names)


class Conv2d(Layer):
    """A convolution of [N, H, W, C] pictures; forward takes what ops.conv2d does before and after.

    padding: rows and columns of zeros on every side, or (top, bottom, left, right).
    The weight is saved as [out, in, kh, kw].
    """

    WIDENED: ClassVar[tuple[str, ...]] = ("weight",)

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
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = _parameter(out_channels, in_channels, kernel_size, kernel_size)
        self.bias = _parameter(out_channels)
        self.kernel_size = (kernel_size, kernel_size)
        self.stride = stride
        self.padding = (padding,) * 4 if isinstance(padding, int) else padding
        #: [out_channels] where the packed weight has 8 bits, as what the layer reads then has.
        self.weight_scale: Tensor | None
        self.register_buffer("weight_scale", None, persistent=False)
        self.packed = False
        self.quantized: torch.dtype | None = None

    def quantize(self, dtype: torch.dtype = torch.int8, inputs: bool = False) -> None:
        """Makes pack() store the weight in int8 and the layer round its inputs, a pixel at a time,
        on CPUs: ops.quantize_filters. inputs: False leaves it as it is; so do other dtypes.
        """
        self.quantized = dtype if inputs and dtype == torch.int8 else None

    def pack(self) -> None:
        if not self.packed:
            weight = self.weight.detach()
            if self.quantized and weight.device.type == "cpu":
                weight, self.weight_scale = ops.quantize_filters(weight)
            else:
                weight = arranged_filters(weight, self.pairs)
            self.weight = _fixed(weight)
            self.packed = True

    def forward(self, x: Tensor, **around: Any) -> Tensor:
        weight = self.weight if self.packed else ohwi(self.weight)
        adapted = branches.active()
        if adapted is not None:
            around = adapted.conv2d(self, self.stride, self.padding, x, around)
        return ops.conv2d(
            x,
            weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            weight_scale=self.weight_scale,
            **around,
        )

    def product(self) -> dict[str, Any]:
        """The product without the bias, as ops.conv2d takes it, and `rows`, its outputs."""
        weight = self.weight if self.packed else ohwi(self.weight)
        return {"weight": weight, "weight_scale": self.weight_scale, "rows": self.out_channels}

    def branch_targets(self) -> Iterator[BranchTarget]:
        yield None, 0, (self.out_channels, self.in_channels, *self.kernel_size)


class GroupNorm(Layer):
    """group_norm over [N, H, W, C], handed to the prologue of the layer after it.

    affine: whether it has a weight and a bias.
    """

    def __init__(self, groups: int, channels: int, eps: float, affine: bool = True):
        super().__init__()
        self.weight = _parameter(channels) if affine else None
        self.bias = _parameter(channels) if affine else None
        self.groups = groups
        self.eps = eps

    def scale_shift(self, x: Tensor, x2: Tensor | None = None) -> dict[str, Tensor]:
        """{"scale", "shift"}: [N, C] each, for Conv2d.forward and Linear.forward."""
        scale, shift = self._scale_shift(x, x2, self.weight, self.bias)
        adapted = branches.active()
        if adapted is not None:
            scale, shift = adapted.norm(
                self,
                x,
                (scale, shift),
                lambda rows, w, b: self._scale_shift(
                    x[rows], None if x2 is None else x2[rows], w, b
                ),
            )
        return {"scale": scale, "shift": shift}

    def _scale_shift(
        self, x: Tensor, x2: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return ops.group_norm_scale_shift(x, weight, bias, self.groups, self.eps, x2)

    @property
    def adaptable_norm(self) -> bool:
        """Whether adapters may change it (pyengine.branches)."""
        return self.weight is not None

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        y = self._normed(x, self.weight, self.bias, silu)
        adapted = branches.active()
        if adapted is None or not adapted.touches([self]):
            return y
        plain = self._normed(x, self.weight, self.bias, False)
        (other,) = adapted.norm(
            self, x, (plain,), lambda rows, w, b: (self._normed(x[rows], w, b, False),)
        )
        changed = adapted.changed_rows(self, x)[:, None, None, None]
        return torch.where(changed, nn.functional.silu(other) if silu else other, y)

    def _normed(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, silu: bool) -> Tensor:
        return ops.group_norm_silu(x, weight, bias, self.groups, self.eps, silu=silu)


class LayerNorm(Layer):
    """layer_norm over the last dimension, [..., C].

    affine: whether it has a weight, and with `bias` a bias.
    """

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True, bias: bool = True):
        super().__init__()
        self.weight = _parameter(channels) if affine else None
        self.bias = _parameter(channels) if affine and bias else None
        self.eps = eps

    @property
    def adaptable_norm(self) -> bool:
        """Whether adapters may change it (pyengine.branches)."""
        return self.weight is not None and self.bias is not None

    def forward(self, x: Tensor) -> Tensor:
        y = ops.layer_norm(x, self.weight, self.bias, self.eps)
        adapted = branches.active()
        if adapted is not None:
            (y,) = adapted.norm(
                self, x, (y,), lambda rows, w, b: (ops.layer_norm(x[rows], w, b, self.eps),)
            )
        return y


class RMSNorm(Layer):
    """rms_norm over the last dimension, [..., C]; affine: whether it has a weight."""

    def __init__(self, channels: int, eps: float, affine: bool = True):
        super().__init__()
        self.weight = _parameter(channels) if affine else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class Embedding(Layer):
    """Rows of a table: ids [...] int64 in 0..count-1 -> [..., width]."""

    WIDENED: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, count: int, width: int):
        super().__init__()
        self.weight = _parameter(count, width)

    def forward(self, ids: Tensor) -> Tensor:
        # Not weight[ids], for which torch wakes its threads from 3,000 numbers on: beside busy
        # processes that took 100 ms.
        return nn.functional.embedding(ids, self.weight)


class WideEmbedding(Embedding):
    """An Embedding in the dtype of the activations: for a table whose rows begin them, or that is
    compared with them as a whole.
    """

    WIDENED: ClassVar[tuple[str, ...]] = ()
