"""U-Nets of DeepFloyd IF, unCLIP and Kandinsky against diffusers' on the same weights."""

import json

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import ConfigError, RequestError
from pyengine.models import UNet2DConditionModel

SIMPLE_DOWN, SIMPLE_UP = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"
COMMON = {
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", SIMPLE_DOWN),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": (SIMPLE_UP, "ResnetUpsampleBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 32,
    "attention_head_dim": 16,
    "resnet_time_scale_shift": "scale_shift",
}
IF = {
    **COMMON,
    "act_fn": "gelu",
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 24,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}
IF_SUPER_RESOLUTION = {
    **IF,
    "in_channels": 6,
    "class_embed_type": "timestep",
    "only_cross_attention": True,
    "resnet_skip_time_act": True,
    "time_embedding_act_fn": "gelu",
    "resnet_out_scale_factor": 1 / 0.7071,
    "mid_block_scale_factor": 1 / 0.7071,
    "time_embedding_dim": 48,
    "layers_per_block": (1, 2),
}
UNCLIP = {**COMMON, "class_embed_type": "identity"}
KANDINSKY = {
    **COMMON,
    "in_channels": 4,
    "out_channels": 8,
    "encoder_hid_dim": 20,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
}
MODELS = {
    "if": IF,
    "if super-resolution": IF_SUPER_RESOLUTION,
    "unclip": UNCLIP,
    "unclip super-resolution": {
        **COMMON,
        "mid_block_type": "UNetMidBlock2D",
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
    },
    "kandinsky 2.2": KANDINSKY,
    "kandinsky 2.1": {
        **COMMON,
        "encoder_hid_dim": 20,
        "encoder_hid_dim_type": "text_image_proj",
        "addition_embed_type": "text_image",
    },
    "heads by level": {
        **COMMON,
        "down_block_types": (SIMPLE_DOWN, SIMPLE_DOWN),
        "up_block_types": (SIMPLE_UP, SIMPLE_UP),
        "attention_head_dim": (8, 16),
        "only_cross_attention": (True, False),
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": 10,
    },
    "gelu and transformers": {
        **COMMON,
        "act_fn": "gelu",
        "down_block_types": ("CrossAttnDownBlock2D", SIMPLE_DOWN),
        "up_block_types": (SIMPLE_UP, "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 10,
        "time_embedding_act_fn": "silu",
        "resnet_time_scale_shift": "default",
    },
}


def inputs(config, n: int, length: int = 7, size=(8, 12)) -> dict[str, object]:
    """The oracle's arguments."""
    given = {
        "sample": noise(n, config.in_channels, *size),
        "timestep": torch.linspace(980, 3, n).round(),
    }
    if config.class_embed_type is not None:
        widths = {
            "identity": config.time_embedding_dim or 4 * config.block_out_channels[0],
            "timestep": None,
        }
        width = widths.get(config.class_embed_type, config.projection_class_embeddings_input_dim)
        labels = torch.linspace(250, 20, n).round() if width is None else noise(n, width, seed=3)
        given["class_labels"] = labels
    kind = config.encoder_hid_dim_type
    if kind == "image_proj":
        given["encoder_hidden_states"] = None
        given["added_cond_kwargs"] = {"image_embeds": noise(n, config.encoder_hid_dim, seed=4)}
        return given
    width = config.encoder_hid_dim or config.cross_attention_dim
    given["encoder_hidden_states"] = noise(n, length, width, seed=1)
    if kind == "text_image_proj":
        names = ("image_embeds", "text_embeds")
        given["added_cond_kwargs"] = {
            name: noise(n, config.cross_attention_dim, seed=5 + i) for i, name in enumerate(names)
        }
    return given


def rows(given, i: int) -> dict[str, object]:
    """The same of one row."""
    if isinstance(given, dict):
        return {name: rows(value, i) for name, value in given.items()}
    return None if given is None else given[i : i + 1]


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    theirs = tiny.make_unet(**MODELS[request.param])
    return load_pair(theirs, UNet2DConditionModel, tmp_path_factory.mktemp("unet"))


@pytest.mark.parametrize(("n", "size"), [(1, (8, 8)), (3, (8, 12)), (2, (6, 10))])
@torch.no_grad()
def test_outputs(pair, n, size):
    theirs, ours = pair
    given = inputs(theirs.config, n, size=size)
    want = theirs(**given).sample
    got = ours(**given).sample
    assert relative_l2(got, want) < LIMIT
    assert torch.equal(ours(**rows(given, n - 1)).sample, got[-1:])


@torch.no_grad()
def test_against_float64(pair):
    theirs, ours = pair
    given = inputs(theirs.config, 2)

    def doubled(value):
        if isinstance(value, dict):
            return {name: doubled(v) for name, v in value.items()}
        return None if value is None else value.double()

    want = theirs.double()(**doubled(given)).sample.float()
    theirs.float()
    assert relative_l2(ours(**given).sample, want) < LIMIT


@torch.no_grad()
def test_odd_sizes(pair):
    """Ours halves and doubles as the skips are; diffusers' pipelines round sizes up instead."""
    _, ours = pair
    given = inputs(ours.config, 1, size=(9, 13))
    out = ours(**given).sample
    assert out.shape[2:] == (9, 13)
    assert out.isfinite().all()


@torch.no_grad()
def test_conditions_computed_before(pair):
    """What the denoising step does: context and table once, the same bits in every step."""
    _, ours = pair
    given = inputs(ours.config, 2)
    given["timestep"] = 500
    want = ours(**given).sample
    added = given.get("added_cond_kwargs") or {}
    text = given["encoder_hidden_states"]
    image = added.get("image_embeds")
    context = ours.encode_context(image if text is None else text, image_embeds=image)
    if ours.config.addition_embed_type == "text":
        added = {"encoder_hidden_states": text}
    table = ours.embed_timesteps(
        [500, 20], class_labels=given.get("class_labels"), added_cond_kwargs=added or None
    )
    assert torch.equal(ours(given["sample"], table[0], context).sample, want)
    assert not torch.equal(ours(given["sample"], table[1], context).sample, want)


@torch.no_grad()
def test_the_same_bits_on_any_number_of_threads(pair, use_threads):
    _, ours = pair
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(ours(**inputs(ours.config, 2, size=(16, 24))).sample)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", ["unclip", "if"])
@torch.no_grad()
def test_attention_mask(name, tmp_path):
    theirs, ours = load_pair(tiny.make_unet(**MODELS[name]), UNet2DConditionModel, tmp_path)
    given = inputs(theirs.config, 3)
    mask = torch.arange(7) < torch.tensor([7, 3, 1])[:, None]
    want = theirs(**given, attention_mask=mask.float()).sample
    got = ours(**given, attention_mask=mask).sample
    assert relative_l2(got, want) < LIMIT
    assert relative_l2(got, ours(**given).sample) > 1e-3
    changed = {**given, "encoder_hidden_states": given["encoder_hidden_states"].clone()}
    changed["encoder_hidden_states"][1, 3:] += 1
    same = ours(**changed, attention_mask=mask).sample[1]
    assert torch.equal(same, got[1]) == (name != "if")  # whose norms read all tokens


@pytest.mark.parametrize("name", ["if super-resolution", "kandinsky 2.2", "unclip"])
def test_every_parameter_matters(name, tmp_path):
    _, ours = load_pair(tiny.make_unet(**MODELS[name]), UNet2DConditionModel, tmp_path)
    given = inputs(ours.config, 1, size=(4, 4))
    assert idle_parameters(ours, lambda: (ours(**given).sample,)) == []


@pytest.mark.parametrize("name", ["if", "kandinsky 2.2"])
@torch.no_grad()
def test_half_precision(name, tmp_path):
    dtype = torch.bfloat16
    theirs = tiny.make_unet(**MODELS[name])
    theirs, ours = load_pair(theirs, UNet2DConditionModel, tmp_path, dtype=dtype)
    given = inputs(theirs.config, 2)

    def halved(value):
        if isinstance(value, dict):
            return {name: halved(v) for name, v in value.items()}
        return None if value is None else value.to(dtype)

    want = theirs(**given).sample
    halves = theirs.to(dtype)(**{**halved(given), "timestep": given["timestep"]}).sample.float()
    got = ours(**given).sample
    assert got.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halves, want)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("if", {"encoder_hidden_states": None}, "encoder_hidden_states: this model needs them"),
        ("if", {"encoder_hidden_states": torch.zeros(1, 7, 32)}, r"expected \[N, L, 24\]"),
        ("unclip", {"class_labels": None}, "class_labels: this model needs them, got None"),
        ("unclip", {"class_labels": torch.zeros(1, 5)}, r"class_labels: expected \[N, 128\]"),
        ("unclip", {"attention_mask": torch.ones(1, 6)}, r"attention_mask: expected shape \[1, 7"),
        ("kandinsky 2.2", {"added_cond_kwargs": None}, "this model needs"),
        (
            "kandinsky 2.2",
            {"added_cond_kwargs": {"image_embeds": torch.zeros(1, 21)}},
            r"expected \[N, L, 20\], got \[1, 1, 21\]",
        ),
        (
            "kandinsky 2.1",
            {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 32)}},
            r"image_embeds: expected \[1, 32\], got None",
        ),
        ("gelu and transformers", {"attention_mask": torch.ones(1, 7)}, "expected None for this"),
    ],
)
def test_wrong_conditions(name, change, message, tmp_path):
    _, ours = load_pair(tiny.make_unet(**MODELS[name]), UNet2DConditionModel, tmp_path)
    with pytest.raises(RequestError, match=message):
        ours(**{**inputs(ours.config, 1), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_head_dim": 24}, r"block_out_channels\[1\] 64 is no multiple of 24, the width"),
        ({"cross_attention_dim": 40}, "cross_attention_dim 40 is no multiple of the 32 groups"),
        ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm"),
        (
            {
                "down_block_types": ["CrossAttnDownBlock2D", SIMPLE_DOWN],
                "only_cross_attention": True,
            },
            "only_cross_attention of level 0 is True, expected False beside transformers",
        ),
        ({"mid_block_type": "UNetMidBlock2D", "mid_block_only_cross_attention": True}, "beside UN"),
        ({"mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 2}, "expected 1 beside"),
        (
            {"down_block_types": ["DownBlock2D", SIMPLE_DOWN], "resnet_skip_time_act": True},
            "resnet_skip_time_act is True, expected False beside DownBlock2D",
        ),
        ({"encoder_hid_dim": None}, 'encoder_hid_dim_type "text_proj" needs encoder_hid_dim'),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "encoder_hid_dim_type"),
        ({"addition_embed_type": "image_hint"}, "addition_embed_type"),
        ({"addition_embed_type_num_heads": 5}, "num_heads 5 does not divide the text's width 24"),
        ({"class_embed_type": "simple_projection"}, "needs projection_class_embeddings_input_dim"),
        ({"resnet_out_scale_factor": 0}, "resnet_out_scale_factor is 0"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift is 'spatial'"),
        ({"addition_embed_type_num_heads": 1 << 40}, "addition_embed_type_num_heads is"),
    ],
)
def test_refused_configs(change, message, tmp_path):
    tiny.make_unet(**IF).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        UNet2DConditionModel.from_pretrained(tmp_path)
