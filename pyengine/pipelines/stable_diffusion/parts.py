"""The parts of a Stable Diffusion checkpoint, and whether they fit together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import CheckpointError, ConfigError
from ...models import (
    AutoencoderKL,
    AutoencoderTiny,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
)
from ...models.base import Model
from ...models.control.controlnet import ControlNetModel
from ...models.control.t2i import T2IAdapter
from ...tokenizer import ClipTokenizer
from ...weights.text import show
from ..registry import family_of
from ..text import Encoder
from .defaults import Defaults

#: Text encoders by diffusers' names; a tokenizer goes with each.
ENCODERS = ("text_encoder", "text_encoder_2")
#: Read in place of texts by models that draw variations of pictures.
PICTURES = "image_encoder"


@dataclass(frozen=True)
class Parts:
    """A checkpoint's parts, loaded. encoders and tokenizers: SDXL has two of each, its refiner the
    second alone.

    scheduler_config: the parsed scheduler_config.json. pipeline_class, options, source, defaults:
    see
    pyengine.pipelines.reading. given: names of the parts that came as objects, not out of the
    checkpoint. scheduler: in place of the checkpoint's own, as `pipe.scheduler = ...` takes it.
    controlnets, t2i_adapters: what was loaded beside them. beside_places: by keyword, where these
    were read from, of those that did not come as objects; hub: the options for the Hub ids.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    encoders: tuple[Encoder, ...]
    tokenizers: tuple[ClipTokenizer, ...]
    scheduler_config: dict[str, Any]
    pipeline_class: str
    options: dict[str, bool]
    source: str
    defaults: Defaults
    checkpoint: Any = None
    given: tuple[str, ...] = ()
    scheduler: Any = None
    controlnets: tuple[ControlNetModel, ...] = ()
    t2i_adapters: tuple[T2IAdapter, ...] = ()
    beside_places: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[Model, ...]:
        """The checkpoint's own."""
        return self.unet, self.vae, *self.encoders

    @property
    def beside(self) -> tuple[Model, ...]:
        """Those that were loaded beside them."""
        return *self.controlnets, *self.t2i_adapters

    def named(self) -> dict[str, Any]:
        """The models and tokenizers under diffusers' names."""
        alone = len(self.encoders) == 1 and isinstance(
            self.encoders[0], CLIPTextModelWithProjection
        )
        ends = ("_2",) if alone else ("", "_2")[: len(self.encoders)]
        encoders = {f"text_encoder{end}": e for end, e in zip(ends, self.encoders, strict=True)}
        tokenizers = {f"tokenizer{end}": t for end, t in zip(ends, self.tokenizers, strict=True)}
        return {"unet": self.unet, "vae": self.vae, **encoders, **tokenizers}


def check_channels(unet: Any, vae: Any, pipeline_class: str = "") -> None:
    """Raises ConfigError where a U-Net's and an autoencoder's configs do not fit together.

    pipeline_class: diffusers' name of it; InstructPix2Pix's U-Nets are shown a
    picture's latents, depth-to-image's its depth, an upscaler's its pixels; the latent upscaler's
    are shown latents, and predict a channel more, which is not used.
    """
    latent = vae.latent_channels
    shown = {
        "InstructPix2Pix": latent,
        "Depth2Img": 1,
        "LatentUpscale": latent,
        "Upscale": vae.in_channels,
    }
    beside = next((n for name, n in shown.items() if name in pipeline_class), None)
    if beside is not None:
        out = latent + 1 if "LatentUpscale" in pipeline_class else latent
        if (unet.in_channels, unet.out_channels) != (latent + beside, out):
            raise ConfigError(
                f"unet: in_channels {unet.in_channels}, out_channels {unet.out_channels} do not"
                f" fit a {pipeline_class} with an autoencoder of {latent} latent channels: expected"
                f" {latent + beside} and {out}"
            )
    elif unet.in_channels not in (latent, 2 * latent + 1) or unet.out_channels != latent:
        raise ConfigError(
            f"unet: in_channels {unet.in_channels}, out_channels {unet.out_channels} do not fit an"
            f" autoencoder of {latent} latent channels: expected {latent} or {2 * latent + 1}"
            f" (inpainting), and {latent}"
        )
    if vae.in_channels != 3 or vae.out_channels != 3:
        raise ConfigError(
            f"vae: expected pictures of 3 channels, found {vae.in_channels} in and"
            f" {vae.out_channels} out"
        )


def check_fits(parts: Parts) -> None:
    """As `check_configs`, for parts that are loaded, and their tokenizers."""
    named = parts.named()
    configs = {
        n: part.config for n, part in named.items() if n in ("unet", "vae", *ENCODERS, PICTURES)
    }
    check_configs(configs, parts.source, parts.pipeline_class, parts.options)
    for name in (n for n in ENCODERS if n in named):
        tokenizer = named[name.replace("text_encoder", "tokenizer")]
        if tokenizer.size > configs[name].vocab_size:
            raise ConfigError(
                f"{name}: vocab_size {configs[name].vocab_size}, but its tokenizer has ids up to"
                f" {tokenizer.size - 1}"
            )


def check_configs(
    configs: dict[str, Any], source: str, pipeline_class: str, options: dict[str, bool]
) -> None:
    """Raises ConfigError where the configs of a pipeline's parts do not fit together."""
    check_channels(configs["unet"], configs["vae"], pipeline_class)
    check_text_width(configs, source, pipeline_class, options)


def check_text_width(
    configs: dict[str, Any], source: str, pipeline_class: str, options: dict[str, bool]
) -> None:
    """Raises ConfigError where the U-Net expects other text than the encoders give."""
    xl = not family_of(pipeline_class).pipeline_class.stable_diffusion
    unet = configs["unet"]
    widths = [configs[name].hidden_size for name in ENCODERS if name in configs]
    if PICTURES in configs:
        widths = [configs[PICTURES].projection_dim]
    if not widths:
        raise CheckpointError(f"{source}: expected a text_encoder, found none")
    width = sum(widths)
    wanted = unet.cross_attention_dim
    wanted = set(wanted) if isinstance(wanted, tuple) else {wanted}
    if wanted != {width}:
        raise ConfigError(
            f"{source}: unet: cross_attention_dim {unet.cross_attention_dim}, but the"
            f" {'image encoder gives' if PICTURES in configs else 'text encoders give'} {width}"
        )
    if unet.projection is not None:
        raise ConfigError(
            f"{source}: unet: encoder_hid_dim_type {show(unet.projection)} does not fit a"
            f" {pipeline_class}"
        )
    if unet.addition_embed_type != ("text_time" if xl else None):
        raise ConfigError(
            f"{source}: unet: addition_embed_type {show(unet.addition_embed_type)} does"
            f" not fit a {pipeline_class}"
        )
    if not xl:
        return
    scored = options.get("requires_aesthetics_score", False)
    pooled = configs["text_encoder_2"].projection_dim or 0
    given = pooled + (5 if scored else 6) * unet.addition_time_embed_dim
    if given != unet.projection_class_embeddings_input_dim:
        raise ConfigError(
            f"{source}: unet: projection_class_embeddings_input_dim"
            f" {unet.projection_class_embeddings_input_dim}, but the pooled text and the sizes make"
            f" {given}"
        )
