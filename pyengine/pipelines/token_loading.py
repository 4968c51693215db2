"""From a checkpoint to a pipeline of a token model."""

from collections.abc import Callable
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..models import (
    CLIPTextModelWithProjection,
    ImageGPT,
    Janus,
    PictureGPT,
    PictureTokens,
    UVit2DModel,
    VQModel,
)
from ..schedules.masked import MaskedConfig
from ..tokenizer import ClipTokenizer
from ..weights import Checkpoint, load_module
from .amused.parts import AmusedParts, check_parts
from .amused.pipeline import AmusedPipeline
from .image_gpt.pipeline import ImageGPTPictures, ImageGPTPipeline, check_pictures
from .janus.pipeline import JanusPipeline, JanusTokens, check_tokens_fit
from .json_tokenizer import JsonTokenizer
from .picture_gpt.pipeline import PictureGPTParts, PictureGPTPipeline
from .picture_gpt.pipeline import check_parts as check_gpt_parts
from .reading import read_defaults, read_drafts, read_tokenizer
from .tokens import TokenDefaults


def build_amused(
    checkpoint: Checkpoint, source: str, device: torch.device, dtype: torch.dtype
) -> AmusedPipeline:
    classes = {
        "transformer": UVit2DModel,
        "vqvae": VQModel,
        "text_encoder": CLIPTextModelWithProjection,
    }
    configs, sources = {}, {}
    for name, model in classes.items():
        data, sources[name] = checkpoint.component(name)
        configs[name] = model.config_class.from_dict(data, f"{source}: {name}/config.json")
    schedule = MaskedConfig.from_dict(checkpoint.config("scheduler"), checkpoint.where("scheduler"))
    tokenizer = read_tokenizer(checkpoint, "text_encoder", configs["text_encoder"])
    _compare(source, check_parts, *configs.values(), schedule)
    defaults = read_defaults(checkpoint, AmusedPipeline.defaults_class)
    models = {}
    for name, model in classes.items():
        upcast = name == "vqvae" and dtype == torch.float16 and configs[name].force_upcast
        models[name] = load_module(
            model.from_config(configs[name]), sources[name],
            dtype=torch.float32 if upcast else dtype, device=device,
        )  # fmt: skip
    checkpoint.hold(sources)
    parts = AmusedParts(**models, tokenizer=tokenizer, schedule=schedule)
    return AmusedPipeline(parts, checkpoint, source, defaults)


def build_image_gpt(
    checkpoint: Checkpoint, source: str, device: torch.device, dtype: torch.dtype
) -> ImageGPTPipeline:
    data, tensors = checkpoint.component("model")
    config = ImageGPT.config_class.from_dict(data, checkpoint.where("model"))
    look = ImageGPTPictures.from_dict(checkpoint.config("pictures"), checkpoint.where("pictures"))
    _compare(source, check_pictures, config, look)
    defaults = read_defaults(checkpoint, ImageGPTPipeline.defaults_class)
    model = load_module(ImageGPT.from_config(config), tensors, dtype=dtype, device=device)
    checkpoint.hold({"model": tensors})
    return ImageGPTPipeline(model, look, checkpoint, source, defaults)


def build_janus(
    checkpoint: Checkpoint,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    weights: str | None = None,
) -> JanusPipeline:
    data, tensors = checkpoint.component("model")
    config = Janus.config_class.from_dict(data, checkpoint.where("model"))
    tokens = JanusTokens.from_dict(checkpoint.config("generation"), checkpoint.where("generation"))
    if "tokenizer" not in checkpoint.components:
        raise CheckpointError(f"{source}: expected tokenizer.json, found none")
    tokenizer = JsonTokenizer.from_files(checkpoint.tokenizer_files("tokenizer"), source)
    _compare(source, check_tokens_fit, config, tokens, tokenizer)
    defaults = read_defaults(checkpoint, JanusPipeline.defaults_class)
    model = load_module(
        Janus.from_config(config), tensors, dtype=dtype, device=device, weights=weights
    )
    checkpoint.hold({"model": tensors})
    return JanusPipeline(model, tokenizer, tokens, checkpoint, source, defaults)


def build_picture_gpt(
    checkpoint: Checkpoint,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    weights: str | None = None,
) -> PictureGPTPipeline:
    classes = {"transformer": PictureGPT, "vqvae": VQModel}
    configs, sources = {}, {}
    for name, model in classes.items():
        data, sources[name] = checkpoint.component(name)
        configs[name] = model.config_class.from_dict(data, checkpoint.where(name))
    tokens = PictureTokens.from_dict(checkpoint.config("tokens"), checkpoint.where("tokens"))
    files = checkpoint.tokenizer_files("tokenizer")
    tokenizer = ClipTokenizer.from_files(files, f"{source}: tokenizer")
    _compare(source, check_gpt_parts, *configs.values(), tokens, tokenizer)
    defaults = read_defaults(checkpoint, TokenDefaults)
    drafts = read_drafts(checkpoint, "tokens", tokens.side, tokens.picture_tokens)
    models = {
        name: load_module(
            model.from_config(configs[name]), sources[name], dtype=dtype, device=device,
            weights=weights if name == "transformer" else None,
        )
        for name, model in classes.items()
    }  # fmt: skip
    checkpoint.hold(sources)
    drafts = None if drafts is None else drafts.to(device)
    parts = PictureGPTParts(**models, tokenizer=tokenizer, tokens=tokens, drafts=drafts)
    return PictureGPTPipeline(parts, checkpoint, source, defaults)


def _compare(source: str, check: Callable, *configs: Any) -> None:
    """Runs a check of configs with one another; its errors name the checkpoint."""
    try:
        check(*configs)
    except ConfigError as e:
        raise ConfigError(f"{source}: {e}") from None


#: What builds the pipeline for the classes that a checkpoint may name.
TOKEN_MODELS = {
    "AmusedPipeline": build_amused,
    "AmusedImg2ImgPipeline": build_amused,
    "AmusedInpaintPipeline": build_amused,
    "ImageGPTForCausalImageModeling": build_image_gpt,
    "JanusForConditionalGeneration": build_janus,
    "PictureGPTPipeline": build_picture_gpt,
}
#: The model of those among them that can hold its weights in 8 bits.
QUANTIZED = {"JanusForConditionalGeneration": Janus, "PictureGPTPipeline": PictureGPT}
