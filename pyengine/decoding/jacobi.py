"""Several tokens of a picture in one pass of the model: the same tokens for every window.

Given a picture's random numbers, one for each token, a token is a function of those before it, so
that a picture is the fixed point of all these functions. Guess a window of tokens, compute all of
them from the guesses at once, and guess again: a token is certain as soon as those before it are,
so that every pass makes at least one token certain, and as many as were guessed right.

Jacobi iteration: Song et al. 2021, arXiv:2002.03629; of random draws with the noise held:
Wiggers & Hoogeboom 2020, arXiv:2002.09928; in a window that moves: Teng et al. 2024,
arXiv:2410.01699, whose rule of acceptance keeps the distribution. Held noise keeps the tokens:
those of drawing one by one ("jacobi"), or others of the same distribution ("jacobi-gumbel"), of
which more are guessed right where a model is unsure; see draws.py. A checkpoint's drafts make
better guesses than the last pass did; see drafts.py.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..jobs.output import Report
from ..progress import progress as progress_bar
from .autoregressive import Decoder, Drawing, Logits, call_back, checked, draw_one_by_one
from .drafts import recall
from .draws import Quantiles, Races
from .recorded import RecordedReads, TokenGraphs, draw_recorded
from .request import OTHER_DRAWS, TokenRequest


def draw_tokens(
    pipe: Any, r: TokenRequest, decoder: Decoder, drawing: Drawing, report: Report,
    show_progress: bool | None,
) -> Tensor:  # fmt: skip
    """`drawing.tokens`, drawn in the way that the request asks for."""
    report.decoding = r.decoding
    given = pipe, r, decoder, drawing, report
    with nullcontext() if pipe.graphs is None else pipe.graphs.for_a_run() as graphs:
        if r.decoding != "sequential":
            return _Windows(*given, graphs).run(show_progress)
        if graphs is not None:
            return draw_recorded(*given, show_progress, graphs)
        return draw_one_by_one(*given, show_progress)


class _Windows:
    """A run. guess: [N, length + window]: a picture's tokens, first those that are certain, then
    what is thought of the next; behind its end is room for windows that reach beyond it.
    """

    def __init__(
        self, pipe: Any, r: TokenRequest, decoder: Decoder, drawing: Drawing,
        report: Report, graphs: TokenGraphs | None,
    ):  # fmt: skip
        self.pipe, self.r, self.drawing = pipe, r, drawing
        self.decoder, self.recorded = decoder, graphs is not None
        if self.recorded:
            self.decoder = RecordedReads(graphs, decoder, r.count, pipe.device)
        self.report, self.length = report, drawing.tokens.shape[1]
        self.window = min(r.window, self.length)
        self.guess = F.pad(drawing.tokens.clamp(min=0), (0, self.window))
        races = r.decoding == OTHER_DRAWS and r.sampling.temperature > 0
        kind = Races if races else Quantiles
        self.draws = kind(r, drawing.begin, self.length, pipe.device)

    def run(self, show_progress: bool | None) -> Tensor:
        """All tokens, or those that were certain when the run was stopped."""
        drawing, begin = self.drawing, self.drawing.begin
        with progress_bar("drawing", self.length - begin, show_progress) as advance:
            done = begin
            while len(drawing.alive) and not self.r.run.interrupted:
                self._pass()
                rest = drawing.known[drawing.alive]
                now = int(rest.min()) if len(rest) else self.length
                for _ in range(done, now):
                    advance()
                done = now
        self.report.steps = int(drawing.known.max()) - begin
        self.report.interrupted = len(drawing.alive) > 0
        return drawing.tokens

    def _pass(self) -> None:
        drawing = self.drawing
        alive, known = drawing.alive, drawing.known[drawing.alive]
        begins, logits = self._read(alive, known)
        width = logits[0].shape[1]
        places = begins[:, None] + 1 + torch.arange(width, device=begins.device)
        thought, drawn = self.guess[alive[:, None], places], self.draws(logits, alive, places)
        old = places < known[:, None]
        right = (old | (thought == drawn)).long().cumprod(dim=1).sum(dim=1)
        certain = begins + 1 + (right + 1).clamp(max=width)
        self.guess[alive[:, None], places] = torch.where(old, thought, drawn)
        self._look_ahead(logits, alive, places[:, -1:], certain)
        self._keep(alive, known, certain, logits[0].shape[-1])

    def _read(self, alive: Tensor, known: Tensor) -> tuple[Tensor, Logits]:
        """(begins [n], logits [n, W, K] after the W tokens from there on)."""
        if self.report.evaluations:
            begins, logits = self._read_window(alive, known)
        else:  # the text is read, and so is what was there before
            begins = known - 1
            logits = tuple(None if t is None else t[:, None] for t in self.decoder.start())
        return begins, checked(self.pipe, logits, int(known.min()))

    def _read_window(self, alive: Tensor, known: Tensor) -> tuple[Tensor, Logits]:
        # Windows are of one size. Pictures with less than that before them begin earlier, with
        # tokens that are read once more.
        # Where passes are recorded, all windows are.
        before = 1 if self.recorded else int(known.min())
        width = min(self.window, self.length - before)
        begins = (known - 1).clamp(max=self.length - 1 - width)
        places = begins[:, None] + torch.arange(width, device=begins.device)
        return begins, self.decoder.read(self.guess[alive[:, None], places], begins)

    def _look_ahead(self, logits: Logits, alive: Tensor, last: Tensor, certain: Tensor) -> None:
        """Thinks of the tokens behind the `last` of a window that the next one will reach: drawn
        as that was.
        """
        reached = int((certain - last[:, 0]).max()) + self.window - 1
        count = min(reached, self.length - 1 - int(last.min()))
        if count <= 0:
            return
        places = last + 1 + torch.arange(count, device=last.device)
        same = tuple(None if t is None else t[:, -1:].expand(-1, count, -1) for t in logits)
        self.guess[alive[:, None], places] = self.draws(same, alive, places)

    def _keep(self, alive: Tensor, known: Tensor, certain: Tensor, codes: int) -> None:
        """Takes over what has become certain, and takes leave of pictures that are complete."""
        drawing, report = self.drawing, self.report
        report.evaluations += 1
        report.passes += len(alive)
        most = int((certain - known).max())
        places = known[:, None] + torch.arange(most, device=known.device)
        counts = (certain - known).tolist()
        kept = drawing.add(self.guess[alive[:, None], places], counts)
        report.tokens += int((drawing.known[alive] - known).sum())
        if kept is not None and len(kept):
            self.decoder.keep(kept)
        if self.r.callback is not None:
            call_back(self.pipe, self.r, drawing, report, codes)
            last = drawing.known[drawing.alive] - 1
            self.guess[drawing.alive, last] = drawing.tokens[drawing.alive, last]
        kept = drawing.drop(drawing.known[drawing.alive] == self.length)
        if kept is not None and len(kept):
            self.decoder.keep(kept)
        if len(drawing.alive):
            self.draws.forget(int(drawing.known[drawing.alive].min()))
            self._recall()

    def _recall(self) -> None:
        """Thinks again of the tokens that are not certain, where there are drafts of pictures."""
        if self.pipe.drafts is None:
            return
        alive, whole = self.drawing.alive, slice(self.length)
        guess, known = self.guess[alive, whole], self.drawing.known[alive]
        drafted = recall(self.pipe.drafts, guess, known)
        certain = torch.arange(self.length, device=known.device) < known[:, None]
        self.guess[alive, whole] = torch.where(certain, guess, drafted)
