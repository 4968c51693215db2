"""From checkpoints to pipelines of Kandinsky 2.2."""

from typing import Any

from ...clip_pictures import ClipPictureConfig
from ...errors import ConfigError
from ...models import PriorConfig, UNet2DConditionConfig
from ...models.autoencoder.vq import VQConfig
from ...models.unet.conditioning import HINT_CHANNELS
from ...schedules.config import UnCLIPConfig
from ...weights.text import show
from ..diffusers_names.schedulers import choose
from ..reading import Load, read_tokenizer
from .pipeline import KandinskyV22Pipeline
from .prior import KandinskyV22PriorPipeline, PriorDefaults

PARTS = ("unet", "movq")
PRIOR_PARTS = ("prior", "image_encoder", "text_encoder")


def build(load: Load) -> Any:
    """The decoder's pipeline."""
    sources: dict[str, Any] = {}
    made = _decoder(load, load.pipeline_class, sources, load.defaults())
    load.checkpoint.hold(sources)
    return made


def build_prior(load: Load) -> Any:
    """The prior's pipeline."""
    sources: dict[str, Any] = {}
    made = _prior(load, load.pipeline_class, sources, load.defaults())
    load.checkpoint.hold(sources)
    return made


def build_combined(load: Load) -> Any:
    """The pipeline of both, whose checkpoint has prior_ before the names of the prior's parts."""
    sources: dict[str, Any] = {}
    defaults = load.defaults()
    prior = _prior(load, KandinskyV22PriorPipeline, sources, PriorDefaults(), "prior_")
    decoder = _decoder(load, KandinskyV22Pipeline, sources, defaults)
    load.compare(check_joined, prior.prior.config, decoder.unet.config)
    load.checkpoint.hold(sources)
    return load.pipeline_class(prior, decoder, load.checkpoint, load.source, defaults)


def _decoder(load: Load, cls: Any, opened: dict[str, Any], defaults: Any) -> Any:
    """opened: gets the tensors that were read."""
    configs, sources = load.configs(PARTS)
    load.compare(check_fits, configs["unet"], configs["movq"])
    scheduler = choose(None, load.checkpoint.config("scheduler"), load.kind)
    models = {
        name: load.network(
            name, configs[name], sources[name], name == "movq" and configs[name].force_upcast
        )
        for name in PARTS
    }
    opened |= sources
    return cls(models, load.checkpoint, load.source, defaults, scheduler)


def _prior(load: Load, cls: Any, opened: dict[str, Any], defaults: Any, prefix: str = "") -> Any:
    checkpoint = load.checkpoint
    names = {name: f"{prefix}{name}" for name in PRIOR_PARTS}
    found, sources = load.configs(names.values())
    configs = {name: found[names[name]] for name in PRIOR_PARTS}
    tokenizer = read_tokenizer(checkpoint, names["text_encoder"], configs["text_encoder"])
    part = f"{prefix}image_processor"
    processor = ClipPictureConfig.from_dict(checkpoint.config(part), checkpoint.where(part))
    part = f"{prefix}scheduler"
    schedule = UnCLIPConfig.from_dict(checkpoint.config(part), checkpoint.where(part))
    length = min(tokenizer.model_max_length, configs["text_encoder"].max_position_embeddings)
    load.compare(check_prior_fits, *configs.values(), length)
    load.compare(check_pictures, configs["image_encoder"], processor)
    load.compare(check_schedule, schedule)
    models = {n: load.network(names[n], configs[n], sources[names[n]]) for n in PRIOR_PARTS}
    opened |= sources
    return cls(models, tokenizer, processor, schedule, checkpoint, load.source, defaults)


def check_joined(prior: PriorConfig, unet: UNet2DConditionConfig) -> None:
    """Raises ConfigError where a prior makes other embeddings than a decoder reads."""
    if prior.clip_dim != unet.encoder_hid_dim:
        raise ConfigError(
            f"unet: encoder_hid_dim is {show(unet.encoder_hid_dim)}, expected {prior.clip_dim}, as"
            " many as the prior's embeddings have"
        )


