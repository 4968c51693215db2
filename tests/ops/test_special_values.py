"""Infinities, NaN and the ends of the range through every activation, on every backend.

The measure is mathematics (exact.py), not what the installed torch makes of such numbers.
"""

import exact
import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.ops import OPS

INFINITY = float("inf")
#: Where exp, erf and their tails overflow, vanish and begin to, and what is none of that.
VALUES = [
    INFINITY,
    float("nan"),
    3e38,
    1.8e38,
    1e20,
    1e4,
    104.0,
    103.0,
    100.0,
    89.0,
    88.5,
    87.0,
    64.0,
    20.0,
    14.5,
    13.0,
    9.0,
    5.5,
    1.0,
    1e-30,
    1e-40,
    0.0,
]
VALUES += [-value for value in VALUES]
#: A unit in the last place of each dtype; of float32 three, for exp and erfc. Absolute: what the
#: lower tail may lose where another library's erf makes it. (Ours: test_geglu.py, and below.)
CLOSE = {
    torch.float32: {"rtol": 4e-7, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2**-7, "atol": 2e-6},
    torch.float16: {"rtol": 2**-10, "atol": 2e-6},
    torch.float64: {"rtol": 1e-14, "atol": 1e-14},
}
HALVES_TOO = (torch.float32, torch.bfloat16, torch.float16)


def _line(x):
    """x [n] as a picture [1, 1, n, 1], and as many scales of 1 and shifts of 0 as it needs."""
    return x.reshape(1, 1, -1, 1), torch.ones(1, 1, dtype=x.dtype), torch.zeros(1, 1, dtype=x.dtype)


def _linear(activation, **more):
    def call(x, run):
        one = torch.ones(1, 1, dtype=x.dtype)
        rows = run("linear", x=x[:, None], weight=one, activation=activation, **more)
        alone = run("linear", x=x[:1, None], weight=one, activation=activation, **more)
        assert torch.equal(alone.nan_to_num(7), rows[:1].nan_to_num(7))
        return rows[:, 0]

    return call


def _gated(op):
    def call(x, run):
        return run(op, x=torch.stack([torch.ones_like(x), x], dim=-1))[:, 0]

    return call


def _geglu_of_linear(x, run):
    weight = torch.tensor([[0.0], [1.0]], dtype=x.dtype)
    bias = torch.tensor([1.0, 0.0], dtype=x.dtype)
    finite = x.isfinite()  # 0 times the others is no value of 1
    result = run("linear", x=x[:, None], weight=weight, bias=bias, activation="geglu")[:, 0]
    return torch.where(finite, result, exact.of_each(exact.gelu, x))


def _convolved(normalised, activation="silu"):
    def call(x, run):
        picture, one, zero = _line(x)
        around = {"scale": one, "shift": zero} if normalised else {}
        weight = torch.ones(1, 1, 1, 1, dtype=x.dtype)
        return run(
            "conv2d", x=picture, weight=weight, input_activation=activation, **around
        ).flatten()

    return call


#: How an activation is reached: (its function, the op, a call of it on numbers [n]).
WAYS = {
    **{f"linear, {name}": (f, "linear", _linear(name)) for name, f in exact.ACTIVATIONS.items()},
    "linear of silu": (exact.silu, "linear", _linear("none", silu=True)),
    "linear, geglu": (exact.gelu, "linear", _geglu_of_linear),
    "geglu": (exact.gelu, "geglu", _gated("geglu")),
    "swiglu": (exact.silu, "swiglu", _gated("swiglu")),
    "conv2d of silu": (exact.silu, "conv2d", _convolved(False)),
    "conv2d of scaled silu": (exact.silu, "conv2d", _convolved(True)),
    "conv2d of gelu": (exact.gelu, "conv2d", _convolved(False, "gelu")),
    "conv2d of scaled gelu": (exact.gelu, "conv2d", _convolved(True, "gelu")),
}


QUICK = "linear, quick_gelu"


