"""What an op is: a schema, checks, a shape rule and a table of backends, under one name."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from . import _backend, _check
from ._backend import ALL_FLOATS, Table
from ._core import Negated
from ._kinds import Kinds, are_flags
from ._schema import schema_of

LIBRARY = torch.library.Library("pyengine", "DEF")

#: What an op returns: a tensor, or a tuple of them.
Result = TypeVar("Result")

_PLAIN = (Tensor, Parameter)

#: What a plan collects: (op, its arguments by name, its results) of every call.
Call = tuple["Op[Any]", dict[str, Any], Any]
_plan: ContextVar[Callable[[Call], None] | None] = ContextVar("pyengine_plan", default=None)


@contextmanager
def planned(note: Callable[[Call], None]) -> Iterator[None]:
    """Within the block, `note` is given every op that is called on tensors of the meta device.

    On that device, where there is nothing to compute, an op checks its arguments and returns empty
    results, within such a block and without.
    """
    token = _plan.set(note)
    try:
        yield
    finally:
        _plan.reset(token)


class Op(Generic[Result]):
    """One operation, registered with torch as pyengine::<name>.

    specification: of pyengine.ops.reference. Its name is the op's, its signature the op's schema in
        torch's language (see schema_of); the first argument is a tensor.
    check: takes the op's arguments and raises RequestError for what cannot be computed.
    fake: takes the op's arguments and returns empty results, for torch.compile.
    table: device type -> backends in order of preference.
    module: base name of the op's files where it shares them with another.
    decides: the position of the tensor whose device and dtype choose the backend.
    writes: names of the arguments that it writes into.
    """

    def __init__(
        self,
        specification: Callable[..., Any],
        *,
        check: Callable[..., None],
        fake: Callable[..., Result],
        table: Table,
        module: str | None = None,
        decides: int = 0,
        writes: tuple[str, ...] = (),
    ):
        self.name = name = specification.__name__
        self.schema = schema_of(specification, writes)
        self.check = check
        self.fake = fake
        self.table = table
        self.module = module or name
        self.decides = decides
        LIBRARY.define(name + self.schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, self.run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pyengine::{name}", self._fake, lib=LIBRARY)
        self.overload: Callable[..., Result] = getattr(torch.ops.pyengine, name).default
        self.kinds = Kinds(self.overload)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Result:
        """Runs the op: directly on plain tensors, through torch's dispatcher on others."""
        if torch.compiler.is_compiling():
            return self.overload(x, *args, **kwargs)
        if type(x) not in _PLAIN:
            self.kinds.check(self.name, (x, *args), kwargs)
            return self.overload(x, *args, **kwargs)
        return self.run(x, *args, **kwargs)

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Result:
        """Checks the arguments, chooses the backend, notes it and runs it."""
        try:
            return self._run(x, *args, **kwargs)
        except Negated:
            self.kinds.check(self.name, (x, *args), kwargs)
            return self.overload(x, *args, **kwargs)  # torch's dispatcher writes them out
        except Exception:
            self.kinds.check(self.name, (x, *args), kwargs)  # says it better, where it is that
            raise

    def _run(self, x: Tensor, *args: Any, **kwargs: Any) -> Result:
        lead = (x, *args)[self.decides]
        if not are_flags(self.kinds.flags, (x, *args), kwargs):
            self.kinds.check(self.name, (x, *args), kwargs)
        if lead.dtype not in ALL_FLOATS:
            raise _check.wrong(
                self.name,
                self.kinds.names[self.decides],
                "a floating-point dtype up to float64",
                lead.dtype,
            )
        if x.is_meta and not _backend.forced(self.name):
            self.kinds.check(self.name, (x, *args), kwargs)
            return self._on_meta(x, *args, **kwargs)
        self.check(x, *args, **kwargs)
        gradient = torch.is_grad_enabled() and _wants_gradient(x, *args, *kwargs.values())
        backend = _backend.choose(
            self.name,
            self.table,
            lead.device.type,
            lead.dtype,
            gradient,
            lambda row: row.serves is None or row.serves(x, *args, **kwargs),
        )
        if backend.name != "cpu":  # torch might compute something from what is no dense tensor
            self._look_closer(backend.name, (x, *args), kwargs)
        function: Callable[..., Result] = backend.function
        _backend.record(self.name, backend.label)
        return function(x, *args, **kwargs)

    def _look_closer(self, backend: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if backend != "triton":
            self.kinds.check(self.name, args, kwargs)
            return
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.is_neg():
                raise Negated

    def _on_meta(self, *args: Any, **kwargs: Any) -> Result:
        results = self._fake(*args, **kwargs)
        note = _plan.get()
        if note is not None:
            call = inspect.signature(self.check).bind(*args, **kwargs)
            call.apply_defaults()
            note((self, call.arguments, results))
        return results

    def _fake(self, *args: Any, **kwargs: Any) -> Result:
        self.check(*args, **kwargs)
        return self.fake(*args, **kwargs)


def _wants_gradient(*values: Any) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)
