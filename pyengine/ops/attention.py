"""attention over packed heads.  Vaswani et al. 2017, arXiv:1706.03762."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnavailableError
from . import _backend, _check, _memory, reference
from ._check import wrong
from ._core import DTYPES, address, core
from ._op import Op


def _check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> None:
    op = "attention"
    if q.dim() != 3:
        raise wrong(op, "q", "3 dimensions [N, Lq, heads * D]", list(q.shape))
    if heads <= 0:
        raise wrong(op, "heads", "at least 1", heads)
    if q.shape[2] == 0 or q.shape[2] % heads:
        raise wrong(op, "q", f"a width divisible by {heads} heads", list(q.shape))
    _check.shape(k, (q.shape[0], None, q.shape[2]), op, "k")
    if k.shape[1] == 0:
        raise wrong(op, "k", "at least one key", list(k.shape))
    _check.shape(v, (q.shape[0], k.shape[1], None), op, "v")
    if v.shape[2] % heads:
        raise wrong(op, "v", f"a width divisible by {heads} heads", list(v.shape))
    _check.like(k, q, op, "k")
    _check.like(v, q, op, "v")
    if mask is not None:
        _check.like(mask, q, op, "mask", dtype=False)
        full = (q.shape[0], heads, q.shape[1], k.shape[1])
        fits = mask.dim() <= 4 and all(
            size in (1, want)
            for size, want in zip(reversed(mask.shape), reversed(full), strict=False)
        )
        if not fits:
            raise wrong(op, "mask", f"a shape broadcastable to {list(full)}", list(mask.shape))


def _empty(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2])


def _torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    n, lq, lk = q.shape[0], q.shape[1], k.shape[1]
    qh, kh, vh = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    if mask is not None:
        mask = mask.to(q.dtype)
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
        if causal:  # torch takes one or the other
            hidden = torch.ones(lq, lk, dtype=torch.bool, device=q.device).triu(1)
            mask = mask.expand(*mask.shape[:2], lq, lk).masked_fill(hidden, float("-inf"))
    y = F.scaled_dot_product_attention(
        qh, kh, vh, attn_mask=mask, is_causal=causal and mask is None, scale=scale
    )
    return y.transpose(1, 2).reshape(n, lq, -1)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where its last dimension is contiguous, as in a slice; else a copy."""
    return x if x.stride(2) == 1 else x.contiguous()


