"""UNet2DModel against diffusers' on the same weights."""

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import ConfigError, RequestError
from pyengine.models import UNet2DConfig, UNet2DModel

THREE = {"block_out_channels": (16, 24, 32)}
RESNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
VARIANTS = {
    "ddpm": {},
    "one_head": {"attention_head_dim": None},
    "two_layers": {"layers_per_block": 2, "downsample_padding": 1},
    "three_levels": {
        **THREE,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "differs": {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")},
    "mid_without_attention": {"add_attention": False},
    "no_mid": {"mid_block_type": None},
    "mid_groups": {"attn_norm_num_groups": 4},
    "scale_shift": {"resnet_time_scale_shift": "scale_shift"},
    "scale_shift_mid_groups": {
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,
    },
    "resnet_sampling": {**THREE, **RESNET},
    "adm": {**THREE, **RESNET, "resnet_time_scale_shift": "scale_shift", "num_class_embeds": 10},
    "learned_variance": {"out_channels": 6},
    "classes": {"num_class_embeds": 10},
    "class_times": {"class_embed_type": "timestep"},
    "class_vectors": {"class_embed_type": "identity"},
    "waves": {"flip_sin_to_cos": True, "freq_shift": 0, "time_embedding_dim": 20},
    "centred": {"center_input_sample": True, "norm_eps": 1e-3, "act_fn": "swish"},
    "one_level": {
        "block_out_channels": (24,),
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",),
    },
    "grey": {"in_channels": 1, "out_channels": 1},
}
SIZES = [(1, 8, 8), (2, 12, 20), (3, 4, 36), (2, 28, 4)]


def labels(config, n: int) -> torch.Tensor | None:
    """class_labels for n pictures of a model with this config."""
    if config.num_class_embeds is not None:
        return torch.arange(n) * 7 % config.num_class_embeds
    if config.class_embed_type == "timestep":
        return torch.arange(n) * 13
    if config.class_embed_type == "identity":
        width = config.time_embedding_dim or 4 * config.block_out_channels[0]
        return noise(n, width, seed=5)
    return None


@torch.no_grad()
def compare(theirs, ours, n, height, width, timestep=None) -> float:
    x = noise(n, theirs.config.in_channels, height, width)
    t = torch.linspace(999, 3, n).round() if timestep is None else timestep
    known = labels(theirs.config, n)
    want = theirs(x, t, known).sample
    return relative_l2(ours(x, t, known).sample, want)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name, tmp_path):
    theirs, ours = load_pair(tiny.make_unet2d(**VARIANTS[name]), UNet2DModel, tmp_path)
    for size in SIZES:
        assert compare(theirs, ours, *size) < LIMIT


@pytest.mark.parametrize("timestep", [0, 999, torch.tensor(500), torch.tensor([3, 981])])
def test_timesteps_of_every_kind(timestep, tmp_path):
    pair = load_pair(tiny.make_unet2d(), UNet2DModel, tmp_path)
    assert compare(*pair, 2, 8, 8, timestep) < LIMIT


@pytest.mark.parametrize("name", ["scale_shift", "adm", "learned_variance", "class_vectors"])
def test_against_the_oracle_in_float64(name, tmp_path):
    """Only the rounding of float32 lies between ours and diffusers' in float64."""
    theirs, ours = load_pair(tiny.make_unet2d(**VARIANTS[name]), UNet2DModel, tmp_path)
    x, known = noise(2, 3, 8, 12), labels(theirs.config, 2)
    got = ours(x, 321, known).sample
    wide = known.double() if known is not None and known.is_floating_point() else known
    with torch.no_grad():
        want = theirs.double()(x.double(), 321, wide).sample
    assert relative_l2(got.double(), want) < LIMIT


@pytest.mark.parametrize("name", ["ddpm", "adm", "scale_shift_mid_groups", "class_times"])
def test_every_parameter_matters(name, tmp_path):
    _, ours = load_pair(tiny.make_unet2d(**VARIANTS[name]), UNet2DModel, tmp_path)
    x, known = noise(1, 3, 8, 4), labels(ours.config, 1)
    # The labels of one picture name one row of the table of classes, which is a parameter, too.
    idle = idle_parameters(ours, lambda: ours(x, 33, known, return_dict=False))
    assert idle == []


@pytest.mark.parametrize("name", ["ddpm", "adm"])
def test_a_picture_has_its_bits_in_any_batch_and_on_any_threads(name, tmp_path):
    _, ours = load_pair(tiny.make_unet2d(**VARIANTS[name]), UNet2DModel, tmp_path)
    x, t, known = noise(5, 3, 12, 8), torch.tensor([3, 50, 500, 20, 999]), labels(ours.config, 5)
    want = ours(x, t, known).sample
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for k in range(5):
                own = None if known is None else known[k : k + 1]
                one = ours(x[k : k + 1], t[k : k + 1], own).sample
                assert torch.equal(one, want[k : k + 1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["ddpm", "adm", "class_times", "class_vectors"])
def test_a_schedule_is_embedded_at_once(name, tmp_path):
    _, ours = load_pair(tiny.make_unet2d(**VARIANTS[name]), UNet2DModel, tmp_path)
    x, known = noise(3, 3, 8, 8), labels(ours.config, 3)
    times = [999, 640, 0]
    table = ours.embed_timesteps(times, class_labels=known)
    context = ours.encode_context(torch.empty(0))
    for i, t in enumerate(times):
        want = ours(x, t, known).sample
        assert relative_l2(ours.evaluate(x, table[i], context), want) < 1e-6


def test_the_names_of_before_diffusers_0_12_are_read(tmp_path):
    """query, key, value and proj_attn, and blocks called UNetRes..., as google/ddpm-* has them."""
    import json

    from safetensors.torch import load_file, save_file

    theirs = tiny.make_unet2d()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, before in old.items():
            name = name.replace(new, before)
        tensors[name] = tensor
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, file)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("down_block_types", "up_block_types"):
        config[key] = ["UNetRes" + kind for kind in config[key]]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert compare(theirs, UNet2DModel.from_pretrained(tmp_path), 2, 8, 8) < LIMIT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    made = tiny.make_unet2d(**VARIANTS["adm"])
    theirs, ours = load_pair(made, UNet2DModel, tmp_path, dtype=dtype)
    x, known = noise(2, 3, 8, 12), labels(ours.config, 2)
    with torch.no_grad():
        want = theirs(x, 40, known).sample
        halved = theirs.to(dtype)(x.to(dtype), 40, known).sample.float()
    got = ours(x.to(dtype), 40, known).sample
    assert got.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


def test_sizes_that_no_level_divides(tmp_path):
    """diffusers refuses them; here a level on the way up has the size of the one on the way down,
    so that what lies far from the edge is as in a larger picture of the same pixels.
    """
    _, ours = load_pair(tiny.make_unet2d(**VARIANTS["resnet_sampling"]), UNet2DModel, tmp_path)
    for height, width in ((5, 7), (9, 6), (4, 5)):
        out = ours(noise(2, 3, height, width), 10).sample
        assert out.shape == (2, 3, height, width)
        assert out.isfinite().all()
    with pytest.raises(RequestError, match="sample: expected at least 4x4, got \\[3, 8\\]"):
        ours(noise(1, 3, 3, 8), 10)


WRONG = {
    "sample: expected [N, 3, H, W], got [1, 4, 8, 8]": (noise(1, 4, 8, 8), 1, None),
    "class_labels: this model needs them": (noise(1, 3, 8, 8), 1, None),
    "class_labels: expected integers from 0 to 9": (noise(1, 3, 8, 8), 1, torch.tensor([10])),
    "class_labels: expected [N], got [1, 1]": (noise(1, 3, 8, 8), 1, torch.tensor([[1]])),
    "timestep: expected a number or [N]": (noise(1, 3, 8, 8), torch.zeros(1, 1), None),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message, tmp_path):
    _, ours = load_pair(tiny.make_unet2d(num_class_embeds=10), UNet2DModel, tmp_path)
    with pytest.raises(RequestError) as error:
        ours(*WRONG[message])
    assert message in str(error.value)


def test_what_other_networks_are_told_is_refused(tmp_path):
    _, ours = load_pair(tiny.make_unet2d(), UNet2DModel, tmp_path)
    with pytest.raises(RequestError, match="class_labels: expected None"):
        ours(noise(1, 3, 8, 8), 1, torch.tensor([1]))
    with pytest.raises(RequestError, match="timestep_cond: expected None"):
        ours.embed_timesteps([1], timestep_cond=noise(1, 4))
    table = ours.embed_timesteps([1])
    with pytest.raises(RequestError, match="to be given to embed_timesteps"):
        ours(noise(1, 3, 8, 8), table[0], torch.tensor([1]))


REFUSED = {
    "score_sde": ({"down_block_types": ["SkipDownBlock2D"] * 4}, "SkipDownBlock2D"),
    "fourier": ({"time_embedding_type": "fourier"}, "time_embedding_type"),
    "learned_times": ({"time_embedding_type": "learned"}, "time_embedding_type"),
    "mid_scale": ({"mid_block_scale_factor": 1.4142135623730951}, "mid_block_scale_factor"),
    "groups": ({"norm_num_groups": 5}, "no multiple of norm_num_groups 5"),
    "mid_groups": ({"attn_norm_num_groups": 5}, "no multiple of attn_norm_num_groups 5"),
    "heads": ({"attention_head_dim": 9}, "no multiple of attention_head_dim 9"),
    "levels": ({"block_out_channels": [32, 64]}, "down_block_types has 4 items, expected 2"),
    "empty": ({"block_out_channels": [], "down_block_types": [], "up_block_types": []}, "empty"),
    "both_classes": ({"class_embed_type": "timestep", "num_class_embeds": 3}, "exclude each other"),
    "types": ({"down_block_types": "DownBlock2D"}, "down_block_types must be"),
    "many": ({"layers_per_block": 10**9}, "layers_per_block"),
    "wide": ({"block_out_channels": [10**9] * 4}, "block_out_channels"),
    "narrow": ({"block_out_channels": [2] * 4, "freq_shift": 1, "norm_num_groups": 1}, "too small"),
    "unknown": ({"flux": 1}, "unknown keys 'flux'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_configs_that_are_refused(name):
    change, message = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        UNet2DConfig.from_dict(change)
    assert message in str(error.value)
