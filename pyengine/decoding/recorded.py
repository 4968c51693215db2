"""Drawing tokens on a GPU: one after another, each is one CUDA graph, and the host never waits; in
windows, whose tokens the host compares, a pass of the model is one.

A graph reads the last token or window, adds it to the cache and draws the next, for all pictures,
also for those that have ended, whose tokens are thrown away. Compiled, not yet run: docs/gpu.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..cuda import Graphs, Leash, Record, Recorder
from ..jobs.noise import NoiseSource
from ..jobs.output import Report
from ..progress import progress as progress_bar
from .autoregressive import Decoder, Drawing, Logits, call_back, checked, sample
from .checks import check_drawn
from .request import TokenRequest

#: How far the host runs ahead of the GPU, in tokens: a run that is stopped ends so much later.
AHEAD = 16
#: Tokens after which a run looks whether all its pictures have ended, where a token can end one.
LOOK = 64


class TokenGraphs:
    """`draw` and `read` as CUDA graphs, one for each combination of shapes.

    most: graphs that are kept; each holds a cache of keys and values of its own.
    record: pyengine.cuda.Record, given for tests.
    """

    def __init__(self, record: Record | None = None, most: int = 2):
        self._record, self._most = record or Recorder(), most
        self._draws = Graphs(self._run_draw, most, self._record)
        self._reads = Graphs(self._run_read, most, self._record)
        self._decoder: Decoder | None = None
        self._in_use = False

    def __len__(self) -> int:
        return len(self._draws) + len(self._reads)

    def clear(self) -> None:
        """Frees what was recorded, but for what a run is using."""
        if not self._in_use:
            self._draws.clear()
            self._reads.clear()

    @contextmanager
    def for_a_run(self) -> Iterator["TokenGraphs"]:
        """These graphs, which hold what a run has read; others for a run within it, which a
        callback may begin.
        """
        if self._in_use:
            yield TokenGraphs(self._record, self._most)
            return
        self._in_use = True
        try:
            yield self
        finally:
            self._in_use = False

    def draw(
        self, decoder: Decoder, last: Tensor, begins: Tensor, uniform: Tensor, settings: Tensor
    ) -> Tensor:
        """[N] int64: the tokens after `last` [N], which come at the places `begins` [N]; negative
        where there is none to draw (see ops.sample_token). Overwritten by the next call.

        decoder, settings: of one run, in all its calls. What was read goes to the graph's memory,
        not to the decoder's.
        """
        with self._of(decoder):
            return self._draws([last, begins, uniform], [*decoder.tensors(), settings])

    def read(self, decoder: Decoder, tokens: Tensor, begins: Tensor) -> Logits:
        """decoder.read(tokens, begins), with what `draw` says of decoder and result."""
        with self._of(decoder):
            logits = self._reads([tokens, begins], decoder.tensors())
        return logits if len(logits) == 2 else (*logits, None)

    @contextmanager
    def _of(self, decoder: Decoder) -> Iterator[None]:
        """Within the block it is the decoder's model that is recorded."""
        self._decoder = decoder
        try:
            yield
        finally:
            self._decoder = None

    def _run_read(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> list[Tensor]:
        logits = self._decoder.over(kept).read(*changing)
        return [given for given in logits if given is not None]

    def _run_draw(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        last, begins, uniform = changing
        *tensors, settings = kept
        # A token that could not be drawn is told of when the host looks; until then 0 is read.
        logits = self._decoder.over(tensors).read(last.clamp(min=0)[:, None], begins)
        conditional, unconditional = (None if t is None else t[:, 0] for t in logits)
        return sample((conditional, unconditional), uniform, settings)


class RecordedReads:
    """A decoder of windows: every pass reads all pictures, those that are complete too, so that one
    recording serves a run.
    """

    def __init__(self, graphs: TokenGraphs, decoder: Decoder, count: int, device: torch.device):
        self._graphs, self._decoder, self._count = graphs, decoder, count
        self._alive = torch.arange(count, device=device)

    def start(self) -> Logits:
        return self._decoder.start()

    def read(self, tokens: Tensor, begins: Tensor) -> Logits:
        every = tokens.new_zeros(self._count, tokens.shape[1])
        every[self._alive] = tokens
        places = begins.new_zeros(self._count)
        places[self._alive] = begins
        logits = self._graphs.read(self._decoder, every, places)
        return tuple(None if t is None else t[self._alive] for t in logits)

    def keep(self, rows: Tensor) -> None:
        self._alive = self._alive[rows]


def draw_recorded(
    pipe: Any, r: TokenRequest, decoder: Decoder, drawing: Drawing, report: Report,
    show_progress: bool | None, graphs: TokenGraphs,
) -> Tensor:  # fmt: skip
    """autoregressive.draw_one_by_one by graphs: the same tokens. With a callback the host waits for
    every one.
    """
    noise, leash = NoiseSource(r.generators, pipe.device), Leash(pipe.device, AHEAD)
    s, tokens, begin = r.sampling, drawing.tokens, drawing.begin
    length = tokens.shape[1]
    settings = s.rows(r.count, r.guidance_scale).to(pipe.device)
    uniform = torch.zeros(r.count, dtype=torch.float64, device=pipe.device)
    places = torch.arange(length, device=pipe.device)[:, None].expand(length, r.count)
    looks = drawing.end is not None
    # Where numbers were drawn for tokens that no picture has, those are drawn anew that were used.
    numbers = noise.states() if looks else None
    with progress_bar("drawing", length - begin, show_progress) as advance:
        done = looked = begin
        for i in range(begin, length):
            if r.run.interrupted or not len(drawing.alive):
                break
            if s.temperature > 0:
                uniform = noise.uniform((r.count,), torch.float64)
            if i == begin:
                first = checked(pipe, decoder.start(), i)
                tokens[:, i] = sample(first, uniform, settings)
            else:
                given = tokens[:, i - 1], places[i - 1], uniform, settings
                tokens[:, i] = graphs.draw(decoder, *given)
            done = i + 1
            report.steps += 1
            report.evaluations += 1
            leash.step()
            advance()
            if r.callback is not None or (looks and done % LOOK == 0):
                _look(pipe, drawing, done)
                if looks and len(drawing.alive):
                    looked, numbers = done, noise.states()
            if r.callback is not None:
                call_back(pipe, r, drawing, report, first[0].shape[-1])
        _look(pipe, drawing, done)
    used = int(drawing.known.max())
    if looks and used < done and s.temperature > 0:
        noise.restore(numbers)
        for _ in range(looked, used):
            noise.uniform((r.count,), torch.float64)
    report.tokens = report.passes = int((drawing.known - begin).sum())
    report.interrupted = done < length and len(drawing.alive) > 0
    return tokens


def _look(pipe: Any, drawing: Drawing, done: int) -> None:
    """Takes note of the tokens that were drawn since the last look, at the places before `done`.

    Raises CheckpointError where none could be drawn.
    """
    if not len(drawing.alive):
        return
    looked = int(drawing.known[drawing.alive[0]])
    new = drawing.tokens[drawing.alive, looked:done]
    before_end = torch.ones_like(new, dtype=torch.bool)
    if drawing.end is not None:
        before_end = (new == drawing.end).cumsum(dim=1) == 0
    check_drawn(new.where(before_end, 0), pipe.source, drawing.alive.tolist(), looked)
    ended = torch.ones(len(drawing.tokens), dtype=torch.bool, device=new.device)
    ended[drawing.alive] = False
    drawing.tokens[ended, looked:done] = drawing.fill
    drawing.add(new, [done - looked] * len(new))
