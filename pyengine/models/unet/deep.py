"""What a U-Net's deep layers gave, kept from one evaluation for the next ones (DeepCache).

Ma, Fang & Wang 2023, arXiv:2312.00858.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class DeepFeatures:
    """What the outermost layers on the way up read of the layers below them.

    branch: the innermost skip that is still computed, as DeepCache's `cache_branch_id` counts them:
    0 is the first convolution's, so that of the way up the last layer alone is evaluated, and one
    layer more each way for each further one. features: [N, H, W, C], the input of these layers;
    None lets an evaluation compute all of the network and set it.
    """

    branch: int
    features: Tensor | None = None
