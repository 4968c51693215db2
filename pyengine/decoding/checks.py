"""Checks of tokens, of the logits that they are drawn from, and of the memory of a run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import NotFiniteError, RequestError
from ..finite import not_finite
from ..jobs import checks
from ..weights.load import machine_memory


def check_cache_memory(rows: int, most: int, size: int, held: int = 0) -> None:
    """Raises RequestError where keys and values of `rows` rows of `most` tokens, `size` bytes each,
    are more than the machine has. held: tokens of other jobs, which are there already.
    """
    needed, others = rows * most * size, held * size
    memory = machine_memory()
    if memory is not None and needed + others > memory:
        beside = f", those of other jobs {others / 1e9:.1f} GB" if others else ""
        raise RequestError(
            f"num_images_per_prompt: expected fewer pictures: the keys and values of {rows} rows"
            f" take {needed / 1e9:.1f} GB{beside}, this machine has {memory / 1e9:.1f} GB"
        )


def check_logits(
    logits: Tensor, source: str, step: int = 0, pictures: Sequence[int] | None = None
) -> None:
    """Raises NotFiniteError for logits [N, ..., K] of which no token can be drawn, naming the
    picture: NaN, infinity, or minus infinity for every token.

    pictures: which they are of, else 0 to N - 1.
    """
    bad = ~logits.amax(dim=-1).isfinite().view(len(logits), -1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise fault_of(logits, source, row if pictures is None else pictures[row], step)


def fault_of(logits: Tensor, source: str, picture: int, step: int) -> NotFiniteError:
    """The error of a picture of which no token can be drawn; logits: its own."""
    found = "NaN" if logits.isnan().any() else "infinity"
    where = f"picture {picture} at step {step}"
    return not_finite(f"{source}: logits", found, where, logits.dtype)


def check_drawn(
    tokens: Tensor, source: str, pictures: Sequence[int] | None = None, first: int = 0
) -> None:
    """Raises NotFiniteError where ops drew a negative token, which says that logits were at fault.

    tokens: [N, L], drawn at the positions from `first` on. pictures: which, else 0 to N - 1.
    """
    bad = tokens < 0
    if bad.any():
        row, position = bad.nonzero()[0].tolist()
        raise undrawn(source, row if pictures is None else pictures[row], first + position)


def undrawn(source: str, picture: int, token: int) -> NotFiniteError:
    """The error of a picture with a negative token."""
    return NotFiniteError(
        f"{source}: logits: expected finite numbers, found others in picture {picture} at token"
        f" {token}"
    )


def check_tokens(field_name: str, value: Any, shape: tuple[int | None, ...], codes: int) -> Tensor:
    """`value` as int64 of `shape`, each in 0..codes-1; None in shape: any size of at least 1."""
    try:
        tokens = value if isinstance(value, Tensor) else torch.tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        tokens = None
    wanted = f"whole numbers [{', '.join('n' if s is None else str(s) for s in shape)}]"
    if tokens is None or tokens.is_floating_point() or tokens.is_complex():
        raise checks.refuse(field_name, wanted, value if tokens is None else tokens.dtype)
    fits = tokens.dim() == len(shape) and all(
        s == want or (want is None and s > 0) for s, want in zip(tokens.shape, shape, strict=False)
    )
    if not fits or tokens.dtype == torch.bool:
        raise checks.refuse(field_name, wanted, list(tokens.shape))
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= codes:
        raise checks.refuse(field_name, f"tokens 0 to {codes - 1}", f"{low} to {high}")
    return tokens.to(torch.int64)
