"""Compiles the Triton kernels to machine code for NVIDIA GPUs, which needs none.

The launches are those of calls at Stable Diffusion's shapes. Nothing here shows that they run.
"""

import re

import pytest
import torch

from pyengine.bench.arguments import (
    attention,
    decode_attention,
    geglu,
    group_norm,
    layer_norm,
    linear,
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

from triton_launches import (
    FP8,
    PRODUCTS,
    STREAMED,
    epilogue,
    launches_of,
    masked,
    quantised,
    streamed,
)
from triton_machine_code import compile_launch, source_of

from pyengine.kernels._launch import prepare

# Kernels that must read and write whole 16-byte pieces to reach the memory's speed.
STREAMING = (
    *("_apply", "_layer_norm", "_layer_norm_wide", "_geglu", "_sampler_step"),
    *("_rms_norm", "_rms_norm_wide", "_epilogue", "_quantize_rows"),
)
#: Registers per thread and bytes of shared memory per block, where not 128 and 48 KB: four blocks
#: of 128 threads then find room in an SM's 65,536 registers, and any chip has the memory. Products
#: take what there is: 255, and the 99 KB of sm_86 and sm_89.
MOST = {
    "_attention": (255, 99 * 1024),
    "_linear_dot": (128, 99 * 1024),
    "_linear_tile": (255, 99 * 1024),
    "_linear_sum": (128, 48 * 1024),
}

#: What the tensor cores are given, for a dtype of x: what was rounded is uint8, as which it is
#: widened to float16 where they cannot take it.
PRODUCT = {
    "e4m3": ".f32.e4m3.e4m3",
    "uint8": ".f32.f16.f16",
    "float16": ".f32.f16.f16",
    "bfloat16": ".f32.bf16.bf16",
}
#: A block for a group of a picture, so that there are fewer than a GPU has SMs: it may take more of
#: one's registers than a quarter (154 at 128^2 x 320).
ALONE = ("_scale_shift",)


def programs():
    """Every different program once: launches that differ in nothing compiled in share one."""
    seen = {}
    for shape, dtype, architecture in [*streamed(), *PRODUCTS, *FP8]:
        for launch in launches_of(shape, dtype, architecture):
            name = launch.kernel.__name__.strip("_")
            label = f"{name}-{shape}-{str(dtype)[6:]}-sm_{architecture}".replace(" ", "_")
            key = (source_of(launch).hash(), str(launch.options), architecture)
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
    name = launch.kernel.__name__
    registers, shared = MOST.get(name, (255 if name in ALONE else 128, 48 * 1024))
    assert code.registers <= registers
    assert code.shared <= shared
    if name in STREAMING:
        assert "LDG.E.128" in code.sass
        assert "STG.E.128" in code.sass
    if name == "_decode_attention":
        assert "LDG.E.128" in code.sass
    if name in MOST:
        # Keys, values and weights come to shared memory 16 bytes at a time, past the registers; a
        # thread's share of weights of 8 bits is 8 bytes where sums are in float32.
        eight = name == "_linear_sum" and launch.args["weight"].itemsize == 1
        assert ("LDGSTS.E.64" if eight else "LDGSTS.E.BYPASS.128") in code.sass
        assert dtype == torch.float32 or "MMA" in code.sass
    if name == "_linear_tile":
        kind = "e4m3" if launch.constants["FP8"] else str(launch.args["x"].dtype)[6:]
        assert PRODUCT[kind] in code.ptx
    copies = name == "_vq_decode" and launch.args["weight"] is None
    if dtype == torch.bfloat16 and launch.args.get("y") is not None and not copies:
        # What the interpreter's tests take for granted: rounded to nearest, not cut off.
        assert "cvt.rn.bf16" in code.ptx


@pytest.mark.parametrize(
    "shape",
    [
        *(attention(1, 1, 1, 1), linear(2, 1, 1, "geglu"), epilogue(1, 1)),
        quantised(linear(74, 1, 1, "geglu"), torch.float8_e4m3fn, True),
    ],
    ids=str,
)
def test_sizes_of_one_compile(shape, tmp_path, monkeypatch):
    """Triton makes constants of them, which are no tensors in the kernel."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for launch in launches_of(shape, torch.float32):
        assert compile_launch(launch, 90, tmp_path).cubin.startswith(b"\x7fELF")


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
        [masked(attention(37, 77, 5, 40, batch=n), (n, 1, 1, 77)) for n in (1, 64)],
        [linear(n, 320, 1283, residual=True) for n in (1, 64)],
        [quantised(linear(n, 320, 1283), torch.int8) for n in (37, 74)],
        [quantised(linear(n, 320, 1283), torch.float8_e4m3fn, True) for n in (37, 74)],
        [epilogue(7, 330, n) for n in (1, 64)],
    ],
    ids=[*STREAMED, "attention", "linear", "linear-int8", "linear-fp8", "conv2d"],
)
def test_the_program_does_not_depend_on_the_batch(few, many):
    """Not even in what Triton makes of arguments that are 1 or multiples of 16."""

    def compiled(shape):
        launches = launches_of(shape, torch.float16)
        for value in (value for launch in launches for value in launch.args.values()):
            assert (
                not isinstance(value, torch.Tensor)
                or value.storage_offset() * value.itemsize % 16 == 0
            )
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
