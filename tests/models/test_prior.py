"""The prior against diffusers' on the same weights."""

import json

import pytest
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2
from tiny import randomise

from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import PriorTransformer

TOKENS, WIDTH = 9, 20
CONFIGS = {
    "kandinsky": {},
    "one layer": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 12},
    "norms": {"norm_in_type": "layer", "embedding_proj_norm_type": "layer"},
    "widths": {
        "time_embed_dim": 28,
        "time_embed_act_fn": "gelu",
        "embedding_proj_dim": 14,
        "clip_embed_dim": 10,
    },
}


def make(seed: int = 7, **overrides):
    """A diffusers PriorTransformer; what it begins with at zero (positions, clip_*) is drawn."""
    from diffusers import PriorTransformer as Theirs

    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 3,
        "embedding_dim": WIDTH,
        "num_embeddings": TOKENS,
        "additional_embeddings": 4,
        **overrides,
    }
    return randomise(Theirs(**config), seed)


def inputs(config, n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    ends = torch.tensor([TOKENS if i == 0 else 1 + (5 * i) % TOKENS for i in range(n)])
    return {
        "hidden_states": noise(n, WIDTH, seed=seed),
        "proj_embedding": noise(n, config.embedding_proj_dim or WIDTH, seed=seed + 1),
        "encoder_hidden_states": noise(n, TOKENS, WIDTH, seed=seed + 2),
        "attention_mask": torch.arange(TOKENS) < ends[:, None],
    }


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    theirs = make(**CONFIGS[request.param])
    return load_pair(theirs, PriorTransformer, tmp_path_factory.mktemp("prior"))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_predictions(pair, n, masked):
    theirs, ours = pair
    given = inputs(ours.config, n)
    if not masked:
        given["attention_mask"] = None
    want = theirs(**given, timestep=739).predicted_image_embedding
    got = ours(**given, timestep=739).predicted_image_embedding
    assert relative_l2(got, want) < LIMIT
    assert relative_l2(ours.post_process_latents(got), theirs.post_process_latents(want)) < LIMIT
    last = {name: None if v is None else v[-1:] for name, v in given.items()}
    assert torch.equal(ours(**last, timestep=739)[0], got[-1:])


@torch.no_grad()
def test_against_float64(pair):
    theirs, ours = pair
    given = inputs(ours.config, 2)
    doubled = {name: v.double() if v.is_floating_point() else v for name, v in given.items()}
    want = theirs.double()(**doubled, timestep=31).predicted_image_embedding.float()
    theirs.float()
    assert relative_l2(ours(**given, timestep=31)[0], want) < LIMIT


@torch.no_grad()
def test_a_time_for_each_row(pair):
    _, ours = pair
    given = inputs(ours.config, 3)
    got = ours(**given, timestep=torch.tensor([981, 20, 0])).predicted_image_embedding
    for i, t in enumerate((981, 20, 0)):
        row = {name: v[i : i + 1] for name, v in given.items()}
        assert torch.equal(ours(**row, timestep=t)[0], got[i : i + 1])


@torch.no_grad()
def test_the_same_bits_on_any_number_of_threads(pair, use_threads):
    _, ours = pair
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(ours(**inputs(ours.config, 3), timestep=500)[0])
    assert torch.equal(*results)


def test_every_parameter_matters(tmp_path):
    _, ours = load_pair(make(**CONFIGS["norms"]), PriorTransformer, tmp_path)
    given = inputs(ours.config, 1)

    def run():
        got = ours(**given, timestep=77).predicted_image_embedding
        return got, ours.post_process_latents(got)

    assert idle_parameters(ours, run) == []


@torch.no_grad()
def test_tokens_without_a_learned_one(tmp_path):
    """As Shap-E has it: no text, and positions of the noisy tokens alone."""
    config = {
        "added_emb_type": None, "encoder_hid_proj_type": None, "num_embeddings": 6,
        "additional_embeddings": 0, "clip_embed_dim": 16, "embedding_dim": 16,
    }  # fmt: skip
    theirs, ours = load_pair(make(**config), PriorTransformer, tmp_path)
    given = {"hidden_states": noise(2, 6, 16), "proj_embedding": noise(2, 16, seed=1)}
    want = theirs(**given, timestep=10).predicted_image_embedding
    assert relative_l2(ours(**given, timestep=10).predicted_image_embedding, want) < LIMIT


@torch.no_grad()
def test_half_precision(tmp_path):
    theirs, ours = load_pair(make(), PriorTransformer, tmp_path, dtype=torch.bfloat16)
    given = inputs(ours.config, 2)
    want = theirs(**given, timestep=99).predicted_image_embedding
    halves = {k: v.bfloat16() if v.is_floating_point() else v for k, v in given.items()}
    halved = theirs.to(torch.bfloat16)(**halves, timestep=99).predicted_image_embedding.float()
    got = ours(**given, timestep=99).predicted_image_embedding
    assert got.dtype == torch.bfloat16
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": torch.zeros(2, WIDTH + 1)}, r"hidden_states: expected \[N, 20\], got"),
        ({"hidden_states": torch.zeros(2, 1, WIDTH)}, r"hidden_states: expected \[N, 20\], got"),
        ({"proj_embedding": torch.zeros(2, 3)}, r"proj_embedding: expected \[N, 20\], got \[2, 3"),
        ({"encoder_hidden_states": None}, "encoder_hidden_states: this model needs them, got None"),
        ({"encoder_hidden_states": torch.zeros(3, TOKENS, WIDTH)}, r"expected \[2, 9, 20\], got"),
        ({"encoder_hidden_states": torch.zeros(2, 8, WIDTH)}, "expected 13 tokens in all"),
        ({"attention_mask": torch.ones(2, 8)}, r"attention_mask: expected shape \[2, 9\]"),
        ({"timestep": torch.zeros(3)}, r"timestep: expected a number or \[2\], got \[3\]"),
    ],
)
def test_wrong_inputs(change, message, tmp_path):
    _, ours = load_pair(make(), PriorTransformer, tmp_path)
    with pytest.raises(RequestError, match=message):
        ours(**{**inputs(ours.config, 2), "timestep": 3, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "_class_name"),
        ({"num_layers": 10**6}, "num_layers is"),
        ({"embedding_dim": 1 << 40}, "embedding_dim is"),
        ({"norm_in_type": "group"}, "norm_in_type"),
        ({"time_embed_act_fn": "relu"}, "time_embed_act_fn is 'relu', expected 'silu' or 'gelu'"),
        ({"added_emb_type": "cls"}, "added_emb_type"),
        ({"beams": 3}, "unknown keys 'beams'"),
    ],
)
def test_refused_configs(change, message, tmp_path):
    make().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        PriorTransformer.from_pretrained(tmp_path)


def test_refused_tensors(tmp_path):
    make(num_layers=2).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_layers": 3}))
    with pytest.raises(CheckpointError, match=r"missing: .*transformer_blocks\.2"):
        PriorTransformer.from_pretrained(tmp_path)
