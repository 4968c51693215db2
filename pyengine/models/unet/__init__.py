"""U-Nets that predict noise, conditioned on text."""

from .condition import TextContext, TimeEmbedding, UNet2DConditionModel, UNet2DConditionOutput
from .config import UNet2DConditionConfig

__all__ = [
    "TextContext",
    "TimeEmbedding",
    "UNet2DConditionConfig",
    "UNet2DConditionModel",
    "UNet2DConditionOutput",
]
