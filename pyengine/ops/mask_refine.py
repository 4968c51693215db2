"""mask_refine: one step of masked generation."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RequestError
from . import _backend, _check, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op
from .sample_token import refuse_faults

_NAME = "mask_refine"


def _check_arguments(
    logits: Tensor,
    tokens: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    masked: Tensor,
    temperature: Tensor,
    mask_token: int,
    guidance: Tensor | None = None,
) -> None:
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        given = f"{list(tokens.shape)} {tokens.dtype}"
        raise wrong(_NAME, "tokens", "shape [N, L], dtype torch.int64", given)
    n, length = tokens.shape
    _check.shape(logits, (n if guidance is None else 2 * n, length, None), _NAME, "logits")
    size = logits.shape[-1]
    if size == 0 or size >= 2**31 - 1:
        raise wrong(_NAME, "logits", "from 1 to 2^31 - 2 tokens", size)
    wanted = (n, length, size) if noise.dim() == 3 else (n, length)
    named: dict[str, tuple[Tensor | None, tuple[int, ...]]]
    named = {"noise": (noise, wanted), "gumbel": (gumbel, (n, length))}
    named |= {"temperature": (temperature, (n,)), "guidance": (guidance, (n,))}
    for name, (tensor, shape) in named.items():
        if tensor is not None:
            _check.shape(tensor, shape, _NAME, name)
            _check.like(tensor, logits, _NAME, name, dtype=False)
    _check.shape(masked, (n,), _NAME, "masked")
    if masked.dtype != torch.int64:
        raise wrong(_NAME, "masked", "dtype torch.int64", masked.dtype)
    for name, tensor in (("tokens", tokens), ("masked", masked)):
        if tensor.device != logits.device:
            raise wrong(_NAME, name, f"logits' device {logits.device}", tensor.device)


def _empty(logits: Tensor, tokens: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    return tokens.new_empty(tokens.shape), tokens.new_empty(tokens.shape)


def _refuse(tokens: Tensor, predicted: Tensor, mask_token: int) -> None:
    # What was known may be any number; only what was drawn can be a fault.
    drawn = torch.where(tokens == mask_token, predicted, 0)
    refuse_faults(_NAME, drawn, {"uniform": "noise and gumbel"})


def _cpu(
    logits: Tensor,
    tokens: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    masked: Tensor,
    temperature: Tensor,
    mask_token: int,
    guidance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    results = _empty(logits, tokens)
    logits, tokens, masked = logits.contiguous(), tokens.contiguous(), masked.contiguous()
    race = noise.dim() == 3
    noise = float32(noise) if race else noise.double().contiguous()
    gumbel, temperature = gumbel.double().contiguous(), float32(temperature)
    conditional = address(logits)
    if guidance is not None:
        guidance = float32(guidance)
        conditional += logits.nbytes // 2
    confidence = torch.empty(tokens.shape, dtype=torch.float64)
    args = core().MaskRefineArgs(
        logits=conditional,
        unconditional=0 if guidance is None else address(logits),
        guidance=address(guidance),
        tokens=address(tokens),
        uniform=0 if race else address(noise),
        race=address(noise) if race else 0,
        gumbel=address(gumbel),
        masked=address(masked),
        temperature=address(temperature),
        pictures=tokens.shape[0],
        places=tokens.shape[1],
        size=logits.shape[-1],
        mask_token=mask_token,
        next=address(results[0]),
        predicted=address(results[1]),
        confidence=address(confidence),
    )
    core().mask_refine(args, DTYPES[logits.dtype], torch.get_num_threads())
    _refuse(tokens, results[1], mask_token)
    return results


def _checked(
    function: Callable[..., tuple[Tensor, Tensor]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A kernel behind which its faults become errors: a wait for the GPU."""

    def run(
        logits: Tensor,
        tokens: Tensor,
        noise: Tensor,
        gumbel: Tensor,
        masked: Tensor,
        temperature: Tensor,
        mask_token: int,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        results = function(logits, tokens, noise, gumbel, masked, temperature, mask_token, guidance)
        _refuse(tokens, results[1], mask_token)
        return results

    return run


OP = Op(
    reference.mask_refine,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _backend.reference(reference.mask_refine)),
        "cuda": (
            _backend.triton(_NAME, wrap=_checked),
            _backend.reference(reference.mask_refine),
        ),
        _backend.ANY: (_backend.reference(reference.mask_refine),),
    },
)


def mask_refine(
    logits: Tensor,
    tokens: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    masked: Tensor,
    temperature: Tensor,
    mask_token: int,
    guidance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws a token for every masked place, then masks the least certain again.

    Chang et al. 2022, arXiv:2202.04200 (MaskGIT); Patil et al. 2024, arXiv:2401.01808 (aMUSEd).

    Args:
        logits: [N, L, V] float32 | bfloat16 | float16 | float64, or, with guidance [N], [2 N, L, V]
            with the N unconditional pictures u first and the N conditional ones c after them: then
            u + guidance (c - u) counts. Minus infinity masks a token.
        tokens: [N, L] int64; those equal to mask_token are unknown, the others stay as they are.
        noise: one draw per place: [N, L] uniform in [0, 1), or [N, L, V] from the exponential
            distribution, which is how torch.multinomial, and so aMUSEd in diffusers, draws.
        gumbel: [N, L] uniform in [0, 1), made into Gumbel noise.
        masked: [N] int64, how many places to mask again (see places_to_mask), 0 for none; at least
            1 and at most one fewer than are unknown otherwise.
        temperature: [N], what multiplies the Gumbel noise of the confidence.
        mask_token: the id that stands for an unknown token.
        guidance: [N], the scales of classifier-free guidance, or None.

    Returns:
        (next tokens, predicted tokens), each [N, L] int64: with and without masks; the formulas are
        in pyengine.ops.reference.mask_refine.

    Raises:
        RequestError: naming field and row, for logits that are NaN, plus infinity or all masked,
            and for numbers out of range; and for other shapes and dtypes.
    """
    return OP(logits, tokens, noise, gumbel, masked, temperature, mask_token, guidance)


def places_to_mask(
    step: int, steps: int, places: int, schedule: str = "cosine", start: float = 1.0
) -> int:
    """How many of a picture's places stay masked after step 0 <= step < steps.

    Args:
        step: from 0 to steps - 1.
        steps: of the whole run.
        places: tokens of the picture.
        schedule: "cosine", cos(pi / 2 r), or "linear", 1 - r, of r = (step + 1) / steps.
        start: multiplies it (image to image).

    Returns:
        At least 1 before the last step, 0 after it.
    """
    if not 0 <= step < steps:
        raise RequestError(f"places_to_mask: step: expected 0 to {steps - 1}, got {step}")
    if schedule not in ("cosine", "linear"):
        raise RequestError(f"places_to_mask: schedule: expected cosine or linear, got {schedule!r}")
    if step == steps - 1:
        return 0
    return max(1, int((places * (start * share_to_mask(step, steps, schedule))).floor()))


def share_to_mask(step: int, steps: int, schedule: str) -> Tensor:
    """places_to_mask's formula, of which a rounding decides at whole numbers; so it is computed as
    diffusers does: cos(pi / 3) is less than a half there, and one place fewer is masked.

    Args:
        step, steps, schedule: as places_to_mask's.

    Returns:
        [] float32.
    """
    ratio = torch.tensor((step + 1) / steps)
    return torch.cos(ratio * math.pi / 2) if schedule == "cosine" else 1 - ratio
