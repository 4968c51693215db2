"""Configs of token models: which are accepted, as what, and which are refused, and how fast."""

import contextlib
import dataclasses
import json
import time

import diffusers
import pytest
import tiny
import torch
import transformers

from pyengine.errors import ConfigError
from pyengine.models import (
    ImageGPT,
    ImageGPTConfig,
    Janus,
    JanusConfig,
    LlamaConfig,
    UVit2DConfig,
    UVit2DModel,
    VQConfig,
    VQModel,
)
from pyengine.models.autoencoder.janus_vq import JanusVQConfig
from pyengine.models.tokens.janus import JanusVisionConfig
from pyengine.schedules.masked import MaskedConfig

# --- what is accepted -----------------------------------------------------------------------------

VQ_F16 = {
    "block_out_channels": [128, 256, 256, 512, 768],
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "layers_per_block": 2,
    "latent_channels": 64,
    "num_vq_embeddings": 8192,
    "lookup_from_codebook": True,
    "mid_block_add_attention": False,
    "force_upcast": True,
}
JANUS_1B = {
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "max_position_embeddings": 16384,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "vocab_size": 102400,
        "model_type": "llama",
    },
}


def build_janus():
    text = transformers.LlamaConfig(**JANUS_1B["text_config"])
    return transformers.JanusForConditionalGeneration(transformers.JanusConfig(text_config=text))


