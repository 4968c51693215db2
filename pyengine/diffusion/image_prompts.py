"""Pictures that a network's cross-attentions read beside the text (IP-Adapter).

Ye et al. 2023, arXiv:2308.06721.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..guidance import NEGATIVE, TEXT
from ..models.blocks.transformer import FurtherAttention

#: Of each layer [N, L, width], the keys and the values of N pictures.
KeysValues = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """What the pictures of a call attend to beside their texts.

    tokens: of the N pictures, under TEXT, and under NEGATIVE for every other condition.
    scales: of each layer [N]. masks: of each layer [N, pixels there], or None.
    """

    tokens: Mapping[str, KeysValues]
    scales: Sequence[Tensor]
    masks: Sequence[Tensor] | None = None

    def attended(self, names: Sequence[str]) -> tuple[FurtherAttention, ...]:
        """Of each layer, the rows of these conditions one after the other."""
        own = [self.tokens[TEXT if name == TEXT else NEGATIVE] for name in names]
        made = []
        for layer, scale in enumerate(self.scales):
            keys, values = (torch.cat([rows[layer][i] for rows in own]) for i in (0, 1))
            mask = None if self.masks is None else torch.cat([self.masks[layer]] * len(names))
            made.append(FurtherAttention(keys, values, torch.cat([scale] * len(names)), mask))
        return tuple(made)


Further = tuple[tuple[FurtherAttention, ...], ...]


def gather_further(sources: Sequence[Further], rows: Sequence[int]) -> Further:
    """What a batch attends to besides: row rows[i] of sources[i], one after the other.

    Rows whose n-th prompt has as many tokens share an attention. A row that has no such prompt has
    scale 0 there, which keeps its bits.
    """
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for i, further in enumerate(sources):
        for n, layers in enumerate(further):
            key = n, layers[0].keys.shape[1], layers[0].mask is not None
            groups.setdefault(key, []).append(i)
    return tuple(
        tuple(
            _joined([(sources[i][n][layer], rows[i]) for i in members], members, len(sources))
            for layer in range(len(sources[members[0]][n]))
        )
        for (n, _, _), members in sorted(groups.items())
    )


def _joined(
    parts: Sequence[tuple[FurtherAttention, int]], members: Sequence[int], count: int
) -> FurtherAttention:
    """The parts' rows as the rows `members` of `count`."""

    def rows_of(name: str) -> Tensor:
        own = torch.stack([getattr(part, name)[row] for part, row in parts])
        if len(members) == count:
            return own
        whole = own.new_zeros(count, *own.shape[1:])
        whole[torch.tensor(members, device=own.device)] = own
        return whole

    mask = None if parts[0][0].mask is None else rows_of("mask")
    return FurtherAttention(rows_of("keys"), rows_of("values"), rows_of("scale"), mask)
