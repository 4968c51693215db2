"""/v1/jobs: pictures for clients that come back for them."""

import json
import time

import httpx
import numpy as np
import pytest
from served import SHORT, to_image

import pyengine

#: Hours of work, unless somebody ends it.
LONG = {"prompt": "a", "seed": 1, "num_inference_steps": 1000, "size": "256x256"}


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def patient(engine):
    """A client of a server that lets jobs take as long as they like, and what it is."""
    from served import running

    with (
        running(engine, deadline=1e6, api_keys=("one", "two")) as found,
        httpx.Client(base_url=found.url, timeout=60, headers=key("one")) as made,
    ):
        yield made, found


def key(name):
    return {"authorization": f"Bearer {name}"}


def events(client, job_id, **headers):
    """(id, type, data) of a job's events."""
    answer = client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if fields:
            data = json.loads(fields["data"])
            assert data["type"] == fields["event"]
            found.append((int(fields["id"]), fields["event"], data))
    return found


def ended(client, job_id):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = client.get(f"/v1/jobs/{job_id}").json()
        if found["status"] not in ("queued", "running"):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_a_job_from_beginning_to_end(client, pipes):
    answer = client.post("/v1/jobs", json={**SHORT, "n": 2, "previews": 1})
    assert answer.status_code == 202
    made = answer.json()
    assert made["status"] in ("queued", "running")
    assert made["seeds"] == [1, 2]
    assert answer.headers["location"] == f"/v1/jobs/{made['id']}"
    found = ended(client, made["id"])
    assert found["status"] == "succeeded"
    assert (found["step"], found["steps"]) == (3, 3)
    assert found["expires_at"] > found["created_at"]
    expected = pipes["emoji"](**SHORT, num_images_per_prompt=2)
    for item, image in zip(found["result"]["data"], expected.images, strict=True):
        assert np.array_equal(np.asarray(to_image(item["b64_json"])), np.asarray(image))
    assert client.delete(f"/v1/jobs/{made['id']}").json() == found


def test_events_are_resumed(client, pipes):
    made = client.post("/v1/jobs", json={**SHORT, "num_inference_steps": 8, "previews": 3}).json()
    all_of_them = events(client, made["id"])
    assert [number for number, _, _ in all_of_them] == list(range(1, len(all_of_them) + 1))
    kinds = [kind for _, kind, _ in all_of_them]
    assert kinds[0] == "queued"
    assert kinds.count("preview") == 3
    assert kinds[-1] == "done"
    assert [data["step"] for _, kind, data in all_of_them if kind == "step"] == list(range(1, 9))
    shown = {
        step.step + 1: step.preview()[0]
        for step in pipes["emoji"].steps(**{**SHORT, "num_inference_steps": 8})
    }
    for _, kind, data in all_of_them:
        if kind == "preview":
            image = to_image(data["images"][0])
            assert np.array_equal(np.asarray(image), np.asarray(shown[data["step"]]))
    for last in (3, len(all_of_them) - 1, len(all_of_them), 10**9):
        again = events(client, made["id"], **{"last-event-id": str(last)})
        assert again == all_of_them[last:]


def test_a_job_is_cancelled_as_often_as_one_likes(patient):
    client, found = patient
    made = client.post("/v1/jobs", json=LONG).json()
    while client.get(f"/v1/jobs/{made['id']}").json()["status"] != "running":
        time.sleep(0.01)
    waits = client.post("/v1/jobs", json={**LONG, "size": "192x256"}).json()
    for job in (waits, made, made):
        told = client.delete(f"/v1/jobs/{job['id']}").json()
        assert told["status"] == "cancelled"
        assert told["error"]["code"] == "cancelled"
    assert events(client, made["id"])[-1][1] == "cancelled"
    until = time.monotonic() + 5
    while found.engine.running and time.monotonic() < until:
        time.sleep(0.01)
    assert found.engine.running == found.engine.waiting == 0


def test_a_job_survives_its_clients(patient):
    client, _ = patient
    made = client.post("/v1/jobs", json={**SHORT, "num_inference_steps": 60}).json()
    with client.stream("GET", f"/v1/jobs/{made['id']}/events") as answer:
        next(answer.iter_lines())  # and goes
    assert ended(client, made["id"])["status"] == "succeeded"


