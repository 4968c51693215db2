"""`pyengine bench tiers`: whole pictures by less work, against those of all of it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..errors import RequestError
from .pictures import PROMPT, SEED

#: Pictures that are drawn together where only what they show is looked at.
TOGETHER = 25
#: Steps of the model's own sampler: what less work is to be compared with.
FEWER = (10, 8, 6, 5, 4)
PEER = "diffusers"


@dataclass
class Way:
    """A way of drawing: arguments of the call, and what was measured of it.

    evaluations: of the network, of which `whole` computed all of it. seconds: of one picture alone.
    steps: of the model's own sampler that take as long. distance: Frechet distance to the pictures
    that the model draws by itself; psnr: median in decibels against these. real, top1: Frechet
    distance to the data's pictures, and the share that is recognised; None without data.
    """

    name: str
    call: dict[str, Any]
    evaluations: int = 0
    whole: int = 0
    seconds: float = 0.0
    steps: float = 0.0
    distance: float | None = None
    psnr: float | None = None
    real: float | None = None
    top1: float | None = None


def load(model: str) -> Any:
    """The pipeline. Raises RequestError for a model of another kind than Stable Diffusion's."""
    from ..pipelines import from_pretrained
    from ..pipelines.stable_diffusion.defaults import Defaults

    pipe: Any = from_pretrained(model, device="cpu")
    if not isinstance(pipe.defaults, Defaults):
        raise RequestError(f"model: expected one of Stable Diffusion's kind, given {model!r}")
    return pipe


def ways(pipe: Any, quick: bool) -> list[Way]:
    """The model's own way first."""
    own, sampler = pipe.defaults.num_inference_steps, pipe.scheduler.name
    fewer = [n for n in FEWER if n < own]
    found = [Way(f"{sampler}, {own} steps", {})]
    found += [Way(f"{sampler}, {n} steps", {"num_inference_steps": n}) for n in fewer]
    found.append(Way('effort="fast"', {"effort": "fast"}))
    for n, interval, branch in ((own, 4, 3), (8, 2, 3), (10, 2, 1)):
        if n <= own and branch < pipe.unet.branches:
            call = {"num_inference_steps": n, "cache_interval": interval, "cache_branch_id": branch}
            found.append(Way(f"{sampler}, {n} steps, cache {interval}, branch {branch}", call))
    found.append(Way(f"{sampler}, {own} steps, guidance to 0.5", {"guidance_end": 0.5}))
    return [found[0], found[len(fewer)], *found[-3:]] if quick else found


def time_them(
    pipe: Any,
    chosen: Sequence[Way],
    rounds: int,
    peer: Callable[[], Any] | None,
    say: Callable[[str], None],
) -> float | None:
    """Fills in seconds, all ways in turn; gives those of a peer's call."""
    runs: list[Callable[[], Any]] = [
        partial(pipe, PROMPT, seed=SEED, progress=False, **way.call) for way in chosen
    ]
    runs += [] if peer is None else [peer]
    samples: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        say(f"times: round {turn} of {rounds}" if turn else "times: warming up")
        for run, own in zip(runs, samples, strict=True):
            begin = time.perf_counter()
            run()
            if turn:
                own.append(time.perf_counter() - begin)
    medians = list(map(statistics.median, samples))
    for way, seconds in zip(chosen, medians, strict=False):
        way.seconds = seconds
    return None if peer is None else medians[-1]


def count_evaluations(pipe: Any, chosen: Sequence[Way]) -> None:
    """Fills in evaluations and whole, of one more picture each."""
    middle = pipe.unet.mid_block
    for way in chosen:
        seen: list[int] = []
        hook = middle.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        try:
            way.evaluations = pipe(PROMPT, seed=SEED, progress=False, **way.call).report.evaluations
        finally:
            hook.remove()
        way.whole = len(seen)


def as_long_as(chosen: Sequence[Way]) -> None:
    """Fills in steps: by the line through the model's own sampler's longest and shortest run."""
    plain = [w for w in chosen if set(w.call) <= {"num_inference_steps"}]
    long, short = plain[0], plain[-1]
    if long.evaluations == short.evaluations or long.seconds <= short.seconds:
        return
    each = (long.seconds - short.seconds) / (long.evaluations - short.evaluations)
    for way in chosen:
        way.steps = max(0.0, long.evaluations + (way.seconds - long.seconds) / each)


