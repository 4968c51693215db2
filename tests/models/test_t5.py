"""T5's encoder against transformers' on the same weights."""

import json

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, relative_l2
from safetensors.torch import load_file, save_file

from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import T5EncoderModel

VOCAB = 61
CONFIGS = {
    "t5": {},
    "t5_v1_1": {"feed_forward_proj": "gated-gelu"},
    "narrow heads": {"d_kv": 4, "num_heads": 3, "d_ff": 23, "feed_forward_proj": "gated-gelu"},
    "one layer": {"num_layers": 1, "num_heads": 1, "layer_norm_epsilon": 1e-3},
    "few buckets": {"relative_attention_num_buckets": 10, "relative_attention_max_distance": 7},
}


def make(seed: int = 5, **overrides):
    """A transformers T5EncoderModel; nothing of it is 0, 1 or without effect."""
    from transformers import T5Config
    from transformers import T5EncoderModel as Theirs

    config = {
        "vocab_size": VOCAB,
        "d_model": 24,
        "d_kv": 8,
        "d_ff": 40,
        "num_layers": 3,
        "num_heads": 2,
        **overrides,
    }
    return tiny.randomise(Theirs(T5Config(**config)), seed)


def prompts(n: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) [n, length]: row i ends, and is padded, at a position of its own."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (n, length), generator=generator)
    ends = torch.tensor([length - 1 if i == 0 else (7 * i) % length for i in range(n)])
    positions = torch.arange(length)
    ids[torch.arange(n), ends] = 1
    mask = (positions <= ends[:, None]).long()
    return ids * mask, mask


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    return load_pair(make(**CONFIGS[request.param]), T5EncoderModel, tmp_path_factory.mktemp("t5"))


@pytest.mark.parametrize(("n", "length"), [(1, 77), (2, 1), (5, 13), (3, 150)])
@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_hidden_states(pair, n, length, masked):
    theirs, ours = pair
    ids, mask = prompts(n, length)
    mask = mask if masked else None
    want = theirs(ids, attention_mask=mask, output_hidden_states=True)
    got = ours(ids, attention_mask=mask, output_hidden_states=True)
    assert relative_l2(got.last_hidden_state, want.last_hidden_state) < LIMIT
    assert len(got.hidden_states) == len(want.hidden_states) == ours.config.num_layers + 1
    for mine, other in zip(got.hidden_states, want.hidden_states, strict=True):
        assert relative_l2(mine, other) < LIMIT
    alone = ours(ids[-1:], None if mask is None else mask[-1:])[0]
    assert torch.equal(alone, got.last_hidden_state[-1:])


@torch.no_grad()
def test_against_float64(pair):
    theirs, ours = pair
    ids, mask = prompts(2, 19)
    want = theirs.double()(ids, attention_mask=mask).last_hidden_state.float()
    theirs.float()
    assert relative_l2(ours(ids, mask)[0], want) < LIMIT


def test_buckets_of_every_distance():
    """Where logarithms are whole (16, 32, 64 of 128) the last bit decides."""
    from transformers.models.t5.modeling_t5 import T5Attention

    for buckets, most in [(32, 128), (32, 64), (10, 7), (7, 5), (4, 2), (64, 1000)]:
        config = {"relative_attention_num_buckets": buckets, "vocab_size": 2, "num_layers": 1}
        ours = T5EncoderModel.from_config({**config, "relative_attention_max_distance": most})
        for length in (1, 2, 5, 77, 300):
            positions = torch.arange(length)
            offsets = positions[None, :] - positions[:, None]
            want = T5Attention._relative_position_bucket(offsets, True, buckets, most)
            got = ours.buckets(length, torch.device("cpu"))
            assert torch.equal(got, want), (buckets, most, length)


@torch.no_grad()
def test_the_same_bits_on_any_number_of_threads(pair, use_threads):
    _, ours = pair
    ids, mask = prompts(3, 77)
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(ours(ids, mask)[0])
    assert torch.equal(*results)


def test_every_parameter_matters(tmp_path):
    for name in ("t5", "t5_v1_1"):
        theirs = make(vocab_size=9, relative_attention_num_buckets=8, **CONFIGS[name])
        _, ours = load_pair(theirs, T5EncoderModel, tmp_path / name)
        ids = torch.arange(9).repeat(1, 8)
        assert idle_parameters(ours, lambda ours=ours, ids=ids: ours(ids, return_dict=False)) == []


