"""The CLIP text encoders against transformers' on the same weights."""

import json

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, relative_l2
from safetensors.torch import load_file, save_file

from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import CLIPTextModel, CLIPTextModelWithProjection

END = tiny.VOCAB_SIZE - 1
ENCODERS = {
    "vit_l": {},
    "open_clip_h": {"hidden_act": "gelu", "num_hidden_layers": 4, "intermediate_size": 80},
    "one_layer": {"num_hidden_layers": 1, "num_attention_heads": 1, "layer_norm_eps": 1e-3},
    "legacy_eos": {"eos_token_id": 2, "num_attention_heads": 4},
    "long": {"max_position_embeddings": 154},
}


def prompts(n: int, length: int, pad: int = END, seed: int = 0) -> torch.Tensor:
    """[n, length] ids with start, words, end and padding, the ends at different places."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, END - 1, (n, length), generator=generator)
    ids[:, 0] = END - 1
    for i in range(n):
        end = length - 1 if i == 0 else (7 * i) % length
        ids[i, end] = END
        ids[i, end + 1 :] = pad
    return ids


@pytest.fixture(scope="module", params=ENCODERS)
def pair(request, tmp_path_factory):
    theirs = tiny.make_text_encoder(**ENCODERS[request.param])
    return load_pair(theirs, CLIPTextModel, tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module", params=["gelu", "quick_gelu", "silu"])
def projected(request, tmp_path_factory):
    config = {"hidden_size": 40, "projection_dim": 24, "hidden_act": request.param}
    theirs = tiny.make_text_encoder(projection=True, **config)
    return load_pair(theirs, CLIPTextModelWithProjection, tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize(("n", "length"), [(1, 77), (2, 1), (5, 13), (3, 64)])
@pytest.mark.parametrize("pad", [END, 0], ids=["pad_is_end", "pad_is_0"])
@torch.no_grad()
def test_text_model(pair, n, length, pad):
    theirs, ours = pair
    ids = prompts(n, length, pad)
    want = theirs(ids, output_hidden_states=True)
    got = ours(ids, output_hidden_states=True)
    assert relative_l2(got.last_hidden_state, want.last_hidden_state) < LIMIT
    assert relative_l2(got.pooler_output, want.pooler_output) < LIMIT
    assert len(got.hidden_states) == len(want.hidden_states) == ours.config.num_hidden_layers + 1
    for mine, other in zip(got.hidden_states, want.hidden_states, strict=True):
        assert relative_l2(mine, other) < LIMIT


@torch.no_grad()
def test_more_than_77_tokens(tmp_path):
    theirs = tiny.make_text_encoder(**ENCODERS["long"])
    theirs, ours = load_pair(theirs, CLIPTextModel, tmp_path)
    ids = prompts(2, 154)
    assert relative_l2(ours(ids)[0], theirs(ids).last_hidden_state) < LIMIT


@pytest.mark.parametrize("length", [77, 13])
@torch.no_grad()
def test_projection(projected, length):
    theirs, ours = projected
    ids = prompts(4, length, pad=0)
    want = theirs(ids, output_hidden_states=True)
    got = ours(ids, output_hidden_states=True)
    assert relative_l2(got.text_embeds, want.text_embeds) < LIMIT
    assert relative_l2(got.last_hidden_state, want.last_hidden_state) < LIMIT
    assert relative_l2(got.hidden_states[-2], want.hidden_states[-2]) < LIMIT
    assert torch.equal(got[0], got.text_embeds)


@pytest.mark.parametrize("clip_skip", [1, 2])
@torch.no_grad()
def test_clip_skip(clip_skip, tmp_path):
    """As diffusers does it: an earlier layer's state through the final norm."""
    theirs, ours = load_pair(tiny.make_text_encoder(), CLIPTextModel, tmp_path)
    ids = prompts(2, 20)
    state = theirs(ids, output_hidden_states=True).hidden_states[-(clip_skip + 1)]
    want = theirs.final_layer_norm(state)
    got = ours(ids, output_hidden_states=True).hidden_states[-(clip_skip + 1)]
    assert relative_l2(ours.final_layer_norm(got), want) < LIMIT
    assert relative_l2(got, want) > 0.1


@torch.no_grad()
def test_attention_mask(pair):
    theirs, ours = pair
    ids = prompts(4, 30)
    mask = (torch.arange(30) < torch.tensor([30, 8, 15, 1])[:, None]).long()
    want = theirs(ids, attention_mask=mask).last_hidden_state
    got = ours(ids, attention_mask=mask).last_hidden_state
    assert relative_l2(got, want) < LIMIT
    assert relative_l2(got, ours(ids).last_hidden_state) > 0.01
    assert relative_l2(ours(ids, attention_mask=torch.ones_like(ids))[0], ours(ids)[0]) < LIMIT


