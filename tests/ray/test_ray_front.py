"""What stands in front of replicas, with the test's own: lost ones, full ones, streams."""

import asyncio
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
pytest.importorskip("fastapi")

from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from pyengine.ray import front, metrics, places, ranking, scaling
from pyengine.serving import ServerSettings
from pyengine.serving.errors import Refusal

JSON = [(b"content-type", b"application/json")]
NAME = "r1"
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]


class Response:
    """What Ray gives for a call: items in order; an exception among them is raised."""

    def __init__(self, items):
        self._items, self.cancelled = list(items), False

    async def __anext__(self):
        if not self._items:
            raise StopAsyncIteration
        item = self._items.pop(0)
        if isinstance(item, Exception):
            raise item
        if item == "never":
            await asyncio.Event().wait()
        return item

    def cancel(self):
        self.cancelled = True


class Replicas:
    """A group whose answers are given, one after the other."""

    def __init__(self, *answers, models=("emoji",), deployment="engine"):
        self.models, self.asked, self.responses = models, [], [Response(a) for a in answers]
        self.handle = SimpleNamespace(app_name="test", deployment_name=deployment)

    def ask(self, request, **where):
        self.asked.append((request, where))
        return self.responses[len(self.asked) - 1]


def call(
    groups,
    path="/v1/images/generations",
    body=b"{}",
    headers=(),
    method="POST",
    leave=None,
    **settings,
):
    """(status, headers, body) of a request through a Front. leave: seconds after which the client
    goes.
    """
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": list(headers),
        "query_string": b"",
        "client": ("192.0.2.1", 1),
    }
    sent, given = [], []

    async def receive():
        if not given:
            given.append(True)
            return {"type": "http.request", "body": body, "more_body": False}
        await (asyncio.Event().wait() if leave is None else asyncio.sleep(leave))
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    app = front.Front(groups, ServerSettings(**settings))
    asyncio.run(app(scope, receive, send))
    whole = b"".join(message.get("body", b"") for message in sent)
    assert [message.get("more_body", False) for message in sent[1:]].count(False) == 1
    return sent[0]["status"], dict(sent[0]["headers"]), whole


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(front, "PAUSE", 0.0)


def died():
    return ActorDiedError()


def test_a_request_whose_replica_dies_is_sent_to_another():
    group = Replicas([died()], [(200, JSON, NAME), died()], [(200, JSON, NAME), b'{"a"', b": 1}"])
    status, headers, body = call([group])
    assert (status, headers[b"content-type"], body) == (200, b"application/json", b'{"a": 1}')
    assert len(group.asked) == 3
    assert all(response.cancelled for response in group.responses)


def test_where_all_die_it_is_said_in_openais_shape():
    group = Replicas(*[[died()]] * front.TRIES)
    status, headers, body = call([group])
    assert status == 503
    assert headers[b"retry-after"] == b"1"
    assert headers[b"x-should-retry"] == b"true"
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "replica_lost"
    _, _, body = call([Replicas(*[[died()]] * front.TRIES)], path="/sdapi/v1/txt2img")
    assert "lost" in json.loads(body)["detail"]


def test_a_stream_that_cannot_go_on_ends_with_an_error():
    group = Replicas([(200, EVENTS, NAME), b"data: {}\n\n", died()])
    status, _, body = call([group])
    assert status == 200
    first, last = body.decode().strip().split("\n\n")
    assert first == "data: {}"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"


def test_another_answer_that_cannot_go_on_is_not_ended_as_if_it_were_whole():
    with pytest.raises(Refusal, match="lost"):
        call([Replicas([(200, JSON, NAME), b'{"a"', died()])])


def test_full_queues_and_faults_have_openais_shape():
    status, headers, body = call([Replicas([BackPressureError(3, 3)])])
    assert (status, headers[b"retry-after"]) == (429, b"1")
    assert json.loads(body)["error"]["code"] == "queue_full"
    status, _, body = call([Replicas([RuntimeError("/secret/path")])])
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
    assert b"secret" not in body
    call([Replicas([(200, JSON, NAME)])], rate=1.0)
    status, _, body = call([Replicas([])], body=b"x" * 2000, max_body=1024)
    assert (status, json.loads(body)["error"]["param"]) == (413, "body")


def test_a_replica_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(front, "PATIENCE", 0.05)
    group = Replicas(["never"])
    status, _, body = call([group], deadline=0.01)
    assert (status, json.loads(body)["error"]["code"]) == (503, "unavailable")
    assert group.responses[0].cancelled


def test_a_client_that_goes_ends_the_call():
    group = Replicas([(200, JSON, NAME), b"{", "never"])
    with pytest.raises(Refusal, match="gone"):
        call([group], leave=0.05)
    assert group.responses[0].cancelled


