"""What guides a call by gradients: a classifier, a CLIP, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..diffusion.gradients import GradientGuidance, together
from ..diffusion.job import DenoisingJob
from ..diffusion.request import Request
from ..errors import RequestError
from ..weights.text import show
from .class_labels import labels_of_pictures
from .classifiers import Classifier, check_pictures, check_scheduler, find_classifier, labels_of
from .clip_guides import Clip, find_clip

#: The arguments of calls that say what guides, and how.
NAMES = (
    "classifier", "classifier_scale", "clip_model", "clip_guidance_scale", "clip_prompt",
    "clip_image",
)  # fmt: skip


@dataclass(frozen=True)
class Guides:
    """A call's, checked. labels: the classes that its N pictures follow, where a classifier guides.
    clip: None, too, where its scale is 0.
    """

    classifier: Classifier | None = None
    clip: Clip | None = None
    labels: tuple[int, ...] = ()

    def check_scheduler(self, sampler: Any) -> None:
        """Raises RequestError for a schedules.Scheduler under which no gradient counts."""
        for name, guide in (("classifier", self.classifier), ("clip_model", self.clip)):
            if guide is not None:
                check_scheduler(name, sampler)

    def guide(
        self, jobs: Sequence[DenoisingJob], pipe: Any, sampler: Any, warned: list[str]
    ) -> None:
        """Has the jobs of one call of `pipe` follow what guides them."""
        found = self.gradients(len(jobs), pipe, sampler, warned)
        for job, own in zip(jobs, found, strict=True):
            job.gradients = own

    def gradients(
        self, count: int, pipe: Any, sampler: Any, warned: list[str]
    ) -> list[GradientGuidance | None]:
        """What guides each of the `count` pictures of a call of `pipe`."""
        parts: list[list[GradientGuidance]] = [[] for _ in range(count)]
        if self.classifier is not None:
            prediction = sampler.config.prediction_type
            for own, label in zip(parts, self.labels, strict=True):
                own += self.classifier.guidance(label, prediction)
        if self.clip is not None:
            guidance = self.clip.guidance(pipe, sampler, warned)
            for own, one in zip(parts, guidance, strict=True):
                own.append(one)
        return [together(own) for own in parts]


def guides_of(
    given: Mapping[str, Any],
    pipe: Any,
    prompts: Sequence[str] | None,
    count: int,
    shape: tuple[int, int, int],
    classifier: Classifier | None,
    labels: Tensor | None,
) -> Guides:
    """The guides that a call's arguments of NAMES name.

    prompts: the call's, of which each is for count / len(prompts) pictures; None where it has none
    in words. count: its pictures. shape: (channels, height, width) of what is denoised. classifier:
    of `find_classifier`, with labels: [count], the class that each picture is to follow.
    Raises RequestError, ConfigError or CheckpointError.
    """
    follow: tuple[int, ...] = ()
    if classifier is not None and labels is not None:
        check_pictures(classifier, *shape)
        follow = tuple(labels.tolist())
    return Guides(classifier, find_clip(given, pipe, prompts, count), follow)


def guides_of_prompted(
    given: Mapping[str, Any], pipe: Any, r: Request, shape: tuple[int, int, int]
) -> Guides:
    """`guides_of` for a request of prompts, whose network is told no class; given: with the call's
    class_labels.
    """
    classifier = find_classifier(
        given["classifier"], given["classifier_scale"], pipe.device, pipe._kept
    )
    labels = labels_to_follow(classifier, given["class_labels"], r.texts.batch, r.count)
    return guides_of(given, pipe, r.texts.prompts, r.count, shape, classifier, labels)


def labels_to_follow(
    classifier: Classifier | None, value: Any, batch: int, count: int
) -> Tensor | None:
    """[count], class_labels of a call whose network is told none, and whose pictures are counted by
    its `batch` of prompts. Raises RequestError.
    """
    if classifier is not None:
        return labels_of_pictures(labels_of(classifier, None), value, batch, count)
    if value is not None:
        raise RequestError(
            "class_labels: this model knows no classes: expected a classifier with them, or None,"
            f" given {show(value)}"
        )
    return None
