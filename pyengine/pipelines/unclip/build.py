"""From checkpoints to pipelines of unCLIP."""

from typing import Any

from ...clip_pictures import ClipPictureConfig
from ...errors import ConfigError
from ...models import UNet2DConditionConfig, UNet2DConfig
from ...models.prior.text_projection import UnCLIPTextProjConfig
from ...schedules.config import UnCLIPConfig
from ...weights.text import show
from ..kandinsky.build import check_pictures, check_prior_fits, check_schedule
from ..reading import Load, read_tokenizer
from .course import DECODER, FIRST, LAST, PRIOR

PARTS = (DECODER, "text_encoder", "text_proj", FIRST, LAST)


def build(load: Load) -> Any:
    """The pipeline from texts."""
    configs, sources, tokenizer, schedules = _read(load, (PRIOR, *PARTS), (PRIOR,))
    text = configs["text_encoder"]
    length = min(tokenizer.model_max_length, text.max_position_embeddings)
    load.compare(check_prior_fits, configs[PRIOR], None, text, length)
    load.compare(check_schedule, schedules[PRIOR])
    defaults = load.defaults()
    models = {name: load.network(name, configs[name], sources[name]) for name in sources}
    load.checkpoint.hold(sources)
    return load.pipeline_class(models, tokenizer, schedules, load.checkpoint, load.source, defaults)


def build_variation(load: Load) -> Any:
    """The pipeline from pictures."""
    configs, sources, tokenizer, schedules = _read(load, (*PARTS, "image_encoder"), ())
    checkpoint, image = load.checkpoint, configs["image_encoder"]
    processor = ClipPictureConfig.from_dict(
        checkpoint.config("feature_extractor"), checkpoint.where("feature_extractor")
    )
    load.compare(check_pictures, image, processor, "feature_extractor")
    load.compare(check_widths, configs["text_proj"], {"image_encoder": image})
    defaults = load.defaults()
    models = {name: load.network(name, configs[name], sources[name]) for name in sources}
    checkpoint.hold(sources)
    return load.pipeline_class(
        models, tokenizer, processor, schedules, checkpoint, load.source, defaults
    )


def _read(load: Load, parts: tuple[str, ...], further: tuple[str, ...]) -> Any:
    """(configs, tensors, tokenizer, schedules) of what both have and of `further` schedules."""
    checkpoint = load.checkpoint
    configs, sources = load.configs(parts)
    tokenizer = read_tokenizer(checkpoint, "text_encoder", configs["text_encoder"])
    schedules = {}
    for stage in (*further, "decoder", "super_res"):
        name = f"{stage}_scheduler"
        schedules[stage] = UnCLIPConfig.from_dict(checkpoint.config(name), checkpoint.where(name))
    for stage, networks in (("decoder", (DECODER,)), ("super_res", (FIRST, LAST))):
        for name in networks:
            load.compare(check_variance, name, configs[name], schedules[stage], stage)
    load.compare(check_decoder, configs[DECODER], configs["text_proj"])
    load.compare(check_widths, configs["text_proj"], {"text_encoder": configs["text_encoder"]})
    load.compare(check_super_resolution, configs[FIRST], configs[LAST], configs[DECODER])
    return configs, sources, tokenizer, schedules


def check_widths(projection: UnCLIPTextProjConfig, towers: dict[str, Any]) -> None:
    """Raises ConfigError where embeddings are of other widths than the projection reads."""
    wanted = projection.clip_embeddings_dim
    for name, tower in towers.items():
        found = {"projection_dim": tower.projection_dim}
        if name == "text_encoder":
            found["hidden_size"] = tower.hidden_size
        for key, value in found.items():
            if value != wanted:
                raise ConfigError(
                    f"{name}: {key} is {show(value)}, expected {wanted} beside the text_proj"
                )


def check_decoder(unet: UNet2DConditionConfig, projection: UnCLIPTextProjConfig) -> None:
    """Raises ConfigError where the decoder is told other things than the pipeline tells it."""
    for name, value, wanted in (
        ("class_embed_type", unet.class_embed_type, "identity"),
        ("num_class_embeds", unet.num_class_embeds, None),
        ("encoder_hid_dim_type", unet.projection, None),
        ("addition_embed_type", unet.addition_embed_type, None),
        ("time_cond_proj_dim", unet.time_cond_proj_dim, None),
        ("in_channels", unet.in_channels, 3),
        ("cross_attention_dim", unet.cross_attention_dim, projection.cross_attention_dim),
    ):
        if value != wanted:
            raise ConfigError(f"decoder: {name} is {show(value)}, expected {show(wanted)}")
    plain = [
        kind
        for kind in (*unet.down_block_types, unet.mid_block_type, *unet.up_block_types)
        if kind and "CrossAttn" in kind and "Simple" not in kind
    ]
    if plain:
        raise ConfigError(
            f"decoder: {show(plain[0])} reads its text without a mask, expected"
            " blocks with SimpleCrossAttn"
        )
    if unet.time_dim != projection.time_embed_dim:
        raise ConfigError(
            f"text_proj: time_embed_dim is {projection.time_embed_dim}, expected the decoder's"
            f" {unet.time_dim}"
        )
    _side("decoder", unet)


def check_super_resolution(
    first: UNet2DConfig, last: UNet2DConfig, decoder: UNet2DConditionConfig
) -> None:
    """Raises ConfigError where the two networks do not work on the same pictures."""
    sides = [_side(FIRST, first), _side(LAST, last), _side("decoder", decoder)]
    if sides[0] != sides[1]:
        raise ConfigError(f"{LAST}: sample_size is {sides[1]}, expected {FIRST}'s, {sides[0]}")
    for name, config in ((FIRST, first), (LAST, last)):
        if config.in_channels != 6:
            raise ConfigError(f"{name}: in_channels is {config.in_channels}, expected 6")
        if config.class_embed_type is not None or config.num_class_embeds is not None:
            raise ConfigError(f"{name}: expected a network that is told no classes")


def check_variance(name: str, unet: Any, schedule: UnCLIPConfig, stage: str) -> None:
    """Raises ConfigError where a network does not predict what its schedule reads."""
    learned = schedule.variance_type == "learned_range"
    wanted = (6,) if learned else (3,)
    if unet.out_channels not in wanted:
        raise ConfigError(
            f"{name}: out_channels is {unet.out_channels}, expected {wanted[0]} with the"
            f" {stage}_scheduler's variance_type {schedule.variance_type!r}"
        )


def _side(name: str, config: Any) -> int:
    """Of a network's pictures, which are square."""
    size = config.sample_size
    sides = size if isinstance(size, tuple) else (size, size)
    if None in sides or sides[0] != sides[1] or not 1 <= sides[0] <= 8192:
        raise ConfigError(f"{name}: sample_size is {show(size)}, expected the side of a square")
    return int(sides[0])
