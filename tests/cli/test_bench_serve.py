"""`pyengine bench serve`: its client, what it makes of answers, a server under too much load."""

import asyncio
import itertools
import json
import math
from pathlib import Path

import pytest

from pyengine.bench import load, serve, serve_report
from pyengine.bench.servers import ServerProcess, ours

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

KINDS = [
    load.Kind("few", {"model": "emoji", "num_inference_steps": 1}, 3),
    load.Kind("long", {"model": "emoji"}, 1, short=False),
]
ALONE = {"few": 1.0, "long": 4.0}


def test_arrivals_are_random_and_the_same_every_time():
    found = load.arrivals(KINDS, rate=50.0, seconds=40.0, seed=3)
    assert found == load.arrivals(KINDS, rate=50.0, seconds=40.0, seed=3)
    assert len(found) == pytest.approx(2000, rel=0.1)
    assert len({request.seed for request in found}) == len(found)
    for begin in range(0, 1900, 40):  # in any part of a run as many of each as their share says
        assert sum(request.kind.short for request in found[begin : begin + 40]) == 30
    gaps = [b.due - a.due for a, b in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert math.sqrt(variance) == pytest.approx(mean, rel=0.1)  # as of an exponential distribution


def answered(seed, status=200, seconds=0.5, kind=0, due=0.0, **more):
    request = load.Request(KINDS[kind], seed, due)
    more.setdefault("seeds", [seed] if status == 200 else [])
    return load.Outcome(request, status, seconds, **more)


def test_what_is_told_of_a_load():
    outcomes = [
        *(answered(k, seconds=0.1 * k, due=k) for k in range(1, 9)),
        answered(9, seconds=20.0, kind=1, due=9.0),
        answered(10, 429, seconds=0.02, late=0.01, retry_after=1.0),
        answered(11, load.TIMED_OUT, seconds=60.0),
    ]
    found = serve.summary("x", 1.2, outcomes, ALONE, seconds=10.0)
    assert (found.offered, found.done, found.refused, found.gave_up) == (11, 9, 1, 1)
    assert found.seconds["p50"] == pytest.approx(0.5)
    assert found.seconds["p99"] == 20.0
    assert found.seconds["short p50"] == pytest.approx(0.4)
    assert found.goodput == pytest.approx(9 / 29)  # the last was answered after 29 s
    assert found.in_time == pytest.approx(8 / 11)
    assert found.refused_within == pytest.approx(0.01)
    nothing = serve.summary("x", 1.0, [], ALONE, seconds=1.0)
    assert math.isnan(nothing.seconds["p50"])
    result = serve.Result(KINDS, 2.0, ALONE, [found, nothing], {"diffusers": "not installed"})
    plain = serve_report.plain(result, serve.Work(models=["emoji"]), {})
    assert json.loads(json.dumps(plain, allow_nan=False))["loads"][1]["seconds"]["p50"] is None
    assert serve_report.lines(result)[-1] == "not measured: diffusers: not installed"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (answered(1, seeds=[2]), "asked for seed 1, answered with"),
        (answered(1, seeds=[]), "asked for seed 1, answered with"),
        (answered(1, 429), "a refusal without Retry-After"),
        (answered(1, 500), "few, seed 1: status 500"),
        (answered(1, load.CUT), "few, seed 1: a cut connection"),
    ],
)
def test_answers_that_no_server_may_give(outcome, words):
    serve.check_answers([answered(1), answered(2, 429, retry_after=1.0)])
    with pytest.raises(RuntimeError, match=words):
        serve.check_answers([outcome])


def test_the_client_tells_what_came():
    picture = json.dumps({"data": [{"seed": 1, "b64_json": "AA=="}]}).encode()
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(picture), picture),
        b"HTTP/1.1 429 No\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nhalf",
        b"",
        None,
    ]
    bodies = []

    async def run():
        async def handle(reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            bodies.append(json.loads(await reader.readexactly(length)))
            answer = answers[bodies[-1]["seed"]]
            if answer is None:
                await asyncio.sleep(1.0)
            else:
                writer.write(answer)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        requests = [load.Request(KINDS[0], k, due=0.01 * k) for k in range(5)]
        found = await load.offer(port, requests, patience=0.3)
        server.close()
        unheard = await load.ask(port, requests[0], 0.3, 0.0)
        return found, unheard

    found, unheard = asyncio.run(run())
    assert [o.status for o in found] == [200, 429, load.CUT, load.CUT, load.TIMED_OUT]
    assert (found[0].seeds, len(found[0].digest)) == ([1], 64)
    assert found[1].retry_after == 3.0
    assert unheard.status == load.CUT
    assert sorted(body["seed"] for body in bodies) == [0, 1, 2, 3, 4]
    assert bodies[0]["model"] == "emoji"


@pytest.mark.slow
def test_a_server_under_four_times_its_load(run, tmp_path):
    pytest.importorskip("matplotlib")
    saved, plot = tmp_path / "serve.json", tmp_path / "serve.png"
    status, out, err = run(
        "bench",
        "serve",
        "-m",
        "emoji",
        "--quick",
        "--threads",
        "1",
        "--save",
        saved,
        "--plot",
        plot,
    )
    assert status == 0, err
    found = json.loads(saved.read_text())
    assert [row["contestant"] for row in found["loads"]] == ["pyengine", "one at a time"]
    for row in found["loads"]:
        assert row["offered"] == row["done"] + row["refused"] + row["gave_up"]
        assert f"| {row['contestant']} " in out
    assert f"capacity {found['capacity']:.2f}" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_far_too_much_load_is_refused_and_leaves_nothing_behind():
    """Twenty times what is done: refusals say when to come again, what is done is right, and the
    process holds no more threads, files or memory afterwards.
    """
    kind = load.Kind("few", {"model": "emoji", "num_inference_steps": 4}, 1)
    work = serve.Work(models=["emoji"], max_waiting=4, requests=600, seconds=2.0)
    with ServerProcess("ours", ours, ["emoji"], 4, threads=1) as server:
        asyncio.run(load.closed(server.port, iter([load.Request(kind, 1)] * 8), 8, 60.0))
        requests = load.arrivals([kind], rate=200.0, seconds=2.0, seed=1)
        outcomes = asyncio.run(load.offer(server.port, requests, patience=60.0))
        serve.check_answers(outcomes)
        assert len(outcomes) == len(requests)
        assert all(outcome.done or outcome.refused for outcome in outcomes)
        assert sum(outcome.refused for outcome in outcomes) > len(requests) / 4
        assert sum(outcome.done for outcome in outcomes) >= 4
        serve._draw_again(server.port, outcomes, work)
        held = serve.soak(server, [kind], work)
    assert held[-1]["requests"] == 600
    half, end = held[5], held[-1]
    assert end["threads"] <= half["threads"]
    assert end["files"] <= half["files"]
    assert end["memory"] < half["memory"] + 8e6


def test_kinds_have_the_sides_that_a_model_draws():
    found = serve.kinds_of({"three": (64, 128, 192), "one": (64,), "tokens": ()})
    sizes = {kind.name: kind.body.get("size") for kind in found}
    assert sizes == {
        "three, 4 steps": "64x64",
        "three, 20 steps": "64x64",
        "three, twice the side": "128x128",
        "three, long": "192x192",
        "one, 4 steps": None,
        "one, 20 steps": None,
        "tokens, as it is": None,
    }
