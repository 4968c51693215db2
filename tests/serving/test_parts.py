"""Parts of the server alone: settings, keys, rates, errors, fields, forms, counters, spans."""

import asyncio

import httpx
import pytest
from served import SHORT

from pyengine import errors as own
from pyengine.errors import RequestError
from pyengine.serving import ServerSettings
from pyengine.serving.auth import key_in
from pyengine.serving.budget import Budget
from pyengine.serving.drawing import ALIASES
from pyengine.serving.errors import Refusal, refusal_of, renamed
from pyengine.serving.openai.edits import typed
from pyengine.serving.openai.fields import read
from pyengine.serving.rates import Rates


@pytest.mark.parametrize(
    "how",
    [
        {"deadline": 0},
        {"deadline": float("nan")},
        {"max_body": 1.5},
        {"rate": -1},
        {"keep": True},
        {"api_keys": ("",)},
        {"api_keys": ("a", "a")},
        {"api_keys": ("a\n",)},
        {"max_pictures": 0},
        {"allowed_hosts": ("a.example:80",)},
        {"allowed_hosts": ("",)},
        {"cors_origins": ("https://a.example/",)},
        {"cors_origins": ("a.example",)},
    ],
)
def test_settings_are_checked(how):
    with pytest.raises(RequestError, match=f"{next(iter(how))}: expected"):
        ServerSettings(**how)


@pytest.mark.parametrize(("header", "key"), [
    ("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic dXNlcjphYmM=", "abc"),
    ("Basic YWJj", "abc"), ("Basic OmFiYw==", "abc"), ("Basic dXNlcjphOmI=", "a:b"),
    ("Basic ", ""), ("Basic", ""), ("", ""), ("Basic !!", ""), ("Digest abc", ""), ("abc", ""),
    ("Basic /////w==", ""),
])  # fmt: skip
def test_keys_of_headers(header, key):
    assert key_in(header) == key


def test_rates():
    now = [0.0]
    rates = Rates(2, lambda: now[0])
    for _ in range(2):
        rates.check("a")
    with pytest.raises(Refusal) as caught:
        rates.check("a")
    assert caught.value.status == 429
    assert caught.value.all_headers()["retry-after"] == "30"
    rates.check("b")
    now[0] = 31.0
    rates.check("a")
    with pytest.raises(Refusal):
        rates.check("a")
    for k in range(20_000):
        Rates(0).check(str(k))


def test_a_rate_is_a_callers(serve):
    with (
        serve(rate=2.0, api_keys=("one", "two")) as found,
        httpx.Client(base_url=found.url, timeout=60) as client,
    ):
        codes = {
            key: [
                client.post(
                    "/v1/images/generations", json=SHORT, headers={"authorization": f"Bearer {key}"}
                )
                for _ in range(3)
            ]
            for key in ("one", "two")
        }
    for answers in codes.values():
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 30


def test_a_budget():
    budget = Budget(10)
    budget.take(6)
    with pytest.raises(Refusal) as caught:
        budget.take(5)
    assert caught.value.status == 429
    budget.give_back(6)
    budget.take(10)


@pytest.mark.parametrize(("error", "status", "param"), [
    (own.RequestError("seed: expected x"), 400, "seed"),
    (own.UnknownArgumentError("nix: no"), 400, "nix"),
    (own.QueueFullError("max_waiting: full", 3.2), 429, None),
    (own.DeadlineError("deadline: passed", 1.0), 408, "deadline"),
    (own.BusyError("timeout: busy"), 429, "timeout"),
    (own.CancelledError("the job was cancelled"), 409, None),
    (own.OutOfMemoryError("2 pictures: too many"), 413, None),
    (own.NotFiniteError("unet: NaN"), 422, None),
    (own.UnavailableError("engine: closed"), 503, None),
    (ZeroDivisionError("/home/secret"), 500, None),
])  # fmt: skip
def test_errors_as_answers(error, status, param):
    refusal = refusal_of(error)
    assert (refusal.status, refusal.param) == (status, param)
    assert "secret" not in refusal.message
    if status == 429:
        assert int(refusal.all_headers()["retry-after"]) >= 1


def test_a_field_is_called_what_the_client_calls_it():
    error = renamed(RequestError("height: expected a multiple of 4"), {"height": "size"})
    assert (error.param, error.message) == ("size", "size: expected a multiple of 4")
    fault = ZeroDivisionError()
    assert renamed(fault, {}) is fault


def test_aliases():
    assert ALIASES["steps"] == "num_inference_steps"
    assert ALIASES["guidance"] == "guidance_scale"
    assert ALIASES["negative"] == "negative_prompt"
    assert "mask" not in ALIASES
    assert "prompt" not in ALIASES


