"""The arguments of a pipeline's call, checked: who asks may be a stranger.

Every refusal is a RequestError that names the argument, what was expected and what was given.
"""

import math
import operator
import secrets
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from ..errors import RequestError
from ..guard import outside
from ..tokenizer import check_text
from ..weights.text import did_you_mean, show
from .request import Heard, Requested
from .runs import MAX_TIMEOUT, Run

T = TypeVar("T")

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MAX_SIDE = 8192
MAX_PICTURES = 1024
# Of one picture, and of all in a call: 4096 x 4096, 64 times 512 x 512, 1024 times 128 x 128. All
# run as one batch: SD 1.5 takes about 0.7 GB for each tensor of its first level at that size.
MAX_PIXELS = 1 << 24
MAX_BATCH_PIXELS = 1 << 24
MAX_SEED = 2**63 - 1
MAX_GUIDANCE = 1000.0


class StopSampling(Exception):  # noqa: N818 - a request, not an error
    """Raised by a callback to end a run after the step that it was called for."""


def refuse(field: str, expected: str, given: Any) -> RequestError:
    return RequestError(f"{field}: expected {expected}, given {show(given)}")


def integer(field: str, value: Any, low: int, high: int) -> int:
    """`value` as an int between low and high; a NumPy integer will do, a bool or float not."""
    expected = f"a whole number from {low} to {high}"
    if isinstance(value, bool):
        raise refuse(field, expected, value)
    try:
        number = operator.index(value)
    except TypeError:
        raise refuse(field, expected, value) from None
    if not low <= number <= high:
        raise refuse(field, expected, number)
    return number


