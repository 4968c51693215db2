"""`pyengine bench token`: a token and a picture of LlamaGen's shapes, and Jacobi decoding."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..cuda import Graphs, Record
from ..errors import RequestError
from ..models import PictureGPT, VQModel
from ..weights import load_json, load_module, open_weights
from . import checkpoints, jacobi
from .contest import Contest, Contestants, relative_l2
from .llamagen import ROWS, Shape, Storage, storages
from .peers import transformers_gpt
from .pictures import SAMPLING, SEED
from .results import OURS, Result
from .worker import Notes, Run, Worker, loading

PEERS = ("torch", "torch.compile")
PARTS = ("token", "picture", "jacobi")


def parts(only: list[str], model: str | None) -> tuple[str, ...]:
    """The parts to measure; raises RequestError for an unknown one, or jacobi without a model."""
    for name in only:
        if name not in PARTS:
            raise RequestError(f"only: expected one of {', '.join(PARTS)}, given {name!r}")
    if "jacobi" in only and model is None:
        raise RequestError("model: expected one whose passes per token are measured, given none")
    return tuple(n for n in PARTS if (n in only or not only) and (n != "jacobi" or model))


def measure(
    contest: Contest,
    chosen: tuple[str, ...],
    shape: Shape,
    model: str | None,
    windows: list[int],
    pictures: int,
) -> Result:
    """The chosen parts."""
    result = Result()
    if "token" in chosen or "picture" in chosen:
        name = "-quick" if shape.quick else ""
        size = f"-{shape.size}" if shape.size != "b" else ""
        contest.say("writing float16 checkpoints")
        folder = contest.folder
        gpt = checkpoints.write_gpt(folder / f"gpt{size}{name}", shape.quick, size=shape.size)
        vq = checkpoints.write_vq(folder / f"vq{name}", shape.quick)
        if "token" in chosen:
            measure_tokens(contest, result, gpt, shape)
        if "picture" in chosen:
            measure_pictures(contest, result, gpt, vq, shape)
    if "jacobi" in chosen and model is not None:
        result.rows += jacobi.measure(contest, model, windows, pictures)
    return result


# --- one token ------------------------------------------------------------------------------------


def load_gpt(folder: Path, storage: str, device: str, dtype: torch.dtype) -> PictureGPT:
    """The float16 checkpoint in `folder`, its weights as `storages` has it, arithmetic in dtype."""
    config = PictureGPT.config_class.from_dict(load_json(folder / "config.json"))
    load = storages(device, dtype)[storage].load
    with open_weights(folder) as source:
        model = load_module(
            PictureGPT.from_config(config), source, dtype=dtype, device=device, **load
        )
    return cast(PictureGPT, model)


def ours(
    notes: Notes,
    *,
    threads: int,
    folder: Path,
    ids: np.ndarray,
    storage: str,
    device: str,
    dtype: torch.dtype,
    record: Record | None = None,
) -> Run:
    """Logits after the last of ids, with the others in the cache; on a GPU a CUDA graph, as in a
    pipeline. record: pyengine.cuda.Record, given for tests.
    """
    with loading(notes, threads):
        model: Any = load_gpt(folder, storage, device, dtype)
    given = torch.from_numpy(ids).to(device)
    behind = given.shape[1] - 1
    cache = model.cache(*given.shape)
    model.next_logits(given[:, :-1], cache)

    def step(changing: Sequence[Tensor], _: Sequence[Tensor] = ()) -> Any:
        cache.lengths.fill_(behind)
        return model.next_logits(changing[0], cache)

    recorded = record is not None or model.device.type == "cuda"
    call = Graphs(step, record=record) if recorded else step

    def run() -> Any:
        with ops.kernels_used() as used:
            logits = call([given[:, -1:]])
        notes.setdefault("kernels", used.summary())
        return logits

    return run


def measure_tokens(contest: Contest, result: Result, gpt: Path, shape: Shape) -> None:
    """A row for every storage of our weights; the peers' are in the dtype in all of them."""
    contest.say("token: loading")
    given = {"folder": gpt, "ids": shape.ids(), "device": contest.device, "dtype": shape.dtype}
    chosen, threads = storages(contest.device, shape.dtype), contest.threads
    with ExitStack() as stack:
        found = Contestants()
        for name in contest.peers:
            make = transformers_gpt.compiled if name == "torch.compile" else transformers_gpt.eager
            found.try_(stack, name, make, threads, **given)
        own = {
            storage: stack.enter_context(Worker(OURS, ours, threads, storage=storage, **given))
            for storage in chosen
        }
        result.missing |= found.missing
        check(own, found, chosen)
        for storage, worker in own.items():
            contest.say(f"token: measuring weights in {storage}")
            flops, nbytes = shape.work(chosen[storage].itemsize)
            row = contest.row(
                {**found.workers, OURS: worker},
                suite="token",
                name="token",
                shape=f"{shape.matrices() / 1e6:.0f}M weights in {storage}, {ROWS} rows behind"
                f" {shape.behind}",
                flops=flops,
                nbytes=nbytes,
            )
            result.rows.append(row)


