"""Keys and values of what a token model has read."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from .slot_memory import SlotMemory


class KVCache:
    """Keys and values of every layer for sequences that may have come to different lengths.

    A sequence has a slot of its own for as long as it lasts, and a batch is a list of slots, so
    that sequences join and leave a batch without a copy. The list lies in the same memory all the
    time: what was recorded of a batch of N sequences (see `through`) serves any other N.

    Who counts the slots: either the cache (`join`, `keep`), or its owner, who says before every
    call which slots are the batch (`seat`, `batch_of`).

    keys, values: per layer [slots, most, width]. slots: [N] int64, the slot of each row of the
    batch; lengths: [N] int64, tokens that each row has; both are views, overwritten when sequences
    join or leave. tables: (cosines, sines) of positions 0 to most - 1 (see ops.rotary_table), or
    None for a model whose positions are not rotary. memory: [slots, layers, 2, most, width], what
    the keys and values are views of.
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
        """rows: sequences that the batch begins with, of no tokens yet. slots: sequences that there
        is room for; `rows` when None.
        """
        slots = rows if slots is None else slots
        # A slot's keys and values lie together: they come and go together.
        self.memory = SlotMemory(slots, (layers, 2, most, width), like)
        self.keys = [self.memory.tensor[:, layer, 0] for layer in range(layers)]
        self.values = [self.memory.tensor[:, layer, 1] for layer in range(layers)]
        # All slots, those of the batch first, and the lengths of what is in them.
        self._order = torch.arange(slots, device=like.device)
        self._held = torch.zeros(slots, dtype=torch.int64, device=like.device)
        self.tables = tables
        self._replays = ops.Replays()
        self._seated: list[int] | None = None
        self._set_rows(rows)

    def _set_rows(self, count: int) -> None:
        self.slots, self.lengths = self._order[:count], self._held[:count]

    def __len__(self) -> int:
        """Rows of the batch."""
        return len(self.slots)

    def __getitem__(self, rows: slice) -> "KVCache":
        """Some rows, in the same memory; none can join or leave there."""
        return self._other(self.slots[rows], self.lengths[rows])

    def _other(self, slots: Tensor, lengths: Tensor) -> "KVCache":
        part = object.__new__(KVCache)
        part.memory, part.keys, part.values = self.memory, self.keys, self.values
        part.tables, part._replays, part._seated = self.tables, ops.Replays(), None
        part.slots, part.lengths = slots, lengths
        return part

    def tensors(self) -> list[Tensor]:
        """All that `attend` reads and writes, but for lengths."""
        return [self.memory.tensor, *(self.tables or ()), self.slots]

    def seat(self, slots: list[int], lengths: Sequence[int]) -> "KVCache":
        """This cache, whose batch is these slots now, all different, of these lengths.

        Written where the last batch lay: what was recorded of one serves every other.
        """
        count = len(slots)
        if self._seated != slots:
            self._set_rows(count)
            self.slots.copy_(torch.tensor(slots))
            self._seated = slots
        self.lengths.copy_(torch.tensor(lengths))
        return self

    def batch_of(self, slots: Tensor, lengths: Tensor) -> "KVCache":
        """Another batch in the same memory, of which nothing is recorded; none can join it.

        slots, lengths: [N] int64, both its own; `advance` writes to lengths.
        """
        return self._other(slots, lengths)

    def join(self, count: int) -> None:
        """Adds rows of no tokens behind the batch's. Raises RequestError without slots for them."""
        rows = len(self)
        if count > len(self._order) - rows:
            raise RequestError(
                f"cache: expected at most {len(self._order) - rows} sequences more, there are"
                f" {rows} in {len(self._order)} slots; given {count}"
            )
        self._held[rows : rows + count] = 0
        self._set_rows(rows + count)

    def keep(self, rows: Tensor) -> None:
        """Leaves only these rows, in this order; the slots of the others are free. rows: [n] int64,
        all different.
        """
        gone = torch.ones(len(self._order), dtype=torch.bool, device=rows.device)
        gone[rows] = False
        order = torch.cat([rows, gone.nonzero()[:, 0]])
        self._order.copy_(self._order[order])
        self._held.copy_(self._held[order])
        self._set_rows(len(rows))

    def copy_row(self, source: int, target: int) -> None:
        """Makes row `target` what row `source` is."""
        length = int(self.lengths[source])
        self.copy_slot(int(self.slots[source]), int(self.slots[target]), length)
        self.lengths[target] = length

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
                owner, *owner.parameters(), *owner.buffers(), self.lengths, *self.tensors(),
                *self.keys, *self.values,
            )  # fmt: skip

        same = id(owner), self.lengths.data_ptr()
        return self._replays(lambda x: layers(x, self), x, same, held)

    def advance(self, count: int) -> None:
        """After every layer has attended: the rows are longer by `count` tokens."""
        self.lengths += count
