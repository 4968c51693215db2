"""Rewrites the table of Triton kernels in docs/gpu-kernels.md: `make gpu-table`.

Compiles every kernel for sm_90 and sm_80, which needs no GPU, at one call's shapes, and reads what
cuobjdump says of the machine code. Needs tests/ops on PYTHONPATH.
"""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import triton
from triton_launches import FP8, PRODUCTS, STREAMED, epilogue, launches_of
from triton_machine_code import compile_launch, source_of

from pyengine.bench.arguments import group_norm, layer_norm, nbytes, rms_norm
from pyengine.bench.shapes import SHAPES

PAGE = Path(__file__).parent / "gpu-kernels.md"
MARKERS = ("<!-- gpu_table.py: begin -->", "<!-- gpu_table.py: end -->")
#: The table's columns of registers.
TARGETS = ((torch.float32, 90), (torch.float16, 90), (torch.bfloat16, 90), (torch.bfloat16, 80))
HEADER = """\
Registers per thread, for sm_90 but in one column; spills: the most bytes of stack and local memory
that a thread of these four has; KB of shared memory of a block (bfloat16, sm_90); the bytes of a
launch's tensors in bfloat16, each counted once, caches as a whole. The float32 column of linear_dot
and of linear_tile, but where x is rounded too, is linear_sum. Triton {triton}.

| kernel | at | threads | float32 | float16 | bfloat16 | bfloat16, sm_80 | spills | shared | MB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def shapes():
    """One call of every op, and more where another shape is another kernel or another block."""
    for op in STREAMED:
        yield SHAPES[op][0]
        if op == "group_norm_scale_shift":
            yield group_norm(op, 64, 320, 320)
            yield group_norm(op, 128, 320)
        if op == "layer_norm":
            yield layer_norm(8, 20000)
        if op == "rms_norm":
            yield rms_norm(8, 20000)
        if op == "vq_decode":
            yield SHAPES[op][1]
    yield epilogue(64, 320)
    yield from dict.fromkeys(shape for shape, *_ in (*PRODUCTS, *FP8))


def rows():
    """((kernel, at), {target: launch}), each different kernel of a shape once."""
    seen = set()
    for shape in shapes():
        calls = [launches_of(shape, *target) for target in TARGETS]
        for launches in zip(*calls, strict=True):
            name = launches[2].kernel.__name__.strip("_")
            key = (name, source_of(launches[2]).hash())
            if key not in seen:
                seen.add(key)
                yield (name, shape.label), launches


def compiled(index: int, column: int):
    """(registers, stack and local bytes, shared bytes) of one row for one target."""
    launch = _ROWS[index][1][column]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        code = compile_launch(launch, TARGETS[column][1], Path(folder))
    return code.registers, code.stack + code.local, code.shared


_ROWS: list = []


def _prepare() -> None:
    _ROWS.extend(rows())
    torch.set_num_threads(1)


def main() -> None:
    _prepare()
    wanted = [(i, j) for i in range(len(_ROWS)) for j in range(len(TARGETS))]
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=get_context("spawn"), initializer=_prepare
    ) as pool:
        found = dict(zip(wanted, pool.map(compiled, *zip(*wanted, strict=True)), strict=True))
    lines = []
    for i, ((name, label), launches) in enumerate(_ROWS):
        spills = max(found[i, j][1] for j in range(len(TARGETS)))
        registers = " | ".join(str(found[i, j][0]) for j in range(len(TARGETS)))
        shared = found[i, 2][2] / 1024
        moved = nbytes(launches[2].args) / 1e6
        lines.append(
            f"| {name} | {label} | {32 * launches[2].num_warps} | {registers} "
            f"| {spills} | {shared:.1f} | {moved:.2f} |\n"
        )
    before, rest = PAGE.read_text().split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    table = HEADER.format(triton=triton.__version__) + "".join(lines)
    PAGE.write_text(f"{before}{MARKERS[0]}\n{table}{MARKERS[1]}{after}")


if __name__ == "__main__":
    main()
