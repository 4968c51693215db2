"""UNet2DConditionModel against diffusers' on the same weights."""

import gc

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import RequestError
from pyengine.models import UNet2DConditionModel
from pyengine.models.blocks import transformer
from pyengine.models.unet import blocks as unet_blocks

FAMILIES = {"sd1": {}, "sd2": tiny.SD2_UNET, "sdxl": tiny.SDXL_UNET}

# Arrangements that other checkpoints have, or that only our shipped model and its kin have.
SMALL = {"block_out_channels": (16, 32), "layers_per_block": 1}
VARIANTS = {
    "inpainting": {"in_channels": 9},
    "lcm": {"time_cond_proj_dim": 12},
    "upscaler": {"num_class_embeds": 30},
    "unclip": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 10},
    "class_times": {"class_embed_type": "timestep"},
    "mid_without_attention": {"mid_block_type": "UNetMidBlock2D"},
    "no_mid": {"mid_block_type": None},
    "no_attention_at_all": {
        "mid_block_type": "UNetMidBlock2D",
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
    },
    "one_level": {
        "block_out_channels": (24,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
    "up_differs_from_down": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "narrowing": {"block_out_channels": (48, 24, 40), "attention_head_dim": (3, 4, 5)}
    | {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    },
    "four_levels": {
        "block_out_channels": (8, 16, 24, 32),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    },
    "layers_per_level": {"layers_per_block": (1, 3), "cross_attention_dim": (32, 32)},
    "depth_per_layer": {
        "layers_per_block": 2,
        "use_linear_projection": True,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "transformer_layers_per_block": [[0, 2], [1, 3]],
        "reverse_transformer_layers_per_block": [[2, 0, 1], [1, 2, 0]],
    },
    "kernels": {"conv_in_kernel": 1, "conv_out_kernel": 5, "out_channels": 7},
    "padding_0": {"downsample_padding": 0},
    "odd_waves": {"block_out_channels": (15, 30), "norm_num_groups": 5, "attention_head_dim": 3}
    | {"flip_sin_to_cos": False, "freq_shift": 1, "time_embedding_dim": 20},
    "centred": {"center_input_sample": True, "norm_eps": 1e-3, "act_fn": "swish"},
    "sdxl_refiner": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 40 + 5 * 8,
    },
}


def conditions(config, n: int, seed: int = 9) -> dict:
    """The further inputs of a model with this (diffusers or our) config, for n pictures."""
    given = {}
    if config.addition_embed_type == "text_time":
        sizes = (
            config.projection_class_embeddings_input_dim - 40
        ) // config.addition_time_embed_dim
        time_ids = noise(n, sizes, seed=seed).abs().mul(500).round()
        text = noise(n, 40, seed=seed + 1)
        given["added_cond_kwargs"] = {"text_embeds": text, "time_ids": time_ids}
    if config.time_cond_proj_dim:
        given["timestep_cond"] = noise(n, config.time_cond_proj_dim, seed=seed + 2)
    if config.num_class_embeds or config.class_embed_type == "timestep":
        given["class_labels"] = torch.arange(n) * 7 % 30
    elif config.class_embed_type == "projection":
        width = config.projection_class_embeddings_input_dim
        given["class_labels"] = noise(n, width, seed=seed + 3)
    return given


def context_dim(config) -> int:
    dim = config.cross_attention_dim
    return dim if isinstance(dim, int) else dim[0]


@torch.no_grad()
def compare(theirs, ours, n, height, width, length, timestep=None) -> float:
    x = noise(n, theirs.config.in_channels, height, width)
    text = noise(n, length, context_dim(theirs.config), seed=1)
    t = torch.linspace(999, 3, n) if timestep is None else timestep
    given = conditions(theirs.config, n)
    want = theirs(x, t, text, **given).sample
    return relative_l2(ours(x, t, text, **given).sample, want)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return load_pair(tiny.make_unet(**FAMILIES[request.param]), UNet2DConditionModel, folder)


@pytest.mark.parametrize(
    ("n", "height", "width", "length"),
    [
        (1, 8, 8, 77),
        (2, 7, 9, 77),
        (3, 5, 13, 1),
        (4, 17, 11, 13),
        (5, 6, 10, 154),
        (2, 1, 1, 77),
        (1, 3, 2, 5),
        (2, 32, 24, 77),
    ],
)
def test_odd_sizes_lengths_and_batches(family, n, height, width, length):
    assert compare(*family, n, height, width, length) < LIMIT


@pytest.mark.parametrize("timestep", [0, 999, 17.5, torch.tensor(500), torch.tensor([3, 981])])
def test_timesteps_of_every_kind(family, timestep):
    assert compare(*family, 2, 6, 8, 7, timestep) < LIMIT


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_variants(name, size, tmp_path):
    theirs = tiny.make_unet(**{**SMALL, **VARIANTS[name]})
    assert compare(*load_pair(theirs, UNet2DConditionModel, tmp_path), 2, *size, 5) < LIMIT


