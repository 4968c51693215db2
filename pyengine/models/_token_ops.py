"""What token models need and pyengine.ops does not have yet, in plain torch and in one place.

Each function has the shape of the op that is to take its place: a row's result does not depend on
the rows beside it.
"""

import torch
from torch import Tensor

#: Distances kept at a time: 64 MB of float32.
DISTANCES = 1 << 24


def vq_argmin(x: Tensor, codebook: Tensor) -> Tensor:
    """The nearest row of `codebook` (Euclidean; the lowest index of equals) for every row of x.

    x: [..., D]; codebook: [K, D], its dtype. Returns [...] int64.
    van den Oord et al. 2017, arXiv:1711.00937.
    """
    rows = x.reshape(-1, x.shape[-1]).float()
    entries = codebook.float()
    found = torch.empty(len(rows), dtype=torch.int64, device=x.device)
    step = max(1, DISTANCES // len(entries))
    for i in range(0, len(rows), step):
        # Sums of squared differences: |x|^2 - 2 x e + |e|^2 cancels where x lies close to e.
        distances = torch.cdist(
            rows[i : i + step], entries, compute_mode="donot_use_mm_for_euclid_dist"
        )
        found[i : i + step] = distances.argmin(dim=1)
    return found.view(x.shape[:-1])


def vq_decode(tokens: Tensor, table: Tensor) -> Tensor:
    """Rows of a codebook, into which the convolution that follows may have been folded.

    tokens: [...] int64 in 0..K-1; table: [K, C]. Returns [..., C].
    """
    return table[tokens]
