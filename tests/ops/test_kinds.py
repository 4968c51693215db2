"""Every op with arguments of every other kind: the right answer, or a sentence that names both."""

import copy
import inspect

import numpy as np
import pytest
import torch
from cases import CASES
from gpu_cases import tensors

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import OPS, reference

#: An op's cases that use most of its arguments.
FULLEST = {
    op: max(
        (case for case in CASES if case.op == op and torch.float32 in case.dtypes),
        key=lambda case: sum(v is not None for v in case.inputs(torch.float32).values()),
    )
    for op in OPS
}
ARGUMENTS = [
    pytest.param(op, argument, id=f"{op}-{argument.name}")
    for op in OPS
    for argument in OPS[op].overload._schema.arguments
]
each_argument = pytest.mark.parametrize(("op", "argument"), ARGUMENTS)


def _call(op, **changes):
    inputs = FULLEST[op].inputs(torch.float32)
    with torch.no_grad():
        return tensors(getattr(ops, op)(**{**copy.deepcopy(inputs), **changes}))


def _refused(op, name, value):
    with pytest.raises(RequestError, match=rf"^{op}: {name}: expected ") as caught:
        _call(op, **{name: value})
    assert len(str(caught.value)) < 300
    return str(caught.value)


def _is_tensor(argument):
    return "Tensor" in str(argument.type)


def _optional(argument):
    return str(argument.type).startswith("Optional")


def _others(tensor):
    """Tensors that no kernel can read, of the same size."""
    yield tensor.to_sparse()
    if tensor.dim() == 2:
        yield tensor.to_sparse_csr()
    if tensor.dtype == torch.float32:
        yield tensor.to_mkldnn()
        yield torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8)
    yield (
        torch.nested.nested_tensor(list(tensor))
        if tensor.dim()
        else torch.nested.nested_tensor([tensor])
    )
    yield tensor.to(torch.complex64)
    yield tensor.to(torch.bool)


@pytest.mark.filterwarnings("ignore::UserWarning")
@each_argument
def test_values_of_another_kind_are_refused(op, argument):
    given = FULLEST[op].inputs(torch.float32).get(argument.name)
    numbers = ["5", [1.5], np.ones(3), object, b"x", 1j, {}]
    if _is_tensor(argument):
        numbers += [1, 1.0, True, np.float32(1)]
    elif str(argument.type) != "str":
        numbers.append(torch.ones(2))
    if str(argument.type) == "str":
        numbers[0] = "nothing of the kind"
    if not _optional(argument):
        numbers.append(None)
    for value in numbers:
        _refused(op, argument.name, value)
    if isinstance(given, torch.Tensor):
        assert "torch.from_numpy" in _refused(op, argument.name, given.numpy())
        for value in _others(given):
            _refused(op, argument.name, value)
        _refused(op, argument.name, given.tolist())


def _strided(tensor):
    """The same numbers, each apart from the next."""
    return torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0]


def _shifted(tensor):
    """The same numbers, in the middle of a larger storage."""
    flat = torch.cat([tensor.new_ones(7), tensor.flatten()])[7:]
    return flat.view(tensor.shape)


def _negated(tensor):
    """The same numbers, in storage that holds their negatives."""
    if not tensor.is_floating_point():
        return tensor
    return torch._neg_view(-tensor)  # as a conjugate's imaginary part is, but contiguous


@pytest.mark.parametrize("view", [_strided, _shifted, _negated, torch.nn.Parameter])
@each_argument
def test_views_give_the_bits_of_what_they_show(op, argument, view):
    given = FULLEST[op].inputs(torch.float32).get(argument.name)
    if not isinstance(given, torch.Tensor):
        return  # a number, or an argument that the fullest case does not use
    if view is torch.nn.Parameter:
        if not given.is_floating_point():
            return
        seen = view(given, requires_grad=False)
    else:
        seen = view(given)
    assert torch.equal(seen, given)
    cache = argument.name in ("keys", "values")  # its rows are read and written as they lie
    if cache and (view is _strided or (view is _negated and op == "rotary_cache")):
        _refused(op, argument.name, seen)
        return
    for got, want in zip(_call(op, **{argument.name: seen}), _call(op), strict=True):
        assert torch.equal(got, want)


