"""A run compiled to a table, and the steps that it drives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..cuda import to_device
from ..errors import RequestError
from ..ops import COLUMNS, sampler_step

_AT = {name: i for i, name in enumerate(COLUMNS)}
_HISTORY = ("d1", "d2", "d3")


def row(**coefficients: float) -> np.ndarray:
    """A float64 row of COLUMNS: zeros but for `coefficients`, no limit, guidance 1."""
    values = np.zeros(len(COLUMNS))
    for name, value in ({"g": 1.0, "limit": np.inf, "dscale": 1.0} | coefficients).items():
        values[_AT[name]] = value
    return values


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model evaluation and the update after it.

    timestep: what the model is told.  row: [len(COLUMNS)] float64.  level: the (a, b) of
    x = a clean + b noise at this point of the run.  in_scale: factor on the model's input.
    draws_noise: whether the update draws from the generator.  known_level: the (a, b) that known
    latents get here, where that is not `level`.  remembers: whether D becomes d1, and d1 d2...
    """

    timestep: int | float
    row: np.ndarray
    level: tuple[float, float]
    in_scale: float = 1.0
    draws_noise: bool = False
    known_level: tuple[float, float] | None = None
    remembers: bool = True


@dataclass(frozen=True, eq=False)
class State:
    """What a sampler remembers between evaluations.

    x: [N, ...] the current sample.  d1, d2, d3: [N, ...] the D of one to three evaluations ago
    (see pyengine.ops.sampler_step), base: [N, ...] its kept tensor y; None counts as zero.
    """

    x: Tensor
    d1: Tensor | None = None
    d2: Tensor | None = None
    d3: Tensor | None = None
    base: Tensor | None = None

    def pick(self, pictures: Sequence[int]) -> "State":
        """The state of some pictures, in the order given."""
        index = torch.as_tensor(list(pictures), dtype=torch.long, device=self.x.device)
        tensors = (self.x, self.d1, self.d2, self.d3, self.base)
        return State(*(None if t is None else t[index] for t in tensors))

    @staticmethod
    def join(states: Sequence["State"]) -> "State":
        """One state of the pictures of several, in order; shapes after N must agree."""

        def column(name: str) -> Tensor | None:
            parts = [getattr(s, name) for s in states]
            if all(p is None for p in parts):
                return None
            pairs = zip(parts, states, strict=True)
            return torch.cat([torch.zeros_like(s.x) if p is None else p for p, s in pairs])

        return State(*(column(name) for name in ("x", *_HISTORY, "base")))


@dataclass(frozen=True, eq=False)
class Rows:
    """A coefficient row per picture, for pictures that share one model evaluation.

    table: [N, len(COLUMNS)] float64.  timesteps: [N], float32 or int64.  in_scale: [N] float64.
    draws_noise: [N] bools.  thresholds: per picture (ratio, largest) of dynamic thresholding, or
    None.  depth: how many past D the pictures' plans look back on, 0 to 3.  keeps_base: whether
    any of them uses the kept tensor.  remembers: [N] bools, whose D becomes d1.
    """

    table: np.ndarray
    timesteps: Tensor
    in_scale: np.ndarray
    draws_noise: tuple[bool, ...]
    thresholds: tuple[tuple[float, float] | None, ...]
    depth: int
    keeps_base: bool
    remembers: tuple[bool, ...]
    #: (in_scale, table) where the pictures are; see `tensors`.
    there: tuple[Tensor, Tensor] | None = None

    def scale_input(self, x: Tensor) -> Tensor:
        """x times each picture's in_scale, in x's dtype."""
        if np.all(self.in_scale == 1):
            return x
        scale = to_device(torch.from_numpy(self.in_scale).to(_accumulator(x)), x.device)
        return scaled(x, scale)

    def tensors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(in_scale [N], table) on x's device, as `scaled` and ops.sampler_step take them."""
        if self.there is not None:
            return self.there
        both = (torch.from_numpy(t).to(_accumulator(x)) for t in (self.in_scale, self.table))
        return tuple(to_device(t, x.device) for t in both)

    def next_state(self, state: State, new: Tensor, d: Tensor, kept: Tensor) -> State:
        """What follows `state`, given what sampler_step returned."""
        history = [d, state.d1, state.d2]
        if not all(self.remembers):
            past = zip((state.d1, state.d2, state.d3), history, strict=True)
            history = [self._held(old, shifted) for old, shifted in past]
        return State(new, *history[: self.depth], base=kept if self.keeps_base else None)

    def _held(self, old: Tensor | None, shifted: Tensor | None) -> Tensor | None:
        """`shifted` for the pictures that remember this evaluation, `old` for the others."""
        if old is None and shifted is None:
            return None
        some = old if shifted is None else shifted
        assert some is not None
        whose = torch.tensor(self.remembers).reshape(-1, *[1] * (some.dim() - 1))
        old, shifted = (torch.zeros_like(some) if t is None else t for t in (old, shifted))
        return torch.where(to_device(whose, some.device), shifted, old)