def test_a_client_that_goes_with_its_whole_answer_is_no_fault():
    class Late(Replicas):
        def ask(self, request, **where):
            response = super().ask(request, **where)
            whole = response.__anext__

            async def slow():
                if not response._items:
                    await asyncio.sleep(0.1)
                return await whole()

            response.__class__ = type("Slow", (Response,), {"__anext__": lambda self: slow()})
            return response

    sized = [*JSON, (b"content-length", b"2")]
    assert call([Late([(200, sized, NAME), b"{}"])], leave=0.02)[2] == b"{}"


# --- where requests go ----------------------------------------------------------------------------


def test_the_order_of_replicas():
    work = {"a": 3.0, "b": 1.0, "c": 2.0}
    assert ranking.order(work, None, None) == ["b", "c", "a"]
    assert ranking.order(work, "a", None) == ["a", "b", "c"]
    assert ranking.order(work, "gone", None) == ["b", "c", "a"]
    first = {key: ranking.order(work, None, key)[0] for key in map(str, range(60))}
    assert set(first.values()) == {"a", "b", "c"}
    left = {"a": 3.0, "c": 2.0}  # b's keys move, and no others
    assert all(
        ranking.order(left, None, key)[0] == name for key, name in first.items() if name != "b"
    )


def form(**fields):
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'
        for k, v in fields.items()
    ]
    return "".join([*parts, "--x--\r\n"]).encode()


@pytest.mark.parametrize(
    ("path", "body", "headers", "models"),
    [
        ("/v1/images/generations", b'{"model": "two", "prompt": "x"}', [], "two"),
        ("/v1/images/generations", b'{"prompt": "x"}', [], "one"),
        ("/v1/images/generations", b'{"model": "nobody"}', [], "one"),
        ("/v1/images/generations", b'{"model": ["two"]}', [], "one"),
        ("/v1/images/generations", b"[1, 2", [], "one"),
        ("/v1/images/generations", b"[" * 5000, [], "one"),
        ("/v1/models/two", b"", [], "two"),
        ("/v1/images/edits", form(prompt="x", model="two"),
         [(b"content-type", b"multipart/form-data; boundary=x")], "two"),
        ("/sdapi/v1/txt2img", b'{"override_settings": {"sd_model_checkpoint": "two"}}', [], "two"),
    ],
)  # fmt: skip
def test_a_request_goes_where_its_model_is(path, body, headers, models):
    groups = [Replicas(models=("one",)), Replicas(models=("two",))]
    request = front.Request({"path": path, "headers": headers}, body)
    group, _ = places.of(request, groups)
    assert group.models == (models,)


class Router:
    names = ("r7",)


def test_jobs_idempotent_requests_and_a1111s_go_to_one_replica(monkeypatch):
    groups = [Replicas(deployment="one"), Replicas(deployment="two")]
    router = Router()
    monkeypatch.setitem(ranking.ROUTERS, ("test", "two"), router)

    def where(path, *headers):
        scope = {"path": path, "headers": headers, "client": ("192.0.2.1", 5)}
        group, found = places.of(front.Request(scope, b"{}"), groups)
        return group.handle.deployment_name, found

    assert where("/v1/jobs/job_r7.abc/events") == ("two", {"to": "r7"})
    assert where("/v1/jobs/job_abc") == ("one", {"to": ""})
    assert where("/sdapi/v1/progress") == ("one", {"key": "192.0.2.1"})
    assert where("/v1/jobs", (b"idempotency-key", b"k"))[1] == {"key": "192.0.2.1 k"}
    assert where("/v1/jobs") == ("one", {})


# --- all of them ----------------------------------------------------------------------------------


def test_models_of_all_groups_are_one_list():
    def page(name):
        body = json.dumps({"object": "list", "data": [{"id": name}]}).encode()
        return [(200, [*JSON, (b"content-length", b"%d" % len(body))], name), body]

    groups = [Replicas(page("one")), Replicas(page("two"))]
    status, headers, body = call(groups, "/v1/models", method="GET")
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == ["one", "two"]
    assert headers[b"content-length"] == b"%d" % len(body)
    groups = [Replicas([(200, JSON, NAME), b"{}"]), Replicas([(503, JSON, NAME), b"no"])]
    assert call(groups, "/healthz", method="GET")[0] == 503


def test_metrics_say_whose_they_are():
    page = b"# HELP jobs_running Jobs.\n# TYPE jobs_running gauge\njobs_running 2.0\n"
    lines = metrics.merged([("a", page), ("b", page)]).decode().splitlines()
    assert lines[2:] == ['jobs_running{replica="a"} 2.0', 'jobs_running{replica="b"} 2.0']


@pytest.mark.parametrize(
    ("told", "wanted"),
    [({}, 1), ({"a": 3.0}, 1), ({"a": 21.0, "b": 0.0}, 3), ({"a": 400.0, "b": 400.0}, 5)],
)
def test_replicas_follow_the_seconds_that_are_left(told, wanted):
    context = SimpleNamespace(
        aggregated_metrics={scaling.METRIC: told} if told else None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=5,
    )
    assert scaling.Scale(seconds=10.0)(context) == (wanted, {})
