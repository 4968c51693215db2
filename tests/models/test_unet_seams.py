"""What is put into a U-Net from outside: residuals, and further keys and values."""

import pytest
import tiny
import torch
from parity import LIMIT, load_pair, noise, relative_l2
from test_unet import VARIANTS, conditions, context_dim

from pyengine.errors import RequestError
from pyengine.models import TextContext, UNet2DConditionModel
from pyengine.models.blocks.transformer import FurtherAttention

KINDS = {
    "sd1": {},
    "sdxl": tiny.SDXL_UNET,
    "no-attention": VARIANTS["no_attention_at_all"],
    "no-mid": VARIANTS["no_mid"],
    "up-differs": VARIANTS["up_differs_from_down"],
}
N, HEIGHT, WIDTH = 2, 10, 7


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return load_pair(tiny.make_unet(**KINDS[request.param]), UNet2DConditionModel, folder)


def inputs(theirs):
    text = noise(N, 5, context_dim(theirs.config), seed=1)
    return noise(N, 4, HEIGHT, WIDTH), torch.tensor([901, 17]), text


def shapes(theirs):
    """Of the skips, in the order in which they are made, and of the middle block's result."""
    found = []

    def note(_, __, result):
        found.extend([result] if torch.is_tensor(result) else result[1])

    hooks = [m.register_forward_hook(note) for m in (theirs.conv_in, *theirs.down_blocks)]
    with torch.no_grad():
        theirs(*inputs(theirs), **conditions(theirs.config, N))
    for hook in hooks:
        hook.remove()
    return [tuple(t.shape) for t in found], tuple(found[-1].shape)


def controls(theirs, scale=0.5):
    """A ControlNet's keywords."""
    skips, mid = shapes(theirs)
    residuals = tuple(scale * noise(*shape, seed=50 + i) for i, shape in enumerate(skips))
    return {
        "down_block_additional_residuals": residuals,
        "mid_block_additional_residual": scale * noise(*mid, seed=49),
    }


@torch.no_grad()
def test_a_controlnets_residuals(pair):
    theirs, ours = pair
    given = conditions(theirs.config, N) | controls(theirs)
    want = theirs(*inputs(theirs), **given).sample
    assert relative_l2(ours(*inputs(theirs), **given).sample, want) < LIMIT
    plain = theirs(*inputs(theirs), **conditions(theirs.config, N)).sample
    assert relative_l2(plain, want) > 0.05


@torch.no_grad()
def test_a_t2i_adapters_residuals(pair):
    theirs, ours = pair
    crosses = [hasattr(b, "attentions") for b in theirs.down_blocks]
    skips, mid = shapes(theirs)
    ends = [1]
    for block in theirs.down_blocks:
        ends.append(ends[-1] + len(block.resnets) + (block.downsamplers is not None))
    residuals = []
    for i, cross in enumerate(crosses):
        # With attention before the picture is halved, without after.
        halved = theirs.down_blocks[i].downsamplers is not None
        residuals.append(noise(*skips[ends[i + 1] - 1 - (cross and halved)], seed=70 + i))
    residuals.append(noise(*mid, seed=90))
    given = conditions(theirs.config, N)
    name = "down_intrablock_additional_residuals"
    # diffusers takes from the list, and adds in place.
    want = theirs(*inputs(theirs), **given, **{name: [r.clone() for r in residuals]}).sample
    got = ours(*inputs(theirs), **given, **{name: residuals}).sample
    assert relative_l2(got, want) < LIMIT
    assert relative_l2(theirs(*inputs(theirs), **given).sample, want) > 0.05


def test_rows_without_control_keep_their_bits(pair):
    theirs, ours = pair
    given, control = conditions(theirs.config, N), controls(theirs)
    plain = ours(*inputs(theirs), **given).sample
    whole = ours(*inputs(theirs), **given, **control).sample
    for tensor in (*control["down_block_additional_residuals"], *list(control.values())[1:]):
        tensor[0] = -0.0
    got = ours(*inputs(theirs), **given, **control).sample
    assert torch.equal(got[0], plain[0])
    assert torch.equal(got[1], whole[1])


