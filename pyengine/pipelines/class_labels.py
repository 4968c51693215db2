"""Classes that a call names in place of a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import RequestError
from ..jobs import checks
from ..weights.text import show

#: As large as a network's config lets a label's number be that it embeds as a timestep.
MAX_TIME = 1_000_000


@dataclass(frozen=True)
class Labels:
    """What a network takes for labels.

    kind: "classes": numbers from 0 to count - 1; "times": any number, embedded as a timestep;
    "vectors": [N, count] floats.
    """

    kind: Literal["classes", "times", "vectors"]
    count: int = 0

    @property
    def expected(self) -> str:
        if self.kind == "vectors":
            return f"a float tensor [N, {self.count}]"
        most = self.count - 1 if self.kind == "classes" else MAX_TIME
        what = "whole numbers" if self.kind == "classes" else "numbers"
        return f"{what} from 0 to {most}, one for all pictures or one for each"

    def read(self, value: Any) -> Tensor:
        """[n] or [n, count] of what a call gave, [1] of a number by itself.

        Raises RequestError.
        """
        if value is None:
            raise RequestError(f"class_labels: this model draws classes: expected {self.expected}")
        if self.kind == "vectors":
            return self._vectors(value)
        items = value.tolist() if hasattr(value, "tolist") else value
        items = list(items) if isinstance(items, list | tuple) else [items]
        if not 1 <= len(items) <= checks.MAX_PICTURES:
            raise checks.refuse("class_labels", self.expected, f"{len(items)} of them")
        if self.kind == "classes":
            return torch.tensor([self._number(item) for item in items])
        return torch.tensor([checks.real("class_labels", item, 0, MAX_TIME) for item in items])

    def _number(self, item: Any) -> int:
        return checks.integer("class_labels", item, 0, self.count - 1)

    def _vectors(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() != 2:
            given = list(value.shape) if isinstance(value, Tensor) else value
            raise checks.refuse("class_labels", self.expected, given)
        return checks.check_latents(value, (max(len(value), 1), self.count), "class_labels")


def labels_and_count(
    known: Labels | None, value: Any, batch_size: Any, per_label: Any
) -> tuple[Tensor | None, int]:
    """(labels [N] or [N, C], N pictures); None for a network that is told no class.

    value: one label for `batch_size` pictures, or one each, which is then the number of them.
    per_label: pictures of each; those of a label follow each other.
    Raises RequestError.
    """
    batch = checks.integer("batch_size", batch_size, 1, checks.MAX_PICTURES)
    per = checks.integer("num_images_per_prompt", per_label, 1, checks.MAX_PICTURES)
    if known is None:
        if value is not None:
            raise RequestError(
                f"class_labels: this model knows no classes: expected None, given {show(value)}"
            )
        return None, batch * per
    labels = known.read(value)
    if len(labels) == 1:
        labels = labels.expand(batch, *labels.shape[1:])
    elif batch not in (1, len(labels)):
        raise checks.refuse("batch_size", f"1, or {len(labels)} as of class_labels", batch)
    return labels.repeat_interleave(per, dim=0), len(labels) * per


def labels_of_pictures(known: Labels, value: Any, batch: int, count: int) -> Tensor:
    """[count], of pictures whose number something else says: one label for all, one for each of
    the `batch` prompts, or one for each picture. Raises RequestError.
    """
    labels = known.read(value)
    order = checks.spread("class_labels", range(len(labels)), count, batch, "classes")
    return labels[torch.tensor(order)]


def label_ids(names: dict[int, str], labels: Any) -> list[int]:
    """The classes called `labels`, a name or several. names: by class, each perhaps several names
    with commas between, as ImageNet's are.

    Raises RequestError for a name that there is not.
    """
    wanted: Sequence[Any] = [labels] if isinstance(labels, str) else labels
    if not isinstance(wanted, list | tuple):
        raise checks.refuse("label", "a name or a list of names", labels)
    known = {part.strip(): k for k, name in names.items() for part in name.split(",")}
    for name in wanted:
        if not isinstance(name, str) or name not in known:
            raise checks.refuse(
                "label",
                f"names of {len(known)} classes, such as {', '.join(sorted(known)[:3])}",
                name,
            )
    return [known[name] for name in wanted]
