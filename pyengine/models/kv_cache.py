"""Keys and values of what a token model has read."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .. import ops

#: Numbers that torch fills on the calling thread: from 32,768 on it shares them out.
SERIAL = 32_767


class KVCache:
    """Keys and values of every layer for rows that may have come to different lengths.

    keys, values: per layer [N, most, width]; lengths: [N] int64, tokens that each row has.
    tables: (cosines, sines) of positions 0 to most - 1 (see ops.rotary_table), or None for a model
    whose positions are not rotary.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        most: int,
        width: int,
        like: Tensor,
        tables: tuple[Tensor, Tensor] | None = None,
    ):
        shape = (rows, most, width)
        self.keys = [_zeros(shape, like) for _ in range(layers)]
        self.values = [_zeros(shape, like) for _ in range(layers)]
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.tables = tables
        self._replays = ops.Replays()

    def __getitem__(self, rows: slice) -> "KVCache":
        """Some rows, in the same memory."""
        part = object.__new__(KVCache)
        part.keys, part.values = ([t[rows] for t in side] for side in (self.keys, self.values))
        part.lengths, part.tables = self.lengths[rows], self.tables
        part._replays = ops.Replays()
        return part

    def tensors(self) -> list[Tensor]:
        """All that `attend` reads and writes, but for lengths."""
        return [*self.keys, *self.values, *(self.tables or ())]

    def over(self, tensors: Sequence[Tensor]) -> "KVCache":
        """A cache in other memory, tensors like those that `tensors` returns, with as many layers
        and rows as this one, and lengths of its own, 0.
        """
        part, layers = object.__new__(KVCache), len(self.keys)
        part.keys, part.values = list(tensors[:layers]), list(tensors[layers : 2 * layers])
        part.lengths = part.keys[0].new_zeros(len(self.lengths), dtype=torch.int64)
        part.tables = None if self.tables is None else tuple(tensors[2 * layers :])
        part._replays = ops.Replays()
        return part

    def keep(self, rows: Tensor) -> None:
        """Leaves only these rows."""
        self.keys, self.values = ([t[rows] for t in side] for side in (self.keys, self.values))
        self.lengths = self.lengths[rows]
        self._replays = ops.Replays()

    def copy_row(self, source: int, target: int) -> None:
        """Makes row `target` what row `source` is."""
        for tensor in (*self.keys, *self.values, self.lengths):
            tensor[target] = tensor[source]

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
        q = ops.rotary_cache(q, k, v, keys, values, self.lengths, heads, *tables)
        return ops.decode_attention(q, keys, values, self.lengths, heads, scale=scale)

    def through(
        self, owner: nn.Module, layers: Callable[[Tensor, "KVCache"], Tensor], x: Tensor
    ) -> Tensor:
        """layers(x, this cache), where layers are parts of `owner`: see ops.Replays."""

        def held():
            return (owner, *owner.parameters(), *owner.buffers(), *self.keys, *self.values,
                    self.lengths, *(self.tables or ()))  # fmt: skip

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
