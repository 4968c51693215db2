"""sample_token: from logits to a token, in one pass."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import _backend, _check, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op
from .reference.sample_token import SAMPLING_COLUMNS, SETTINGS_EXPECTED

#: What a negative token of a kernel says: the argument, and what was expected of it.
FAULTS = {
    -1: ("logits", "numbers below infinity"),
    -2: ("logits", "a token that is not masked"),
    -3: ("settings", SETTINGS_EXPECTED),
    -4: ("uniform", "numbers from 0 to below 1"),
}


def _check_arguments(logits: Tensor, uniform: Tensor, settings: Tensor) -> None:
    op = "sample_token"
    if uniform.dim() != 1:
        raise wrong(op, "uniform", "shape [N]", list(uniform.shape))
    n = uniform.shape[0]
    guided = n > 0 and logits.dim() == 2 and logits.shape[0] == 2 * n
    _check.shape(logits, (2 * n if guided else n, None), op, "logits")
    if logits.shape[1] == 0 or logits.shape[1] >= 2**31 - 1:
        raise wrong(op, "logits", "from 1 to 2^31 - 2 tokens", logits.shape[1])
    _check.like(uniform, logits, op, "uniform", dtype=False)
    _check.shape(settings, (n, len(SAMPLING_COLUMNS)), op, "settings")
    _check.like(settings, logits, op, "settings", dtype=False)


def _empty(logits: Tensor, uniform: Tensor, settings: Tensor) -> Tensor:
    return torch.empty(uniform.shape, dtype=torch.int64, device=logits.device)


def refuse_faults(op: str, tokens: Tensor, names: dict[str, str] | None = None) -> None:
    """Raises RequestError where a kernel could draw no token."""
    if not _check.visible(tokens) or not tokens.numel():
        return
    lowest = int(tokens.min())
    if lowest < 0:
        argument, expected = FAULTS[lowest]
        row = int((tokens.reshape(-1) == lowest).to(torch.uint8).argmax())
        argument = (names or {}).get(argument, argument)
        raise wrong(op, argument, expected, f"others in row {row}")


def _cpu(logits: Tensor, uniform: Tensor, settings: Tensor) -> Tensor:
    tokens = _empty(logits, uniform, settings)
    logits, settings = logits.contiguous(), float32(settings)
    uniform = uniform.double().contiguous()
    n, size = uniform.shape[0], logits.shape[1]
    guided = logits.shape[0] == 2 * n and n > 0
    conditional = address(logits) + (n * size * logits.element_size() if guided else 0)
    args = core().SampleTokenArgs(
        logits=conditional,
        unconditional=address(logits) if guided else 0,
        uniform=address(uniform),
        settings=address(settings),
        rows=n,
        size=size,
        tokens=address(tokens),
    )
    core().sample_token(args, DTYPES[logits.dtype], torch.get_num_threads())
    refuse_faults("sample_token", tokens)
    return tokens


def _checked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A kernel behind which its faults become errors: a wait for the GPU."""

    def run(logits: Tensor, uniform: Tensor, settings: Tensor) -> Tensor:
        tokens = function(logits, uniform, settings)
        refuse_faults("sample_token", tokens)
        return tokens

    return run


OP = Op(
    reference.sample_token,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _backend.reference(reference.sample_token)),
        "cuda": (
            _backend.triton("sample_token", wrap=_checked),
            _backend.reference(reference.sample_token),
        ),
        _backend.ANY: (_backend.reference(reference.sample_token),),
    },
)


def sample_token(logits: Tensor, uniform: Tensor, settings: Tensor) -> Tensor:
    """A token per row: guidance, temperature, top-k, top-p, min-p, and the draw, in one pass.

    Fan et al. 2018, arXiv:1805.04833; Holtzman et al. 2019, arXiv:1904.09751; Nguyen et al. 2024,
    arXiv:2407.01082.

    Args:
        logits: [N, V] float32 | bfloat16 | float16 | float64, or [2 N, V] with the N unconditional
            rows u first and the N conditional ones c after them; then u + guidance (c - u) counts.
            Minus infinity masks a token, in either; a masked token is never drawn.
        uniform: [N] in [0, 1), one number per row from the generator of that picture; best float64,
            since float32 has only 2^24 different ones.
        settings: [N, len(SAMPLING_COLUMNS)], a row per picture (see sampling_settings), which may
            all differ: guidance; temperature, 0 for the largest logit; top_k, 0 for all; top_p, 1
            for all; min_p, 0 for all. In this order and with these meanings: transformers'
            generate; the formulas are in pyengine.ops.reference.sample_token.

    Returns:
        [N] int64.

    Raises:
        RequestError: naming field and row, where a logit is NaN or plus infinity, all tokens are
            masked, a setting cannot be, or uniform is not in [0, 1); and for other shapes and
            dtypes.
    """
    return OP(logits, uniform, settings)


def sampling_settings(
    n: int = 1,
    *,
    guidance: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """n equal rows of settings for sample_token, [n, len(SAMPLING_COLUMNS)] float32.

    Args:
        n: rows.
        guidance, temperature, top_k, top_p, min_p: numbers (see sample_token); unless told, none
            has an effect.
    """
    return torch.tensor([[guidance, temperature, float(top_k), top_p, min_p]]).repeat(n, 1)


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """What sample_token's limits leave of logits, for draws of another kind, as mask_refine's.

    Args:
        logits: [..., V] floating-point.
        top_k, top_p, min_p: one of each for all; 0, 1 and 0 leave every token.

    Returns:
        The logits with minus infinity where a token is not to be drawn, by the rules of
        pyengine.ops.reference.sample_token; in plain torch.
    """
    low = float("-inf")
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, low)
    if top_p < 1:
        ordered, order = logits.double().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        drop = before >= top_p
        drop[..., 0] = False
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), low)
    if min_p > 0:
        least = logits.amax(dim=-1, keepdim=True) + math.log(min_p)
        logits = logits.masked_fill(logits < least, low)
    return logits
