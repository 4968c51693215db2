"""Schemas in torch's language come from the specifications' signatures."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyengine.ops import OPS
from pyengine.ops._schema import schema_of


def all_kinds(
    x: Tensor,
    w: Tensor | None,
    n: int,
    eps: float = 1e-5,
    *,
    padding: tuple[int, int] = (0, 1),
    name: str = "l2",
    scale: float | None = None,
    flag: bool = False,
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


def one_or_two(x: Tensor, y: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    raise NotImplementedError


def test_every_kind_of_argument():
    assert schema_of(all_kinds) == (
        "(Tensor x, Tensor? w, int n, float eps=1e-05, *, int[2] padding=[0, 1],"
        ' str name="l2", float? scale=None, bool flag=False) -> (Tensor, Tensor)'
    )
    torch._C.parse_schema("all_kinds" + schema_of(all_kinds))  # torch takes it


def test_what_is_written_to_and_results_that_are_one_or_two():
    found = schema_of(one_or_two, writes=("y", "x"))  # named in the arguments' order
    assert found == "(Tensor(a!) x, Tensor(b!) y) -> (Tensor, Tensor)"
    assert "Tensor(a!)? w" in schema_of(all_kinds, writes=("w",))


def test_what_a_schema_has_no_word_for_is_refused():
    def of_anything(x: Tensor, other: Any) -> Tensor:
        raise NotImplementedError

    def of_any_length(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        raise NotImplementedError

    for function in (of_anything, of_any_length):
        with pytest.raises(TypeError, match="no word for"):
            schema_of(function)
    with pytest.raises(ValueError, match="no argument z"):
        schema_of(one_or_two, writes=("z",))


def written(op):
    arguments = OPS[op].overload._schema.arguments
    return [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]


def test_rotary_cache_alone_writes_to_what_it_is_given():
    assert {op: written(op) for op in OPS if written(op)} == {"rotary_cache": ["keys", "values"]}


def test_vq_argmin_has_distances_whether_they_are_asked_for_or_not():
    assert len(OPS["vq_argmin"].overload._schema.returns) == 2
