"""The Triton and the CUDA C++ kernels' three promises, where there is a GPU to run them."""

from functools import partial

import pytest
import torch
from cases import CASES
from gpu_cases import CASES_AND_DTYPES, EXTRAS, error, tensors, widen

from pyengine import ops
from pyengine.ops import reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

#: Ops that share the table with torch's kernels, without heads too wide for ours.
MORE = {
    op: [
        pytest.param(case, dtype, id=f"{case}-{str(dtype)[6:]}")
        for case in CASES
        if case.op == op and case.name not in ("head-512", "head-513")
        for dtype in case.dtypes
    ]
    for op in ("attention", "linear", "conv2d")
}
OURS = [*CASES_AND_DTYPES, *MORE["attention"], *MORE["linear"]]

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def cuda_geglu(x):
    from pyengine import _cuda

    y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    stream = torch.cuda.current_stream().cuda_stream
    width = y.shape[-1]
    args = _cuda.GegluArgs(x=address(x), y=address(y), rows=y.numel() // width, width=width)
    _cuda.geglu(args, CODES[x.dtype], stream)
    return y


def cuda_sampler_step(x, out, coeffs, **given):
    from pyengine import _cuda

    if out.dtype != x.dtype:
        pytest.skip("the CUDA kernel takes one dtype")
    n = x.shape[0]
    uncond, cond = out.chunk(2) if out.shape[0] == 2 * n else (None, out)
    results = [torch.empty_like(x) for _ in range(3)]
    stream = torch.cuda.current_stream().cuda_stream
    tensors = {"x": x, "out": cond, "unconditional": uncond, "coefficients": coeffs}
    tensors |= {name: given.get(name) for name in EXTRAS}
    tensors |= dict(zip(("x_new", "d", "y"), results, strict=True))
    pointers = {name: address(tensor) for name, tensor in tensors.items()}
    args = _cuda.SamplerStepArgs(**pointers, pictures=n, size=x.numel() // n)
    _cuda.sampler_step(args, CODES[x.dtype], stream)
    return tuple(results)


def implementation(name, op):
    if name == "triton" and op == "conv2d":
        return ops.conv2d  # torch's, between two kernels of ours
    if name == "triton":
        return getattr(pytest.importorskip("pyengine.kernels"), op)
    pytest.importorskip("pyengine._cuda", reason="built without the CUDA module")
    functions = {"geglu": cuda_geglu, "sampler_step": cuda_sampler_step}
    return functions.get(op) or pytest.skip(f"no CUDA C++ kernel for {op}")


def to_gpu(inputs):
    return {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


each = partial(pytest.mark.parametrize, "name", ["triton", "cuda"])


@each()
@pytest.mark.parametrize(("case", "dtype"), [*OURS, *MORE["conv2d"]])
def test_error_is_at_most_twice_torchs(name, case, dtype):
    op = implementation(name, case.op)
    inputs = case.inputs(dtype)
    exact = tensors(getattr(reference, case.op)(**widen(inputs)))
    plain = tensors(getattr(reference, case.op)(**to_gpu(inputs)))
    for got, torchs, want in zip(tensors(op(**to_gpu(inputs))), plain, exact, strict=True):
        assert error(got, want) <= 2 * error(torchs, want) + 1e-12


@each()
@pytest.mark.parametrize(("case", "dtype"), OURS)
def test_bits_are_the_same_each_run_and_alone_or_in_a_batch(name, case, dtype):
    op = implementation(name, case.op)
    inputs = case.inputs(dtype)
    together = tensors(op(**to_gpu(inputs)))
    for first, again in zip(tensors(op(**to_gpu(inputs))), together, strict=True):
        assert torch.equal(first, again)
    if inputs[case.rows[0]].dim() == 1:
        return  # a single row has no neighbours
    for i in range(inputs[case.rows[0]].shape[0]):
        alone = tensors(op(**to_gpu(case.picture(inputs, i))))
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(one[0], many[i])


@each()
def test_launches_on_the_current_stream(name):
    op = implementation(name, "geglu")
    x = torch.randn(4096, 2560)
    expected = op(x.cuda()).cpu()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The copy waits its turn for half a second: an op on another stream would not see it.
        waiting = torch.zeros(4096, 2560, device="cuda")
        torch.cuda._sleep(500_000_000)
        waiting.copy_(x.pin_memory(), non_blocking=True)
        got = op(waiting)
    stream.synchronize()
    assert torch.equal(got.cpu(), expected)
