"""Calls pyengine.kernels on CPU tensors, in a process that runs Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported and the choice holds for the whole process, so
the kernels are interpreted in a child: this process can then compile them.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

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
        return self._pool.submit(_call, op, args, kwargs).result()

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
        return handle.data.astype(np.float64)

    def dot(self, a, b, c, *rest):
        # 16-bit factors: their products summed, then rounded. A library's product in float32 would
        # add in an order that depends on where in the block a row is; tensor cores do not.
        if a.dtype.scalar.primitive_bitwidth != 16:
            return multiply(self, a, b, c, *rest)
        sums = np.matmul(widened(a), widened(b)) + c.data
        return interpreter.TensorHandle(sums.astype(c.data.dtype), c.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = dot


def _call(op, args, kwargs):
    from pyengine import kernels
    from pyengine.ops import OPS

    ours = op in kernels.__all__
    function = getattr(kernels, op) if ours else OPS[op].table["cuda"][0].function
    return function(*args, **kwargs)