def test_what_never_was(client):
    for call in (client.get, client.delete):
        answer = call("/v1/jobs/nothing")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "job_not_found"
    assert client.get("/v1/jobs/nothing/events").status_code == 404


def test_jobs_are_their_callers(patient):
    client, _ = patient
    made = client.post("/v1/jobs", json=SHORT).json()
    for call in (client.get, client.delete):
        assert call(f"/v1/jobs/{made['id']}", headers=key("two")).status_code == 404
    assert client.get(f"/v1/jobs/{made['id']}/events", headers=key("two")).status_code == 404
    assert ended(client, made["id"])["status"] == "succeeded"


def test_idempotency_keys(client):
    body, head = {**SHORT, "seed": 9}, {"idempotency-key": "once"}
    first = client.post("/v1/jobs", json=body, headers=head)
    again = client.post("/v1/jobs", json=body, headers=head)
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = client.post("/v1/jobs", json={**body, "seed": 10}, headers=head)
    assert other.status_code == 409
    assert other.json()["error"]["param"] == "Idempotency-Key"
    bad = client.post("/v1/jobs", json={**body, "seed": -1}, headers={"idempotency-key": "bad"})
    assert bad.status_code == 400
    good = client.post("/v1/jobs", json=body, headers={"idempotency-key": "bad"})
    assert good.status_code == 202  # a refusal was no job
    assert client.post("/v1/jobs", json=body).json()["id"] != first.json()["id"]


@pytest.mark.parametrize(("body", "param"), [
    ({"stream": True}, "stream"), ({"previews": 1000}, "previews"),
    ({"quick_previews": "yes"}, "quick_previews"), ({"steps": 0}, "steps"),
    ({"prompt": None}, "prompt"),
])  # fmt: skip
def test_refusals(client, body, param):
    answer = client.post("/v1/jobs", json={**SHORT, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_time_to_live(serve):
    with serve(keep=0.3) as found, httpx.Client(base_url=found.url) as client:
        made = client.post("/v1/jobs", json=SHORT, headers={"idempotency-key": "a"}).json()
        assert ended(client, made["id"])["status"] == "succeeded"
        time.sleep(0.4)
        assert client.get(f"/v1/jobs/{made['id']}").status_code == 404
        again = client.post("/v1/jobs", json=SHORT, headers={"idempotency-key": "a"}).json()
        assert again["id"] != made["id"]


def test_the_oldest_go_first(serve):
    with serve(max_kept=2) as found, httpx.Client(base_url=found.url) as client:
        made = []
        for seed in range(4):
            made.append(client.post("/v1/jobs", json={**SHORT, "seed": seed}).json()["id"])
            assert ended(client, made[-1])["status"] == "succeeded"
        found = [client.get(f"/v1/jobs/{job}").status_code for job in made]
        assert found == [404, 404, 200, 200]


def test_a_key_cannot_fill_the_queue(pipes):
    """Half of its places are for who comes first, a quarter is each of two keys' own."""
    from served import running

    with (
        pyengine.Engine(pipes["emoji"], max_waiting=8) as engine,
        running(engine, deadline=1e6, api_keys=("one", "two")) as found,
        httpx.Client(base_url=found.url, timeout=60) as client,
    ):
        codes = []
        for k in range(12):
            body = {**LONG, "seed": k}
            codes.append(client.post("/v1/jobs", json=body, headers=key("one")).status_code)
        assert codes.count(202) in (6, 7)  # one of them may run
        others = [client.post("/v1/jobs", json=LONG, headers=key("two")) for _ in range(3)]
        assert [answer.status_code for answer in others] == [202, 202, 429]
        assert int(others[-1].headers["retry-after"]) >= 1
        engine.stop()


def test_a_short_job_of_one_key_goes_before_many_of_another(manual_shares):
    m = manual_shares
    many = [m.submit(seed=k, steps=50, share="a") for k in range(6)]
    one = m.submit(seed=9, steps=2, share="b")
    while not one.done:
        m.turn()
    assert sum(job.done for job in many) <= 1


@pytest.fixture
def manual_shares(pipes, monkeypatch):
    """An engine that a test steps by hand, and that knows what a step costs."""
    import sys
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "engine"))
    from manual import Manual

    m = Manual(pipes, ("sd1",), {}, monkeypatch)
    m.submit(seed=0, steps=3)
    m.finish()
    yield m
    sys.modules.pop("manual", None)
