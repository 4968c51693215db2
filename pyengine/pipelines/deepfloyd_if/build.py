"""From a checkpoint to a pipeline of DeepFloyd IF."""

from typing import Any

from ...errors import ConfigError
from ...models import T5Config, UNet2DConditionConfig
from ...weights.text import show
from ..diffusers_names.schedulers import choose
from ..reading import Load
from ..t5_tokenizer import T5Tokenizer
from .pipeline import IFPipeline
from .super_resolution import IFSuperResolutionPipeline

PARTS = ("unet", "text_encoder")


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(PARTS)
    further = "image_noising_scheduler" in checkpoint.components
    cls = load.wanted or (IFSuperResolutionPipeline if further else IFPipeline)
    load.compare(check_fits, configs["unet"], configs["text_encoder"], further)
    where = f"{load.source}: tokenizer"
    tokenizer = T5Tokenizer.from_files(checkpoint.tokenizer_files("tokenizer"), where)
    load.compare(check_vocabulary, tokenizer, configs["text_encoder"])
    # Reads the schedulers' configs now, so that bad ones are refused when the model is loaded.
    schedulers = [choose(load.scheduler, checkpoint.config("scheduler"), cls.__name__)]
    if further:
        own = checkpoint.config("image_noising_scheduler")
        schedulers.append(choose(None, own, cls.__name__))
    defaults = load.defaults()
    models = {name: load.network(name, configs[name], sources[name]) for name in PARTS}
    checkpoint.hold(sources)
    return cls(models, tokenizer, checkpoint, load.source, defaults, *schedulers)


def check_vocabulary(tokenizer: T5Tokenizer, text: T5Config) -> None:
    """Raises ConfigError where there are ids that the text encoder has no row for."""
    if tokenizer.size > text.vocab_size:
        raise ConfigError(
            f"text_encoder: vocab_size {text.vocab_size}, but its tokenizer has ids up to"
            f" {tokenizer.size - 1}"
        )


def check_fits(unet: UNet2DConditionConfig, text: T5Config, further: bool) -> None:
    """Raises ConfigError where the U-Net is told other things than the pipeline tells it.

    further: it enlarges pictures, which lie beside what is denoised.
    """
    wanted, kind = (6, "IFSuperResolutionPipeline") if further else (3, "IFPipeline")
    if unet.in_channels != wanted or unet.out_channels not in (3, 6):
        raise ConfigError(
            f"unet: in_channels {unet.in_channels}, out_channels {unet.out_channels}: expected"
            f" {wanted}, and 3, or 6, which say something of the variance"
        )
    for name, kinds in (
        ("projection", (None, "text_proj")), ("addition_embed_type", (None, "text")),
        ("class_embed_type", ("timestep",) if further else (None,)), ("num_class_embeds", (None,)),
        ("time_cond_proj_dim", (None,)),
    ):  # fmt: skip
        if getattr(unet, name) not in kinds:
            shown = "encoder_hid_dim_type" if name == "projection" else name
            raise ConfigError(f"unet: {shown} {show(getattr(unet, name))} does not fit an {kind}")
    width = unet.encoder_hid_dim or unet.cross_attention_dim
    if width != text.d_model:
        raise ConfigError(
            f"unet: expects texts of {show(width)} channels (encoder_hid_dim, or"
            f" cross_attention_dim), but the text encoder gives {text.d_model}"
        )