def check_fits(unet: UNet2DConditionConfig, movq: VQConfig) -> None:
    """Raises ConfigError where U-Net and autoencoder are not those of a Kandinsky 2.2 decoder."""
    latent = movq.latent_channels
    if movq.in_channels != 3 or movq.out_channels != 3 or movq.embed_dim != latent:
        raise ConfigError(
            f"movq: in_channels {movq.in_channels}, out_channels {movq.out_channels}, vq_embed_dim"
            f" {movq.embed_dim}: expected pictures of 3 channels, and vq_embed_dim as"
            f" latent_channels, {latent}"
        )
    if movq.lookup_from_codebook:
        raise ConfigError("movq: lookup_from_codebook is true, expected a decoder of latents")
    # One for inpainting has the known latents and the mask beside those that it denoises.
    # A ControlNet has what is made of its hint.
    hinted = unet.addition_embed_type == "image_hint"
    told = (latent + HINT_CHANNELS,) * 2 if hinted else (latent, 2 * latent + 1)
    if unet.in_channels not in told or unet.out_channels not in (latent, 2 * latent):
        channels = f"{told[0]}" if hinted else f"{told[0]} or {told[1]} (for inpainting)"
        raise ConfigError(
            f"unet: in_channels {unet.in_channels}, out_channels {unet.out_channels} do not fit a"
            f" movq of {latent} latent channels: expected {channels}, and {latent} or {2 * latent}"
        )
    for name, value, wanted in (
        ("encoder_hid_dim_type", unet.projection, "image_proj"),
        ("addition_embed_type", unet.addition_embed_type, "image_hint" if hinted else "image"),
        ("class_embed_type", unet.class_embed_type, None),
        ("num_class_embeds", unet.num_class_embeds, None),
        ("time_cond_proj_dim", unet.time_cond_proj_dim, None),
    ):
        if value != wanted:
            raise ConfigError(f"unet: {name} is {show(value)}, expected {show(wanted)}")


def check_prior_fits(prior: Any, image: Any, text: Any, length: int) -> None:
    """Raises ConfigError where a prior and the halves of its CLIP do not go together.

    image: None where there is none. length: tokens of a text.
    """
    width = prior.embedding_dim
    own = () if image is None else (("image_encoder: projection_dim", image.projection_dim, width),)
    for name, found, wanted in (
        *own,
        ("text_encoder: projection_dim", text.projection_dim, prior.projected_dim),
        ("text_encoder: hidden_size", text.hidden_size, width),
        ("prior: clip_embed_dim", prior.clip_dim, width),
        ("prior: num_embeddings", prior.num_embeddings, length),
        ("prior: additional_embeddings", prior.additional_embeddings, 4),
        ("prior: added_emb_type", prior.added_emb_type, "prd"),
        ("prior: encoder_hid_proj_type", prior.encoder_hid_proj_type, "linear"),
    ):
        if found != wanted:
            raise ConfigError(f"{name} is {show(found)}, expected {show(wanted)} beside the rest")


def check_pictures(image: Any, processor: ClipPictureConfig, name: str = "image_processor") -> None:
    """Raises ConfigError where pictures are cut to another size than the encoder reads."""
    side = image.image_size
    if processor.crop != (side, side):
        raise ConfigError(
            f"{name}: crop_size {processor.crop[0]}x{processor.crop[1]}, expected the"
            f" image encoder's {side}x{side}"
        )


def check_schedule(schedule: UnCLIPConfig) -> None:
    """Raises ConfigError where a schedule is not that of a prior, which predicts embeddings."""
    if schedule.prediction_type != "sample" or schedule.variance_type != "fixed_small_log":
        raise ConfigError(
            f"scheduler: prediction_type {schedule.prediction_type!r}, variance_type"
            f" {schedule.variance_type!r}: expected 'sample' and 'fixed_small_log'"
        )
