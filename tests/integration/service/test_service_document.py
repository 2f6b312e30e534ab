"""The service's own document: what it says is what the server does, whatever it is asked."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks

from belljar.service.api import ROUTES
from belljar.service.mcp import _described
from belljar.service.openapi import PARTS, document
from belljar.service.routes import Nothing
from belljar.service.tools import TOOLS, Offer
from tests.examples import examples
from tests.integration.service.support import Client, Serving, problem

load_all_checks()
_CHECKS = [
    CHECKS.get_one(name)
    for name in (
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
        "negative_data_rejection",
    )
]
_EXAMPLES = 8


@schemathesis.serializer("application/offset+octet-stream")
def _octets(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else repr(value).encode()


# Each of these works for a tenth of a second or more.
_SLOW = {"/v1/doctor": 2, "/v1/sessions": 6}


def test_the_service_gives_the_document_of_its_table(admin: Client) -> None:
    assert admin.get("/v1/openapi.json").json() == _plain(document(ROUTES))


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(value))


def test_every_route_is_in_it_with_its_parts_and_parameters() -> None:
    found = document(ROUTES)
    for route in ROUTES:
        operation = found["paths"][route.path][route.method.lower()]
        names = {one["name"] for one in operation["parameters"]}
        assert {name for name in PARTS if f"{{{name}}}" in route.path} <= names
        if route.query is not Nothing:
            assert set(route.query.__struct_encode_fields__) <= names
        assert str(route.status) in operation["responses"]
        assert ("security" in operation) is (route.action is not None)
        if route.method == "GET":  # as tus asks how far an upload got
            head = found["paths"][route.path]["head"]
            assert head["parameters"] == operation["parameters"]
            assert not any("content" in one for one in head["responses"].values())
    assert "Upload-Offset" in found["paths"]["/v1/uploads/{upload}"]["head"]["responses"]["200"]["headers"]


@pytest.mark.parametrize("named", ["log", "sha256:" + "0" * 64, "0" * 63])
def test_a_path_names_a_context_by_its_digest_and_whatever_else_is_not_found(admin: Client, named: str) -> None:
    admin.post("/v1/contexts", json={"kind": "text", "name": "log", "text": "x"})
    for path in ("", "/text", "/items"):
        told = problem(admin.get(f"/v1/contexts/{named}{path}"), 404, "context.unknown")
        assert told["detail"].startswith(f"there is no context '{named}': a path has the 64 hex digits")
    parts = document(ROUTES)["paths"]["/v1/contexts/{context}"]["get"]
    assert "404" in parts["parameters"][0]["description"]
    assert "404" in parts["responses"]


def test_objects_are_closed_and_unions_have_discriminators() -> None:
    schemas = document(ROUTES)["components"]["schemas"]
    assert schemas["QuotaSet"]["additionalProperties"] is False
    contexts = schemas["RunAsked"]["properties"]["contexts"]["additionalProperties"]
    assert contexts["discriminator"]["propertyName"] == "kind"


def test_every_route_that_orders_a_run_says_that_it_takes_a_key_for_it() -> None:
    found = document(ROUTES)["paths"]
    for path in ("/v1/runs", "/v1/messages", "/v1/chat/completions"):
        assert "Idempotency-Key" in {one["name"] for one in found[path]["post"]["parameters"]}


def test_patterns_are_what_every_reader_of_json_schema_takes_them_for() -> None:
    """`\\Z` is the end of a text for Python alone."""
    found = document(ROUTES)
    tenant = found["components"]["schemas"]["QuotaSet"]["properties"]["tenant"]
    assert tenant["pattern"].endswith("{0,7}$")
    assert all(pattern.endswith("$") for pattern in _patterns(found))
    described = [_described(name, tool, Offer(models={})) for name, tool in TOOLS.items()]
    patterns = [pattern for one in described for pattern in _patterns([one.input_schema, one.output_schema])]
    assert patterns
    assert all(pattern.endswith("$") for pattern in patterns)


def _patterns(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for one in value for found in _patterns(one)]
    if not isinstance(value, dict):
        return []
    own = [value["pattern"]] if isinstance(value.get("pattern"), str) else []
    return own + [found for one in value.values() for found in _patterns(one)]


@pytest.mark.slow("a dozen requests on every route")
def test_whatever_is_asked_the_answer_is_one_of_those_that_the_document_has(service: Serving, admin: Client) -> None:
    schema = schemathesis.openapi.from_dict(admin.get("/v1/openapi.json").json())
    schema.config.update(base_url=service.url)
    operations: list[Any] = list(schema.get_all_operations())
    assert len(operations) == len(ROUTES) + sum(route.method == "GET" for route in ROUTES)
    for found in operations:
        _ask(found.ok(), service)


def _ask(operation: Any, service: Serving) -> None:
    key = {"Authorization": f"Bearer {service.key}"}

    @settings(
        max_examples=2 if operation.method == "head" else _SLOW.get(operation.path, examples(_EXAMPLES)),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(headers=key)
        if answer.status_code >= 500:  # only too many runs and sessions at a time may be refused so
            assert answer.json()["code"].startswith(("queue.", "sessions.")), (operation.label, answer.text)
        case.validate_response(answer, checks=_CHECKS)

    ask()
