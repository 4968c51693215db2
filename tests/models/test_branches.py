"""Side branches (LoRA) beside the layers of a model, per row, against merged weights."""

import dataclasses

import pytest
import tiny
import torch
from parity import LIMIT, noise, relative_l2

from pyengine import ops
from pyengine.branches import (
    Adapter,
    Difference,
    adapted,
    norm_targets,
    targets,
    weight_of,
)
from pyengine.errors import RequestError
from pyengine.layers import Conv2d, Linear, fuse
from pyengine.models import CLIPTextModel, UNet2DConditionModel

RANK, SCALE = 3, 0.7
#: What common LoRAs name, and a convolution.
COMMON = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1")


def lora(model, seed, names=None):
    """Random (A, B) for layers of the model: of all, or of those whose names end so."""
    weights = {}
    for i, (name, target) in enumerate(targets(model).items()):
        if names is None or name.endswith(names):
            out, *rest = target.shape
            size = torch.Size(rest).numel()
            down = noise(RANK, *rest, seed=seed + 2 * i) / size**0.5
            weights[name] = down, noise(out, RANK, seed=seed + 2 * i + 1) * 0.3
    return weights


def merged(state, weights, scale):
    """A checkpoint's tensors with the branches added to them."""
    state = dict(state)
    for name, (down, up) in weights.items():
        weight = state[f"{name}.weight"]
        delta = up.double() @ down.double().flatten(1)
        state[f"{name}.weight"] = (weight + scale * delta.view(weight.shape)).to(weight.dtype)
    return state


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def pair(request, tmp_path_factory):
    """(diffusers' model, ours on its weights, a folder)."""
    theirs = tiny.make_unet(**(tiny.SD2_UNET if request.param == "sd2" else {}))
    folder = tmp_path_factory.mktemp("unet")
    theirs.save_pretrained(folder, safe_serialization=True)
    return theirs, UNet2DConditionModel.from_pretrained(folder), folder


def run(model, rows, n=3, pick=slice(None), **more):
    """The model's output for n rows of inputs, or for those of `pick`, with these adapters."""
    sample, text = noise(n, 4, 8, 6), noise(n, 5, 32, seed=1)
    times = torch.tensor([901.0, 33.0, 470.0])[:n]
    dtype = model.dtype
    with adapted(rows):
        return model(sample[pick].to(dtype), times[pick], text[pick].to(dtype), **more).sample


def in_float64(config, state):
    """Our model without packing, on the specifications."""
    model = UNet2DConditionModel.from_config(dict(config))
    model.load_state_dict({name: tensor.double() for name, tensor in state.items()}, assign=True)
    return model.requires_grad_(False)


@pytest.mark.parametrize("names", [None, COMMON], ids=["every-layer", "common-layers"])
def test_a_branch_is_what_merging_it_makes(pair, names):
    theirs, ours, _ = pair
    weights = lora(ours, 5, names)
    assert len(weights) > 20
    assert any(w.dim() == 4 and w.shape[-1] == 3 for w, _ in weights.values())
    state = theirs.state_dict()
    plain = in_float64(theirs.config, state)
    branches = {name: (down.double(), up.double()) for name, (down, up) in weights.items()}
    wide = {name: tensor.double() for name, tensor in state.items()}
    exact = in_float64(theirs.config, merged(wide, weights, SCALE))
    want = run(exact, [])
    got = run(plain, [[(Adapter(plain, branches), SCALE)]] * 3)
    assert relative_l2(got, want) < 1e-6  # SCALE is kept in float32
    assert relative_l2(want, run(plain, [])) > 0.05
    packed = run(ours, [[(Adapter(ours, weights), SCALE)]] * 3)
    assert relative_l2(packed, want.float()) < LIMIT


def test_each_row_has_its_own_and_its_bits_alone(pair):
    _, ours, _ = pair
    first, second = Adapter(ours, lora(ours, 5)), Adapter(ours, lora(ours, 900, COMMON))
    rows = [[(first, SCALE)], [], [(first, 0.2), (second, -1.0)]]
    together = run(ours, rows)
    for i, row in enumerate(rows):
        pick = slice(i, i + 1)
        assert torch.equal(run(ours, [row], pick=pick), together[pick])
    assert torch.equal(run(ours, []), run(ours, [[], [], []]))
    plain = run(ours, [])
    assert torch.equal(together[1], plain[1])
    assert not torch.equal(together[0], plain[0])
    assert not torch.equal(together[2], run(ours, [[], [], [(first, 0.2)]])[2])


