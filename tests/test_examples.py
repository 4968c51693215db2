"""The examples: those that run are run, the others are read by what reads them."""

import contextlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyengine
from pyengine.pipelines import unregister

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run_script(name, monkeypatch, *arguments):
    """Runs an example in this process, as `python examples/name` would."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def module(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def pipe():
    return pyengine.from_pretrained("emoji", device="cpu")


def same(file, pipe, **call):
    picture = np.asarray(pipe(**call, progress=False).images[0])
    return np.array_equal(np.asarray(Image.open(file)), picture)


def test_every_example_is_listed():
    text = (EXAMPLES / "README.md").read_text()
    listed = set(re.findall(r"\[([\w.]+)\]\(\1\)", text)) | {"README.md", "Dockerfile.dockerignore"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == listed


def test_the_asyncio_script(tmp_path, monkeypatch, pipe, capsys):
    run_script("asyncio_script.py", monkeypatch, tmp_path, "--number", 2, "--steps", 4)
    assert {f.name for f in tmp_path.iterdir()} == {
        "0.png",
        "0-step2.png",
        "1.png",
        "1-step2.png",
    }
    assert same(tmp_path / "1.png", pipe, prompt="a red heart", seed=1, num_inference_steps=4)
    assert "seed 0: all 4 steps" in capsys.readouterr().out


def test_an_app_of_ones_own(pipe, tmp_path):
    testclient = pytest.importorskip("fastapi.testclient")
    with testclient.TestClient(module("own_app").app) as client:
        answer = client.get("/draw", params={"prompt": "a cat", "seed": 3, "steps": 2})
        (tmp_path / "cat.png").write_bytes(answer.content)
        refused = client.get("/draw", params={"prompt": "a cat", "steps": -1})
    assert same(tmp_path / "cat.png", pipe, prompt="a cat", seed=3, num_inference_steps=2)
    assert refused.status_code == 422
    assert "num_inference_steps" in refused.json()["detail"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def address(pipe):
    """Of a server in a thread."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    from pyengine.serving import create_app

    with pyengine.Engine(pipe) as engine:
        port = free_port()
        config = uvicorn.Config(create_app(engine), port=port, log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


def test_openais_client(address, tmp_path, monkeypatch, pipe, capsys):
    pytest.importorskip("openai")
    run_script("openai_client.py", monkeypatch, address, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {
        "heart-0.png",
        "heart-1.png",
        "rocket.png",
        "rocket-partial-0.png",
        "rocket-partial-1.png",
    }
    call = {"num_inference_steps": 8, "negative_prompt": "blue", "prompt": "a red heart"}
    assert same(tmp_path / "heart-1.png", pipe, seed=2, **call)
    assert same(tmp_path / "rocket.png", pipe, prompt="a rocket", seed=2)
    assert "refused: num_inference_steps: " in capsys.readouterr().out


@pytest.mark.slow
def test_gunicorn(tmp_path, pipe):
    for package in ("gunicorn", "uvicorn_worker", "fastapi"):
        pytest.importorskip(package)
    port = free_port()
    environment = {
        **os.environ,
        "BIND": f"127.0.0.1:{port}",
        "WORKERS": "2",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        str(EXAMPLES / "gunicorn.conf.py"),
        "gunicorn_app:app",
    ]
    with subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            body = b'{"prompt": "a cat", "seed": 3, "num_inference_steps": 2}'
            found = [answer_of(port, body, server) for _ in range(4)]
            assert all('"seed":3' in text.replace(" ", "") for text in found)
            assert len(set(found)) <= 2  # they differ by the second in which they were made, if so
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            errors = server.communicate(timeout=60)[1]
    assert server.returncode == 0, errors
    assert errors.count("Booting worker") == 2


def answer_of(port, body, server):
    """The answer to a generation, once the server listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/images/generations",
        body,
        {"content-type": "application/json"},
    )
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read().decode()
        except OSError:
            assert server.poll() is None, server.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.2)


# --- single scripts -------------------------------------------------------------------------------

#: What each leaves in the folder that it is given.
SCRIPTS = {
    "image_to_image.py": {"first.png", *(f"strength-{s}.png" for s in (0.25, 0.5, 1.0))},
    "inpainting.py": {"first.png", "mask.png", "painted.png"},
    "tokens_and_a_prefix.py": {"whole.png", "continued.png"},
    "watching_a_run.py": {"left.png", *(f"step-{k}.png" for k in range(5))},
    "threads.py": {f"{k}.png" for k in range(4)},
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_that_fills_a_folder(name, tmp_path, monkeypatch):
    run_script(name, monkeypatch, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == SCRIPTS[name]


@pytest.mark.parametrize("name", ["first_picture.py", "own_sampler.py"])
def test_a_script_that_makes_one_picture(name, tmp_path, monkeypatch):
    run_script(name, monkeypatch, tmp_path / "made.png")
    pixels = np.asarray(Image.open(tmp_path / "made.png"))
    assert pixels.shape == (64, 64, 3)
    assert pixels.std() > 1


def test_a_family_of_ones_own(tmp_path, monkeypatch):
    run_script("own_family.py", monkeypatch, tmp_path / "made.png")
    unregister("by_class")
    assert Image.open(tmp_path / "made.png").size == (8, 8)


def test_what_a_watched_run_shows_last_is_what_it_leaves(tmp_path, monkeypatch):
    run_script("watching_a_run.py", monkeypatch, tmp_path)
    last, left = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("step-4", "left"))
    assert np.array_equal(last, left)


def test_inpainting_keeps_what_is_black(tmp_path, monkeypatch):
    run_script("inpainting.py", monkeypatch, tmp_path)
    first, painted = (
        np.asarray(Image.open(tmp_path / f"{n}.png")).astype(float) for n in ("first", "painted")
    )
    half = first.shape[1] // 2
    changed = np.abs(first - painted).mean(axis=(0, 2))
    assert changed[:half].mean() > 2 * changed[half + 8 :].mean()


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpmpp_2m"])
def test_a_sampler_is_its_equations(name):
    assert module("samplers_as_equations").largest_difference(name) < 1e-12


def test_the_kernels_of_the_benchmark_agree_with_torchs():
    bench = module("bench_kernels")
    for case in (bench.linear, bench.group_norm_silu, bench.attention):
        for whose in ("pyengine", "torch"):
            bench.test_kernel(lambda function: function(), case, whose)


# --- files that other programs read ---------------------------------------------------------------


def test_the_dockerfile():
    text = (EXAMPLES / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {line.split()[0] for line in lines} <= known
    stages = [line.split()[-1] for line in lines if line.startswith("FROM") and " AS " in line]
    assert all(stage in stages for stage in re.findall(r"--from=(\w+)", text))
    serves = [
        json.loads(line.split(maxsplit=1)[1])
        for line in lines
        if line.startswith(("ENTRYPOINT", "CMD"))
    ]
    check_command([*serves[0], *serves[1]])


def test_the_systemd_unit(tmp_path):
    text = (EXAMPLES / "pyengine.service").read_text()
    start = re.search(r"^ExecStart=(.+)$", text, re.MULTILINE)[1]
    check_command(shlex.split(start))
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: the command alone was looked at")
    there = tmp_path / "pyengine.service"
    there.write_text(text.replace(start.split()[0], sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", there], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def check_command(words):
    """That it is one of `pyengine serve`, whose options there are, of models that ship."""
    import typer

    from pyengine.cli.app import app
    from pyengine.pipelines.loading import NAMED

    assert Path(words[0]).name == "pyengine"
    command = typer.main.get_command(app)
    context = command.make_context("pyengine", words[1:], resilient_parsing=True)
    name, serve, rest = command.resolve_command(context, words[1:])
    with contextlib.closing(serve.make_context(name, list(rest), parent=context)) as found:
        assert set(found.params["models"]) <= set(NAMED)
