"""Arrangements that nobody thought of: random configs and sizes, ours against diffusers'."""

import tempfile

import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity import LIMIT, load_pair, noise, relative_l2

from pyengine.models import AutoencoderKL, UNet2DConditionModel

quick = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


def per_level(draw, values, levels: int):
    """One value for all levels, or a list with one for each."""
    if draw(st.booleans()):
        return draw(values)
    return draw(st.lists(values, min_size=levels, max_size=levels))


@st.composite
def unet_configs(draw) -> dict:
    levels = draw(st.integers(1, 4))
    groups = draw(st.sampled_from([1, 2, 4]))
    attends = st.booleans()
    widths = st.integers(1, 3).map(lambda k: 12 * k)  # 12: any of the groups and heads divides it
    config = {
        "in_channels": draw(st.integers(1, 9)),
        "out_channels": draw(st.integers(1, 8)),
        "block_out_channels": [draw(widths) for _ in range(levels)],
        "down_block_types": [
            ("DownBlock2D", "CrossAttnDownBlock2D")[draw(attends)] for _ in range(levels)
        ],
        "up_block_types": [
            ("UpBlock2D", "CrossAttnUpBlock2D")[draw(attends)] for _ in range(levels)
        ],
        "mid_block_type": draw(
            st.sampled_from(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None])
        ),
        "layers_per_block": per_level(draw, st.integers(1, 3), levels),
        "attention_head_dim": per_level(draw, st.sampled_from([1, 2, 3, 6]), levels),
        "transformer_layers_per_block": per_level(draw, st.integers(1, 2), levels),
        "norm_num_groups": groups,
        "cross_attention_dim": draw(st.integers(1, 20)),
        "use_linear_projection": draw(st.booleans()),
        "flip_sin_to_cos": draw(st.booleans()),
        "freq_shift": draw(st.sampled_from([0, 1])),
    }
    return config


@quick
@given(
    config=unet_configs(),
    n=st.integers(1, 3),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    length=st.integers(1, 20),
)
@torch.no_grad()
def test_random_unets(config, n, height, width, length):
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = load_pair(tiny.make_unet(**config), UNet2DConditionModel, folder)
    x = noise(n, config["in_channels"], height, width)
    text = noise(n, length, config["cross_attention_dim"], seed=1)
    t = torch.linspace(990, 1, n)
    assert relative_l2(ours(x, t, text).sample, theirs(x, t, text).sample) < LIMIT
    last = ours(x[-1:], t[-1:], text[-1:]).sample
    assert relative_l2(last, ours(x, t, text).sample[-1:]) < LIMIT  # whatever stands beside it


@quick
@given(
    widths=st.lists(st.sampled_from([4, 8, 12]), min_size=1, max_size=4),
    layers=st.integers(1, 3),
    latent=st.integers(1, 5),
    quant=st.booleans(),
    post_quant=st.booleans(),
    attention=st.booleans(),
    height=st.integers(8, 30),
    width=st.integers(8, 30),
)
@torch.no_grad()
def test_random_autoencoders(widths, layers, latent, quant, post_quant, attention, height, width):
    theirs = tiny.make_vae(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        layers_per_block=layers,
        latent_channels=latent,
        use_quant_conv=quant,
        use_post_quant_conv=post_quant,
        mid_block_add_attention=attention,
        norm_num_groups=2,  # torch refuses to normalise a single value
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = load_pair(theirs, AutoencoderKL, folder)
    x, z = noise(2, 3, height, width), noise(1, latent, height // 8, width // 8)
    got, want = ours.encode(x).latent_dist, theirs.encode(x).latent_dist
    assert relative_l2(got.parameters, want.parameters) < LIMIT
    assert relative_l2(ours.decode(z).sample, theirs.decode(z).sample) < LIMIT
