"""The networks: one file (or a few) per architecture, a config dataclass and a forward each.

unet = UNet2DConditionModel.from_pretrained("stable-diffusion", subfolder="unet")
noise = unet(latents, 999, text).sample        # NCHW torch tensors in and out; NHWC inside
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

if not TYPE_CHECKING:
    #: The module that has each name, imported when that is asked for: a checkpoint of one family
    #: needs no other's networks.
    _HOMES = {
        "AutoencoderKL": "autoencoder",
        "AutoencoderKLConfig": "autoencoder",
        "CLIPTextConfig": "clip",
        "CLIPTextModel": "clip",
        "CLIPTextModelWithProjection": "clip",
        "ImageGPT": "imagegpt",
        "ImageGPTConfig": "imagegpt",
        "Janus": "janus",
        "JanusConfig": "janus",
        "Llama": "llama",
        "LlamaConfig": "llama",
        "PictureGPT": "picture_gpt",
        "PictureGPTConfig": "picture_gpt",
        "PictureTokens": "picture_gpt",
        "TextContext": "unet",
        "TimeEmbedding": "unet",
        "UNet2DConditionConfig": "unet_config",
        "UNet2DConditionModel": "unet",
        "UVit2DConfig": "uvit_config",
        "UVit2DModel": "uvit",
        "UVitContext": "uvit",
        "VQConfig": "vq",
        "VQModel": "vq",
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
