"""A run of emoji-ar trains, stops, goes on to the same weights, and becomes a folder that
pyengine draws with and whose halves diffusers and transformers load.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pyengine
from pyengine.errors import CheckpointError, RequestError
from pyengine.training import codebook, course, emoji_ar, evaluate, export, export_ar, gpt, samples
from pyengine.training import vq_autoencoder as vq


def quiet(line):
    pass


@pytest.fixture(scope="session")
def settings_ar(pictures):
    return emoji_ar.EmojiARSettings(
        vq=vq.VQSettings(
            channels=(8, 8, 8),
            groups=4,
            latent_channels=8,
            entries=12,
            width=4,
            size=16,
            steps=10,
            batch=4,
            warmup=1,
            cooldown=3,
            plain_steps=4,
            shift=1,
        ),
        gpt=gpt.GPTSettings(
            hidden=16,
            intermediate=24,
            layers=2,
            heads=2,
            vocabulary=530,
            length=32,
            codes=12,
            side=4,
            views=3,
            shift=1,
            batch=4,
            warmup=2,
        ),
        labels=tuple(dict.fromkeys(pictures.labels)),
        styles=tuple(dict.fromkeys(pictures.styles)),
    )


@pytest.fixture(scope="session")
def run_ar(tmp_path_factory, pictures, settings_ar):
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("emoji-ar") / "run"
    return emoji_ar.train(
        data=pictures,
        out=folder,
        steps=6,
        settings=settings_ar,
        sample_minutes=0,
        log_every=2,
        echo=quiet,
    )


@pytest.fixture(scope="session")
def model_ar(run_ar, tmp_path_factory):
    return export_ar.export(run=run_ar, to=tmp_path_factory.mktemp("exported") / "model")


def checkpoints(folder):
    return [torch.load(folder / name, weights_only=True) for name in ("vq.pt", "gpt.pt")]


def test_run_leaves_checkpoints_and_log(run_ar):
    names = {"vq.pt", "gpt.pt", "tokens.npz", "tokenizer", "log.jsonl", "settings.json"}
    assert names <= {p.name for p in run_ar.iterdir()}
    records = [json.loads(line) for line in (run_ar / "log.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in records} == {"vq", "gpt"}
    assert all(np.isfinite(r["loss"]) for r in records if r["stage"] == "gpt")
    assert records[-1]["picture"] > 0


def test_resumed_run_is_the_same_run(run_ar, tmp_path, pictures, settings_ar):
    """Stopped in both stages, before and after the codebook begins."""
    from dataclasses import replace

    folder = tmp_path / "run"
    call = {"data": pictures, "out": folder, "sample_minutes": 0, "echo": quiet}
    for vq_steps in (3, 7):
        # The descent of the rate is counted from the last step: it has to be the whole run's.
        coder = replace(settings_ar.vq, steps=vq_steps, cooldown=0)
        emoji_ar.train(**call, steps=0, settings=replace(settings_ar, vq=coder))
    for steps in (2, 6):
        emoji_ar.train(**call, steps=steps, settings=settings_ar)
    for whole, resumed in zip(checkpoints(run_ar), checkpoints(folder), strict=True):
        assert whole["step"] == resumed["step"]
        for name, value in whole["model"].items():
            assert torch.equal(value, resumed["model"][name]), name
        for value, other in zip(whole["average"], resumed["average"], strict=True):
            assert torch.equal(value, other)


PROCESS = """
import pickle, sys, torch
from pyengine.training import emoji_ar, parallel
torch.set_num_threads(1)
rank, place, data, out = int(sys.argv[1]), *sys.argv[2:]
pictures, settings = pickle.load(open(data, "rb"))
parallel.start(rank, 2, place)
emoji_ar.train(data=pictures, out=out, steps=6, settings=settings, sample_minutes=0)
parallel.stop()
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(run_ar, tmp_path, pictures, settings_ar):
    import pickle

    data, folder = tmp_path / "data", tmp_path / "run"
    data.write_bytes(pickle.dumps((pictures, settings_ar)))
    words = [str(tmp_path / "meeting"), str(data), str(folder)]
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), *words], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    output = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert not output[1]  # only the first speaks and writes
    for whole, shared in zip(checkpoints(run_ar), checkpoints(folder), strict=True):
        assert whole["step"] == shared["step"]
        for name, value in whole["model"].items():
            torch.testing.assert_close(shared["model"][name], value, rtol=0, atol=2e-2)