@pytest.mark.parametrize("activation", ["none", "geglu"])
def test_a_large_sum_is_computed_run_by_run_to_the_same_bits(monkeypatch, activation):
    torch.manual_seed(0)
    layer = Linear(48, 64)
    layer.weight, layer.bias = (
        torch.nn.Parameter(t, requires_grad=False) for t in (noise(64, 48) / 7, noise(64, seed=1))
    )
    layer.pack()
    whole = torch.nn.ModuleDict({"it": layer})
    first, second = (
        Adapter(whole, {"it": (noise(n, 48, seed=n), noise(64, n, seed=2) / 9)}) for n in (3, 5)
    )
    rows = [[(first, SCALE)], [], [(second, -1.0), (first, 0.2)], [(second, 0.5)]]
    x, scale, shift = noise(4, 30, 48, seed=3), noise(4, 48, seed=4), noise(4, 48, seed=5)
    around = {"activation": activation, "scale": scale, "shift": shift, "silu": True}
    if activation == "none":
        around["residual"] = noise(4, 30, 64, seed=6)

    def found():
        with adapted(rows):
            return layer(x, **around)

    at_once = found()
    monkeypatch.setattr("pyengine.branches.rows.LARGE", 1)
    assert torch.equal(found(), at_once)
    plain = layer(x, **around)
    assert torch.equal(at_once[1], plain[1])
    assert not torch.equal(at_once[0], plain[0])


def test_branches_of_a_fused_layer_are_one_product(pair, monkeypatch):
    """Of other ranks and ratios each, beside every projection of a self-attention's input."""
    _, ours, _ = pair
    place = "mid_block.attentions.0.transformer_blocks.0.attn1"
    known, changes = targets(ours), {}
    for i, name in enumerate(("to_q", "to_k", "to_v")):
        out, width = known[f"{place}.{name}"].shape
        down, up = noise(2 + i, width, seed=i) / 5, noise(out, 2 + i, seed=9 + i) / 3
        changes[f"{place}.{name}"] = Difference(down, up, 0.5 + i)
    layer = known[f"{place}.to_q"].layer
    joined = Adapter(ours, changes)
    monkeypatch.setattr("pyengine.branches.adapter.JOINED_RANKS", 0)
    apart = Adapter(ours, changes)
    assert [len(own.beside(layer).branches) for own in (joined, apart)] == [1, 3]
    one, three = (run(ours, [[(own, SCALE)]] * 3) for own in (joined, apart))
    assert relative_l2(one, three) < 1e-5
    assert relative_l2(run(ours, []), three) > 1e-3
    part = Adapter(ours, dict([*changes.items()][:2]))  # not all of it: to_v stays as it is
    assert len(part.beside(layer).branches) == 2


def test_what_is_computed_once_knows_the_rows(pair):
    _, ours, _ = pair
    rows = [[(Adapter(ours, lora(ours, 5)), SCALE)], []]
    sample, text = noise(2, 4, 8, 6), noise(2, 5, 32, seed=1)
    times = [700, 20]  # as many as rows, which are not to be taken for them
    with adapted(rows):
        table, context = ours.embed_timesteps(times), ours.encode_context(text)
        for i, t in enumerate(times):
            want = ours(sample, t, text).sample
            assert torch.equal(ours(sample, table[i], context).sample, want)


@pytest.mark.parametrize("tier", ["int8", "fp8"])
def test_in_a_model_with_weights_of_8_bits(pair, tier):
    _, _, folder = pair
    ours = UNet2DConditionModel.from_pretrained(folder, weights=tier)
    adapter = Adapter(ours, lora(ours, 5, ("to_q", "to_out.0", "ff.net.0.proj")))
    plain, got = run(ours, []), run(ours, [[(adapter, SCALE)], [], []])
    assert torch.equal(got[1:], plain[1:])
    assert relative_l2(got[:1], plain[:1]) > 0.05