@pytest.mark.parametrize("name", ["inpainting", "lcm", "upscaler", "unclip", "sdxl_refiner"])
def test_every_parameter_matters(name, tmp_path):
    theirs = tiny.make_unet(**{**SMALL, **VARIANTS[name]})
    _, ours = load_pair(theirs, UNet2DConditionModel, tmp_path)
    x, text = noise(1, ours.config.in_channels, 5, 4), noise(1, 3, 32, seed=1)
    given = conditions(ours.config, 1)
    assert idle_parameters(ours, lambda: ours(x, 33, text, return_dict=False, **given)) == []


@pytest.mark.parametrize("n", [1, 3])
def test_the_prompt_is_encoded_once(family, n):
    _, ours = family
    x, text = noise(n, 4, 7, 5), noise(n, 11, context_dim(ours.config), seed=1)
    given = conditions(ours.config, n)
    context = ours.encode_context(text)
    for t in (999, 1):
        assert torch.equal(ours(x, t, context, **given).sample, ours(x, t, text, **given).sample)


@pytest.mark.parametrize("variant", ["lcm", "upscaler", "unclip", "class_times", "sdxl_refiner"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_schedule_is_embedded_at_once(variant, n, tmp_path):
    theirs = tiny.make_unet(**{**SMALL, **VARIANTS[variant]})
    _, ours = load_pair(theirs, UNet2DConditionModel, tmp_path)
    x, text = noise(n, 4, 6, 6), noise(n, 4, 32, seed=1)
    given = conditions(ours.config, n)
    times = [999, 640.5, 0]
    table = ours.embed_timesteps(times, **given)
    for i, t in enumerate(times):
        want = ours(x, t, text, **given).sample
        assert relative_l2(ours(x, table[i], text).sample, want) < 1e-6


def test_a_schedule_without_conditions_serves_any_batch(tmp_path):
    _, ours = load_pair(tiny.make_unet(**SMALL), UNet2DConditionModel, tmp_path)
    table = ours.embed_timesteps(torch.tensor([981, 1]))
    for n in (1, 4):
        x, text = noise(n, 4, 6, 6), noise(n, 4, 32, seed=1)
        assert relative_l2(ours(x, table[1], text).sample, ours(x, 1, text).sample) < 1e-6


def test_same_bits_again(family):
    _, ours = family
    x, text = noise(2, 4, 9, 7), noise(2, 5, context_dim(ours.config), seed=1)
    given = conditions(ours.config, 2)
    assert torch.equal(ours(x, 5, text, **given).sample, ours(x, 5, text, **given).sample)


def test_unpacked_weights_give_the_same(tmp_path):
    theirs, ours = load_pair(tiny.make_unet(**SMALL), UNet2DConditionModel, tmp_path)
    unpacked = UNet2DConditionModel.from_config(dict(theirs.config)).to_empty(device="cpu")
    unpacked.load_state_dict(theirs.state_dict())
    x, text = noise(2, 4, 7, 6), noise(2, 5, 32, seed=1)
    assert torch.equal(unpacked(x, 7, text).sample, ours(x, 7, text).sample)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(tiny.make_unet(), UNet2DConditionModel, tmp_path, dtype=dtype)
    assert ours.dtype == dtype
    x, text = noise(2, 4, 8, 6), noise(2, 5, 32, seed=1)
    with torch.no_grad():
        want = theirs(x, 40, text).sample
        halved = theirs.to(dtype)(x.to(dtype), 40, text.to(dtype)).sample.float()
    got = ours(x.to(dtype), 40, text.to(dtype)).sample
    assert got.dtype == dtype
    # Not further from float32 than diffusers is, but for a little luck either way.
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


def test_half_precision_files_are_widened(tmp_path):
    theirs = tiny.make_unet().half()
    theirs.save_pretrained(tmp_path, variant="fp16")
    ours = UNet2DConditionModel.from_pretrained(tmp_path, variant="fp16")
    assert ours.dtype == torch.float32
    assert compare(theirs.float(), ours, 1, 6, 6, 9) < LIMIT


def test_sharded_files(tmp_path):
    theirs = tiny.make_unet()
    theirs.save_pretrained(tmp_path / "unet", max_shard_size="300KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 2
    ours = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert compare(theirs, ours, 1, 6, 6, 9) < LIMIT


def test_blocks_of_a_subclass_are_numbered_too(tmp_path, monkeypatch):
    """Each takes its own time projection and its own keys and values."""

    class Residual(unet_blocks.ResnetBlock2D):
        pass

    class Attention(transformer.CrossAttention):
        pass

    unet = tiny.make_unet(**SMALL)
    unet.save_pretrained(tmp_path)
    inputs = noise(1, 4, 8, 8), 500, noise(1, 7, context_dim(unet.config))
    want = UNet2DConditionModel.from_pretrained(tmp_path)(*inputs).sample
    monkeypatch.setattr(unet_blocks, "ResnetBlock2D", Residual)
    monkeypatch.setattr(transformer, "CrossAttention", Attention)
    own = UNet2DConditionModel.from_pretrained(tmp_path)
    assert {type(m) for m in own._resnets + own._crosses} == {Residual, Attention}
    assert torch.equal(own(*inputs).sample, want)


def test_nothing_asks_for_gradients(family):
    _, ours = family
    x, text = noise(1, 4, 4, 4).requires_grad_(), noise(1, 4, context_dim(ours.config))
    out = ours(x, 1, text, **conditions(ours.config, 1)).sample
    assert not out.requires_grad
    assert not any(p.requires_grad for p in ours.parameters())
    assert not ours.training


def wrong_calls(config) -> dict:
    x, text = noise(2, 4, 4, 4), noise(2, 3, context_dim(config))
    given = conditions(config, 2)
    return {
        "sample: expected": ((noise(2, 5, 4, 4), 1, text), given),
        "sample: expected [N, 4, H, W], got [4, 4, 4]": ((x[0], 1, text), given),
        "encoder_hidden_states: expected 2 rows": ((x, 1, text[:1]), given),
        "encoder_hidden_states: expected [N, L, ": ((x, 1, text[..., :-1]), given),
        "timestep: expected 1 or 2 rows": ((x, torch.tensor([1, 2, 3]), text), {}),
        "timestep: expected a number or [N]": ((x, torch.zeros(2, 2), text), given),
        "no time_cond_proj_dim": ((x, 1, text), {**given, "timestep_cond": noise(2, 4)}),
    }


@pytest.mark.parametrize("message", wrong_calls(tiny.make_unet().config))
def test_wrong_arguments(message, tmp_path):
    _, ours = load_pair(tiny.make_unet(**SMALL), UNet2DConditionModel, tmp_path)
    args, kwargs = wrong_calls(ours.config)[message]
    with pytest.raises(RequestError) as error:
        ours(*args, **kwargs)
    assert message in str(error.value)


def test_missing_conditions(tmp_path):
    folder = tmp_path / "xl"
    _, xl = load_pair(tiny.make_unet(**tiny.SDXL_UNET), UNet2DConditionModel, folder)
    x, text = noise(1, 4, 4, 4), noise(1, 3, 72)
    added = conditions(xl.config, 1)["added_cond_kwargs"]
    with pytest.raises(RequestError, match="needs text_embeds and time_ids"):
        xl(x, 1, text)
    with pytest.raises(RequestError, match="needs time_ids"):
        xl(x, 1, text, {"text_embeds": added["text_embeds"]})
    with pytest.raises(RequestError, match="projection_class_embeddings_input_dim 88"):
        xl(x, 1, text, {**added, "time_ids": added["time_ids"][:, :5]})
    table = xl.embed_timesteps([1], added_cond_kwargs=added)
    with pytest.raises(RequestError, match="to be given to embed_timesteps"):
        xl(x, table[0], text, added)
    _, upscaler = load_pair(
        tiny.make_unet(**SMALL, num_class_embeds=3), UNet2DConditionModel, tmp_path / "up"
    )
    with pytest.raises(RequestError, match="class_labels"):
        upscaler(x, 1, noise(1, 3, 32))


def test_smallest_picture_without_padding(tmp_path):
    theirs = tiny.make_unet(**SMALL, downsample_padding=0)
    theirs, ours = load_pair(theirs, UNet2DConditionModel, tmp_path)
    assert compare(theirs, ours, 1, 2, 3, 5) < LIMIT
    with pytest.raises(RequestError, match="expected at least 2x2"):
        ours(noise(1, 4, 1, 8), 1, noise(1, 5, 32))


def test_without_attention_no_text_is_needed(tmp_path):
    theirs = tiny.make_unet(**{**SMALL, **VARIANTS["no_attention_at_all"]})
    _, ours = load_pair(theirs, UNet2DConditionModel, tmp_path)
    x = noise(1, 4, 4, 4)
    assert torch.equal(ours(x, 1, None).sample, ours(x, 1, noise(1, 2, 32)).sample)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_sd15_at_256_pixels():
    """860M parameters, 3.4 GB: both models hold the same tensors; no file between them."""
    from diffusers import UNet2DConditionModel as Theirs

    config = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
    with torch.device("meta"):
        theirs = Theirs(**config)
    tiny.randomise(theirs.to_empty(device="cpu"), 1)
    assert sum(p.numel() for p in theirs.parameters()) == 859_520_964
    x, text = noise(2, 4, 32, 32), noise(2, 77, 768, seed=1)
    times = torch.tensor([500, 3])
    want = theirs(x, times, text).sample
    ours = UNet2DConditionModel.from_config(config)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    del theirs
    gc.collect()
    ours.pack()
    assert relative_l2(ours(x, times, text).sample, want) < LIMIT
