"""Several tokens of a picture in one pass of the model: the same tokens for every window.

Given a picture's random numbers, by position, a token is a function of those before it, so that a
picture is the fixed point of all these functions. Guess a window of tokens, compute all of them
from the guesses at once, and guess again: a token is known as soon as those before it are, so that
every pass makes at least one token known, and as many as were guessed right, and one more.

Jacobi iteration: Song et al. 2021, arXiv:2002.03629; of random draws with the noise held:
Wiggers & Hoogeboom 2020, arXiv:2002.09928; in a window that moves: Teng et al. 2024,
arXiv:2410.01699, whose rule of acceptance keeps the distribution. Held noise keeps the tokens:
those of drawing one by one ("jacobi"), or others of the same distribution ("jacobi-gumbel"), of
which more are guessed right where a model is unsure; see numbers.py. A checkpoint's drafts make
better guesses than the last pass did; see drafts.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .job import TokenJob
from .sampling import draw

#: A window that reaches beyond a picture's end is cut to a multiple of so many tokens: to few
#: widths, so that what is recorded of one serves others.
CUT = 16


def width_of(jobs: Sequence[TokenJob], cut: bool) -> int:
    """How many tokens a pass reads of each of these jobs, whose windows are equal; cut: fewer where
    none of them has so many left.
    """
    window, length = jobs[0].window, jobs[0].length
    if cut and window > CUT:
        left = length - min(len(job.tokens) for job in jobs)
        window = min(window, -(-left // CUT) * CUT)
    return min(window, length - 1)


def begin_of(job: TokenJob, width: int) -> int:
    """The first position that a pass reads. A picture with fewer tokens left than the width begins
    earlier, with tokens that are read once more.
    """
    return min(len(job.tokens), job.length - width) - 1


def accept(job: TokenJob, begin: int, drawn: list[int]) -> None:
    """Takes over what has become known. drawn: the tokens after those read from `begin` on."""
    known, guesses, first = len(job.tokens), job.guesses, begin + 1
    end = known
    while end < first + len(drawn):
        end += 1
        if guesses[end - 1] != drawn[end - 1 - first]:
            break
    new = drawn[known - first : end - first]
    guesses[known : first + len(drawn)] = drawn[known - first :]
    job.add(new)


def look_ahead(jobs: Sequence[TokenJob], ends: Sequence[int], logits: Tensor) -> None:
    """Guesses the tokens behind what was drawn that the next windows reach, as the last was drawn.

    ends: of each job the position behind what was drawn. logits: [n, K] of the last that was, or
    with guidance [2 n, K], the unconditional ones first.
    """
    rows: list[int] = []
    positions: list[int] = []
    for row, (job, end) in enumerate(zip(jobs, ends, strict=True)):
        left = range(end, min(len(job.tokens) + job.window, job.length))
        reached = left if job.active and job.window > 1 else range(0)
        rows += [row] * len(reached)
        positions += reached
    if not rows:
        return
    how = jobs[0].draw
    index = rows + [len(jobs) + row for row in rows] if how.guided else rows
    given = logits[torch.tensor(index, device=logits.device)]
    guessed = draw(how, given, [jobs[row] for row in rows], positions)
    for row, position, token in zip(rows, positions, guessed, strict=True):
        jobs[row].guesses[position] = token
