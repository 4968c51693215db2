"""The compiled module called directly: wrong sizes raise, and never touch memory."""

import inspect
import sys
import threading
import time

import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.ops._core import core

HUGE = 2**62
MEMORY = torch.zeros(65536)


class Call:
    """A kernel with good arguments: its struct's fields, which of them are sizes, and what follows
    the struct: the last of it the dtype, unless that is a field.
    """

    def __init__(self, kernel, struct, fields, sizes, *rest):
        self.kernel, self.struct, self.fields = kernel, struct, fields
        self.sizes, self.rest = sizes, rest

    def __call__(self, threads=1, dtype=None, **changed):
        rest = self.rest
        if dtype is not None and "dtype" in self.fields:
            changed["dtype"] = dtype
        elif dtype is not None:
            rest = (*rest[:-1], dtype)
        args = getattr(core(), self.struct)(**self.fields | changed)
        getattr(core(), self.kernel)(args, *rest, threads)


def _group_norm(kernel, p, *rest):
    fields = {"x": p, "pictures": 1, "pixels": 4, "channels": 8, "channels2": 0}
    return Call(kernel, "GroupNormInput", fields, list(fields)[1:], *rest, 0)


def _calls():
    """Every kernel with good arguments, by its name."""
    p = MEMORY.data_ptr()
    norm = core().GroupNormWeights(weight=p, bias=p, groups=2, eps=1e-5)
    attention = dict.fromkeys(("q", "k", "v", "y"), p) | {
        "q_picture": 0, "q_row": 0, "k_picture": 0, "k_row": 0, "v_picture": 0, "v_row": 0,
        "mask_step": (0, 0, 0, 0), "pictures": 1, "heads": 2, "queries": 3, "keys": 5, "width": 4,
        "value_width": 6, "scale": 0.5, "causal": True,
    }  # fmt: skip
    rows = dict.fromkeys(("x", "weight", "bias", "y"), p) | {"rows": 2, "width": 8, "eps": 1e-5}
    linear = dict.fromkeys(("x", "weight", "bias", "scale", "shift", "y"), p) | {
        "rows": 2, "channels": 8, "channels2": 0, "weight_dtype": 0, "picture_rows": 1,
        "activation": 0, "outputs": 16, "dtype": 0,
    }  # fmt: skip
    weight = {"weight": p, "packed": p, "channels_out": 5, "channels": 3, "taps": 9}
    step = dict.fromkeys(("x", "out", "coefficients", "x_new", "d", "y"), p)
    step |= {"pictures": 1, "size": 16}
    heads = ["pictures", "heads", "queries", "keys", "width", "value_width"]
    products = ["rows", "channels", "channels2", "picture_rows", "outputs"]
    gated = {"x": p, "y": p, "rows": 2, "width": 8}
    calls = [
        Call("attention", "AttentionArgs", attention, heads, 0),
        Call("geglu", "GegluArgs", gated, ["rows", "width"], 0),
        Call("layer_norm", "LayerNormArgs", rows, ["rows", "width"], 0),
        _group_norm("group_norm_silu", p, norm, True, p),
        _group_norm("group_norm_scale_shift", p, norm, p, p),
        _group_norm("group_norm_apply", p, p, p, True, p),
        Call("linear", "LinearArgs", linear, products),
        Call("pack_weight", "PackWeightArgs", weight, ["channels_out", "channels", "taps"], 4),
        Call("sampler_step", "SamplerStepArgs", step, ["pictures", "size"], 0),
    ]
    return {call.kernel: call for call in calls}


KERNELS = list(_calls())


@pytest.mark.parametrize("name", KERNELS)
def test_impossible_sizes_raise(name):
    call = _calls()[name]
    for size in call.sizes:
        for bad in (-1, HUGE, 2**63 - 1, -(2**63)):
            with pytest.raises((ValueError, MemoryError)):
                call(**{size: bad})


@pytest.mark.parametrize("name", [n for n in KERNELS if n != "pack_weight"])  # moves any dtype
def test_an_unknown_dtype_raises(name):
    for bad in (-1, 3, 2**31 - 1):
        with pytest.raises(ValueError, match="no dtype"):
            _calls()[name](dtype=bad)


@pytest.mark.parametrize("name", [n for n in KERNELS if n != "pack_weight"])
def test_a_null_pointer_raises(name):
    call = _calls()[name]
    first = "q" if "q" in call.fields else "x"
    with pytest.raises(ValueError, match="null pointer"):
        call(**{first: 0})


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("threads", [-1, 0, 1, 3])
def test_any_number_of_threads(name, threads):
    _calls()[name](threads)