@each_argument
def test_another_device_is_refused_and_meta_alone_computes_nothing(op, argument):
    inputs = FULLEST[op].inputs(torch.float32)
    given = inputs.get(argument.name)
    if not isinstance(given, torch.Tensor):
        return
    tensor_names = [n for n, v in inputs.items() if isinstance(v, torch.Tensor)]
    if len(tensor_names) > 1:
        with pytest.raises(RequestError, match=f"^{op}: .* device"):
            _call(op, **{argument.name: given.to("meta")})
    results = _call(op, **{n: inputs[n].to("meta") for n in tensor_names})
    for got, want in zip(results, _call(op), strict=True):
        assert (got.is_meta, got.shape, got.dtype) == (True, want.shape, want.dtype)


@pytest.mark.parametrize("whole", [np.int64, np.int32])
def test_numpys_numbers_are_numbers(whole):
    for op in OPS:
        schema = {a.name: str(a.type) for a in OPS[op].overload._schema.arguments}
        inputs = FULLEST[op].inputs(torch.float32)
        found = {
            name: whole(value) if schema[name] in ("int", "Optional[int]") else np.float64(value)
            for name, value in inputs.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for got, want in zip(_call(op, **found), _call(op), strict=True):
            assert torch.equal(got, want)


# --- packed weights -------------------------------------------------------------------------------

HELPERS = ("pack_weight", "pack_filters", "unpack_weight", "quantize_weight")


@pytest.mark.parametrize("name", HELPERS)
def test_the_helpers_of_weights_refuse_what_is_no_weight(name):
    function = getattr(ops, name)
    argument = next(iter(inspect.signature(function).parameters))
    weight = torch.ones(3, 4)
    for value in (None, [[1.0]], weight.numpy(), weight.to_sparse(), torch.tensor(1.0), "x"):
        with pytest.raises(RequestError, match=f"^{name}: {argument}: expected "):
            function(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("count", [1, 15, 16, 24, 32, 40])
def test_packed_weights_remember_their_outputs(dtype, count):
    matrix, x = torch.randn(count, 9).to(dtype), torch.randn(5, 9).to(dtype)
    packed = ops.pack_weight(matrix)
    assert torch.equal(ops.unpack_weight(packed), matrix)
    assert torch.equal(ops.linear(x, packed), ops.linear(x, packed, out_features=count))
    torch.testing.assert_close(reference.linear(x, packed), reference.linear(x, matrix))
    filters, picture = torch.randn(count, 9, 3, 2).to(dtype), torch.randn(2, 5, 4, 9).to(dtype)
    for panels in (ops.pack_weight(filters.permute(0, 2, 3, 1)), ops.pack_filters(filters)):
        y = ops.conv2d(picture, panels)
        assert torch.equal(y, ops.conv2d(picture, panels, out_channels=count))
        assert y.shape == (2, 3, 3, count)
    for kind in (torch.int8, torch.float8_e4m3fn):
        numbers, scale = ops.quantize_weight(matrix, kind)
        assert ops.unpack_weight(numbers).shape == (count, 9)
        with pytest.raises(RequestError, match=r"^linear: (weight_scale|bias): expected shape"):
            ops.linear(x, numbers, weight_scale=torch.cat([scale, scale]))
    if count % 16:
        full = torch.zeros(-(-count // 16) * 16, dtype=dtype)
        with pytest.raises(RequestError, match=r"^linear: bias: expected shape"):
            ops.linear(x, packed, full)
        with pytest.raises(RequestError, match=r"^conv2d: bias: expected"):
            ops.conv2d(picture, panels, full)


@pytest.mark.parametrize("lose", [torch.clone, torch.Tensor.detach, lambda t: t[:]])
def test_what_may_be_padded_is_not_taken_for_outputs(lose):
    x, picture = torch.randn(2, 9), torch.randn(1, 4, 4, 9)
    matrix, filters = torch.randn(24, 9), torch.randn(24, 3, 3, 9)
    with pytest.raises(RequestError, match=r"^linear: weight: expected bias or out_features"):
        ops.linear(x, lose(ops.pack_weight(matrix)))
    with pytest.raises(RequestError, match=r"^conv2d: weight: expected bias or out_channels"):
        ops.conv2d(picture, lose(ops.pack_weight(filters)))
    whole = lose(ops.pack_weight(torch.randn(32, 9)))
    assert ops.linear(x, whole).shape == (2, 32)
    assert ops.linear(x, lose(ops.pack_weight(matrix)), out_features=24).shape == (2, 24)
