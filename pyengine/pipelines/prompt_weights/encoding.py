"""Weighted prompts to what the U-Net attends to.

"a1111": a chunk's hidden states, after the text encoder's last norm where the model takes that,
times their tokens' weights, then times (mean before / mean after), over the whole chunk, so that
its mean stays; a chunk without weights stays as it is, to the bit. There the mean is that of all
prompts of a batch; here of each, so that a prompt does not depend on its neighbours.

"compel": z = empty + weight * (z - empty), where empty is what the empty prompt gives; and for
every piece of a weight w below 1 the same with its tokens hidden, mixed in with the weight
tan((1 - w) pi / 2) beside the 1 of the first.

Further chunks lie behind the first; the pooled text is the first chunk's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adapters import Row
from ...diffusion.conditions import beside
from ...errors import RequestError
from ...tokenizer import ClipTokenizer
from ...weights.text import show
from . import a1111, compel
from .pieces import Chunk, Mix, Piece, chunks_of

_EPSILON = 1e-5


def _plain(text: str) -> Mix:
    return Mix((((Piece(text),),),))


_PARSERS: dict[str | None, Callable[[str], Mix]] = {
    "a1111": a1111.parse,
    "compel": compel.parse,
    None: _plain,
}


@dataclass(frozen=True)
class Weighted:
    """How a call's prompts are read. syntax: "a1111", "compel" or None for no weights. counts: the
    chunks that each prompt is filled up to, as its negative prompt is.
    """

    syntax: str | None
    counts: tuple[int, ...]

    def repeated(self, times: int) -> "Weighted":
        """Of each prompt `times` times."""
        return Weighted(self.syntax, tuple(n for n in self.counts for _ in range(times)))


@dataclass(frozen=True)
class _Plan:
    """A prompt's chunks: of each prompt that it mixes."""

    mix: Mix
    chunks: tuple[tuple[Chunk, ...], ...]

    @property
    def count(self) -> int:
        lengths = [len(own) for own in self.chunks]
        return sum(lengths) if self.mix.joined else max(lengths)


def _plan(syntax: str | None, tokenizer: ClipTokenizer, length: int, text: str) -> _Plan:
    mix = _PARSERS[syntax](text)
    at_commas = syntax == "a1111"
    return _Plan(
        mix, tuple(tuple(chunks_of(own, tokenizer, length, at_commas)) for own in mix.prompts)
    )


def chunk_counts(
    syntax: str | None, tokenizer: ClipTokenizer, length: int, texts: Sequence[str]
) -> list[int]:
    """How many chunks of `length` tokens each text takes. Raises RequestError for wrong syntax."""
    return [_plan(syntax, tokenizer, length, text).count for text in texts]


def encode_weighted(
    tokenizer: ClipTokenizer,
    encoder: Any,
    texts: Sequence[str],
    weighted: Weighted,
    length: int,
    read: Callable[[Any], Tensor],
    adapters: Sequence[Row] = (),
    **told: Any,
) -> tuple[Tensor, Tensor | None]:
    """([N, counts x length, C] hidden states, of the longest; rows of fewer chunks end in zeros;
    [N, P] pooled text or None).

    length: tokens of a chunk. read: the hidden states of the encoder's output, [M, length, C].
    adapters: what the encoder has beside its weights for each text. told: further arguments of the
    encoder.
    """
    plans = [_plan(weighted.syntax, tokenizer, length, text) for text in texts]
    own: list[Row] = [tuple(row) for row in adapters] or [()] * len(texts)
    rows = _Rows(encoder, read, told)
    empty = chunks_of(((),), tokenizer, length, False)[0]
    for plan, row in zip(plans, own, strict=True):
        rows.want(empty, row)
        for chunk in (c for chunks in plan.chunks for c in chunks):
            rows.want(chunk, row)
            for hidden in _hidden(weighted.syntax, chunk):
                rows.want(chunk, row, hidden)
    rows.encode()
    found = []
    for text, plan, row, count in zip(texts, plans, own, weighted.counts, strict=True):
        if plan.count > count:
            raise RequestError(
                f"prompt: {show(text, 60)} takes {plan.count} chunks of {length}"
                f" tokens, expected at most {count}"
            )
        found.append(_mixed(weighted.syntax, plan, rows, row, empty, count))
    most = max(len(states) for states, _ in found)
    all_states = torch.stack(
        [torch.nn.functional.pad(states, (0, 0, 0, most - len(states))) for states, _ in found]
    )
    pooled = [p for _, p in found if p is not None]
    return all_states, torch.stack(pooled) if pooled else None


def _hidden(syntax: str | None, chunk: Chunk) -> list[int]:
    """The pieces of a chunk that compel hides in turn."""
    if syntax != "compel":
        return []
    low = {p for p, w in zip(chunk.pieces, chunk.weights, strict=True) if p >= 0 and w < 1}
    return sorted(low)


