"""What /openapi.json says: the shapes of errors, and of requests by the table of arguments."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

from ..pipelines.argument_kinds import Argument, Choice, Data, Picture, Real, Weighted, Whole, Words
from ..pipelines.arguments import ARGUMENTS
from .drawing import ALIASES, MAX_ITEMS, MAX_TEXT, MAX_WEIGHTS, PLAIN


class Answer(BaseModel):
    """An object that has its fields and no others."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetails(Answer):
    """message: in words. type: OpenAI's kind. param: the field at fault. code: for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Every error's body."""

    error: ErrorDetails


#: What a client may be told instead of an answer.
STATUSES = {
    400: "A field cannot be used, or what is asked for is too large for this server.",
    401: "No key, or a wrong one.",
    403: "A page of another site, or a name that is none of this server's.",
    404: "There is no such model, job or path.",
    405: "Another method.",
    408: "The deadline has passed, or the body came too slowly.",
    409: "It was cancelled, or an idempotency key came with another body.",
    413: "More bytes or pixels than are read.",
    415: "Another content type.",
    422: "A field cannot be read, or the picture came to numbers that are none.",
    429: "The queue is full, the deadline cannot be met, or the caller comes too often: Retry-After"
    " says when to come again.",
    500: "A mistake of the server's.",
    503: "The server is ending.",
}


def refusals(model: type[BaseModel] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """A route's `responses` for all that is no answer."""
    return {status: {"model": model, "description": text} for status, text in STATUSES.items()}


# --- requests -------------------------------------------------------------------------------------


def call_properties(pictures: dict[str, Any] | None = None) -> dict[str, Any]:
    """JSON schemas of all arguments that a request may hold, by name. pictures: the schema of one,
    None: base64 or a data: URL.
    """
    shown = pictures or {"type": "string", "description": "A picture: base64 or a data: URL."}
    rows = [row for row in ARGUMENTS if isinstance(row.kind, PLAIN) and row.name != "output_type"]
    found = {row.name: _described(row, shown) for row in rows}
    return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}


def _described(row: Argument, pictures: dict[str, Any]) -> dict[str, Any]:
    kind = row.kind
    if isinstance(kind, Picture):
        schema = dict(pictures)
    elif isinstance(kind, Whole | Real | Choice):
        schema = nullable(kind.schema())
    elif isinstance(kind, Words):
        schema = nullable(
            {"type": "string", "maxLength": 100_000 if "prompt" in row.name else MAX_TEXT}
        )
    elif isinstance(kind, Weighted):
        text = {"type": "string", "maxLength": MAX_WEIGHTS}
        schema = {"anyOf": [kind.schema(), text, {"type": "null"}]}
    else:
        assert isinstance(kind, Data)
        numbers = {"type": "array", "items": {"type": "number"}, "maxItems": MAX_ITEMS}
        kinds = [{"type": t} for t in ("number", "string", "boolean", "null")]
        schema = {"anyOf": [*kinds, numbers]}
    return {**schema, "description": row.help} if row.help else schema


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Clients send null for what is not given."""
    found = {**schema, "type": [schema["type"], "null"]}
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    return found


def body(content: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A route's openapi_extra: schemas of its body by content type."""
    kinds = {kind: {"schema": schema} for kind, schema in content.items()}
    return {"requestBody": {"required": True, "content": kinds}}


def install(app: FastAPI, keys: bool) -> None:
    """Has /openapi.json say what is so. keys: whether callers need one."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title,
                version=app.version,
                routes=app.routes,
                description="Pictures by pyengine.",
            )
            if keys:
                schemes = {"key": {"type": "http", "scheme": "bearer"}}
                found.setdefault("components", {})["securitySchemes"] = schemes
                for path, methods in found["paths"].items():
                    if path.startswith(("/v1", "/sdapi")):
                        for operation in methods.values():
                            operation["security"] = [{"key": []}]
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's way to change it
