"""What /openapi.json says is so: requests made from it, and every answer held to it."""

import httpx
import hypothesis
import pytest

schemathesis = pytest.importorskip("schemathesis", reason="needs the extra `test`")

#: Requests of each operation.
EXAMPLES = 25


@pytest.fixture(scope="module")
def url(engine):
    """A server that takes small pictures alone, so that what is valid is quickly drawn."""
    from served import running

    with running(engine, max_pixels=1 << 14, deadline=5.0, max_kept=20) as found:
        yield found.url


@pytest.fixture(scope="module")
def schema(url):
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


OPERATIONS = [
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"), ("POST", "/v1/images/generations"), ("POST", "/v1/images/edits"),
    ("POST", "/v1/images/variations"), ("POST", "/v1/jobs"), ("GET", "/v1/jobs/{job_id}"),
    ("DELETE", "/v1/jobs/{job_id}"), ("GET", "/v1/jobs/{job_id}/events"),
    ("POST", "/sdapi/v1/txt2img"), ("POST", "/sdapi/v1/img2img"), ("POST", "/sdapi/v1/png-info"),
    ("GET", "/sdapi/v1/options"), ("POST", "/sdapi/v1/options"), ("GET", "/sdapi/v1/progress"),
    ("POST", "/sdapi/v1/interrupt"), ("POST", "/sdapi/v1/skip"), ("GET", "/sdapi/v1/sd-models"),
    ("GET", "/sdapi/v1/samplers"), ("GET", "/sdapi/v1/schedulers"), ("GET", "/sdapi/v1/upscalers"),
    ("GET", "/sdapi/v1/loras"), ("GET", "/sdapi/v1/embeddings"), ("GET", "/sdapi/v1/scripts"),
    ("GET", "/sdapi/v1/cmd-flags"), ("GET", "/sdapi/v1/sd-vae"),
    ("GET", "/sdapi/v1/latent-upscale-modes"), ("POST", "/sdapi/v1/refresh-checkpoints"),
    ("GET", "/page/models.json"),
]  # fmt: skip


def test_all_operations_are_tried(schema):
    found = {(o.ok().method.upper(), o.ok().path) for o in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_breaks_it(schema, method, path):
    operation = schema[path][method]

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy())
    def holds(case):
        case.call_and_validate(timeout=60, excluded_checks=excluded())

    holds()


def excluded():
    """What of a client's argument depends on the model is in no schema: a valid request may be
    refused, and one that is invalid by its type, "5" say, is always.
    """
    from schemathesis.specs.openapi import checks

    return [checks.positive_data_acceptance, checks.negative_data_rejection]


def test_errors_have_the_shape_that_it_tells(schema, url):
    found = httpx.get(f"{url}/openapi.json").json()
    assert "HTTPValidationError" not in str(found)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if path.startswith("/v1") and int(status) >= 400:
                    content = answer["content"]["application/json"]["schema"]
                    assert content == {"$ref": "#/components/schemas/ErrorAnswer"}
    shape = found["components"]["schemas"]["ErrorDetails"]
    assert set(shape["required"]) == {"message", "type", "param", "code"}


def test_arguments_are_those_of_the_table(url):
    from pyengine.pipelines.arguments import ARGUMENTS
    from pyengine.serving.drawing import PLAIN

    found = httpx.get(f"{url}/openapi.json").json()
    body = found["paths"]["/v1/images/generations"]["post"]["requestBody"]
    properties = body["content"]["application/json"]["schema"]["properties"]
    for row in ARGUMENTS:
        told = row.name in properties
        assert told == (isinstance(row.kind, PLAIN) and row.name != "output_type"), row.name
    assert properties["num_inference_steps"]["maximum"] == 100_000
    assert properties["steps"] == properties["num_inference_steps"]
