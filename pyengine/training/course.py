"""The training loop of a stage, and its state: networks, optimiser, average and step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import ops
from . import loop, parallel


class Networks:
    """Base of what a stage trains.

    Subclasses set settings (a loop.Settings with batch, rate, warmup and decay), device and
    parameters, which the optimiser changes.
    """

    #: Names of what `loss` returns, the loss first.
    MEASURES: tuple[str, ...] = ()
    #: Whether the loss is computed in bfloat16 on a GPU, and on a CPU that multiplies it.
    AUTOCAST = True
    CPU_AUTOCAST = False
    #: Largest norm of all gradients together; what exceeds it is scaled down.
    MAX_GRADIENT = 1.0

    settings: Any
    device: str
    parameters: list[Any]

    @property
    def averaged(self) -> list[Any]:
        """The parameters whose moving average is kept."""
        return self.parameters

    @property
    def exported(self) -> dict[str, Any]:
        """{name: module}, what a small model's folder holds."""
        raise NotImplementedError

    def loss(self, *batch: Any) -> tuple[Any, ...]:
        """The loss of a batch, and other measures for the log."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def load_average(self, values: list[Any]) -> None:
        """Replaces the parameters by their averages."""
        loop.copy_values(self.averaged, values)

    def before_step(self, step: int, batches: Any) -> None:
        """Called before the batch of a step is made."""

    def after_step(self, step: int) -> None:
        """Called between the optimiser's step and the average's."""

    def more_measures(self) -> dict[str, Any]:
        """For the log, taken after a step."""
        return {}

    def more_state(self) -> dict[str, Any]:
        """Further fields of a checkpoint."""
        return {}

    def load_more_state(self, state: dict[str, Any]) -> None:
        """Restores the fields of `more_state`."""


@dataclass
class Run:
    """The state of a training. seconds: of all calls so far; cooled: steps over which the rate has
    descended to zero, 0 for none.
    """

    networks: Any
    optimizer: Any
    average: loop.Average
    step: int = 0
    seconds: float = 0.0
    cooled: int = 0

    def save(self, path: Path, seed: int) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "cooled": self.cooled,
            "seed": seed,
            "settings": self.networks.settings.shape(),
            "model": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
        }
        loop.save_checkpoint(path, state | self.networks.more_state())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the networks have their averaged weights."""
        kept = [parameter.detach().clone() for parameter in self.networks.averaged]
        self.networks.load_average(self.average.values)
        try:
            yield
        finally:
            self.networks.load_average(kept)


def resume(path: Path, networks: Networks, weight_decay: float = 0.01) -> Run:
    """The run of a checkpoint or, where there is none, a new one with these networks."""
    import torch

    settings = networks.settings
    optimizer = torch.optim.AdamW(
        networks.parameters,
        lr=settings.rate,
        betas=(0.9, 0.99),
        weight_decay=weight_decay,
        fused=True,
    )
    run = Run(networks, optimizer, loop.Average(networks.averaged, settings.decay))
    if path.exists():
        state = loop.load_checkpoint(path, settings.shape())
        networks.load_state_dict(state["model"])
        for group in state["optimizer"]["param_groups"]:
            group["fused"], group["foreach"] = True, None
        optimizer.load_state_dict(state["optimizer"])
        for value, stored in zip(run.average.values, state["average"], strict=True):
            value.copy_(stored)
        networks.load_more_state(state)
        # Checkpoints of older autoencoders have neither of the latter two.
        run.step, run.seconds = state["step"], state.get("seconds", 0.0)
        run.cooled = state.get("cooled", 0)
    return run


def train(
    run: Run,
    batches: Any,
    steps: int,
    *,
    cooldown: int = 0,
    seconds: float | None = None,
    checkpoint: Path | None = None,
    save_seconds: float = 180.0,
    log: loop.Log | None = None,
    every_step: Callable[[Run], None] | None = None,
) -> Run:
    """Train until `steps`, or for `seconds` of this call, whichever comes first.

    The rate is constant after the warm-up and descends to zero over the last `cooldown` steps. A
    cooled run is for export; training continues from the one before. A run that is stopped before
    `steps` is not cooled.
    """
    import torch

    settings, networks = run.networks.settings, run.networks
    kind = networks.device.partition(":")[0]
    lower = networks.AUTOCAST
    if kind != "cuda":
        lower = networks.CPU_AUTOCAST and multiplies_bfloat16()
    autocast = torch.autocast(kind, torch.bfloat16, enabled=lower)
    began = saved = last = time.monotonic()

    def out_of_time() -> bool:
        return parallel.agree(seconds is not None and last - began >= seconds)

    while run.step < steps and not out_of_time():
        rate = loop.learning_rate(run.step, settings.rate, settings.warmup, steps, cooldown)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        networks.before_step(run.step, batches)
        batch = batches(run.step)
        with autocast:
            measures = networks.loss(*batch)
        run.optimizer.zero_grad(set_to_none=True)
        measures[0].backward()
        parallel.average_gradients(networks.parameters)
        norm = torch.nn.utils.clip_grad_norm_(networks.parameters, networks.MAX_GRADIENT)
        run.optimizer.step()
        networks.after_step(run.step)
        run.average.update(networks.averaged, run.step)
        if log is not None:
            values = dict(zip(networks.MEASURES, (m.detach() for m in measures), strict=True))
            more = networks.more_measures()
            log.add(run.step, settings.batch, **values, **more, gradient=norm)
        run.step += 1
        now = time.monotonic()
        run.seconds += now - last
        last = now
        if checkpoint is not None and now - saved > save_seconds:
            run.save(checkpoint, batches.seed)
            saved = now
        if every_step is not None:
            every_step(run)
    run.cooled = cooldown if run.step >= steps else 0
    if checkpoint is not None:
        run.save(checkpoint, batches.seed)
    return run


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; on others torch widens every operand first."""
    return not ops.isas().get("avx512_bf16", "is not in this build")


def cool(run: Run, batches: Any, steps: int, folder: Path, log: loop.Log) -> Path:
    """Branch off `steps` steps with the rate descending to zero, into the folder's cooled.pt."""
    checkpoint = folder / "cooled.pt"
    train(
        run,
        batches,
        run.step + steps,
        cooldown=steps,
        checkpoint=checkpoint,
        save_seconds=math.inf,
        log=log,
    )
    return checkpoint


def shuffled_rows(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Rows of one step: shuffled passes over `count` rows; all are seen equally often."""
    places = np.arange(step * batch, (step + 1) * batch)
    orders = {
        turn: np.random.default_rng([seed, 0, turn]).permutation(count)
        for turn in np.unique(places // count)
    }
    return np.array([orders[place // count][place % count] for place in places])
