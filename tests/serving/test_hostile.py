"""Clients that are slow, broken or malicious: answered in words or left, and the others go on."""

import base64
import gc
import json
import os
import socket
import struct
import threading
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image
from served import SHORT, to_image, to_png

import pyengine
from pyengine.serving import admission

GENERATE = "/v1/images/generations"


@pytest.fixture(scope="module")
def impatient(engine):
    """A server that waits for nobody, with small limits."""
    from served import running

    limits = {"max_body": 300_000, "max_file": 100_000, "max_pixels": 1 << 18}
    limits |= {"max_connections": 300, "max_requests": 40, "idle": 0.6, "deadline": 1e5}
    with running(engine, **limits) as found:
        yield found


@pytest.fixture
def lives(impatient):
    """The server draws as before, once the test is over."""
    yield
    answer = httpx.post(impatient.url + GENERATE, json=SHORT, timeout=60)
    assert answer.status_code == 200
    until = time.monotonic() + 10
    while impatient.engine.running and time.monotonic() < until:
        time.sleep(0.01)
    assert impatient.engine.running == impatient.engine.waiting == 0
    assert impatient.server.bodies.taken == impatient.server.held.taken == 0


def connect(found):
    return socket.create_connection((found.host, found.port), timeout=20)


def head(length, *lines, path=GENERATE, kind="application/json"):
    fields = [f"POST {path} HTTP/1.1", "host: localhost", f"content-type: {kind}"]
    if length is not None:
        fields.append(f"content-length: {length}")
    return ("\r\n".join([*fields, *lines]) + "\r\n\r\n").encode()


def read_all(connection):
    """What comes until the other side closes."""
    found = b""
    while True:
        try:
            piece = connection.recv(65_536)
        except ConnectionResetError:
            return found
        if not piece:
            return found
        found += piece


def error_of(data):
    """(status, the error) of a raw answer."""
    top, _, body = data.partition(b"\r\n\r\n")
    found = json.loads(body)
    assert set(found["error"]) == {"message", "type", "param", "code"}
    return int(top.split()[1]), found["error"]


# --- bodies ---------------------------------------------------------------------------------------


def test_half_a_body(impatient, lives):
    with connect(impatient) as connection:
        begin = time.monotonic()
        connection.sendall(head(1000) + b'{"prompt":')
        assert error_of(read_all(connection))[0] == 408
        assert time.monotonic() - begin < 10
    with connect(impatient) as connection:
        connection.sendall(head(1000) + b'{"prompt":')  # and goes


def test_half_the_headers(impatient, lives):
    with connect(impatient) as connection:
        connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\n")
        assert read_all(connection) == b""
    with connect(impatient) as connection:  # a byte now and then does not help
        begin = time.monotonic()
        try:
            for byte in b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        except OSError:
            pass
        assert time.monotonic() - begin < 8


def test_a_body_that_is_said_to_be_too_long(impatient, lives):
    with connect(impatient) as connection:
        connection.sendall(head(10**12))
        status, error = error_of(read_all(connection))
    assert (status, error["param"]) == (413, "body")


