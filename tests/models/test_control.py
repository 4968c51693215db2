"""ControlNets and T2I-Adapters against diffusers'."""

import pytest
import tiny
import torch
from control_networks import make_adapter, make_controlnet, make_union
from parity import LIMIT, load_pair, noise, relative_l2
from test_unet import conditions

from pyengine.errors import ConfigError, RequestError
from pyengine.models import ControlNetModel, ControlNetUnionModel, T2IAdapter

UNETS = {"sd1": {}, "sd2": tiny.SD2_UNET, "sdxl": tiny.SDXL_UNET}
SHUFFLE = {"global_pool_conditions": True, "controlnet_conditioning_channel_order": "bgr"}
N, HEIGHT, WIDTH = 2, 10, 6
TIMES = torch.tensor([901, 17])


def inputs(unet):
    text = noise(N, 5, unet.config.cross_attention_dim, seed=2)
    return noise(N, 4, HEIGHT, WIDTH), TIMES, text


def picture(seed=9):
    return noise(N, 3, 8 * HEIGHT, 8 * WIDTH, seed=seed).sigmoid()


def equal(ours, theirs):
    """Whether all results are diffusers'; those of one pixel there are all pixels' here."""
    pairs = [*zip(ours[0], theirs[0], strict=True), (ours[1], theirs[1])]
    for own, its in pairs:
        assert torch.equal(own, own[..., :1, :1].expand_as(own)) or its.shape[-1] > 1
        assert relative_l2(own, its.expand_as(own).contiguous()) < LIMIT
    return True


@pytest.mark.parametrize("guess", [False, True])
@pytest.mark.parametrize("extra", [{}, SHUFFLE], ids=["plain", "shuffle"])
@pytest.mark.parametrize("kind", UNETS)
@torch.no_grad()
def test_a_controlnet(tmp_path, kind, extra, guess):
    unet = tiny.make_unet(**UNETS[kind])
    theirs, ours = load_pair(make_controlnet(unet, **extra), ControlNetModel, tmp_path)
    given = {"conditioning_scale": 0.7, "guess_mode": guess, "return_dict": False}
    given |= conditions(unet.config, N)
    got = ours(*inputs(unet), picture(), **given)
    assert equal(got, theirs(*inputs(unet), picture(), **given))
    other = ours(*inputs(unet), 1 - picture(8), **given)
    assert relative_l2(other[0][0], got[0][0]) > 1e-3


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize(("modes", "scale"), [([2], 0.6), ([0, 3], [0.6, 1.2])])
@torch.no_grad()
def test_a_union(tmp_path, modes, scale, multi):
    unet = tiny.make_unet(**tiny.SDXL_UNET)
    theirs, ours = load_pair(make_union(unet), ControlNetUnionModel, tmp_path)
    shown = [picture(i) for i in range(len(modes))]
    for guess in (False, True):
        given = {
            "conditioning_scale": scale,
            "guess_mode": guess,
            "from_multi": multi,
            "return_dict": False,
            **conditions(unet.config, N),
        }
        kinds = ours.kinds(modes, N)
        got = ours(*inputs(unet), shown, kinds, modes, **given)
        assert equal(got, theirs(*inputs(unet), shown, kinds, modes, **given))


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others(tmp_path):
    """Of a union: on those of other pictures."""
    unet = tiny.make_unet(**tiny.SDXL_UNET)
    make_union(unet).save_pretrained(tmp_path)
    ours = ControlNetUnionModel.from_pretrained(tmp_path)
    sample, _, text = inputs(unet)
    added = conditions(unet.config, N)["added_cond_kwargs"]
    added["control_type"] = ours.kinds([1], N)
    embedded = ours.embed_picture(picture())

    def run(rows, groups):
        table = ours.embed_timesteps(
            [5.0], added_cond_kwargs={n: t[rows] for n, t in added.items()}
        )
        found = ours.evaluate(
            sample[rows],
            table[0],
            ours.encode_context(text[rows]),
            [embedded[rows]],
            torch.ones(len(rows), 1),
            [False] * len(rows),
            [(1,)] * len(rows),
            groups,
        )
        return [*found.skips, found.mid]

    both, alone = run([0, 1], [[0], [1]]), run([1], [[0]])
    assert all(torch.equal(a[1], b[0]) for a, b in zip(both, alone, strict=True))
    seeing = run([0, 1], [[0, 1]])
    assert not torch.equal(seeing[-1], both[-1])


ADAPTERS = {
    "full": ("full_adapter", (16, 32, 48), 8),
    "light": ("light_adapter", (16, 32), 8),
    "xl": ("full_adapter_xl", (16, 32, 48, 48), 16),
}


@pytest.mark.parametrize("kind", ADAPTERS)
@torch.no_grad()
def test_a_t2i_adapter(tmp_path, kind):
    theirs, ours = load_pair(make_adapter(*ADAPTERS[kind]), T2IAdapter, tmp_path)
    shown = noise(N, 3, 80, 48, seed=1).sigmoid()
    want, got = theirs(shown), ours(shown)
    assert len(want) == len(got)
    assert all(relative_l2(a, b) < LIMIT for a, b in zip(got, want, strict=True))
    assert ours.total_downscale_factor == theirs.total_downscale_factor


def test_what_does_not_fit(tmp_path):
    unet = tiny.make_unet()
    make_controlnet(unet).save_pretrained(tmp_path)
    ours = ControlNetModel.from_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"controlnet_cond: expected .* multiples of 8"):
        ours(*inputs(unet), picture()[..., 1:])
    with pytest.raises(RequestError, match="that make 10x6, got 2 of 10x5"):
        ours(*inputs(unet), picture()[..., 8:])
    small = T2IAdapter.from_config({"channels": [16]})
    with pytest.raises(RequestError, match=r"image: expected .*multiples of 8"):
        small.features(picture()[:, :1])


@pytest.mark.parametrize(
    ("cls", "config", "text"),
    [
        (ControlNetModel, {"conditioning_embedding_out_channels": []}, "is empty"),
        (ControlNetModel, {"out_channels": 4}, "unknown keys 'out_channels'"),
        (ControlNetModel, {"controlnet_conditioning_channel_order": "gbr"}, "expected 'rgb' or"),
        (ControlNetModel, {"down_block_types": ["ResnetDownsampleBlock2D"] * 4}, "no ControlNet"),
        (ControlNetUnionModel, {"num_trans_channel": 64}, "num_trans_channel is 64, expected "),
        (ControlNetUnionModel, {}, "addition_time_embed_dim is missing"),
        (T2IAdapter, {"channels": []}, "channels is empty"),
        (T2IAdapter, {"adapter_type": "heavy"}, "adapter_type is 'heavy'"),
        (T2IAdapter, {"adapter_type": "full_adapter_xl", "channels": [4, 4, 4, 8]}, "third block"),
        (T2IAdapter, {"channels": [1 << 40]}, "channels"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(cls, config, text):
    with pytest.raises(ConfigError, match=text):
        cls.from_config(config)
