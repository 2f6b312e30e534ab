"""The front door: the real SDKs of two providers, which change nothing but their base URL."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import anthropic
import openai
import pytest

from belljar import ModelReply, ModelRequest, Usage
from belljar.identity import Tenant
from belljar.models import FREE, Model
from belljar.service.front.anthropic import MessagesAsked
from belljar.service.front.openai import ChatAsked
from belljar.service.pages import DemoModel
from belljar.service.parts import parts
from belljar.service.settings import Profile
from tests.integration.service.support import Held, Serving, connected, head, problem, serving
from tests.integration.support import PATIENCE_S, Jar, until

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


def gpt(service: Serving, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key or service.key, max_retries=0)


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


def test_an_answer_that_was_streamed_is_sent_back_with_its_thinking_and_the_conversation_goes_on(
    service: Serving,
) -> None:
    asked: list[Any] = [{"role": "user", "content": f"{LONG}\n\nHow many?"}]
    with claude(service) as client:
        with client.messages.stream(model=MODEL, max_tokens=1000, messages=asked) as stream:
            answer = stream.get_final_message()
        assert [block.type for block in answer.content] == ["thinking", "text"]
        asked += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": "Are you sure?"}]
        again = client.messages.create(model=MODEL, max_tokens=1000, messages=asked)
        asked += [{"role": "user", "content": [{"type": "thinking", "thinking": "mine", "signature": ""}]}]
        with pytest.raises(anthropic.UnprocessableEntityError, match="only text"):
            client.messages.create(model=MODEL, max_tokens=1000, messages=asked)
    assert again.content[0].type == "text"
    assert again.content[0].text == "2002 lines"  # of the message with the first question, which is all of the context


def test_what_sdks_send_without_a_meaning_is_passed_over(service: Serving) -> None:
    asked: list[Any] = [{"role": "user", "content": f"{LONG}\n\nHow many?"}]
    with gpt(service) as other:
        assert other.chat.completions.create(model=MODEL, messages=asked, stream=None, n=None).choices
    with claude(service) as client:
        preview = {"beta": "true"}
        assert client.messages.create(model=MODEL, max_tokens=9, messages=asked, extra_query=preview).content
        assert client.models.list(extra_query=preview).data == []


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


# -- which models ------------------------------------------------------------------------------------------------------


PROFILES = {
    "careful": Profile(model="scripted:oracle", policy="strict", sub_model="scripted:demo", language="restricted"),
    "ours": Profile(model="scripted:oracle", tenants=(Tenant("acme"),)),
}


@pytest.fixture
def chosen(jar: Jar) -> Iterator[Serving]:
    """A service whose operator says which models there are."""
    models: list[Model] = [Oracle(), DemoModel()]
    with serving(jar, models=models, profiles=PROFILES, options={"extras": parts()}) as running:
        yield running


def test_a_profile_says_how_the_run_of_its_name_goes(chosen: Serving) -> None:
    ask = [{"role": "user", "content": f"{LONG}\n\nHow many?"}]
    with claude(chosen) as client:
        message = client.messages.create(model="rlm/careful", max_tokens=10, messages=ask)  # type: ignore[arg-type]
    with gpt(chosen) as other:
        completion = other.chat.completions.create(model="rlm/careful", messages=ask)  # type: ignore[arg-type]
    assert message.model == completion.model == "rlm/careful"
    with chosen.client() as admin:
        for run in (message.id.removeprefix("msg_"), completion.id.removeprefix("chatcmpl-")):
            state = admin.get(f"/v1/runs/{run}").json()
            assert (state["state"], state["model"], state["sub_model"]) == ("ok", "scripted:oracle", "scripted:demo")
            assert (state["policy"], state["language"]) == ("strict", "restricted")


def test_each_sdk_lists_what_its_caller_may_name(chosen: Serving) -> None:
    runner = chosen.key_of("runner", "acme/a")
    of_all, of_acme = ["rlm/careful", "rlm/scripted:demo"], ["rlm/careful", "rlm/ours", "rlm/scripted:demo"]
    for key, names in ((chosen.key, of_all), (runner, of_acme)):
        with claude(chosen, key) as client, gpt(chosen, key) as other:
            assert [one.id for one in client.models.list()] == names
            found = client.models.list(limit=1)
            assert ([one.id for one in found.data], found.has_more, found.last_id) == (names[:1], True, names[0])
            assert [one.id for one in found] == names  # page by page
            assert (found.data[0].display_name, found.data[0].type) == ("careful", "model")
            listed = other.models.list()
            assert (listed.object, [one.id for one in listed]) == ("list", names)
            assert {(one.object, one.created, one.owned_by) for one in listed} == {("model", 0, "belljar")}
    with chosen.client(chosen.key_of("auditor", "acme")) as auditor:
        problem(auditor.get("/v1/models"), 403, "access.forbidden")
    with chosen.client() as admin:
        problem(admin.get("/v1/models", params={"after_id": "rlm/ours"}), 422, "page.cursor")


def test_a_model_that_is_not_offered_is_not_found_and_those_that_are_get_named(chosen: Serving) -> None:
    ask = [{"role": "user", "content": "What?"}]
    for model in ("rlm/ours", "rlm/scripted:oracle", "rlm/claude-opus", "careful", "rlm/", "gpt"):
        with claude(chosen) as client, pytest.raises(anthropic.NotFoundError, match="use rlm/careful or") as refused:
            client.messages.create(model=model, max_tokens=1, messages=ask)  # type: ignore[arg-type]
        assert refused.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
        with gpt(chosen) as other, pytest.raises(openai.NotFoundError, match="rlm/scripted:demo") as missing:
            other.chat.completions.create(model=model, messages=ask)  # type: ignore[arg-type]
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with claude(chosen, chosen.key_of("runner", "acme")) as client:
        assert client.messages.create(model="rlm/ours", max_tokens=1, messages=ask).content  # type: ignore[arg-type]


def test_without_profiles_any_model_may_be_named(service: Serving) -> None:
    ask = [{"role": "user", "content": "What?"}]
    with gpt(service) as client:
        assert client.chat.completions.create(model=MODEL, messages=ask).choices  # type: ignore[arg-type]
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="rlm/nobody", messages=ask)  # type: ignore[arg-type]
    assert refused.value.code == "model_not_found"


def test_the_playground_offers_profiles_and_orders_by_them(chosen: Serving) -> None:
    with chosen.nobody() as browser:
        browser.headers.update({"origin": chosen.url, "sec-fetch-site": "same-origin"})
        browser.post("/login", data={"key": chosen.key, "next": "/runs"})
        page = browser.get("/playground", params={"tenant": "acme"}).text
        assert '<option value="rlm/ours">' in page
        assert '<option value="rlm/ours">' not in browser.get("/playground", params={"tenant": "other"}).text
        form = {"token": page.partition('name="token" value="')[2].partition('"')[0], "tenant": "acme", "text": "a"}
        form |= {"question": "What?", "model": "rlm/careful", "policy": "standard"}
        run = browser.post("/playground", data=form).headers["location"].removeprefix("/runs/")
    with chosen.client() as admin:
        state = admin.get(f"/v1/runs/{run}").json()
    assert (state["model"], state["policy"]) == ("scripted:oracle", "strict")


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


def test_what_an_answer_cannot_be_is_refused_and_not_passed_over(service: Serving) -> None:
    ask = [{"role": "user", "content": "What?"}]
    asked = {"model": MODEL, "messages": ask}
    with gpt(service) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="one answer") as caught:
            client.chat.completions.create(**asked, n=2)  # type: ignore[call-overload]
        assert caught.value.code == "front.choices"
        with pytest.raises(openai.UnprocessableEntityError, match="the answer is a text"):
            client.chat.completions.create(**asked, response_format={"type": "json_object"})  # type: ignore[call-overload]
        with pytest.raises(openai.UnprocessableEntityError, match="no tools of its caller's"):
            client.chat.completions.create(**asked, functions=[{"name": "x"}])  # type: ignore[call-overload]
        client.chat.completions.create(**asked, n=1, response_format={"type": "text"})  # type: ignore[call-overload]
    schema = {"type": "json_schema", "schema": {"type": "object"}}
    for more in ({"output_config": {"format": schema}}, {"output_format": schema}):
        with (
            claude(service) as client,
            pytest.raises(anthropic.UnprocessableEntityError, match="the answer is a text"),
        ):
            client.messages.create(**asked, max_tokens=1, extra_body=more)  # type: ignore[call-overload]


def test_of_a_path_that_there_is_not_each_sdk_shows_what_there_is(service: Serving) -> None:
    ask = [{"role": "user", "content": "What?"}]
    with gpt(service) as client:
        with pytest.raises(openai.NotFoundError, match="there are /v1/messages"):
            client.models.retrieve(MODEL)
        with pytest.raises(openai.NotFoundError, match="there are /v1/messages"):
            client.responses.create(model=MODEL, input="What?")
    with claude(service) as client, pytest.raises(anthropic.NotFoundError, match="there are /v1/messages"):
        client.messages.count_tokens(model=MODEL, messages=ask)  # type: ignore[arg-type]
    with service.client() as admin:
        problem(admin.get("/v1/responses"), 404, "route.unknown")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_a_stream_of_a_run_that_never_begins_ends_with_an_error(jar: Jar, path: str) -> None:
    with serving(jar, models=[Oracle()], running=1) as service, service.client() as admin:
        first = admin.post("/v1/runs", json={"code": "while True: pass"}).json()["run"]
        running = {"status": "running"}
        until(lambda: admin.get("/v1/runs", params=running).json()["runs"], what="it has the slot, as the log says")
        body = {"model": MODEL, "messages": [{"role": "user", "content": "What?"}], "stream": True, "max_tokens": 9}
        with admin.stream("POST", path, json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            (waits,) = admin.get("/v1/runs", params={"status": "queued"}).json()["runs"]
            admin.delete(f"/v1/runs/{waits['run']}")
            *_, last = [line for line in lines if line.startswith("data: ")]
        told = json.loads(last.removeprefix("data: "))["error"]
        assert (told["code"], told["message"][:12]) == ("run.cancelled", "cancelled by")
        admin.delete(f"/v1/runs/{first}")


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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/messages", "authentication_error"), ("/v1/chat/completions", "invalid_request_error")]
)
def test_a_caller_whose_key_is_revoked_is_told_so_and_its_run_goes_on(
    jar: Jar, path: str, kind: str, stream: bool
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"{LONG}\n\nHow many?"}], "stream": stream}
    held = Held(Oracle())
    with serving(jar, models=[held.model], heartbeat_s=0.1) as service, service.client() as admin:
        key = service.key_of("runner", "acme")

        def states() -> list[str]:
            return [one["state"] for one in admin.get("/v1/runs").json()["runs"]]

        with service.client(key) as client, ThreadPoolExecutor(1) as beside, held:
            client.timeout = 2 * PATIENCE_S
            asking = beside.submit(client.post, path, json=body)
            until(lambda: states() == ["running"], what="its run is under way")
            assert admin.delete(f"/v1/keys/{key.split('_')[1]}").json()["state"] == "ended"
            until(asking.done, what="it is told so")
        answer = asking.result()
        assert answer.status_code == (200 if stream else 401)
        *_, last = [line for line in answer.text.splitlines() if line]
        told = json.loads(last.removeprefix("data: "))["error"]
        assert (told["type"], told["code"]) == (kind, "access.revoked")
        until(lambda: states() != ["running"], what="its run is over")
        assert states() == ["ok"]


@pytest.mark.parametrize(("path", "sign"), [("/v1/messages", "event: ping"), ("/v1/chat/completions", ": still here")])
def test_a_stream_in_which_nothing_happens_gives_signs_of_life(jar: Jar, path: str, sign: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": FOREVER}], "stream": True}
    with (
        serving(jar, models=[Oracle()], heartbeat_s=0.1) as service,
        service.client() as client,
        client.stream("POST", path, json=body) as answer,
    ):
        assert sign in answer.iter_lines()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_a_stream_keeps_nothing_of_what_was_sent(jar: Jar, path: str) -> None:
    """It lasts as long as its run, and whoever sends the same with the same key has as many of them as they like."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "How many?"}], "stream": True}

    def kept() -> list[object]:
        return [one for one in gc.get_objects() if isinstance(one, MessagesAsked | ChatAsked) and one.messages]

    with (
        serving(jar, models=[(held := Held(Oracle())).model]) as service,
        held,
        service.client() as client,
        client.stream("POST", path, json=body) as answer,
    ):
        coming = answer.iter_bytes()  # without it, the client hangs up
        assert next(coming)
        until(lambda: held.asked and not kept(), what="nobody has it any more")
