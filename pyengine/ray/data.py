"""Pictures for the rows of a Ray Data dataset."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..engine import Engine
from ..errors import PyengineError, RequestError, UnknownArgumentError
from ..jobs import checks
from ..pipelines.arguments import BY_NAME, checked
from ..pipelines.keywords import ELSEWHERE
from ..weights.text import did_you_mean, show
from .needs import need
from .resume import ids_in
from .seeds import seed_of

#: Rows that an engine is given at once: twice as many as an evaluation of small pictures has, so
#: that jobs join as others leave.
BATCH = 128
MOST = 1 << 20
#: Arguments of a call that rows decide, and those that would change what a row becomes.
ROWS = {
    "prompt": "it is a column of the rows",
    "seed": "it follows from a row's id",
    "generator": "the seed follows from a row's id",
    "num_images_per_prompt": "a row is one picture",
    "output_type": "pictures are uint8 [H, W, 3]",
    "return_dict": "pictures are uint8 [H, W, 3]",
    "callback_on_step_end": "nothing is called on other machines",
}


def generate(
    dataset: Any,
    *,
    model: str | os.PathLike[str] = "emoji",
    loading: Mapping[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    concurrency: int | tuple[int, int] = 1,
    batch_size: int = BATCH,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **call: Any,
) -> Any:
    """The rows with `seed` (int64) and `image` (uint8 [H, W, 3]) beside what they have.

    dataset: a ray.data.Dataset whose rows have `id` (whole numbers, texts or bytes, each once) and
    `prompt`. model: as pyengine.from_pretrained takes it, readable on every machine; loading:
    keywords of from_pretrained, such as device and dtype. call: arguments of the pipeline's call,
    for all rows. concurrency: actors, each with the model and an engine; (fewest, most) lets Ray
    choose. batch_size: rows that an actor draws at once. num_cpus, num_gpus: of each actor.
    resume: a folder of Parquet files that an earlier run has written; rows whose ids are there are
    left out.

    Lazy, as Ray's datasets are. The seed is `seed_of(id)`, so that a row's picture is that of
    `pipe(prompt, seed=seed, **call)`, whatever the cluster, the order, the batch or a retry.

    Raises RequestError for arguments that cannot be used, UnavailableError without Ray; what a
    model refuses is raised as the rows are drawn, and names the row.
    """
    data = need("ray.data")
    if not isinstance(dataset, data.Dataset):
        raise RequestError(f"dataset: expected a ray.data.Dataset, given {type(dataset).__name__}")
    if not isinstance(model, str | os.PathLike):
        raise RequestError(
            f"model: expected a name or a path, which every machine loads by itself, given"
            f" {type(model).__name__}"
        )
    _check_call(call)
    batch_size = checks.integer("batch_size", batch_size, 1, MOST)
    fewest, most = _concurrency(concurrency)
    if resume is not None:
        left = _Left(need("ray").put(ids_in(resume)))
        dataset = dataset.map_batches(left, batch_size=None, batch_format="pyarrow")
    return dataset.map_batches(
        Drawer,
        fn_constructor_args=(os.fspath(model), dict(loading or {}), call, batch_size),
        batch_size=batch_size,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=checks.real("num_cpus", num_cpus, 0, MOST),
        num_gpus=checks.real("num_gpus", num_gpus, 0, MOST) or None,
    )


def _concurrency(given: Any) -> tuple[int, int]:
    """(fewest, most) actors."""
    pair = given if isinstance(given, tuple | list) else (given, given)
    if len(pair) != 2:
        raise RequestError(f"concurrency: expected a number or two, given {len(pair)}")
    fewest = checks.integer("concurrency", pair[0], 1, MOST)
    return fewest, checks.integer("concurrency", pair[1], fewest, MOST)


def _check_call(call: Mapping[str, Any]) -> None:
    """What can be said of a call's arguments without the model, before rows are drawn."""
    for name, why in ROWS.items():
        if name in call:
            raise RequestError(f"{name}: expected none; {why}")
    for name in call:
        if name not in BY_NAME and name not in ELSEWHERE:
            raise UnknownArgumentError(
                f"{show(name)[1:-1]}: generate() got an unexpected keyword argument {show(name)}"
                f"{did_you_mean(name, BY_NAME)}"
            )
    checked(call, None)


class _Left:
    """The rows whose ids are not among those of an earlier run, which lie in Ray's store."""

    def __init__(self, done: Any):
        self._done = done

    def __call__(self, table: Any) -> Any:
        done = need("ray").get(self._done)
        return table.filter([id not in done for id in table.column("id").to_pylist()])


class Drawer:
    """What an actor runs: an engine, to which a batch of rows is submitted at once."""

    def __init__(self, model: str, loading: dict[str, Any], call: dict[str, Any], most: int):
        self._call, self._refused = call, None
        try:
            self._engine = Engine(model, max_waiting=most, **loading)
        except PyengineError as e:  # raised by the first batch: Ray starts actors again that fail
            self._refused = e

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._refused is not None:
            raise self._refused
        for name in ("id", "prompt"):
            if name not in batch:
                raise RequestError(
                    f"dataset: expected rows with id and prompt, given {', '.join(sorted(batch))}"
                )
        ids = batch["id"].tolist()
        seeds = [seed_of(id) for id in ids]
        jobs: list[Any] = []
        try:
            for id, prompt, seed in zip(ids, batch["prompt"], seeds, strict=True):
                with _named(id):
                    jobs.append(self._engine.submit(prompt=str(prompt), seed=seed, **self._call))
            images = [_picture(id, job) for id, job in zip(ids, jobs, strict=True)]
        finally:
            for job in jobs:
                job.cancel()
        return {**batch, "seed": np.array(seeds, np.int64), "image": _column(images)}


def _picture(id: Any, job: Any) -> np.ndarray:
    with _named(id):
        output = job.result()
        images = getattr(output, "images", None)
        if images is None:
            raise RequestError(f"model: expected one that draws pictures, given {job.model}")
    return np.asarray(images[0].convert("RGB"))


def _column(images: list[np.ndarray]) -> np.ndarray:
    """One array where all have one size; else an array of arrays, as Ray takes them."""
    if len({image.shape for image in images}) == 1:
        return np.stack(images)
    column = np.empty(len(images), dtype=object)
    column[:] = images
    return column


class _named:  # noqa: N801
    """Within the block, refusals name the row."""

    def __init__(self, id: Any):
        self._id = id

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, PyengineError):
            said = type(error)(f"row {self._id!r}: {error}")
            raise said from error
