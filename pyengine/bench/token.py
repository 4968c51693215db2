"""`pyengine bench token`: a token and a picture of LlamaGen's shapes, and Jacobi decoding."""

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..cuda import Graphs, Record
from ..errors import RequestError
from ..models import PictureGPT, PictureTokens, VQModel
from ..weights import load_json, load_module, open_weights
from . import checkpoints, timing
from .models import Contestants, describe, relative_l2
from .peers import transformers_gpt
from .results import OURS, Result, Row
from .worker import Run, Worker

PEERS = ("torch", "torch.compile")
PARTS = ("token", "picture", "jacobi")
#: A picture and what guidance compares it with.
ROWS = 2
SEED = 7
#: Of the picture, as LlamaGen samples.
SAMPLING = {"guidance_scale": 2.0, "temperature": 1.0, "top_k": 1000}
PROMPTS = ("a red heart", "a cat", "a blue car", "a tree", "a house", "a star", "a cake", "a fish")


@dataclass(frozen=True)
class Storage:
    """How weights lie in memory. load: what load_module is told; itemsize: bytes of a weight;
    agreement: relative L2 from torch's logits, of weights in the dtype, that ends a run.
    """

    load: dict[str, Any]
    itemsize: float
    agreement: float


#: Of the dtypes. What rounding does to the logits of XL's 36 layers, random and a quarter as wide,
#: on the CPU: bfloat16 moves them by 0.032, float16 by 0.0045; weights in int8 by 0.048, in e4m3 by
#: 0.18.
AGREEMENT = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
IN_8_BITS = {"int8": 0.1, "fp8": 0.3}


def storages(device: str, dtype: torch.dtype) -> dict[str, Storage]:
    """One of them a row, the dtype itself first. The checkpoint is float16, so that on the CPU all
    of float32's have the same numbers.
    """
    most, on_cpu = AGREEMENT[dtype], device == "cpu"
    found = {str(dtype)[6:]: Storage({"keep_narrow": False}, dtype.itemsize, most)}
    if on_cpu and dtype == torch.float32:
        found["float16"] = Storage({"keep_narrow": True}, 2, most)
    for name in ("int8",) if on_cpu else ("int8", "fp8"):
        found[name] = Storage({"weights": name}, 1, IN_8_BITS[name])
    return found


@dataclass(frozen=True)
class Shape:
    """A GPT, its pictures of side x side tokens, and how many tokens come before the one that is
    measured: half of the picture's. size: one of checkpoints.GPTS. dtype: of the arithmetic, and of
    keys and values.
    """

    quick: bool
    size: str = "b"
    dtype: torch.dtype = torch.float32

    @property
    def config(self) -> dict[str, Any]:
        return checkpoints.GPTS[self.size][self.quick]

    @property
    def codes(self) -> int:
        return self.config["vocab_size"] - 4

    @property
    def side(self) -> int:
        return round((self.config["max_position_embeddings"] - 4) ** 0.5)

    @property
    def behind(self) -> int:
        return self.side**2 // 2

    def tokens(self) -> PictureTokens:
        """Two texts of one id each, then the id that begins a picture."""
        return PictureTokens(
            picture_tokens=self.codes, text_tokens=2, first_text_token=self.codes,
            begin_of_picture=self.codes + 2, padding=self.codes + 3, text_length=2, side=self.side,
        )  # fmt: skip

    def ids(self) -> np.ndarray:
        """[ROWS, behind + 1] int64; the last is the token whose pass is measured."""
        return np.random.default_rng(0).integers(0, self.codes, (ROWS, self.behind + 1))

    def matrices(self) -> int:
        """Weights that a token multiplies."""
        c = self.config
        width, inner = c["hidden_size"], c["intermediate_size"]
        layer = 4 * width * width + 3 * width * inner
        return c["num_hidden_layers"] * layer + c["vocab_size"] * width

    def work(self, itemsize: float, behind: int | None = None) -> tuple[int, int]:
        """(operations, bytes) of ROWS tokens behind others: weights once, keys and values of each
        row.
        """
        c, seen = self.config, (self.behind if behind is None else behind) + 1
        cache = ROWS * seen * 2 * c["num_hidden_layers"] * c["hidden_size"]
        flops = 2 * ROWS * self.matrices() + 2 * cache
        return flops, round(self.matrices() * itemsize) + self.dtype.itemsize * cache


