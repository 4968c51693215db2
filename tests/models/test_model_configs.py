"""Which configs of published checkpoints are accepted, and as what."""

import dataclasses
import json
import typing

import pytest
import tiny
import torch

from pyengine.models import (
    AutoencoderKL,
    AutoencoderKLConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionConfig,
    UNet2DConditionModel,
    UNet2DConfig,
    UNet2DModel,
)
from pyengine.models.unet.blocks import DOWN_BLOCKS, MID_BLOCKS, UP_BLOCKS

# --- what the published checkpoints say -----------------------------------------------------------

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD2 = {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "dual_cross_attention": False,
    "upcast_attention": True,
}
XL = {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
    "mid_block_only_cross_attention": None,
    "num_attention_heads": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [CROSS_UP, CROSS_UP, "UpBlock2D"],
    "use_linear_projection": True,
}
UNETS = {
    "sd15": (
        {"_diffusers_version": "0.6.0", "cross_attention_dim": 768, "act_fn": "silu"},
        859_520_964,
    ),
    "sd15_inpainting": ({"cross_attention_dim": 768, "in_channels": 9}, 859_535_364),
    "lcm": ({"cross_attention_dim": 768, "time_cond_proj_dim": 256}, 859_602_884),
    "sd21": (SD2, 865_910_724),
    "sdxl": (XL, 2_567_463_684),
    "nested_depths": (
        {
            **XL,
            "transformer_layers_per_block": [0, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        },
        1_504_778_244,
    ),
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
# Written by transformers 4.21 with everything that it had to say.
SD15_TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.21.0.dev0",
    "vocab_size": 49408,
}
SD2_TEXT = {
    **SD15_TEXT,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
BIG_G = {
    **SD2_TEXT,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
DDPM_CIFAR10 = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
DDPM_256 = {
    **DDPM_CIFAR10,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "sample_size": 256,
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
PUBLISHED = {
    **{name: (UNet2DConditionModel, *entry) for name, entry in UNETS.items()},
    "ddpm_cifar10": (UNet2DModel, DDPM_CIFAR10, 35_746_307),
    "ddpm_256": (UNet2DModel, DDPM_256, 113_673_219),
    "vae": (AutoencoderKL, VAE, 83_653_863),
    "vit_l": (CLIPTextModel, SD15_TEXT, 123_060_480),
    "open_clip_h": (CLIPTextModel, SD2_TEXT, 340_387_840),
    "big_g": (CLIPTextModelWithProjection, BIG_G, 694_659_840),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_built_with_the_same_tensors(name):
    cls, config, parameters = PUBLISHED[name]
    ours = cls.from_config(dict(config))
    assert all(p.is_meta for p in ours.parameters())
    assert sum(p.numel() for p in ours.parameters()) == parameters
    with torch.device("meta"):
        theirs = _theirs(cls, config)
    names = {key.removeprefix("text_model."): v.shape for key, v in theirs.state_dict().items()}
    mine = {key.removeprefix("text_model."): v.shape for key, v in ours.state_dict().items()}
    assert mine == names


def _theirs(cls, config: dict):
    import diffusers
    import transformers

    if hasattr(diffusers, cls.__name__):
        return getattr(diffusers, cls.__name__).from_config(config)
    ignored = {"torch_dtype", "transformers_version", "_name_or_path", "dropout"}
    text = transformers.CLIPTextConfig(**{k: v for k, v in config.items() if k not in ignored})
    return getattr(transformers, cls.__name__)(text)


def test_what_todays_libraries_save_is_accepted(tmp_path):
    for model, cls in (
        (tiny.make_unet(**tiny.SDXL_UNET), UNet2DConditionConfig),
        (tiny.make_vae(), AutoencoderKLConfig),
        (tiny.make_text_encoder(), CLIPTextConfig),
    ):
        model.save_pretrained(tmp_path)
        cls.from_dict(json.loads((tmp_path / "config.json").read_text()))


def test_every_option_of_diffusers_is_known():
    """A key that diffusers saves is a field of ours or on the list of those that do not matter."""
    for model, cls in (
        (tiny.make_unet(), UNet2DConditionConfig),
        (tiny.make_unet2d(), UNet2DConfig),
        (tiny.make_vae(), AutoencoderKLConfig),
    ):
        known = {f.name for f in dataclasses.fields(cls)} | cls.IGNORED_KEYS
        theirs = {k for k in model.config if not k.startswith("_")}
        assert theirs <= known
        assert known <= theirs


def test_everything_that_transformers_4_saves_is_accepted():
    nested = {**SD15_TEXT, "id2label": {"0": "LABEL_0"}, "num_beams": 1, "top_p": 1.0}
    config = CLIPTextConfig.from_dict({"model_type": "clip", "text_config": nested})
    assert config == CLIPTextConfig.from_dict(SD15_TEXT)
    assert config.eos_token_id == 2


def test_block_types_are_those_of_the_registry():
    hints = [typing.get_type_hints(c) for c in (UNet2DConditionConfig, UNet2DConfig)]
    for field, registry in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        kinds = [typing.get_args(typing.get_args(own[field])[0]) for own in hints]
        assert {kind for some in kinds for kind in some} == set(registry)
    kinds = typing.get_args(typing.get_args(hints[0]["mid_block_type"])[0])
    assert set(kinds) == set(MID_BLOCKS)


def test_defaults_are_those_of_the_libraries():
    import diffusers
    from transformers import CLIPTextConfig as TheirText

    with torch.device("meta"):
        pairs = [
            (UNet2DConditionConfig(), dict(diffusers.UNet2DConditionModel().config)),
            (UNet2DConfig(), dict(diffusers.UNet2DModel().config)),
            (AutoencoderKLConfig(), dict(diffusers.AutoencoderKL().config)),
            (CLIPTextConfig(), TheirText().to_dict()),
        ]
    for ours, theirs in pairs:
        for key, value in dataclasses.asdict(ours).items():
            if key != "use_attention_mask":  # diffusers looks for it; transformers has no default
                assert value == theirs[key], key
