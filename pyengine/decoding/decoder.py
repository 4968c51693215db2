"""Jobs of a token model: their texts are read, and their tokens drawn, of any jobs in one pass."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from .. import ops
from ..models.tokens.kv_cache import KVCache
from .checks import check_cache_memory, fault_of
from .drafts import Drafts
from .job import Draw, TokenJob
from .numbers import Gumbel, Uniform
from .request import TokenRequest
from .sampling import draw
from .slots import SlotPool
from .windows import accept, begin_of, look_ahead, width_of

if TYPE_CHECKING:
    from .recorded import TokenGraphs

K = TypeVar("K", bound=Hashable)

#: Tokens of texts that are read together: enough to hide the reading of the weights.
TOGETHER = 512


class TokenModel(Protocol):
    """What reads texts, and then tokens of a picture, into a cache of keys and values."""

    def cache(self, rows: int, most: int, slots: int | None = None) -> KVCache:
        """See KVCache."""

    def read_text(self, ids: Tensor, cache: KVCache, ends: Tensor | None = None) -> Tensor:
        """[N, K]: logits of a picture's first token, after ids [N, L]; ends: [N], the last of each
        row where that is not the one at L - 1.
        """

    def read_tokens(self, tokens: Tensor, cache: KVCache, every: bool = False) -> Tensor:
        """[N, K]: logits of the token after tokens [N, L]; every: [N, L, K], after each."""


class Decoder:
    """Draws the tokens of jobs; belongs to a pipeline, and keeps nothing of a run but the slots
    that jobs hold.

    model: reads. length: tokens of a picture. vocab_size: how many tokens there are. limit: the
    most that a text and a picture may have together. end, fill: see TokenJob. graphs: on a GPU.
    """

    def __init__(
        self,
        model: TokenModel,
        source: str,
        device: torch.device,
        *,
        length: int,
        vocab_size: int,
        limit: int,
        drafts: Tensor | None = None,
        end: int | None = None,
        fill: int = 0,
    ):
        self.model, self.source, self.device = model, source, device
        self.length, self.vocab_size, self.end, self.fill = length, vocab_size, end, fill
        self.drafts = None if drafts is None else Drafts(drafts)
        self.pool = SlotPool(lambda slots, most: model.cache(0, most, slots), limit, device)
        self.graphs: TokenGraphs | None = None

    @cached_property
    def _bytes(self) -> int:
        """Of the keys and values of one token."""
        cache = self.model.cache(0, 1, 1)
        return sum(t.shape[2] * t.element_size() for t in (*cache.keys, *cache.values))

    @property
    def held_bytes(self) -> int:
        """Of the keys and values that jobs have or may come to have."""
        return self.pool.promised * self._bytes

    def clear(self) -> None:
        """Frees what can be made again."""
        self.pool.clear()
        if self.graphs is not None:
            self.graphs.clear(self.pool.cache)

    # --- before the first step --------------------------------------------------------------------

    def prepare(self, r: TokenRequest) -> list[TokenJob]:
        """The jobs of a request, whose texts and prefixes are read."""
        texts = r.texts
        guided = len(texts) > r.count
        most = max(map(len, texts)) + self.length - 1
        if self.device.type == "cpu":  # CUDA says so itself
            check_cache_memory(len(texts), most, self._bytes, self.pool.promised)
        jobs = self._jobs(r, Draw.of(r, guided))
        try:
            for job, lease in zip(jobs, self.pool.take(len(jobs), 1 + guided, most), strict=True):
                job.hold(lease, tuple(map(len, texts[job.index :: r.count])))
            slots = [job.slots[i] for i in range(1 + guided) for job in jobs]
            logits = self._read_texts(texts, slots)
            if r.prefix is not None:
                logits = self._read_prefixes(r.prefix, jobs)
            for job in jobs:
                job.logits = tuple(logits[job.index :: r.count])
                job.has_read(job.begin)
        except BaseException:
            for job in jobs:
                job.release()
            raise
        return jobs

    def _jobs(self, r: TokenRequest, how: Draw) -> list[TokenJob]:
        prefixes = [[]] * r.count if r.prefix is None else r.prefix.tolist()
        begin = len(prefixes[0])
        shared = None
        if isinstance(r.generators, torch.Generator):
            shared = self._numbers(r.generators, r.count, begin, how)
        window = 1 if r.decoding == "sequential" else min(r.window, self.length)
        jobs = []
        for i, seed in enumerate(r.seeds):
            numbers, row = shared, i
            if isinstance(r.generators, list):
                numbers, row = self._numbers([r.generators[i]], 1, begin, how), 0
            assert numbers is not None
            jobs.append(
                TokenJob(
                    r.run,
                    i,
                    seed,
                    length=self.length,
                    prefix=list(prefixes[i]),
                    draw=how,
                    window=window,
                    numbers=numbers,
                    row=row,
                    end=self.end,
                    fill=self.fill,
                )
            )
        return jobs

    def _numbers(
        self, generators: torch.Generator | list[torch.Generator], count: int, begin: int, how: Draw
    ) -> Uniform | Gumbel:
        if how.gumbel:
            return Gumbel(generators, count, begin, self.device, self.vocab_size)
        return Uniform(generators, count, begin, self.device, marked=self.end is not None)

    def _read_texts(self, texts: Sequence[Sequence[int]], slots: list[int]) -> list[Tensor]:
        """[1, K] after each text. Equal ones are read once, and copied to the others' slots; those
        of other lengths together, filled up at their ends, where nothing sees it.
        """
        cache = self._cache
        first: dict[tuple[int, ...], int] = {}
        for row, ids in enumerate(texts):
            first.setdefault(tuple(ids), row)
        logits: dict[int, Tensor] = {}
        for rows in _batches(sorted(first.values(), key=lambda row: len(texts[row])), texts):
            longest = len(texts[rows[-1]])
            filled = [
                [*texts[row], *[texts[row][-1]] * (longest - len(texts[row]))] for row in rows
            ]
            ends = torch.tensor([len(texts[row]) - 1 for row in rows], device=self.device)
            batch = self._batch([slots[row] for row in rows], [0] * len(rows))
            got = self.model.read_text(self._tensor(filled), batch, ends)
            logits |= zip(rows, list(got.unsqueeze(1)), strict=True)
        for row, ids in enumerate(texts):
            if first[tuple(ids)] != row:
                cache.copy_slot(slots[first[tuple(ids)]], slots[row], len(ids))
        return [logits[first[tuple(ids)]] for ids in texts]

    def _read_prefixes(self, prefix: Tensor, jobs: Sequence[TokenJob]) -> list[Tensor]:
        """[1, K] after each job's prefix [n], then for those that they are compared with."""
        logits: list[Tensor] = []
        together = max(TOGETHER // prefix.shape[1], 1)
        for i in range(len(jobs[0].texts)):
            for begin in range(0, len(jobs), together):
                part = jobs[begin : begin + together]
                batch = self._batch([j.slots[i] for j in part], [j.texts[i] for j in part])
                given = prefix[begin : begin + together].to(self.device)
                logits += list(self.model.read_tokens(given, batch).unsqueeze(1))
        return logits

    # --- a step -----------------------------------------------------------------------------------

    def step(self, jobs: Sequence[TokenJob]) -> None:
        """Reads the window of every job and draws its tokens; jobs with windows of one size, and
        those at their first token, are read together. A job of which no token can be drawn has its
        `error` set.
        """
        passes = jobs
        if self.graphs is not None:
            self._queue(self.graphs, [job for job in jobs if job.queues])
            passes = [job for job in jobs if not job.queues]
        for width, group in _grouped(passes, lambda job: job.width):
            self._pass(group, width)
        self._release(jobs)

    def look(self, jobs: Sequence[TokenJob]) -> None:
        """On a GPU, whose tokens the host does not wait for: takes note of those drawn so far."""
        if self.graphs is not None:
            self.graphs.look(self, jobs)
            self._release(jobs)

    def replace_last(self, job: TokenJob, token: int) -> None:
        """The job's last token, which no model has read, becomes another."""
        last = len(job.tokens) - 1
        job.tokens[last] = job.guesses[last] = token
        if self.graphs is not None:
            self.graphs.replace_last(job)

    @staticmethod
    def _release(jobs: Iterable[TokenJob]) -> None:
        for job in jobs:
            if not job.active and not job.queued:
                job.release()

    def _queue(self, graphs: "TokenGraphs", jobs: Sequence[TokenJob]) -> None:
        """A step of jobs that draw one after another, for which the host does not wait."""
        first, rest = (
            [job for job in jobs if bool(job.logits) == at_first] for at_first in (True, False)
        )
        for _, cell in _grouped(first, lambda job: job.draw.guided):
            graphs.first(self, cell, torch.cat(first_logits(cell)))
        if rest:
            graphs.step(self, rest)

    def _pass(self, jobs: Sequence[TokenJob], width: int) -> None:
        # Jobs that are drawn together; their rows lie together.
        cells = [cell for _, cell in _grouped(jobs, lambda job: job.draw.kind)]
        if width:
            width = width_of(jobs, cut=self.graphs is None)
            logits = self._read(cells, width)
        else:
            logits = torch.cat([t for cell in cells for t in first_logits(cell)])[:, None]
        row = 0
        for cell in cells:
            rows = len(cell) * (1 + cell[0].draw.guided)
            self._draw(cell, logits[row : row + rows], max(width, 1))
            row += rows

    def _read(self, cells: Sequence[Sequence[TokenJob]], width: int) -> Tensor:
        """[rows, width, K]: of every cell with guidance the rows compared with, then the others."""
        tokens: list[list[int]] = []
        slots: list[int] = []
        lengths: list[int] = []
        for cell in cells:
            begins = [begin_of(job, width) for job in cell]
            given = [
                self._window(job, begin, width) for job, begin in zip(cell, begins, strict=True)
            ]
            for i in reversed(range(1 + cell[0].draw.guided)):
                tokens += given
                slots += [job.slots[i] for job in cell]
                lengths += [job.texts[i] + begin for job, begin in zip(cell, begins, strict=True)]
        with ops.unseen():  # they are right, and looking takes as long as a kernel
            if self.graphs is not None:
                logits = self.graphs.read(self, tokens, slots, lengths)
            else:
                cache = self._cache.seat(slots, lengths)
                logits = self.model.read_tokens(self._tensor(tokens), cache, width > 1)
        for cell in cells:
            for job in cell:
                job.has_read(begin_of(job, width) + width)
        return logits if logits.dim() == 3 else logits[:, None]

    def _window(self, job: TokenJob, begin: int, width: int) -> list[int]:
        """The tokens that are read from `begin` on, of which those not known yet are guesses."""
        if width == 1:
            return job.tokens[-1:]
        if self.drafts is not None:
            if job.score is None:
                job.score = self.drafts.score()
            known = len(job.tokens)
            job.guesses[known:] = self.drafts.best(job.score, job.tokens)[known:]
        return job.guesses[begin : begin + width]

    def _draw(self, jobs: list[TokenJob], logits: Tensor, width: int) -> None:
        """Draws the tokens after a window; logits: [n, width, K], or twice as many rows."""
        begins = [begin_of(job, width) for job in jobs]
        each = [job for job in jobs for _ in range(width)]
        positions = [begin + 1 + i for begin in begins for i in range(width)]
        drawn = draw(jobs[0].draw, logits.flatten(0, 1), each, positions)
        for row, (job, begin) in enumerate(zip(jobs, begins, strict=True)):
            new = drawn[row * width : (row + 1) * width]
            if min(new) < 0:
                job.error = fault_of(
                    logits[row :: len(jobs)], self.source, job.index, len(job.tokens)
                )
            elif job.window == 1:
                job.add(new)
            else:
                accept(job, begin, new)
            job.logits = ()
            job.evaluations += 1
            job.numbers.forget(job.row, len(job.tokens))
        if self.drafts is None and any(job.window > 1 for job in jobs):
            look_ahead(jobs, [begin + 1 + width for begin in begins], logits[:, -1])

    # --- what the above need ----------------------------------------------------------------------

    @property
    def _cache(self) -> KVCache:
        assert self.pool.cache is not None  # whoever reads holds slots
        return self.pool.cache

    def _tensor(self, numbers: Sequence[Sequence[int]] | Sequence[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device)

    def _batch(self, slots: Sequence[int], lengths: Sequence[int]) -> KVCache:
        return self._cache.batch_of(self._tensor(slots), self._tensor(lengths))


def first_logits(cell: Sequence[TokenJob]) -> list[Tensor]:
    """[1, K] each: those that jobs have of their first token, in the order of rows of a pass."""
    return [job.logits[i] for i in reversed(range(1 + cell[0].draw.guided)) for job in cell]


def _grouped(
    jobs: Iterable[TokenJob], key: Callable[[TokenJob], K]
) -> list[tuple[K, list[TokenJob]]]:
    """The jobs by key, those of each in their order."""
    found: dict[K, list[TokenJob]] = {}
    for job in jobs:
        found.setdefault(key(job), []).append(job)
    return list(found.items())


def _batches(rows: Sequence[int], texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The rows, of texts that become longer, cut into batches of TOGETHER tokens at most, or of one
    text.
    """
    found: list[list[int]] = []
    for row in rows:
        if not found or (len(found[-1]) + 1) * len(texts[row]) > TOGETHER:
            found.append([])
        found[-1].append(row)
    return found
