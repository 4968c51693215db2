"""group_norm_silu and its two halves.  Wu & He 2018, arXiv:1803.08494."""

from typing import Any

import torch
from torch import Tensor

from . import _backend, _check, _memory, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op


def _check_x(op: str, x: Tensor, x2: Tensor | None) -> int:
    """Checks the one or two inputs; returns their channels together."""
    if x.dim() != 4:
        raise wrong(op, "x", "4 dimensions [N, H, W, C]", list(x.shape))
    if x.shape[1] * x.shape[2] == 0:
        raise wrong(op, "x", "at least one pixel", list(x.shape))
    if x2 is None:
        return x.shape[3]
    _check.shape(x2, (*x.shape[:3], None), op, "x2")
    _check.like(x2, x, op, "x2")
    return x.shape[3] + x2.shape[3]


def _check_norm(
    op: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    x2: Tensor | None,
) -> None:
    channels = _check_x(op, x, x2)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            _check.shape(tensor, (channels,), op, name)
            _check.like(tensor, x, op, name, dtype=False)
    if groups <= 0 or channels % groups:
        raise wrong(op, "groups", f"a divisor of {channels}", groups)
    if not eps >= 0:
        raise wrong(op, "eps", "at least 0", eps)


def _input(x: Tensor, x2: Tensor | None) -> Any:
    """As every group-norm kernel takes it."""
    return core().GroupNormInput(
        x=address(x),
        x2=address(x2),
        pictures=x.shape[0],
        pixels=x.shape[1] * x.shape[2],
        channels=x.shape[3],
        channels2=0 if x2 is None else x2.shape[3],
    )


def _weights(weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Any:
    return core().GroupNormWeights(
        weight=address(weight), bias=address(bias), groups=groups, eps=eps
    )


# --- group_norm_silu ---------------------------------------------------------------------------


def _check_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
    silu: bool = True,
) -> None:
    _check_norm("group_norm_silu", x, weight, bias, groups, eps, x2)


def _empty_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    return x.new_empty(_empty_shape(x, x2))


def _empty_shape(x: Tensor, x2: Tensor | None) -> tuple[int, ...]:
    return (*x.shape[:3], x.shape[3] + (0 if x2 is None else x2.shape[3]))


def _cpu_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    x, x2 = x.contiguous(), None if x2 is None else x2.contiguous()
    weight, bias = (None if t is None else float32(t) for t in (weight, bias))
    y = _memory.empty(_empty_shape(x, x2), x.dtype)
    core().group_norm_silu(
        _input(x, x2),
        _weights(weight, bias, groups, eps),
        silu,
        address(y),
        DTYPES[x.dtype],
        torch.get_num_threads(),
    )
    return y


OP = Op(
    reference.group_norm_silu,
    check=_check_silu,
    fake=_empty_silu,
    table={
        "cpu": (_backend.cpu(_cpu_silu), _backend.reference(reference.group_norm_silu)),
        "cuda": (
            _backend.triton("group_norm_silu"),
            _backend.reference(reference.group_norm_silu),
        ),
        _backend.ANY: (_backend.reference(reference.group_norm_silu),),
    },
)


def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """SiLU(group_norm(x)), or group_norm(x) alone with silu=False, in two passes over x.

    Wu & He 2018, arXiv:1803.08494.

    Args:
        x: [N, H, W, C] float32 | bfloat16 | float16 | float64; copied if not contiguous.
        weight, bias: [C + C2] of any floating-point dtype, or None for ones and zeros.
        groups: that divide C + C2.
        eps: added to the variance, at least 0.
        x2: [N, H, W, C2] in x's dtype, or None, side by side with x in C (a group may lie across
            both).
        silu: whether SiLU follows.

    Returns:
        [N, H, W, C + C2] in x's dtype; computed in float32 (float64 for float64).

    Raises:
        RequestError: if C + C2 is not divisible by groups, and for other shapes.
    """
    return OP(x, weight, bias, groups, eps, x2, silu)


# --- group_norm_scale_shift: the statistics ----------------------------------------------------


def _check_scale_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
) -> None:
    _check_norm("group_norm_scale_shift", x, weight, bias, groups, eps, x2)


def _empty_scale_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    channels = x.shape[3] + (0 if x2 is None else x2.shape[3])
    shape = x.shape[0], channels
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _cpu_scale_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    x, x2 = x.contiguous(), None if x2 is None else x2.contiguous()
    weight, bias = (None if t is None else float32(t) for t in (weight, bias))
    shape = x.shape[0], x.shape[3] + (0 if x2 is None else x2.shape[3])
    scale, shift = (_memory.empty(shape, torch.float32) for _ in range(2))
    core().group_norm_scale_shift(
        _input(x, x2),
        _weights(weight, bias, groups, eps),
        address(scale),
        address(shift),
        DTYPES[x.dtype],
        torch.get_num_threads(),
    )
    return scale, shift


SCALE_SHIFT = Op(
    reference.group_norm_scale_shift,
    check=_check_scale_shift,
    fake=_empty_scale_shift,
    table={
        "cpu": (
            _backend.cpu(_cpu_scale_shift),
            _backend.reference(reference.group_norm_scale_shift),
        ),
        "cuda": (
            _backend.triton("group_norm_scale_shift", "group_norm_silu"),
            _backend.reference(reference.group_norm_scale_shift),
        ),
        _backend.ANY: (_backend.reference(reference.group_norm_scale_shift),),
    },
    module="group_norm_silu",
)


def group_norm_scale_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The (scale, shift) with which group_norm(x) = x * scale + shift, per picture and channel.

    Args:
        x, weight, bias, groups, eps, x2: as group_norm_silu's.

    Returns:
        Two [N, C + C2] tensors, float32 (float64 for float64): what conv2d takes as its prologue.

    Raises:
        RequestError: if C + C2 is not divisible by groups, and for other shapes.
    """
    return SCALE_SHIFT(x, weight, bias, groups, eps, x2)


# --- applying it: the prologue of conv2d while torch convolves -----------------------------------


def apply_scale_shift(
    x: Tensor, scale: Tensor, shift: Tensor, silu: bool, x2: Tensor | None = None
) -> Tensor:
    """SiLU(x * scale + shift), or without SiLU: one pass over CPU memory.

    x, x2 as group_norm_silu's, without float64, on the CPU; scale, shift: [N, C + C2].
    """
    x, x2 = x.contiguous(), None if x2 is None else x2.contiguous()
    scale, shift = float32(scale), float32(shift)
    y = _memory.empty((*x.shape[:3], scale.shape[1]), x.dtype)
    core().group_norm_apply(
        _input(x, x2),
        address(scale),
        address(shift),
        silu,
        address(y),
        DTYPES[x.dtype],
        torch.get_num_threads(),
    )
    return y
