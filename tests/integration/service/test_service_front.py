"""The front door: the real SDKs of two providers, which change nothing but their base URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import anthropic
import openai
import pytest

from belljar import ModelReply, ModelRequest, Usage
from belljar.models import FREE
from tests.integration.service.support import Serving, connected, head, serving
from tests.integration.support import Jar, until

LONG = "\n".join(f"user {number} logged in" for number in range(2000))
FOREVER = "Never stop."
MODEL = "rlm/scripted:oracle"


class Oracle:
    """A root model that counts lines; asked to go on, it writes a program that never ends."""

    name, scripted, rates = "scripted:oracle", True, FREE

    async def complete(self, request: ModelRequest) -> ModelReply:
        code = 'FINAL(f"{len(context.splitlines())} lines")'
        if any(FOREVER in message.text for message in request.messages):
            code = "while True: pass"
        return ModelReply(f"```repl\n{code}\n```", Usage(100, 10), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


@pytest.fixture
def service(jar: Jar) -> Iterator[Serving]:
    with serving(jar, models=[Oracle()]) as running:
        yield running


def claude(service: Serving, key: str | None = None) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=service.url, api_key=key or service.key, max_retries=0)


def gpt(service: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)


def test_the_messages_api_answers_over_a_long_message(service: Serving) -> None:
    with claude(service) as client:
        message = client.messages.create(
            model=MODEL,
            max_tokens=1000,
            system="Be brief.",
            messages=[{"role": "user", "content": f"{LONG}\n\nHow many lines are there?"}],
        )
    assert [(block.type, getattr(block, "text", "")) for block in message.content] == [("text", "2000 lines")]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (100, 10)
    assert message.stop_reason == "end_turn"
    run = message.id.removeprefix("msg_")
    with service.client() as admin:
        assert admin.get(f"/v1/runs/{run}").json()["state"] == "ok"


def test_the_messages_api_streams_progress_as_thinking(service: Serving) -> None:
    with (
        claude(service) as client,
        client.messages.stream(
            model=MODEL, max_tokens=1000, messages=[{"role": "user", "content": f"{LONG}\n\nHow many?"}]
        ) as stream,
    ):
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "2000 lines"
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert "Cell 1 runs." in str(message.content[0])
    assert (message.usage.output_tokens, message.stop_reason) == (10, "end_turn")


def test_the_chat_completions_api_answers_over_a_long_message(service: Serving) -> None:
    with gpt(service) as client:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": LONG},
                {"role": "user", "content": "How many lines are there?"},
            ],
        )
    assert answer.choices[0].message.content == "2000 lines"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 110


def test_the_chat_completions_api_streams(service: Serving) -> None:
    with gpt(service) as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"{LONG}\n\nHow many?"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "2000 lines"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 10


def test_refusals_are_the_sdks_own_errors(service: Serving) -> None:
    ask = [{"role": "user", "content": "What?"}]
    with claude(service, "bj_0000000000000000_" + "x" * 43) as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(model=MODEL, max_tokens=1, messages=ask)  # type: ignore[arg-type]
    with claude(service) as client, pytest.raises(anthropic.NotFoundError, match="rlm/ and a model's name"):
        client.messages.create(model="claude-opus", max_tokens=1, messages=ask)  # type: ignore[arg-type]
    with gpt(service) as client, pytest.raises(openai.UnprocessableEntityError, match="last message has to be"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "assistant", "content": "Hm."}])
    with service.client() as admin:
        admin.patch("/v1/quotas", json={"tenant": "default", "limits": {"day": {"calls": 0}}})
    with gpt(service) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "What?"}])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_a_caller_that_goes_away_ends_its_run(service: Serving, path: str, stream: bool) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": FOREVER}], "stream": stream}

    def states() -> list[str]:
        return [one["state"] for one in admin.get("/v1/runs").json()["runs"]]

    with service.client() as admin:
        with closing(connected(service)) as caller:
            data = json.dumps(body).encode()
            told = ("content-type: application/json", f"content-length: {len(data)}")
            caller.sendall(head(service, f"POST {path}", *told) + data)
            until(lambda: states() == ["running"], what="its run is under way")
        until(lambda: states() == ["killed"], what="its run was ended")
