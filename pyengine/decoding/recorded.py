"""Drawing tokens on a GPU: of jobs that draw one after another a step is one CUDA graph, and the
host never waits; of windows, whose tokens the host compares, a pass of the model is one.

A graph is for so many rows; which slots of the cache they are, what they have read and how they are
drawn is copied in, so that jobs come and go, and calls, without another recording. What was drawn
lies on a board on the GPU, where the next step reads it and where the host looks when it must.
Compiled, not yet run: docs/gpu.md.
"""

from collections.abc import Hashable, Sequence
from operator import ge, mul, sub
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..cuda import Graphs, Leash, Record, Recorder, to_device
from ..models.tokens.kv_cache import KVCache
from .checks import fault_of, undrawn
from .job import TokenJob
from .sampling import settings_of, uniforms
from .slots import SlotPool

if TYPE_CHECKING:
    from .decoder import Decoder, TokenModel

#: How far the host runs ahead of the GPU, in tokens: a run that is stopped ends so much later.
AHEAD = 16
#: Tokens after which a job is looked at, where a token can end it.
LOOK = 64
#: A recording serves batches of so many times fewer jobs.
IDLE = 4


class TokenGraphs:
    """`step` and `read` as CUDA graphs, one for each combination of shapes.

    most: graphs of each kind that are kept. record: pyengine.cuda.Record, given for tests.
    """

    def __init__(self, record: Record | None = None, most: int = 8):
        self._record = record or Recorder()
        self._draws = Graphs(self._run_draw, most, self._record)
        self._reads = Graphs(self._run_read, most, self._record)
        #: Sizes that were recorded, of draws and of reads by width.
        self._known: dict[Hashable, set[tuple[int, ...]]] = {}
        self._in_flight: Leash | None = None
        self._model: TokenModel | None = None
        #: What was recorded reads and writes; another cache makes it void.
        self._cache: KVCache | None = None
        #: [slots, length]: the tokens of the job that has a slot.
        self._board: Tensor | None = None

    def __len__(self) -> int:
        return len(self._draws) + len(self._reads)

    def clear(self, cache: KVCache | None = None) -> None:
        """Frees what was recorded; where jobs still have slots of a cache, their tokens stay."""
        self._draws.clear()
        self._reads.clear()
        self._known.clear()
        if cache is None:
            self._cache = self._board = None

    def tensors(self) -> list[Tensor]:
        """What recordings read and write in place, beside the model."""
        assert self._cache is not None
        assert self._board is not None
        return [*self._cache.tensors(), self._board]

    def _follow(self, decoder: "Decoder") -> Tensor:
        """The board; what was recorded with another cache is forgotten."""
        cache = decoder.pool.cache
        assert cache is not None
        if self._board is None or self._cache is not cache:
            self.clear(self._cache)
            old, slots = self._board, len(cache.memory.tensor)
            self._board = torch.zeros(
                slots, decoder.length, dtype=torch.int64, device=decoder.device
            )
            if old is not None:  # a cache that has grown keeps its slots
                kept = min(len(old), slots)
                self._board[:kept] = old[:kept]
            self._model, self._cache = decoder.model, cache
            self._in_flight = Leash(decoder.device, AHEAD)
        return self._board

    # --- one after another ------------------------------------------------------------------------

    def first(self, decoder: "Decoder", jobs: Sequence[TokenJob], logits: Tensor) -> None:
        """Draws the first tokens of jobs from logits [n, K], or with guidance [2 n, K]; waits."""
        board = self._follow(decoder)
        fine = logits.amax(dim=-1).isfinite().view(-1, len(jobs)).all(dim=0).tolist()
        positions = [job.position for job in jobs]
        drawn = _sample(logits, self._uniform(jobs, decoder), settings_of(jobs, decoder.device))
        where = torch.tensor([[job.slots[0] for job in jobs], positions])
        slots, at = to_device(where, decoder.device)
        board[slots, at] = drawn
        for row, job in enumerate(jobs):
            job.logits = ()
            if not fine[row]:
                job.error = fault_of(
                    logits[row :: len(jobs)], decoder.source, job.index, job.position
                )
        self._queued(decoder, [job for job in jobs if job.error is None])

    def step(self, decoder: "Decoder", jobs: Sequence[TokenJob]) -> None:
        """Reads the last token of every job and draws the next, without waiting."""
        self._follow(decoder)
        parts = [[job for job in jobs if job.draw.guided == guided] for guided in (True, False)]
        sizes = self._sizes(decoder.pool, "draw", (len(parts[0]), len(parts[1])), (2, 1))
        spare = decoder.pool.spare()
        # [slot, tokens of the text, position] of rows compared with, guided rows, and others.
        rows: list[list[int]] = []
        uniform, settings = [], []
        for part, size, guided in ((parts[0], sizes[0], True), (parts[1], sizes[1], False)):
            idle = size - len(part)
            for i in (1, 0) if guided else (0,):
                rows += [[job.slots[i], job.texts[i], job.position - 1] for job in part]
                rows += [[spare.pop(), 0, 0] for _ in range(idle)]
            if part:
                uniform.append(uniforms(part, [job.position for job in part]))
                settings.append(settings_of(part, decoder.device))
            if idle:
                uniform.append(torch.zeros(idle, dtype=torch.float64))
                likeliest = ops.sampling_settings(idle, temperature=0.0)
                settings.append(to_device(likeliest, decoder.device))
        # What the host knows crosses in two copies.
        whole = to_device(torch.tensor(rows).T.contiguous(), decoder.device)
        numbers = to_device(torch.cat(uniform), decoder.device)
        self._draws([whole, numbers, torch.cat(settings)])
        self._queued(decoder, [*parts[0], *parts[1]])

    def _sizes(
        self, pool: SlotPool, kind: Hashable, wanted: tuple[int, ...], slots: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The sizes of a recording of that kind that serves `wanted`: the smallest that has room,
        the rest of whose rows are idle, with slots that nobody holds; else `wanted`, of which there
        will be one. So that a batch that loses jobs is not recorded anew for every one.

        slots: that a job takes, by kind of job.
        """
        known = self._known.setdefault(kind, set())
        if wanted not in known:
            room = [
                sizes
                for sizes in known
                if all(map(ge, sizes, wanted)) and sum(sizes) <= IDLE * sum(wanted)
            ]
            for sizes in sorted(room, key=sum):
                idle = map(mul, map(sub, sizes, wanted), slots)
                if sum(idle) <= len(pool.spare()):
                    return sizes
            known.add(wanted)
        return wanted

    def _uniform(self, jobs: Sequence[TokenJob], decoder: "Decoder") -> Tensor:
        return to_device(uniforms(jobs, [job.position for job in jobs]), decoder.device)

    def _queued(self, decoder: "Decoder", jobs: Sequence[TokenJob]) -> None:
        for job in jobs:
            job.has_read(job.position)
            job.queued += 1
            job.evaluations += 1
            job.numbers.forget(job.row, job.position)
        assert self._in_flight is not None
        self._in_flight.step()
        full = [job for job in jobs if job.end is not None and job.queued >= LOOK]
        if full:
            self.look(decoder, full)

    def look(self, decoder: "Decoder", jobs: Sequence[TokenJob]) -> None:
        """Takes note of the tokens that were drawn since the last look; waits for them. A job of
        which one could not be drawn has its `error` set.
        """
        waiting = [job for job in jobs if job.queued]
        if not waiting:
            return
        assert self._board is not None
        board: list[list[int]] = self._board[[job.slots[0] for job in waiting]].tolist()
        for job, row in zip(waiting, board, strict=True):
            known = len(job.tokens)
            new, job.queued = row[known : job.position], 0
            before_end = new[: new.index(job.end)] if job.end in new else new
            faults = [i for i, token in enumerate(before_end) if token < 0]
            if faults:
                new = new[: faults[0]]
                job.error = undrawn(decoder.source, job.index, known + faults[0])
            job.add(new)
            job.evaluations = job.steps

    def replace_last(self, job: TokenJob) -> None:
        """The job's last token is another than was drawn."""
        assert self._board is not None
        self._board[job.slots[0], len(job.tokens) - 1] = job.tokens[-1]

    def _run_draw(self, changing: Sequence[Tensor], _: Sequence[Tensor]) -> Tensor:
        assert self._board is not None
        (slots, texts, last), uniform, settings = changing
        n, guided = len(uniform), len(slots) - len(uniform)
        own, at = slots[guided:], last[guided:]
        # A token that could not be drawn is told of when the host looks; until then 0 is read.
        tokens = self._board[own, at].clamp(min=0)
        rows = torch.cat([tokens[:guided], tokens])
        logits = self._logits(rows[:, None], slots, texts + last, False)
        drawn = []
        if guided:
            drawn.append(_sample(logits[: 2 * guided], uniform[:guided], settings[:guided]))
        if guided < n:
            drawn.append(_sample(logits[2 * guided :], uniform[guided:], settings[guided:]))
        result = torch.cat(drawn)
        self._board[own, at + 1] = result
        return result

    # --- windows ----------------------------------------------------------------------------------

    def read(
        self,
        decoder: "Decoder",
        tokens: Sequence[Sequence[int]],
        slots: Sequence[int],
        lengths: Sequence[int],
    ) -> Tensor:
        """[N, W, K]: logits after each of tokens [N, W], which come behind the first `lengths` of
        what the slots hold.
        """
        self._follow(decoder)
        rows, width = len(tokens), len(tokens[0])
        (size,) = self._sizes(decoder.pool, width, (rows,), (1,))
        spare = decoder.pool.spare()[: size - rows]
        given = torch.tensor([*tokens, *[[0] * width] * len(spare)])
        at = torch.tensor([[*slots, *spare], [*lengths, *[0] * len(spare)]])
        result: Tensor = self._reads([to_device(t, decoder.device) for t in (given, at)])
        return result[:rows]

    def _run_read(self, changing: Sequence[Tensor], _: Sequence[Tensor]) -> Tensor:
        tokens, (slots, lengths) = changing
        return self._logits(tokens, slots, lengths, True)

    def _logits(self, tokens: Tensor, slots: Tensor, lengths: Tensor, every: bool) -> Tensor:
        assert self._cache is not None
        assert self._model is not None
        # `advance` writes to lengths, and a graph's inputs stay as they are.
        batch = self._cache.batch_of(slots, lengths.clone())
        return self._model.read_tokens(tokens, batch, every)


def _sample(logits: Tensor, uniform: Tensor, settings: Tensor) -> Tensor:
    with ops.unseen():
        drawn: Tensor = ops.sample_token(logits, uniform, settings)
    return drawn
