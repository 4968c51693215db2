"""AUTOMATIC1111's syntax of weights.

(word) counts 1.1 times, [word] 1 / 1.1 times, (word:1.3) 1.3 times, brackets in brackets multiply;
a bracket behind a backslash is text. BREAK, in capitals, ends a chunk.
"""

import math
import re

from ...errors import RequestError
from ...weights.text import show
from .pieces import MAX_DEPTH, MAX_WEIGHT, Mix, Piece, merged, too_deep

_STEP = 1.1
_TOKEN = re.compile(
    r"\\[()\[\]\\]|\\|[(\[]|:\s*([+-]?[.\d]+)\s*\)|[)\]]|[^\\()\[\]:]+|:", re.DOTALL
)
#: What a closing bracket ends, and the factor of what was in it.
_ENDS = {")": ("(", _STEP), "]": ("[", 1 / _STEP)}
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse(text: str) -> Mix:
    """Raises RequestError for a weight that is no number, or beyond 100, and for brackets more than
    50 deep.
    """
    sections: list[list[tuple[str, float]]] = [[]]
    #: Open brackets: ("(" or "[", the section and the piece that each begins with).
    opened: list[tuple[str, int, int]] = []

    def scale(since: tuple[str, int, int], factor: float) -> None:
        _, section, piece = since
        for s in range(section, len(sections)):
            first = piece if s == section else 0
            sections[s][first:] = [(own, w * factor) for own, w in sections[s][first:]]

    def close(kind: str, factor: float) -> bool:
        """Ends the innermost bracket of this kind."""
        for at in range(len(opened) - 1, -1, -1):
            if opened[at][0] == kind:
                scale(opened.pop(at), factor)
                return True
        return False

    for match in _TOKEN.finditer(text):
        token, weight = match[0], match[1]
        if token[0] == "\\":
            sections[-1].append((token[1:], 1.0))
        elif token in "([":
            if len(opened) == MAX_DEPTH:
                raise too_deep()
            opened.append((token, len(sections) - 1, len(sections[-1])))
        elif weight is not None and any(kind == "(" for kind, _, _ in opened):
            close("(", _number(weight))
        elif token in _ENDS and close(*_ENDS[token]):
            continue
        else:
            for i, part in enumerate(_BREAK.split(token)):
                if i:
                    sections.append([])
                sections[-1].append((part, 1.0))
    for since in opened:
        scale(since, _ENDS[")" if since[0] == "(" else "]"][1])
    return Mix((tuple(merged(Piece(t, w) for t, w in own) for own in sections),))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not abs(value) <= MAX_WEIGHT:
        raise RequestError(
            f"prompt: expected a weight from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, given {show(text)}"
        )
    return value
