"""Guidance by a picture and by a text, each with a scale of its own."""

from dataclasses import dataclass

from ...guidance import EMPTY, TEXT, Guidance, Method, Term

#: The picture with the negative (or empty) prompt; EMPTY is that prompt without the picture.
PICTURE = "picture"


@dataclass(frozen=True)
class PictureAndText(Method):
    """e_0 + s (e_p - e_0) + g (e_c - e_p): Brooks et al. 2023, arXiv:2211.09800, eq. 3.

    e_0 is the model's output without prompt and picture, e_p with the picture, e_c with both; g the
    guidance scale, s `image_scale`. As diffusers has it, a g of 1 or less, or an s below 1, leaves
    e_c alone.
    """

    image_scale: float = 1.5

    @property
    def three(self) -> bool:
        """Whether a picture takes three rows of an evaluation."""
        return True

    def guides(self, scale: float) -> bool:
        """Whether a picture of this guidance scale takes more than one row."""
        return scale > 1 and self.image_scale >= 1

    def names(self, guided: bool) -> tuple[str, ...]:
        """The conditions of a call, in the order of their rows."""
        return (EMPTY, PICTURE, TEXT) if guided else (TEXT,)

    def formula(self, scale: float) -> Guidance:
        """Of a picture of this guidance scale, at all steps."""
        if not self.guides(scale):
            return Guidance(TEXT)
        both = Term(self.image_scale, PICTURE, EMPTY), Term(scale, TEXT, PICTURE)
        return Guidance(EMPTY, both)
