"""Loading all of a checkpoint as the pipeline does: models, scheduler, tokenizers."""

from __future__ import annotations

import torch

from pyengine import models, schedules
from pyengine.tokenizer import ClipTokenizer
from pyengine.weights import Checkpoint, load_module, resolve
from pyengine.weights.layout import find

CLASSES = {
    "unet": models.UNet2DConditionModel,
    "vae": models.AutoencoderKL,
    "text_encoder": models.CLIPTextModel,
    "text_encoder_2": models.CLIPTextModelWithProjection,
}


def load_parts(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> dict:
    """{part name: model, scheduler or tokenizer}."""
    parts = {}
    for name in checkpoint.components:
        if name in checkpoint.models:
            network = find(checkpoint.layout.parts[name].network)
            data, source = checkpoint.component(name)
            with source:
                config = network.config_class.from_dict(data, checkpoint.where(name))
                parts[name] = load_module(network.from_config(config), source, dtype=dtype)
        elif name == "scheduler":
            parts[name] = schedules.from_config(checkpoint.config(name))
        else:
            parts[name] = ClipTokenizer.from_files(checkpoint.tokenizer_files(name), name)
    return parts


def load(path, **options) -> dict:
    return load_parts(resolve(path, **options))
