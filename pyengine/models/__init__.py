"""The networks: one file (or a few) per architecture, a config dataclass and a forward each.

unet = UNet2DConditionModel.from_pretrained("stable-diffusion", subfolder="unet")
noise = unet(latents, 999, text).sample        # NCHW torch tensors in and out; NHWC inside
"""

from .autoencoder import AutoencoderKL, AutoencoderKLConfig
from .clip import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from .imagegpt import ImageGPT, ImageGPTConfig
from .janus import Janus, JanusConfig
from .llama import Llama, LlamaConfig
from .picture_gpt import PictureGPT, PictureGPTConfig, PictureTokens
from .unet import TextContext, TimeEmbedding, UNet2DConditionModel
from .unet_config import UNet2DConditionConfig
from .uvit import UVit2DModel, UVitContext
from .uvit_config import UVit2DConfig
from .vq import VQConfig, VQModel

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "ImageGPT",
    "ImageGPTConfig",
    "Janus",
    "JanusConfig",
    "Llama",
    "LlamaConfig",
    "PictureGPT",
    "PictureGPTConfig",
    "PictureTokens",
    "TextContext",
    "TimeEmbedding",
    "UNet2DConditionConfig",
    "UNet2DConditionModel",
    "UVit2DConfig",
    "UVit2DModel",
    "UVitContext",
    "VQConfig",
    "VQModel",
]