def test_wrong_residuals(tmp_path):
    theirs, ours = load_pair(tiny.make_unet(), UNet2DConditionModel, tmp_path)
    down, mid = controls(theirs).values()
    cases = [
        ({"down": down, "mid": None}, "expected mid_block_additional_residual with them"),
        ({"down": down[:-1], "mid": mid}, f"expected {len(down)} of them, got {len(down) - 1}"),
        ({"down": (*down[:2], down[2][:1], *down[3:]), "mid": mid}, r"residuals\[2\]: expected"),
        ({"down": down, "mid": mid[:, :3]}, "mid_block_additional_residual: expected shape"),
        ({"down": down, "mid": mid[0]}, r"additional residuals: expected \[N, C, H, W\]"),
    ]
    for case, complaint in cases:
        names = {
            "down_block_additional_residuals": case["down"],
            "mid_block_additional_residual": case["mid"],
        }
        with pytest.raises(RequestError, match=complaint):
            ours(*inputs(theirs), **names)
    with pytest.raises(RequestError, match="down_intrablock_additional_residuals: expected shape"):
        ours(*inputs(theirs), down_intrablock_additional_residuals=[mid])


# --- further keys and values ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def images(request, tmp_path_factory):
    """(diffusers' model with two IP-Adapters, ours, their projections per layer)."""
    from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

    folder = tmp_path_factory.mktemp(request.param)
    theirs, ours = load_pair(tiny.make_unet(**KINDS[request.param]), UNet2DConditionModel, folder)
    processors, projections = {}, {}
    for i, name in enumerate(theirs.attn_processors):
        layer = name.removesuffix(".processor")
        if layer not in ours.cross_attentions:
            processors[name] = AttnProcessor2_0()
            continue
        width, context = ours.cross_attentions[layer], context_dim(theirs.config)
        own = IPAdapterAttnProcessor2_0(width, context, num_tokens=(3, 2), scale=[1.0, 1.0])
        for j, projection in enumerate((*own.to_k_ip, *own.to_v_ip)):
            weight = noise(width, context, seed=100 + 4 * i + j) / context**0.5
            projection.weight = torch.nn.Parameter(weight, requires_grad=False)
        processors[name], projections[layer] = own, own
    theirs.set_attn_processor(processors)
    return theirs, ours, projections


def further(ours, projections, tokens, j, scale):
    """The FurtherAttention of every layer to the j-th adapter's image tokens."""
    owns = [projections[name] for name in ours.cross_attentions]
    return tuple(
        FurtherAttention(own.to_k_ip[j](tokens), own.to_v_ip[j](tokens), scale) for own in owns
    )


@torch.no_grad()
def test_image_prompts_beside_the_text(images):
    theirs, ours, projections = images
    sample, times, text = inputs(theirs)
    width = context_dim(theirs.config)
    tokens = [noise(N, 3, width, seed=30), noise(N, 2, width, seed=31)]
    for own in projections.values():
        own.scale = [0.8, 0.3]
    given = conditions(theirs.config, N)
    want = theirs(sample, times, (text, tokens), **given).sample
    pairs = [(0, torch.full((N,), 0.8)), (1, torch.full((N,), 0.3))]
    others = tuple(further(ours, projections, tokens[j], j, scale) for j, scale in pairs)
    context = TextContext(ours.encode_context(text).keys_values, others)
    assert relative_l2(ours(sample, times, context, **given).sample, want) < LIMIT
    plain = ours(sample, times, text, **given).sample
    assert relative_l2(plain, want) > 0.05
    # A scale per row; one that is 0 leaves the row's bits, whatever the image.
    broken = tokens[0].clone()
    broken[0] = float("nan")
    other = further(ours, projections, broken, 0, torch.tensor([0.0, 0.8]))
    mixed = ours(sample, times, TextContext(context.keys_values, (other,)), **given).sample
    assert torch.equal(mixed[0], plain[0])
    other = further(ours, projections, tokens[0], 0, torch.full((N,), 0.8))
    whole = ours(sample, times, TextContext(context.keys_values, (other,)), **given).sample
    assert torch.equal(mixed[1], whole[1])


def test_a_context_with_more_than_the_text_is_not_taken_for_it(images):
    theirs, ours, projections = images
    tokens = noise(N, 3, context_dim(theirs.config))
    other = further(ours, projections, tokens, 0, torch.ones(N))
    context = TextContext(ours.encode_context(inputs(theirs)[2]).keys_values, (other,))
    with pytest.raises(RequestError, match="expected the text alone, got 1 further"):
        context.tensors()
    with pytest.raises(RequestError, match="further: expected"):
        TextContext(context.keys_values, (other[:-1],)).attended()
