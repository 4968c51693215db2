"""AUTOMATIC1111's syntax of weights.

(word) counts 1.1 times, [word] 1 / 1.1 times, (word:1.3) 1.3 times, brackets in brackets multiply;
a bracket behind a backslash is text. BREAK, in capitals, ends a chunk.
"""

import math
import re

from ...errors import RequestError
from ...weights.text import show
from .pieces import Mix, Piece, Section

_STEP = 1.1
MAX_WEIGHT = 100.0
_TOKEN = re.compile(
    r"\\[()\[\]\\]|\\|[(\[]|:\s*([+-]?[.\d]+)\s*\)|[)\]]|[^\\()\[\]:]+|:", re.DOTALL
)
#: What a closing bracket ends, and the factor of what was in it.
_ENDS = {")": ("(", _STEP), "]": ("[", 1 / _STEP)}
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse(text: str) -> Mix:
    """Raises RequestError for a weight that is no number, or beyond 100."""
    sections: list[list[list[object]]] = [[]]  # of [text, weight]
    #: Open brackets: ("(" or "[", the section and the piece that each begins with).
    opened: list[tuple[str, int, int]] = []

    def scale(since: tuple[str, int, int], factor: float) -> None:
        _, section, piece = since
        for s in range(section, len(sections)):
            for own in sections[s][piece if s == section else 0 :]:
                own[1] = float(own[1]) * factor  # type: ignore[arg-type]

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
            sections[-1].append([token[1:], 1.0])
        elif token in "([":
            opened.append((token, len(sections) - 1, len(sections[-1])))
        elif weight is not None and any(kind == "(" for kind, _, _ in opened):
            close("(", _number(weight))
        elif token in _ENDS and close(*_ENDS[token]):
            continue
        else:
            for i, part in enumerate(_BREAK.split(token)):
                if i:
                    sections.append([])
                sections[-1].append([part, 1.0])
    for since in opened:
        scale(since, _ENDS[")" if since[0] == "(" else "]"][1])
    return Mix((tuple(map(_merged, sections)),))


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


def _merged(pieces: list[list[object]]) -> Section:
    """Neighbours of one weight put together, so that words are not torn where a bracket was."""
    found: list[Piece] = []
    for text, weight in pieces:
        own = Piece(str(text), float(weight))  # type: ignore[arg-type]
        if found and found[-1].weight == own.weight:
            found[-1] = Piece(found[-1].text + own.text, own.weight)
        else:
            found.append(own)
    return tuple(found)
