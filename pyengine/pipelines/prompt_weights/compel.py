"""compel's syntax of weights.

word+ counts 1.1 times, word-- 0.9 twice; (some words)++, (some words)1.3, "some words"1.3 and
(some words).attend(1.3) those in the brackets, which are no text; brackets in brackets multiply.
("one", "other").blend(0.7, 0.3) mixes the embeddings of prompts, ("one", "other").and() puts them
one behind the other. A sign behind a backslash is text.
"""

import re

from ...errors import RequestError
from ...weights.text import show
from .pieces import MAX_DEPTH, MAX_WEIGHT, Mix, Piece, Section, merged, too_deep

_UP, _DOWN = 1.1, 0.9
_WHOLE = re.compile(r"\.(blend|and)\(([^()]*)\)\s*$")
_SUFFIX = re.compile(r"\.attend\(\s*(\++|-+|\d+(?:\.\d*)?|\.\d+)\s*\)|(\++|-+|\d+(?:\.\d*)?|\.\d+)")
_WORD_SIGNS = re.compile(r"(\++|-+)(?=[\s().,\"]|$)")
#: More of them are too many, or nothing.
_MOST_SIGNS = 6000
#: Of the weights of a blend, whose embeddings are divided by it.
_LEAST_SUM = 1e-3


def parse(text: str) -> Mix:
    """Raises RequestError for a bracket or quote without its other, wrong weights, and .swap."""
    body = text.strip()
    if body.startswith("("):
        end = _closing(body, 0)
        match = _WHOLE.fullmatch(body, end + 1)
        if match is not None:
            return _mixed(_items(body[1:end]), match[1], match[2])
    return Mix((_prompt(text),))


def _mixed(items: list[str], operator: str, arguments: str) -> Mix:
    given = [a.strip() for a in arguments.split(",") if a.strip()]
    normalised = "no_normalize" not in given
    try:
        weights = tuple(float(a) for a in given if a != "no_normalize")
    except ValueError:
        raise RequestError(
            f"prompt: .{operator}(): expected weights, given {show(arguments)}"
        ) from None
    if any(not abs(w) <= MAX_WEIGHT for w in weights):
        raise RequestError(
            f"prompt: .{operator}(): expected weights from -{MAX_WEIGHT:g} to"
            f" {MAX_WEIGHT:g}, given {show(arguments)}"
        )
    if weights and len(weights) != len(items):
        raise RequestError(
            f"prompt: .{operator}(): expected {len(items)} weights, one for each"
            f" prompt, given {len(weights)}"
        )
    weights = weights or (1.0,) * len(items)
    if operator == "and" and set(weights) != {1.0}:
        raise RequestError("prompt: .and(): expected no weights; weigh the words within")
    if operator == "blend" and normalised and abs(sum(weights)) < _LEAST_SUM:
        raise RequestError("prompt: .blend(): expected weights whose sum is not 0, or no_normalize")
    return Mix(tuple(map(_prompt, items)), weights, normalised, operator == "and")


def _items(text: str) -> list[str]:
    """What commas separate outside of brackets and quotes, without the brackets or quotes."""
    found, begin, at = [], 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] in '("':
            at = _closing(text, at)
        elif text[at] == ",":
            found.append(text[begin:at])
            begin = at + 1
        at += 1
    found.append(text[begin:])
    items = [item.strip() for item in found]
    return [i[1:-1] if i[:1] in ('"', "(") and _closing(i, 0) == len(i) - 1 else i for i in items]


def _prompt(text: str) -> tuple[Section, ...]:
    return (merged(_pieces(text, 1.0, 0)),)


def _pieces(text: str, weight: float, depth: int) -> list[Piece]:
    if depth > MAX_DEPTH:
        raise too_deep()
    found: list[Piece] = []
    at, word = 0, ""

    def end_word(times: float = 1.0) -> None:
        nonlocal word
        if word:
            found.append(Piece(word, weight * times))
        word = ""

    while at < len(text):
        c = text[at]
        if c == "\\" and at + 1 < len(text):
            word += text[at + 1]
            at += 2
        elif c in '("':
            end_word()
            end = _closing(text, at)
            times, after = _suffix(text, end + 1)
            found += _pieces(text[at + 1 : end], weight * times, depth + 1)
            at = after
        elif (
            c in "+-" and word and not word[-1].isspace() and (signs := _WORD_SIGNS.match(text, at))
        ):
            head, last = _last_word(word)
            word = head
            end_word()
            word = last
            end_word(_times(signs[1]))
            at = signs.end()
        elif c.isspace():
            word += c
            at += 1
        else:
            if text.startswith(".swap(", at):
                raise RequestError(
                    "prompt: .swap() changes the attentions, which is not here:"
                    " expected .blend() or .and()"
                )
            word += c
            at += 1
    end_word()
    return found


def _last_word(text: str) -> tuple[str, str]:
    match = re.search(r"[^\s.,]+$", text)
    return (text[: match.start()], match[0]) if match else (text, "")


def _suffix(text: str, at: int) -> tuple[float, int]:
    """(the weight that follows a bracket, where it ends)."""
    match = _SUFFIX.match(text, at)
    if match is None:
        return 1.0, at
    return _times(match[1] or match[2]), match.end()


def _times(text: str) -> float:
    base = {"+": _UP, "-": _DOWN}.get(text[0])
    value = float(text) if base is None else base ** min(len(text), _MOST_SIGNS)
    if value > MAX_WEIGHT:
        raise RequestError(f"prompt: expected a weight up to {MAX_WEIGHT:g}, given {show(text)}")
    return value


def _closing(text: str, at: int) -> int:
    """The place of what closes the bracket or quote at `at`."""
    quote, depth, i = text[at] == '"', 0, at + 1
    while i < len(text):
        c = text[i]
        if c == "\\":
            i += 1
        elif quote and c == '"':
            return i
        elif not quote and c == '"':
            i = _closing(text, i)
        elif not quote and c == "(":
            depth += 1
        elif not quote and c == ")":
            if not depth:
                return i
            depth -= 1
        i += 1
    raise RequestError(
        f"prompt: expected what closes the {text[at]} at character {at} of {show(text)}"
    )