class _Rows:
    """Rows that a text encoder reads together, each once."""

    def __init__(self, encoder: Any, read: Callable[[Any], Tensor], told: dict[str, Any]):
        self._encoder, self._read, self._told = encoder, read, told
        self._wanted: dict[Any, int] = {}
        self._states: Tensor
        self._pooled: Tensor | None = None

    def want(self, chunk: Chunk, row: Row, hidden: int | None = None) -> None:
        self._wanted.setdefault(self._key(chunk, row, hidden), len(self._wanted))

    @staticmethod
    def _key(chunk: Chunk, row: Row, hidden: int | None) -> Any:
        seen = None if hidden is None else tuple(p != hidden for p in chunk.pieces)
        return tuple(row), chunk.ids, seen

    def encode(self) -> None:
        """Rows of one adapter side by side, those that hide nothing apart from the others: each
        has the bits that it has alone.
        """
        order = list(dict.fromkeys(key[0] for key in self._wanted))
        keys = sorted(self._wanted, key=lambda k: (k[2] is not None, order.index(k[0])))
        groups = [k for k in keys if k[2] is None], [k for k in keys if k[2] is not None]
        states, pooled = [], []
        for group in groups:
            if not group:
                continue
            device = self._encoder.device
            ids = torch.tensor([key[1] for key in group], dtype=torch.long, device=device)
            masked = (
                {}
                if group[0][2] is None
                else {
                    "attention_mask": torch.tensor([key[2] for key in group], device=device).long()
                }
            )
            with beside([key[0] for key in group]):
                out = self._encoder(ids, output_hidden_states=True, **masked, **self._told)
                states.append(self._read(out))
            own = getattr(out, "text_embeds", None)
            if own is not None:
                pooled.append(own)
        self._wanted = {key: i for i, key in enumerate(keys)}
        self._states = torch.cat(states)
        self._pooled = torch.cat(pooled) if pooled else None

    def states(self, chunk: Chunk, row: Row, hidden: int | None = None) -> Tensor:
        """[length, C]"""
        return self._states[self._wanted[self._key(chunk, row, hidden)]]

    def pooled(self, chunk: Chunk, row: Row) -> Tensor | None:
        if self._pooled is None:
            return None
        return self._pooled[self._wanted[self._key(chunk, row, None)]]


def _mixed(
    syntax: str | None, plan: _Plan, rows: _Rows, row: Row, empty: Chunk, count: int
) -> tuple[Tensor, Tensor | None]:
    """([count x length, C], [P] or None) of one prompt."""
    nothing = rows.states(empty, row)
    prompts = [_weighed(syntax, chunks, rows, row, nothing) for chunks in plan.chunks]
    pooled = [rows.pooled(chunks[0], row) for chunks in plan.chunks]
    mix = plan.mix
    if mix.joined:
        prompts = [[states for own in prompts for states in own]]
    filled = [torch.cat([*own, *[nothing] * (count - len(own))]) for own in prompts]
    if len(filled) == 1:
        return filled[0], pooled[0]
    total = sum(mix.weights) if mix.normalised else 1.0
    shares = [w / total for w in mix.weights]
    there = [p for p in pooled if p is not None]
    return _sum(shares, filled), _sum(shares, there) if there else None


def _sum(shares: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    found = torch.zeros_like(parts[0])
    for share, part in zip(shares, parts, strict=True):
        found = found + share * part
    return found


def _weighed(
    syntax: str | None, chunks: Sequence[Chunk], rows: _Rows, row: Row, nothing: Tensor
) -> list[Tensor]:
    """Of each chunk [length, C]."""
    if syntax == "compel":
        return _as_compel(chunks, rows, row, nothing)
    found = []
    for chunk in chunks:
        states = rows.states(chunk, row)
        if syntax == "a1111" and set(chunk.weights) != {1.0}:
            weighed = states * _column(chunk, states)
            mean, new = states.float().mean(), weighed.float().mean()
            states = weighed * (mean / new).to(states.dtype)
        found.append(states)
    return found


def _as_compel(chunks: Sequence[Chunk], rows: _Rows, row: Row, nothing: Tensor) -> list[Tensor]:
    """A piece that lies in several chunks is hidden in all of them at once."""
    weights = {
        p: w
        for chunk in chunks
        for p, w in zip(chunk.pieces, chunk.weights, strict=True)
        if p >= 0 and w < 1
    }
    parts = [1.0] + [math.tan((1 - max(w, _EPSILON)) * math.pi / 2) for w in weights.values()]
    total = sum(parts)
    found = []
    for chunk in chunks:
        column = _column(chunk, nothing)
        plain = set(chunk.weights) == {1.0}

        def states(
            hidden: int | None, chunk: Chunk = chunk, column: Tensor = column, plain: bool = plain
        ) -> Tensor:
            own = rows.states(chunk, row, hidden if hidden in chunk.pieces else None)
            return own if plain else nothing + (own - nothing) * column

        if plain:
            found.append(states(None))
            continue
        mixed = states(None) * (parts[0] / total)
        for piece, part in zip(weights, parts[1:], strict=True):
            mixed = mixed + states(piece) * (part / total)
        found.append(mixed)
    return found


def _column(chunk: Chunk, like: Tensor) -> Tensor:
    """[length, 1], the tokens' weights."""
    return torch.tensor(chunk.weights, dtype=like.dtype, device=like.device)[:, None]
