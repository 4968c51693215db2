"""From a checkpoint to ImageGPT's pipeline."""

from typing import Any

from ..reading import Load
from .pipeline import ImageGPTPictures, check_pictures


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("model",), checkpoint.where)
    look = ImageGPTPictures.from_dict(checkpoint.config("pictures"), checkpoint.where("pictures"))
    load.compare(check_pictures, configs["model"], look)
    defaults = load.defaults()
    model = load.network("model", configs["model"], sources["model"])
    checkpoint.hold(sources)
    return load.pipeline_class(model, look, checkpoint, load.source, defaults)
