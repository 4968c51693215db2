"""The networks: one file (or a few) per architecture, a config dataclass and a forward each.

unet = UNet2DConditionModel.from_pretrained("stable-diffusion", subfolder="unet")
noise = unet(latents, 999, text).sample        # NCHW torch tensors in and out; NHWC inside
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..guard import differentiable
    from .autoencoder.asymmetric import AsymmetricAutoencoderKL, AsymmetricAutoencoderKLConfig
    from .autoencoder.kl import AutoencoderKL, AutoencoderKLConfig
    from .autoencoder.tiny import AutoencoderTiny, AutoencoderTinyConfig
    from .autoencoder.vq import VQConfig, VQModel
    from .classifier.config import EncoderUNetConfig
    from .classifier.encoder_unet import EncoderUNetModel
    from .conditional.generator import TextGenerator, TextGeneratorConfig
    from .conditional.glow import Glow, GlowConfig
    from .conditional.vae import ConditionalVAE, ConditionalVAEConfig
    from .control.config import ControlNetConfig, ControlNetUnionConfig
    from .control.controlnet import ControlNetModel
    from .control.t2i import T2IAdapter, T2IAdapterConfig
    from .control.union import ControlNetUnionModel
    from .gan.biggan import BigGAN
    from .gan.biggan_config import BigGANConfig
    from .gan.dcgan import DCGANConfig, DCGANGenerator
    from .prior.text_projection import UnCLIPTextProjConfig, UnCLIPTextProjModel
    from .prior.transformer import PriorConfig, PriorTransformer
    from .text.clip import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    from .text.t5 import T5Config, T5EncoderModel
    from .tokens.imagegpt import ImageGPT, ImageGPTConfig
    from .tokens.janus import Janus, JanusConfig
    from .tokens.llama import Llama, LlamaConfig
    from .tokens.masked_transformer import MaskedTransformer, MaskedTransformerConfig
    from .tokens.picture_gpt import PictureGPT, PictureGPTConfig, PictureTokens
    from .tokens.pixel_gpt import PixelGPT, PixelGPTConfig
    from .tokens.uvit import UVit2DModel, UVitContext
    from .tokens.uvit_config import UVit2DConfig
    from .transformer.dit import DiTTransformer2DModel
    from .transformer.dit_config import DiTConfig
    from .transformer.patches import PatchTransformer, PatchTransformerConfig
    from .unet.condition import UNet2DConditionModel
    from .unet.config import UNet2DConditionConfig
    from .unet.context import TextContext, TimeEmbedding
    from .unet.latent_upscaler import LatentUpscalerUNet
    from .unet.latent_upscaler_config import LatentUpscalerUNetConfig
    from .unet.unconditional import UNet2DModel
    from .unet.unconditional_config import UNet2DConfig
    from .upscale.compact import CompactConfig, SRVGGNetCompact
    from .upscale.rrdb import RRDBConfig, RRDBNet
    from .vision.clip import CLIPVisionConfig, CLIPVisionModelWithProjection

__all__ = [
    "AsymmetricAutoencoderKL",
    "AsymmetricAutoencoderKLConfig",
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "BigGAN",
    "BigGANConfig",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPVisionConfig",
    "CLIPVisionModelWithProjection",
    "CompactConfig",
    "ConditionalVAE",
    "ConditionalVAEConfig",
    "ControlNetConfig",
    "ControlNetModel",
    "ControlNetUnionConfig",
    "ControlNetUnionModel",
    "DCGANConfig",
    "DCGANGenerator",
    "DiTConfig",
    "DiTTransformer2DModel",
    "EncoderUNetConfig",
    "EncoderUNetModel",
    "Glow",
    "GlowConfig",
    "ImageGPT",
    "ImageGPTConfig",
    "Janus",
    "JanusConfig",
    "LatentUpscalerUNet",
    "LatentUpscalerUNetConfig",
    "Llama",
    "LlamaConfig",
    "MaskedTransformer",
    "MaskedTransformerConfig",
    "PatchTransformer",
    "PatchTransformerConfig",
    "PictureGPT",
    "PictureGPTConfig",
    "PictureTokens",
    "PixelGPT",
    "PixelGPTConfig",
    "PriorConfig",
    "PriorTransformer",
    "RRDBConfig",
    "RRDBNet",
    "SRVGGNetCompact",
    "T2IAdapter",
    "T2IAdapterConfig",
    "T5Config",
    "T5EncoderModel",
    "TextContext",
    "TextGenerator",
    "TextGeneratorConfig",
    "TimeEmbedding",
    "UNet2DConditionConfig",
    "UNet2DConditionModel",
    "UNet2DConfig",
    "UNet2DModel",
    "UVit2DConfig",
    "UVit2DModel",
    "UVitContext",
    "UnCLIPTextProjConfig",
    "UnCLIPTextProjModel",
    "VQConfig",
    "VQModel",
    "differentiable",
]

if not TYPE_CHECKING:
    #: The module that has each name, imported when that is asked for: a checkpoint of one family
    #: needs no other's networks.
    _HOMES = {
        "AsymmetricAutoencoderKL": "autoencoder.asymmetric",
        "AsymmetricAutoencoderKLConfig": "autoencoder.asymmetric",
        "AutoencoderKL": "autoencoder.kl",
        "AutoencoderKLConfig": "autoencoder.kl",
        "AutoencoderTiny": "autoencoder.tiny",
        "AutoencoderTinyConfig": "autoencoder.tiny",
        "BigGAN": "gan.biggan",
        "BigGANConfig": "gan.biggan_config",
        "CLIPTextConfig": "text.clip",
        "CLIPTextModel": "text.clip",
        "CLIPTextModelWithProjection": "text.clip",
        "CLIPVisionConfig": "vision.clip",
        "CLIPVisionModelWithProjection": "vision.clip",
        "CompactConfig": "upscale.compact",
        "ConditionalVAE": "conditional.vae",
        "ConditionalVAEConfig": "conditional.vae",
        "ControlNetConfig": "control.config",
        "ControlNetModel": "control.controlnet",
        "ControlNetUnionConfig": "control.config",
        "ControlNetUnionModel": "control.union",
        "DCGANConfig": "gan.dcgan",
        "DCGANGenerator": "gan.dcgan",
        "DiTConfig": "transformer.dit_config",
        "DiTTransformer2DModel": "transformer.dit",
        "EncoderUNetConfig": "classifier.config",
        "EncoderUNetModel": "classifier.encoder_unet",
        "Glow": "conditional.glow",
        "GlowConfig": "conditional.glow",
        "ImageGPT": "tokens.imagegpt",
        "ImageGPTConfig": "tokens.imagegpt",
        "Janus": "tokens.janus",
        "JanusConfig": "tokens.janus",
        "LatentUpscalerUNet": "unet.latent_upscaler",
        "LatentUpscalerUNetConfig": "unet.latent_upscaler_config",
        "Llama": "tokens.llama",
        "LlamaConfig": "tokens.llama",
        "PatchTransformer": "transformer.patches",
        "PatchTransformerConfig": "transformer.patches",
        "MaskedTransformer": "tokens.masked_transformer",
        "MaskedTransformerConfig": "tokens.masked_transformer",
        "PictureGPT": "tokens.picture_gpt",
        "PictureGPTConfig": "tokens.picture_gpt",
        "PictureTokens": "tokens.picture_gpt",
        "PixelGPT": "tokens.pixel_gpt",
        "PixelGPTConfig": "tokens.pixel_gpt",
        "PriorConfig": "prior.transformer",
        "PriorTransformer": "prior.transformer",
        "RRDBConfig": "upscale.rrdb",
        "RRDBNet": "upscale.rrdb",
        "SRVGGNetCompact": "upscale.compact",
        "T2IAdapter": "control.t2i",
        "T2IAdapterConfig": "control.t2i",
        "T5Config": "text.t5",
        "T5EncoderModel": "text.t5",
        "TextContext": "unet.context",
        "TextGenerator": "conditional.generator",
        "TextGeneratorConfig": "conditional.generator",
        "TimeEmbedding": "unet.context",
        "UNet2DConditionConfig": "unet.config",
        "UNet2DConditionModel": "unet.condition",
        "UNet2DConfig": "unet.unconditional_config",
        "UNet2DModel": "unet.unconditional",
        "UVit2DConfig": "tokens.uvit_config",
        "UVit2DModel": "tokens.uvit",
        "UVitContext": "tokens.uvit",
        "UnCLIPTextProjConfig": "prior.text_projection",
        "UnCLIPTextProjModel": "prior.text_projection",
        "VQConfig": "autoencoder.vq",
        "VQModel": "autoencoder.vq",
        "differentiable": ".guard",
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
