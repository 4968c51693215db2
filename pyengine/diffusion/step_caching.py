"""Which evaluations of a picture read the deep layers' results of an earlier one (DeepCache).

Every picture keeps its own, and its position in its own plan decides, so that pictures of any calls
share evaluations and none depends on another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import RequestError
from ..models.unet import DeepFeatures
from .conditions import gather

if TYPE_CHECKING:
    from .job import DenoisingJob
    from .told import Told


@dataclass(frozen=True)
class StepCaching:
    """Every `interval`-th evaluation computes all of the network, those between them the layers
    outside of `branch` (see DeepFeatures).
    """

    interval: int
    branch: int = 0

    def check(self, branches: int, controlled: bool) -> None:
        """Raises RequestError for a branch that a network of so many has not, and beside
        ControlNets and T2I-Adapters: what these add below would be kept while they change it.
        """
        if self.branch >= branches:
            raise RequestError(
                f"cache_branch_id: expected a whole number from 0 to {branches - 1}, given"
                f" {self.branch}"
            )
        if controlled:
            raise RequestError(
                f"cache_interval: expected 1 beside a ControlNet or T2I-Adapter, given"
                f" {self.interval}"
            )


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """What an evaluation left of a picture.

    features: of all rows of that evaluation. rows: of the picture's conditions by name. version: of
    its conditions then.
    """

    features: Tensor
    rows: Mapping[str, int]
    version: int

    def serve(self, job: "DenoisingJob") -> bool:
        """Whether the picture's next evaluation may read them: what it is told is the same."""
        names = job.guidance.conditions
        return self.version == job.conditions.version and all(name in self.rows for name in names)


def is_whole(job: "DenoisingJob") -> bool:
    """Whether the picture's next evaluation computes all of the network."""
    caching, kept = job.caching, job.kept_features
    if caching is None or kept is None or job.position % caching.interval == 0:
        return True
    return not kept.serve(job)


def deep_features(jobs: Sequence["DenoisingJob"], told: "Told") -> DeepFeatures | None:
    """For an evaluation of jobs that are alike in `is_whole` and in their branch; None where they
    have no caching.
    """
    caching = jobs[0].caching
    if caching is None:
        return None
    if is_whole(jobs[0]):
        return DeepFeatures(caching.branch)
    parts = []
    for k, name in told.entries:
        kept = jobs[k].kept_features
        assert kept is not None
        parts.append((kept.features, kept.rows[name]))
    return DeepFeatures(caching.branch, gather(parts))


def keep_features(jobs: Sequence["DenoisingJob"], told: "Told", deep: DeepFeatures | None) -> None:
    """Has the jobs keep what an evaluation of all of the network has set."""
    if deep is None or not is_whole(jobs[0]):
        return
    assert deep.features is not None
    rows: list[dict[str, int]] = [{} for _ in jobs]
    for row, (k, name) in enumerate(told.entries):
        rows[k][name] = row
    for job, own in zip(jobs, rows, strict=True):
        job.kept_features = KeptFeatures(deep.features, own, job.conditions.version)