def parts(only: list[str], model: str | None) -> tuple[str, ...]:
    """What is measured; raises RequestError for a part that is none, or lacks its model."""
    for name in only:
        if name not in PARTS:
            raise RequestError(f"only: expected one of {', '.join(PARTS)}, given {name!r}")
    if "jacobi" in only and model is None:
        raise RequestError("model: expected one whose passes per token are measured, given none")
    return tuple(n for n in PARTS if (n in only or not only) and (n != "jacobi" or model))


def measure(
    chosen: tuple[str, ...], shape: Shape, *, device: str, threads: int, rounds: int,
    peers: tuple[str, ...], folder: Path, model: str | None, windows: list[int], pictures: int,
    limits: timing.LimitsOfThisMinute, say: Callable[[str], None],
) -> Result:  # fmt: skip
    """The chosen parts. folder: for the checkpoints, kept if they fit."""
    result, common = Result(), {"device": device, "threads": threads, "rounds": rounds}
    common |= {"limits": limits, "say": say}
    if "token" in chosen or "picture" in chosen:
        name = "-quick" if shape.quick else ""
        size = f"-{shape.size}" if shape.size != "b" else ""
        say("writing float16 checkpoints")
        gpt = checkpoints.write_gpt(folder / f"gpt{size}{name}", shape.quick, size=shape.size)
        vq = checkpoints.write_vq(folder / f"vq{name}", shape.quick)
        if "token" in chosen:
            measure_tokens(result, gpt, shape, peers, **common)
        if "picture" in chosen:
            measure_pictures(result, gpt, vq, shape, peers, **common)
    if "jacobi" in chosen:
        measure_jacobi(result, model, windows, pictures, **common)
    return result


# --- one token ------------------------------------------------------------------------------------


def load_gpt(folder: Path, storage: str, device: str, dtype: torch.dtype) -> PictureGPT:
    """The float16 checkpoint in `folder`, its weights as `storages` has it, arithmetic in dtype."""
    config = PictureGPT.config_class.from_dict(load_json(folder / "config.json"))
    load = storages(device, dtype)[storage].load
    with open_weights(folder) as source:
        return load_module(
            PictureGPT.from_config(config), source, dtype=dtype, device=device, **load
        )


def ours(
    notes: dict, *, threads: int, folder: Path, ids: np.ndarray, storage: str, device: str,
    dtype: torch.dtype, record: Record | None = None,
) -> Run:  # fmt: skip
    """Logits of the token after the last of ids, which the others come before in the cache; on a
    GPU a CUDA graph, as in a pipeline. record: pyengine.cuda.Record, given for tests.
    """
    torch.set_num_threads(threads)
    ops.isa()  # loads the kernels
    begin = time.perf_counter()
    model = load_gpt(folder, storage, device, dtype)
    notes["load_seconds"] = time.perf_counter() - begin
    given = torch.from_numpy(ids).to(device)
    behind = given.shape[1] - 1
    cache = model.cache(*given.shape)
    model.next_logits(given[:, :-1], cache)

    def step(changing: Sequence[Tensor], _: Sequence[Tensor] = ()) -> Tensor:
        cache.lengths.fill_(behind)
        return model.next_logits(changing[0], cache)

    recorded = record is not None or model.device.type == "cuda"
    call = Graphs(step, record=record) if recorded else step

    def run() -> Tensor:
        with ops.kernels_used() as used:
            logits = call([given[:, -1:]])
        notes.setdefault("kernels", used.summary())
        return logits

    return run


