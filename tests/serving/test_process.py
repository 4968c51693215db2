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
from pyengine.serving import logs, process

pytest.importorskip("fastapi", reason="needs the extra `serve`")

JSON = {"content-type": "application/json"}


class Served:
    """A process that serves, from when it listens on. seconds: DRAIN, CANCEL and LAST of its
    process.py, so that how fast the machine is decides nothing.
    """

    def __init__(self, *arguments, seconds=None, **environment):
        paths = os.pathsep.join(sys.path)
        begin = ["-m", "pyengine"]
        if seconds is not None:
            code = (
                "import sys; from pyengine.cli import main; from pyengine.serving import process\n"
            )
            code += f"process.DRAIN, process.CANCEL, process.LAST = {seconds}\nsys.exit(main())"
            begin = ["-c", code]
        self.process = subprocess.Popen(
            [sys.executable, *begin, "serve", "--port", "0", *arguments],
            env=os.environ | {"PYTHONPATH": paths} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("serving "), line + self.process.stderr.read()
        self.models, _, self.url = line.removeprefix("serving ").strip().rpartition(" at ")

    @property
    def address(self):
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def end(self, sig=signal.SIGTERM):
        """(exit status, seconds that it took, standard error)."""
        begin = time.monotonic()
        self.process.send_signal(sig)
        _, errors = self.process.communicate(timeout=300)
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


def begun(served, **body):
    """A request that the engine has begun, as (thread, where its answer comes to)."""
    answers = []

    def draw():
        head = {"authorization": "Bearer secret"}
        post = f"{served.url}/v1/images/generations"
        answers.append(httpx.post(post, json={"prompt": "a", **body}, headers=head, timeout=300))

    thread = threading.Thread(target=draw)
    thread.start()
    while "pyengine_running 1.0" not in httpx.get(f"{served.url}/metrics").text:
        time.sleep(0.02)
    return thread, answers


def test_a_signal_drains(serve):
    """What was begun before it is drawn, and nothing is left."""
    found = serve("emoji", "--deadline", "100000", "--api-key", "secret", seconds=(250, 260, 270))
    assert found.models == "emoji"
    assert httpx.get(f"{found.url}/healthz").json() == {"status": "ok", "models": ["emoji"]}
    assert httpx.get(f"{found.url}/readyz").status_code == 200
    post = f"{found.url}/v1/images/generations"
    assert httpx.post(post, content=b'{"prompt":"a"}').status_code == 401
    thread, answers = begun(found, steps=40, size="128x128")
    status, _, errors = found.end()
    thread.join()
    assert (status, answers[0].status_code) == (0, 200), errors
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{found.url}/healthz")
    lines = [json.loads(line) for line in errors.splitlines()]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    drawn = [line for line in lines if line.get("path") == "/v1/images/generations"]
    assert {(line["status"], line.get("model")) for line in drawn} == {(401, None), (200, "emoji")}
    assert {line.get("caller") for line in drawn} == {None, "key 1"}
    assert "secret" not in errors


def test_what_takes_too_long_is_answered(serve):
    found = serve("emoji", "--deadline", "100000", "--api-key", "secret", seconds=(0.2, 250, 260))
    thread, answers = begun(found, steps=1000, size="512x512")
    status, _, errors = found.end()
    thread.join()
    assert (status, answers[0].status_code) == (0, 503), errors
    assert answers[0].json()["error"]["code"] == "unavailable"


def test_whatever_hangs_the_process_ends(serve):
    """Within ten seconds, as pyengine serve has it."""
    assert 0 < process.DRAIN < process.CANCEL < process.LAST < 10
    found = serve("emoji", "--deadline", "100000", "--api-key", "secret", seconds=(250, 260, 0.2))
    body = json.dumps({"prompt": "a", "steps": 1000, "size": "512x512"}).encode()
    with socket.create_connection(found.address) as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer"
            b" secret\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        while "pyengine_running 1.0" not in httpx.get(f"{found.url}/metrics").text:
            time.sleep(0.02)
        assert found.end()[0] == 0


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
