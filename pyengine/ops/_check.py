"""Checks that ops share. Messages name the op, what was expected and what came."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ..errors import RequestError

_unseen: ContextVar[bool] = ContextVar("pyengine_unseen", default=False)


@contextmanager
def unseen() -> Iterator[None]:
    """Within the block ops and models look at no values, which on a GPU would have to be waited
    for: lengths, places and ids must be right, and a token that cannot be drawn is negative.
    """
    token = _unseen.set(True)
    try:
        yield
    finally:
        _unseen.reset(token)


def visible(tensor: Tensor) -> bool:
    """Whether the host may look at the tensor's values to check them."""
    return not (tensor.is_meta or _unseen.get())


def wrong(op: str, argument: str, expected: str, given: object) -> RequestError:
    """The error to raise: "<op>: <argument>: expected ..., got ..."."""
    return RequestError(f"{op}: {argument}: expected {expected}, got {given}")


def tensor(op: str, argument: str, value: object) -> None:
    """Requires a dense tensor, of any device, dtype and strides."""
    if not isinstance(value, Tensor):
        hint = "; torch.from_numpy makes one" if type(value).__name__ == "ndarray" else ""
        raise wrong(op, argument, "a torch.Tensor", given(value) + hint)
    if value.is_nested:
        raise wrong(
            op,
            argument,
            "a dense tensor",
            "a nested one; torch.nested.to_padded_tensor makes a dense one",
        )
    if value.layout is not torch.strided:
        raise wrong(op, argument, "a dense tensor", f"{value.layout}; to_dense() makes one")


def given(value: object) -> str:
    """A value as the end of a message has it: short ones themselves, of others their type."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return ascii(value[:80])
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def shape(tensor: Tensor, wanted: tuple[int | None, ...], op: str, argument: str) -> None:
    """Requires that shape; None stands for any size."""
    given = tensor.shape
    if given == wanted:
        return
    if len(given) != len(wanted) or any(
        want is not None and size != want for size, want in zip(given, wanted, strict=True)
    ):
        text = ", ".join("*" if want is None else str(want) for want in wanted)
        raise RequestError(f"{op}: {argument}: expected shape [{text}], got {list(given)}")


def like(tensor: Tensor, x: Tensor, op: str, argument: str, *, dtype: bool = True) -> None:
    """Requires x's device and, if asked, dtype."""
    if tensor.device != x.device:
        raise RequestError(f"{op}: {argument}: expected x's device {x.device}, got {tensor.device}")
    if dtype and tensor.dtype != x.dtype:
        raise RequestError(f"{op}: {argument}: expected x's dtype {x.dtype}, got {tensor.dtype}")
    if not tensor.dtype.is_floating_point:
        raise RequestError(f"{op}: {argument}: expected a floating-point dtype, got {tensor.dtype}")
