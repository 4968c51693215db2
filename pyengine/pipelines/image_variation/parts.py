"""The parts of a checkpoint that draws variations of pictures."""

from dataclasses import dataclass, field
from typing import Any

from ...clip_pictures import ClipPictureConfig
from ...models import CLIPVisionModelWithProjection
from ...models.base import Model
from ..stable_diffusion.parts import Parts


@dataclass(frozen=True, kw_only=True)
class VariationParts(Parts):
    """As Parts; CLIP's tower for pictures in the place of text encoders and tokenizers.

    feature_extractor: what pictures go through before it.
    """

    image_encoder: CLIPVisionModelWithProjection
    feature_extractor: ClipPictureConfig = field(default_factory=ClipPictureConfig)

    @property
    def networks(self) -> tuple[Model, ...]:
        return self.unet, self.vae, self.image_encoder

    def named(self) -> dict[str, Any]:
        return {
            "unet": self.unet,
            "vae": self.vae,
            "image_encoder": self.image_encoder,
            "feature_extractor": self.feature_extractor,
        }
