"""A prior as the denoising step asks for it: embeddings in the place of latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.conditions import Conditions
from ..diffusion.denoiser import Encoder
from ..errors import RequestError
from ..models import PriorTransformer
from ..models.unet import TextContext, TimeEmbedding


@dataclass(eq=False)
class PriorConditions(Conditions):
    """text: [R, L, C], the text encoder's last hidden states. projected: [R, P], its projection.
    seen: [R, L] float32, 1 for the tokens of a text and 0 behind its end.
    """

    projected: Tensor | None = None
    seen: Tensor | None = None

    def changed(self, unet: Encoder) -> None:
        assert self.text is not None
        assert self.projected is not None
        assert self.seen is not None
        self.version += 1
        self._times.clear()
        # A pair of tensors and a mask, which are put together row by row.
        self.context = TextContext(((self.text, self.projected),), mask=self.seen)


class PriorDenoiser:
    """Denoiser over a PriorTransformer: samples are noisy embeddings [R, D]."""

    def __init__(self, prior: PriorTransformer):
        self.prior = prior

    @property
    def device(self) -> torch.device:
        return self.prior.device

    def encode_context(self, encoder_hidden_states: Tensor) -> TextContext:
        """Refused: a text is more than these, see PriorConditions."""
        raise RequestError("encoder_hidden_states: a prior is told its texts by PriorConditions")

    def embed_timesteps(
        self,
        timesteps: Tensor | Sequence[float],
        *,
        timestep_cond: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> TimeEmbedding:
        """The timesteps themselves, [T, 1, 1]: the prior's embedding of one is a row's product."""
        t = torch.as_tensor(timesteps, device=self.device)
        return TimeEmbedding((t.reshape(-1, 1, 1),))

    def evaluate(self, sample: Tensor, times: TimeEmbedding, context: TextContext) -> Tensor:
        """[R, D], the predicted clean embeddings."""
        ((text, projected),), seen = context.keys_values, context.mask
        t = times.rows[0].reshape(-1)
        out: Tensor = self.prior(sample, t, projected, text, seen, return_dict=False)[0]
        return out
