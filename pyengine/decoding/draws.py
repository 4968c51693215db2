"""Draws whose random numbers are held: the token at a place is a function of its logits."""

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..jobs.noise import NoiseSource
from .autoregressive import Logits
from .request import TokenRequest


class Quantiles:
    """By one number for each place and picture, as tokens are drawn one by one: see sample_token.

    begin, length: of the places that are drawn.
    """

    def __init__(self, r: TokenRequest, begin: int, length: int, device: torch.device):
        self.settings = r.sampling.rows(r.count, r.guidance_scale).to(device)
        # Behind the end is room for windows that reach beyond it, whose draws count for nothing.
        shape = (r.count, length + min(r.window, length))
        self.numbers = torch.zeros(shape, dtype=torch.float64, device=device)
        if r.sampling.temperature > 0:
            noise = NoiseSource(r.generators, device)
            for i in range(begin, length):
                self.numbers[:, i] = noise.uniform((r.count,), torch.float64)

    def __call__(self, logits: Logits, alive: Tensor, places: Tensor) -> Tensor:
        """[n, W]: a token at each of `places`, of the pictures `alive` [n]; logits: [n, W, K]."""
        conditional, unconditional = (None if t is None else t.flatten(0, 1) for t in logits)
        rows = conditional if unconditional is None else torch.cat([unconditional, conditional])
        settings = self.settings[alive].repeat_interleave(places.shape[1], dim=0)
        numbers = self.numbers[alive[:, None], places].flatten()
        return ops.sample_token(rows, numbers, settings).view(places.shape)

    def forget(self, first: int) -> None:
        """Nothing before the place `first` is drawn any more."""


class Races:
    """By a Gumbel number for each token, place and picture: the token is where the logarithm of its
    weight and the number have the largest sum, which has the distribution of the weights.

    Of two distributions that are d apart (total variation) the same numbers draw the same token
    with probability (1 - d) / (1 + d) or more (Daliri et al. 2024, arXiv:2408.07978), however many
    tokens there are; one number of Quantiles does so less often the more tokens come into question.
    """

    def __init__(self, r: TokenRequest, begin: int, length: int, device: torch.device):
        self.r, self.length, self.device = r, length, device
        self.noise = NoiseSource(r.generators, device)
        self.first, self.gumbel = begin, []

    def __call__(self, logits: Logits, alive: Tensor, places: Tensor) -> Tensor:
        """[n, W]: a token at each of `places`, of the pictures `alive` [n]; logits: [n, W, K]."""
        s, (scores, other) = self.r.sampling, logits
        scores = scores.float()
        if other is not None:
            masked = scores.isinf() | other.isinf()
            scores = other.float() + self.r.guidance_scale * (scores - other.float())
            scores = scores.masked_fill(masked, -torch.inf)
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / s.temperature
        left = ops.filter_logits(scores, s.top_k, s.top_p, s.min_p)
        # What lies outside of what is drawn counts for nothing.
        places = places.clamp(self.first, self.length - 1)
        numbers = self._numbers(int(places.max()) + 1, logits[0].shape[-1])
        return (left + numbers[places - self.first, alive[:, None]]).argmax(dim=-1)

    def _numbers(self, end: int, codes: int) -> Tensor:
        """[places from self.first to `end` or more, N, K] float32."""
        while self.first + len(self.gumbel) < end:
            waiting = self.noise.exponential((self.r.count, codes), torch.float64).cpu()
            # NumPy's logarithm: torch's bits depend on how threads divide the rows.
            rows = [-np.log(np.maximum(row.numpy(), 1e-300)) for row in waiting]
            self.gumbel.append(torch.from_numpy(np.stack(rows)).float().to(self.device))
        return torch.stack(self.gumbel)

    def forget(self, first: int) -> None:
        """Nothing before the place `first` is drawn any more."""
        self.gumbel = self.gumbel[first - self.first :]
        self.first = first
