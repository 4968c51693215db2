"""Hub ids: out of a cache made here, offline; what would be downloaded; and refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import save_file
from whole import load, load_parts

import pyengine
from pyengine.errors import CheckpointError
from pyengine.weights import hub, open_weights, resolve

REVISION = "0123456789abcdef0123456789abcdef01234567"


def make_cache(folder: Path, cache: Path, repo: str = "some-org/tiny-sd") -> Path:
    """Lays `folder` out as huggingface_hub does: blobs, and a snapshot of links to them."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(REVISION)
    for number, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = root / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        link = root / "snapshots" / REVISION / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return root


@pytest.fixture
def cache(sd1, tmp_path):
    make_cache(sd1, tmp_path / "hub")
    return tmp_path / "hub"


@pytest.fixture
def no_network(monkeypatch):
    """Whatever would ask the network fails the test."""
    import huggingface_hub

    def called(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("hf_hub_download", "snapshot_download", "HfApi"):
        monkeypatch.setattr(huggingface_hub, name, called)


def test_from_the_cache_without_the_network(cache, no_network, sd1):
    parts = load("some-org/tiny-sd", cache_dir=cache)
    want = load(sd1)["unet"].state_dict()
    assert all(torch.equal(t, want[n]) for n, t in parts["unet"].state_dict().items())
    checkpoint = resolve("some-org/tiny-sd", cache_dir=cache)
    assert checkpoint.source == "some-org/tiny-sd"
    assert checkpoint.model_hash == resolve(sd1).model_hash
    assert resolve("some-org/tiny-sd", cache_dir=cache, revision=REVISION).folder.name == REVISION


def test_a_snapshots_folder_and_a_model_in_it_open_by_path(cache, no_network):
    folder = cache / "models--some-org--tiny-sd" / "snapshots" / REVISION
    load(folder)
    with open_weights(folder / "unet") as source:
        assert "conv_in.bias" in source


def test_offline_in_a_fresh_process(cache):
    """With HF_HUB_OFFLINE=1 and HF_HUB_CACHE, as a user sets them."""
    code = (
        "from pyengine.weights import resolve; c = resolve('some-org/tiny-sd');"
        "print(len(c.tensors('unet')));"
        "resolve('some-org/other')"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True
    )
    assert int(run.stdout) > 100
    assert "CheckpointError: some-org/other: the Hub is offline" in run.stderr
    assert "it is not in the cache" in run.stderr


def test_links_out_of_the_repositorys_cache_are_refused(cache, no_network, sd1):
    other = make_cache(sd1, cache, "some-org/secret")
    folder = cache / "models--some-org--tiny-sd" / "snapshots" / REVISION
    link = folder / "unet" / "diffusion_pytorch_model.safetensors"
    link.unlink()
    link.symlink_to(next((other / "blobs").iterdir()))
    with pytest.raises(CheckpointError, match="leads outside the checkpoint"):
        load(folder)


NEEDED = (
    "unet/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/vocab.json",
    "scheduler/scheduler_config.json",
)


@pytest.mark.parametrize("gone", NEEDED)
def test_an_incomplete_cache_offline_says_what_it_lacks(gone, cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (cache / "models--some-org--tiny-sd" / "snapshots" / REVISION / gone).unlink()
    part = gone.split("/")[0]
    with pytest.raises(CheckpointError, match=f"offline .*its cache lacks .*{part}"):
        resolve("some-org/tiny-sd", cache_dir=cache)


class FakeHub:
    """Stands in for huggingface_hub: a repository's files, and what was asked of it."""

    def __init__(self, folder: Path, cache: Path, monkeypatch):
        import huggingface_hub

        self.folder, self.cache, self.patterns = folder, cache, None
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.hf_hub_download)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)

    def hf_hub_download(self, *, filename, **_):
        return str(self.folder / filename)

    def model_info(self, *, repo_id, revision, timeout):
        files = [p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=str(f)) for f in files])

    def snapshot_download(self, *, allow_patterns, cache_dir, **_):
        self.patterns = sorted(allow_patterns)
        target = self.cache / "download"
        for name in self.patterns:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / name, target / name)
        return str(target)


def test_download_takes_only_what_is_needed(tmp_path, monkeypatch):
    folder = tiny.write_sd1(tmp_path / "repo", variant="fp16", max_shard_size="100KB")
    plain = tiny.write_sd1(tmp_path / "plain")
    for part in ("unet", "vae", "text_encoder"):
        shutil.copytree(plain / part, folder / part, dirs_exist_ok=True)
        (folder / part / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "pipeline.py").write_text("raise SystemExit('ran')")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"large")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"large")
    fake = FakeHub(folder, tmp_path / "cache", monkeypatch)
    load("some-org/tiny-sd", cache_dir=tmp_path / "cache")
    assert fake.patterns == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    load("some-org/tiny-sd", cache_dir=tmp_path / "cache", variant="fp16")
    weights = [n for n in fake.patterns if n.startswith("unet/diffusion")]
    assert "unet/diffusion_pytorch_model.safetensors.index.fp16.json" in weights
    assert len(weights) > 3
    assert all("fp16" in n for n in weights)
    assert not any(n.endswith((".bin", ".py")) for n in fake.patterns)


