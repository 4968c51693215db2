"""Keys and values of what a token model has read."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError

#: Numbers that torch fills on the calling thread: from 32,768 on it shares them out.
SERIAL = 32_767


class KVCache:
    """Keys and values of every layer for sequences that may have come to different lengths.

    A sequence has a slot of its own for as long as it lasts, and a batch is a list of slots, so
    that sequences join and leave a batch without a copy. The list lies in the same memory all the
    time: what was recorded of a batch of N sequences (see `through`) serves any other N.

    keys, values: per layer [slots, most, width]. slots: [N] int64, the slot of each row of the
    batch; lengths: [N] int64, tokens that each row has; both are views, overwritten when sequences
    join or leave. tables: (cosines, sines) of positions 0 to most - 1 (see ops.rotary_table), or
    None for a model whose positions are not rotary.
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
        shape = (slots, most, width)
        self.keys = [_zeros(shape, like) for _ in range(layers)]
        self.values = [_zeros(shape, like) for _ in range(layers)]
        # All slots, those of the batch first, and the lengths of what is in them.
        self._order = torch.arange(slots, device=like.device)
        self._held = torch.zeros(slots, dtype=torch.int64, device=like.device)
        self.tables = tables
        self._replays = ops.Replays()
        self._set_rows(rows)

    def _set_rows(self, count: int) -> None:
        self.slots, self.lengths = self._order[:count], self._held[:count]

    def __len__(self) -> int:
        """Rows of the batch."""
        return len(self.slots)

    def __getitem__(self, rows: slice) -> "KVCache":
        """Some rows, in the same memory; none can join or leave there."""
        part = self._other(self.keys, self.values, self.tables)
        part.slots, part.lengths = self.slots[rows], self.lengths[rows]
        return part

    @staticmethod
    def _other(keys: list[Tensor], values: list[Tensor], tables: Any) -> "KVCache":
        part = object.__new__(KVCache)
        part.keys, part.values, part.tables = keys, values, tables
        part._replays = ops.Replays()
        return part

    def tensors(self) -> list[Tensor]:
        """All that `attend` reads and writes, but for lengths."""
        return [*self.keys, *self.values, *(self.tables or ()), self.slots]

    def over(self, tensors: Sequence[Tensor]) -> "KVCache":
        """A cache in other memory, tensors like those that `tensors` returns, with as many layers
        and rows as this one, and lengths of its own, 0.
        """
        *tensors, slots = tensors
        layers = len(self.keys)
        tables = None if self.tables is None else tuple(tensors[2 * layers :])
        part = self._other(list(tensors[:layers]), list(tensors[layers : 2 * layers]), tables)
        part.slots, part.lengths = slots, torch.zeros_like(slots)
        return part

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
        old, new = int(self.slots[source]), int(self.slots[target])
        for tensor in (*self.keys, *self.values):
            tensor[new] = tensor[old]
        self.lengths[target] = self.lengths[source]

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
        tables = (None, None) if self.tables is None else self.tables
        q = ops.rotary_cache(q, k, v, keys, values, self.lengths, heads, *tables, self.slots)
        return ops.decode_attention(
            q, keys, values, self.lengths, heads, scale=scale, slots=self.slots
        )

    def through(
        self, owner: nn.Module, layers: Callable[[Tensor, "KVCache"], Tensor], x: Tensor
    ) -> Tensor:
        """layers(x, this cache), where layers are parts of `owner`: see ops.Replays."""

        def held():
            return (owner, *owner.parameters(), *owner.buffers(), self.lengths, *self.tensors())

        same = id(owner), self.lengths.data_ptr()
        return self._replays(lambda x: layers(x, self), x, same, held)

    def advance(self, count: int) -> None:
        """After every layer has attended: the rows are longer by `count` tokens."""
        self.lengths += count


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """like.new_zeros(shape). On the CPU in pieces for which torch does not wake its threads, which
    beside busy processes took 100 ms a tensor.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    zeros = like.new_empty(shape)
    for piece in zeros.view(-1).split(SERIAL):
        piece.zero_()
    return zeros
