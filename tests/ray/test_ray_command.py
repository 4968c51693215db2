"""`pyengine serve --ray`: two replicas, one of which is killed while it draws; its end."""

import base64
import concurrent.futures
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyengine
from pyengine.cli import main

httpx = pytest.importorskip("httpx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replicas", "2"], "--replicas: expected --ray with it"),
        (["--ray", "--replicas", "0"], "--replicas: expected"),
        (["--ray", "--replicas", "two"], "--replicas: expected a number"),
        (["--ray", "--replicas", "3,1"], "--replicas: expected"),
        (["--ray", "--replicas", "1,2,3"], "--replicas: expected a number"),
    ],
)
def test_what_is_refused_before_anything_starts(arguments, words, capsys):
    pytest.importorskip("ray")
    assert main(["serve", "emoji", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_model_that_is_not_there_is_told_before_ray_starts(capsys):
    pytest.importorskip("ray")
    assert main(["serve", "no/such/folder.safetensors", "--ray"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


def descendants(pid):
    """(pid, command) of processes that a process has started, and that these have."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            command = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append((int(folder.name), command))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += [child for child, _ in children]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_two_replicas_of_which_one_is_killed():
    pytest.importorskip("ray")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pyengine", "serve", "emoji", "--ray", "--replicas", "2",
               "--port", "0"]  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("serving emoji at "), line
            address = line.split()[-1]
            load_and_kill(server.pid, address)
            started = descendants(server.pid)
            assert len(started) > 4
        finally:
            begin = time.monotonic()
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)
    assert server.returncode == 0
    assert time.monotonic() - begin < 20  # 10 on a machine without other work
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid, _ in started):
        assert time.monotonic() < until
        time.sleep(0.1)


def load_and_kill(pid, address):
    engines = [child for child, command in descendants(pid) if "pyengine-engine" in command]
    assert len(engines) == 2
    calls = [{"prompt": "a cat", "seed": k, "num_inference_steps": 40 + k} for k in range(4)]
    pipe = pyengine.from_pretrained("emoji", device="cpu")

    def draw(call):
        return httpx.post(f"{address}/v1/images/generations", json=call, timeout=120)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(draw, call) for call in calls]
        time.sleep(0.5)
        os.kill(engines[1], signal.SIGKILL)
        found = [answer.result() for answer in answers]
    for call, answer in zip(calls, found, strict=True):
        assert answer.status_code == 200, answer.text
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(picture, np.asarray(pipe(**call, progress=False).images[0]))
    refused = httpx.post(f"{address}/v1/images/generations", json={"prompt": "a", "size": "no"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "size")