SINGLE = {
    "imagegpt": (tiny.write_image_gpt, ["preprocessor_config.json"]),
    "janus": (
        tiny.write_janus,
        ["generation_config.json", "tokenizer.json", "tokenizer_config.json"],
    ),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_repository_with_one_model(kind, tmp_path, monkeypatch):
    """As transformers saves it: what is downloaded makes the same pictures as the folder."""
    write, others = SINGLE[kind]
    folder = write(tmp_path / "repo")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("words")
    fake = FakeHub(folder, tmp_path / "cache", monkeypatch)
    pipe = pyengine.from_pretrained(f"some-org/{kind}", device="cpu", cache_dir=tmp_path / "cache")
    assert set(others) <= set(fake.patterns)
    assert fake.patterns[:1] == ["config.json"]
    assert "model.safetensors" in fake.patterns
    assert all(n.endswith((".json", ".safetensors")) for n in fake.patterns)
    prompt = ["x"] if pipe.takes_prompt else []
    here = pyengine.from_pretrained(folder, device="cpu")
    assert torch.equal(pipe(*prompt, seed=1).tokens, here(*prompt, seed=1).tokens)


@pytest.mark.parametrize("kind", SINGLE)
def test_one_model_from_the_cache(kind, tmp_path, no_network, monkeypatch):
    from huggingface_hub import constants

    write, others = SINGLE[kind]
    root = make_cache(write(tmp_path / "repo"), tmp_path / "hub", f"some-org/{kind}")
    found = resolve(f"some-org/{kind}", cache_dir=tmp_path / "hub")
    assert found.source == f"some-org/{kind}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for gone in (others[0], "model.safetensors"):
        (root / "snapshots" / REVISION / gone).unlink()
        with pytest.raises(CheckpointError, match=f"offline .*its cache lacks .*{gone[:5]}"):
            resolve(f"some-org/{kind}", cache_dir=tmp_path / "hub")
    (root / "snapshots" / REVISION / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"offline .*its cache lacks model_index\.json"):
        resolve(f"some-org/{kind}", cache_dir=tmp_path / "hub")


def test_repositories_with_one_model_that_are_refused(tmp_path, monkeypatch):
    folder = tiny.write_image_gpt(tmp_path / "repo")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    fake = FakeHub(folder, tmp_path / "cache", monkeypatch)
    with pytest.raises(CheckpointError, match=r"gpt has only pickles, .*pytorch_model\.bin"):
        resolve("some-org/gpt", cache_dir=tmp_path / "cache")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"model_type is 'bert', expected .*imagegpt, janus"):
        resolve("some-org/gpt", cache_dir=tmp_path / "cache")
    assert fake.patterns is None


def test_a_repository_of_picture_tokens(tmp_path, monkeypatch):
    folder = tiny.write_picture_gpt(tmp_path / "repo")
    (folder / "pyengine.json").write_text('{"top_k": 5}')
    drafts = {"drafts": torch.ones(3, 5, 5, dtype=torch.int16)}
    save_file(drafts, folder / "tokens" / "model.safetensors")
    fake = FakeHub(folder, tmp_path / "cache", monkeypatch)
    pipe = pyengine.from_pretrained("some-org/gpt", device="cpu", cache_dir=tmp_path / "cache")
    assert {"tokens/config.json", "pyengine.json"} <= set(fake.patterns)
    assert pipe.defaults.top_k == 5
    assert pipe.parts.drafts.shape == (3, 25)


def test_a_repository_with_all_files_in_one_folder(tmp_path, monkeypatch):
    """As google/ddpm-* has them."""
    folder = tiny.write_ddpm(tmp_path / "repo", flat=True)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "train.py").write_text("raise SystemExit('ran')")
    fake = FakeHub(folder, tmp_path / "cache", monkeypatch)
    pipe = pyengine.from_pretrained("some-org/ddpm", device="cpu", cache_dir=tmp_path / "cache")
    assert fake.patterns == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "model_index.json",
        "scheduler_config.json",
    ]
    here = pyengine.from_pretrained(folder, device="cpu")
    drawn = [p(seed=1, num_inference_steps=2, output_type="pt").images for p in (pipe, here)]
    assert torch.equal(*drawn)