def test_a_body_in_pieces_that_turns_out_too_long(impatient, lives):
    with connect(impatient) as connection:
        connection.sendall(head(None, "transfer-encoding: chunked"))
        try:
            for _ in range(10):
                connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        except OSError:
            pass
        status, _ = error_of(read_all(connection))
    assert status == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
        b"\xff\xfe{}",
        b'{"prompt": "a", "prompt": "b"}',
        b"[" * 100_000,
        b'{"a":' * 10_000,
        b'{"seed": 1e400}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        json.dumps({"prompt": ["x"] * 30_000}).encode(),
        b'{"prompt": {"a": 1}}',
        b'{"prompt": "a", "__proto__": 1}',
        b'{"prompt": "a", "self": 1}',
        b'{"prompt": "a", "model": {"a": 1}}',
        b'{"prompt": "a", "n": "1"}',
        b'{"prompt": "a", "size": 5}',
        b'{"prompt": "a", "check": 1}',
        b'{"prompt": "a", "share": 1}',
        b'{"prompt": "a", "priority": 10}',
        b'{"prompt": "a", "timeout": 1}',
    ],
)
def test_bodies_that_are_none(impatient, body):
    headers = {"content-type": "application/json"}
    answer = httpx.post(impatient.url + GENERATE, content=body, headers=headers, timeout=60)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types(impatient, kind):
    for path in (GENERATE, "/v1/images/edits", "/v1/jobs"):
        answer = httpx.post(impatient.url + path, content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415
        assert answer.json()["error"]["param"] == "content-type"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x--",
        b'--x\r\ncontent-disposition: form-data; name="image"\r\n\r\n',
        b"--x\r\n\r\n\r\n--x--",
        b"--y\r\n\r\n--y--",
        b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n'
        + b"a" * 200_000
        + b"\r\n--x--",
    ],
)
def test_forms_that_are_none(impatient, body):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for path in ("/v1/images/edits", "/v1/images/variations"):
        answer = httpx.post(impatient.url + path, content=body, headers=headers, timeout=60)
        assert answer.status_code in (400, 413, 422), answer.text
        assert answer.json()["error"]["message"]


