"""The jobs of one call, driven together: what its callback sees and changes, and the report."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..jobs import checks
from ..jobs.job import Call
from ..jobs.output import Report
from .decoder import Decoder
from .job import TokenJob
from .request import TokenRequest

#: Shows a caller's callback (request, step, timestep, tokens [N, L]); returns the tokens after it.
CallBack = Callable[[TokenRequest, int, int, Tensor], Tensor]


class TokenCall(Call[TokenRequest, TokenJob]):
    """The jobs of a call that draws tokens. grid: (height, width) of a picture in tokens."""

    stage: ClassVar[str] = "draw"
    title: ClassVar[str] = "drawing"

    def __init__(
        self,
        request: TokenRequest,
        report: Report,
        jobs: Sequence[TokenJob],
        decoder: Decoder,
        grid: tuple[int, int],
        call_back: CallBack,
    ):
        super().__init__(request, report, jobs)
        self.decoder, self.grid, self._call_back = decoder, grid, call_back
        self._done = self._slowest()

    @property
    def total(self) -> int:
        return self.decoder.length - self.jobs[0].begin

    def stepped(self, jobs: Sequence[TokenJob]) -> int:
        self.report.evaluations += 1
        self.raise_error()
        if self.request.callback is not None:
            self._show([job for job in jobs if not job.ended])
        before, self._done = self._done, self._slowest()
        return self._done - before

    def abandon(self) -> None:
        for job in self.jobs:  # which a traceback may keep for long
            job.cancel()
            job.release()

    def _slowest(self) -> int:
        """Tokens of the picture that has fewest and goes on; of a whole one if none does."""
        return min(
            (job.position for job in self.jobs if not job.complete), default=self.decoder.length
        )

    def seen(self) -> tuple[Tensor, int]:
        self.decoder.look(self.jobs)
        self.raise_error()
        return self.tokens(), self._last()

    def tokens(self) -> Tensor:
        """[N, h, w] int64, -1 where none is drawn; a copy."""
        drawn = torch.tensor([job.whole() for job in self.jobs], device=self.decoder.device)
        return drawn.view(len(self.jobs), *self.grid)

    def _last(self) -> int:
        """The position of the last token of the picture that has most."""
        return max(len(job.tokens) for job in self.jobs) - 1

    def end(self) -> None:
        self.decoder.look(self.jobs)
        for job in self.jobs:
            job.release()
        report, jobs = self.report, self.jobs
        report.steps = max(job.steps for job in jobs)
        report.tokens = sum(job.steps for job in jobs)
        report.passes = sum(job.evaluations for job in jobs)
        super().end()
        self.raise_error()

    # --- the callback -----------------------------------------------------------------------------

    def _show(self, open_jobs: Sequence[TokenJob]) -> None:
        """Shows the callback all tokens; it may change the last of each job that has not ended,
        which no model has read.
        """
        self.decoder.look(self.jobs)
        self.raise_error()
        old = self.tokens().flatten(1)
        new = self._call_back(self.request, self.report.evaluations - 1, self._last(), old.clone())
        changed = new != old
        if not changed.any():
            return
        last = {job.index: len(job.tokens) - 1 for job in open_jobs if not job.ended}
        for picture, position in changed.nonzero().tolist():
            if last.get(picture) != position:
                listed = ", ".join(map(str, sorted(set(last.values()))[:8]))
                raise checks.refuse(
                    "callback_on_step_end: tokens",
                    f"changes only at place {listed}, in pictures that have not ended",
                    f"place {position} of picture {picture}",
                )
        tokens = {picture: int(new[picture, position]) for picture, position in last.items()}
        low, high = min(tokens.values()), max(tokens.values())
        if low < 0 or high >= self.decoder.vocab_size:
            raise checks.refuse(
                "callback_on_step_end: tokens",
                f"tokens 0 to {self.decoder.vocab_size - 1}",
                f"{low} to {high}",
            )
        for job in open_jobs:
            if job.index in tokens:
                self.decoder.replace_last(job, tokens[job.index])
