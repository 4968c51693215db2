"""Servers to be loaded, each in a process of its own: ours, and those that draw one at a time."""

import asyncio
import base64
import inspect
import io
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import RequestError, UnavailableError
from ..pipelines.loading import NAMED, from_pretrained, shipped_folder
from .load import PATH
from .machine import set_up

#: Seconds in which a server listens.
PATIENCE = 300.0
#: Pixels of a model's own side, and twice and thrice as many where it draws those too; none of a
#: model without steps.
Sides = tuple[int, ...]
#: What makes a server's app: make(models, max_waiting), in the new process.
Make = Callable[[Sequence[str], int], Any]


@dataclass(frozen=True)
class Usage:
    """What a process holds; 0 where the system does not tell. memory: resident bytes. cpu: seconds
    of all its threads since it began.
    """

    memory: int
    threads: int
    files: int
    cpu: float


class ServerProcess:
    """A process that serves what `make` makes, at `port`. sides: by model."""

    def __init__(
        self, name: str, make: Make, models: Sequence[str], max_waiting: int, threads: int
    ):
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        self.name = name
        self._process = context.Process(
            target=_serve, args=(theirs, make, models, max_waiting, threads), daemon=True
        )
        self._process.start()
        theirs.close()
        value: Any
        try:
            kind, value = pipe.recv() if pipe.poll(PATIENCE) else ("error", "it does not listen")
        except EOFError:
            kind, value = "error", "the process ended"
        if kind != "port":
            self.close()
            raise (UnavailableError if kind == "unavailable" else RuntimeError)(f"{name}: {value}")
        self.port: int = value[0]
        self.sides: dict[str, Sides] = value[1]

    def usage(self) -> Usage:
        folder = f"/proc/{self._process.pid}"
        try:
            with open(f"{folder}/statm", encoding="ascii") as f:
                memory = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            with open(f"{folder}/stat", encoding="utf-8") as f:
                ticks = f.read().rpartition(")")[2].split()[11:13]
            cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            threads, files = (len(os.listdir(f"{folder}/{name}")) for name in ("task", "fd"))
            return Usage(memory, threads, files, cpu)
        except OSError:
            return Usage(0, 0, 0, 0.0)

    def usage_at_rest(self, files: int) -> Usage:
        """What it holds once the connections that its callers closed are closed there too: once it
        has no more than `files` open, or after ten seconds, where what is left was forgotten.
        """
        end = time.monotonic() + 10
        while (found := self.usage()).files > files and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _serve(pipe: Any, make: Make, models: Sequence[str], max_waiting: int, threads: int) -> None:
    try:
        from ..serving.process import Process, many_files

        set_up("cpu")
        torch.set_num_threads(threads)
        many_files()
        app, sides = make(models, max_waiting)

        def listens(url: str) -> None:
            pipe.send(("port", (int(url.rpartition(":")[2]), sides)))

        # All are served as `pyengine serve` does it: the same parser of requests.
        Process(app, lambda: None, _settings(), "127.0.0.1", 0, listens).run()
    except ModuleNotFoundError as e:
        pipe.send(("unavailable", f"{e.name} is not installed"))
    except Exception as e:
        pipe.send(("error", f"{type(e).__name__}: {e}"))


def _settings() -> Any:
    from ..serving import ServerSettings

    return ServerSettings(deadline=3600.0, max_requests=100_000, max_connections=100_000)


def ours(models: Sequence[str], max_waiting: int) -> tuple[Any, dict[str, Sides]]:
    """`pyengine serve`'s app over an engine."""
    from ..engine import Engine
    from ..serving import create_app

    engine = Engine(*models, max_waiting=max_waiting, device="cpu")
    app = create_app(engine, _settings())
    return app, {name: _sides(engine.pipeline(name)) for name in models}


def one_at_a_time(models: Sequence[str], max_waiting: int) -> tuple[Any, dict[str, Sides]]:
    """Our pipelines, called one at a time in the order in which requests came, all of them."""
    pipes: dict[str, Any] = {name: from_pretrained(name, device="cpu") for name in models}

    def draw(model: str, call: dict[str, Any]) -> Any:
        return pipes[model](**call, progress=False).images[0]

    return _behind_a_lock(draw), {name: _sides(pipe) for name, pipe in pipes.items()}


def of_diffusers(models: Sequence[str], max_waiting: int) -> tuple[Any, dict[str, Sides]]:
    """diffusers' pipelines behind a lock."""
    import transformers
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    for quiet in (logging, transformers.utils.logging):
        quiet.disable_progress_bar()
        quiet.set_verbosity_error()
    load: Any = DiffusionPipeline.from_pretrained
    pipes: dict[str, Any] = {}
    for name in models:
        folder = shipped_folder(name) if name in NAMED else name
        pipes[name] = pipe = load(folder, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        pipe.unet.to(memory_format=torch.channels_last)

    def draw(model: str, call: dict[str, Any]) -> Any:
        generator = torch.Generator("cpu").manual_seed(call.pop("seed"))
        return pipes[model](**call, generator=generator).images[0]

    sides: dict[str, Sides] = {}
    for name, pipe in pipes.items():
        own = int(pipe.unet.config.sample_size * pipe.vae_scale_factor)
        sides[name] = (own, 2 * own, 3 * own)
    return _behind_a_lock(draw), sides


def _sides(pipe: Any) -> Sides:
    if "num_inference_steps" not in inspect.signature(type(pipe).__call__).parameters:
        return ()
    own = int(pipe.request("a cat").height)
    larger = (2 * own, 3 * own)
    try:
        for side in larger:
            pipe.request("a cat", height=side, width=side)
    except RequestError:
        return (own,)
    return (own, *larger)


def _behind_a_lock(draw: Callable[[str, dict[str, Any]], Any]) -> Any:
    """An app that draws one picture at a time, the first that came first, and refuses nothing."""
    from fastapi import Body, FastAPI

    app, turn, lock = FastAPI(), asyncio.Lock(), threading.Lock()

    @app.post(PATH)
    async def generations(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        model, seed = body.pop("model"), body["seed"]
        size = {}
        if "size" in body:
            size = dict(
                zip(("width", "height"), map(int, body.pop("size").split("x")), strict=True)
            )

        def work() -> str:
            with lock:  # the event loop's may be let go of by a client that goes
                data = io.BytesIO()
                draw(model, {**body, **size}).save(data, "PNG", compress_level=1)
                return base64.b64encode(data.getvalue()).decode()

        async with turn:
            picture = await asyncio.to_thread(work)
        return {"data": [{"b64_json": picture, "seed": seed}]}

    return app