def test_groups_must_divide():
    p = MEMORY.data_ptr()
    args = core().GroupNormInput(x=p, pictures=1, pixels=4, channels=8, channels2=0)
    for groups in (0, -2, 3):
        norm = core().GroupNormWeights(groups=groups, eps=1e-5)
        with pytest.raises(ValueError, match=f"8 channels do not divide into {groups} groups"):
            core().group_norm_silu(args, norm, True, p, 0, 1)


def test_an_unknown_activation_or_weight_dtype_raises():
    call = _calls()["linear"]
    for name, complaint in (("weight_dtype", "no dtype"), ("activation", "no activation")):
        for bad in (-1, 7):
            with pytest.raises(ValueError, match=complaint):
                call(**{name: bad})


def test_fields_are_given_by_their_names():
    call = _calls()["geglu"]
    with pytest.raises(TypeError, match="GegluArgs: no field 'z'"):
        call(z=1)
    with pytest.raises(TypeError, match="GegluArgs: no value for width"):
        core().GegluArgs(x=1, y=1, rows=2)
    with pytest.raises(TypeError, match="GegluArgs: fields are given by name"):
        core().GegluArgs(1, 1, 2, 8)
    with pytest.raises(TypeError, match="expected True or False"):
        _calls()["attention"](causal=1)
    with pytest.raises(TypeError, match="expected a tuple of 4 numbers"):
        _calls()["attention"](mask_step=(0, 0, 0))
    with pytest.raises(TypeError, match="integer"):
        call(rows=2.0)
    with pytest.raises(TypeError):
        core().geglu(core().GroupNormWeights(groups=1, eps=0.0), 0, 1)
    assert list(inspect.signature(core().GegluArgs).parameters) == ["x", "y", "rows", "width"]


def test_fields_may_come_in_any_order_and_under_names_put_together():
    x, y = torch.randn(3, 10), torch.empty(3, 5)
    names = {"".join(("wi", "dth")): 5, "rows": 3, "y": y.data_ptr(), "x": x.data_ptr()}
    core().geglu(core().GegluArgs(**names), 0, 1)
    assert torch.equal(y, ops.geglu(x))


def test_structs_are_freed():
    made = core().GegluArgs
    before = sys.getrefcount(made)
    kept = [made(rows=1, width=1) for _ in range(100)]
    assert sys.getrefcount(made) == before + 100
    kept.clear()
    assert sys.getrefcount(made) == before


def test_an_unknown_instruction_set_raises():
    with pytest.raises(ValueError, match="no instruction set"):
        core().set_isa("none")


def test_the_gil_is_released():
    """Another Python thread counts on while a kernel of some 50 ms runs."""
    x = torch.zeros(1, 1 << 23)
    y = torch.empty(1, 1 << 22)
    args = core().GegluArgs(x=x.data_ptr(), y=y.data_ptr(), rows=1, width=1 << 22)
    ticks, stop = [], threading.Event()

    def count():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        during = 0
        for _ in range(400):  # the machine may be busy: one round in which both ran is enough
            begin = time.perf_counter()
            core().geglu(args, 0, 1)
            end = time.perf_counter()
            during = max(during, sum(begin < t < end for t in list(ticks)))
            if during > 3:
                break
    finally:
        stop.set()
        counter.join()
    assert during > 3


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_multiply_adds_are_computed_and_counted(name, threads):
    """Sixteen items a thread of twelve chains of vectors: a loop that the compiler had shortened
    would come to another number.
    """
    c, before = core(), core().isa()
    if c.isas()[name]:
        pytest.skip(f"{name} {c.isas()[name]}")
    c.set_isa(name)
    try:
        lanes = c.lanes()
        for turns in (0, 1, 2, 7):
            operations, last = c.multiply_adds(turns, threads)
            assert operations == 2 * turns * 12 * lanes * 16 * threads
            # x of a chain after n turns of x = x / 2 + 1: 2 + (x - 2) / 2^n, exact in float32.
            assert last == sum(2 + (x - 2) / 2**turns for x in range(3, 15))
        for wrong in (-1, HUGE):
            with pytest.raises(ValueError, match="multiply_adds"):
                c.multiply_adds(wrong, threads)
    finally:
        c.set_isa(before)
