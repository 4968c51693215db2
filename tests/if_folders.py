"""Tiny DeepFloyd IF checkpoints, as diffusers saves them."""

from __future__ import annotations

from pathlib import Path

import spiece
import tiny

UNET = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 32,
    "attention_head_dim": 16,
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 24,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}
#: The first stage's, as DeepFloyd/IF-I-* have it.
SCHEDULER = {
    "variance_type": "learned_range",
    "beta_schedule": "squaredcos_cap_v2",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}


def tokenizer():
    """A transformers T5Tokenizer over spiece.PIECES, with 100 sentinels."""
    from transformers import T5Tokenizer

    scores = [(text, score) for text, score, _ in spiece.PIECES]
    scores += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    return T5Tokenizer(vocab=scores)


def make_t5(seed: int = 5, **overrides):
    """A transformers T5EncoderModel of T5 1.1's kind, 24 wide."""
    from transformers import T5Config, T5EncoderModel

    config = {
        "vocab_size": len(spiece.PIECES) + 100,
        "d_model": 24,
        "d_kv": 8,
        "d_ff": 40,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        **overrides,
    }
    return tiny.randomise(T5EncoderModel(T5Config(**config)), seed)


def write(folder, *, unet=None, text=None, scheduler=None, gain: float = 0.1, pieces=False):
    """An IFPipeline's folder, 16x16. gain: of the last layer, at whose full size a random network's
    outputs, limited step by step, are chaotic. pieces: spiece.model in place of tokenizer.json, as
    published folders have it.
    """
    import diffusers

    folder = Path(folder)
    net = tiny.make_unet(13, **{**UNET, **(unet or {})})
    for p in net.conv_out.parameters():
        p.data.mul_(gain)
    pipe = diffusers.IFPipeline(
        tokenizer=tokenizer(),
        text_encoder=make_t5(**(text or {})),
        unet=net,
        scheduler=scheduler or diffusers.DDPMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    if pieces:
        (folder / "tokenizer" / "tokenizer.json").unlink()
        spiece.write(folder / "tokenizer")
    return folder


def write_super_resolution(folder, *, unet=None, gain: float = 0.1):
    """An IFSuperResolutionPipeline's folder, of the arrangement of IF-II-*, 32x32."""
    import diffusers

    keys = {
        **UNET,
        "sample_size": 32,
        "in_channels": 6,
        "class_embed_type": "timestep",
        "only_cross_attention": True,
        "resnet_skip_time_act": True,
        "time_embedding_act_fn": "gelu",
        "resnet_out_scale_factor": 1 / 0.7071,
        "mid_block_scale_factor": 1 / 0.7071,
        "time_embedding_dim": 48,
    }
    net = tiny.make_unet(14, **{**keys, **(unet or {})})
    for p in net.conv_out.parameters():
        p.data.mul_(gain)
    pipe = diffusers.IFSuperResolutionPipeline(
        tokenizer=tokenizer(),
        text_encoder=make_t5(),
        unet=net,
        scheduler=diffusers.DDPMScheduler(**{**SCHEDULER, "sample_max_value": 1.0}),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(Path(folder))
    return Path(folder)
