"""Where a request goes: to which group of replicas, and which of them."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import PyengineError, RequestError
from ..serving.bodies import MAX_DEPTH, MAX_VALUES
from ..weights.jsonio import parse_object
from . import metrics, ranking

if TYPE_CHECKING:
    from .front import Group, Request

#: Paths of requests for pictures begin so.
DRAWING = ("/v1/images/", "/v1/jobs", "/sdapi/v1/txt2img", "/sdapi/v1/img2img")
_JOB = re.compile(r"/v1/jobs/([^/]+)")
_NODE = re.compile(r"job_([^.]+)\.")
_MODEL = re.compile(r"/v1/models/(.+)")
#: The field `model` of a multipart form.
_FORM_MODEL = re.compile(
    rb'name="model"(?:; *filename="[^"]*")?\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,1000})\r\n'
)


def of(request: "Request", groups: Sequence["Group"]) -> tuple["Group", dict[str, str]]:
    """(the group, keywords for its router).

    A job is where it was submitted, which its id tells; a model is where it is served; requests of
    A1111's API, which has a state for each client, and those with one idempotency key go to one
    replica; others to the one with the least work.
    """
    job = _JOB.match(request.path)
    if job is not None:
        node = node_of(job[1])
        there = (g for g in groups if node in replicas(g))
        return next(there, groups[0]), {"to": node}
    group = _of_model(model_of(request), groups) if len(groups) > 1 else groups[0]
    if request.path.startswith("/sdapi/"):
        return group, {"key": caller_of(request)}
    if key := request.header("idempotency-key"):
        return group, {"key": f"{caller_of(request)} {key}"}
    return group, {}


def replicas(group: "Group") -> list[str]:
    """Names of a group's replicas."""
    return ranking.replicas(group.handle.app_name, group.handle.deployment_name)


def node_of(job: str) -> str:
    """The replica that a job's id names; "" where it names none."""
    found = _NODE.match(job)
    return found[1] if found else ""


def caller_of(request: "Request") -> str:
    """The key of a caller, without one the address."""
    client = request.scope.get("client") or ("",)
    return request.header("authorization") or str(client[0])


def model_of(request: "Request") -> str | None:
    """The model that a request names, as far as it can be read; the replica refuses the rest."""
    named = _MODEL.fullmatch(request.path)
    if named is not None:
        return named[1]
    if request.header("content-type").startswith("multipart/form-data"):
        found = _FORM_MODEL.search(request.body)
        return found[1].decode("utf-8", "replace") if found else None
    if not request.body:
        return None
    try:
        given = parse_object(
            request.body, "body", max_depth=MAX_DEPTH, max_values=MAX_VALUES, error=RequestError
        )
    except PyengineError:
        return None
    override = given.get("override_settings")
    of_a1111 = override.get("sd_model_checkpoint") if isinstance(override, dict) else None
    model = given.get("model", of_a1111)
    return model if isinstance(model, str) else None


def _of_model(model: str | None, groups: Sequence["Group"]) -> "Group":
    return next((group for group in groups if model in group.models), groups[0])


# --- answers of all -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """A whole answer. name: the replica's."""

    name: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def with_body(self, body: bytes) -> "Whole":
        kept = [(name, value) for name, value in self.headers if name.lower() != b"content-length"]
        length = (b"content-length", str(len(body)).encode())
        return Whole(self.name, self.status, [*kept, length], body)


@dataclass(frozen=True)
class Everyone:
    """A path that all groups answer, or all replicas of each, and how their answers become one."""

    merge: Callable[[Sequence[Whole]], Whole]
    replicas: bool = False


def _worst(answers: Sequence[Whole]) -> Whole:
    """That with the highest status."""
    return max(answers, key=lambda whole: whole.status)


def _models(answers: Sequence[Whole]) -> Whole:
    """One list of all models."""
    worst = _worst(answers)
    if worst.status != 200 or len(answers) == 1:
        return worst
    lists: list[dict[str, Any]] = [json.loads(whole.body) for whole in answers]
    models = [model for found in lists for model in found["data"]]
    return worst.with_body(json.dumps({**lists[0], "data": models}).encode())


def _metrics(answers: Sequence[Whole]) -> Whole:
    """The metrics of all replicas, each series labelled with its own."""
    worst = _worst(answers)
    if worst.status != 200:
        return worst
    return worst.with_body(metrics.merged([(whole.name, whole.body) for whole in answers]))


EVERYONE = {
    "/healthz": Everyone(_worst),
    "/readyz": Everyone(_worst),
    "/v1/models": Everyone(_models),
    "/metrics": Everyone(_metrics, replicas=True),
}
