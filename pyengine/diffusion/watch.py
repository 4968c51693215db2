"""Where in a run of steps the latents stop being finite."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RequestError
from ..finite import all_finite, check_finite, first_bad, kind, not_finite
from ..schedules import Plan

CALLBACK = "callback_on_step_end: latents"


class Watch:
    """Looks at the latents [N, C, h, w] after every step: raises NotFiniteError, or RequestError
    where a callback's are at fault, which name the picture, the step (from 0, as callbacks count)
    and the part.

    On a GPU no step waits for that: it is found out at the end, in `end`.
    """

    def __init__(self, source: str, plan: Plan, device: torch.device):
        self._source, self._plan, self._waits = source, plan, device.type != "cuda"
        #: On a GPU: [N], when each was first found bad, in half steps; the callback is the second.
        self._first: Tensor | None = None

    def begin(self, x: Tensor) -> None:
        """x: what the first step is given."""
        check_finite(f"{self._source}: the latents to begin with", x)

    def step(self, i: int, x: Tensor, output: Callable[[], Tensor]) -> None:
        """x: the latents after evaluation i. output: makes the model's output anew, to tell
        whether it or the sampler is at fault.
        """
        if not self._waits:
            self._note(x, 2 * i)
        elif not all_finite(x):
            check_finite(f"{self._source}: unet", output(), len(x), self._at(i))
            sampler = f"{self._source}: the sampler {self._plan.sampler}"
            check_finite(sampler, x, at=self._at(i))

    def called_back(self, i: int, x: Tensor) -> None:
        """x: the latents after evaluation i, as a callback left them."""
        if not self._waits:
            self._note(x, 2 * i + 1)
        elif bad := first_bad(x):
            raise self._refused(*bad, i)

    def end(self, x: Tensor) -> None:
        """x: the latents after the last step."""
        if self._first is None:
            return
        first = self._first.tolist()
        bad = [k for k, when in enumerate(first) if when >= 0]
        if not bad:
            return
        picture = min(bad, key=lambda k: first[k])
        i, by_callback = divmod(first[picture], 2)
        if by_callback:
            raise self._refused(picture, kind(x[picture]), i)
        part = f"{self._source}: unet or the sampler {self._plan.sampler}"
        raise not_finite(part, kind(x[picture]), f"picture {picture}{self._at(i)}", x.dtype)

    def _note(self, x: Tensor, when: int) -> None:
        bad = ~torch.isfinite(x).flatten(1).all(dim=1)
        first = bad.new_full(bad.shape, -1, dtype=torch.int64)
        first = first if self._first is None else self._first
        self._first = first.masked_fill((first < 0) & bad, when)

    def _at(self, i: int) -> str:
        return f" at step {i} (timestep {self._plan.timesteps[i]:g})"

    def _refused(self, picture: int, found: str, i: int) -> RequestError:
        return RequestError(
            f"{CALLBACK}: expected finite values, given {found} in picture {picture} at step {i}"
        )
