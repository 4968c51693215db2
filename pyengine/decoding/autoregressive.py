"""Drawing tokens one after another, for a batch of pictures."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import ops
from ..jobs import checks
from ..jobs.noise import NoiseSource
from ..jobs.output import Report
from ..progress import progress as progress_bar
from .checks import check_logits
from .request import TokenRequest

#: (logits [N, K], those without the prompt [N, K] or None where guidance is off)
Logits = tuple[Tensor, Tensor | None]


class Decoder(Protocol):
    """A model in the middle of a batch of pictures."""

    def start(self) -> Logits:
        """Logits of the first token that is to be drawn."""

    def step(self, tokens: Tensor) -> Logits:
        """Logits of the token after `tokens` [N], which were drawn last."""

    def read(self, tokens: Tensor, begins: Tensor) -> Logits:
        """Logits [N, W, K] of the token after each of `tokens` [N, W], which are a picture's from
        `begins` [N] on; what was read from there on before is forgotten.
        """

    def keep(self, rows: Tensor) -> None:
        """Goes on with these pictures only; rows: [n] int64."""

    def tensors(self) -> list[Tensor]:
        """All that `read` reads and writes, beside the model and its arguments."""

    def over(self, tensors: Sequence[Tensor]) -> "Decoder":
        """A decoder to `read` with, in other memory: tensors like those that `tensors` returns."""


class Drawing:
    """The tokens of a batch as they come: [N, length] int64, -1 where none was drawn yet.

    known: [N], how many a picture has. end: a token after which it gets no more, or None; what
    follows it is `fill`.
    """

    def __init__(self, r: TokenRequest, length: int, device: torch.device,
                 end: int | None = None, fill: int = 0):  # fmt: skip
        self.tokens = torch.full((r.count, length), -1, device=device)
        self.begin = 0 if r.prefix is None else r.prefix.shape[1]
        if r.prefix is not None:
            self.tokens[:, : self.begin] = r.prefix.to(device)
        self.end, self.fill = end, fill
        self.known = torch.full((r.count,), self.begin, device=device)
        #: Pictures that are still drawn, as indices into the batch.
        self.alive = torch.arange(r.count, device=device)

    def add(self, drawn: Tensor, counts: list[int]) -> Tensor | None:
        """Puts the first counts[k] of drawn[k] behind what the k-th of the alive has. Returns which
        of the alive go on, if any has ended.
        """
        ended = []
        for row, new, count in zip(self.alive.tolist(), drawn.tolist(), counts, strict=True):
            begin, new = int(self.known[row]), new[:count]
            ended.append(self.end in new)
            if ended[-1]:
                new = new[: new.index(self.end) + 1]
                self.tokens[row, begin:] = self.fill
            self.tokens[row, begin : begin + len(new)] = torch.tensor(new, device=drawn.device)
            self.known[row] = begin + len(new)
        return self.drop(torch.tensor(ended, device=drawn.device)) if any(ended) else None

    def drop(self, gone: Tensor) -> Tensor | None:
        """The alive without those that are marked; None if there are none of these."""
        if not gone.any():
            return None
        kept = (~gone).nonzero()[:, 0]
        self.alive = self.alive[kept]
        return kept


def draw_one_by_one(
    pipe: Any, r: TokenRequest, decoder: Decoder, drawing: Drawing, report: Report,
    show_progress: bool | None,
) -> Tensor:  # fmt: skip
    """`drawing.tokens` when all pictures are complete, or after the token that the run was stopped
    at. A picture's random numbers come from its own generator, one float64 per token.
    """
    noise = NoiseSource(r.generators, pipe.device)
    s, length = r.sampling, drawing.tokens.shape[1]
    settings = s.rows(r.count, r.guidance_scale).to(pipe.device)
    # A run that takes the likeliest token every time draws no numbers.
    uniform = torch.zeros(r.count, dtype=torch.float64, device=pipe.device)
    with progress_bar("drawing", length - drawing.begin, show_progress) as advance:
        drawn, done = None, drawing.begin
        for i in range(drawing.begin, length):
            if r.run.interrupted or not len(drawing.alive):
                break
            logits = checked(pipe, decoder.start() if drawn is None else decoder.step(drawn), i)
            if s.temperature > 0:
                uniform = noise.uniform((r.count,), torch.float64)
            drawn = sample(logits, uniform[drawing.alive], settings[drawing.alive])
            report.steps += 1
            report.evaluations += 1
            report.passes += len(drawn)
            report.tokens += len(drawn)
            kept = drawing.add(drawn[:, None], [1] * len(drawn))
            done = i + 1
            advance()
            if r.callback is not None:
                call_back(pipe, r, drawing, report, logits[0].shape[-1])
            drawn = drawing.tokens[drawing.alive, i]
            if kept is not None and len(kept):
                decoder.keep(kept)
    report.interrupted = done < length and len(drawing.alive) > 0
    return drawing.tokens


def checked(pipe: Any, logits: Logits, step: int) -> Logits:
    """The logits; raises CheckpointError where no token can be drawn of them."""
    for given in logits:
        if given is not None:
            check_logits(given, pipe.source, step)
    return logits


def sample(logits: Logits, uniform: Tensor, settings: Tensor) -> Tensor:
    """[N] int64: a token of each row; see ops.sample_token."""
    conditional, unconditional = logits
    rows = conditional if unconditional is None else torch.cat([unconditional, conditional])
    return ops.sample_token(rows, uniform, settings)


def call_back(pipe: Any, r: TokenRequest, drawing: Drawing, report: Report, codes: int) -> None:
    """Shows the callback all tokens; it may change each picture's last, which no model has read."""
    old = drawing.tokens
    places = drawing.known[drawing.alive] - 1
    new = pipe._call_back(r, report.evaluations - 1, int(drawing.known.max()) - 1, old.clone())
    changed = new != old
    others = changed.clone()
    others[drawing.alive, places] = False
    if others.any():
        raise checks.refuse("callback_on_step_end: tokens", "changes only at place"
                            f" {_listed(places)}, in pictures that have not ended",
                            f"place {_where(others)}")  # fmt: skip
    last = new[drawing.alive, places]
    if changed.any() and ((last < 0) | (last >= codes)).any():
        raise checks.refuse("callback_on_step_end: tokens", f"tokens 0 to {codes - 1}",
                            f"{int(last.min())} to {int(last.max())}")  # fmt: skip
    old[drawing.alive, places] = last


def _listed(places: Tensor) -> str:
    return ", ".join(map(str, sorted(set(places.tolist()))[:8]))


def _where(mask: Tensor) -> Any:
    row, place = mask.nonzero()[0].tolist()
    return f"{place} of picture {row}"
