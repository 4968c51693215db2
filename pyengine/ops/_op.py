"""What an op is: a schema, checks, a shape rule and a table of backends, under one name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from . import _backend
from ._backend import Table

LIBRARY = torch.library.Library("pyengine", "DEF")

_PLAIN = (Tensor, Parameter)


class Op:
    """One operation, registered with torch as pyengine::<name>.

    name: as in pyengine.ops and pyengine.ops.reference.
    schema: its arguments and results in torch's schema language; the first is a tensor.
    check: takes the op's arguments and raises RequestError for what cannot be computed.
    fake: takes the op's arguments and returns empty results, for torch.compile.
    table: device type -> backends in order of preference.
    module: base name of the op's files where it shares them with another.
    decides: the position of the tensor whose device and dtype choose the backend.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        check: Callable[..., None],
        fake: Callable[..., Any],
        table: Table,
        module: str | None = None,
        decides: int = 0,
    ):
        self.name = name
        self.schema = schema
        self.check = check
        self.fake = fake
        self.table = table
        self.module = module or name
        self.decides = decides
        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, self.run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pyengine::{name}", self._fake, lib=LIBRARY)
        self.overload = getattr(torch.ops.pyengine, name).default

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the op: directly on plain tensors, through torch's dispatcher on others."""
        if torch.compiler.is_compiling() or type(x) not in _PLAIN:
            return self.overload(x, *args, **kwargs)
        return self.run(x, *args, **kwargs)

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Checks the arguments, chooses the backend, notes it and runs it."""
        self.check(x, *args, **kwargs)
        gradient = torch.is_grad_enabled() and _wants_gradient(x, *args, *kwargs.values())
        lead = (x, *args)[self.decides]
        backend = _backend.choose(self.name, self.table, lead.device.type, lead.dtype, gradient)
        function = backend.function
        _backend.record(self.name, backend.label)
        return function(x, *args, **kwargs)

    def _fake(self, *args: Any, **kwargs: Any) -> Any:
        self.check(*args, **kwargs)
        return self.fake(*args, **kwargs)


def _wants_gradient(*values: Any) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)
