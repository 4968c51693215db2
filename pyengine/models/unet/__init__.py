"""U-Nets that predict noise."""

from .blocks import Residuals
from .condition import UNet2DConditionModel, UNet2DConditionOutput
from .config import UNet2DConditionConfig
from .context import TextContext, TimeEmbedding
from .deep import DeepFeatures
from .unconditional import UNet2DModel, UNet2DOutput
from .unconditional_config import UNet2DConfig

__all__ = [
    "DeepFeatures",
    "Residuals",
    "TextContext",
    "TimeEmbedding",
    "UNet2DConditionConfig",
    "UNet2DConditionModel",
    "UNet2DConditionOutput",
    "UNet2DConfig",
    "UNet2DModel",
    "UNet2DOutput",
]
