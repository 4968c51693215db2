"""Compiles a Launch of pyengine.kernels to a cubin, and reads what the compiler says about it."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}


class Code(NamedTuple):
    """A kernel's machine code: per thread, except shared, which is per block."""

    name: str
    registers: int
    stack: int
    local: int
    shared: int
    ptx: str
    sass: str
    cubin: bytes


def source_of(launch) -> ASTSource:
    """What Triton's launcher would compile for these arguments.

    It compiles None and 1 in as constants, and notes which pointers and integers are multiples of
    16; torch aligns every allocation to 256 bytes or more.
    """
    names = launch.kernel.arg_names
    fixed = {p.name for p in launch.kernel.params if p.do_not_specialize}
    signature, constants, attributes = {}, dict(launch.constants), {}
    for name, value in launch.args.items():
        whole = type(value) is int and name not in fixed
        if value is None or (whole and value == 1):
            constants[name] = value
        elif isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = "fp32" if type(value) is float else "i32"
        if isinstance(value, Tensor) or (whole and value % 16 == 0):
            attributes[(names.index(name),)] = [["tt.divisibility", 16]]
    signature = {name: signature.get(name, "constexpr") for name in names}
    return ASTSource(launch.kernel, signature, constants, attributes)


def compile_launch(launch, architecture: int, folder: Path) -> Code:
    """Compiles for sm_<architecture>; the cubin is left in the folder."""
    kernel = triton.compile(
        source_of(launch),
        target=GPUTarget("cuda", architecture, 32),
        options=launch.options,
    )
    cubin = kernel.asm["cubin"]
    path = folder / f"{kernel.metadata.name}.cubin"
    path.write_bytes(cubin)
    report = _cuobjdump("--dump-resource-usage", path)
    used = {key: int(n) for key, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return Code(
        kernel.metadata.name,
        used["REG"],
        used["STACK"],
        used["LOCAL"],
        kernel.metadata.shared,
        kernel.asm["ptx"],
        _cuobjdump("--dump-sass", path),
        cubin,
    )


def _cuobjdump(option: str, path: Path) -> str:
    # The one that comes with Triton.
    command = [triton.knobs.nvidia.cuobjdump.path, option, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