def measure_tokens(
    result: Result, gpt: Path, shape: Shape, peers: tuple[str, ...], *, device: str, threads: int,
    rounds: int, limits: timing.LimitsOfThisMinute, say: Callable[[str], None],
) -> None:  # fmt: skip
    """A row for every storage, peers with weights in the dtype beside each."""
    say("token: loading")
    given = {"folder": gpt, "ids": shape.ids(), "device": device, "dtype": shape.dtype}
    chosen = storages(device, shape.dtype)
    with ExitStack() as stack:
        found = Contestants()
        for name in peers:
            make = transformers_gpt.compiled if name == "torch.compile" else transformers_gpt.eager
            found.try_(stack, name, make, threads, **given)
        own = {
            storage: stack.enter_context(Worker(OURS, ours, threads, storage=storage, **given))
            for storage in chosen
        }
        result.missing |= found.missing
        check(own, found, chosen)
        for storage, worker in own.items():
            say(f"token: measuring weights in {storage}")
            workers = {**found.workers, OURS: worker}
            samplers = {name: w.sample for name, w in workers.items()}
            now, times = timing.contest(samplers, rounds, limits)
            kernels = worker.loaded.notes.pop("kernels", {})
            flops, nbytes = shape.work(chosen[storage].itemsize)
            row = Row(
                suite="token", name="token", inputs="",
                shape=f"{shape.matrices() / 1e6:.0f}M weights in {storage}, {ROWS} rows behind"
                f" {shape.behind}",
                flops=flops, nbytes=nbytes, limits=now, times=times, kernels=kernels,
                facts={name: describe(w) for name, w in workers.items()},
            )  # fmt: skip
            result.rows.append(row)


def check(own: dict[str, Worker], found: Contestants, chosen: dict[str, Storage]) -> None:
    """Raises RuntimeError where logits are not as near to torch's as they should be, or, where that
    was not measured, to ours with weights in the dtype, the first of `chosen`.
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
    """In place of a tokenizer: a text is one id, an empty one another."""

    size = 2

    def encode(self, text: str) -> list[int]:
        return [int(not text)]


def our_picture(
    notes: dict, *, threads: int, folder: Path, vq: Path, shape: Shape, storage: str, device: str
) -> Run:
    """A call of the pipeline, with guidance."""
    from ..pipelines.picture_gpt.pipeline import PictureGPTParts, PictureGPTPipeline
    from ..pipelines.tokens import TokenDefaults

    torch.set_num_threads(threads)
    ops.isa()
    begin = time.perf_counter()
    gpt = load_gpt(folder, storage, device, shape.dtype)
    decoder = VQModel.from_pretrained(vq, device=device, dtype=shape.dtype)
    pictures = PictureGPTParts(gpt, decoder, tokenizer=_Names(), tokens=shape.tokens())
    kind = SimpleNamespace(pipeline_class="PictureGPTPipeline")
    pipe = PictureGPTPipeline(pictures, kind, "benchmark", TokenDefaults())
    notes["load_seconds"] = time.perf_counter() - begin

    def run() -> np.ndarray:
        result = pipe("x", seed=SEED, output_type="np", progress=False, **SAMPLING)
        notes.setdefault("kernels", result.report.kernels)
        return result.images

    return run


def measure_pictures(
    result: Result, gpt: Path, vq: Path, shape: Shape, peers: tuple[str, ...], *, device: str,
    threads: int, rounds: int, limits: timing.LimitsOfThisMinute, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Drawn at random by each, so that only the size of the results is compared. Our weights stay
    in 16 bits, in which they are stored.
    """
    say("picture: drawing the first")
    given = {"folder": gpt, "vq": vq, "shape": shape, "device": device}
    chosen = storages(device, shape.dtype)
    storage = "float16" if "float16" in chosen else next(iter(chosen))
    with ExitStack() as stack:
        found = Contestants()
        found.workers[OURS] = stack.enter_context(
            Worker(OURS, our_picture, threads, storage=storage, **given)
        )
        if "torch" in peers:
            found.try_(stack, "torch", transformers_gpt.picture, threads, **given)
        result.missing |= found.missing
        for name, worker in found.workers.items():
            if worker.result.shape != found.workers[OURS].result.shape:
                raise RuntimeError(f"picture: {name}'s is of shape {list(worker.result.shape)}")
            if not np.isfinite(worker.result).all():
                raise RuntimeError(f"picture: {name}'s has numbers that are none")
        say(f"picture: measuring {', '.join(found.workers)}")
        samplers = {name: worker.sample for name, worker in found.workers.items()}
        now, times = timing.contest(samplers, rounds, limits)
        itemsize = chosen[storage].itemsize
        work = [shape.work(itemsize, behind) for behind in range(shape.side**2)]
        flops, nbytes = (sum(values) for values in zip(*work, strict=True))
        row = Row(
            suite="token", name="picture", inputs="",
            shape=f"{shape.side**2} tokens in {storage}, and their decoding",
            flops=flops, nbytes=nbytes, limits=now, times=times,
            kernels=found.workers[OURS].loaded.notes.pop("kernels", {}),
            facts={name: describe(worker) for name, worker in found.workers.items()},
        )  # fmt: skip
        result.rows.append(row)


