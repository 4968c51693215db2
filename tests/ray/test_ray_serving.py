"""Engines behind Ray Serve, for real: pictures, errors, a replica that is killed under load."""

import base64
import concurrent.futures
import io
import os
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

import pyengine
import pyengine.ray
from pyengine.errors import RequestError

httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow

PROMPTS = ("a red heart", "a cat", "two dogs and a tree")


def call_of(k, steps):
    return {"prompt": PROMPTS[k % 3], "seed": k, "num_inference_steps": steps}


@pytest.fixture(scope="module")
def address(cluster):
    """Of two replicas behind Ray Serve's own proxy."""
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(pyengine.ray.deployment("emoji", replicas=2, num_cpus=0.5), name="pictures")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="module")
def pipe():
    return pyengine.from_pretrained("emoji")


def parent_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def is_below(pid, ancestor):
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parent_of(pid)
    return False


def replicas():
    """Processes of the replicas of this test's own Ray, whose raylet is this process's child: other
    test processes may have theirs.
    """
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                with open(f"/proc/{folder}/cmdline", "rb") as file:
                    line = file.read().decode()
                if "ServeReplica:pictures:pyengine-engine" in line and is_below(
                    int(folder), os.getpid()
                ):
                    found.append(int(folder))
            except OSError:
                continue
    return sorted(found)


def draw(address, **call):
    return httpx.post(f"{address}/v1/images/generations", json=call, timeout=120)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def same(answer, pipe, call):
    picture = decoded(answer.json()["data"][0]["b64_json"])
    return np.array_equal(picture, np.asarray(pipe(**call, progress=False).images[0]))


def test_a_replica_that_is_killed_under_load_costs_no_request(address, pipe):
    assert httpx.get(f"{address}/healthz", timeout=60).status_code == 200
    before = replicas()
    assert len(before) == 2
    calls = [call_of(k, steps=40 + k) for k in range(5)]
    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(draw, address, **call) for call in calls]
        time.sleep(0.5)
        os.kill(before[0], signal.SIGKILL)
        found = [answer.result(timeout=120) for answer in answers]
    assert [answer.status_code for answer in found] == [200] * len(calls)
    assert all(same(answer, pipe, call) for call, answer in zip(calls, found, strict=True))
    assert same(draw(address, **call_of(1, 2)), pipe, call_of(1, 2))


def test_jobs_are_found_where_they_were_submitted(address, pipe):
    call = call_of(4, 3)
    jobs = [httpx.post(f"{address}/v1/jobs", json=call, timeout=60).json() for _ in range(4)]
    for job in jobs:
        with httpx.stream("GET", f"{address}/v1/jobs/{job['id']}/events", timeout=60) as events:
            assert "event: done" in "".join(events.iter_text())
        told = httpx.get(f"{address}/v1/jobs/{job['id']}", timeout=60)
        assert told.json()["status"] == "succeeded"
        data = told.json()["result"]["data"][0]["b64_json"]
        assert np.array_equal(decoded(data), np.asarray(pipe(**call, progress=False).images[0]))
    assert httpx.get(f"{address}/v1/jobs/job_nobody.x", timeout=60).status_code == 404


def test_a_stream_comes_through(address):
    call = {**call_of(5, 12), "stream": True, "partial_images": 2}
    with httpx.stream("POST", f"{address}/v1/images/generations", json=call, timeout=60) as answer:
        text = "".join(answer.iter_text())
    assert text.count("event: image_generation.partial_image") == 2
    assert text.count("event: image_generation.completed") == 1


def running(address):
    """Jobs that run or wait, by replica."""
    found = {}
    for line in httpx.get(f"{address}/metrics", timeout=60).text.splitlines():
        if line.startswith(("pyengine_running{", "pyengine_waiting{")):
            name = line.partition('replica="')[2].partition('"')[0]
            found[name] = found.get(name, 0) + float(line.rpartition(" ")[2])
    return found


def test_a_client_that_goes_ends_its_job(address):
    assert not any(running(address).values())
    call = call_of(6, 900)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/images/generations", json=call, timeout=1.0)
    until = time.monotonic() + 60
    while any(running(address).values()):
        assert time.monotonic() < until
    assert draw(address, **call_of(7, 1)).status_code == 200


def test_errors_and_lists_are_those_of_the_server(address):
    answer = draw(address, prompt="a cat", num_inference_steps="many")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "num_inference_steps"
    assert set(httpx.get(f"{address}/nothing").json()["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }
    models = httpx.get(f"{address}/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["emoji"]


@pytest.mark.parametrize(
    ("models", "how", "words"),
    [
        ((), {}, "models: expected names or paths"),
        ((3,), {}, "models: expected names or paths"),
        (("emoji", "emoji"), {}, "models: expected each once"),
        (("emoji",), {"replicas": 0}, "replicas: expected"),
        (("emoji",), {"replicas": (3, 2)}, "replicas: expected"),
        (("emoji",), {"max_waiting": 0}, "max_waiting: expected"),
        (("emoji",), {"num_cpus": "all"}, "num_cpus: expected"),
    ],
)
def test_what_cannot_be_deployed(models, how, words):
    pytest.importorskip("ray")
    with pytest.raises(RequestError, match=words):
        pyengine.ray.deployment(*models, **how)


def test_replicas_by_work_and_models_apart():
    pytest.importorskip("ray")
    app = pyengine.ray.deployment("emoji", "emoji-ar", replicas=(1, 3), apart=True)
    groups = app._bound_deployment.init_args[0]
    assert [names for names, _ in groups] == [("emoji",), ("emoji-ar",)]
    for _, bound in groups:
        config = bound._bound_deployment._deployment_config.autoscaling_config
        assert (config.min_replicas, config.max_replicas) == (1, 3)