def check(own: dict[str, Worker], found: Contestants, chosen: dict[str, Storage]) -> None:
    """Raises RuntimeError where logits are farther from torch's than their storage's agreement.

    Without torch they are compared with ours of weights in the dtype, the first of `chosen`.
    """
    whole = next(iter(chosen))
    truth = found.workers.get("torch", own[whole])
    for name, worker in {**own, **found.workers}.items():
        distance = relative_l2(worker.result, truth.result)
        most = chosen.get(name, chosen[whole]).agreement
        if not distance <= most:
            raise RuntimeError(
                f"token: {name} is {distance:.1e} away from {truth.name}, expected at most {most}"
            )
        worker.loaded.notes["relative_l2"] = distance


# --- a picture ------------------------------------------------------------------------------------


class _Names:
    """A stand-in for a tokenizer: any prompt is one id, the empty one another."""

    size = 2

    def encode(self, text: str) -> list[int]:
        return [int(not text)]


def pipeline(folder: Path, vq: Path, shape: Shape, storage: str, device: str) -> Any:
    """The pipeline of a GPT and its VQGAN, of checkpoints with random weights."""
    from ..pipelines.picture_gpt.pipeline import PictureGPTParts, PictureGPTPipeline
    from ..pipelines.tokens import TokenDefaults

    names: Any = _Names()
    gpt = load_gpt(folder, storage, device, shape.dtype)
    decoder: Any = VQModel.from_pretrained(vq, device=device, dtype=shape.dtype)
    pictures = PictureGPTParts(gpt, decoder, tokenizer=names, tokens=shape.tokens())
    kind = SimpleNamespace(pipeline_class="PictureGPTPipeline")
    return PictureGPTPipeline(pictures, kind, "benchmark", TokenDefaults())


def our_picture(
    notes: Notes,
    *,
    threads: int,
    folder: Path,
    vq: Path,
    shape: Shape,
    storage: str,
    device: str,
) -> Run:
    """Calls of the pipeline with guidance."""
    with loading(notes, threads):
        pipe = pipeline(folder, vq, shape, storage, device)

    def run() -> Any:
        result = pipe("x", seed=SEED, output_type="np", progress=False, **SAMPLING)
        notes.setdefault("kernels", result.report.kernels)
        return result.images

    return run


def measure_pictures(contest: Contest, result: Result, gpt: Path, vq: Path, shape: Shape) -> None:
    """Each contestant samples other tokens, so that only shapes are compared and numbers checked to
    be finite. Our weights stay in the checkpoint's 16 bits.
    """
    contest.say("picture: drawing the first")
    given = {"folder": gpt, "vq": vq, "shape": shape, "device": contest.device}
    chosen = storages(contest.device, shape.dtype)
    storage = "float16" if "float16" in chosen else next(iter(chosen))
    with ExitStack() as stack:
        found = Contestants()
        found.load(stack, OURS, our_picture, contest.threads, storage=storage, **given)
        if "torch" in contest.peers:
            found.try_(stack, "torch", transformers_gpt.picture, contest.threads, **given)
        result.missing |= found.missing
        for name, worker in found.workers.items():
            if worker.result.shape != found.workers[OURS].result.shape:
                raise RuntimeError(f"picture: {name}'s is of shape {list(worker.result.shape)}")
            if not np.isfinite(worker.result).all():
                raise RuntimeError(f"picture: {name}'s has numbers that are none")
        contest.say(f"picture: measuring {', '.join(found.workers)}")
        itemsize = chosen[storage].itemsize
        work = [shape.work(itemsize, behind) for behind in range(shape.side**2)]
        flops, nbytes = (sum(values) for values in zip(*work, strict=True))
        row = contest.row(
            found.workers,
            suite="token",
            name="picture",
            shape=f"{shape.side**2} tokens in {storage}, and their decoding",
            flops=flops,
            nbytes=nbytes,
        )
        result.rows.append(row)
