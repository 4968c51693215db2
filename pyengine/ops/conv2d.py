"""conv2d with its prologue and epilogue, over torch's convolution for now."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _check, reference
from ._check import wrong
from ._op import Op
from .group_norm_silu import apply_scale_shift


def _check_arguments(
    x, weight, bias=None, *, stride=1, padding=(0, 0, 0, 0), x2=None, scale=None, shift=None,
    silu=False, channel_add=None, residual=None, upsample=False,
):  # fmt: skip
    op = "conv2d"
    if x.dim() != 4:
        raise wrong(op, "x", "4 dimensions [N, H, W, C]", list(x.shape))
    channels = x.shape[3]
    if x2 is not None:
        _check.shape(x2, (*x.shape[:3], None), op, "x2")
        _check.like(x2, x, op, "x2")
        channels += x2.shape[3]
    _check.shape(weight, (None, None, None, channels), op, "weight")
    _check.like(weight, x, op, "weight")
    if stride < 1:
        raise wrong(op, "stride", "at least 1", stride)
    if len(padding) != 4 or min(padding) < 0:
        raise wrong(op, "padding", "4 sizes (top, bottom, left, right), none negative", padding)
    if (scale is None) != (shift is None):
        raise wrong(op, "scale", "both scale and shift or neither", "one")
    shape = _output_shape(x, weight, stride, padding, upsample)
    if min(shape[1:3]) <= 0:
        raise wrong(op, "x", "a padded picture no smaller than weight", list(x.shape))
    for name, tensor, wanted in (
        ("bias", bias, shape[3:]),
        ("scale", scale, (x.shape[0], channels)),
        ("shift", shift, (x.shape[0], channels)),
        ("channel_add", channel_add, (shape[0], shape[3])),
        ("residual", residual, shape),
    ):
        if tensor is not None:
            _check.shape(tensor, wanted, op, name)
            _check.like(tensor, x, op, name, dtype=name not in ("scale", "shift"))


def _output_shape(x, weight, stride, padding, upsample):
    height, width = (size * 2 if upsample else size for size in x.shape[1:3])
    top, bottom, left, right = padding
    return (
        x.shape[0],
        (height + top + bottom - weight.shape[1]) // stride + 1,
        (width + left + right - weight.shape[2]) // stride + 1,
        weight.shape[0],
    )


def _empty(x, weight, bias=None, *, stride=1, padding=(0, 0, 0, 0), upsample=False, **_):
    return x.new_empty(_output_shape(x, weight, stride, padding, upsample))


def _prologue(x, x2, scale, shift, silu):
    """The input of the convolution: one tensor, in one pass where our kernel runs."""
    if scale is not None:
        if x.device.type == "cpu":
            return apply_scale_shift(x, scale, shift, silu, x2)
        if x2 is not None:
            x = torch.cat([x, x2], dim=-1)
        y = torch.addcmul(shift[:, None, None], x.to(scale.dtype), scale[:, None, None])
        return (F.silu(y) if silu else y).to(x.dtype)
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    return F.silu(x) if silu else x


def _torch(
    x, weight, bias=None, *, stride=1, padding=(0, 0, 0, 0), x2=None, scale=None, shift=None,
    silu=False, channel_add=None, residual=None, upsample=False,
):  # fmt: skip
    # Permuted views: to torch an NHWC picture is an NCHW one in channels_last order.
    x = _prologue(x, x2, scale, shift, silu).permute(0, 3, 1, 2)
    if upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    top, bottom, left, right = padding
    if (top, left) == (bottom, right):
        padding = (top, left)
    else:
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    y = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride, padding).permute(0, 2, 3, 1)
    if channel_add is not None:
        y.add_(channel_add[:, None, None, :])
    if residual is not None:
        y.add_(residual)
    return y.contiguous()


_ROWS = (_backend.torch_backed(_torch), _backend.reference(reference.conv2d))

OP = Op(
    "conv2d",
    "(Tensor x, Tensor weight, Tensor? bias=None, *, int stride=1, int[4] padding=[0, 0, 0, 0], "
    "Tensor? x2=None, Tensor? scale=None, Tensor? shift=None, bool silu=False, "
    "Tensor? channel_add=None, Tensor? residual=None, bool upsample=False) -> Tensor",
    check=_check_arguments,
    fake=_empty,
    table={_backend.ANY: _ROWS},
)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    x2: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    channel_add: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
) -> Tensor:
    """Convolution of [N, H, W, C] pictures, with what surrounds it in a residual block.

    x: [N, H, W, C] float32 | bfloat16 | float16 | float64; all other tensors of its dtype, scale
    and shift of any floating-point dtype.
    Prologue: x and x2 [N, H, W, C2] side by side in C; x * scale + shift per picture and channel
    ([N, C + C2], group_norm_scale_shift's result); SiLU when silu; nearest-neighbour 2x enlargement
    when upsample.
    weight: [Cout, KH, KW, C + C2].  bias: [Cout].  padding: zeros (top, bottom, left, right).
    Epilogue: + bias, + channel_add [N, Cout] (the time embedding), + residual [N, H', W', Cout].
    Returns [N, H', W', Cout] in x's dtype.
    Raises RequestError for other shapes and dtypes.
    """
    return OP(
        x, weight, bias, stride=stride, padding=padding, x2=x2, scale=scale, shift=shift,
        silu=silu, channel_add=channel_add, residual=residual, upsample=upsample,
    )  # fmt: skip