def test_more_steps_lower_the_loss(tmp_path, run_ar, pictures, settings_ar):
    folder = shutil.copytree(run_ar, tmp_path / "run")
    emoji_ar.train(
        data=pictures,
        out=folder,
        steps=156,
        settings=settings_ar,
        sample_minutes=0,
        log_every=50,
        echo=quiet,
    )
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [r["picture"] for r in records if r["stage"] == "gpt"]
    assert losses[-1] < 0.7 * losses[0]


def test_cooldown_is_a_branch(run_ar, tmp_path, pictures):
    folder = shutil.copytree(run_ar, tmp_path / "run")
    before = (folder / "gpt.pt").read_bytes()
    cooled = emoji_ar.cool(data=pictures, out=folder, steps=3, echo=quiet)
    assert torch.load(cooled, weights_only=True)["step"] == 9
    assert (folder / "gpt.pt").read_bytes() == before
    assert export.choose_weights(folder, "auto", "gpt.pt") == cooled
    assert export.choose_weights(folder, "average", "gpt.pt").name == "gpt.pt"


def test_sharpening_keeps_the_tokens(run_ar, tmp_path, pictures, settings_ar):
    folder = shutil.copytree(run_ar, tmp_path / "run")
    before = vq.load(folder, settings_ar.vq)
    tokens = vq.encode(before, pictures.images)
    error = np.square(vq.decode(before, tokens) / 255 - pictures.images / 255).mean()
    kept = (folder / "vq.pt").read_bytes()
    call = {"data": pictures, "out": folder, "rate": 1e-2, "echo": quiet}
    for steps in (30, 20):
        path = emoji_ar.sharpen(**call, steps=steps)
    assert torch.load(path, weights_only=True)["step"] == 50
    after = vq.load(folder, settings_ar.vq)
    assert torch.equal(vq.encode(after, pictures.images), tokens)
    assert np.square(vq.decode(after, tokens) / 255 - pictures.images / 255).mean() < 0.8 * error
    assert (folder / "vq.pt").read_bytes() == kept
    model = export_ar.export(run=folder, to=tmp_path / "model", draw_samples=False)
    assert "its decoder on these alone 50 more" in (model / "README.md").read_text()


# --- the model folder -----------------------------------------------------------------------------


