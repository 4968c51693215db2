"""From a checkpoint to a pipeline of a token model."""

import torch

from ..errors import ConfigError
from ..models import CLIPTextModelWithProjection, UVit2DModel, VQModel
from ..schedules.masked import MaskedConfig
from ..weights import Checkpoint, load_module
from .amused import AmusedParts, AmusedPipeline, check_parts
from .reading import read_defaults, read_tokenizer


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
    try:
        check_parts(*configs.values(), schedule)
    except ConfigError as e:
        raise ConfigError(f"{source}: {e}") from None
    defaults = read_defaults(checkpoint, AmusedPipeline.defaults_class)
    models = {}
    for name, model in classes.items():
        upcast = name == "vqvae" and dtype == torch.float16 and configs[name].force_upcast
        models[name] = load_module(
            model.from_config(configs[name]), sources[name],
            dtype=torch.float32 if upcast else dtype, device=device,
        )  # fmt: skip
    parts = AmusedParts(**models, tokenizer=tokenizer, schedule=schedule)
    return AmusedPipeline(parts, checkpoint, source, defaults)


#: What builds the pipeline for the classes that a checkpoint may name.
TOKEN_MODELS = {
    "AmusedPipeline": build_amused,
    "AmusedInpaintPipeline": build_amused,
}