@dataclass(frozen=True, eq=False)
class Plan:
    """A run of one sampler: see the package's docstring for its use.

    sampler: our name for it.  evaluations: those that will run.  begin: index of the first of
    them in the whole run.  order: evaluations per step.  extra: evaluations that the first step
    has besides.  threshold: (ratio, largest) of dynamic thresholding, or None.
    """

    sampler: str
    evaluations: tuple[Evaluation, ...]
    init_noise_sigma: float
    begin: int = 0
    order: int = 1
    extra: int = 0
    threshold: tuple[float, float] | None = None
    noise_dtype: torch.dtype | None = None

    def __len__(self) -> int:
        return len(self.evaluations)

    @cached_property
    def timesteps(self) -> list[int | float]:
        return [e.timestep for e in self.evaluations]

    @cached_property
    def draws_noise(self) -> list[bool]:
        return [e.draws_noise for e in self.evaluations]

    @cached_property
    def in_scale(self) -> np.ndarray:
        """[evaluations] float64."""
        return np.array([e.in_scale for e in self.evaluations])

    @cached_property
    def rows(self) -> np.ndarray:
        """[evaluations, len(COLUMNS)] float64, with guidance 1."""
        return np.stack([e.row for e in self.evaluations])

    @property
    def num_steps(self) -> int:
        """Denoising steps that will run; the last may have fewer evaluations than the others."""
        return max(1, -((self.extra - len(self)) // self.order))

    @property
    def level(self) -> tuple[float, float]:
        """(a, b) of x = a clean + b noise where the run begins."""
        return self.evaluations[0].level

    @cached_property
    def renoise(self) -> list[tuple[float, float]]:
        """(a, b) of known latents after each evaluation; (1, 0), clean, after the last."""
        return [e.known_level or e.level for e in self.evaluations[1:]] + [(1.0, 0.0)]

    @cached_property
    def ends_step(self) -> list[bool]:
        """Whether a denoising step is complete after each evaluation; num_steps of them are."""
        extra = len(self) - self.num_steps * self.order
        done = range(1, len(self) + 1)
        return [i == len(self) or (i > extra and i % self.order == 0) for i in done]

    @cached_property
    def depth(self) -> int:
        """How many past D any row looks back on, 0 to 3."""
        used = [k for k, name in enumerate(_HISTORY, 1) if self._uses(f"x_{name}", f"y_{name}")]
        return max(used, default=0)

    @cached_property
    def keeps_base(self) -> bool:
        return self._uses("x_base", "y_base")

    def _uses(self, *columns: str) -> bool:
        return bool(np.any(self.rows[:, [_AT[c] for c in columns]]))

    def until(self, cutoff: float) -> "Plan":
        """The same run, ended where the timesteps fall below `cutoff`.

        Raises RequestError where that leaves nothing.
        """
        kept = [e for e in self.evaluations if e.timestep >= cutoff]
        if not kept:
            raise RequestError(
                f"denoising_end: nothing of the run lies before it, as its first timestep "
                f"{self.timesteps[0]:g} is below {cutoff:g}"
            )
        return replace(self, evaluations=tuple(kept))

    def start(self, noise: Tensor, clean: Tensor | None = None) -> State:
        """The state before the first evaluation.

        noise: [N, ...] standard normal.  clean: [N, ...] latents to begin from (image-to-image),
        or None for pure noise, scaled by init_noise_sigma.
        """
        if clean is None:
            return State(noise if self.init_noise_sigma == 1 else noise * self.init_noise_sigma)
        return State(self.add_noise(clean, noise))

    def add_noise(self, clean: Tensor, noise: Tensor) -> Tensor:
        """`clean` at the noise level where the run begins."""
        a, b = self.level
        return a * clean + b * noise

    def scale_input(self, i: int, x: Tensor) -> Tensor:
        """What the model is given for the sample x in evaluation i."""
        scale = self.evaluations[i].in_scale
        return x if scale == 1 else x * scale

    def keep_known(self, i: int, state: State, clean: Tensor, noise: Tensor, mask: Tensor) -> State:
        """The state after evaluation i with the known part put back, at its noise level.

        clean, noise: [N, ...] latents of the known picture and the noise it began with.
        mask: broadcastable to them, 1 where the picture is made anew, 0 where it is known.
        """
        a, b = self.renoise[i]
        known = a * clean + b * noise if b else clean
        return replace(state, x=(1 - mask) * known + mask * state.x)

    def all_rows(self, x: Tensor, guidance_scale: float | Sequence[float] = 1.0) -> list[Rows]:
        """Of every evaluation for the pictures x [N, ...], copied to where these are at once."""
        every = [stack_rows([(self, i)] * len(x), guidance_scale) for i in range(len(self))]
        numbers = [np.concatenate([r.in_scale[:, None], r.table], axis=1) for r in every]
        there = to_device(torch.from_numpy(np.stack(numbers)).to(_accumulator(x)), x.device)
        both = ((step[:, 0].contiguous(), step[:, 1:].contiguous()) for step in there)
        return [replace(r, there=one) for r, one in zip(every, both, strict=True)]

    def step(
        self,
        i: int,
        state: State,
        out: Tensor,
        guidance_scale: float | Sequence[float] = 1.0,
        noise: Tensor | None = None,
        guidance_rescale: float | Sequence[float] = 0.0,
    ) -> State:
        """The state after evaluation i, whose model output is `out`; see `step_rows`."""
        rows = stack_rows([(self, i)] * state.x.shape[0], guidance_scale)
        return step_rows(state, out, rows, noise, guidance_rescale)

    def describe(self) -> str:
        """The table as text: one line per evaluation, only columns that say something."""
        shown = [c for c in COLUMNS[1:] if np.any(self.rows[:, _AT[c]] != row()[_AT[c]])]
        head = ["#", "timestep", "noise level", "in_scale", *shown, "draws"]
        lines = [head]
        for i, e in enumerate(self.evaluations, self.begin):
            values = [f"{e.row[_AT[c]]:.6g}" for c in shown]
            a, b = e.level
            level = f"{b / a if a else np.inf:.6g}"
            drawn = "noise" if e.draws_noise else ""
            lines.append([str(i), f"{e.timestep:g}", level, f"{e.in_scale:.6g}", *values, drawn])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(map(str.rjust, line, widths)).rstrip() for line in lines]
        title = (
            f"{self.sampler}: {self.num_steps} steps, {len(self)} model evaluations, "
            f"init_noise_sigma {self.init_noise_sigma:.6g}"
        )
        return "\n".join([title, *table])


def stack_rows(
    at: Sequence[tuple[Plan, int]], guidance_scale: float | Sequence[float] = 1.0
) -> Rows:
    """The rows of N pictures: for each its plan and the evaluation it is at.

    guidance_scale: one number, or one per picture.
    """
    table = np.stack([plan.evaluations[i].row for plan, i in at])
    table[:, _AT["g"]] = per_picture("guidance_scale", guidance_scale, len(at))
    return Rows(
        table=table,
        timesteps=torch.tensor([plan.evaluations[i].timestep for plan, i in at]),
        in_scale=np.array([plan.evaluations[i].in_scale for plan, i in at]),
        draws_noise=tuple(plan.evaluations[i].draws_noise for plan, i in at),
        thresholds=tuple(plan.threshold for plan, _ in at),
        depth=max(plan.depth for plan, _ in at),
        keeps_base=any(plan.keeps_base for plan, _ in at),
        remembers=tuple(plan.evaluations[i].remembers for plan, i in at),
    )


def step_rows(
    state: State,
    out: Tensor,
    rows: Rows,
    noise: Tensor | None = None,
    guidance_rescale: float | Sequence[float] = 0.0,
) -> State:
    """One update of N pictures, each by its own row.

    out: the model's output, [N, ...], or [2 N, ...] with the N unconditional rows first.
    noise: [N, ...] standard normal, needed where a picture draws (zeros for the others).
    guidance_rescale: 0 to 1, one number or one per picture: how far to pull the guided output's
    standard deviation back to the conditional one's. Lin et al. 2023, arXiv:2305.08891, sec. 3.4.
    Raises ValueError if shapes disagree, noise is missing or evaluations were left out.
    """
    n = state.x.shape[0]
    if len(rows.table) != n or out.shape[0] not in (n, 2 * n) or out.shape[1:] != state.x.shape[1:]:
        raise ValueError(
            f"step: expected output of {n} or {2 * n} pictures like {tuple(state.x.shape)} and "
            f"{n} rows, got output {tuple(out.shape)} and {len(rows.table)} rows"
        )
    if noise is None and any(rows.draws_noise):
        raise ValueError("step: this evaluation draws noise, got none")
    out, x = out.contiguous(), state.x.contiguous()
    coeffs = to_device(torch.from_numpy(rows.table), x.device)
    rescale = per_picture("guidance_rescale", guidance_rescale, n)
    if out.shape[0] == 2 * n and np.any(rescale):
        coeffs = _rescaled(coeffs, out, rescale)
    if any(rows.thresholds):
        coeffs = _thresholded(coeffs, x, out, rows.thresholds)
    uses = np.any(rows.table, axis=0)
    past = {}
    for name in (*_HISTORY, "base"):
        if uses[_AT[f"x_{name}"]] or uses[_AT[f"y_{name}"]]:
            if getattr(state, name) is None:
                raise ValueError(f"step: a row uses {name}, which this state does not have yet")
            past[name] = getattr(state, name).contiguous()
    if noise is not None:
        noise = noise.to(x.dtype).contiguous()
    results = sampler_step(x, out, coeffs.to(_accumulator(x)), noise=noise, **past)
    return rows.next_state(state, *results)


def per_picture(name: str, value: float | Sequence[float], n: int) -> np.ndarray:
    """[n] float64 from one finite number or one per picture."""
    values = np.asarray(value, dtype=np.float64)
    if values.shape not in ((), (n,)) or not np.isfinite(values).all():
        raise RequestError(f"{name}: expected a finite number or {n} of them, got {value!r:.100}")
    return np.broadcast_to(values, (n,))


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x [N, ...] times scale [N], rounded once to x's dtype."""
    return (x * scale.reshape(-1, *[1] * (x.dim() - 1))).to(x.dtype)


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _guided(coeffs: Tensor, out: Tensor, k: int) -> Tensor:
    """Picture k's guided model output, computed as sampler_step does."""
    n = len(coeffs)
    if out.shape[0] == n:
        return out[k].to(_accumulator(out))
    uncond, cond = out[k].to(_accumulator(out)), out[n + k].to(_accumulator(out))
    return uncond + coeffs[k, _AT["g"]] * (cond - uncond)


def _rescaled(coeffs: Tensor, out: Tensor, rescale: np.ndarray) -> Tensor:
    """coeffs, float64, with each picture's guided output scaled towards the conditional one's
    spread.
    """
    n = len(coeffs)
    factors = torch.ones_like(coeffs)
    for k in np.flatnonzero(rescale):
        spread = _spread(out[n + k]) / _spread(_guided(coeffs, out, k))
        for name in ("q", "x_m"):
            factors[k, _AT[name]] = float(rescale[k]) * spread + 1 - float(rescale[k])
    return coeffs * factors


def _spread(x: Tensor) -> Tensor:
    """The standard deviation, in float64: one picture's, so that it is the same in any batch."""
    if x.device.type == "cpu":  # by NumPy, which knows no threads: the same on any number of them
        return torch.tensor(x.double().numpy().std(ddof=1))
    return x.double().std()


def _thresholded(
    coeffs: Tensor, x: Tensor, out: Tensor, thresholds: Sequence[tuple[float, float] | None]
) -> Tensor:
    """coeffs with each picture's own limit: a quantile of its predicted clean sample."""
    coeffs = coeffs.clone()
    for k, threshold in enumerate(thresholds):
        if threshold is None:
            continue
        ratio, largest = threshold
        p, q = coeffs[k, _AT["p"]], coeffs[k, _AT["q"]]
        clean = p * x[k].to(_accumulator(x)) + q * _guided(coeffs, out, k)
        limit = torch.quantile(clean.abs().flatten(), ratio).clamp(min=1.0, max=largest).double()
        coeffs[k, _AT["limit"]] = limit
        coeffs[k, _AT["dscale"]] = 1 / limit
    return coeffs