LARGE = {
    "amused 512": (
        UVit2DModel,
        {"downsample": True, "upsample": True},
        lambda: diffusers.UVit2DModel(downsample=True, upsample=True),
    ),
    "vq f16": (VQModel, VQ_F16, lambda: diffusers.VQModel.from_config(VQ_F16)),
    "imagegpt": (
        ImageGPT,
        {"n_embd": 1024, "n_layer": 36},
        lambda: transformers.ImageGPTForCausalImageModeling(
            transformers.ImageGPTConfig(n_embd=1024, n_layer=36)
        ),
    ),
    "janus 1b": (Janus, JANUS_1B, build_janus),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_models_are_built_with_the_same_tensors(name):
    cls, config, build = LARGE[name]
    with quickly(2.0):
        ours = cls.from_config(config)
    with torch.device("meta"):
        theirs = build()
    unused = ("model.vision_model.", "model.aligner.", "lm_head." if cls is Janus else "-")
    want = {k: v.shape for k, v in theirs.state_dict().items() if not k.startswith(unused)}
    assert {k: v.shape for k, v in ours.state_dict().items()} == want


def test_what_todays_libraries_save_is_accepted(tmp_path):
    for model, cls in (
        (tiny.make_vq(), VQConfig),
        (tiny.make_uvit(), UVit2DConfig),
        (tiny.make_image_gpt(), ImageGPTConfig),
        (tiny.make_janus(), JanusConfig),
    ):
        model.save_pretrained(tmp_path)
        cls.from_dict(json.loads((tmp_path / "config.json").read_text()))


def test_every_option_of_diffusers_is_known():
    for model, cls in ((tiny.make_vq(), VQConfig), (tiny.make_uvit(), UVit2DConfig)):
        known = {f.name for f in dataclasses.fields(cls)} | cls.IGNORED_KEYS
        assert known == {k for k in model.config if not k.startswith("_")}


def test_defaults_are_those_of_the_libraries():
    with torch.device("meta"):
        pairs = [
            (VQConfig(), dict(diffusers.VQModel().config)),
            (UVit2DConfig(), dict(diffusers.UVit2DModel().config)),
        ]
    pairs += [
        (ImageGPTConfig(), transformers.ImageGPTConfig().to_dict()),
        (JanusVQConfig(), transformers.JanusVQVAEConfig().to_dict()),
        (LlamaConfig(), transformers.LlamaConfig().to_dict()),
    ]
    computed = {"num_key_value_heads", "head_dim", "rope_parameters", "rope_theta", "rope_scaling"}
    for ours, theirs in pairs:
        for key, value in dataclasses.asdict(ours).items():
            if key not in computed:
                assert value == (tuple(theirs[key]) if isinstance(value, tuple) else theirs[key])
    assert LlamaConfig().theta == transformers.LlamaConfig().rope_parameters["rope_theta"]
    vision = transformers.JanusVisionConfig().to_dict()
    assert all(vision[k] == v for k, v in dataclasses.asdict(JanusVisionConfig()).items())


def test_what_transformers_4_saved_is_accepted():
    old = {"rope_theta": 5e5, "rope_scaling": None, "pretraining_tp": 1, "torch_dtype": "float16"}
    assert LlamaConfig.from_dict(old).theta == 5e5
    config = JanusConfig.from_dict({**JANUS_1B, "vq_config": {"depth": 2, "num_patches": 32}})
    assert (config.side, config.vq_config.downscale) == (24, 16)


# --- what is refused ------------------------------------------------------------------------------

HUGE = 10**9
REFUSED_VQS = {
    "unknown key": ({"wand": 1}, "unknown keys 'wand'"),
    "class": ({"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL', expected VQModel"),
    "no codes": ({"num_vq_embeddings": 0}, "num_vq_embeddings is 0"),
    "huge codebook": ({"num_vq_embeddings": HUGE}, "num_vq_embeddings is 1000000000"),
    "text": ({"num_vq_embeddings": "256"}, "num_vq_embeddings must be a whole number"),
    "huge codes": ({"vq_embed_dim": HUGE}, "vq_embed_dim"),
    "huge widths": ({"block_out_channels": [HUGE]}, "block_out_channels is 1000000000"),
    "huge layers": ({"layers_per_block": HUGE}, "layers_per_block is 1000000000"),
    "levels": ({"block_out_channels": [64, 64]}, "up_block_types has 1 items, expected 2"),
    "no levels": (
        {"block_out_channels": [], "down_block_types": [], "up_block_types": []},
        "block_out_channels is empty",
    ),
    "deep": (
        {
            "block_out_channels": [64] * 16,
            "down_block_types": ["DownEncoderBlock2D"] * 16,
            "up_block_types": ["UpDecoderBlock2D"] * 16,
            "layers_per_block": 32,
        },
        "1044 residual blocks in all, at most 256",
    ),
    "groups": ({"norm_num_groups": 33}, "64 is no multiple of norm_num_groups 33"),
    "block": ({"down_block_types": ["AttnDownBlock2D"]}, "down_block_types is 'AttnDownBlock2D'"),
    "norm": ({"norm_type": "layer"}, "norm_type is 'layer', expected 'group' or 'spatial'"),
    "activation": ({"act_fn": "relu"}, "act_fn is 'relu'"),
}
REFUSED_UVITS = {
    "unknown key": ({"wand": 1}, "unknown keys 'wand'"),
    "class": ({"_class_name": "Transformer2DModel"}, "expected UVit2DModel"),
    "heads": ({"num_attention_heads": 7}, "hidden_size 1024 is no multiple of num_attention_head"),
    "block heads": ({"block_num_heads": 7}, "block_out_channels 768 is no multiple of block_num"),
    "no mask": ({"vocab_size": 8192}, "leaves no token for the mask beside codebook_size 8192"),
    "sizes": ({"micro_cond_embed_dim": 1000}, "expected 5 times micro_cond_encode_dim 256"),
    "one way": ({"downsample": True}, "downsample is True, but upsample is False"),
    "huge width": ({"hidden_size": HUGE}, "hidden_size is 1000000000"),
    "huge layers": ({"num_hidden_layers": HUGE}, "num_hidden_layers is 1000000000"),
    "huge blocks": ({"num_res_blocks": HUGE}, "num_res_blocks is 1000000000"),
    "huge codebook": ({"codebook_size": HUGE}, "codebook_size is 1000000000"),
    "bool": ({"use_bias": 1}, "use_bias must be true or false"),
    "nan": ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
}
REFUSED_GPTS = {
    "unknown key": ({"wand": 1}, "unknown keys 'wand'"),
    "another": ({"model_type": "gpt2"}, "model_type is 'gpt2', expected 'imagegpt'"),
    "heads": ({"n_head": 7}, "n_embd 512 is no multiple of n_head 7"),
    "huge": ({"vocab_size": HUGE}, "vocab_size is 1000000000"),
    "no clusters": ({"vocab_size": 1}, "vocab_size is 1, expected 2"),
    "positions": ({"n_positions": HUGE}, "n_positions is 1000000000"),
    "end": ({"eos_token_id": 512}, "eos_token_id 512 is no cluster: expected 0 to 511"),
    "ends": ({"eos_token_id": [1, 2]}, "eos_token_id must be"),
    "tied": ({"tie_word_embeddings": True}, "tie_word_embeddings is True, expected False"),
    "cross": ({"add_cross_attention": True}, "add_cross_attention is True, expected False"),
    "activation": ({"activation_function": "gelu_new"}, "activation_function is 'gelu_new'"),
}
REFUSED_JANUS = {
    "unknown key": ({"wand": 1}, "unknown keys 'wand'"),
    "nested": ({"text_config": {"wand": 1}}, "text_config: unknown keys 'wand'"),
    "another": ({"text_config": {"model_type": "gemma"}}, "model_type is 'gemma', expected 'llama"),
    "list": ({"vq_config": []}, "vq_config: expected a JSON object"),
    "scaling": ({"text_config": {"rope_scaling": {"type": "linear"}}}, "rope_scaling must be null"),
    "rope": (
        {"text_config": {"rope_parameters": {"rope_type": "llama3"}}},
        "rope_parameters: rope_type is 'llama3', expected 'default'",
    ),
    "activation": (
        {"text_config": {"hidden_act": "gelu"}},
        "hidden_act is 'gelu', expected 'silu'",
    ),
    "huge": ({"text_config": {"num_hidden_layers": HUGE}}, "num_hidden_layers is 1000000000"),
    "levels": ({"vq_config": {"channel_multiplier": []}}, "channel_multiplier is empty"),
    "wide": ({"vq_config": {"channel_multiplier": [64] * 9, "base_channels": 256}}, "up to 8192"),
    "side": ({"vision_config": {"image_size": 100}}, "num_image_tokens 576, but image_size 100"),
    "widths": ({}, "projection_dim 2048, but text_config's hidden_size is 4096"),
}
REFUSED_SCHEDULES = {
    "no mask": ({}, "mask_token_id is missing"),
    "negative": ({"mask_token_id": -1}, "mask_token_id is -1, expected 0 to"),
    "schedule": ({"mask_token_id": 1, "masking_schedule": "sigmoid"}, "masking_schedule is 'sigmo"),
    "class": ({"mask_token_id": 1, "_class_name": "DDIMScheduler"}, "expected AmusedScheduler"),
}
REFUSED = [
    pytest.param(cls, *entry, id=f"{cls.__name__}: {name}")
    for cls, table in (
        (VQConfig, REFUSED_VQS),
        (UVit2DConfig, REFUSED_UVITS),
        (ImageGPTConfig, REFUSED_GPTS),
        (JanusConfig, REFUSED_JANUS),
        (MaskedConfig, REFUSED_SCHEDULES),
    )
    for name, entry in table.items()
]


@contextlib.contextmanager
def quickly(seconds: float):
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


@pytest.mark.parametrize(("cls", "config", "message"), REFUSED)
def test_refused(cls, config, message):
    with quickly(1.0), pytest.raises(ConfigError) as error:
        cls.from_dict(config, "x/config.json")
    assert str(error.value).startswith("x/config.json")
    assert message in str(error.value)


@pytest.mark.parametrize("cls", [VQConfig, UVit2DConfig, ImageGPTConfig, JanusConfig, MaskedConfig])
@pytest.mark.parametrize("data", [None, [], "config", 3])
def test_not_an_object(cls, data):
    with pytest.raises(ConfigError, match="expected a JSON object"):
        cls.from_dict(data)


def test_the_largest_that_is_accepted_is_built_quickly():
    with quickly(2.0):
        UVit2DModel.from_config({"num_hidden_layers": 256, "num_res_blocks": 64})
    with quickly(2.0):
        ImageGPT.from_config({"n_layer": 256, "n_embd": 16384})
