"""`classifier=` in a call: whose class, how much, and whether it fits, before anything runs."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from ..adapters.places import open_network, variant_of
from ..diffusion.gradients import ClassifierGuidance, Prediction
from ..errors import RequestError
from ..models import EncoderUNetModel
from ..schedules.saved import convention
from ..weights.digest import model_hash
from ..weights.text import show
from .arguments import check
from .class_labels import Labels
from .kept import Kept
from .shipped_guides import guide_place

#: What a checkpoint's schedule tells its network where a classifier can read the same pictures.
_USUAL = convention("DDPMScheduler")


@dataclass(frozen=True)
class Classifier:
    """A call's classifier, checked."""

    model: EncoderUNetModel
    scale: float

    def guidance(self, label: int, prediction: Prediction) -> list[ClassifierGuidance]:
        """Towards a label, of what a network that predicts such denoises; none at scale 0."""
        own = ClassifierGuidance(self.model, label, self.scale, prediction)
        return [own] if self.scale else []


def check_scheduler(name: str, scheduler: Any) -> None:
    """Raises RequestError for a sampler whose levels of noise are not those of training, by which
    gradients count. name: the argument that asks for them.
    """
    predicts = getattr(scheduler.config, "prediction_type", None)
    if convention(scheduler.class_name) != _USUAL or predicts not in get_args(Prediction):
        raise RequestError(
            f"{name}: expected None for the sampler {scheduler.name}, whose levels of noise are not"
            " those of training"
        )


def find_classifier(value: Any, scale: Any, device: torch.device, kept: Kept) -> Classifier | None:
    """The classifier that a call's arguments name: a model, or a folder, which is loaded for
    `device` in float32 where `kept` has it not; None for None. Raises RequestError for anything
    else.
    """
    asked = scale is not None and check("classifier_scale", scale) > 0
    scale = 1.0 if scale is None else check("classifier_scale", scale)
    if value is None:
        if asked:
            raise RequestError("classifier_scale: expected a classifier with it, given none")
        return None
    if isinstance(value, EncoderUNetModel):
        if value.device != device:
            raise RequestError(f"classifier: expected one on {device}, given one on {value.device}")
        return Classifier(value, scale)
    value = guide_place(value)
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise RequestError(
            f"classifier: expected a folder or an EncoderUNetModel, given {show(value)}"
        )
    variant = variant_of(Path(value), None)
    load = partial(EncoderUNetModel.from_pretrained, value, variant=variant, device=device)
    model = kept.get("classifier", value, device, load)
    assert isinstance(model, EncoderUNetModel)
    return Classifier(model, scale)


def guide_hash(folder: str) -> str:
    """SHA-256 of the weights in a folder of a model that guides, hexadecimal."""
    with open_network(Path(guide_place(folder))) as source:
        return model_hash({"guide": source})


def labels_of(classifier: Classifier, known: Labels | None) -> Labels:
    """What class_labels are where a classifier guides. known: of the network, None where it is told
    none. Raises RequestError where both do not know the same classes.
    """
    own = Labels("classes", classifier.model.config.out_channels)
    if known is not None and known != own:
        tells = f"{known.count} classes" if known.kind == "classes" else f"{known.kind}, no classes"
        raise RequestError(
            f"classifier: expected one of the network's class_labels, which are {tells}, given one"
            f" of {own.count} classes"
        )
    return own


def check_pictures(classifier: Classifier, channels: int, height: int, width: int) -> None:
    """Raises RequestError where what is denoised, [N, channels, height, width], is not what the
    classifier reads.
    """
    c = classifier.model.config
    wanted, given = (c.in_channels, c.image_size, c.image_size), (channels, height, width)
    if wanted != given:
        raise RequestError(
            f"classifier: expected one that reads {_sides(given)}, given one that reads"
            f" {_sides(wanted)}"
        )


def _sides(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{channels} channels of {height}x{width}"
