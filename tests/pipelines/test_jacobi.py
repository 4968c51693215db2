"""Jacobi decoding: the tokens of drawing one by one, and so their distribution, in fewer passes."""

import functools
import itertools
import json
import math
import shutil

import pytest
import tiny
import torch
from safetensors.torch import save_file

import pyengine
from pyengine.decoding.drafts import Drafts
from pyengine.errors import CheckpointError, RequestError
from pyengine.ops import filter_logits
from pyengine.pipelines import StopSampling

WRITERS = {
    "gpt": tiny.write_picture_gpt,
    "janus": tiny.write_janus,
    "imagegpt": tiny.write_image_gpt,
}
PROMPTS = ["a red heart", "two big blue dogs with a moon", "x", "a cat"]
SETTINGS = {
    "as is": {},
    "greedy": {"temperature": 0},
    "limits": {"top_k": 7, "top_p": 0.8, "temperature": 0.7},
    "guidance": {"guidance_scale": 3.0, "min_p": 0.05},
    "greedy guidance": {"guidance_scale": 2.0, "temperature": 0},
}


@pytest.fixture(scope="module", params=WRITERS)
def pipe(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    return pyengine.from_pretrained(WRITERS[request.param](folder), device="cpu")


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    folder = tiny.write_picture_gpt(tmp_path_factory.mktemp("checkpoints") / "gpt")
    return pyengine.from_pretrained(folder, device="cpu")


def draw(pipe, rows=3, **how):
    """Three pictures of three prompts, or of none; their tokens only."""
    how = {"seed": 4, "output_type": "latent", **how}
    if not pipe.takes_prompt:
        how.pop("guidance_scale", None)
        return pipe(num_images_per_prompt=rows, **how)
    return pipe(PROMPTS[:rows], **how)


def jacobi(pipe, window, **how):
    return draw(pipe, decoding="jacobi", window=window, **how)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_tokens_of_one_by_one(pipe, name):
    want = draw(pipe, **SETTINGS[name])
    length = want.tokens[0].numel()
    assert (want.report.decoding, want.report.tokens_per_pass) == ("sequential", 1)
    for window in (1, 2, 5, 1000):
        got = jacobi(pipe, window, **SETTINGS[name])
        assert torch.equal(got.tokens, want.tokens)
        report = got.report
        assert (report.decoding, report.steps, report.tokens) == ("jacobi", length, 3 * length)
        assert report.evaluations <= length
        assert report.passes <= 3 * report.evaluations
        assert report.tokens_per_pass == report.tokens / report.passes
        if window == 1:
            assert (report.evaluations, report.passes) == (length, 3 * length)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_tokens_of_every_window(pipe, name):
    """By races: those of one by one, if these are draws by races too."""
    how = {"decoding": "jacobi-gumbel", **SETTINGS[name]}
    want = draw(pipe, window=1, **how)
    length = want.tokens[0].numel()
    assert (want.report.decoding, want.report.evaluations) == ("jacobi-gumbel", length)
    for window in (2, 5, 1000):
        got = draw(pipe, window=window, **how)
        assert torch.equal(got.tokens, want.tokens)
        assert got.report.evaluations <= length
    likeliest = SETTINGS[name].get("temperature") == 0
    assert torch.equal(draw(pipe, **SETTINGS[name]).tokens, want.tokens) == likeliest


def test_prefix(pipe):
    prefix = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 0, 1, 2]]
    want = draw(pipe, prefix=prefix)
    for window in (3, 1000):
        assert torch.equal(jacobi(pipe, window, prefix=prefix).tokens, want.tokens)
    length = want.tokens[0].numel()
    all_but_one = want.tokens.flatten(1)[:, : length - 1]
    got = jacobi(pipe, 4, prefix=all_but_one)
    assert torch.equal(got.tokens.flatten(1)[:, :-1], all_but_one)
    assert got.report.evaluations == 1


@pytest.mark.parametrize("decoding", ["jacobi", "jacobi-gumbel"])
def test_alone_as_in_a_batch(pipe, decoding):
    """Pictures of a batch advance by different amounts: tokens and passes are each one's own."""
    batch = draw(pipe, decoding=decoding, window=4, temperature=0.5)
    passes = 0
    for i in range(3):
        how = {"seed": 4 + i, "temperature": 0.5, "decoding": decoding, "window": 4}
        alone = pipe(PROMPTS[i], **how) if pipe.takes_prompt else pipe(**how)
        assert torch.equal(alone.tokens[0], batch.tokens[i])
        passes += alone.report.passes
    assert passes == batch.report.passes
    assert batch.report.evaluations <= passes