def test_a_flat_repository_from_the_cache(tmp_path, no_network, monkeypatch):
    from huggingface_hub import constants

    folder = tiny.write_ddpm(tmp_path / "repo", flat=True)
    root = make_cache(folder, tmp_path / "hub", "some-org/ddpm")
    assert resolve("some-org/ddpm", cache_dir=tmp_path / "hub").source == "some-org/ddpm"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (root / "snapshots" / REVISION / "scheduler_config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"offline .*its cache lacks scheduler/scheduler_conf"
    ):
        resolve("some-org/ddpm", cache_dir=tmp_path / "hub")


def test_a_repository_of_the_refiner(tmp_path, monkeypatch):
    """Its index says [null, null] of the first text encoder."""
    folder = tiny.write_refiner(tmp_path / "repo")
    assert json.loads((folder / "model_index.json").read_text())["text_encoder"] == [None, None]
    FakeHub(folder, tmp_path / "cache", monkeypatch)
    checkpoint = resolve("some-org/refiner", cache_dir=tmp_path / "cache")
    assert "text_encoder" not in checkpoint.components
    assert load_parts(checkpoint).keys() == {
        "unet",
        "vae",
        "text_encoder_2",
        "tokenizer_2",
        "scheduler",
    }


def test_a_repository_of_pickles_is_refused_before_downloading(sd1, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(sd1, tmp_path / "repo"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    fake = FakeHub(folder, tmp_path / "cache", monkeypatch)
    with pytest.raises(CheckpointError, match=r"unet has only pickles, .*can run code"):
        resolve("some-org/tiny-sd", cache_dir=tmp_path / "cache")
    assert fake.patterns is None


def test_what_the_hub_says_is_passed_on(tmp_path, monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise OSError("401 Client\nError: gated")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(
        CheckpointError, match="the Hub did not give it: OSError: '401 Client Error"
    ):
        resolve("some-org/tiny-sd", cache_dir=tmp_path)


def test_a_repository_of_another_layout_is_refused(sd1, tmp_path, monkeypatch):
    fake = FakeHub(sd1 / "unet", tmp_path / "cache", monkeypatch)
    with pytest.raises(CheckpointError, match=r"some-org/unet: no model_index\.json"):
        resolve("some-org/unet", cache_dir=tmp_path / "cache")
    assert fake.patterns is None


def test_a_hub_that_cannot_be_reached_is_said_soon(tmp_path):
    code = "from pyengine.weights import resolve; resolve('some-org/tiny-sd')"
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **nobody, "HF_HUB_OFFLINE": "0"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "CheckpointError: some-org/tiny-sd: no such folder here, and the Hub did" in run.stderr
    assert "Retrying" not in run.stderr


@pytest.mark.parametrize(
    ("text", "is_id"),
    [("a/b", True), ("stabilityai/stable-diffusion-2-1", True), ("gpt2", True), ("a/b/c", False),
     ("../b", False), ("a/..", False), ("/a", False), ("a b/c", False), ("a--b/c", False),
     ("", False), ("a/b\n", False)],
)  # fmt: skip
def test_hub_ids(text, is_id):
    assert hub.is_hub_id(text) is is_id


@pytest.mark.parametrize("revision", ["../../etc", "-x", "a b", "/abs"])
def test_revisions_that_are_paths_are_refused(revision, cache):
    with pytest.raises(CheckpointError, match="no branch, tag or commit"):
        resolve("some-org/tiny-sd", cache_dir=cache, revision=revision)


def test_a_ref_that_is_a_path_is_not_followed(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    root = cache / "models--some-org--tiny-sd"
    (root / "refs" / "main").write_text(f"../snapshots/{REVISION}")
    with pytest.raises(CheckpointError, match="it is not in the cache"):
        resolve("some-org/tiny-sd", cache_dir=cache)


def test_local_files_only_and_a_forced_download(cache, tmp_path, monkeypatch, no_network):
    resolve("some-org/tiny-sd", cache_dir=cache, local_files_only=True)
    with pytest.raises(CheckpointError, match="other: local_files_only and it is not in the cache"):
        resolve("some-org/other", cache_dir=cache, local_files_only=True)
    asked = []
    folder = resolve("some-org/tiny-sd", cache_dir=cache).folder
    monkeypatch.setattr(hub, "download", lambda repo, **given: asked.append(given) or folder)
    resolve("some-org/tiny-sd", cache_dir=cache, token="t")
    assert asked == []
    resolve("some-org/tiny-sd", cache_dir=cache, token="t", force_download=True)
    assert [(g["token"], g["force_download"]) for g in asked] == [("t", True)]


def test_the_token_goes_to_the_hub_and_into_no_message(tmp_path, monkeypatch):
    import huggingface_hub

    seen = []

    def fail(*_, **given):
        seen.append(given.get("token"))
        raise OSError("gated")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(CheckpointError, match="gated") as e:
        resolve("some-org/gated", cache_dir=tmp_path, token="hf_secret")
    assert seen == ["hf_secret"]
    assert "hf_secret" not in str(e.value)
