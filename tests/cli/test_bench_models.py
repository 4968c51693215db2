"""`pyengine bench unet`, `vae` and `pipeline` at tiny shapes, beside their peers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bench_checks import QUICK, check_json, check_table, needs
from PIL import Image

from pyengine.bench import models, worker
from pyengine.bench.checkpoints import write_unet
from pyengine.bench.contest import Contestants, psnr
from pyengine.bench.results import OURS
from pyengine.bench.tasks import Task, conditions

pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture
def spawned(monkeypatch):
    """Workers begin from nothing, as they do for whoever measures."""
    monkeypatch.setattr(worker, "START", "spawn")


# --- models ---------------------------------------------------------------------------------------


def test_a_model_beside_diffusers(run, kept, tmp_path):
    status, out, err = run(
        "bench",
        "unet",
        *QUICK,
        "--peers",
        "--without",
        "torch.compile,openvino",
        "--keep",
        kept,
        "--save",
        tmp_path / "m.json",
        "--plot",
        tmp_path / "m.png",
    )
    assert status == 0, err
    facts = json.loads((tmp_path / "m.json").read_text())
    check_json(facts, "unet", {"diffusers"})
    check_table(out, facts)
    [row] = facts["rows"]
    assert row["facts"][OURS]["relative_l2"] <= 1e-5
    for contestant in (OURS, "diffusers"):
        for key in ("load_seconds", "first_call_seconds", "peak_bytes"):
            assert row["facts"][contestant][key] > 0
    assert "peak memory" in out
    assert Image.open(tmp_path / "m.png").format == "PNG"


@pytest.mark.parametrize("weights", [(), ("--weights", "fp8")], ids=["bfloat16", "fp8"])
def test_sdxl_beside_diffusers(weights, run, kept, tmp_path):
    status, _, err = run(
        "bench",
        "unet",
        *QUICK,
        "--model",
        "sdxl",
        "--dtype",
        "bfloat16",
        "--peers",
        "--without",
        "torch.compile,openvino",
        "--keep",
        kept,
        "--save",
        tmp_path / "m.json",
        *weights,
    )
    assert status == 0, err
    [row] = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert row["shape"] == "SDXL, 8x8 latents x 2" + ", our weights in fp8" * bool(weights)
    assert row["facts"]["diffusers"]["relative_l2"] > 1e-3  # from its own result in float32
    distance, usual = row["facts"][OURS]["relative_l2"], models.AGREEMENT["sdxl"][torch.bfloat16]
    assert (usual < distance <= models.FP8_AGREEMENT["sdxl"]) if weights else distance <= usual


def test_ddpm_beside_diffusers(run, kept, tmp_path):
    status, _, err = run(
        "bench",
        "unet",
        *QUICK,
        "--model",
        "ddpm",
        "--peers",
        "--without",
        "torch.compile",
        "--keep",
        kept,
        "--save",
        tmp_path / "m.json",
    )
    assert status == 0, err
    [row] = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert row["shape"] == "DDPM (CIFAR-10), 8x8 pixels x 2"
    assert row["facts"][OURS]["relative_l2"] <= 1e-5
    assert row["facts"].keys() == {OURS, "diffusers"}


def test_deepfloyd_if_beside_diffusers(run, kept, tmp_path):
    status, _, err = run(
        "bench",
        "unet",
        *QUICK,
        "--model",
        "if",
        "--peers",
        "--without",
        "torch.compile",
        "--keep",
        kept,
        "--save",
        tmp_path / "m.json",
    )
    assert status == 0, err
    [row] = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert row["shape"] == "IF-I-M, 8x8 pixels x 2"
    assert row["facts"][OURS]["relative_l2"] <= 1e-5
    assert row["facts"].keys() == {OURS, "diffusers"}


def test_unclip_beside_diffusers(run, kept, tmp_path):
    status, _, err = run(
        "bench",
        "unet",
        *QUICK,
        "--model",
        "unclip",
        "--peers",
        "--without",
        "torch.compile",
        "--keep",
        kept,
        "--save",
        tmp_path / "m.json",
    )
    assert status == 0, err
    [row] = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert row["shape"] == "unCLIP's decoder, 8x8 pixels x 2"
    assert row["facts"][OURS]["relative_l2"] <= 1e-5
    assert row["facts"].keys() == {OURS, "diffusers"}


def test_what_a_unet_is_told():
    """diffusers' names; only SDXL takes more than a timestep and text."""
    assert conditions(Task("unet", 8, 2, True).inputs()) is None
    given = Task("unet", 8, 2, True, model="unclip").inputs()
    assert given["text"].shape == (2, 81, 24)
    assert given["mask"].sum(1).tolist() == [23, 23]
    assert given["labels"].shape == (2, 64)
    given = conditions(Task("unet", 8, 2, True, model="sdxl").inputs())
    assert given["text_embeds"].shape == (2, 32)
    assert given["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2


@pytest.mark.slow
@needs("openvino")
def test_openvino_agrees(run, kept, tmp_path):
    status, out, err = run(
        "bench",
        "vae",
        *QUICK,
        "--peers",
        "--without",
        "torch.compile,diffusers",
        "--keep",
        kept,
        "--save",
        tmp_path / "m.json",
    )
    assert status == 0, err
    facts = json.loads((tmp_path / "m.json").read_text())
    [row] = facts["rows"]
    assert row["facts"]["openvino"]["relative_l2"] <= 1e-5
    assert row["facts"]["openvino"]["convert_seconds"] > 0
    assert row["facts"]["openvino"]["precision"] == "f32"
    assert "converted in" in out
    # By itself it is a contestant where it computes in another precision, and only there.
    alone = row["facts"].get(models.BY_ITSELF)
    if alone is None:
        assert "it computes in f32 here too" in facts["missing"][models.BY_ITSELF]
    else:
        assert alone["precision"] != "f32"


@pytest.mark.slow
def test_peers_that_are_missing_are_said(run, kept, tmp_path, monkeypatch, spawned):
    """Workers import in processes of their own, which this path hides the packages from."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("diffusers", "openvino"):
        (hidden / f"{name}.py").write_text(
            f"raise ModuleNotFoundError('No module named', name={name!r})"
        )
    monkeypatch.syspath_prepend(str(hidden))
    status, out, err = run(
        "bench",
        "vae",
        *QUICK,
        "--peers",
        "--without",
        "torch.compile",
        "--keep",
        kept,
        "--save",
        tmp_path / "m.json",
    )
    assert status == 0, err
    facts = json.loads((tmp_path / "m.json").read_text())
    check_json(facts, "vae", ())
    for name in ("diffusers", "openvino"):
        assert facts["missing"][name] == f"{name} is not installed"
        assert f"not measured: {name}: {name} is not installed" in out


class Off:
    """A contestant's result and nothing else."""

    def __init__(self, result):
        self.result = result
        self.loaded = SimpleNamespace(notes={})


def test_a_wrong_model_stops_the_benchmark():
    right = np.linspace(1, 2, 9, dtype=np.float32)
    for wrong in (right * 1.001, right * np.nan, right[:3]):
        found = Contestants({OURS: Off(wrong), "diffusers": Off(right)})
        with pytest.raises(RuntimeError, match=r"pyengine is .* away from diffusers"):
            models.check(found, Task("unet", 8, 2, True), 1, {})


@pytest.mark.parametrize("name", ["openvino", models.BY_ITSELF])
def test_what_openvino_rounds_is_told_and_stops_nothing(name, monkeypatch):
    """But nothing excuses a result that is none."""
    right = np.linspace(1, 2, 9, dtype=np.float32)
    monkeypatch.setattr(models, "_reference", lambda *_: ("diffusers", right))
    narrow = [
        Task("unet", 8, 2, True, dtype=torch.bfloat16),
        Task("unet", 8, 2, True, weights="int8"),
    ]
    by_itself = name == models.BY_ITSELF
    for task in narrow + [Task("unet", 8, 2, True)] * by_itself:
        contestant = Off(right * 1.2)
        models.check(Contestants({name: contestant}), task, 1, {})
        assert contestant.loaded.notes["relative_l2"] == pytest.approx(0.2, rel=1e-5)
        for wrong in (right * np.nan, right[:3]):
            with pytest.raises(RuntimeError, match=f"{name} is inf away from diffusers"):
                models.check(Contestants({name: Off(wrong)}), task, 1, {})
    if not by_itself:
        with pytest.raises(RuntimeError, match=r"openvino is 2.0e-01 away from diffusers"):
            models.check(Contestants({name: Off(right * 1.2)}), Task("unet", 8, 2, True), 1, {})


def test_flops_are_diffusers_own(kept):
    """torch's counter over diffusers' U-Net, apart from the text's keys and values."""
    import diffusers
    from torch.utils.flop_counter import FlopCounterMode

    task = Task("unet", 16, 2, True)
    with torch.device("meta"), torch.no_grad():
        theirs = diffusers.UNet2DConditionModel.from_config(dict(task.config)).eval()
        x, text = torch.empty(2, 4, 16, 16), torch.empty(2, 77, 32)
        with FlopCounterMode(display=False) as counter:
            theirs(x, 500, text)
    cross = [m for n, m in theirs.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))]
    apart = sum(2 * 2 * 77 * m.in_features * m.out_features for m in cross)
    time = [theirs.time_embedding.linear_1, theirs.time_embedding.linear_2]
    once = sum(2 * m.in_features * m.out_features for m in time)
    time = [m for n, m in theirs.named_modules() if n.endswith("time_emb_proj")]
    apart += 2 * once + sum(2 * 2 * m.in_features * m.out_features for m in time)
    assert task.work()[0] == counter.get_total_flops() - apart


