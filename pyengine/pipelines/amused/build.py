"""From a checkpoint to aMUSEd's pipeline."""

from typing import Any

from ...schedules.masked import MaskedConfig
from ..reading import Load, read_tokenizer
from .parts import AmusedParts, check_parts


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("transformer", "vqvae", "text_encoder"))
    schedule = MaskedConfig.from_dict(checkpoint.config("scheduler"), checkpoint.where("scheduler"))
    tokenizer = read_tokenizer(checkpoint, "text_encoder", configs["text_encoder"])
    load.compare(check_parts, *configs.values(), schedule)
    defaults = load.defaults()
    models = {
        name: load.network(
            name, configs[name], source, upcast=name == "vqvae" and configs[name].force_upcast
        )
        for name, source in sources.items()
    }
    checkpoint.hold(sources)
    parts = AmusedParts(**models, tokenizer=tokenizer, schedule=schedule)
    return load.pipeline_class(parts, checkpoint, load.source, defaults)