def test_one_generator_for_all(pipe):
    want, got = (
        draw(pipe, seed=None, generator=torch.Generator().manual_seed(2), **how)
        for how in ({}, {"decoding": "jacobi", "window": 6})
    )
    assert torch.equal(got.tokens, want.tokens)
    one, other = (
        draw(
            pipe,
            seed=None,
            generator=torch.Generator().manual_seed(2),
            decoding="jacobi-gumbel",
            window=window,
        )
        for window in (1, 7)
    )
    assert torch.equal(one.tokens, other.tokens)


def test_a_window_has_the_logits_of_one_by_one(pipe):
    model = pipe.model
    tokens = torch.randint(0, 16, (2, 8), generator=torch.Generator().manual_seed(3))
    read = pipe.decoder.model.read_tokens
    together = read(tokens, model.cache(2, 8), every=True)
    cache = model.cache(2, 8)
    for i in range(8):
        assert torch.equal(read(tokens[:, i : i + 1], cache), together[:, i])


def test_a_model_that_does_not_look_back(gpt):
    """All guesses of the second pass are right: the third sees that they are."""
    first = gpt.tokens.first_picture_token
    table = gpt.model.model.embed_tokens.weight
    kept = table.clone()
    try:
        table[first : first + gpt.tokens.picture_tokens] = kept[first]
        for how in SETTINGS.values():
            want = draw(gpt, **how)
            got = jacobi(gpt, 25, **how)
            assert torch.equal(got.tokens, want.tokens)
            assert got.report.evaluations <= 3
            assert got.report.tokens_per_pass >= 25 / 3
            assert jacobi(gpt, 6, **how).report.evaluations <= 10  # 7 tokens in two passes
    finally:
        table.copy_(kept)


# --- the distribution -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    """(a pipeline for pictures of 2x2 tokens out of 5, logits of "x" and of "" after any tokens)"""
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    gpt = {"codes": 5, "side": 2, "hidden_size": 16, "num_hidden_layers": 1}
    tiny.write_picture_gpt(folder, gpt=gpt, vqvae={"num_vq_embeddings": 5})
    pipe = pyengine.from_pretrained(folder, device="cpu")
    ids = [pipe._ids("prompt", prompt) for prompt in ("x", "")]
    first = pipe.tokens.first_picture_token

    @functools.cache
    def logits(drawn):
        rows = [torch.tensor([text + [first + t for t in drawn]]) for text in ids]
        reader = pipe.decoder.model
        return [reader.read_text(row, reader.cache(1, row.shape[1]))[0].double() for row in rows]

    return pipe, logits


def exact(logits, guidance_scale=1.0, temperature=1.0, top_k=0, top_p=1.0):
    """The probability of every picture of four tokens."""
    found = {(): 1.0}
    for _ in range(4):
        longer = {}
        for drawn, p in found.items():
            conditional, other = logits(drawn)
            guided = other + guidance_scale * (conditional - other)
            left = filter_logits(guided / temperature, top_k, top_p).softmax(-1).tolist()
            longer |= {(*drawn, token): p * share for token, share in enumerate(left) if share}
        found = longer
    return found


@pytest.mark.parametrize(
    ("decoding", "window", "how"),
    [
        (decoding, window, how)
        for decoding in ("jacobi", "jacobi-gumbel")
        for window in (2, 4)
        for how in (
            {"guidance_scale": 1.0},
            {"guidance_scale": 2.5, "top_k": 3, "temperature": 1.5},
            {"guidance_scale": 1.5, "top_p": 0.8},
        )
    ],
)
def test_the_distribution(two_by_two, decoding, window, how):
    """Chi-square of 5,000 pictures against their exact probabilities."""
    pipe, logits = two_by_two
    p = exact(logits, **how)
    counts, n = dict.fromkeys(p, 0), 5_000
    for seed in range(0, n, 1000):
        got = pipe(
            "x",
            seed=10_000 + seed,
            num_images_per_prompt=1000,
            decoding=decoding,
            window=window,
            output_type="latent",
            **how,
        )
        assert got.report.passes < got.report.tokens
        for row in got.tokens.flatten(1).tolist():
            counts[tuple(row)] += 1  # a picture that cannot be is no key
    often = [k for k in p if n * p[k] > 5]
    rest = n - sum(counts[k] for k in often), n * (1 - sum(p[k] for k in often))
    cells = [(counts[k], n * p[k]) for k in often] + ([rest] if rest[1] > 5 else [])
    chi = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    freedom = len(cells) - 1
    assert freedom > 20
    # Wilson-Hilferty: 4 standard deviations, once in 30,000 by chance; the seeds are fixed.
    assert chi <= freedom * (1 - 2 / (9 * freedom) + 4 * math.sqrt(2 / (9 * freedom))) ** 3


