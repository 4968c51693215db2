"""`pyengine bench agreement`: PSNR of a device's pictures against the CPU's, shipped models."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..pipelines import from_pretrained
from ..pipelines.loading import NAMED, shipped_folder
from .contest import psnr
from .pictures import AGREEMENT, PROMPTS


@dataclass(frozen=True)
class Pair:
    """A picture computed twice. psnr: in decibels, 200 at most; other_tokens: how many of the
    device's differ from the CPU's; None for models without tokens.
    """

    model: str
    prompt: str
    seed: int
    psnr: float
    same: bool
    other_tokens: int | None
    cpu_seconds: float
    device_seconds: float


@dataclass
class Agreement:
    pairs: list[Pair]

    def check(self) -> None:
        """Raises RuntimeError for a picture under AGREEMENT decibels."""
        worst = min(self.pairs, key=lambda pair: pair.psnr)
        if not worst.psnr >= AGREEMENT:
            raise RuntimeError(
                f"agreement: {worst.model}, {worst.prompt!r}: {worst.psnr:.1f} dB between the CPU"
                f" and the device, expected at least {AGREEMENT:.0f}"
            )

    def json(self, machine: dict[str, Any]) -> dict[str, Any]:
        return {"machine": machine, "pictures": [asdict(pair) for pair in self.pairs]}


def measure(device: str, pictures: int, say: Callable[[str], None]) -> Agreement:
    """The same seeds on both, in float32, one picture a call and with each model's defaults."""
    found = []
    for model in NAMED:
        say(f"{model}: drawing {pictures} pictures on the CPU and on {device}")
        folder = shipped_folder(model)  # rather than a folder of that name in the working directory
        pipes = [from_pretrained(folder, device=d, dtype=torch.float32) for d in ("cpu", device)]
        for seed in range(pictures):
            prompt = PROMPTS[seed % len(PROMPTS)]
            (ours, first), (other, second) = (_draw(pipe, prompt, seed) for pipe in pipes)
            tokens = getattr(ours, "tokens", None)
            if tokens is not None:
                tokens = int((tokens.cpu() != other.tokens.cpu()).sum())
            distance = psnr(other.images, ours.images)
            same = bool((other.images == ours.images).all())
            found.append(Pair(model, prompt, seed, distance, same, tokens, first, second))
    return Agreement(found)


def _draw(pipe: Any, prompt: str, seed: int) -> tuple[Any, float]:
    """The output and the seconds that it took."""
    begin = time.perf_counter()
    output = pipe(prompt, seed=seed, output_type="np", progress=False)
    return output, time.perf_counter() - begin


def table(result: Agreement) -> Any:
    """A rich table in Markdown's form."""
    from rich import box
    from rich.table import Table

    heads = ("model", "prompt", "seed", "PSNR", "other tokens", "CPU, s", "device, s")
    found = Table(*heads, box=box.MARKDOWN)
    for pair in result.pairs:
        found.add_row(
            pair.model,
            pair.prompt,
            str(pair.seed),
            "same bits" if pair.same else f"{pair.psnr:.1f} dB",
            "-" if pair.other_tokens is None else str(pair.other_tokens),
            f"{pair.cpu_seconds:.2f}",
            f"{pair.device_seconds:.2f}",
        )
    return found
