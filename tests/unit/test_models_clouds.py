"""Claude behind the clouds: where each request goes, with which key, and that nothing else decides it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import msgspec
import pytest

from belljar.errors import InvalidInput, ModelFailed
from belljar.models import ModelReply, Prices, Registry, Usage
from belljar.models.anthropic import AnthropicModel
from belljar.models.clouds import BedrockModel, FoundryModel, VertexModel
from tests.unit.test_models_anthropic import PARIS, REQUEST, refusal, streamed

KEY = "sk-very-secret"
CANARY = "of-the-process"

Make = Callable[..., AnthropicModel]


def bedrock(**more: Any) -> AnthropicModel:
    return BedrockModel("bedrock:anthropic.claude-x", **{"api_key": KEY, "region": "eu-north-1", **more})


def vertex(**more: Any) -> AnthropicModel:
    return VertexModel("vertex:claude-x", **{"access_token": KEY, "project": "p-1", "region": "eu", **more})


def foundry(**more: Any) -> AnthropicModel:
    return FoundryModel("foundry:claude-x", **{"api_key": KEY, "resource": "r-1", **more})


VERTEX_PATH = "/projects/p-1/locations/eu/publishers/anthropic/models/claude-x:streamRawPredict"
WHERE = [
    (bedrock, "https://bedrock-mantle.eu-north-1.api.aws/anthropic", "/v1/messages"),
    (vertex, "https://aiplatform.eu.rep.googleapis.com/v1", VERTEX_PATH),
    (foundry, "https://r-1.services.ai.azure.com/anthropic", "/v1/messages"),
]


def ask(
    make: Make, answer: Callable[[], httpx2.Response], **more: Any
) -> tuple[ModelReply | ModelFailed, httpx2.Request]:
    """What a root model's request gives, and what was sent."""
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return answer()

    async def main() -> ModelReply | ModelFailed:
        model = make(http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(handler)), **more)
        assert KEY not in repr(model)
        try:
            return await model.complete(msgspec.structs.replace(REQUEST, purpose="root"))
        except ModelFailed as failure:
            return failure
        finally:
            await model.aclose()

    outcome = asyncio.run(main())
    (request,) = sent
    return outcome, request


def paris() -> httpx2.Response:
    return streamed(*PARIS)


