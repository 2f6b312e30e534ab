"""The service's own document, OpenAPI 3.1, from the table of routes and the types in it.

What the document says and what the server does are made from the same types, and `msgspec` writes their schemas: closed
objects, tagged unions with their discriminators, patterns and bounds are all there. Only the operations are put around
them here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

from belljar.service.problems import MEDIA_TYPE, Problem
from belljar.service.routes import JSON, Nothing, Route
from belljar.service.schemas import components

__all__ = ["PARTS", "document"]

_REF: Final = "#/components/schemas/{name}"
_PART: Final = re.compile(r"\{(\w+)\}")

# The parts of paths that vary: what they look like, and what they are.
PARTS: Final[dict[str, tuple[str, str]]] = {
    "run": (r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[0-9]{5})*$", "The id of a run."),
    "session": (r"^[A-Za-z0-9][A-Za-z0-9_-]*$", "The id of a session."),
    "context": (r"^[0-9a-f]{64}$", "The SHA-256 of a context, in hex digits."),
    "upload": (r"^[0-9a-f]{32}$", "The id of an upload."),
    "policy": (r"^[a-z][a-z0-9-]*$", "The name of a policy."),
    "key": (r"^[A-Za-z0-9]{1,40}$", "The id of a key, which is no secret."),
    "hook": (r"^[A-Za-z0-9]{1,40}$", "The id of a webhook."),
}
# What each status means, besides what the table says.
_MEANS: Final[dict[int, str]] = {
    200: "Done.",
    201: "Made.",
    202: "Taken, and under way.",
    204: "Done; there is nothing to say.",
    206: "A part of it.",
    400: "The body is not valid JSON.",
    401: "Nobody proved who asks.",
    403: "The principal may not do this.",
    404: "There is no such thing, or it is somebody else's.",
    405: "The path does not take this method.",
    408: "The body took too long.",
    409: "It is not in a state for this.",
    410: "It was erased.",
    411: "The length of the body has to be told.",
    412: "Another version of the protocol.",
    413: "It is too large.",
    415: "The body is of another media type.",
    421: "The service does not answer for this host.",
    422: "It makes no sense: `at` says where.",
    423: "Somebody else is writing to it.",
    429: "A quota is met, or too many attempts failed: `Retry-After` says until when.",
    431: "The head of the request is too long.",
    500: "Our fault.",
    502: "The model failed.",
    503: "Not now: too much is waiting, or the log, the ledger or the boxes do not work.",
}
_ALWAYS: Final = (401, 403, 405, 421, 422, 429, 431, 500, 503)


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of these routes."""
    schemas = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = made = _operation(route, schemas)
        if route.method == "GET":
            paths[route.path]["head"] = _head_of(made)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Belljar",
            "version": version("belljar"),
            "description": "Runs of code that language models write: contained, brokered, metered, accountable.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of the issuer."}
            },
        },
    }


class _Schemas:
    """The schema of each type: a reference where it has a name."""

    def __init__(self, kinds: Iterable[Any]) -> None:
        self._kinds = list(kinds)
        self._found, self.components = components(self._kinds, _REF)

    def of(self, kind: Any) -> dict[str, Any]:
        return self._found[next(n for n, one in enumerate(self._kinds) if one is kind or one == kind)]

    def fields(self, kind: Any) -> tuple[dict[str, Any], list[str]]:
        """The fields of a struct with their schemas, and those that have to be there."""
        name = self.of(kind)["$ref"].rpartition("/")[2]
        found = self.components[name]
        return found.get("properties", {}), found.get("required", [])

    def forget(self, kind: Any) -> None:
        """A type of parameters is nobody's body."""
        self.components.pop(self.of(kind)["$ref"].rpartition("/")[2], None)


def _schemas(routes: Sequence[Route]) -> _Schemas:
    kinds: list[Any] = [Problem]
    for route in routes:
        faults = None if route.faults is None else route.faults.kind
        for kind in (route.query, route.body, route.answer, faults):
            if kind not in (None, bytes, Nothing) and kind not in kinds:
                kinds.append(kind)
    return _Schemas(kinds)


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.path.split("/")[2] if route.path.startswith("/v1/") else "health"],
        "parameters": [*_parts(route), *_parameters(route, schemas), *_headers(route)],
        "responses": _responses(route, schemas),
    }
    if route.action is not None:
        found["security"] = [{"key": []}]
        found["description"] = f"Needs a key that allows `{route.action}`."
    if route.body is not None:
        schema = {} if route.body is bytes or route.media != JSON else schemas.of(route.body)
        found["requestBody"] = {"required": True, "content": {route.media: {"schema": schema} if schema else {}}}
    return found


def _head_of(get: dict[str, Any]) -> dict[str, Any]:
    """HEAD, as every path that takes GET takes it: the same without a body."""
    answers = {
        status: {name: value for name, value in one.items() if name != "content"}
        for status, one in get["responses"].items()
    }
    return {**get, "operationId": f"head_{get['operationId'].partition('_')[2]}", "responses": answers}


def _operation_id(route: Route) -> str:
    words = [word for word in re.split(r"[/{}.:-]+", route.path.removeprefix("/v1")) if word]
    return "_".join([route.method.lower(), *words])


def _parts(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": f"{PARTS[name][1]} Whatever else stands there is not found: 404.",
            "schema": {"type": "string", "pattern": PARTS[name][0], "maxLength": 128},
        }
        for name in _PART.findall(route.path)
    ]


def _parameters(route: Route, schemas: _Schemas) -> list[dict[str, Any]]:
    if route.query is Nothing:
        return []
    fields, required = schemas.fields(route.query)
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema} for name, schema in fields.items()
    ]


def _headers(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": words, "schema": {"type": "string"}}
        for name, words in route.headers.items()
    ]


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, words in {route.status: _MEANS[route.status], **route.others}.items():
        one: dict[str, Any] = {"description": words}
        if status not in (204, 304) and route.answer is not None:
            schema = {} if route.answer is bytes else schemas.of(route.answer)
            typed = {"schema": schema} if schema else {}
            one["content"] = {media: {} if media == "text/event-stream" else typed for media in route.gives}
        if route.answer_headers:
            one["headers"] = {
                name: {"description": what, "schema": {"type": "string"}} for name, what in route.answer_headers.items()
            }
        found[str(status)] = one
    statuses = {*_ALWAYS, *route.refuses}
    if route.body is not None:
        statuses |= {400, 408, 413, 415}
    if _PART.search(route.path):
        statuses.add(404)
    if route.action is None:
        statuses -= {401, 403, 429}
    problem = {MEDIA_TYPE: {"schema": schemas.of(Problem)}}
    if route.faults is not None:
        problem = {JSON: {"schema": schemas.of(route.faults.kind)}}
    for status in sorted(statuses):
        one = found.setdefault(str(status), {"description": _MEANS[status]})
        one["content"] = {**one.get("content", {}), **problem}
    return found