def _runs():
    for way, (_, op, _) in WAYS.items():
        for row in OPS[op].table["cpu"]:
            for isa in ISAS if row.name == "cpu" else (None,):
                # oneDNN's convolutions of 16 bits multiply infinities by zeros of their padding.
                padded = op == "conv2d" and row.name != "cpu"
                dtypes = (torch.float32,) if padded else HALVES_TOO
                dtypes += (torch.float64,) * (row.name == "reference")
                for dtype in dtypes:
                    name = f"{way}-{str(dtype)[6:]}-{isa or row.name}"
                    yield pytest.param(way, dtype, row.name, isa, id=name)


def _holds(way, dtype, run, **close):
    """The activation of every value, rounded to the dtype; in other lanes too."""
    close = close or CLOSE[dtype]
    function, _, call = WAYS[way]
    x = torch.tensor(VALUES, dtype=torch.float64).to(dtype)
    want = exact.of_each(function, x)
    torch.testing.assert_close(call(x, run), want, equal_nan=True, **close)
    backwards = call(x.flip(0), run).flip(0)
    torch.testing.assert_close(backwards, want, equal_nan=True, **close)


def test_the_measure_itself():
    """The limits by hand."""
    for function in (exact.silu, exact.gelu, exact.quick_gelu, exact.gelu_tanh):
        assert function(INFINITY) == INFINITY
        assert function(3e38) == 3e38
        assert function(-3e38) == 0
        assert function(-INFINITY) != function(-INFINITY)
        assert function(float("nan")) != function(float("nan"))
    assert exact.gelu(1.0) == pytest.approx(0.8413447460685429, rel=1e-15)
    assert exact.gelu(-9.0) == pytest.approx(-9 * 1.1285884059538e-19, rel=1e-12)
    assert exact.silu(-1.0) == pytest.approx(-0.2689414213699951, rel=1e-15)
    assert exact.gelu_tanh(1.0) == pytest.approx(0.8411919906082768, rel=1e-12)
    assert exact.gelu_tanh(-1.0) == pytest.approx(-0.15880800939172324, rel=1e-12)
    assert exact.quick_gelu(1.0) == pytest.approx(0.8457957659328212, rel=1e-12)


@pytest.mark.parametrize(("way", "dtype", "backend", "isa"), list(_runs()))
def test_activations_are_right_at_the_ends_of_their_range(way, dtype, backend, isa, use_isa):
    if isa:
        use_isa(isa)

    def run(op, **inputs):
        with ops.force(backend):
            return getattr(ops, op)(**inputs)

    _holds(way, dtype, run)
    # Portable quick-GELU rounds 1.702 x.
    if backend == "cpu" and dtype == torch.float32 and (isa, way) != ("portable", QUICK):
        _holds(way, dtype, run, rtol=4e-7, atol=1e-36)


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("conv2d")])
@pytest.mark.parametrize("dtype", HALVES_TOO)
def test_triton_is_right_there_too(way, dtype, interpreted):
    _holds(way, dtype, lambda op, **inputs: interpreted(op, **inputs))


@pytest.mark.parametrize("op", ["geglu", "swiglu"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_gate_that_is_shut_shuts_out_any_finite_value(op, backend):
    """The gate's activation is taken first: 1e10 times -3e38 is infinite, and times 0 no number."""
    with ops.force(backend):
        got = getattr(ops, op)(torch.tensor([[1e10, -3e38], [3e38, -3e38], [-1e38, -200.0]]))
    assert got.tolist() == [[0.0], [0.0], [0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_specifications_gelu_keeps_its_lower_tail(dtype):
    x = torch.linspace(-12, 12, 2401, dtype=dtype)
    want = exact.of_each(exact.gelu, x.double())
    got = ops.reference.geglu(torch.stack([torch.ones_like(x), x], dim=-1))[:, 0].double()
    # Of float32 x / sqrt 2 is rounded, which the tail's exp multiplies by x^2.
    unit = 2**-24 if dtype == torch.float32 else 2**-52
    assert ((got - want).abs() <= unit * (8 + 4 * x.double() ** 2) * want.abs()).all()
