"""A picture whose tokens are drawn one after another."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cuda import to_device
from ..jobs.job import Job
from ..jobs.runs import Run
from .drafts import Score
from .numbers import Gumbel, Uniform
from .request import OTHER_DRAWS, Sampling, TokenRequest
from .slots import Lease


@dataclass(frozen=True)
class Draw:
    """How a job's tokens are drawn from its logits; jobs with equal ones are drawn together."""

    sampling: Sampling
    guidance_scale: float
    guided: bool
    gumbel: bool
    _rows: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, r: TokenRequest, guided: bool) -> "Draw":
        gumbel = r.decoding == OTHER_DRAWS and r.sampling.temperature > 0
        return cls(r.sampling, r.guidance_scale, guided, gumbel)

    @property
    def random(self) -> bool:
        """Whether numbers are drawn; the likeliest token needs none."""
        return self.sampling.temperature > 0

    @property
    def kind(self) -> Hashable:
        """Equal for jobs that are drawn in one call: ops.sample_token takes settings by row."""
        return self if self.gumbel else self.guided

    def rows(self, count: int, device: torch.device) -> Tensor:
        """[count, ...]: as many rows of settings for ops.sample_token."""
        found = self._rows.get(device)
        if found is None or len(found) < count:
            found = to_device(self.sampling.rows(count, self.guidance_scale), device)
            self._rows[device] = found
        return found[:count]


class TokenJob(Job):
    """One picture of `length` tokens, of which `tokens` are drawn, the caller's prefix first.

    decoding, window: how the model is read: `window` tokens at once, of which all but the first are
    guesses; 1 reads one after another. lease: its slots of the cache of keys and values, the
    prompt's and, with guidance, that of what it is compared with; texts: tokens of their texts,
    which come before the picture's. logits: of its first token, [1, K] each, from when the texts
    are read to its first step.
    """

    def __init__(
        self,
        run: Run,
        index: int,
        seed: int | None,
        *,
        length: int,
        prefix: list[int],
        draw: Draw,
        window: int,
        numbers: Uniform | Gumbel,
        row: int,
        end: int | None = None,
        fill: int = 0,
    ):
        """numbers, row: its random numbers, and which row of them. end: a token after which the
        picture gets no more; what follows it is `fill`.
        """
        super().__init__(run, index, seed)
        self.length, self.tokens, self.begin = length, prefix, len(prefix)
        self.draw, self.window = draw, window
        self.numbers, self.row = numbers, row
        self.end, self.fill, self.ended = end, fill, False
        #: Tokens that are drawn on a GPU and that the host has not looked at: see recorded.py.
        self.queued = 0
        self.lease: Lease | None = None
        self.slots: tuple[int, ...] = ()
        self.texts: tuple[int, ...] = ()
        self.logits: tuple[Tensor, ...] = ()
        #: The whole picture: what is drawn, then guesses of the rest. Of windows only.
        self.guesses = [*prefix, *[0] * (length - self.begin)]
        self.score: Score | None = None

    @property
    def position(self) -> int:
        """Of the token that is drawn next."""
        return len(self.tokens) + self.queued

    @property
    def complete(self) -> bool:
        return self.ended or len(self.tokens) + self.queued >= self.length

    @property
    def left(self) -> int:
        return 0 if self.ended else self.length - self.position

    @property
    def shape(self) -> Hashable:
        return self.window

    @property
    def width(self) -> int:
        """Tokens that a step reads; 0 where the logits are there already."""
        return 0 if self.logits else self.window

    @property
    def queues(self) -> bool:
        """Whether a GPU can draw its tokens without the host, which compares those of windows."""
        return self.window == 1 and not self.draw.gumbel

    def add(self, new: list[int]) -> None:
        """Appends tokens, up to the one that ends the picture."""
        if self.end is not None and self.end in new:
            new = new[: new.index(self.end) + 1]
            self.ended = True
            if isinstance(self.numbers, Uniform):
                self.numbers.finish(self.row, len(self.tokens) + len(new))
        self.tokens += new
        self.steps += len(new)

    def whole(self) -> list[int]:
        """All `length` tokens, -1 where none is drawn; behind the end of a picture `fill`."""
        rest = self.fill if self.ended else -1
        return self.tokens + [rest] * (self.length - len(self.tokens))

    def hold(self, lease: Lease, texts: tuple[int, ...]) -> None:
        self.lease, self.slots, self.texts = lease, lease.slots, texts

    def has_read(self, tokens: int) -> None:
        """So many tokens of the picture lie in its slots."""
        if self.lease is not None:
            self.lease.tokens = max(self.texts) + tokens

    def release(self) -> None:
        """Gives its slots of the cache back."""
        if self.lease is not None:
            self.lease.end()
            self.lease, self.logits, self.queued = None, (), 0
            self.numbers.forget(self.row, self.length)
