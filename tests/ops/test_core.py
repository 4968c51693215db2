"""The compiled module called directly: wrong sizes raise, and never touch memory."""

import threading
import time

import pytest
import torch

from pyengine.ops._core import core

HUGE = 2**62


def _calls():
    """Every kernel with good arguments: name -> (function, sizes by position)."""
    p = torch.zeros(4096).data_ptr()
    c = core()
    return {
        "attention": (
            c.attention,
            [p, p, p, 0, p, (0,) * 6, (0,) * 4, 1, 2, 3, 5, 4, 6, 0.5, True, 0, 1],
            (7, 8, 9, 10, 11, 12),
        ),
        "geglu": (c.geglu, [p, p, 2, 8, 0, 1], (2, 3)),
        "layer_norm": (c.layer_norm, [p, p, p, p, 2, 8, 1e-5, 0, 1], (4, 5)),
        "group_norm_silu": (
            c.group_norm_silu, [p, 0, 1, 4, 8, 0, p, p, 2, 1e-5, True, p, 0, 1], (2, 3, 4, 5),
        ),
        "group_norm_scale_shift": (
            c.group_norm_scale_shift, [p, 0, 1, 4, 8, 0, p, p, 2, 1e-5, p, p, 0, 1], (2, 3, 4, 5),
        ),
        "group_norm_apply": (
            c.group_norm_apply, [p, 0, 1, 4, 8, 0, p, p, True, p, 0, 1], (2, 3, 4, 5),
        ),
        "linear": (
            c.linear,
            [p, 0, 2, 8, 0, p, 0, 0, p, p, p, 1, False, 0, 0, 0, 0, p, 16, 0, 1],
            (2, 3, 4, 11, 18),
        ),
        "pack_weight": (c.pack_weight, [p, p, 5, 3, 9, 4, 1], (2, 3, 4)),
        "sampler_step": (
            c.sampler_step, [p, p, 0, p, 0, 0, 0, 0, 0, 0, p, p, p, 1, 16, 0, 1], (13, 14),
        ),
    }  # fmt: skip


KERNELS = list(_calls())


@pytest.mark.parametrize("name", KERNELS)
def test_impossible_sizes_raise(name):
    function, good, sizes = _calls()[name]
    for position in sizes:
        for bad in (-1, HUGE, 2**63 - 1, -(2**63)):
            arguments = list(good)
            arguments[position] = bad
            if all(arguments[i] for i in sizes if i < 5):
                with pytest.raises((ValueError, MemoryError)):
                    function(*arguments)


@pytest.mark.parametrize("name", [n for n in KERNELS if n != "pack_weight"])  # moves any dtype
def test_an_unknown_dtype_raises(name):
    function, good, _ = _calls()[name]
    for bad in (-1, 3, 2**31 - 1):
        with pytest.raises(ValueError, match="no dtype"):
            function(*good[:-2], bad, 1)


@pytest.mark.parametrize(
    "name", ["attention", "geglu", "layer_norm", "group_norm_silu", "linear", "sampler_step"]
)
def test_a_null_pointer_raises(name):
    function, good, _ = _calls()[name]
    with pytest.raises(ValueError, match="null pointer"):
        function(0, *good[1:])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("threads", [-1, 0, 1, 3])
def test_any_number_of_threads(name, threads):
    function, good, _ = _calls()[name]
    buffers = torch.zeros(65536)
    p = buffers.data_ptr()
    function(*[p if isinstance(a, int) and a > 2**16 else a for a in good[:-1]], threads)


def test_groups_must_divide():
    function, good, _ = _calls()["group_norm_silu"]
    for groups in (0, -2, 3):
        with pytest.raises(ValueError, match=f"8 channels do not divide into {groups} groups"):
            function(*good[:8], groups, *good[9:])


def test_an_unknown_activation_or_weight_dtype_raises():
    function, good, _ = _calls()["linear"]
    for position, complaint in ((6, "no dtype"), (14, "no activation")):
        for bad in (-1, 7):
            with pytest.raises(ValueError, match=complaint):
                function(*good[:position], bad, *good[position + 1 :])


def test_an_unknown_instruction_set_raises():
    with pytest.raises(ValueError, match="no instruction set"):
        core().set_isa("none")


def test_the_gil_is_released():
    """Another Python thread counts on while a kernel of some 50 ms runs."""
    x = torch.zeros(1, 1 << 23)
    y = torch.empty(1, 1 << 22)
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
            core().geglu(x.data_ptr(), y.data_ptr(), 1, 1 << 22, 0, 1)
            end = time.perf_counter()
            during = max(during, sum(begin < t < end for t in list(ticks)))
            if during > 3:
                break
    finally:
        stop.set()
        counter.join()
    assert during > 3