def test_forms_with_too_much(impatient, server):
    many = {f"field{i}": "x" for i in range(200)}
    answer = httpx.post(impatient.url + "/v1/images/edits", data=many, files={"image": b"x"})
    assert answer.status_code == 400
    files = [("image", to_png(Image.new("RGB", (8, 8))))] * 2
    answer = httpx.post(impatient.url + "/v1/images/edits", data={"prompt": "a"}, files=files)
    assert answer.json()["error"]["param"] == "image"
    answer = httpx.post(
        server.url + "/v1/images/edits", data={"prompt": "a" * (2 << 20)}, files={"image": b"x"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_names_that_are_no_paths_outside(impatient):
    for path in ("/nothing", "/v1", "/v1/images", "/..%2f..%2fetc/passwd", "/sdapi/v1/nothing"):
        answer = httpx.get(impatient.url + path)
        assert answer.status_code == 404
        assert "/" not in answer.text.replace(path, "")
    assert httpx.delete(impatient.url + GENERATE).status_code == 405
    assert set(httpx.get(f"{impatient.url}/sdapi/v1/nothing").json()) == {
        "error",
        "detail",
        "body",
        "errors",
    }


# --- pictures -------------------------------------------------------------------------------------


def bomb(width, height):
    """A PNG of few bytes and many pixels."""

    def chunk(name, data):
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = zlib.compress(b"\0" * 1000)
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def pictures():
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    whole = to_png(Image.fromarray(noise[:64, :64]))
    return {
        "a bomb": bomb(60_000, 60_000),
        "more pixels than are read": bomb(1000, 1000),
        "a bomb of few pixels": bomb(64, 64),
        "nothing": b"",
        "no picture": b"GIF89a" + b"\0" * 100,
        "a text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "half a picture": whole[: len(whole) // 2],
        "a long file": to_png(Image.fromarray(noise)),
        "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }


@pytest.mark.parametrize("name", list(pictures()))
def test_hostile_pictures(impatient, name):
    data = pictures()[name]
    form = httpx.post(
        impatient.url + "/v1/images/edits", data={"prompt": "a"}, files={"image": data}, timeout=60
    )
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    body = {"prompt": "a", "images": [{"image_url": url}]}
    text = httpx.post(impatient.url + "/v1/images/edits", json=body, timeout=60)
    extra = httpx.post(impatient.url + GENERATE, json={"prompt": "a", "image": url}, timeout=60)
    for answer in (form, text, extra):
        assert answer.status_code in (400, 413), answer.text
        assert answer.json()["error"]["param"] == "image"
        assert "/" not in answer.json()["error"]["message"].replace("image/", "")


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/a.png",
        "file:///etc/passwd",
        "ftp://x/y",
        "data:image/png,AAAA",
        "data:text/html;base64,PGI+",
        "!!!!",
        "a" * 33,
        "",
        "data:",
        "/etc/passwd",
    ],
)
def test_places_instead_of_pictures(impatient, text):
    body = {"prompt": "a", "images": [{"image_url": text}]}
    answer = httpx.post(impatient.url + "/v1/images/edits", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "image"


@pytest.mark.parametrize(("body", "param"), [
    ({"images": []}, "images"), ({"images": "x"}, "images"), ({"images": [1, 2]}, "images"),
    ({"images": [{"file_id": "x"}]}, "image"), ({}, "image"), ({"image": 5}, "image"),
    ({"images": [{"image_url": 5}]}, "image"),
])  # fmt: skip
def test_edits_of_nothing(impatient, body, param):
    answer = httpx.post(impatient.url + "/v1/images/edits", json={"prompt": "a", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_masks(impatient):
    image = to_png(Image.new("RGB", (64, 64)))
    for mask, words in (
        (Image.new("L", (64, 64)), "transparent"),
        (Image.new("RGBA", (32, 64)), "size"),
    ):
        files = {"image": image, "mask": to_png(mask)}
        answer = httpx.post(impatient.url + "/v1/images/edits", data={"prompt": "a"}, files=files)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "mask"
        assert words in answer.text


# --- connections ----------------------------------------------------------------------------------


def test_idle_connections_hold_nobody_up(impatient, lives):
    """More of them than may be open: the first ones are let go."""
    idle = [connect(impatient) for _ in range(290)]
    try:
        answer = httpx.post(impatient.url + GENERATE, json=SHORT, timeout=60)
        assert answer.status_code == 200
        more = [connect(impatient) for _ in range(20)]
        until = time.monotonic() + 10
        while len(impatient.process.server_state.connections) > 5 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(impatient.process.server_state.connections) <= 5
    finally:
        for connection in [*idle, *more]:
            connection.close()


def test_connections_beyond_those_that_may_be_open_are_told_so(serve):
    """Also where a request is on its way already: it is not reset before it has read why."""
    with serve(max_connections=10) as found:
        idle = [connect(found) for _ in range(10)]
        until = time.monotonic() + 20
        while len(found.process.server_state.connections) < 10 and time.monotonic() < until:
            time.sleep(0.01)
        with connect(found) as connection:
            connection.sendall(head(100_000) + b" " * 100_000)
            data = read_all(connection)
        assert error_of(data)[0] == 429
        assert b"retry-after: 1" in data
        for connection in idle:
            connection.close()


def test_an_answer_before_the_body_was_sent_is_read(serve):
    """Of a connection that is closed while something comes, the answer would be lost."""
    with serve(max_body=1024) as found, connect(found) as connection:
        connection.sendall(head(4_000_000))
        for _ in range(40):
            connection.sendall(b" " * 100_000)
        assert error_of(read_all(connection))[0] == 413


def test_a_full_queue_answers_before_it_reads(serve, pipes):
    """The connection is the next request's then."""
    body = json.dumps({**SHORT, "prompt": "a" * 200}).encode()
    with pyengine.Engine(pipes["emoji"], max_waiting=1, _thread=False) as engine:
        engine.submit(prompt="a")  # nobody runs it
        with serve(engine=engine, api_keys=("secret",)) as found:
            for path in admission.MAKE_JOBS:
                assert path in {route["path"] for route in routes_of(found.app)}
                with connect(found) as connection:
                    connection.sendall(head(len(body), path=path))
                    assert b" 401 " in connection.recv(65_536).splitlines()[0]
                with connect(found) as connection:
                    key = "authorization: Bearer secret"
                    connection.sendall(head(len(body), key, path=path))
                    first = connection.recv(65_536)
                    assert first.startswith(b"HTTP/1.1 429 ")
                    assert b"retry-after: " in first
                    connection.sendall(body)
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
            label = {"method": "POST", "route": path, "status": "429"}
            count = found.server.metrics.registry.get_sample_value
            assert count("pyengine_http_requests_total", label) == 1
        engine.stop()


def routes_of(app):
    return [{"path": path} for path in app.openapi()["paths"]]


@pytest.mark.parametrize(("data", "status"), [
    (b"nonsense\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200_000, 400),
])  # fmt: skip
def test_what_is_no_request(serve, data, status):
    with serve() as found, connect(found) as connection:
        connection.sendall(data)
        answer, error = error_of(read_all(connection))
    assert answer == status
    assert error["type"] == "invalid_request_error"


def test_a_request_that_would_go_on_in_another_protocol(serve):
    """Java's client and `curl --http2` ask so; the body is that of a request all the same."""
    body = json.dumps(SHORT).encode()
    with serve() as found, connect(found) as connection:
        upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMA")
        connection.sendall(head(len(body), *upgrade) + body)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_more_requests_at_once_than_may_be(serve):
    with serve(max_requests=40) as found:
        waiting = [connect(found) for _ in range(40)]
        for connection in waiting:
            connection.sendall(head(1000) + b"{")
        until = time.monotonic() + 20
        while len(found.process.server_state.tasks) < 40 and time.monotonic() < until:
            time.sleep(0.01)
        answer = httpx.get(found.url + "/v1/models")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        for connection in waiting:
            connection.close()


def test_a_reader_that_stops(impatient, lives):
    """It takes nothing of a stream: the connection is closed, the job cancelled."""
    body = json.dumps({"prompt": "a", "n": 8, "size": "128x128", "stream": True, "steps": 30,
                       "partial_images": 3}).encode()  # fmt: skip
    listening = impatient.process.servers[0].sockets[0]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # accepted sockets inherit it
    before = cancelled(impatient)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((impatient.host, impatient.port))
        connection.sendall(head(len(body)) + body)
        until = time.monotonic() + 60
        while cancelled(impatient) == before and time.monotonic() < until:
            time.sleep(0.02)
        assert cancelled(impatient) == before + 1
        while impatient.process.server_state.tasks and time.monotonic() < until:
            time.sleep(0.02)
        assert not impatient.process.server_state.tasks


def test_a_reader_that_is_slow(impatient, lives):
    """It takes three times as long as a reader may be silent, and gets everything."""
    body = json.dumps({"prompt": "a", "n": 10, "size": "128x128", "steps": 1}).encode()
    listening = impatient.process.servers[0].sockets[0]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((impatient.host, impatient.port))
        connection.sendall(head(len(body), "connection: close") + body)
        found, begin = connection.recv(8192), time.monotonic()
        while piece := connection.recv(8192):
            found += piece
            if time.monotonic() - begin < 1.8:
                time.sleep(0.05)
    assert len(json.loads(found.partition(b"\r\n\r\n")[2])["data"]) == 10


def cancelled(found):
    """Jobs that were."""
    labels = {"model": "emoji", "outcome": "cancelled"}
    return found.server.metrics.registry.get_sample_value("pyengine_jobs_total", labels) or 0


def test_who_goes_cancels_within_a_step(serve, engine):
    with serve(deadline=1e5) as found:
        body = json.dumps({"prompt": "a", "size": "256x256", "steps": 1000}).encode()
        for stream in (b"", b', "stream": true'):
            whole = body[:-1] + stream + b"}"
            with connect(found) as connection:
                connection.sendall(head(len(whole)) + whole)
                until = time.monotonic() + 30
                while not engine.running and time.monotonic() < until:
                    time.sleep(0.01)
                assert engine.running == 1
            until = time.monotonic() + 5
            while engine.running and time.monotonic() < until:
                time.sleep(0.01)
            assert engine.running == 0
        for seed in range(5):
            answer = httpx.post(found.url + GENERATE, json={**SHORT, "seed": seed}, timeout=60)
            assert answer.status_code == 200


def test_pictures_under_load_have_their_own_bits(server, pipes):
    calls = [
        {
            "prompt": f"a cat {k}",
            "seed": k,
            "num_inference_steps": 3 + k % 4,
            "scheduler": ("ddim", "euler", "heun", "dpmpp_2m")[k % 4],
        }
        for k in range(12)
    ]
    found = {}

    def draw(k):
        found[k] = httpx.post(server.url + GENERATE, json=calls[k], timeout=120)

    threads = [threading.Thread(target=draw, args=(k,)) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, call in enumerate(calls):
        assert found[k].status_code == 200, found[k].text
        image = to_image(found[k].json()["data"][0]["b64_json"])
        assert np.array_equal(np.asarray(image), np.asarray(pipes["emoji"](**call).images[0]))


def test_nothing_is_left_over(impatient):
    """Threads, files and tasks after many requests, some of which were cut off."""

    def count():
        gc.collect()
        until = time.monotonic() + 10
        while impatient.process.server_state.connections and time.monotonic() < until:
            time.sleep(0.05)
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def requests(count):
        with httpx.Client(base_url=impatient.url, timeout=60) as client:
            for k in range(count):
                client.post(GENERATE, json={**SHORT, "seed": k})
                client.post(GENERATE, json={"prompt": 5})
                with connect(impatient) as connection:
                    connection.sendall(head(100) + b"{")

    requests(3)
    before = count()
    requests(15)
    after = count()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert not impatient.process.server_state.tasks


# --- other sites ----------------------------------------------------------------------------------


def test_pages_of_other_sites(server, serve):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://["):
        answer = httpx.post(server.url + GENERATE, json=SHORT, headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    headers = {"origin": server.url}
    assert httpx.post(server.url + GENERATE, json=SHORT, headers=headers).status_code == 200
    with serve(cors_origins=("https://good.example",)) as found:
        headers = {"origin": "https://good.example"}
        answer = httpx.post(found.url + GENERATE, json=SHORT, headers=headers, timeout=60)
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        assert "access-control-allow-credentials" not in answer.headers
        evil = {"origin": "https://evil.example"}
        assert httpx.post(found.url + GENERATE, json=SHORT, headers=evil).status_code == 403
        asked = {**evil, "access-control-request-method": "POST"}
        answer = httpx.options(found.url + GENERATE, headers=asked)
        assert "access-control-allow-origin" not in answer.headers


def test_headers_of_every_answer(server):
    for path in ("/healthz", "/nothing", "/v1/models", "/metrics"):
        headers = httpx.get(server.url + path, headers={"x-request-id": "abc-1"}).headers
        assert headers["x-request-id"] == "abc-1"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    odd = httpx.get(server.url + "/healthz", headers={"x-request-id": "a b;c"})
    assert odd.headers["x-request-id"].startswith("req_")


def test_a_fault_of_the_server_says_nothing_of_it(serve, engine, monkeypatch):
    with serve() as found:

        def submit(*_, **__):
            raise FileNotFoundError("/no/such/place")

        monkeypatch.setattr(found.server.drawings, "submit", submit)
        answer = httpx.post(found.url + GENERATE, json=SHORT)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the server has made a mistake; its log has it"
    assert "/" not in answer.text


# --- names that resolve to this machine -----------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost", 200), ("LOCALHOST:80", 200), ("a.localhost", 200),
        ("[::1]:8000", 200), ("192.168.1.2", 200), ("localhost.", 200),
        ("evil.example", 403), ("evil.example:8000", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403), ("", 403), ("[evil]", 403), ("a@localhost", 403),
    ],
)  # fmt: skip
def test_names_of_a_server_without_keys(server, host, status):
    answer = httpx.get(f"{server.url}/v1/models", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("host", "unknown_host")
        assert httpx.get(f"{server.url}/healthz", headers={"host": host}).status_code == 403
        told = httpx.get(f"{server.url}/sdapi/v1/options", headers={"host": host}).json()
        assert told["error"] == "permission_error"
        assert told["detail"].startswith("host: expected")


def test_names_that_are_allowed(serve):
    """With keys any name does, unless names are listed."""

    def status(found, host, key="one"):
        headers = {"host": host, "authorization": f"Bearer {key}"}
        return httpx.get(f"{found.url}/v1/models", headers=headers).status_code

    with serve(api_keys=("one",)) as found:
        assert status(found, "evil.example") == 200
    with serve(api_keys=("one",), allowed_hosts=("Good.example",)) as found:
        assert status(found, "good.example:443") == status(found, "localhost") == 200
        assert status(found, "evil.example") == status(found, "a.good.example") == 403
    with serve(allowed_hosts=("*",)) as found:
        assert status(found, "evil.example") == 200
