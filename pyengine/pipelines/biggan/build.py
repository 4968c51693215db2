"""From a checkpoint to BigGAN's pipeline."""

from typing import Any

from ..reading import Load


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("model",), checkpoint.where)
    defaults = load.defaults()
    model = load.network("model", configs["model"], sources["model"])
    checkpoint.hold(sources)
    return load.pipeline_class(model, checkpoint, load.source, defaults)