# --- ends, callbacks, refusals --------------------------------------------------------------------


def test_a_token_that_ends_a_picture(tmp_path):
    folder = tiny.write_image_gpt(tmp_path / "plain")
    tokens = draw(pyengine.from_pretrained(folder, device="cpu"), rows=5).tokens.flatten(1)
    end = int(tokens[0, 10])
    ending = shutil.copytree(folder, tmp_path / "ends")
    config = json.loads((ending / "config.json").read_text())
    config |= {"eos_token_id": end, "pad_token_id": 7}
    (ending / "config.json").write_text(json.dumps(config))
    pipe = pyengine.from_pretrained(ending, device="cpu")
    want = draw(pipe, rows=5)
    ends = {int((row == end).to(torch.uint8).argmax()) for row in want.tokens.flatten(1)}
    assert len(ends) > 1, "the pictures should end at different places"
    for window in (2, 9, 24):
        got = jacobi(pipe, window, rows=5)
        assert torch.equal(got.tokens, want.tokens)
        assert (got.report.tokens, got.report.steps) == (want.report.tokens, want.report.steps)
        assert not got.report.interrupted


def test_a_callback_after_every_pass(pipe):
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append(tensors["tokens"].clone())
        assert step == len(seen) - 1
        assert timestep == int((seen[-1] >= 0).sum(dim=1).max()) - 1

    result = jacobi(pipe, 5, temperature=0, callback_on_step_end=watch)
    assert len(seen) == result.report.evaluations
    final = result.tokens.flatten(1)
    for before, tokens in itertools.pairwise([torch.full_like(final, -1), *seen]):
        known = tokens >= 0
        assert torch.equal(tokens[known], final[known])
        assert (known.long().diff(dim=1) <= 0).all()  # in reading order
        assert (known.sum(dim=1) >= (before >= 0).sum(dim=1)).all()


@pytest.mark.parametrize("how", ["interrupt", "exception"])
def test_stopping_within_a_pass(pipe, how):
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append(tensors["tokens"].flatten(1))
        if step == 3:
            if how == "exception":
                raise StopSampling
            pipe.interrupt()

    result = jacobi(pipe, 3, callback_on_step_end=stop)
    assert result.report.interrupted
    assert (result.report.evaluations, len(seen)) == (4, 4)
    assert torch.equal(result.tokens.flatten(1), seen[-1])
    assert (result.tokens < 0).any()


def test_a_callback_changes_what_was_drawn_last(pipe):
    """Each picture goes on as from a prefix that has the changed token."""
    prefix = []

    def change(pipe, step, timestep, tensors):
        if step != 2:
            return None
        tokens = tensors["tokens"]
        last = (tokens >= 0).sum(dim=1) - 1
        tokens[torch.arange(len(tokens)), last] = 6
        prefix.extend(row[: n + 1].tolist() for row, n in zip(tokens, last.tolist(), strict=True))
        return {"tokens": tokens}

    got = jacobi(pipe, 3, temperature=0, callback_on_step_end=change)
    for i, known in enumerate(prefix):
        how = {"prefix": known, "temperature": 0}
        want = pipe(PROMPTS[i], **how) if pipe.takes_prompt else pipe(**how)
        assert torch.equal(got.tokens[i], want.tokens[0])


def test_a_callback_may_not_change_what_was_read(pipe):
    def change(pipe, step, timestep, tensors):
        return {"tokens": tensors["tokens"].index_fill(1, torch.tensor(0), 3)} if step > 2 else None

    with pytest.raises(RequestError, match=r"tokens: expected changes only at place [0-9, ]+, in"):
        jacobi(pipe, 3, prefix=[1, 2], callback_on_step_end=change)