@torch.no_grad()
def test_halves_load_elsewhere(model_ar, run_ar, settings_ar, pictures):
    from diffusers import VQModel
    from transformers import CLIPTokenizer, LlamaForCausalLM

    lm = LlamaForCausalLM.from_pretrained(model_ar / "transformer").float()
    state = torch.load(run_ar / "gpt.pt", weights_only=True)
    for value, other in zip(state["average"], lm.parameters(), strict=True):
        assert torch.equal(value.half().float(), other)
    theirs = VQModel.from_pretrained(model_ar / "vqvae").float()
    pipe = pyengine.from_pretrained(model_ar, device="cpu")
    tokens = vq.encode(theirs, pictures.images)
    x = torch.from_numpy(pictures.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(pipe.vq.encode_tokens(x), tokens)
    error = vq.decode(theirs, tokens).astype(int) - np.asarray(
        pipe.vq.decode_tokens(tokens).sample.clamp(-1, 1).add(1).mul(127.5).round()
    ).transpose(0, 2, 3, 1)
    assert np.abs(error).max() <= 1
    tokenizer = CLIPTokenizer.from_pretrained(model_ar / "tokenizer")
    own = pipe._ids("prompt", "a red thing")
    first = settings_ar.gpt.first_text
    assert own[:-1] == [first + i for i in tokenizer("a red thing").input_ids]


def test_the_folder_draws_and_says_what_it_is(model_ar, settings_ar):
    pipe = pyengine.from_pretrained(model_ar, device="cpu")
    draw = samples.generator(pipe, steps=None, guidance=None, batch=2)
    images = draw(["a red thing", "a blue thing", ""], [1, 2, 3])
    assert images.shape == (3, 16, 16, 3)
    assert np.array_equal(draw(["a blue thing"], [2])[0], images[1])
    assert (model_ar / "concepts.txt").read_text().splitlines() == list(settings_ar.labels)
    assert "CC-BY 4.0" in (model_ar / "NOTICE").read_text()
    card = (model_ar / "README.md").read_text()
    assert "](samples.png)" in card
    assert "| codebook | 12 entries of 4, " in card
    assert "seen | 24 pictures in 6 steps of 4, 3 versions of each" in card
    assert not list(model_ar.rglob("*.pt"))


def test_no_more_drafts_than_a_model_may_bring(tmp_path, monkeypatch):
    """Spread over all of them, in their order, and told."""
    drafts = np.arange(1, 10, dtype=np.int32)[:, None, None] * np.ones((2, 3), np.int32)
    np.savez(tmp_path / "tokens.npz", tokens=drafts.reshape(3, 3, 2, 3))
    (tmp_path / "tokens").mkdir()
    for most, kept in ((9, range(1, 10)), (8, [1, 2, 3, 4, 5, 6, 7, 9]), (3, [1, 5, 9])):
        monkeypatch.setattr("pyengine.pipelines.reading.MAX_DRAFTED", 6 * most + 5)
        told = export_ar.write_drafts(tmp_path, tmp_path / "tokens.npz")
        assert told == {"kept": len(kept), "of": 9}
        found = load_file(tmp_path / "tokens" / "model.safetensors")["drafts"]
        assert found[:, 1, 2].tolist() == list(kept)


def test_same_figures_as_the_diffusion_model(model_ar, pictures):
    from pyengine.cli.train import autoencoder, concepts_of

    pipe = pyengine.from_pretrained(model_ar, device="cpu")
    result = evaluate.evaluate(
        samples.generator(pipe, steps=None, guidance=None),
        concepts=concepts_of(pipe),
        data=pictures,
        style="flat",
        styles=("flat", "round"),
        count=3,
        autoencode=autoencoder(pipe),
    )
    assert {"model", "model_all_pictures", "ceiling", "floor"} <= set(result)
    assert result["asked"] == 3


def test_command_line(tmp_path, monkeypatch, capsys):
    """A whole run would take the real shapes: only what the command hands on is looked at."""
    from pyengine.cli import main

    seen, model = {}, tmp_path / "model"
    for module, name, made in (
        (emoji_ar, "train", tmp_path), (emoji_ar, "cool", None), (emoji_ar, "sharpen", None),
        (export_ar, "export", model),
    ):  # fmt: skip
        monkeypatch.setattr(
            module, name, lambda name=name, made=made, **how: seen.update({name: how}) or made
        )
    words = ["train", "emoji-ar", "--out", str(tmp_path), "--steps", "3", "--vq-steps", "2"]
    assert main(words) == 0
    train = seen.pop("train")
    assert (train["steps"], train["vq_steps"], train["device"]) == (3, 2, "cpu")
    assert not seen
    assert capsys.readouterr().out.strip() == str(tmp_path)
    words += ["--data", "d", "--threads", "1", "--cool", "5", "--export", str(model)]
    assert main(words) == 0
    same = {"data": Path("d"), "out": tmp_path, "threads": 1, "device": "cpu"}
    assert seen["cool"] == {**same, "steps": 5}
    assert seen["sharpen"] == {**same, "steps": 2000}
    assert seen["export"] == {"run": tmp_path, "to": model}
    (tmp_path / "decoder.pt").touch()  # it was sharpened before
    seen.clear()
    assert main([*words, "--cool", "0"]) == 0
    assert set(seen) == {"train", "export"}


# --- parts ----------------------------------------------------------------------------------------


def test_loss_is_that_of_the_whole_rows(settings_ar):
    """From all logits of every row by itself, without filling: what the picked places make."""
    from torch.nn import functional

    s = settings_ar.gpt
    networks = gpt.Networks(s, "cpu", 3)
    numbers = np.random.default_rng(1)
    rows, lengths = [], [2, 5, 3]
    for length in lengths:
        text = s.first_text + numbers.integers(s.vocabulary, size=length)
        rows.append([*text, s.begin_of_picture, *numbers.integers(s.codes, size=s.side**2)])
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[s.padding] * (longest - len(row))] for row in rows])
    with torch.no_grad():
        got = networks.loss(ids, torch.tensor(lengths), ids)
        picture, text = [], []
        for row, length in zip(rows, lengths, strict=True):
            logits = networks.model(torch.tensor([row])).logits[0]
            for i in range(1, len(row)):
                if i < length:
                    part = logits[i - 1, s.first_text : s.begin_of_picture]
                    target = torch.tensor(row[i] - s.first_text)
                    text.append(functional.cross_entropy(part, target))
                elif i > length:
                    part = logits[i - 1, : s.codes]
                    picture.append(functional.cross_entropy(part, torch.tensor(row[i])))
    want = torch.stack(picture).mean(), torch.stack(text).mean()
    torch.testing.assert_close(torch.stack(got[1:]), torch.stack(want))
    torch.testing.assert_close(got[0], want[0] + s.text * want[1])


