"""Rows of coefficients, what a sampler remembers, and the update of pictures by their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..cuda import to_device
from ..errors import ConfigError, RequestError
from ..ops import COLUMNS, sampler_step

AT = {name: i for i, name in enumerate(COLUMNS)}
HISTORY = ("d1", "d2", "d3")
#: What a model says in the second half of its channels: the variance itself, or where it lies
#: between two that the schedule knows, from -1 to 1.
Variance = Literal["learned", "learned_range"]


def learned_variance(kind: str | None) -> Variance | None:
    """diffusers' variance_type where it is one that the model predicts, else None."""
    return next((known for known in get_args(Variance) if known == kind), None)


def row(**coefficients: float) -> np.ndarray:
    """A float64 row of COLUMNS: zeros but for `coefficients`, no limit, guidance 1."""
    values = np.zeros(len(COLUMNS))
    for name, value in ({"g": 1.0, "limit": np.inf, "dscale": 1.0} | coefficients).items():
        values[AT[name]] = value
    return values


@dataclass(frozen=True, eq=False)
class State:
    """What a sampler remembers between evaluations.

    Attributes:
        x: [N, ...] the current sample.
        d1, d2, d3: [N, ...] the D of one to three evaluations ago (see pyengine.ops.sampler_step);
            None counts as zero.
        base: [N, ...] its kept tensor y; None counts as zero.
    """

    x: Tensor
    d1: Tensor | None = None
    d2: Tensor | None = None
    d3: Tensor | None = None
    base: Tensor | None = None

    def pick(self, pictures: Sequence[int]) -> "State":
        """The state of some pictures, in the order given."""
        index = torch.as_tensor(list(pictures), dtype=torch.long, device=self.x.device)
        past = (self.d1, self.d2, self.d3, self.base)
        return State(self.x[index], *(None if t is None else t[index] for t in past))

    @staticmethod
    def join(states: Sequence["State"]) -> "State":
        """One state of the pictures of several `states`, in order; shapes after N must agree."""

        def column(name: str) -> Tensor | None:
            parts = [getattr(s, name) for s in states]
            if all(p is None for p in parts):
                return None
            pairs = zip(parts, states, strict=True)
            return torch.cat([torch.zeros_like(s.x) if p is None else p for p, s in pairs])

        return State(
            torch.cat([s.x for s in states]), *(column(name) for name in (*HISTORY, "base"))
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """A coefficient row per picture, for pictures that share one model evaluation.

    Attributes:
        table: [N, len(COLUMNS)] float64.
        timesteps: [N], float32 or int64.
        in_scale: [N] float64.
        draws_noise: [N] bools.
        thresholds: per picture (ratio, largest) of dynamic thresholding, or None.
        depth: how many past D the pictures' plans look back on, 0 to 3.
        keeps_base: whether any of them uses the kept tensor.
        remembers: [N] bools, whose D becomes d1.
        variances: of pictures whose model predicts a variance too.
        there: (in_scale, table) where the pictures are; see `tensors`.
    """

    table: np.ndarray
    timesteps: Tensor
    in_scale: np.ndarray
    draws_noise: tuple[bool, ...]
    thresholds: tuple[tuple[float, float] | None, ...]
    depth: int
    keeps_base: bool
    remembers: tuple[bool, ...]
    variances: tuple[Variance | None, ...] = ()
    #: (in_scale, table) where the pictures are; see `tensors`.
    there: tuple[Tensor, Tensor] | None = None

    def scale_input(self, x: Tensor) -> Tensor:
        """x times each picture's in_scale, in x's dtype."""
        if np.all(self.in_scale == 1):
            return x
        scale = to_device(torch.from_numpy(self.in_scale).to(accumulator(x)), x.device)
        return scaled(x, scale)

    def tensors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(in_scale [N], table) on x's device, as `scaled` and ops.sampler_step take them."""
        if self.there is not None:
            return self.there
        scale, table = (
            to_device(torch.from_numpy(t).to(accumulator(x)), x.device)
            for t in (self.in_scale, self.table)
        )
        return scale, table

    def next_state(self, state: State, new: Tensor, d: Tensor, kept: Tensor) -> State:
        """The state after an update.

        Args:
            state: of the N pictures before the update.
            new, d, kept: what sampler_step returned, [N, ...] each.
        """
        history = [d, state.d1, state.d2]
        if not all(self.remembers):
            past = zip((state.d1, state.d2, state.d3), history, strict=True)
            history = [self._held(old, shifted) for old, shifted in past]
        d1, d2, d3 = (t if k < self.depth else None for k, t in enumerate(history))
        return State(new, d1, d2, d3, kept if self.keeps_base else None)

    def _held(self, old: Tensor | None, shifted: Tensor | None) -> Tensor | None:
        """`shifted` for the pictures that remember this evaluation, `old` for the others."""
        if old is None and shifted is None:
            return None
        some = old if shifted is None else shifted
        assert some is not None
        whose = torch.tensor(self.remembers).reshape(-1, *[1] * (some.dim() - 1))
        old, shifted = (torch.zeros_like(some) if t is None else t for t in (old, shifted))
        return torch.where(to_device(whose, some.device), shifted, old)


def step_rows(
    state: State,
    out: Tensor,
    rows: Rows,
    noise: Tensor | None = None,
    guidance_rescale: float | Sequence[float] = 0.0,
) -> State:
    """One update of N pictures, each by its own row.

    Args:
        state: of the N pictures, before the update.
        out: the model's output, [N, ...], or [2 N, ...] with the N unconditional rows first. Where
            a picture's plan has a `variance`, twice as many channels, the second half its variance
            (of guided pictures that of their conditional rows counts, as in diffusers' IFPipeline).
        rows: of the same pictures.
        noise: [N, ...] standard normal, needed where a picture draws (zeros for the others).
        guidance_rescale: 0 to 1, one number or one per picture: how far to pull the guided output's
            standard deviation back to the conditional one's. Lin et al. 2023, arXiv:2305.08891,
            sec. 3.4.

    Raises:
        ValueError: if shapes disagree, noise is missing or evaluations were left out.
    """
    n = state.x.shape[0]
    out, variance = parted(out, state.x, rows)
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
    for name in (*HISTORY, "base"):
        if uses[AT[f"x_{name}"]] or uses[AT[f"y_{name}"]]:
            if getattr(state, name) is None:
                raise ValueError(f"step: a row uses {name}, which this state does not have yet")
            past[name] = getattr(state, name).contiguous()
    if noise is not None:
        noise = noise.to(x.dtype).contiguous()
    results = sampler_step(
        x, out, coeffs.to(accumulator(x)), noise=noise, variance=variance, **past
    )
    return rows.next_state(state, *results)


def parted(out: Tensor, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor | None]:
    """The model's output for x, and what it says of the variance, [N, ...], where any row asks.

    A variance that is predicted as such is given as its logarithm, half of which is that of its
    root: one formula in the op for both kinds.
    """
    if not any(rows.variances):
        return out, None
    channels = x.shape[1]
    if out.dim() != x.dim() or out.shape[1] != 2 * channels:
        named = next(kind for kind in rows.variances if kind)
        raise ConfigError(
            f"scheduler config: variance_type {named!r} is for models that predict a variance too:"
            f" expected output of {2 * channels} channels, got {list(out.shape)}"
        )
    variance = out[-len(x) :, channels:].clone(memory_format=torch.contiguous_format)
    if "learned" in rows.variances:
        variance = variance.to(accumulator(x))
    for k, kind in enumerate(rows.variances):
        if kind is None:
            variance[k] = 0
        elif kind == "learned":  # one picture at a time, whose bits are then the same in any batch
            variance[k] = variance[k].log()
    return out[:, :channels], variance


def per_picture(name: str, value: float | Sequence[float], n: int) -> np.ndarray:
    """[n] float64 from one finite number or one per picture."""
    values = np.asarray(value, dtype=np.float64)
    if values.shape not in ((), (n,)) or not np.isfinite(values).all():
        raise RequestError(f"{name}: expected a finite number or {n} of them, got {value!r:.100}")
    return np.broadcast_to(values, (n,))


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x [N, ...] times scale [N], rounded once to x's dtype."""
    return (x * scale.reshape(-1, *[1] * (x.dim() - 1))).to(x.dtype)


def accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _guided(coeffs: Tensor, out: Tensor, k: int) -> Tensor:
    """Picture k's guided model output, computed as sampler_step does."""
    n = len(coeffs)
    if out.shape[0] == n:
        return out[k].to(accumulator(out))
    uncond, cond = out[k].to(accumulator(out)), out[n + k].to(accumulator(out))
    return uncond + coeffs[k, AT["g"]] * (cond - uncond)


def _rescaled(coeffs: Tensor, out: Tensor, rescale: np.ndarray) -> Tensor:
    """coeffs, float64, with each picture's guided output scaled towards the conditional one's
    spread.
    """
    n = len(coeffs)
    factors = torch.ones_like(coeffs)
    for k in np.flatnonzero(rescale).tolist():
        spread = _spread(out[n + k]) / _spread(_guided(coeffs, out, k))
        for name in ("q", "x_m"):
            factors[k, AT[name]] = float(rescale[k]) * spread + 1 - float(rescale[k])
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
        p, q = coeffs[k, AT["p"]], coeffs[k, AT["q"]]
        clean = p * x[k].to(accumulator(x)) + q * _guided(coeffs, out, k)
        limit = torch.quantile(clean.abs().flatten(), ratio).clamp(min=1.0, max=largest).double()
        coeffs[k, AT["limit"]] = limit
        coeffs[k, AT["dscale"]] = 1 / limit
    return coeffs
