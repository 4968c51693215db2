"""Side branches beside the layers of a model, per row of a batch (LoRA and its relatives).

Hu et al. 2021, arXiv:2106.09685 (LoRA): beside y = x W^T + b lies s (x A^T) B^T, with A [rank, in]
and B [out, rank]. An `Adapter` holds such pairs, or other differences from a layer's weight (see
`Difference`), for layers of one loaded model, by the names that checkpoints give these; `adapted`
says which rows of a batch have which adapters:

    style = Adapter(unet, {"mid_block.attentions.0.proj_in": (down, up)})
    with adapted([[(style, 0.8)], []]):  # the first of two rows
        unet(sample, timestep, text)

The model's own weights stay as they are, packed or of 8 bits. A linear layer adds the branch to its
sum before its activation (ops.linear's addend), a convolution within its residual, so that neither
takes a pass more over its result than reading that. A row has the bits that it has alone: branches
are computed for runs of rows that have the same adapters, and a row without any is given -0.0,
which changes no bit. So rows of one adapter should lie side by side: each run of them costs, per
layer, a product with A, one with B and, where runs differ, a copy of the addends.
"""

from .adapter import Adapter
from .difference import Difference, Target, norm_targets, targets, weight_of
from .rows import Adapted, Row, active, adapted

__all__ = [
    "Adapted",
    "Adapter",
    "Difference",
    "Row",
    "Target",
    "active",
    "adapted",
    "norm_targets",
    "targets",
    "weight_of",
]