@pytest.mark.parametrize("weights", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("inputs", [False, True])
def test_beside_weights_of_8_bits(weights, inputs):
    """The branch itself is not rounded to 8 bits, nor what it reads."""
    layer = _filled(Linear(20, 14))
    layer.quantize(weights, inputs)
    layer.pack()
    x, down, up = noise(2, 5, 20, seed=9), noise(2, 20, seed=10), noise(14, 2, seed=11)
    plain = layer(x)
    adapter = Adapter(torch.nn.ModuleDict({"a": layer}), {"a": (down, up)})
    with adapted([[(adapter, 0.5)], []]):
        got = layer(x)
    assert torch.equal(got[1], plain[1])
    exact = plain[0].double() + 0.5 * x[0].double() @ down.double().T @ up.double().T
    torch.testing.assert_close(got[0].double(), exact, rtol=1e-5, atol=1e-5)


def test_a_text_encoder(tmp_path):
    theirs = tiny.make_text_encoder()
    theirs.save_pretrained(tmp_path / "a", safe_serialization=True)
    ours = CLIPTextModel.from_pretrained(tmp_path / "a")
    weights = lora(ours, 5)
    assert any(name.endswith("self_attn.k_proj") for name in weights)
    assert any(name.endswith("mlp.fc1") for name in weights)
    prefix = "" if f"{next(iter(weights))}.weight" in theirs.state_dict() else "text_model."
    named = {name.removeprefix(prefix): pair for name, pair in weights.items()}
    theirs.load_state_dict(merged(theirs.state_dict(), named, SCALE))
    theirs.save_pretrained(tmp_path / "b", safe_serialization=True)
    ids = torch.arange(14).view(2, 7) % 5
    want = CLIPTextModel.from_pretrained(tmp_path / "b")(ids).last_hidden_state
    plain = ours(ids).last_hidden_state
    with adapted([[], [(Adapter(ours, weights), SCALE)]]):
        got = ours(ids).last_hidden_state
    assert torch.equal(got[0], plain[0])
    assert relative_l2(got[1], want[1]) < LIMIT
    assert relative_l2(plain[1], want[1]) > 0.05


def _filled(layer):
    for name, parameter in list(layer.named_parameters()):
        filled = torch.nn.Parameter(noise(*parameter.shape, seed=3), requires_grad=False)
        setattr(layer, name, filled)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("around", ["nothing", "prologue", "all"])
def test_of_a_linear_layer_with_all_that_lies_around(dtype, around):
    layer = _filled(Linear(20, 14))
    layer.pack()
    given = {}
    if around != "nothing":
        given = {"x2": noise(3, 5, 8, seed=4).to(dtype), "silu": True}
        given |= {"scale": noise(3, 20, seed=5), "shift": noise(3, 20, seed=6)}
    if around == "all":
        given |= {"activation": "geglu", "gate": noise(3, 7, seed=7)}
        given |= {"residual": noise(3, 5, 7, seed=8).to(dtype)}
    x = noise(3, 5, 12 if given else 20, seed=9).to(dtype)
    down, up = noise(2, 20, seed=10) / 4, noise(14, 2, seed=11)
    adapter = Adapter(torch.nn.ModuleDict({"a": layer}), {"a": (down, up)})
    with adapted([[(adapter, 0.5)], [], [(adapter, -0.5)]]):
        got = layer(x, **given)
    assert torch.equal(got[1], layer(x, **given)[1])
    plain = ops.unpack_weight(layer.weight, 14)
    for row, scale in ((0, 0.5), (2, -0.5)):
        wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        weight, bias = plain.double() + scale * (up @ down).double(), layer.bias.double()
        exact = ops.reference.linear(x.double(), weight, bias, **wide)[row]
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert (got[row].double() - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("whose", [("to_k",), ("to_v",), ("to_k", "to_v")])
def test_of_fused_layers_whose_panels_are_padded(whose):
    owner = torch.nn.Module()
    owner.to_k, owner.to_v = _filled(Linear(20, 24)), _filled(Linear(20, 6, bias=True))
    parts = {name: getattr(owner, name) for name in ("to_k", "to_v")}
    plain = {name: (part.weight.clone(), part.bias.clone()) for name, part in parts.items()}
    owner.both = fuse(owner, "to_k", "to_v")
    model = torch.nn.ModuleDict({"attn": owner})
    weights = {
        f"attn.{name}": (noise(2, 20, seed=i), noise(len(plain[name][1]), 2, seed=5 + i))
        for i, name in enumerate(whose)
    }
    assert set(targets(model)) == {"attn.to_k", "attn.to_v"}
    x = noise(3, 5, 20, seed=9)
    with adapted([[(Adapter(model, weights), 0.5)], [], [(Adapter(model, weights), 0.25)]]):
        got, joined = owner.both(x), owner.both.joined(x)
    assert torch.equal(joined, torch.cat(got, dim=-1))
    for name, y in zip(("to_k", "to_v"), got, strict=True):
        weight, bias = plain[name]
        for row, scale in enumerate((0.5, 0.0, 0.25)):
            down, up = weights.get(f"attn.{name}", (torch.zeros(1, 20), torch.zeros(len(bias), 1)))
            exact = x[row].double() @ (weight + scale * up @ down).double().T + bias.double()
            torch.testing.assert_close(y[row].double(), exact, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(got, owner.both(x), strict=True))


@pytest.mark.parametrize("residual", [False, True])
def test_of_a_convolution_with_all_that_lies_around(residual):
    layer = _filled(Conv2d(6, 10, 3, stride=2))
    layer.pack()
    given = {"silu": True, "channel_add": noise(3, 10, seed=4), "upsample": True}
    given |= {"x2": noise(3, 5, 7, 2, seed=5)}
    given |= {"scale": noise(3, 6, seed=6), "shift": noise(3, 6, seed=7)}
    if residual:
        given["residual"] = noise(3, 5, 7, 10, seed=8)
    x, down, up = noise(3, 5, 7, 4, seed=9), noise(2, 6, 3, 3, seed=10), noise(10, 2, 1, 1, seed=11)
    adapter = Adapter(torch.nn.ModuleDict({"a": layer}), {"a": (down, up)})
    with adapted([[], [(adapter, 0.5)], [(adapter, 0.5)]]):
        got = layer(x, **given)
    assert torch.equal(got[0], layer(x, **given)[0])
    delta = torch.einsum("or,rikl->oikl", up[..., 0, 0], down).permute(0, 2, 3, 1)
    weight = ops.unpack_weight(layer.weight, 10).double() + 0.5 * delta.double()
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    exact = ops.reference.conv2d(
        x.double(), weight, layer.bias.double(), stride=2, padding=(1,) * 4, **wide
    )
    assert (got[1:].double() - exact[1:]).norm() < 1e-5 * exact.norm()


def test_names_of_fused_parts_stay_known(pair):
    theirs, ours, _ = pair
    saved = {name.removesuffix(".weight") for name in theirs.state_dict() if "weight" in name}
    norms = {name for name in saved if "norm" in name.rpartition(".")[2]}
    assert set(targets(ours)) == saved - norms
    state = theirs.state_dict()
    assert all(
        target.shape == (s if len(s) == 2 or s[2:] != (1, 1) else s[:2])
        for name, target in targets(ours).items()
        for s in [tuple(state[f"{name}.weight"].shape)]
    )


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({"a.b": (torch.ones(1, 4), torch.ones(6, 1))}, "expected layers of ModuleDict, got a.b"),
        ({"a": (torch.ones(1, 5), torch.ones(6, 1))}, r"a: down: expected shape \[rank, 4\]"),
        ({"a": (torch.ones(2, 4), torch.ones(6, 1))}, r"a: up: expected shape \[6, 2\], got"),
        ({"a": (torch.ones(0, 4), torch.ones(6, 0))}, r"a: down: expected shape \[rank, 4\]"),
        ({"a": (torch.ones(1, 4).int(), torch.ones(6, 1))}, "a: down: expected a floating-point"),
    ],
)
def test_refusals(weights, complaint):
    with pytest.raises(RequestError, match=f"adapter: {complaint}"):
        Adapter(torch.nn.ModuleDict({"a": _filled(Linear(4, 6))}), weights)