def test_a_checkpoint_is_written_once(tmp_path):
    folder = write_unet(tmp_path, quick=True)
    file = next(folder.glob("*.safetensors"))
    before = file.stat().st_mtime_ns, file.read_bytes()
    write_unet(tmp_path, quick=True)
    assert file.stat().st_mtime_ns == before[0]
    write_unet(tmp_path, quick=True, dtype=torch.float16)  # another recipe
    assert file.stat().st_size < len(before[1])
    write_unet(tmp_path, quick=True)
    assert file.read_bytes() == before[1]


# --- pipeline -------------------------------------------------------------------------------------


def test_a_picture_beside_diffusers(run, kept, tmp_path):
    status, out, err = run(
        "bench", "pipeline", *QUICK, "--peers", "--keep", kept, "--save", tmp_path / "p.json"
    )
    assert status == 0, err
    facts = json.loads((tmp_path / "p.json").read_text())
    check_json(facts, "pipeline", {"diffusers"})
    check_table(out, facts)
    [row] = facts["rows"]
    assert row["facts"][OURS]["psnr"] >= 60
    for found in row["facts"].values():
        assert found["first_step_begins"] > found["load_seconds"] > 0
        assert found["step_seconds"] > 0
    assert "load to first step" in out


def test_psnr():
    x = np.zeros((2, 2))
    assert psnr(x + 0.1, x) == pytest.approx(20)
    assert psnr(x, x) == 200
    assert psnr(x[:1], x) == 0