def look_at_them(
    pipe: Any,
    chosen: Sequence[Way],
    data: Path | None,
    count: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Fills in distance, psnr, real and top1, of `count` things that the model knows, one picture
    each. data: a data set's place, or None.
    """
    from ..metrics import FrechetDistance
    from ..training import captions, dataset, evaluate, set_measures

    concepts = evaluate.read_concepts(Path(pipe.checkpoint.folder) / "concepts.txt")
    style, features = "fluent-3d", set_measures.load_features()
    pictures = None if data is None else dataset.load(data)
    known = None if pictures is None else pictures.select(list(concepts), {style})
    labels = list(concepts) if known is None else [c for c in concepts if c in set(known.labels)]
    asked = evaluate.choose(labels, count, seed)
    prompts = [captions.with_style(captions.with_article(label), style) for label in asked]
    real = None if known is None else known.select(asked, {style})
    reference: np.ndarray | None = None
    for way in chosen:
        say(f"pictures: {way.name}")
        drawn = _draw(pipe, prompts, seed, way.call)
        reference = drawn if reference is None else reference
        distance = FrechetDistance(features)
        _fill(distance, features, reference, drawn)
        way.distance = round(max(0.0, float(distance.compute())), 3)
        way.psnr = _psnr(reference, drawn)
        if real is not None and known is not None:
            distance = FrechetDistance(features)
            _fill(distance, features, real.images, drawn)
            way.real = round(float(distance.compute()), 3)
            way.top1 = evaluate.score(drawn, asked, known)["top1"]


def _draw(pipe: Any, prompts: Sequence[str], seed: int, call: dict[str, Any]) -> np.ndarray:
    parts = []
    for begin in range(0, len(prompts), TOGETHER):
        some = list(prompts[begin : begin + TOGETHER])
        seeds = [seed * 100_003 + begin + i for i in range(len(some))]
        parts.append(pipe(some, seed=seeds, output_type="np", progress=False, **call).images)
    return np.asarray((np.concatenate(parts) * 255).round().astype(np.uint8))


def _fill(distance: Any, features: Any, real: np.ndarray, drawn: np.ndarray) -> None:
    for images, is_real in ((real, True), (drawn, False)):
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        distance.update_features(features(x), is_real)


def _psnr(a: np.ndarray, b: np.ndarray) -> float | None:
    """The median over pictures; None where they are the same."""
    squares = ((a.astype(np.float64) - b) ** 2).mean(axis=(1, 2, 3))
    if not squares.any():
        return None
    return round(float(np.median(10 * np.log10(255**2 / np.maximum(squares, 1e-9)))), 1)


def peer_of(pipe: Any) -> Callable[[], Any]:
    """diffusers' pipeline of the same folder, eager, with our defaults."""
    from .peers.diffusers_pipelines import _load

    theirs = _load(pipe.checkpoint.folder)
    theirs.set_progress_bar_config(disable=True)
    for part in theirs.components.values():
        if isinstance(part, torch.nn.Module):
            cast(Any, part).to(memory_format=torch.channels_last)
    d = pipe.defaults
    return lambda: theirs(
        PROMPT,
        num_inference_steps=d.num_inference_steps,
        guidance_scale=d.guidance_scale,
        generator=torch.Generator().manual_seed(SEED),
    )


def table(chosen: Sequence[Way], peer: float | None) -> Any:
    """A rich table in Markdown's form."""
    from rich import box
    from rich.table import Table

    heads = ["way", "evaluations (whole)", "seconds", "times", "as long as steps",
             "Frechet distance", "PSNR, dB", "to the data", "top 1"]  # fmt: skip
    against = chosen[0].seconds if peer is None else peer
    result = Table(*heads, box=box.MARKDOWN)
    if peer is not None:
        result.add_row(
            f"{PEER}, eager", str(chosen[0].evaluations), f"{peer:.3f}", "1.00x", *["-"] * 5
        )
    for way in chosen:
        shown = [
            f"{x:.3g}" if isinstance(x, float) else "-" for x in (way.distance, way.psnr, way.real)
        ]
        result.add_row(
            way.name,
            f"{way.evaluations} ({way.whole})",
            f"{way.seconds:.3f}",
            f"{against / way.seconds:.2f}x",
            f"{way.steps:.1f}",
            *shown,
            "-" if way.top1 is None else f"{way.top1:.1%}",
        )
    return result


def plain(chosen: Sequence[Way], peer: float | None, machine: dict[str, Any]) -> dict[str, Any]:
    """The result for JSON."""
    return {"machine": machine, "diffusers": peer, "ways": [asdict(way) for way in chosen]}
