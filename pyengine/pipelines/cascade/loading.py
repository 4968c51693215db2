"""`pyengine.cascade`: from folders, files and pipelines to one pipeline."""

import os
from collections.abc import Sequence
from typing import Any

from ...errors import RequestError
from ...weights.text import show
from ..base import Pipeline
from ..loading import from_pretrained
from .pipeline import CascadePipeline


def cascade(stages: Sequence[Any], **loading: Any) -> CascadePipeline:
    """One pipeline of several: each stage's picture is the next one's; one prompt, one seed, one
    report.

        pipe = pyengine.cascade(["IF-I-XL-v1.0", "IF-II-L-v1.0", "upscaler.safetensors"])
        pipe("a red cat", stages=[{"num_inference_steps": 50}, {"noise_level": 100}], seed=1)

    stages: pipelines, or what pyengine.from_pretrained takes (a folder, a file, a Hub id). All but
    the first take a picture: super-resolution (DeepFloyd IF), image-to-image (Stable Diffusion), an
    upscaler. loading: keywords of from_pretrained, for all that are loaded here. Stages that are
    loaded here with the same text encoder, number by number, share one of them.
    Raises RequestError where stages cannot follow each other, and what from_pretrained raises.
    """
    if isinstance(stages, str | os.PathLike) or not isinstance(stages, Sequence):
        raise RequestError(
            f"stages: expected a list of pipelines and folders, given {show(stages)}"
        )
    made: list[Any] = []
    for stage in stages:
        if isinstance(stage, Pipeline):
            made.append(stage)
            continue
        loaded: Any = from_pretrained(stage, **loading)
        _share_encoder(loaded, made)
        made.append(loaded)
    return CascadePipeline(made)


def _share_encoder(loaded: Any, others: Sequence[Any]) -> None:
    """The text encoder of one of the others in the place of an equal one."""
    if hasattr(loaded, "reads_as"):
        for other in others:
            if hasattr(other, "reads_as") and loaded.reads_as(other):
                loaded.models["text_encoder"] = other.models["text_encoder"]
                return