def _cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    q, k, v = _rows(q), _rows(k), _rows(v)
    n, lq, width = q.shape
    lk, values = k.shape[1], v.shape[2]
    mask_step: tuple[int, ...] = (0, 0, 0, 0)
    if mask is not None:
        mask = mask.to(torch.float32).expand(n, heads, lq, lk)
        mask_step = mask.stride()
    y = _memory.empty((n, lq, values), q.dtype)
    (q_picture, q_row), (k_picture, k_row), (v_picture, v_row) = (t.stride()[:2] for t in (q, k, v))
    args = core().AttentionArgs(
        q=address(q),
        k=address(k),
        v=address(v),
        y=address(y),
        q_picture=q_picture,
        q_row=q_row,
        k_picture=k_picture,
        k_row=k_row,
        v_picture=v_picture,
        v_row=v_row,
        mask=address(mask),
        mask_step=mask_step,
        pictures=n,
        heads=heads,
        queries=lq,
        keys=lk,
        width=width // heads,
        value_width=values // heads,
        scale=(width // heads) ** -0.5 if scale is None else scale,
        causal=causal,
    )
    core().attention(args, DTYPES[q.dtype], torch.get_num_threads())
    return y


def _ours_on_gpus(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> bool:
    """Where torch's FlashAttention pads a head by a third more than our kernel, or does not run.

    It computes heads in widths of 32, 64, 96, 128, 192 and 256: 40 as 64, where we take 48.
    Reasoned, not measured: no GPU was at hand.
    """
    width = q.shape[2] // heads
    if q.dtype not in (torch.float16, torch.bfloat16) or v.shape[2] // heads != width:
        return False
    return 32 < width <= 48 or (mask is not None and width <= 256)


#: FlashAttention 3's build for Hopper, imported when it first runs.
FLASH_3 = "flash_attn_interface"


@cache
def _flash_3_installed() -> bool:
    return find_spec(FLASH_3) is not None


@cache
def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def _flash_3_serves(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> bool:
    """Where it computes what we mean, and pads no more than torch's FlashAttention: it takes heads
    in widths of 64, 96, 128, 192 and 256, in multiples of 8, and its causal rows end with the keys
    where ours begin with them.
    """
    width = q.shape[2] // heads
    if mask is not None or not 48 < width <= 256 or width % 8 or v.shape[2] != q.shape[2]:
        return False
    return (
        (not causal or q.shape[1] == k.shape[1]) and _flash_3_installed() and _is_hopper(q.device)
    )


def _aligned(x: Tensor) -> Tensor:
    """The tensor itself where the copy engine can read it, which wants rows at 16-byte boundaries;
    else a copy.
    """
    step = 16 // x.itemsize
    apart = all(stride % step == 0 for stride in x.stride()[:2])
    if x.stride(2) == 1 and apart and x.data_ptr() % 16 == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _load_flash_3() -> Callable[..., Tensor]:
    try:
        function = import_module(FLASH_3).flash_attn_func
        signature(function).parameters["num_splits"]  # of 2025 or newer
    except (ImportError, AttributeError, KeyError) as error:
        raise UnavailableError(
            f"attention: FlashAttention 3 is installed but is no use ({error!r}); renew or remove"
            f' {FLASH_3}, or choose torch\'s kernels with pyengine.ops.force("torch", "attention")'
        ) from error

    def flash_3(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        q, k, v = (_aligned(t).unflatten(2, (heads, -1)) for t in (q, k, v))
        # Keys in one part: how many it would choose depends on the batch.
        y = function(q, k, v, softmax_scale=scale, causal=causal, num_splits=1)
        heads_apart: Tensor = y[0] if isinstance(y, tuple) else y  # older ones: (y, logsumexp)
        return heads_apart.flatten(2)

    return flash_3


_FLASH_3 = _backend.Backend(
    "flash-attention-3",
    "FlashAttention 3 where it is installed, on compute capability 9.0, in 16 bits: made for its "
    "tensor cores; heads of 49 to 256 channels, no mask; by reasoning, not measured",
    _load_flash_3,
    frozenset((torch.float16, torch.bfloat16)),
    batch_invariant=False,
    serves=_flash_3_serves,
)
_TRITON = _backend.triton(
    "attention",
    why="our Triton, in 16 bits: heads of 33 to 48 channels, which FlashAttention pads to 64 and "
    "we to 48, and masks, which it does not take; by reasoning, not measured",
    serves=_ours_on_gpus,
)
_ROWS = (_backend.torch_backed(_torch), _backend.reference(reference.attention))

OP = Op(
    reference.attention,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), *_ROWS),
        "cuda": (_TRITON, _FLASH_3, *_ROWS),
        _backend.ANY: _ROWS,
    },
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale + mask) v, the heads lying side by side in the last dimension.

    Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        q: [N, Lq, heads * D] float32 | bfloat16 | float16 | float64. Views whose last dimension is
            contiguous, such as slices of one fused projection, are read in place.
        k: [N, Lk, heads * D] in q's dtype.
        v: [N, Lk, heads * Dv] in q's dtype.
        heads: their number, side by side in the last dimension.
        mask: additive, floating-point, broadcastable to [N, heads, Lq, Lk], or None.
        causal: row i sees keys 0..i.
        scale: D ** -0.5 when None.

    Returns:
        [N, Lq, heads * Dv] in q's dtype.

    Raises:
        RequestError: for other shapes and dtypes.
    """
    return OP(q, k, v, heads, mask=mask, causal=causal, scale=scale)