def real(field: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float between low and high; a NumPy number will do, a string not."""
    expected = f"a number from {low:g} to {high:g}"
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise refuse(field, expected, value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise refuse(field, expected, value) from None
    if not (math.isfinite(number) and low <= number <= high):
        raise refuse(field, expected, number)
    return number


def guidance_scales(field: str, value: Any, count: int, batch: int = 0) -> tuple[float, ...]:
    """A guidance scale for each of `count` pictures, from one for all, one each or, with `batch`
    prompts, one for the pictures of each.
    """
    items = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(items, list | tuple):
        return (real(field, items, 0, MAX_GUIDANCE),) * count
    numbers = tuple(real(field, item, 0, MAX_GUIDANCE) for item in items)
    if len(numbers) != count and numbers and len(numbers) == batch:
        return tuple(g for g in numbers for _ in range(count // batch))
    if len(numbers) != count:
        raise refuse(field, f"a number, or one per picture: {count}", f"{len(numbers)} of them")
    return numbers


def choice(field: str, value: Any, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise refuse(field, f"one of {', '.join(choices)}", value)
    return value


def texts(field: str, value: Any, count: int | None = None, of: str = "prompts") -> list[str]:
    """A list of texts from one or several; one stands for `count` of them. of: what there are so
    many of, for the error.
    """
    items = [value] * (count or 1) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise refuse(field, "a text or a list of texts", value)
    if not 1 <= len(items) <= MAX_PICTURES:
        raise refuse(field, f"1 to {MAX_PICTURES} texts", f"{len(items)} texts")
    if count is not None and len(items) != count:
        raise refuse(field, f"one text, or as many as {of}: {count}", f"{len(items)} texts")
    for item in items:
        if not isinstance(item, str):
            raise refuse(field, "texts", item)
        try:
            check_text(item)
        except RequestError as e:
            raise RequestError(f"{field}{str(e).removeprefix('prompt')}") from None
    return list(items)


def spread(
    name: str, items: Sequence[T], count: int, batch: int, what: str = "pictures"
) -> list[T]:
    """One of the items for each of `count` pictures: they are one for all, one for each of `batch`
    prompts, or one for each picture. what: they are. Raises RequestError that names the argument.
    """
    if len(items) not in (1, batch, count):
        counts = " or ".join(map(str, sorted({1, batch, count})))
        raise refuse(name, f"{counts} {what}", f"{len(items)} {what}")
    return [items[i * len(items) // count] for i in range(count)]


def side(field: str, value: Any, multiple: int) -> int:
    """A height or width in pixels, a multiple of the autoencoder's factor."""
    number = integer(field, value, multiple, MAX_SIDE)
    if number % multiple:
        raise refuse(field, f"a multiple of {multiple}", number)
    return number


def memory_advice(r: Requested) -> str:
    """What helps where a request's pictures do not fit into memory."""
    return (
        f"{r.count} picture{'s' if r.count > 1 else ''} of {r.height}x{r.width}: fewer at a time,"
        " smaller ones, or float16 or bfloat16 would help"
    )


def check_total(height: int, width: int, count: int) -> None:
    """Bounds what a call can take, so that it does not end in the kernel's memory killer."""
    if height * width > MAX_PIXELS:
        raise refuse("height, width", f"at most {MAX_PIXELS} pixels together", f"{height}x{width}")
    if count > MAX_PICTURES or count * height * width > MAX_BATCH_PIXELS:
        raise refuse(
            "num_images_per_prompt",
            f"at most {MAX_PICTURES} pictures and {MAX_BATCH_PIXELS} pixels in one call",
            f"{count} pictures of {height}x{width}",
        )


def manners(run: Any, timeout: Any, return_dict: Any) -> dict[str, Any]:
    """Of every call, for its request: the Run (a new one for None), the seconds to wait for the
    turn, and whether the answer is a PipelineOutput or a tuple.
    """
    if run is not None and not isinstance(run, Run):
        raise refuse("run", "a pyengine.pipelines.Run", run)
    if timeout is not None:
        timeout = real("timeout", timeout, 0, MAX_TIMEOUT)
    if not isinstance(return_dict, bool):
        raise refuse("return_dict", "True or False", return_dict)
    return {"run": run or Run(), "timeout": timeout, "return_dict": return_dict}


def size_pair(field: str, value: Any, low: int = 0) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise refuse(field, "two whole numbers (height, width)", value)
    height, width = (integer(field, v, low, 1 << 16) for v in value)
    return height, width


def seeds_and_generators(
    seed: Any, generator: Any, count: int, device: torch.device
) -> tuple[list[int | None], list[torch.Generator] | torch.Generator]:
    """(seed of each picture, its own generator each) or, where one generator was given for several
    pictures, (Nones, that generator).

    A whole number s gives picture i the seed s + i; None a random s below 2^32.
    """
    if generator is not None:
        if seed is not None:
            raise RequestError("seed: expected seed or generator, given both")
        return [None] * count, check_generators(generator, count, device)
    seeds: list[int | None]
    if isinstance(seed, list | tuple):
        if len(seed) != count:
            raise refuse("seed", f"one whole number, or {count} of them", f"{len(seed)} of them")
        seeds = [integer("seed", s, 0, MAX_SEED) for s in seed]
    else:
        first = secrets.randbelow(1 << 32) if seed is None else seed
        first = integer("seed", first, 0, MAX_SEED - count + 1)
        seeds = [first + i for i in range(count)]
    return seeds, [torch.Generator("cpu").manual_seed(s) for s in seeds if s is not None]


def check_generators(
    generator: Any, count: int, device: torch.device
) -> list[torch.Generator] | torch.Generator:
    """One for all pictures, or a list with one for each."""
    several = isinstance(generator, list | tuple)
    items: list[torch.Generator] = list(generator) if several else [generator]
    for item in items:
        if not isinstance(item, torch.Generator):
            raise refuse("generator", "a torch.Generator or a list of them", item)
        if item.device.type not in ("cpu", device.type):
            raise refuse("generator", f"one on cpu or {device.type}", str(item.device))
    if not several:
        return items[0]
    if len(items) != count:
        raise refuse("generator", f"one, or one per picture: {count}", f"{len(items)} of them")
    if len({id(item) for item in items}) != count:
        raise refuse("generator", "a generator of its own for every picture", "one of them twice")
    return items


def check_latents(latents: Any, shape: tuple[int, ...], field: str = "latents") -> torch.Tensor:
    if not isinstance(latents, torch.Tensor) or not latents.is_floating_point():
        raise refuse(field, f"a float tensor {list(shape)}", type(latents).__name__)
    if tuple(latents.shape) != shape:
        raise refuse(field, f"shape {list(shape)}", list(latents.shape))
    if not torch.isfinite(latents).all():
        raise refuse(field, "finite values", "NaN or infinity")
    return latents


def check_callback(callback: Any, inputs: Any, known: Sequence[str]) -> tuple[str, ...]:
    """The tensors that the callback gets, by name; diffusers' PipelineCallback brings its own."""
    if callback is not None and not callable(callback):
        raise refuse("callback_on_step_end", "a function (pipe, step, timestep, kwargs)", callback)
    inputs = getattr(callback, "tensor_inputs", known[:1] if inputs is None else inputs)
    if isinstance(inputs, str) or not isinstance(inputs, list | tuple):
        raise refuse("callback_on_step_end_tensor_inputs", "a list of names", inputs)
    for name in inputs:
        choice("callback_on_step_end_tensor_inputs", name, known)
    return tuple(inputs)


def call_back(
    pipe: Any, r: Heard, step: int, timestep: Any, tensors: dict[str, Any]
) -> dict[str, Any]:
    """What the request's callback gives back, with values still to be checked; nothing where it
    gives None or raises StopSampling, which ends the request's run.
    """
    assert r.callback is not None  # who calls has looked
    given = {name: tensors[name] for name in r.callback_inputs}
    try:
        with outside():  # the caller's code, in the caller's state
            answer = r.callback(pipe, step, timestep, given)
    except StopSampling:
        r.run.interrupt()
        return {}
    if answer is None:
        return {}
    if not isinstance(answer, dict):
        raise refuse("callback_on_step_end", "a dict or None back", answer)
    for name in answer:
        if name not in r.callback_known:
            raise RequestError(
                f"callback_on_step_end: expected some of {', '.join(r.callback_known)} back, given"
                f" {show(name)}{did_you_mean(name, r.callback_known)}"
            )
    return answer