@torch.no_grad()
def test_sharded_and_the_embedding_under_either_name_or_both(tmp_path):
    theirs = make()
    ids, mask = prompts(2, 7)
    want = T5EncoderModel.from_pretrained(saved(theirs, tmp_path / "whole"))(ids, mask)[0]
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert torch.equal(T5EncoderModel.from_pretrained(tmp_path / "shards")(ids, mask)[0], want)
    tensors = load_file(tmp_path / "whole/model.safetensors")
    table = tensors.pop("shared.weight", None)
    table = tensors.pop("encoder.embed_tokens.weight") if table is None else table
    for names in (["shared"], ["encoder.embed_tokens"], ["encoder.embed_tokens", "shared"]):
        named = {f"{name}.weight": table.clone() for name in names}
        save_file({**tensors, **named}, tmp_path / "whole/model.safetensors")
        assert torch.equal(T5EncoderModel.from_pretrained(tmp_path / "whole")(ids, mask)[0], want)
    save_file(tensors, tmp_path / "whole/model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: 'shared\.weight'"):
        T5EncoderModel.from_pretrained(tmp_path / "whole")


@torch.no_grad()
def test_a_whole_t5s_files_serve(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=VOCAB, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=2)
    theirs = tiny.randomise(T5ForConditionalGeneration(config), 3)
    ours = T5EncoderModel.from_pretrained(saved(theirs, tmp_path))
    ids, mask = prompts(2, 11)
    want = theirs.get_encoder()(ids, attention_mask=mask).last_hidden_state
    assert relative_l2(ours(ids, mask)[0], want) < LIMIT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(make(**CONFIGS["t5_v1_1"]), T5EncoderModel, tmp_path, dtype=dtype)
    ids, mask = prompts(2, 16)
    want = theirs(ids, attention_mask=mask).last_hidden_state
    halved = theirs.to(dtype)(ids, attention_mask=mask).last_hidden_state.float()
    got = ours(ids, mask).last_hidden_state
    assert got.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


@torch.no_grad()
def test_activations_beyond_float16_stay_finite(tmp_path):
    theirs = make(**CONFIGS["t5_v1_1"])
    for block in theirs.encoder.block:
        block.layer[1].DenseReluDense.wo.weight.mul_(1e5)
    theirs, ours = load_pair(theirs, T5EncoderModel, tmp_path, dtype=torch.float16)
    ids, mask = prompts(2, 9)
    assert ours(ids, mask)[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "umt5"}, "model_type is 'umt5', expected 't5'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu', expected 'relu'"),
        ({"is_gated_act": True}, "is_gated_act is True, expected False beside"),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "relu"}, "expected 'gelu_new'"),
        ({"d_model": 1 << 40}, "d_model is"),
        ({"num_layers": 10**9}, "num_layers is"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"d_kv": "64"}, "d_kv must be a whole number"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets is 2, expected 4"),
        ({"relative_attention_max_distance": 8}, "expected at least 9"),
        ({"temperature_of_room": 1}, "unknown keys 'temperature_of_room'"),
    ],
)
def test_refused_configs(change, message, tmp_path):
    saved(make(), tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config = {k: v for k, v in config.items() if k not in ("dense_act_fn", "is_gated_act")}
    file.write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        T5EncoderModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.long), r"input_ids: expected integers \[N, L\]"),
        (torch.zeros(5, dtype=torch.long), r"input_ids: expected integers \[N, L\]"),
        (torch.zeros(1, 5), r"input_ids: expected integers \[N, L\]"),
        (torch.full((1, 5), VOCAB), "expected 0 to 60, got 61 to 61"),
    ],
)
def test_wrong_ids(ids, message, tmp_path):
    ours = T5EncoderModel.from_pretrained(saved(make(), tmp_path))
    with pytest.raises(RequestError, match=message):
        ours(ids)
    with pytest.raises(RequestError, match=r"attention_mask: expected shape \[2, 5\]"):
        ours(prompts(2, 5)[0], torch.ones(2, 4))


def saved(model, folder):
    model.save_pretrained(folder)
    return folder
