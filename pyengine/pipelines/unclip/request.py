"""What calls of unCLIP's pipelines are asked."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...guidance import Method
from ...jobs.request import CallRequest
from ..guides import Guides
from ..unprompted import CALLBACK_TENSORS


@dataclass(frozen=True)
class Texts:
    """What CLIP makes of R texts. hidden: [R, L, C], its last hidden states. projected: [R, C].
    seen: [R, L] float32, 1 for the tokens of a text and 0 behind its end.
    """

    hidden: Tensor
    projected: Tensor
    seen: Tensor

    def rows(self, index: list[int]) -> "Texts":
        """Some of them, in the order given."""
        at = torch.tensor(index, device=self.hidden.device)
        return Texts(*(t.index_select(0, at) for t in (self.hidden, self.projected, self.seen)))

    def then(self, other: "Texts") -> "Texts":
        """These rows, and behind them those of the other."""
        return Texts(
            torch.cat([self.hidden, other.hidden]),
            torch.cat([self.projected, other.projected]),
            torch.cat([self.seen, other.seen]),
        )


@dataclass(kw_only=True)
class UnCLIPRequest(CallRequest):
    """A call's arguments, checked; of each of the `count` pictures where there are several.

    prompts: texts, or None where `texts` are given in their place. embeddings: [B, D] of pictures,
    in place of the prior's, or [B, 3, S, S], pixels that CLIP is to embed, each for per_embedding
    pictures; [N, D] while the request is carried out. steps_of, latents_of: by stage ("prior",
    "decoder", "super_res"), the latter None where they are drawn. prior_scale, decoder_scale: of
    each picture. method: at which of its steps each of these stages is guided. guides: what guides
    the decoder's stage by gradients. height, width: pixels, the model's.
    """

    count: int
    height: int
    width: int
    steps_of: dict[str, int]
    latents_of: dict[str, Tensor | None]
    decoder_scale: tuple[float, ...]
    generators: list[torch.Generator] | torch.Generator
    prior_scale: tuple[float, ...] = ()
    prompts: list[str] | None = None
    texts: Texts | None = None
    embeddings: Tensor | None = None
    per_embedding: int = 1
    method: Method = field(default_factory=Method)
    guides: Guides = field(default_factory=Guides)
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS

    @property
    def evaluations(self) -> int:
        """Of all stages."""
        return sum(self.steps_of.values())

    @property
    def guided(self) -> tuple[bool, ...]:
        """Whether each picture's stages are guided: both where either scale is above 1."""
        prior = self.prior_scale or (1.0,) * self.count
        return tuple(max(both) > 1 for both in zip(prior, self.decoder_scale, strict=True))
