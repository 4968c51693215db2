"""Ways in which a prompt and a negative prompt guide: what `guidance_method` names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import RequestError
from .value import NEGATIVE, TEXT, Guidance, Term, classifier_free

#: The condition of an empty prompt, beside a negative one.
EMPTY = "empty"
#: "cfg": Ho & Salimans 2022, arXiv:2207.12598, the negative prompt in the empty one's place.
#: "cfg++": Chung et al. 2024, arXiv:2406.08070. "perp-neg": Armandpour et al. 2023,
#: arXiv:2304.04968. "composed": Liu et al. 2022, arXiv:2206.01714, eq. 13, a negation.
METHODS = ("cfg", "cfg++", "perp-neg", "composed")
#: Those whose negative is a prompt, beside an empty one.
_OF_THREE = ("perp-neg", "composed")


@dataclass(frozen=True)
class Method:
    """How the pictures of a call are guided. With e the model's outputs under the empty prompt (0),
    the negative prompt (n) and the prompt (c), g the guidance scale and w `negative_scale`:

    cfg: e_n + g (e_c - e_n).
    cfg++: the same with g from 0 to 1 where the clean sample is predicted, and e_n for the noise
    that it is given again.
    perp-neg: e_0 + g (e_c - e_0 - w p), where p is what e_n - e_0 has perpendicular to e_c - e_0.
    composed: e_0 + g (e_c - e_0 - w (e_n - e_0)).

    start, end: shares of the steps between which it does.
    """

    name: str = "cfg"
    negative_scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    @property
    def three(self) -> bool:
        """Whether a picture takes three rows of an evaluation."""
        return self.name in _OF_THREE

    @property
    def without_negative(self) -> "Method":
        """What is left of it where the base is no prompt, as of embeddings of pictures."""
        return replace(self, name="cfg") if self.three else self

    def guides(self, scale: float) -> bool:
        """Whether a picture of this guidance scale takes more than one row."""
        return self.name == "cfg++" or scale > 1

    def check(self, scales: Sequence[float]) -> None:
        """Raises RequestError for guidance scales that it does not take."""
        if self.name == "cfg++" and max(scales) > 1:
            raise RequestError(
                "guidance_scale: expected at most 1 with guidance_method 'cfg++', given"
                f" {max(scales):g}"
            )

    def names(self, guided: bool) -> tuple[str, ...]:
        """The conditions of a call, in the order of their rows; the prompt's are the last."""
        if not guided:
            return (TEXT,)
        return (EMPTY, NEGATIVE, TEXT) if self.three else (NEGATIVE, TEXT)

    def guidance(self, scale: float) -> Guidance:
        """Of a picture of this guidance scale."""
        return self.formula(scale).within(self.start, self.end)

    def formula(self, scale: float) -> Guidance:
        """Likewise, at all steps."""
        if self.name == "cfg++":
            return Guidance(NEGATIVE, (Term(scale, TEXT, NEGATIVE),), renoises_base=True)
        if not self.three or not self.guides(scale):
            return classifier_free(scale)
        across = TEXT if self.name == "perp-neg" else None
        away = Term(-scale * self.negative_scale, NEGATIVE, EMPTY, across)
        return Guidance(EMPTY, (away, Term(scale, TEXT, EMPTY)))
