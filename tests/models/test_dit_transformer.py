"""DiTTransformer2DModel against diffusers' on the same weights."""

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import ConfigError, RequestError
from pyengine.models import DiTConfig, DiTTransformer2DModel

VARIANTS = {
    "dit": {},
    "no_bias": {"attention_bias": False, "out_channels": None},
    "affine": {"norm_elementwise_affine": True, "norm_eps": 1e-3},
    "erf": {"activation_fn": "gelu", "num_layers": 1},
    "patch_4": {"patch_size": 4, "sample_size": 12, "in_channels": 3},
    "pixels": {"patch_size": 1, "sample_size": 5, "num_embeds_ada_norm": 7},
}


@torch.no_grad()
def compare(theirs, ours, n, seed=0) -> float:
    c = theirs.config
    x = noise(n, c.in_channels, c.sample_size, c.sample_size, seed=seed)
    t = torch.linspace(999, 3, n).round()
    labels = torch.arange(n) * 3 % (c.num_embeds_ada_norm + 1)
    labels[-1] = c.num_embeds_ada_norm  # none of the classes
    return relative_l2(ours(x, t, labels).sample, theirs(x, t, labels).sample)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name, tmp_path):
    pair = load_pair(tiny.make_dit(**VARIANTS[name]), DiTTransformer2DModel, tmp_path)
    for n in (1, 2, 5):
        assert compare(*pair, n) < LIMIT


def test_other_sizes_have_the_positions_of_the_trained_one(tmp_path):
    """diffusers reads squares alone; of a rectangle its parts before the last are an oracle."""
    theirs, ours = load_pair(tiny.make_dit(), DiTTransformer2DModel, tmp_path)
    x, t, labels = noise(2, 4, 12, 12), torch.tensor([7, 900]), torch.tensor([1, 2])
    with torch.no_grad():
        assert relative_l2(ours(x, t, labels).sample, theirs(x, t, labels).sample) < LIMIT
        theirs.pos_embed.proj.weight.zero_()
        theirs.pos_embed.proj.bias.zero_()
        want = theirs.pos_embed(noise(1, 4, 6, 10))[0]
    got = ours._positions(3, 5)
    # Its positions for 3 rows of 5: of (height, width), whichever way it counts.
    assert got.shape == want.shape
    assert torch.allclose(got, want, atol=1e-6)
    assert ours(noise(1, 4, 6, 10), 3, torch.tensor([1])).sample.shape == (1, 8, 6, 10)


def test_every_parameter_matters(tmp_path):
    made = tiny.make_dit(num_embeds_ada_norm=3, norm_elementwise_affine=True)
    _, ours = load_pair(made, DiTTransformer2DModel, tmp_path)
    x, labels = noise(1, 4, 8, 8), torch.tensor([2])
    assert idle_parameters(ours, lambda: ours(x, 33, labels, return_dict=False)) == []


def test_a_picture_has_its_bits_in_any_batch_and_on_any_threads(tmp_path, use_threads):
    _, ours = load_pair(tiny.make_dit(), DiTTransformer2DModel, tmp_path)
    x, t, labels = noise(5, 4, 8, 8), torch.tensor([3, 50, 500, 20, 999]), torch.arange(5)
    want = ours(x, t, labels).sample
    for threads in (1, 3):
        use_threads(threads)
        for k in range(5):
            own = slice(k, k + 1)
            assert torch.equal(ours(x[own], t[own], labels[own]).sample, want[own])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(tiny.make_dit(), DiTTransformer2DModel, tmp_path, dtype=dtype)
    x, labels = noise(2, 4, 8, 8), torch.tensor([1, 5])
    t = torch.tensor([40, 40])
    with torch.no_grad():
        want = theirs(x, t, labels).sample
        halved = theirs.to(dtype)(x.to(dtype), t, labels).sample.float()
    got = ours(x.to(dtype), 40, labels).sample
    assert got.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


def test_a_schedule_is_embedded_at_once(tmp_path):
    _, ours = load_pair(tiny.make_dit(), DiTTransformer2DModel, tmp_path)
    x, labels, times = noise(3, 4, 8, 8), torch.tensor([4, 0, 9]), [999, 640, 0]
    table = ours.embed_timesteps(times, class_labels=labels)
    for i, t in enumerate(times):
        want = ours(x, t, labels).sample
        got = ours.evaluate(x, table[i], ours.encode_context(torch.empty(0)))
        assert relative_l2(got, want) < 1e-6


WRONG = {
    "hidden_states: expected [N, 4, H, W]": (noise(1, 3, 8, 8), 1, torch.tensor([1])),
    "hidden_states: expected sides of multiples of 2": (noise(1, 4, 7, 8), 1, torch.tensor([1])),
    "class_labels: this model needs them": (noise(1, 4, 8, 8), 1, None),
    "class_labels: expected 0 to 999, or 1000 for": (noise(1, 4, 8, 8), 1, torch.tensor([1001])),
    "class_labels: expected whole numbers": (noise(1, 4, 8, 8), 1, torch.tensor([1.0])),
    "timestep: expected 1 or 1 rows": (noise(1, 4, 8, 8), torch.tensor([1, 2]), torch.tensor([1])),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message, tmp_path):
    _, ours = load_pair(tiny.make_dit(), DiTTransformer2DModel, tmp_path)
    with pytest.raises(RequestError) as error:
        ours(*WRONG[message])
    assert message in str(error.value)


REFUSED = {
    "norm": ({"norm_type": "ada_norm"}, "norm_type"),
    "activation": ({"activation_fn": "geglu"}, "activation_fn"),
    "width": ({"num_attention_heads": 1, "attention_head_dim": 6}, "expected a multiple of 4"),
    "patches": ({"sample_size": 33}, "no multiple of patch_size 2"),
    "text": ({"cross_attention_dim": 768}, "unknown keys 'cross_attention_dim'"),
    "layers": ({"num_layers": 10**9}, "num_layers"),
    "classes": ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm"),
    "another": ({"_class_name": "PixArtTransformer2DModel"}, "_class_name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_configs_that_are_refused(name):
    change, message = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        DiTConfig.from_dict(change)
    assert message in str(error.value)


def test_the_published_config():
    """facebook/DiT-XL-2-256, 675M parameters; older diffusers called the class otherwise."""
    ours = DiTTransformer2DModel.from_config({
        "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0",
        "activation_fn": "gelu-approximate", "attention_bias": True, "attention_head_dim": 72,
        "cross_attention_dim": None, "dropout": 0.0, "in_channels": 4,
        "norm_elementwise_affine": False, "norm_num_groups": 32, "norm_type": "ada_norm_zero",
        "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28,
        "num_vector_embeds": None, "only_cross_attention": False, "out_channels": 8,
        "patch_size": 2, "sample_size": 32, "upcast_attention": False,
        "use_linear_projection": False,
    })  # fmt: skip
    from diffusers import DiTTransformer2DModel as Theirs

    with torch.device("meta"):
        theirs = Theirs(out_channels=8)
    shapes = {name: t.shape for name, t in theirs.state_dict().items()}
    assert {name: t.shape for name, t in ours.state_dict().items()} == shapes
