"""Compiles the Triton kernels to machine code for NVIDIA GPUs, which needs none.

The launches are those of calls at Stable Diffusion's shapes. Nothing here shows that they run.
"""

import re
from importlib import import_module
from itertools import product

import pytest
import torch

from pyengine.bench.shapes import (
    SHAPES,
    Shape,
    decode_attention,
    geglu,
    group_norm,
    layer_norm,
    mask_refine,
    rms_norm,
    rotary,
    rotary_cache,
    sample_token,
    sampler_step,
    swiglu,
    vq_argmin,
    vq_decode,
)

pytest.importorskip("triton", reason="Triton is not installed")

from pyengine.kernels._launch import prepare
from triton_machine_code import compile_launch, source_of

from pyengine.ops import OPS as EVERY_OP

OPS = (
    *("group_norm_silu", "group_norm_scale_shift", "layer_norm", "geglu", "sampler_step"),
    *("vq_argmin", "vq_decode", "sample_token", "mask_refine"),
    *("rms_norm", "swiglu", "rotary", "rotary_cache", "decode_attention"),
)
#: The ops that share a file, whose functions need names.
PLANS = {
    "group_norm_scale_shift": "plan_scale_shift",
    "rms_norm": "plan_rms_norm",
    "rotary_cache": "plan_rotary_cache",
    "swiglu": "plan_swiglu",
}
# Kernels that must read and write whole 16-byte pieces to reach the memory's speed.
STREAMING = (
    *("_apply", "_layer_norm", "_layer_norm_wide", "_geglu", "_sampler_step"),
    *("_rms_norm", "_rms_norm_wide"),
)


def launches_of(shape: Shape, dtype: torch.dtype):
    """The launches of one call, planned on tensors that have no memory."""
    module = import_module(f"pyengine.kernels.{EVERY_OP[shape.op].module}")
    plan = PLANS.get(shape.op, "plan")
    return getattr(module, plan)(**shape.build(dtype, "meta"))[0]


def programs():
    """Every different program once: launches that differ in nothing compiled in share one."""
    shapes = [shape for op in OPS for shape in SHAPES[op]]
    first = [*(SHAPES[op][0] for op in OPS), layer_norm(8, 20000), rms_norm(8, 20000)]
    wanted = [
        *product(shapes, (torch.bfloat16,), (90,)),
        *product(first, (torch.float32, torch.float16), (90,)),
        *product(first, (torch.bfloat16,), (80,)),
    ]
    seen = {}
    for shape, dtype, architecture in wanted:
        for launch in launches_of(shape, dtype):
            name = launch.kernel.__name__.strip("_")
            label = f"{name}-{shape}-{str(dtype)[6:]}-sm_{architecture}".replace(" ", "_")
            key = (source_of(launch).hash(), launch.num_warps, architecture)
            seen.setdefault(key, pytest.param(launch, dtype, architecture, id=label))
    return list(seen.values())


@pytest.mark.parametrize(("launch", "dtype", "architecture"), programs())
def test_compiles_without_spilling(launch, dtype, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    code = compile_launch(launch, architecture, tmp_path)
    assert code.cubin.startswith(b"\x7fELF")
    assert f".target sm_{architecture}" in code.ptx
    assert (code.stack, code.local) == (0, 0)
    assert not re.search(r"\b(LDL|STL)\b", code.sass), "registers spill to local memory"
    # Four blocks of 128 threads then find room in an SM's 65,536 registers.
    assert code.registers <= 128
    assert code.shared <= 48 * 1024
    if launch.kernel.__name__ in STREAMING:
        assert "LDG.E.128" in code.sass
        assert "STG.E.128" in code.sass
    name = launch.kernel.__name__
    copies = name == "_place" or (name == "_vq_decode" and launch.args["weight"] is None)
    if dtype == torch.bfloat16 and launch.args.get("y") is not None and not copies:
        # What the interpreter's tests take for granted: rounded to nearest, not cut off.
        assert "cvt.rn.bf16" in code.ptx


@pytest.mark.parametrize(
    ("few", "many"),
    [
        [group_norm("group_norm_silu", 7, 330, 45, batch=n, groups=5) for n in (1, 64)],
        [group_norm("group_norm_scale_shift", 7, 330, batch=n, groups=5) for n in (1, 64)],
        [layer_norm(rows, 321) for rows in (1, 8192)],
        [geglu(rows, 1281) for rows in (1, 8192)],
        [sampler_step(63, pictures=n) for n in (1, 64)],
        [vq_argmin(n, 330, 15) for n in (1, 64)],
        [vq_decode(n, 330, 15, 33) for n in (1, 64)],
        [sample_token(n, 331) for n in (1, 64)],
        [mask_refine(n, 15, 331) for n in (1, 64)],
        [rms_norm(rows, 321) for rows in (1, 8192)],
        [swiglu(rows, 1281) for rows in (1, 8192)],
        [rotary(n, 3, 5, 48) for n in (1, 64)],
        [rotary_cache(n, 2, 5, 48, 97) for n in (1, 64)],
        [decode_attention(n, 1, 5, 5, 48, 96) for n in (1, 64)],
    ],
    ids=OPS,
)
def test_the_program_does_not_depend_on_the_batch(few, many):
    """Not even in what Triton makes of arguments that are 1 or multiples of 16."""

    def compiled(shape):
        launches = launches_of(shape, torch.float16)
        for value in (value for launch in launches for value in launch.args.values()):
            assert not isinstance(value, torch.Tensor) or value.storage_offset() == 0
        return [(source_of(launch).hash(), launch.options) for launch in launches]

    assert compiled(few) == compiled(many)


def test_a_tensor_off_a_16_byte_boundary_is_copied():
    """For another pointer Triton would compile a program with another layout."""
    off = torch.randn(8 * 123 + 1)[1:].view(8, 123)
    assert off.data_ptr() % 16
    [copy] = prepare("layer_norm", off)
    assert copy.data_ptr() % 16 == 0
    assert torch.equal(copy, off)
    [same] = prepare("layer_norm", copy)
    assert same is copy
