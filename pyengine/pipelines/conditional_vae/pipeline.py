"""Text and a latent to a picture in one pass, and a picture to its latent.

Kingma & Welling 2014, arXiv:1312.6114.
"""

from typing import ClassVar

from torch import Tensor

from ...models import ConditionalVAE
from ..text_generators import EncodingPipeline


class ConditionalVAEPipeline(EncodingPipeline):
    """Pictures of prompts, in one pass; see `__call__`, `encode` and `interpolate`."""

    part: ClassVar[str] = "vae"
    model: ConditionalVAE

    def _encode(self, text: Tensor, images: Tensor) -> Tensor:
        """The mean of the latents."""
        return self.model.encode(text, images)[0]