def test_as_many_rows_as_were_told():
    layer = _filled(Linear(4, 6))
    adapter = Adapter(torch.nn.ModuleDict({"a": layer}), {"a": (noise(1, 4), noise(6, 1))})
    with adapted([[(adapter, 1.0)], []]):
        assert layer(noise(2, 4)).shape == (2, 6)
        with pytest.raises(RequestError, match="adapted: expected 2 rows"):
            layer(noise(3, 4))
        assert _filled(Linear(4, 6))(noise(3, 4)).shape == (3, 6)  # no adapter names this one


def differences(model, seed, magnitude=0.3):
    """Random Differences of every kind for the layers of a model, norms among them."""
    changes, kinds = {}, ("low", "dense", "gain", "bias", "all")
    for i, (name, target) in enumerate(targets(model).items()):
        out, *rest = target.shape
        size, kind, at = torch.Size(rest).numel(), kinds[i % 5], seed + 9 * i
        given = {}
        if kind in ("low", "all"):
            given |= {"down": noise(RANK, *rest, seed=at) / size**0.5, "ratio": 0.5}
            given |= {"up": noise(out, RANK, seed=at + 1) * magnitude}
        if kind in ("dense", "all"):
            given["dense"] = noise(*target.shape, seed=at + 2) * magnitude / size**0.5
        if kind in ("gain", "all"):
            given["gain"] = noise(out, seed=at + 3) * magnitude
        if kind in ("bias", "all"):
            given["bias"] = noise(out, seed=at + 4) * magnitude
        changes[name] = Difference(**given)
    for i, (name, target) in enumerate(norm_targets(model).items()):
        values = [noise(*target.shape, seed=seed - 9 * i - k) * magnitude for k in (1, 2)]
        changes[name] = Difference(dense=values[0], bias=values[1] if i % 3 else None)
    return changes