@torch.no_grad()
def test_a_mask_that_hides_the_beginning_leaves_no_nan(pair):
    theirs, ours = pair
    ids = prompts(2, 12)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    want = theirs(ids, attention_mask=mask).last_hidden_state
    got = ours(ids, attention_mask=mask).last_hidden_state
    assert torch.isfinite(got).all()
    # Rows that see some key agree; what a hidden row sees is nobody's business.
    assert relative_l2(got[1, 5:], want[1, 5:]) < LIMIT
    assert relative_l2(got[0], want[0]) < LIMIT


@pytest.mark.parametrize("eos_token_id", [2, END, END - 2])
@torch.no_grad()
def test_pooling(eos_token_id, tmp_path):
    """eos_token_id 2 means the highest id; any other its first place; row 0 where it is not."""
    theirs = tiny.make_text_encoder(projection=True, eos_token_id=eos_token_id)
    theirs, ours = load_pair(theirs, CLIPTextModelWithProjection, tmp_path)
    ids = prompts(4, 9)
    ids[1, 3] = END  # twice: the first counts
    assert relative_l2(ours(ids).text_embeds, theirs(ids).text_embeds) < LIMIT
    rows = ours.text_model._end_of_text(ids).tolist()
    ends = [int((row == END).nonzero()[0]) for row in ids]
    assert rows == (ends if eos_token_id != END - 2 else [0, 0, 0, 0])


@torch.no_grad()
def test_names_of_transformers_4(tmp_path):
    """There CLIPTextModel saves its tensors as text_model.*, with position_ids among them."""
    theirs = tiny.make_text_encoder()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in tensors.items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    ours = CLIPTextModel.from_pretrained(tmp_path)
    ids = prompts(2, 77)
    assert relative_l2(ours(ids)[0], theirs(ids).last_hidden_state) < LIMIT


def test_a_projection_too_many_is_harmless_and_one_too_few_is_not(tmp_path):
    tiny.make_text_encoder(projection=True).save_pretrained(tmp_path / "with")
    ids = prompts(1, 7)
    with_it = CLIPTextModelWithProjection.from_pretrained(tmp_path / "with")
    without = CLIPTextModel.from_pretrained(tmp_path / "with")
    assert torch.equal(with_it(ids).last_hidden_state, without(ids).last_hidden_state)
    tiny.make_text_encoder().save_pretrained(tmp_path / "without")
    with pytest.raises(CheckpointError, match=r"text_projection\.weight"):
        CLIPTextModelWithProjection.from_pretrained(tmp_path / "without")


def test_a_whole_clips_config(tmp_path):
    """text_config inside: what openai/clip-vit-large-patch14 has."""
    theirs = tiny.make_text_encoder()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    whole = {"model_type": "clip", "projection_dim": 8, "text_config": config, "vision_config": {}}
    file.write_text(json.dumps(whole))
    ours = CLIPTextModel.from_pretrained(tmp_path)
    ids = prompts(1, 5)
    with torch.no_grad():
        assert relative_l2(ours(ids)[0], theirs(ids).last_hidden_state) < LIMIT
    config["hidden_act"] = "relu"
    file.write_text(json.dumps(whole))
    with pytest.raises(ConfigError, match="text_config: hidden_act"):
        CLIPTextModel.from_pretrained(tmp_path)


def test_every_parameter_matters(tmp_path):
    theirs = tiny.make_text_encoder(projection=True, vocab_size=9, max_position_embeddings=9)
    _, ours = load_pair(theirs, CLIPTextModelWithProjection, tmp_path)
    ids = torch.arange(9)[None]

    def run():
        return ours(ids, return_dict=False)

    assert idle_parameters(ours, run) == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 78, dtype=torch.long), r"expected integers \[N, 1 to 77\]"),
        (torch.zeros(1, 0, dtype=torch.long), r"expected integers \[N, 1 to 77\]"),
        (torch.zeros(5, dtype=torch.long), r"expected integers \[N, 1 to 77\]"),
        (torch.zeros(1, 5), r"expected integers \[N, 1 to 77\]"),
        (torch.full((1, 5), tiny.VOCAB_SIZE), "expected 0 to 622, got 623 to 623"),
        (torch.full((1, 5), -1), "got -1 to -1"),
    ],
)
def test_wrong_ids(ids, message, tmp_path):
    _, ours = load_pair(tiny.make_text_encoder(), CLIPTextModel, tmp_path)
    with pytest.raises(RequestError, match=message):
        ours(ids)
    with pytest.raises(RequestError, match="attention_mask: expected shape"):
        ours(prompts(2, 5), torch.ones(2, 4))


@torch.no_grad()
def test_half_precision(tmp_path):
    theirs, ours = load_pair(
        tiny.make_text_encoder(), CLIPTextModel, tmp_path, dtype=torch.bfloat16
    )
    ids = prompts(2, 16)
    mask = (torch.arange(16) < 9).long().expand(2, -1)
    want = theirs(ids, attention_mask=mask).last_hidden_state
    halved = theirs.to(torch.bfloat16)(ids, attention_mask=mask).last_hidden_state.float()
    got = ours(ids, mask).last_hidden_state
    assert got.dtype == torch.bfloat16
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)
