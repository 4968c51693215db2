"""Guidance as a value that each picture has of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: The conditions of classifier-free guidance: the negative (or empty) prompt and the prompt.
NEGATIVE, TEXT = "negative", "text"


@dataclass(frozen=True)
class Term:
    """scale * (e[towards] - e[away]), where e are a model's outputs by condition.

    across: a condition; only what is perpendicular to e[across] - e[away] counts then.
    """

    scale: float
    towards: str
    away: str
    across: str | None = None

    def of(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The term, from outputs by condition."""
        moved = outputs[self.towards] - outputs[self.away]
        if self.across is not None:
            along = outputs[self.across] - outputs[self.away]
            moved = moved - _share(moved, along) * along
        return self.scale * moved


@dataclass(frozen=True)
class Guidance:
    """The output that a picture's update gets: e[base] plus its terms, where e are the model's
    outputs by condition.

    A picture takes one row of a model's evaluation for each of its `conditions`: one without
    guidance, two with classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598), three where
    a picture and a text guide it apart (Brooks et al. 2023, arXiv:2211.09800, eq. 3).
    renoises_base: whether a step adds the noise again that e[base] says: see schedules.plus_plus.
    start, end: shares of a run's steps between which it holds; the others have the last condition's
    output alone (Kynkäänniemi et al. 2024, arXiv:2404.07724).
    """

    base: str
    terms: tuple[Term, ...] = ()
    renoises_base: bool = False
    start: float = 0.0
    end: float = 1.0

    def at(self, share: float) -> "Guidance":
        """Of a step that begins at that share of a run's steps."""
        return self if self.start <= share < self.end else Guidance(self.last)

    def within(self, start: float, end: float) -> "Guidance":
        """The same between other shares of the steps."""
        return replace(self, start=start, end=end)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, each once: the base, then as the terms name them."""
        named = (
            name
            for term in self.terms
            for name in (term.away, term.across, term.towards)
            if name is not None and name != self.last
        )
        return tuple(dict.fromkeys((self.base, *named, self.last)))

    @property
    def last(self) -> str:
        """The condition that the last term goes towards, or the base: a picture's prompt."""
        return self.terms[-1].towards if self.terms else self.base

    @property
    def scale(self) -> float | None:
        """g where this is e[base] + g (e[towards] - e[base]), or 1 where it is one output: what
        ops.sampler_step computes with the update. None where it has to be combined before.
        """
        if not self.terms:
            return 1.0
        term = self.terms[0]
        alone = (
            len(self.terms) == 1
            and term.away == self.base
            and term.towards != self.base
            and term.across is None
        )
        return term.scale if alone else None

    def combine(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The guided output, in the outputs' dtype; computed in float32 or, for float64, in that.

        outputs: by condition, tensors of one shape.
        """
        first = outputs[self.base]
        kind = torch.float64 if first.dtype == torch.float64 else torch.float32
        wide = {name: outputs[name].to(kind) for name in self.conditions}
        total = wide[self.base]
        for term in self.terms:
            total = total + term.of(wide)
        return total.to(first.dtype)


def _share(x: Tensor, along: Tensor) -> float:
    """How much of `along`, one picture's, there is in x; none where that is zero. In float64, and
    on the CPU by NumPy, which knows no threads: the same on any number of them.
    """
    pair = [t.double() for t in (x, along)]
    if x.device.type == "cpu":
        a, b = (t.numpy() for t in pair)
        inner, square = float((a * b).sum()), float((b * b).sum())
    else:
        inner, square = float((pair[0] * pair[1]).sum()), float((pair[1] * pair[1]).sum())
    return inner / square if square else 0.0


def classifier_free(scale: float) -> Guidance:
    """e[NEGATIVE] + scale (e[TEXT] - e[NEGATIVE]); the text's output alone where scale is 1 or
    less, as diffusers has it.
    """
    if scale <= 1:
        return Guidance(TEXT)
    return Guidance(NEGATIVE, (Term(scale, TEXT, NEGATIVE),))