def test_refused(pipe):
    for how, message in (
        ({"decoding": "fast"}, "decoding: expected one of sequential, jacobi, jacobi-gumbel"),
        ({"decoding": 1}, "decoding: expected"),
        ({"window": 0}, "window: expected"),
        ({"window": 1.5}, "window: expected"),
    ):
        with pytest.raises(RequestError, match=message):
            draw(pipe, **how)


def test_a_checkpoint_may_choose(tmp_path):
    folder = tiny.write_picture_gpt(tmp_path / "gpt")
    (folder / "pyengine.json").write_text('{"decoding": "jacobi", "window": 3}')
    pipe = pyengine.from_pretrained(folder, device="cpu")
    result = draw(pipe)
    assert result.report.decoding == "jacobi"
    assert torch.equal(result.tokens, draw(pipe, decoding="sequential").tokens)
    assert result.report.passes == jacobi(pipe, 3).report.passes


# --- drafts ---------------------------------------------------------------------------------------


def write_drafts(folder, drafts, name="drafts"):
    save_file({name: drafts.contiguous()}, folder / "tokens" / "model.safetensors")


def test_drafts_change_no_token(gpt, tmp_path):
    """Random ones make no picture, those that it will draw make it in one pass more than needed."""
    folder = shutil.copytree(gpt.source, tmp_path / "gpt")
    want = draw(gpt, seed=[4, 5, 6])
    whole = want.tokens.flatten(1).shape[1]
    noise = torch.randint(40, (7, 5, 5), generator=torch.Generator().manual_seed(1)).short()
    for drafts, most in ((noise, whole), (torch.cat([noise, want.tokens.short()]), 5)):
        write_drafts(folder, drafts)
        pipe = pyengine.from_pretrained(folder, device="cpu")
        for window in (1, 8, 25):
            got = jacobi(pipe, window, seed=[4, 5, 6])
            assert torch.equal(got.tokens, want.tokens)
            alone = jacobi(pipe, window, rows=1, seed=4)
            assert torch.equal(alone.tokens[0], want.tokens[0])
            assert got.report.evaluations <= max(most, whole if window == 1 else whole // 8 + 2)
        for seed in (4, 5):
            how = {"decoding": "jacobi-gumbel", "seed": seed}
            assert torch.equal(draw(pipe, **how).tokens, draw(gpt, **how).tokens)


def test_the_draft_that_agrees_best():
    drafts = Drafts(
        torch.tensor([[1, 2, 3, 4, 5], [1, 2, 9, 9, 9], [1, 2, 3, 8, 8], [7, 7, 3, 4, 6]])
    )
    for tokens, best in (([1, 2, 3], 0), ([1, 2, 9], 1), ([5, 5, 5, 5], 0), ([7, 7, 3, 4], 3)):
        assert drafts.best(drafts.score(), tokens) == drafts.pictures[best]
        score = drafts.score()  # of fewer tokens first
        drafts.best(score, tokens[:2])
        assert drafts.best(score, tokens) == drafts.pictures[best]


@pytest.mark.parametrize(
    ("drafts", "name", "said"),
    [
        (torch.zeros(2, 5, 5), "drafts", r"drafts: expected int16 or int32 \[M, 5, 5\].*float32"),
        (torch.zeros(2, 5, 4, dtype=torch.int16), "drafts", r"found torch.int16 \[2, 5, 4\]"),
        (torch.zeros(0, 5, 5, dtype=torch.int16), "drafts", r"found torch.int16 \[0, 5, 5\]"),
        (torch.full((1, 5, 5), 40, dtype=torch.int32), "drafts", "expected tokens 0 to 39"),
        (torch.full((1, 5, 5), -1, dtype=torch.int16), "drafts", "found -1 to -1"),
        (torch.zeros(1, 5, 5, dtype=torch.int16), "x", "expected one tensor, drafts, found 'x'"),
    ],
)
def test_damaged_drafts(gpt, tmp_path, drafts, name, said):
    folder = shutil.copytree(gpt.source, tmp_path / "gpt")
    write_drafts(folder, drafts, name)
    with pytest.raises(CheckpointError, match=rf"tokens/model\.safetensors: .*{said}"):
        pyengine.from_pretrained(folder, device="cpu")