def test_own_fields():
    asked = read({"prompt": "a", "n": 2.0, "size": "64x32", "user": "me", "model": None,
                  "quality": None, "partial_images": 2, "stream": True})  # fmt: skip
    assert asked.call == {"prompt": "a", "width": 64, "height": 32, "num_images_per_prompt": 2}
    assert (asked.model, asked.stream, asked.partial_images) == (None, True, 2)
    assert read({"size": "auto"}).call == {}


@pytest.mark.parametrize(("name", "text", "value"), [
    ("steps", "4", 4), ("strength", "0.5", 0.5), ("prompt", "", ""), ("steps", "", None),
    ("timesteps", "9, 5,1", [9, 5, 1]), ("sigmas", "[1.5]", 1.5), ("timestep_spacing", "leading",
    "leading"), ("stream", "true", True), ("stream", "0", False), ("n", "3", 3),
    ("scheduler", "7", "7"),
])  # fmt: skip
def test_texts_of_forms(name, text, value):
    assert typed(name, text) == value


@pytest.mark.parametrize(("name", "text"), [
    ("steps", "4.5"), ("strength", "x"), ("n", "1" * 100), ("stream", "perhaps"),
])  # fmt: skip
def test_texts_of_forms_that_are_none(name, text):
    with pytest.raises(RequestError, match=f"{name}: expected"):
        typed(name, text)


def test_metrics(serve):
    with serve() as found, httpx.Client(base_url=found.url, timeout=60) as client:
        body = {**SHORT, "n": 2, "previews": 1}
        client.post("/v1/images/generations", json=SHORT)
        client.post("/v1/images/generations", json={"prompt": 5})
        job = client.post("/v1/jobs", json=body).json()["id"]
        while client.get(f"/v1/jobs/{job}").json()["status"] != "succeeded":
            pass
        text = client.get("/metrics").text
        values = {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line[:1] != "#"
        }
    assert values["pyengine_running"] == values["pyengine_waiting"] == 0
    assert values["pyengine_held_bytes"] == 0
    assert values['pyengine_jobs_total{model="emoji",outcome="done"}'] == 2
    assert values['pyengine_pictures_total{model="emoji"}'] == 3
    assert values['pyengine_steps_total{model="emoji"}'] == 9
    assert values['pyengine_batch_size_count{model="emoji"}'] >= 6
    assert values['pyengine_queue_seconds_count{model="emoji"}'] == 2
    assert values['pyengine_first_preview_seconds_count{model="emoji"}'] == 1
    assert values['pyengine_refusals_total{reason="invalid_value"}'] == 1
    assert values["process_resident_memory_bytes"] > 0
    counts = [name for name in values if "running" in name or "waiting" in name]
    assert sorted(counts) == ["pyengine_running", "pyengine_waiting"]


def test_spans(serve):
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs OpenTelemetry's SDK")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with serve() as found:
        found.server.tracing._tracer = provider.get_tracer("test")
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        httpx.post(
            f"{found.url}/v1/images/generations",
            json=SHORT,
            headers={"traceparent": parent},
            timeout=60,
        )
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request = spans["POST /v1/images/generations"]
    assert request.attributes["http.response.status_code"] == 200
    assert f"{request.context.trace_id:032x}" == parent.split("-")[1]
    drawn = spans["draw emoji"]
    assert drawn.parent.span_id == request.context.span_id
    assert [event.name for event in drawn.events] == ["queued", "started", "step", "done"]
    assert drawn.attributes["steps"] == 3


def test_an_unknown_name_may_stand_for_the_first_model(serve):
    with serve(alias_unknown_models=True) as found:
        body = {**SHORT, "model": "dall-e-2"}
        answer = httpx.post(f"{found.url}/v1/images/generations", json=body, timeout=60)
    assert answer.status_code == 200


def test_models_of_folders_are_called_by_their_last_part(server, pipes):
    assert server.server.models.names == ("emoji", "emoji-ar", "sd1")
    assert server.server.models.engine_name("sd1") == pipes["sd1"].source


def test_a_warm_server_knows_what_a_picture_costs(pipes):
    import pyengine
    from pyengine.serving.warmup import warm_up

    with pyengine.Engine(pipes["emoji"]) as engine:
        asyncio.run(warm_up(engine))
        with pytest.raises(own.TooLongError):
            engine.submit(
                prompt="a",
                deadline=30,
                height=1024,
                width=1024,
                num_inference_steps=1000,
                num_images_per_prompt=10,
            )
