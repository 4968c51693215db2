"""Guesses of what a picture's next tokens are, from pictures that are known beforehand.

A model that has learnt pictures draws what looks like one of them: the one that agrees best with
what is drawn already tells what may come. Guesses are only looked at by Jacobi decoding, which
draws the same tokens whatever they are; see windows.py. Retrieval in place of a second model:
He et al. 2023, arXiv:2311.08252.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Drafts:
    """Pictures that are known beforehand. tokens: [M, length]."""

    def __init__(self, tokens: Tensor):
        self.pictures: list[list[int]] = tokens.tolist()
        #: [length, M]: what the pictures have at a position.
        self._columns = np.ascontiguousarray(tokens.cpu().numpy().T)

    def score(self) -> "Score":
        """Of a picture without tokens."""
        return Score(np.zeros(len(self.pictures), np.int32))

    def best(self, score: "Score", tokens: Sequence[int]) -> list[int]:
        """The draft that agrees with most of `tokens`, a picture's first ones; the first of those
        that agree with as many.

        score: of the same picture's tokens when they were fewer; is brought up to date.
        """
        for position in range(score.count, len(tokens)):
            score.agreed += self._columns[position] == tokens[position]
        score.count = len(tokens)
        return self.pictures[int(score.agreed.argmax())]


class Score:
    """How well each draft agrees with a picture. agreed: [M]; count: tokens that were compared."""

    def __init__(self, agreed: npt.NDArray[np.int32]):
        self.agreed, self.count = agreed, 0
