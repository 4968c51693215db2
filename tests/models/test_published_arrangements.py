"""Published arrangements: ours have the tensors of diffusers' and transformers' models.

Nothing is filled: both lie on the meta device.
"""

import pytest
import torch

from pyengine.models import (
    CLIPVisionModelWithProjection,
    PriorTransformer,
    T5EncoderModel,
    UNet2DConditionModel,
    VQModel,
)

SIMPLE_DOWN, SIMPLE_UP = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"
CASCADE = {
    "down_block_types": ["ResnetDownsampleBlock2D", *[SIMPLE_DOWN] * 3],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": [*[SIMPLE_UP] * 3, "ResnetUpsampleBlock2D"],
    "layers_per_block": 3,
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
}
IF = {
    **CASCADE,
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "out_channels": 6,
}
UNETS = {
    "IF-I-XL": {
        **IF,
        "in_channels": 3,
        "block_out_channels": [704, 1408, 2112, 2816],
        "cross_attention_dim": 2816,
    },
    "IF-II-L": {
        **IF,
        "in_channels": 6,
        "block_out_channels": [128, 256, 512, 768, 768],
        "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + [SIMPLE_DOWN] * 2,
        "up_block_types": [SIMPLE_UP] * 2 + ["ResnetUpsampleBlock2D"] * 3,
        "layers_per_block": [2, 4, 8, 8, 8],
        "cross_attention_dim": 512,
        "class_embed_type": "timestep",
        "only_cross_attention": True,
        "resnet_skip_time_act": True,
        "time_embedding_act_fn": "gelu",
        "resnet_out_scale_factor": 1 / 0.7071,
        "mid_block_scale_factor": 1 / 0.7071,
        "time_embedding_dim": 768,
    },
    "Kandinsky 2.2": {
        **CASCADE,
        "in_channels": 4,
        "out_channels": 8,
        "block_out_channels": [384, 768, 1152, 1536],
        "cross_attention_dim": 768,
        "encoder_hid_dim": 1280,
        "encoder_hid_dim_type": "image_proj",
        "addition_embed_type": "image",
    },
    "Karlo": {
        **CASCADE,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": [320, 640, 960, 1280],
        "cross_attention_dim": 1536,
        "class_embed_type": "identity",
    },
    "Karlo's super-resolution": {
        "in_channels": 6,
        "out_channels": 3,
        "block_out_channels": [320, 640, 960, 1280],
        "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
        "layers_per_block": 3,
        "resnet_time_scale_shift": "scale_shift",
    },
}


def same_tensors(ours, theirs) -> int:
    """How many parameters both have."""
    mine = {name: tuple(t.shape) for name, t in ours.state_dict().items() if t is not None}
    other = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert mine == other
    return sum(t.numel() for t in ours.parameters())


@pytest.mark.parametrize("name", UNETS)
def test_unets(name):
    import diffusers

    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**UNETS[name])
    count = same_tensors(UNet2DConditionModel.from_config(dict(UNETS[name])), theirs)
    assert count > 100_000_000


def test_kandinskys_prior_and_movq():
    import diffusers

    prior = {
        "clip_embed_dim": None, "embedding_dim": 1280, "num_attention_heads": 32,
        "attention_head_dim": 64, "num_layers": 20, "num_embeddings": 77,
    }  # fmt: skip
    movq = {
        "block_out_channels": [128, 256, 256, 512],
        "down_block_types": [*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3],
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_type": "spatial",
        "num_vq_embeddings": 16384,
        "vq_embed_dim": 4,
    }
    with torch.device("meta"):
        theirs = diffusers.PriorTransformer(**prior)
    assert same_tensors(PriorTransformer.from_config(prior), theirs) > 10**9
    with torch.device("meta"):
        theirs = diffusers.VQModel(**movq)
    assert same_tensors(VQModel.from_config(movq), theirs) > 60_000_000


def test_encoders():
    import transformers

    t5 = {
        "d_ff": 10240, "d_kv": 64, "d_model": 4096, "feed_forward_proj": "gated-gelu",
        "num_heads": 64, "num_layers": 24, "vocab_size": 32128,
    }  # fmt: skip
    big_g = {
        "hidden_size": 1664, "intermediate_size": 8192, "num_attention_heads": 16,
        "num_hidden_layers": 48, "patch_size": 14, "projection_dim": 1280, "hidden_act": "gelu",
    }  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**big_g))
    assert same_tensors(CLIPVisionModelWithProjection.from_config(big_g), theirs) > 18 * 10**8
    with torch.device("meta"):
        theirs = transformers.T5EncoderModel(transformers.T5Config(**t5))
    ours = T5EncoderModel.from_config(t5)
    other = theirs.state_dict()
    other.pop("encoder.embed_tokens.weight")  # the same tensor once more
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in other.items()
    }
    assert sum(t.numel() for t in ours.parameters()) == 4_762_310_656
