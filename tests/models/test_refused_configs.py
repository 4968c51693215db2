"""Which configs are refused, with which words, and how fast."""

import contextlib
import dataclasses
import time

import pytest
from test_model_configs import CROSS_DOWN, VAE

from pyengine.errors import ConfigError
from pyengine.models import (
    AutoencoderKL,
    AutoencoderKLConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionConfig,
    UNet2DConditionModel,
)


@contextlib.contextmanager
def quickly(seconds: float = 1.0):
    """Refusals must come at once: before networks are built or memory is taken."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


HUGE = 10**9
REFUSED_UNETS = {
    "unknown key": ({"flux_capacitor": 1}, "unknown keys 'flux_capacitor'"),
    "two problems": ({"in_channels": "4", "what": 0}, "'what', in_channels must be"),
    "class": ({"_class_name": "UNet3DConditionModel"}, "_class_name is 'UNet3DConditionModel'"),
    "number as text": ({"norm_num_groups": "32"}, "norm_num_groups must be a whole number"),
    "number as bool": ({"out_channels": True}, "out_channels must be"),
    "fraction": ({"in_channels": 4.5}, "in_channels must be"),
    "bool as number": ({"center_input_sample": 1}, "center_input_sample must be"),
    "list as number": ({"block_out_channels": 320}, "block_out_channels must be"),
    "list of text": ({"block_out_channels": ["320"] * 4}, "block_out_channels"),
    "null": ({"cross_attention_dim": None}, "cross_attention_dim must be"),
    "object": ({"norm_eps": {}}, "norm_eps must be a number"),
    "zero channels": ({"in_channels": 0}, "in_channels is 0, expected 1 to"),
    "negative": ({"layers_per_block": -1}, "layers_per_block"),
    "not finite": ({"norm_eps": float("nan")}, "norm_eps"),
    "huge channels": ({"in_channels": HUGE}, "in_channels is 1000000000"),
    "huge widths": ({"block_out_channels": [HUGE] * 4}, "block_out_channels"),
    "huge layers": ({"layers_per_block": HUGE}, "layers_per_block"),
    "huge depth": ({"transformer_layers_per_block": HUGE}, "transformer_layers_per_block"),
    "huge context": ({"cross_attention_dim": HUGE}, "cross_attention_dim"),
    "huge heads": ({"attention_head_dim": HUGE}, "attention_head_dim"),
    "huge class table": ({"num_class_embeds": HUGE}, "num_class_embeds"),
    "huge time": ({"time_embedding_dim": HUGE}, "time_embedding_dim"),
    "huge kernel": ({"conv_in_kernel": HUGE}, "conv_in_kernel"),
    "many levels": (
        {
            "block_out_channels": [32] * 999,
            "down_block_types": ["DownBlock2D"] * 999,
            "up_block_types": ["UpBlock2D"] * 999,
        },
        "block_out_channels has 999 items, at most 16",
    ),
    "many layers in all": (
        {
            "block_out_channels": [32] * 16,
            "down_block_types": ["DownBlock2D"] * 16,
            "up_block_types": ["UpBlock2D"] * 16,
            "layers_per_block": 32,
        },
        "1042 residual blocks in all, at most 256",
    ),
    "deep in all": ({"transformer_layers_per_block": 64}, "transformer blocks in all, at most 512"),
    "no levels": (
        {"block_out_channels": [], "down_block_types": [], "up_block_types": []},
        "block_out_channels is empty",
    ),
    "levels disagree": ({"block_out_channels": [320, 640]}, "down_block_types has 4 items"),
    "heads disagree": ({"attention_head_dim": [8, 8]}, "attention_head_dim has 2 items"),
    "context disagrees": ({"cross_attention_dim": [768]}, "cross_attention_dim has 1 items"),
    "depth disagrees": (
        {"transformer_layers_per_block": [1]},
        "transformer_layers_per_block has 1 items, expected 4",
    ),
    "nested without reverse": (
        {"transformer_layers_per_block": [[1, 1], 1, 1, 1]},
        "needs reverse_transformer_layers_per_block",
    ),
    "nested too short": (
        {
            "transformer_layers_per_block": [[1], 1, 1, 1],
            "reverse_transformer_layers_per_block": [1, 1, 1, [1, 1]],
        },
        "transformer_layers_per_block[0] has 1 items, expected 2",
    ),
    "groups": ({"norm_num_groups": 30}, "320 is no multiple of norm_num_groups 30"),
    "heads": ({"attention_head_dim": 7}, "320 is no multiple of its 7 heads"),
    "even kernel": ({"conv_out_kernel": 4}, "conv_out_kernel is 4, expected an odd number"),
    "frequencies": ({"freq_shift": 64, "block_out_channels": [32] * 4}, "too small for the time"),
    "no such block": ({"up_block_types": ["AttnUpBlock2D"] * 4}, "up_block_types is 'AttnUpBlock"),
    "no such mid": ({"mid_block_type": "UNetMidBlock2DTemporal"}, "mid_block_type"),
    "text_time without sizes": (
        {"addition_embed_type": "text_time"},
        "needs addition_time_embed_dim",
    ),
    "projection without width": (
        {"class_embed_type": "projection"},
        "needs projection_class_embeddings_input_dim",
    ),
    "two class embeddings": (
        {"class_embed_type": "timestep", "num_class_embeds": 4},
        "exclude each other",
    ),
    "kandinsky": ({"addition_embed_type": "image"}, "addition_embed_type"),
    "a picture's hint": ({"addition_embed_type": "image_hint"}, "addition_embed_type"),
    "ada_group": ({"resnet_time_scale_shift": "ada_group"}, "resnet_time_scale_shift is 'ada_gr"),
    "dual": ({"dual_cross_attention": True}, "dual_cross_attention is True, expected False"),
    "only cross": ({"only_cross_attention": [True, True, True, False]}, "only_cross_attention"),
    "gated": ({"attention_type": "gated"}, "attention_type is 'gated', expected 'default'"),
    "activation": ({"act_fn": "mish"}, "act_fn is 'mish', expected 'silu' or 'swish'"),
    "fourier": ({"time_embedding_type": "fourier"}, "time_embedding_type"),
    "time activation": ({"time_embedding_act_fn": "relu"}, "time_embedding_act_fn"),
    "scaled middle": ({"mid_block_scale_factor": 1.4142}, "mid_block_scale_factor is 1.4142"),
    "scaled blocks": ({"resnet_out_scale_factor": 2}, "resnet_out_scale_factor is 2"),
    "concatenated": ({"class_embeddings_concat": True}, "class_embeddings_concat"),
    "heads by their name": ({"num_attention_heads": 8}, "num_attention_heads must be null"),
    "no norm": ({"norm_num_groups": None}, "norm_num_groups must be"),
}
REFUSED_VAES = {
    "unknown key": ({"temperature": 1.0}, "unknown keys 'temperature'"),
    "class": ({"_class_name": "AutoencoderTiny"}, "_class_name"),
    "huge channels": ({"latent_channels": HUGE}, "latent_channels"),
    "huge widths": ({"block_out_channels": [HUGE]}, "block_out_channels"),
    "huge layers": ({"layers_per_block": HUGE}, "layers_per_block"),
    "levels disagree": ({"block_out_channels": [64, 64]}, "up_block_types has 1 items, expected 2"),
    "groups": ({"norm_num_groups": 33}, "64 is no multiple of norm_num_groups 33"),
    "no such block": ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "down_block_types"),
    "activation": ({"act_fn": "relu"}, "act_fn"),
    "zero scale": ({"scaling_factor": 0}, "scaling_factor"),
    "infinite shift": ({"shift_factor": float("inf")}, "shift_factor"),
    "scaled by channel": ({"latents_mean": [0.1, 0.2, 0.3, 0.4]}, "latents_mean must be null"),
    "a mean short": (
        {"latents_mean": [0.1, 0.2, 0.3], "latents_std": [1, 1, 1, 1]},
        "latents_mean has 3 items, expected 4",
    ),
    "a deviation of 0": ({"latents_std": [1, 0, 1, 1]}, "latents_std is 0, expected 1e-06 to"),
    "not a picture": ({"sample_size": "512"}, "sample_size must be"),
}
REFUSED_TEXTS = {
    "unknown key": ({"rope_theta": 1e4}, "unknown keys 'rope_theta'"),
    "another model": ({"model_type": "t5"}, "model_type is 't5'"),
    "activation": ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
    "heads": ({"num_attention_heads": 7}, "512 is no multiple of num_attention_heads 7"),
    "huge vocabulary": ({"vocab_size": HUGE}, "vocab_size"),
    "huge layers": ({"num_hidden_layers": HUGE}, "num_hidden_layers"),
    "huge width": ({"hidden_size": HUGE}, "hidden_size"),
    "huge positions": ({"max_position_embeddings": HUGE}, "max_position_embeddings"),
    "many ends": ({"eos_token_id": [2, 49407]}, "eos_token_id must be a whole number"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "masked padding": ({"use_attention_mask": True}, "use_attention_mask"),
}
REFUSED = [
    pytest.param(cls, *entry, id=f"{cls.__name__}: {name}")
    for cls, table in (
        (UNet2DConditionConfig, REFUSED_UNETS),
        (AutoencoderKLConfig, REFUSED_VAES),
        (CLIPTextConfig, REFUSED_TEXTS),
    )
    for name, entry in table.items()
]


@pytest.mark.parametrize(("cls", "config", "message"), REFUSED)
def test_refused(cls, config, message):
    with quickly(), pytest.raises(ConfigError) as error:
        cls.from_dict(config, "unet/config.json")
    assert str(error.value).startswith("unet/config.json")
    assert message in str(error.value)


@pytest.mark.parametrize("cls", [UNet2DConditionConfig, AutoencoderKLConfig, CLIPTextConfig])
@pytest.mark.parametrize("data", [None, [], "config", 3])
def test_not_an_object(cls, data):
    with pytest.raises(ConfigError, match="expected a JSON object"):
        cls.from_dict(data)


def test_no_projection():
    with pytest.raises(ConfigError, match="projection_dim is null"):
        CLIPTextModelWithProjection.from_config({"projection_dim": None})


def test_the_largest_that_is_accepted_is_built_quickly():
    largest = {
        "block_out_channels": [8192] * 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", CROSS_DOWN],
        "up_block_types": ["UpBlock2D"] * 4,
        "layers_per_block": 7,
        "transformer_layers_per_block": 64,
    }
    with quickly(2.0):
        UNet2DConditionModel.from_config(largest)
    with quickly():
        CLIPTextModel.from_config({"num_hidden_layers": 128, "hidden_size": 16384})
    with quickly():
        AutoencoderKL.from_config({**VAE, "layers_per_block": 31})


def test_configs_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        UNet2DConditionConfig().in_channels = 5
