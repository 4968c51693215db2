"""How a big picture is cut: tiles that are enlarged by themselves, and what of each is kept."""

from typing import NamedTuple

#: A picture of at most so many pixels is enlarged whole, unless a tile's side is asked for.
MAX_WHOLE = 512 * 512
#: A tile's side where the picture is larger, in its own pixels.
TILE = 384
#: Pixels around a tile that are read with it where the network reaches further; see `overlap_of`.
MAX_OVERLAP = 32


class Span(NamedTuple):
    """Along one side, in the picture's pixels: [begin, end) is kept of what is made of
    [read_begin, read_end).
    """

    begin: int
    end: int
    read_begin: int
    read_end: int


class Tile(NamedTuple):
    rows: Span
    columns: Span


def overlap_of(reach: int) -> int:
    """The overlap for a network whose pixels depend on those `reach` away: all of them, where they
    are few. RRDBNet reaches hundreds of pixels, by products of hundreds of small numbers.
    """
    return reach if reach <= 2 * MAX_OVERLAP else MAX_OVERLAP


def tiles(height: int, width: int, side: int | None, overlap: int, multiple: int) -> list[Tile]:
    """The tiles of a picture, row by row. side None: whole up to MAX_WHOLE pixels.

    Where tiles begin, and what they read before it, are multiples, as the network needs them.
    """
    if side is None:
        side = TILE if height * width > MAX_WHOLE else max(height, width)
    side, overlap = (-(-n // multiple) * multiple for n in (side, overlap))
    return [
        Tile(rows, columns)
        for rows in _spans(height, side, overlap)
        for columns in _spans(width, side, overlap)
    ]


def _spans(size: int, side: int, overlap: int) -> list[Span]:
    ends = ((begin, min(begin + side, size)) for begin in range(0, size, side))
    return [Span(b, e, max(b - overlap, 0), min(e + overlap, size)) for b, e in ends]
