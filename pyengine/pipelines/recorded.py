"""Drawing tokens one after another on a GPU: a token is one CUDA graph, and the host never waits.

The graph reads the last token, adds it to the cache and draws the next, for all pictures, also for
those that have ended, whose tokens are thrown away. Compiled, not yet run: docs/gpu.md.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cuda import Graphs, Leash, Record
from ..progress import progress as progress_bar
from .autoregressive import Decoder, Drawing, call_back, checked, sample
from .noise import NoiseSource
from .output import Report
from .tokens import TokenPipeline, TokenRequest, check_drawn

#: How far the host runs ahead of the GPU, in tokens: a run that is stopped ends so much later.
AHEAD = 16
#: Tokens after which a run looks whether all its pictures have ended, where a token can end one.
LOOK = 64


class TokenGraphs:
    """`draw` as a CUDA graph, one for each combination of shapes.

    most: graphs that are kept; each holds a cache of keys and values of its own.
    record: pyengine.cuda.Record, given for tests.
    """

    def __init__(self, record: Record | None = None, most: int = 2):
        self._graphs = Graphs(self._run, most, record)
        self._decoder: Decoder | None = None

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Frees what was recorded."""
        self._graphs.clear()

    def draw(
        self, decoder: Decoder, last: Tensor, begins: Tensor, uniform: Tensor, settings: Tensor
    ) -> Tensor:
        """[N] int64: the tokens after `last` [N], which come at the places `begins` [N]; negative
        where there is none to draw (see ops.sample_token). Overwritten by the next call.

        decoder, settings: of one run, in all its calls. What was read goes to the graph's memory,
        not to the decoder's.
        """
        self._decoder = decoder
        try:
            return self._graphs([last, begins, uniform], [*decoder.tensors(), settings])
        finally:
            self._decoder = None

    def _run(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        last, begins, uniform = changing
        *tensors, settings = kept
        # A token that could not be drawn is told of when the host looks; until then 0 is read.
        logits = self._decoder.over(tensors).read(last.clamp(min=0)[:, None], begins)
        conditional, unconditional = (None if t is None else t[:, 0] for t in logits)
        return sample((conditional, unconditional), uniform, settings)


def draw_recorded(
    pipe: TokenPipeline, r: TokenRequest, decoder: Decoder, drawing: Drawing, report: Report,
    show_progress: bool | None,
) -> Tensor:  # fmt: skip
    """autoregressive.draw_one_by_one by pipe.graphs: the same tokens. With a callback the host
    waits for every one.
    """
    noise, leash = NoiseSource(r.generators, pipe.device), Leash(pipe.device, AHEAD)
    s, tokens, begin = r.sampling, drawing.tokens, drawing.begin
    length = tokens.shape[1]
    settings = s.rows(r.count, r.guidance_scale).to(pipe.device)
    uniform = torch.zeros(r.count, dtype=torch.float64, device=pipe.device)
    places = torch.arange(length, device=pipe.device)[:, None].expand(length, r.count)
    with progress_bar("drawing", length - begin, show_progress) as advance:
        done = begin
        for i in range(begin, length):
            if pipe._interrupt or not len(drawing.alive):
                break
            if s.temperature > 0:
                uniform = noise.uniform((r.count,), torch.float64)
            if i == begin:
                first = checked(pipe, decoder.start(), i)
                tokens[:, i] = sample(first, uniform, settings)
            else:
                given = tokens[:, i - 1], places[i - 1], uniform, settings
                tokens[:, i] = pipe.graphs.draw(decoder, *given)
            done = i + 1
            report.steps += 1
            report.evaluations += 1
            leash.step()
            advance()
            if r.callback is not None or (drawing.end is not None and done % LOOK == 0):
                _look(pipe, drawing, done)
            if r.callback is not None:
                call_back(pipe, r, drawing, report, first[0].shape[-1])
        _look(pipe, drawing, done)
    report.tokens = report.passes = int((drawing.known - begin).sum())
    report.interrupted = done < length and len(drawing.alive) > 0
    return tokens


def _look(pipe: TokenPipeline, drawing: Drawing, done: int) -> None:
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
