"""Calls pyengine.kernels on CPU tensors, in a process that runs Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported and the choice holds for the whole process, so
the kernels are interpreted in a child: this process can then compile them.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unittest.mock import patch

import torch


class Interpreter:
    """One child process; `interpreter("geglu", x)` is pyengine.kernels.geglu(x) there.

    An op without such a function is what runs first on GPUs: conv2d, torch's between ours.
    """

    def __init__(self):
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_prepare, initargs=({**os.environ},)
        )

    def __call__(self, op, *args, **kwargs):
        return self.run(_call, op, args, kwargs)

    def run(self, function, *args):
        """A function of this module or a test's, called there."""
        return self._pool.submit(function, *args).result()

    def close(self):
        self._pool.shutdown(cancel_futures=True)


def _prepare(environment):
    os.environ.update(environment)
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)

    import numpy as np
    from triton import language as tl
    from triton.runtime import interpreter

    plain = interpreter._convert_float

    def round_to_nearest(value, source, target, mode):
        # The interpreter cuts bfloat16 off; a GPU's cvt.rn.bf16.f32 rounds to nearest even.
        if source == tl.float32 and target == tl.bfloat16:
            half = torch.from_numpy(np.ascontiguousarray(value, np.float32)).to(torch.bfloat16)
            return half.view(torch.uint16).numpy().reshape(value.shape)
        return plain(value, source, target, mode)

    interpreter._convert_float = round_to_nearest

    cast = interpreter.InterpreterBuilder.create_si_to_fp

    def from_whole(self, source, target):
        if target.scalar != tl.bfloat16:
            return cast(self, source, target)
        # The interpreter would keep the number where bfloat16's bits belong.
        wide = source.data.astype(np.float32)
        bits = round_to_nearest(wide, tl.float32, tl.bfloat16, None)
        return interpreter.TensorHandle(bits, tl.bfloat16)

    interpreter.InterpreterBuilder.create_si_to_fp = from_whole

    multiply = interpreter.InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.scalar == tl.bfloat16:  # the interpreter keeps it as whole numbers
            return (handle.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if handle.dtype.scalar == tl.float8e4nv:  # as bytes
            codes = torch.from_numpy(np.ascontiguousarray(handle.data))
            return codes.view(torch.float8_e4m3fn).double().numpy()
        return handle.data.astype(np.float64)

    def dot(self, a, b, c, *rest):
        # Factors of 16 or 8 bits: their products summed, then rounded. A library's product in
        # float32 would add in an order that depends on where in the block a row is; tensor cores
        # do not.
        if a.dtype.scalar.primitive_bitwidth > 16:
            return multiply(self, a, b, c, *rest)
        sums = np.matmul(widened(a), widened(b)) + c.data
        return interpreter.TensorHandle(sums.astype(c.data.dtype), c.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = dot


def quantize_rows(x):
    """(e4m3 numbers, scales) as the kernel before linear's product rounds x's rows."""
    from pyengine.kernels import _linear_tiles

    launch, numbers, scales = _linear_tiles.quantize_rows(x)
    launch.run()
    return numbers.view(torch.float8_e4m3fn), scales


def linear_on_sm_80(inputs):
    """kernels.linear for tensor cores that cannot multiply e4m3."""
    from pyengine import kernels

    with patch("pyengine.kernels._linear_tiles.multiplies_fp8", lambda device: False):
        return kernels.linear(**inputs)


def _call(op, args, kwargs):
    from pyengine import kernels
    from pyengine.ops import OPS

    ours = op in kernels.__all__
    function = getattr(kernels, op) if ours else OPS[op].table["cuda"][0].function
    return function(*args, **kwargs)