def test_some_picture_tokens_are_read_as_others(pictures, settings_ar):
    from dataclasses import replace

    s = replace(settings_ar.gpt, batch=8, corrupted=0.25)
    codes = np.arange(8 * 16).reshape(8, 1, 4, 4) % 12
    text = [3, 4, 5]
    batches = gpt.Batches(pictures, codes, lambda prompt: text, s, 1, "cpu")
    changed = []
    for step in range(40):
        ids, lengths, given = batches(step)
        picture = slice(len(text) + 1, None)
        assert torch.equal(given[:, : len(text) + 1], ids[:, : len(text) + 1])
        assert lengths.tolist() == [3] * 8
        assert 0 <= int(given[:, picture].min()) <= int(given[:, picture].max()) < 12
        rows = course.shuffled_rows(1, step, 8, 8)
        assert np.array_equal(ids[:, picture].numpy(), codes[rows].reshape(8, 16))
        changed.append((given != ids)[:, picture].float().mean(dim=1))
    share = torch.stack(changed).flatten()
    assert float(share.mean()) == pytest.approx(0.25 * 11 / 12, abs=0.03)  # one in 12 is the same
    assert float((share < 0.05).float().mean()) > 0.05  # some rows are read as they are


def test_codebook_is_a_k_means():
    vectors = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    errors = []
    for rounds in (0, 1, 10):
        book = codebook.Codebook(20, 3, 0.9, 0.03, "cpu")
        book.begin(vectors, np.random.default_rng(5), rounds)
        errors.append(float(codebook.nearest(vectors, book.entries)[1].mean()))
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < 0.95 * errors[1]
    codes, distances = codebook.nearest(vectors, book.entries)
    table = torch.cdist(vectors.double(), book.entries.double()).square()
    assert torch.equal(codes, table.argmin(1))
    torch.testing.assert_close(distances.double(), table.min(1).values, rtol=1e-4, atol=1e-5)


def test_dead_entries_begin_again():
    numbers = np.random.default_rng(5)
    centres = torch.tensor(numbers.normal(size=(8, 3)) * 10, dtype=torch.float32)
    vectors = centres.repeat(40, 1) + 0.01 * torch.randn(
        320, 3, generator=torch.Generator().manual_seed(1)
    )
    book = codebook.Codebook(8, 3, 0.9, 0.03, "cpu")
    book.counts.fill_(1.0)
    book.sums.copy_(centres)
    for _ in range(60):  # half of the centres are seen no more
        few = vectors[(torch.arange(320) % 8) < 4]
        codes, errors = codebook.nearest(few, book.entries)
        book.update(few, codes)
    assert book.used() == 4
    assert book.perplexity() == pytest.approx(4, rel=0.05)
    assert book.revive(few, errors, numbers) == 4
    assert book.used() == 8


def test_views_begin_plain_and_mirrored(pictures, settings_ar):
    views = emoji_ar.views(pictures.images, settings_ar.gpt, 1)
    assert views.shape == (8, 3, 16, 16, 3)
    assert np.array_equal(views[:, 0], pictures.images)
    assert np.array_equal(views[:, 1], pictures.images[:, :, ::-1])


def test_each_pass_sees_every_picture_once():
    rows = np.concatenate([course.shuffled_rows(3, step, 4, 8) for step in range(4)])
    assert sorted(rows[:8]) == sorted(rows[8:]) == list(range(8))


def test_refusals(run_ar, tmp_path, pictures, settings_ar):
    from dataclasses import replace

    with pytest.raises(RequestError, match=r"gpt: codes, side: expected \(12, 4\) of vq"):
        replace(settings_ar, gpt=replace(settings_ar.gpt, codes=13))
    with pytest.raises(RequestError, match="rate: expected a positive number"):
        emoji_ar.train(data=pictures, out=tmp_path, rate=-1.0, settings=settings_ar)
    with pytest.raises(RequestError, match=r"expected a folder with gpt\.pt"):
        emoji_ar.cool(data=pictures, out=_only_settings(run_ar, tmp_path / "new"))
    with pytest.raises(RequestError, match="weights: expected auto"):
        export.choose_weights(run_ar, "best", "gpt.pt")
    wider = replace(settings_ar, vq=replace(settings_ar.vq, width=5))
    with pytest.raises(CheckpointError, match="width: expected 5, given 4"):
        emoji_ar.train(data=pictures, out=run_ar, steps=6, settings=wider, echo=quiet)
    emoji_ar.recipe.save_settings(run_ar, settings_ar)


def _only_settings(run, folder):
    folder.mkdir()
    shutil.copy(run / "settings.json", folder)
    return folder