@pytest.fixture
def process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the SDK would look up."""
    for name in (
        *("AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_AWS_API_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID"),
        *("ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_RESOURCE", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    ):
        monkeypatch.setenv(name, CANARY)
    for name in ("BEDROCK_MANTLE_BASE_URL", "VERTEX_BASE_URL", "FOUNDRY_BASE_URL", "BASE_URL"):
        monkeypatch.setenv(f"ANTHROPIC_{name}", f"http://{CANARY}.test")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", f"X-Canary: {CANARY}\nAuthorization: Bearer {CANARY}")


@pytest.mark.usefixtures("process_environment")
@pytest.mark.parametrize(("make", "url", "path"), WHERE)
def test_a_request_goes_where_the_arguments_say_with_their_key(make: Make, url: str, path: str) -> None:
    reply, request = ask(make, paris)
    assert reply == ModelReply("Paris", Usage(25, 7), "claude-sonnet-5-5-20261001", "end_turn")
    assert str(request.url) == url + path
    assert KEY in request.headers.get("authorization", "") + request.headers.get("api-key", "")
    assert CANARY not in str(request.headers.raw) + request.content.decode()
    assert "x-canary" not in request.headers


@pytest.mark.usefixtures("process_environment")
@pytest.mark.parametrize(("make", "url", "path"), WHERE)
def test_another_address_takes_the_place_of_the_cloud_s(make: Make, url: str, path: str) -> None:
    _, request = ask(make, paris, base_url="http://127.0.0.1:9/own")
    assert str(request.url) == "http://127.0.0.1:9/own" + path


@pytest.mark.parametrize("make", [bedrock, vertex, foundry])
@pytest.mark.parametrize(("ttl", "mark"), [("5m", {"type": "ephemeral"}), ("1h", {"type": "ephemeral", "ttl": "1h"})])
def test_the_last_message_of_a_conversation_bears_the_mark(make: Make, ttl: str, mark: dict[str, str]) -> None:
    _, request = ask(make, paris, cache_ttl=ttl)
    body = json.loads(request.content)
    assert "cache_control" not in body
    block = {"type": "text", "text": REQUEST.messages[0].text, "cache_control": mark}
    assert body["messages"] == [{"role": "user", "content": [block]}]


@pytest.mark.parametrize(
    ("make", "variable"),
    [
        (bedrock, "AWS_BEARER_TOKEN_BEDROCK"),
        (vertex, "CLOUDSDK_AUTH_ACCESS_TOKEN"),
        (foundry, "ANTHROPIC_FOUNDRY_API_KEY"),
    ],
)
def test_a_key_that_is_refused_is_told_by_its_own_name_and_not_shown(make: Make, variable: str) -> None:
    failure, _ = ask(make, lambda: refusal(401, text=f"bad {KEY}"))
    assert f"set {variable} to a valid key" in str(failure)
    assert "[key]" in str(failure)
    assert KEY not in str(failure)
    # One attempt: the SDK does not come back by itself.
    busy, _ = ask(make, lambda: refusal(429, retry_after="3"))
    assert isinstance(busy, ModelFailed)
    assert (busy.retryable, busy.charged, busy.retry_after_s) == (True, False, 3.0)


@pytest.mark.parametrize(
    ("make", "what", "wrong"),
    [
        (make, what, wrong)
        for make, what in [(bedrock, "region"), (vertex, "region"), (vertex, "project"), (foundry, "resource")]
        for wrong in ("", "evil.test/", "a@b", "../x", "-", "x" * 101)
    ],
)
def test_no_part_of_an_address_leads_to_another_host(make: Make, what: str, wrong: str) -> None:
    with pytest.raises(InvalidInput, match=f"the model's {what} is missing or not valid"):
        make(**{what: wrong})


GIVEN = {
    "AWS_BEARER_TOKEN_BEDROCK": KEY,
    "AWS_REGION": "us-east-1",
    "CLOUDSDK_AUTH_ACCESS_TOKEN": KEY,
    "ANTHROPIC_VERTEX_PROJECT_ID": "p-1",
    "CLOUD_ML_REGION": "global",
    "ANTHROPIC_FOUNDRY_API_KEY": KEY,
    "ANTHROPIC_FOUNDRY_RESOURCE": "r-1",
}


@pytest.mark.usefixtures("process_environment")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "bedrock:anthropic.claude-x",
            "BedrockModel('bedrock:anthropic.claude-x', host='bedrock-mantle.us-east-1.api.aws')",
        ),
        ("vertex:claude-x", "VertexModel('vertex:claude-x', host='aiplatform.googleapis.com')"),
        ("foundry:claude-x", "FoundryModel('foundry:claude-x', host='r-1.services.ai.azure.com')"),
    ],
)
def test_a_name_leads_to_its_cloud_with_what_the_environment_given_says(name: str, shown: str) -> None:
    async def main() -> None:
        registry = Registry(GIVEN)
        await registry.load(name)
        assert repr(registry.resolve(name)) == shown
        assert registry.resolve(name) is registry.resolve(name)
        await registry.aclose()

    asyncio.run(main())
    with pytest.raises(InvalidInput, match=f"'{name}' needs a key: set "):
        Registry({}).resolve(name)


def test_each_cloud_has_its_own_prices() -> None:
    prices, usage = Prices(), Usage(1_000_000)
    assert prices.cost("vertex:claude-sonnet-4-5", usage) > 0
    assert prices.cost("bedrock:anthropic.claude-sonnet-4-5-20250929-v1:0", usage) > 0
    assert not prices.has("foundry:claude-sonnet-5-5")  # not on the list: give it one
    assert not prices.has("vertex:gpt-5")
