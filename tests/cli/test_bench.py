"""`pyengine bench` at tiny shapes: what it prints, writes and refuses. Times decide nothing."""

import importlib.util
import json
import multiprocessing
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyengine.bench import agreement, models, neighbours, results, timing, worker
from pyengine.bench import run as bench_run
from pyengine.bench.checkpoints import write_unet
from pyengine.bench.contest import Contestants, psnr, relative_l2
from pyengine.bench.results import OURS
from pyengine.bench.shapes import TINY
from pyengine.bench.tasks import Task, conditions
from pyengine.ops import OPS

QUICK = ("--quick", "--threads", "1")
ROOT = Path(__file__).resolve().parents[2]


def needs(package):
    """Skips where a peer is not installed, without loading its libraries into this process."""
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"{package} is not installed (extra `bench`)")


#: What workers would import first of all, each for itself.
PRELOADED = (
    "torch", "pyengine.bench.run", "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl", "transformers.models.clip.modeling_clip",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def forked():
    """Workers come from one process that has imported what they need; see `spawned`."""
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    before, worker.START = worker.START, "forkserver"
    yield
    worker.START = before


@pytest.fixture
def spawned(monkeypatch):
    """Workers begin from nothing, as they do for whoever measures."""
    monkeypatch.setattr(worker, "START", "spawn")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of checkpoints that all tests share."""
    return tmp_path_factory.mktemp("bench")


def check_json(facts, suite, peers):
    """The schema, and that what is derived follows from what was measured."""
    assert facts["machine"]["suite"] == suite
    for key in ("cpu", "threads", "instruction set", "torch", "pyengine", "rounds", "peak_bytes"):
        assert facts["machine"][key], key
    assert facts["rows"]
    for row in facts["rows"]:
        assert row["suite"] == suite
        assert {OURS} <= set(row["times"]) <= {OURS, *peers}
        assert row["bytes"] > 0
        assert row["kernels"]
        bound = max(
            row["flops"] / row["gemm_flops_per_second"],
            row["bytes"] / row["copy_bytes_per_second"],
        )
        assert row["bound_seconds"] == pytest.approx(bound)
        for times in row["times"].values():
            assert times["median"] == pytest.approx(np.median(times["samples"]))
            assert len(times["samples"]) == facts["machine"]["rounds"]
        ours = row["times"][OURS]["median"]
        for name, ratio in row["faster_than"].items():
            assert ratio == pytest.approx(row["times"][name]["median"] / ours)


def check_table(text, facts):
    """A line for each row, with our median and the ratio to each peer."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert len(lines) == len(facts["rows"]) + 1
    for line, row in zip(lines[1:], facts["rows"], strict=True):
        cells = dict(zip(heads, [c.strip() for c in line.strip("| ").split(" | ")], strict=True))
        assert (cells["work"], cells["shape"]) == (row["name"], row["shape"])
        ours = float(cells["pyengine, ms"].split(" ")[0])
        assert ours == pytest.approx(row["times"][OURS]["median"] * 1e3, rel=0.01)
        for name, ratio in row["faster_than"].items():
            assert cells[f"against {name}"] == f"{ratio:.2f}x"


# --- ops ------------------------------------------------------------------------------------------


def test_ops_show_every_op_hot_and_cold(run, tmp_path):
    arguments = ("--peers", "--without", "torch.compile,ncnn", "--save", tmp_path / "new/o.json")
    status, out, err = run("bench", "ops", *QUICK, *arguments, "--plot", tmp_path / "o.png")
    assert status == 0, err
    facts = json.loads((tmp_path / "new/o.json").read_text())
    check_json(facts, "ops", {"torch"})
    check_table(out, facts)
    seen = [(row["name"], row["inputs"]) for row in facts["rows"]]
    assert set(TINY) == set(OPS)
    shapes = [shape.op for of_op in TINY.values() for shape in of_op]
    assert sorted(seen) == sorted((op, heat) for op in shapes for heat in ("hot", "cold"))
    assert all("torch" in row["times"] for row in facts["rows"])
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn


def test_ops_alone_measure_no_peer(run, tmp_path):
    status, out, err = run("bench", "ops", *QUICK, "--op", "geglu", "--save", tmp_path / "o.json")
    assert status == 0, err
    facts = json.loads((tmp_path / "o.json").read_text())
    check_json(facts, "ops", ())
    assert [row["name"] for row in facts["rows"]] == ["geglu", "geglu"]
    assert "against" not in out


def test_a_plot_without_matplotlib_is_refused_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("pyengine.bench.operations.measure", None)
    status, out, err = run("bench", "ops", *QUICK, "--plot", tmp_path / "o.png")
    assert (status, out) == (2, "")
    assert "pip install 'pyengine[bench]'" in err


@pytest.mark.slow
def test_ops_measure_torch_compile(run, tmp_path):
    status, out, err = run("bench", "ops", *QUICK, "--op", "geglu", "--peers", "--without", "ncnn",
                           "--save", tmp_path / "o.json")  # fmt: skip
    assert status == 0, err
    facts = json.loads((tmp_path / "o.json").read_text())
    check_json(facts, "ops", {"torch", "torch.compile"})
    assert facts["rows"][0]["facts"]["torch.compile"]["compile_seconds"] > 0
    assert "compiled in" in out


@needs("ncnn")
def test_ncnn_convolves_as_torch_does(one_conv):
    from pyengine.bench.peers import ncnn_conv

    arrays = {name: one_conv[name].numpy() for name in ("x", "weight", "bias")}
    with worker.Worker("ncnn", ncnn_conv.chain, 1, length=3, **arrays) as found:
        y = torch.nn.functional.conv2d(
            one_conv["x"].permute(0, 3, 1, 2), one_conv["weight"].permute(0, 3, 1, 2),
            one_conv["bias"], padding=1,
        )  # fmt: skip
        assert relative_l2(found.result, y.permute(0, 2, 3, 1).numpy()) < 1e-4
        assert found.sample(2) > 0


@pytest.fixture
def one_conv():
    from pyengine.bench.arguments import conv2d

    return conv2d(6, 16, 16).build(torch.float32, "cpu")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ops", "--op", "convolve"), "group_norm_silu"),
        (("ops", "--op", "linear", "--shape", "no such"), "no such"),
        (("ops", "--dtype", "float8"), "float8"),
        (("ops", "--device", "tpu"), "tpu"),
        (("ops", "--peers", "--without", "onnx"), "torch.compile"),
        (("unet", "--latents", "32,x"), "32,x"),
        (("unet", "--latents", "12"), "12"),
        (("unet", "--model", "sd3"), "sd15, sdxl"),
        (("unet", "--weights", "int4"), "weights: expected one of fp8, given"),
        (("unet", "--peers", "--without", "ncnn"), "openvino"),
        (("ops", "--save", "/dev/null/x.json"), "/dev/null/x.json"),
        (("vae", "--rounds", "1"), "rounds"),
        (("pipeline", "--size", "100"), "100"),
        (("agreement", "--device", "tpu"), "tpu"),
        (("everything",), "everything"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_refusals(run, arguments, said):
    status, out, err = run("bench", *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


# --- models ---------------------------------------------------------------------------------------


def test_a_model_beside_diffusers(run, kept, tmp_path):
    status, out, err = run(
        "bench", "unet", *QUICK, "--peers", "--without", "torch.compile,openvino", "--keep", kept,
        "--save", tmp_path / "m.json", "--plot", tmp_path / "m.png",
    )  # fmt: skip
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
        "bench", "unet", *QUICK, "--model", "sdxl", "--dtype", "bfloat16", "--peers",
        "--without", "torch.compile,openvino", "--keep", kept, "--save", tmp_path / "m.json",
        *weights,
    )  # fmt: skip
    assert status == 0, err
    [row] = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert row["shape"] == "SDXL, 8x8 latents x 2" + ", our weights in fp8" * bool(weights)
    distance, usual = row["facts"][OURS]["relative_l2"], models.AGREEMENT["sdxl"][torch.bfloat16]
    assert (usual < distance <= models.FP8_AGREEMENT["sdxl"]) if weights else distance <= usual


def test_what_a_unet_is_told():
    """diffusers' names; only SDXL takes more than a timestep and text."""
    assert conditions(Task("unet", 8, 2, True).inputs()) is None
    given = conditions(Task("unet", 8, 2, True, model="sdxl").inputs())
    assert given["text_embeds"].shape == (2, 32)
    assert given["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2


@pytest.mark.slow
@needs("openvino")
def test_openvino_agrees(run, kept, tmp_path):
    status, out, err = run(
        "bench", "vae", *QUICK, "--peers", "--without", "torch.compile,diffusers", "--keep", kept,
        "--save", tmp_path / "m.json",
    )  # fmt: skip
    assert status == 0, err
    [row] = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert row["facts"]["openvino"]["relative_l2"] <= 1e-5
    assert row["facts"]["openvino"]["convert_seconds"] > 0
    assert "converted in" in out


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
    status, out, err = run("bench", "vae", *QUICK, "--peers", "--without", "torch.compile",
                           "--keep", kept, "--save", tmp_path / "m.json")  # fmt: skip
    assert status == 0, err
    facts = json.loads((tmp_path / "m.json").read_text())
    check_json(facts, "vae", ())
    for name in ("diffusers", "openvino"):
        assert facts["missing"][name] == f"{name} is not installed"
        assert f"not measured: {name}: {name} is not installed" in out


def test_a_wrong_model_stops_the_benchmark():
    class Off:
        def __init__(self, result):
            self.result = result

    right = np.linspace(1, 2, 9, dtype=np.float32)
    for wrong in (right * 1.001, right * np.nan, right[:3]):
        found = Contestants({OURS: Off(wrong), "diffusers": Off(right)})
        with pytest.raises(RuntimeError, match=r"pyengine is .* away from diffusers"):
            models.check(found, Task("unet", 8, 2, True), 1, {})


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
    status, out, err = run("bench", "pipeline", *QUICK, "--peers", "--keep", kept,
                           "--save", tmp_path / "p.json")  # fmt: skip
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


# --- docs/gpu.md --------------------------------------------------------------------------------


def test_what_a_gpu_has_to_show_are_commands(run, monkeypatch):
    """Those of the table are understood, and are what `make bench-gpu` runs."""
    page, makefile = ((ROOT / name).read_text() for name in ("docs/gpu.md", "Makefile"))
    table = page[page.index("## What to run on a GPU") :]
    commands = re.findall(r"^\|[^|]*\| `([^`]*)` \|", table, re.M)
    made = re.findall(r"^\t(run|gpu|net) (.*); \\$", makefile, re.M)
    made = [line + " --device cuda --peers" * (how != "run") for how, line in made]
    assert len(commands) == 8
    assert {frozenset(c.split()) for c in commands} == {frozenset(c.split()) for c in made}
    started = []
    for name in ("run_ops", "run_model", "run_token", "run_agreement"):
        monkeypatch.setattr(bench_run, name, lambda *a, **k: started.append((a, k)) or 0)
    for command in commands:
        status, _, err = run("bench", *shlex.split(command))
        assert status == 0, err
    assert len(started) == len(commands)


# --- devices --------------------------------------------------------------------------------------


def test_the_cpu_agrees_with_itself(run, tmp_path):
    given = ("--pictures", "1", "--threads", "1", "--save", tmp_path / "a.json")
    status, out, err = run("bench", "agreement", *given)
    assert status == 0, err
    facts = json.loads((tmp_path / "a.json").read_text())
    assert [p["model"] for p in facts["pictures"]] == ["emoji", "emoji-ar"]
    assert all(p["same"] and p["psnr"] == 200 for p in facts["pictures"])
    assert [p["other_tokens"] for p in facts["pictures"]] == [None, 0]
    assert out.count("same bits") == 2
    assert "least PSNR 200.0 dB" in out


def test_pictures_that_differ_end_with_an_error(run, monkeypatch):
    """Told with the table: the worst of them decides."""

    def pair(decibels):
        return agreement.Pair("emoji", "a cat", 1, decibels, False, None, 0.1, 0.1)

    found = agreement.Agreement([pair(52.0), pair(38.0)])
    monkeypatch.setattr(agreement, "measure", lambda *_: found)
    status, out, err = run("bench", "agreement")
    assert status == 1
    assert "38.0 dB" in out
    assert "emoji, 'a cat': 38.0 dB between the CPU and the device, expected at least 40" in err
    found.pairs = found.pairs[:1]
    assert run("bench", "agreement")[0] == 0


# --- busy neighbours ------------------------------------------------------------------------------


def busy_children():
    """CPU seconds of this process's children that do what neighbours do."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        if neighbours.BUSY in command and int(fields[1]) == os.getpid() and fields[0] != "Z":
            found[process.name] = int(fields[11]) / os.sysconf("SC_CLK_TCK")
    return found


def test_a_picture_beside_busy_processes(run, tmp_path):
    given = ("-m", "emoji-ar", "--busy", "1", "--quick", "--threads", "1")
    status, out, err = run("bench", "neighbours", *given, "--save", tmp_path / "n.json")
    assert status == 0, err
    (row,) = json.loads((tmp_path / "n.json").read_text())["models"]
    assert (row["model"], row["busy"]) == ("emoji-ar", 1)
    assert len(row["alone"]) == len(row["beside"]) == 1
    assert row["ratio"] == pytest.approx(row["beside"][0] / row["alone"][0])
    assert f"{row['ratio']:.2f}x" in out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_neighbours_are_busy_and_end_with_their_block(monkeypatch):
    monkeypatch.setattr(neighbours, "SETTLE", 0.5)
    with neighbours.neighbours(2):
        children = busy_children()
        assert len(children) == 2
        assert all(seconds > 0 for seconds in children.values())
    assert not busy_children()


@pytest.mark.parametrize(
    ("cores", "threads", "busy", "fair"),
    [
        (2, 2, 2, 2.0),
        (2, 2, 1, 1.5),
        (2, 1, 1, 1.0),
        (4, 2, 2, 1.0),
        (2, 4, 2, 1.5),
        (2, 2, 0, 1.0),
    ],
)
def test_the_fair_share(monkeypatch, cores, threads, busy, fair):
    monkeypatch.setattr(neighbours, "cores", lambda: cores)
    assert neighbours.fair_share(threads, busy) == fair


# --- workers and times ----------------------------------------------------------------------------


def broken(notes, *, threads):
    raise ZeroDivisionError("on purpose")


def dying(notes, *, threads):
    import os

    os._exit(7)


def counting(notes, *, threads, start):
    notes["threads"] = threads
    return lambda: np.arange(start, start + 3)


def test_workers():
    with worker.Worker("counting", counting, 1, start=4) as found:
        assert found.result.tolist() == [4, 5, 6]
        assert found.loaded.notes == {"threads": 1}
        assert found.sample(3) >= 0
        assert found.peaks()["peak_bytes"] > 1 << 20
    with pytest.raises(RuntimeError, match="ZeroDivisionError: on purpose"):
        worker.Worker("broken", broken, 1)
    with pytest.raises(RuntimeError, match="status 7"):
        worker.Worker("dying", dying, 1)


def test_calls_on_a_gpu_are_timed_there(monkeypatch):
    """Not the copy of the first result; in this process, with a clock that stands in."""
    asked, told = [3, "peaks"], []

    class Pipe:
        send = staticmethod(told.append)

        def recv(self):
            if not asked:
                raise EOFError
            return asked.pop(0)

    def make(notes, *, threads, device):
        return lambda: torch.ones(2, dtype=torch.bfloat16)

    def seconds(run, chosen, device):
        assert (len(chosen), device) == (3, "cuda")
        assert isinstance(run(), torch.Tensor)
        return 6.0

    monkeypatch.setattr(timing, "_cuda_seconds", seconds)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5)
    with torch.backends.cudnn.flags():  # and back
        worker._serve(Pipe(), make, 1, {"device": "cuda"})
        assert torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
    (kind, (_, result)), sample, peaks = told
    assert (kind, result.tolist(), result.dtype) == ("value", [1, 1], np.float32)
    assert sample == ("value", 2.0)
    assert peaks[1]["peak_gpu_bytes"] == 5


def test_contestants_take_turns():
    calls = []
    samplers = {n: lambda c, n=n: calls.append((n, c)) or {"a": 1.0, "b": 0.01}[n] for n in "ab"}
    times = timing.take_turns(samplers, 3)
    assert calls[-6:] == [("a", 1), ("b", 3)] * 3
    assert times["a"].samples == (1.0, 1.0, 1.0)


def test_spread_is_half_the_distance_between_quartiles():
    times = timing.Times((1.0, 2.0, 3.0, 4.0, 5.0))
    assert times.median == 3.0
    assert times.spread == pytest.approx(1 / 3)


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    limits = timing.Limits(bandwidth=10.0, peak=100.0)
    row = results.Row("ops", "x", "", "hot", 1000, 50, limits, {OURS: timing.Times((20.0, 20.0))})
    assert (row.bound, row.limited_by, row.share(OURS)) == (10.0, "arithmetic", 0.5)
    row.flops = 0
    assert (row.bound, row.limited_by, row.share(OURS)) == (5.0, "memory", None)
    row.inputs = "cold"
    assert row.share(OURS) == 0.25
