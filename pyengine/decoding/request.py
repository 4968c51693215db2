"""What is asked of a run that draws tokens, checked."""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from .. import ops
from ..jobs.request import CallRequest

#: What a callback may ask for and give back.
CALLBACK_TENSORS = ("tokens",)
#: The decoding that draws other tokens than the others do; see windows.py.
OTHER_DRAWS = "jacobi-gumbel"
DECODINGS = ("sequential", "jacobi", OTHER_DRAWS)


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: see pyengine.ops.sample_token."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def rows(self, count: int, guidance_scale: float) -> Tensor:
        """A row of settings for each of `count` pictures, as ops.sample_token takes them."""
        return ops.sampling_settings(
            count,
            guidance=guidance_scale,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
        )

    def filter(self, logits: Tensor) -> Tensor:
        """Logits [..., K] with minus infinity for what may not be drawn: see ops.filter_logits."""
        return ops.filter_logits(logits, self.top_k, self.top_p, self.min_p)


#: Names of what decides how a token is drawn.
SAMPLING = tuple(f.name for f in fields(Sampling))


@dataclass(kw_only=True)
class TokenRequest(CallRequest):
    """A call's arguments, checked, with defaults filled in.

    prompts: [B], None each where the model takes none; per_prompt: pictures of each, together.
    height, width: pixels. prefix: [count, n] int64, the first tokens of every picture, or None.
    decoding, window: how the model is read; window is at most a picture's tokens. texts: ids of
    every picture's text, then, with guidance, of what each is compared with. tokens: of a picture.
    """

    prompts: list[str | None]
    negatives: list[str] | None
    per_prompt: int
    height: int
    width: int
    guidance_scale: float
    sampling: Sampling
    generators: list[torch.Generator] | torch.Generator
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS
    prefix: Tensor | None = None
    decoding: str = "sequential"
    window: int = 1
    texts: list[list[int]] = field(default_factory=list)
    tokens: int = 1

    @property
    def count(self) -> int:
        return len(self.prompts) * self.per_prompt

    @property
    def evaluations(self) -> int:
        prefix = 0 if self.prefix is None else self.prefix.shape[1]
        window = 1 if self.decoding == "sequential" else self.window
        return max(1, -(-(self.tokens - prefix) // window))
