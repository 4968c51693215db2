"""`pyengine serve` as a process: what it says, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from pyengine.cli import main, serving
from pyengine.serving import logs

pytest.importorskip("fastapi", reason="needs the extra `serve`")

JSON = {"content-type": "application/json"}


class Served:
    """A process that serves, from when it listens on."""

    def __init__(self, *arguments, **environment):
        paths = os.pathsep.join(sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyengine", "serve", "--port", "0", *arguments],
            env=os.environ | {"PYTHONPATH": paths} | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("serving "), line + self.process.stderr.read()
        self.models, _, self.url = line.removeprefix("serving ").strip().rpartition(" at ")

    def end(self, sig=signal.SIGTERM):
        """(exit status, seconds that it took, standard error)."""
        begin = time.monotonic()
        self.process.send_signal(sig)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, time.monotonic() - begin, errors


@pytest.fixture
def serve():
    made = []

    def begin(*arguments, **environment):
        made.append(Served(*arguments, **environment))
        return made[-1]

    yield begin
    for served in made:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate()


def test_a_signal_drains(serve):
    """What was begun before it is drawn; what takes too long is answered; nothing is left."""
    found = serve("emoji", "--deadline", "100000", "--api-key", "secret")
    assert found.models == "emoji"
    assert httpx.get(f"{found.url}/healthz").json() == {"status": "ok", "models": ["emoji"]}
    assert httpx.get(f"{found.url}/readyz").status_code == 200
    head = {**JSON, "authorization": "Bearer secret"}
    post = f"{found.url}/v1/images/generations"
    assert httpx.post(post, content=b'{"prompt":"a"}').status_code == 401
    answers = {}

    def draw(name, **body):
        answers[name] = httpx.post(post, json={"prompt": "a", **body}, headers=head, timeout=60)

    threads = [
        threading.Thread(target=draw, args=("short",), kwargs={"steps": 40}),
        threading.Thread(target=draw, args=("long",), kwargs={"steps": 1000, "size": "512x512"}),
    ]
    for thread in threads:
        thread.start()
    while "pyengine_running 2.0" not in httpx.get(f"{found.url}/metrics").text:
        time.sleep(0.02)
    status, seconds, errors = found.end()
    for thread in threads:
        thread.join()
    assert (status, seconds < 10) == (0, True), errors
    assert answers["short"].status_code == 200
    assert answers["long"].status_code == 503
    assert answers["long"].json()["error"]["code"] == "unavailable"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{found.url}/healthz")
    lines = [json.loads(line) for line in errors.splitlines()]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    drawn = [line for line in lines if line.get("path") == "/v1/images/generations"]
    assert {(line["status"], line.get("model")) for line in drawn} == {
        (401, None), (200, "emoji"), (503, "emoji")
    }  # fmt: skip
    assert {line.get("caller") for line in drawn} == {None, "key 1"}
    assert "secret" not in errors


def test_at_rest_it_ends_at_once(serve):
    found = serve("emoji", "--no-warm-up", PYENGINE_API_KEY="one two")
    with httpx.Client(base_url=found.url) as client:  # and keeps its connection open
        assert client.get("/v1/models").status_code == 401
        for key in ("one", "two"):
            head = {"authorization": f"Bearer {key}"}
            assert client.get("/v1/models", headers=head).status_code == 200
        status, seconds, errors = found.end(signal.SIGINT)
    assert (status, seconds < 5) == (0, True), errors


@pytest.mark.parametrize(("arguments", "words"), [
    (("--port", "70000"), "--port: expected a whole number from 0 to 65535"),
    (("--api-key", "é"), "api_keys: expected"),
    (("--api-key-file", "nothing/there"), "--api-key-file: expected a file of keys: No such file"),
    (("--api-key-file", os.devnull), "--api-key-file: expected keys, one a line"),
    (("--api-key-file", sys.executable), "--api-key-file: expected a file of keys: it is no text"),
    (("nothing/there",), "nothing/there"),
])  # fmt: skip
def test_what_cannot_be_served_is_refused(capsys, arguments, words):
    assert main(["serve", *arguments]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1


def test_keys_of_a_file(tmp_path):
    """It is not read as one empty key, which everybody has."""
    (tmp_path / "keys").write_text("one\n\n  two \r\n")
    assert serving.keys_in(str(tmp_path / "keys")) == ("one", "two")
    assert serving.keys_in(None) == ()


def test_a_port_that_is_taken(capsys, monkeypatch, engine):
    """As a whole, but for the model, which is here already."""
    monkeypatch.setattr(serving, "Engine", lambda *_, **__: engine)
    monkeypatch.setattr(engine, "stop", lambda: None)
    monkeypatch.setattr(logs, "configure", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "emoji", "--port", port, "--no-warm-up"]) == 2
    assert "cannot be listened at" in capsys.readouterr().err
