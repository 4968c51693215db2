"""Prompts and times as a U-Net sees them: what is computed once and used in every step."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import RequestError
from ..blocks.transformer import Attended, FurtherAttention


@dataclass(frozen=True)
class TextContext:
    """A prompt as the U-Net sees it: keys and values of every attention to the text.

    keys_values: two tensors [N, L, C] per layer. Made once by `encode_context`, used in every step.
    further: what every layer attends to besides, each with one FurtherAttention per layer, in the
    order of the model's `cross_attentions`; the results are added up. mask: [N, L] float32, added
    to the scores of the text's tokens; of models whose attention has added keys.
    """

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    further: tuple[tuple[FurtherAttention, ...], ...] = ()
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys_values[0][0]) if self.keys_values else 0

    def tensors(self) -> list[Tensor]:
        """Keys and values of the first layer, of the second... and the mask behind them, where
        there is one: an odd number.

        Raises RequestError where there is more than the text's: `of` would not know it.
        """
        if self.further:
            raise RequestError(
                f"TextContext.tensors: expected the text alone, got {len(self.further)} further"
            )
        own = [tensor for pair in self.keys_values for tensor in pair]
        return own if self.mask is None else [*own, self.mask]

    def attended(self) -> tuple[Attended, ...]:
        """What each layer attends to."""
        for others in self.further:
            if len(others) != len(self.keys_values):
                raise RequestError(
                    f"encoder_hidden_states: further: expected {len(self.keys_values)} layers,"
                    f" got {len(others)}"
                )
        return tuple(
            (*pair, *(others[slot] for others in self.further))
            for slot, pair in enumerate(self.keys_values)
        )

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "TextContext":
        """The context that has these `tensors()`."""
        pairs = len(tensors) // 2
        mask = tensors[-1] if len(tensors) % 2 else None
        keys, values = tensors[: 2 * pairs : 2], tensors[1 : 2 * pairs : 2]
        return cls(tuple(zip(keys, values, strict=True)), mask=mask)


@dataclass(frozen=True)
class TimeEmbedding:
    """Times (and what is added to them) as the residual blocks see them.

    rows: per block [N or 1, Cout], or [T, N or 1, Cout] for T timesteps; table[i] is the i-th.
    """

    rows: tuple[Tensor, ...]

    def __getitem__(self, step: int) -> "TimeEmbedding":
        return TimeEmbedding(tuple(r[step] for r in self.rows))

    def for_pictures(self, n: int) -> tuple[Tensor, ...]:
        """[n, Cout] per block, from as many rows or from one for all."""
        return tuple(_rows(r, n) for r in self.rows)


def _rows(rows: Tensor, n: int) -> Tensor:
    """[n, Cout] from [n, Cout] or from a single row for all pictures."""
    if rows.dim() != 2 or len(rows) not in (1, n):
        raise RequestError(f"timestep: expected 1 or {n} rows, got {list(rows.shape[:-1])}")
    return rows.expand(n, -1).contiguous()
