"""What a weighted prompt comes to, whichever syntax it was written in."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import RequestError
from ...tokenizer import ClipTokenizer
from ...weights.text import show

#: Chunks of one prompt: 2,400 tokens, which the U-Net's attentions read at every step.
MAX_CHUNKS = 32
#: A comma among this many last tokens of a chunk begins the next one behind it.
COMMA_REACH = 20


@dataclass(frozen=True)
class Piece:
    """A part of a prompt that is weighted alike."""

    text: str
    weight: float = 1.0


#: Weights of words, those of brackets within brackets multiplied.
MAX_WEIGHT = 100.0
#: Brackets in each other.
MAX_DEPTH = 50


def merged(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Neighbours of one weight put together, so that words are not torn where a bracket was.

    Raises RequestError for a text of a weight beyond MAX_WEIGHT.
    """
    found: list[Piece] = []
    for own in pieces:
        if own.text.strip() and not abs(own.weight) <= MAX_WEIGHT:
            raise RequestError(
                f"prompt: expected a weight from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, given"
                f" {show(own.text.strip(), 60)} with {own.weight:g}"
            )
        if found and found[-1].weight == own.weight:
            found[-1] = Piece(found[-1].text + own.text, own.weight)
        else:
            found.append(own)
    return tuple(found)


def too_deep() -> RequestError:
    return RequestError(f"prompt: expected brackets at most {MAX_DEPTH} deep")


#: What shares chunks; the next section begins a chunk of its own.
Section = tuple[Piece, ...]


@dataclass(frozen=True)
class Mix:
    """A prompt of which several are made: their embeddings' weighted sum, divided by the sum of the
    weights if `normalised`, or with `joined` one after the other.
    """

    prompts: tuple[tuple[Section, ...], ...]
    weights: tuple[float, ...] = (1.0,)
    normalised: bool = True
    joined: bool = False


@dataclass(frozen=True)
class Chunk:
    """One row that a text encoder reads: ids, weights and the number of the piece of each token, -1
    for start, end and padding.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    pieces: tuple[int, ...]


def chunks_of(
    sections: tuple[Section, ...], tokenizer: ClipTokenizer, length: int, at_commas: bool
) -> list[Chunk]:
    """The chunks of a prompt, of `length` tokens each, start and end included.

    Each piece is tokenised by itself. at_commas: whether a chunk that is full ends behind a comma
    among its last COMMA_REACH tokens, as in AUTOMATIC1111's web UI.
    Raises RequestError for more than MAX_CHUNKS of them.
    """
    room, comma = length - 2, tokenizer.ids(",")
    done: list[Chunk] = []
    number = -1
    for section in sections:
        tokens: list[tuple[int, float, int]] = []
        for piece in section:
            number += 1
            tokens += [(i, piece.weight, number) for i in tokenizer.ids(piece.text)]
        begin = 0
        if not tokens and done and section is sections[-1]:
            break  # nothing follows the last break
        while begin < len(tokens) or not begin:
            end = min(begin + room, len(tokens))
            if at_commas and end < len(tokens) and [tokens[end][0]] != comma:
                end = _behind_comma(tokens, begin, end, comma)
            done.append(_chunk(tokens[begin:end], tokenizer, length))
            if len(done) > MAX_CHUNKS:
                raise RequestError(
                    f"prompt: expected at most {MAX_CHUNKS * room} tokens, in {MAX_CHUNKS} chunks"
                )
            begin = max(end, 1)
    return done


def _behind_comma(
    tokens: list[tuple[int, float, int]], begin: int, end: int, comma: list[int]
) -> int:
    for place in range(end - 1, max(begin, end - COMMA_REACH) - 1, -1):
        if [tokens[place][0]] == comma:
            return place + 1
    return end


def _chunk(tokens: list[tuple[int, float, int]], tokenizer: ClipTokenizer, length: int) -> Chunk:
    ids = [tokenizer.bos_id, *(i for i, _, _ in tokens), tokenizer.eos_id]
    left = length - len(ids)
    return Chunk(
        (*ids, *[tokenizer.pad_id] * left),
        (1.0, *(weight for _, weight, _ in tokens), *[1.0] * (left + 1)),
        (-1, *(piece for _, _, piece in tokens), *[-1] * (left + 1)),
    )
