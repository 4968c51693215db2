"""The shapes at which ops are measured: Stable Diffusion 1.5's, batch 2 (a picture with guidance),
and LlamaGen's; on GPUs also Stable Diffusion XL's.

64x64 latents (512x512 pixels) and 32x32 latents (256x256): both U-Nets halve the side from level
to level, so 32^2 x 640 is the second level of the one and 32^2 x 320 the first of the other.
Tests use them too, to compile the kernels as a U-Net would call them.
"""

from .arguments import (
    Shape,
    attention,
    conv2d,
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

#: Tokens of both pictures and their width at each level of a U-Net on 64x64 latents.
_TOKENS = ((8192, 320), (2048, 640), (512, 1280), (128, 1280))

#: Side, channels, channels of the skip: the way down and the middle, then the way up.
_NORMS = (
    (64, 320, 0), (32, 640, 0), (16, 1280, 0), (8, 1280, 0), (32, 320, 0),
    (64, 320, 320), (32, 640, 640), (32, 1280, 640), (16, 1280, 1280), (8, 1280, 1280),
)  # fmt: skip

SHAPES: dict[str, list[Shape]] = {
    "group_norm_silu": [group_norm("group_norm_silu", *size) for size in _NORMS],
    "group_norm_scale_shift": [group_norm("group_norm_scale_shift", *size) for size in _NORMS],
    "layer_norm": [
        layer_norm(rows, width)
        for rows, width in ((8192, 320), (2048, 640), (512, 1280), (128, 1280), (2048, 320))
    ],
    "geglu": [
        geglu(rows, width)
        for rows, width in ((8192, 1280), (2048, 2560), (512, 5120), (2048, 1280))
    ],
    # A token of LlamaGen's B and XL with guidance, and a prompt.
    "rms_norm": [rms_norm(rows, width) for rows, width in ((2, 768), (2, 1280), (256, 768))],
    "swiglu": [swiglu(rows, width) for rows, width in ((2, 2048), (256, 2048))],
    "rotary": [rotary(2, 1, 12, 64), rotary(1, 256, 12, 64)],
    "rotary_cache": [rotary_cache(2, 1, 12, 64, 577), rotary_cache(1, 256, 12, 64, 577)],
    "decode_attention": [
        decode_attention(2, 1, 12, 12, 64, 288),
        decode_attention(2, 1, 12, 12, 64, 576),
        decode_attention(2, 16, 12, 12, 64, 288),
        decode_attention(8, 1, 32, 8, 128, 576),
        decode_attention(1, 256, 12, 12, 64, 0),
    ],
    "sampler_step": [sampler_step(side) for side in (32, 64, 128)] + [sampler_step(64, 4, 16)],
    "conv2d": [
        # The levels of a U-Net: 64x64 latents, and 32x32 from the second on.
        conv2d(64, 320, 320),
        conv2d(32, 640, 640),
        conv2d(16, 1280, 1280),
        conv2d(8, 1280, 1280),
        conv2d(4, 1280, 1280),
        conv2d(32, 320, 320),
        conv2d(16, 640, 640),
        # What surrounds one; two inputs; between levels; the first and the last.
        conv2d(64, 320, 320, block=True),
        conv2d(16, 1280, 1280, block=True),
        conv2d(8, 1280, 1280, c2=1280),
        conv2d(64, 320, 320, stride=2),
        conv2d(16, 1280, 1280, upsample=True),
        conv2d(64, 4, 320),
        conv2d(64, 320, 4),
        # The decoder's, one picture of 256x256.
        conv2d(64, 512, 512, batch=1),
        conv2d(128, 256, 256, batch=1),
        conv2d(256, 128, 128, batch=1),
    ],
    "linear": [
        *(linear(rows, c, c, bias=False) for rows, c in _TOKENS),
        *(linear(rows, c, 3 * c, bias=False) for rows, c in _TOKENS[:3]),
        *(linear(rows, c, 8 * c) for rows, c in _TOKENS),
        *(linear(rows, c, 4 * c, "geglu") for rows, c in _TOKENS),
        *(linear(rows, 4 * c, c) for rows, c in _TOKENS[:3]),
        *(linear(rows, 4 * c, c, residual=True) for rows, c in _TOKENS),
        linear(2048, 640, 2560, "gelu"),
        # DiT-XL/2 on 32x32 latents, two pictures.
        linear(512, 1152, 4608, "gelu_tanh"),
        linear(512, 4608, 1152, residual=True, gate=True),
        linear(154, 768, 640, bias=False),
        linear(154, 768, 3072, "quick_gelu"),
        linear(2, 1280, 1280),
        # A token of LlamaGen-B with guidance: one layer's, and the head.
        *(
            linear(2, *size, bias=False, int8=int8)
            for size in ((768, 2304), (768, 768), (768, 4096), (2048, 768), (768, 16384))
            for int8 in (False, True)
        ),
        # A window of Jacobi decoding.
        linear(32, 768, 4096, bias=False),
    ],
    "attention": [
        attention(4096, 4096, 8, 40),
        attention(4096, 77, 8, 40),
        attention(1024, 1024, 8, 80),
        attention(1024, 77, 8, 80),
        attention(256, 256, 8, 160),
        attention(64, 64, 8, 160),
        attention(4096, 4096, 1, 512, batch=1),
    ],
    "vq_argmin": [
        vq_argmin(*size) for size in ((576, 16384, 8), (1024, 8192, 256), (36864, 8192, 256))
    ],
    "vq_decode": [
        vq_decode(576, 16384, 8),
        vq_decode(576, 16384, 8, 256),
        vq_decode(1024, 8192, 256),
    ],
    "sample_token": [sample_token(1, 16384), sample_token(4, 16384)],
    "mask_refine": [mask_refine(1, 256, 8192), mask_refine(1, 1024, 8192)],
}

#: Measured on GPUs besides: a U-Net of SDXL at 1024x1024 pixels, 128x128 latents, and its decoder;
#: a token of LlamaGen-XL with guidance; more at once than a CPU would be asked for.
GPU_SHAPES: dict[str, list[Shape]] = {
    "group_norm_silu": [
        *(
            group_norm("group_norm_silu", *size)
            for size in (
                *((128, 320), (64, 640), (32, 1280), (128, 320, 320), (128, 640, 320)),
                *((64, 640, 640), (64, 1280, 640), (32, 1280, 1280)),
            )
        ),
        group_norm("group_norm_silu", 256, 512, batch=1),
        group_norm("group_norm_silu", 1024, 128, batch=1),
    ],
    "layer_norm": [layer_norm(8192, 640), layer_norm(2048, 1280)],
    "geglu": [geglu(8192, 2560), geglu(2048, 5120)],
    "sampler_step": [sampler_step(128, 4, 16), sampler_step(128, 4, 64)],
    "conv2d": [conv2d(128, 320, 320), conv2d(64, 640, 640), conv2d(32, 1280, 1280)],
    "linear": [
        linear(8192, 640, 640, bias=False),
        linear(8192, 640, 2560, "geglu"),
        linear(2048, 1280, 1280, bias=False),
        linear(2048, 1280, 5120, "geglu"),
        *(
            linear(2, *size, bias=False, int8=int8)
            for size in ((1280, 3840), (1280, 1280), (1280, 7168), (3584, 1280), (1280, 16384))
            for int8 in (False, True)
        ),
    ],
    "attention": [
        attention(queries, keys, heads, 64)
        for queries, heads in ((4096, 10), (1024, 20))
        for keys in (queries, 77)
    ],
    "rotary_cache": [rotary_cache(2, 1, 20, 64, 577)],
    "decode_attention": [decode_attention(2, 1, 20, 20, 64, 288)],
    "vq_argmin": [vq_argmin(36864, 16384, 8)],
}

#: One small shape an op, for a run that only shows that the benchmarks work.
TINY: dict[str, list[Shape]] = {
    "group_norm_silu": [group_norm("group_norm_silu", 5, 24, 8, groups=4)],
    "group_norm_scale_shift": [group_norm("group_norm_scale_shift", 5, 24, groups=4)],
    "layer_norm": [layer_norm(7, 20)],
    "geglu": [geglu(7, 20)],
    "rms_norm": [rms_norm(7, 20)],
    "swiglu": [swiglu(7, 20)],
    "rotary": [rotary(3, 2, 2, 6)],
    "rotary_cache": [rotary_cache(3, 2, 2, 6, 9)],
    "decode_attention": [decode_attention(3, 2, 4, 2, 6, 9)],
    "sampler_step": [sampler_step(5)],
    "conv2d": [conv2d(5, 6, 4, c2=2, block=True)],
    "linear": [linear(7, 20, 6, residual=True), linear(2, 20, 6, int8=True)],
    "attention": [attention(9, 5, 2, 8)],
    "vq_argmin": [vq_argmin(9, 40, 6)],
    "vq_decode": [vq_decode(9, 40, 6, 10)],
    "sample_token": [sample_token(2, 50)],
    "mask_refine": [mask_refine(2, 8, 20)],
}