def changed(state, changes, scale):
    """A checkpoint's tensors, float64, with the differences added to them; new biases beside."""
    state = {name: tensor.double() for name, tensor in state.items()}
    for name, d in changes.items():
        weight = state[f"{name}.weight"]
        more = torch.zeros_like(weight)
        if d.down is not None:
            more += d.ratio * (d.up.double() @ d.down.double().flatten(1)).view(weight.shape)
        if d.dense is not None:
            more += d.dense.double().view(weight.shape)
        if d.gain is not None:
            more += d.gain.double().view(-1, *(1,) * (weight.dim() - 1)) * weight
        state[f"{name}.weight"] = weight + scale * more
        if d.bias is not None and f"{name}.bias" in state:
            state[f"{name}.bias"] = state[f"{name}.bias"] + scale * d.bias.double()
    return state


def test_every_kind_of_difference(pair):
    theirs, ours, _ = pair
    state = theirs.state_dict()
    changes = differences(ours, 5)
    for name in [n for n, d in changes.items() if d.bias is not None]:
        if f"{name}.bias" not in state:  # merged weights would have no place for it
            changes[name] = dataclasses.replace(changes[name], bias=None)
    assert len(norm_targets(ours)) > 20
    want = run(in_float64(theirs.config, changed(state, changes, SCALE)), [])
    adapter = Adapter(ours, changes)
    rows = [[(adapter, SCALE)], [], [(adapter, 0.2)]]
    together, plain = run(ours, rows), run(ours, [])
    assert relative_l2(together[:1], want[:1].float()) < LIMIT
    assert relative_l2(want[:1].float(), plain[:1]) > 0.05
    assert torch.equal(together[1], plain[1])
    for i in (0, 2):
        assert torch.equal(run(ours, [rows[i]], pick=slice(i, i + 1)), together[i : i + 1])


@pytest.mark.parametrize("tier", [None, torch.int8, torch.float8_e4m3fn])
def test_a_weight_is_told_by_its_packed_layer(tier):
    owner = torch.nn.Module()
    owner.to_k, owner.to_v = _filled(Linear(20, 24)), _filled(Linear(20, 6))
    owner.conv = _filled(Conv2d(3, 10))
    saved = {name: getattr(owner, name).weight.clone() for name in ("to_k", "to_v", "conv")}
    if tier is not None:
        owner.to_k.quantize(tier)
        owner.to_v.quantize(tier)
    owner.both = fuse(owner, "to_k", "to_v")
    owner.conv.pack()
    for name, target in targets(torch.nn.ModuleDict({"a": owner})).items():
        want = saved[name.removeprefix("a.")]
        near = 0.0 if tier is None or "conv" in name else 0.07
        torch.testing.assert_close(weight_of(target), want, rtol=near, atol=near)
