"""Keys and values of what a token model has read."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from .slot_memory import SlotMemory


class KVCache:
    """Keys and values of every layer for sequences that may have come to different lengths.

    A sequence has a slot of its own for as long as it lasts, and a batch is a list of slots, so
    that sequences join and leave a batch without a copy. The list lies in the same memory all the
    time: what was recorded of a batch of N sequences (see `through`) serves any other N.

    keys, values: per layer [slots, most, width]. slots: [N] int64, the slot of each row of the
    batch; lengths: [N] int64, tokens that each row has; both are views, which `seat` overwrites.
    tables: (cosines, sines) of positions 0 to most - 1 (see ops.rotary_table), or None for a model
    whose positions are not rotary. memory: [slots, layers, 2, most, width], what the keys and
    values are views of.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        most: int,
        width: int,
        like: Tensor,
        tables: tuple[Tensor, Tensor] | None = None,
        slots: int | None = None,
    ):
        """rows: sequences of the first batch, of no tokens yet, in the slots 0 to rows - 1. slots:
        sequences that there is room for; `rows` when None.
        """
        slots = rows if slots is None else slots
        # A slot's keys and values lie together: they come and go together.
        self.memory = SlotMemory(slots, (layers, 2, most, width), like)
        self.keys = [self.memory.tensor[:, layer, 0] for layer in range(layers)]
        self.values = [self.memory.tensor[:, layer, 1] for layer in range(layers)]
        self.tables = tables
        self._replays = ops.Replays()
        # Where every batch's slots and lengths are written.
        self._slots = torch.arange(slots, device=like.device)
        self._lengths = torch.zeros(slots, dtype=torch.int64, device=like.device)
        self._seated: list[int] | None = None
        self.slots, self.lengths = self._slots[:rows], self._lengths[:rows]

    def __len__(self) -> int:
        """Rows of the batch."""
        return len(self.slots)

    def tensors(self) -> list[Tensor]:
        """All that `attend` reads and writes, but for lengths."""
        return [self.memory.tensor, *(self.tables or ()), self.slots]

    def seat(self, slots: list[int], lengths: Sequence[int]) -> "KVCache":
        """This cache, whose batch is these slots now, all different, of these lengths."""
        if self._seated != slots:
            count, self._seated = len(slots), slots
            self.slots, self.lengths = self._slots[:count], self._lengths[:count]
            self.slots.copy_(torch.tensor(slots))
        self.lengths.copy_(torch.tensor(lengths))
        return self

    def batch_of(self, slots: Tensor, lengths: Tensor) -> "KVCache":
        """Another batch in the same memory, of which nothing is recorded.

        slots, lengths: [N] int64, both its own; `advance` writes to lengths.
        """
        other = object.__new__(KVCache)
        other.memory, other.keys, other.values = self.memory, self.keys, self.values
        other.tables, other._replays = self.tables, ops.Replays()
        other._slots, other._lengths, other._seated = slots, lengths, None
        other.slots, other.lengths = slots, lengths
        return other

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Copies the keys and values of the first `length` tokens of a slot to another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :length] = tensor[source, :length]

    def positions(self, count: int) -> Tensor:
        """[N, count]: where the next `count` tokens of every row come."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float
    ) -> Tensor:
        """Adds k, v [N, L, kv_heads * D] behind what a row has, and attends to all of it, causally;
        with tables, q and k are turned by their positions first.

        q: [N, L, heads * D]; head h looks at key head h * kv_heads // heads. Returns q's shape.
        Raises RequestError where a row has no room.
        """
        keys, values = self.keys[layer], self.values[layer]
        cosines, sines = (None, None) if self.tables is None else self.tables
        q = ops.rotary_cache(q, k, v, keys, values, self.lengths, heads, cosines, sines, self.slots)
        return ops.decode_attention(
            q, keys, values, self.lengths, heads, scale=scale, slots=self.slots
        )

    def through(
        self, owner: nn.Module, layers: Callable[[Tensor, "KVCache"], Tensor], x: Tensor
    ) -> Tensor:
        """layers(x, this cache), where layers are parts of `owner`: see ops.Replays."""

        def held() -> Iterable[Any]:
            return (
                owner,
                *owner.parameters(),
                *owner.buffers(),
                self.lengths,
                *self.tensors(),
                *self.keys,
                *self.values,
            )

        same = id(owner), self.lengths.data_ptr()
        return self._replays(lambda x: layers(x, self), x, same, held)

    def advance(self, count: int) -> None:
        """After every layer has attended: the rows are longer by `count` tokens."""
        self.lengths += count