# --- Jacobi decoding ------------------------------------------------------------------------------


def measure_jacobi(
    result: Result, model: str, windows: list[int], pictures: int, *, device: str, threads: int,
    rounds: int, limits: timing.LimitsOfThisMinute, say: Callable[[str], None],
) -> None:  # fmt: skip
    """The given model's pictures, one after another, a row for every way and window; "sequential"
    is the same pipeline, token by token. Its defaults decide which tokens may be drawn.
    """
    from ..decoding.request import DECODINGS, OTHER_DRAWS
    from ..pipelines import from_pretrained
    from ..pipelines.tokens import TokenPipeline

    say(f"jacobi: loading {model}")
    pipe = from_pretrained(model, device=device)
    if not isinstance(pipe, TokenPipeline) or pipe.sampler != "autoregressive":
        raise RequestError(f"model: expected one that draws token after token, given {model!r}")

    def draw(**how: Any) -> list:
        outputs = []
        for seed in range(pictures):
            given = [PROMPTS[seed % len(PROMPTS)]] if pipe.takes_prompt else []
            how |= {"output_type": "latent", "progress": False}
            outputs.append(pipe(*given, seed=seed, **how))
        return outputs

    plain = draw(decoding="sequential")
    weights = sum(p.numel() * p.element_size() for p in pipe.model.parameters())
    for decoding, window in itertools.product(DECODINGS[1:], windows):
        say(f"{decoding}: measuring windows of {window}")
        found = draw(decoding=decoding, window=window)
        for one, other in zip(found, plain, strict=True):
            if decoding != OTHER_DRAWS and not torch.equal(one.tokens, other.tokens):
                raise RuntimeError(f"{decoding}: the tokens are not those of one by one")
        passes = {
            name: sum(o.report.passes for o in outputs) / sum(o.report.tokens for o in outputs)
            for name, outputs in ((OURS, found), ("sequential", plain))
        }
        samplers = {
            name: timing.sampler(draw, [how], device)
            for name, how in (
                ("sequential", {"decoding": "sequential"}),
                (OURS, {"decoding": decoding, "window": window}),
            )
        }
        now, times = timing.contest(samplers, rounds, limits)
        row = Row(
            suite="token", name=decoding, inputs="",
            shape=f"{pictures} pictures of {plain[0].tokens[0].numel()} tokens, window {window}",
            flops=0, nbytes=weights * sum(o.report.evaluations for o in found), limits=now,
            times=times, kernels=found[0].report.kernels,
            facts={name: {"passes_per_token": value} for name, value in passes.items()},
        )  # fmt: skip
        result.rows.append(row)
