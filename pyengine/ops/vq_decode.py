"""vq_decode: codebook entries by index, with the convolution behind them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _backend, _check, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op

_NAME = "vq_decode"


def _check_arguments(
    indices: Tensor,
    codebook: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
) -> None:
    if codebook.dim() not in (2, 3) or 0 in codebook.shape:
        raise wrong(_NAME, "codebook", "shape [K, d] or [G, K, d]", list(codebook.shape))
    if indices.dtype != torch.int64:
        raise wrong(_NAME, "indices", "dtype torch.int64", indices.dtype)
    if indices.device != codebook.device:
        raise wrong(_NAME, "indices", f"codebook's device {codebook.device}", indices.device)
    if codebook.dim() == 3 and (indices.dim() < 1 or indices.shape[-1] != codebook.shape[0]):
        expected = f"{codebook.shape[0]} in the last dimension, one per codebook"
        raise wrong(_NAME, "indices", expected, list(indices.shape))
    if residual and codebook.dim() != 3:
        raise wrong(_NAME, "codebook", "shape [G, K, d] for residual levels", list(codebook.shape))
    if bias is not None and weight is None:
        raise wrong(_NAME, "bias", "a weight with it", "none")
    if weight is not None:
        _check.shape(weight, (None, _inputs(codebook, residual)), _NAME, "weight")
        _check.like(weight, codebook, _NAME, "weight", dtype=False)
    if bias is not None:
        assert weight is not None
        _check.shape(bias, (weight.shape[0],), _NAME, "bias")
        _check.like(bias, codebook, _NAME, "bias", dtype=False)


def _inputs(codebook: Tensor, residual: bool) -> int:
    """Channels of what is gathered."""
    side_by_side = codebook.dim() == 3 and not residual
    return codebook.shape[-1] * (codebook.shape[0] if side_by_side else 1)


def _empty(
    indices: Tensor,
    codebook: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
) -> Tensor:
    places = indices.shape if codebook.dim() == 2 else indices.shape[:-1]
    channels = _inputs(codebook, residual) if weight is None else weight.shape[0]
    return codebook.new_empty(*places, channels)


def _outside(value: int, entries: int) -> Exception:
    return wrong(_NAME, "indices", f"values from 0 to {entries - 1}", value)


def _cpu(
    indices: Tensor,
    codebook: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
) -> Tensor:
    y = _empty(indices, codebook, weight, bias, residual=residual)
    indices, codebook = indices.contiguous(), codebook.contiguous()
    weight = None if weight is None else float32(weight.T)
    bias = None if bias is None else float32(bias)
    levels, entries = codebook.shape[0] if codebook.dim() == 3 else 1, codebook.shape[-2]
    args = core().VqDecodeArgs(
        indices=address(indices),
        codebook=address(codebook),
        rows=indices.numel() // levels,
        levels=levels,
        entries=entries,
        width=codebook.shape[-1],
        residual=residual,
        weight=address(weight),
        bias=address(bias),
        outputs=y.shape[-1],
        y=address(y),
    )
    bad = core().vq_decode(args, DTYPES[codebook.dtype], torch.get_num_threads())
    if bad >= 0:
        raise _outside(int(indices.view(-1)[bad]), entries)
    return y


def _checked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A backend that reads the codebook itself, behind a look at the indices."""

    def run(indices: Tensor, codebook: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if indices.numel() and _check.visible(indices):
            low, high = (int(bound) for bound in indices.aminmax())
            if low < 0 or high >= codebook.shape[-2]:
                raise _outside(low if low < 0 else high, codebook.shape[-2])
        return function(indices, codebook, *args, **kwargs)

    return run


_REFERENCE = _backend.reference(_checked(reference.vq_decode))

OP = Op(
    reference.vq_decode,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _REFERENCE),
        "cuda": (_backend.triton(_NAME, wrap=_checked), _REFERENCE),
        _backend.ANY: (_REFERENCE,),
    },
    decides=1,
)


def vq_decode(
    indices: Tensor,
    codebook: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
) -> Tensor:
    """The codebook's entries at the indices, and a 1x1 convolution of them, in one pass.

    A model that decodes with one codebook again and again folds it: see fold_codebook.

    Args:
        indices: int64, [...] for a codebook [K, d], [..., G] for [G, K, d]: the entries lie side by
            side (product codebook), or are added up with residual=True.
        codebook: float32 | bfloat16 | float16 | float64.
        weight: [C, inputs], inputs = d or G d: the post-quantisation convolution; or None.
        bias: [C], or None; weight and bias of any floating-point dtype.
        residual: whether the entries of a row's codebooks are added up.

    Returns:
        [..., inputs], or [..., C] with a weight, in the codebook's dtype, computed in float32
        (float64 for float64).

    Raises:
        RequestError: for an index outside the codebook, before anything is read with it, and for
            shapes that do not fit.
    """
    return OP(indices, codebook, weight, bias, residual=residual)


def fold_codebook(
    codebook: Tensor, weight: Tensor, bias: Tensor | None = None, *, residual: bool = False
) -> Tensor:
    """A codebook with the post-quantisation convolution inside, computed once, at load.

    Args:
        codebook, weight, bias, residual: as vq_decode's.

    Returns:
        [K, C] for a codebook [K, d], for which vq_decode(indices, folded) has the bits of
        vq_decode(indices, codebook, weight, bias). [G, K, C] for [G, K, d], to be read with
        residual=True whether the codebook was residual or a product: either way the convolution of
        all parts is the sum of theirs.
    """
    _check_arguments(
        torch.empty(codebook.shape[:-2], dtype=torch.int64, device=codebook.device),
        codebook,
        weight,
        bias,
        residual=residual,
    )
    every = torch.arange(codebook.shape[-2], device=codebook.device)
    if codebook.dim() == 2:
        return vq_decode(every, codebook, weight, bias)
    width = 0 if residual else codebook.shape[-1]
    return torch.stack(
        [
            vq_decode(
                every,
                book,
                weight[:, level * width : level * width + codebook.shape[-1]],
                None if level else bias,
            )
            for level, book in enumerate(codebook)
        ]
    )
