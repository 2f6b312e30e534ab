"""The whole stack against a provider's mock by other authors, on loopback: what it was sent is what our log says.

Each test runs the command line, with a root model and a sub-model, through the real SDK over a real socket, and under a
watch that refuses to contact anything beyond this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aimock.server import AiMock, Unavailable
from tests.integration.support import Jar, Outcome

GUARD = str(Path(__file__).resolve().parents[1] / "aimock" / "loopback.py")
KEY = "sk-canary-of-the-aimock-tests"
PRICES = """
[price."openai:mock-1"]
input_usd_per_mtok = 2.0
output_usd_per_mtok = 10.0
"""
ONCE = """
schema = 1
name = "once"
description = "What fails is not tried again."
extends = "dev"
[models]
attempts = 1
"""
CODE = 'Let me look.\n```repl\nword = llm_query("Say it: " + context[:5])\nprint(word)\n```'
# What is in the system prompt of a root model and of nobody else.
ROOT = "```repl"


def root(turn: int, text: str, **more: object) -> dict[str, Any]:
    return fixture({"systemMessage": ROOT, "turnIndex": turn}, text, **more)


def sub(text: str, **more: object) -> dict[str, Any]:
    return fixture({"userMessage": "Say it"}, text, **more)


def fixture(match: dict[str, Any], text: str, **more: object) -> dict[str, Any]:
    usage = {"prompt_tokens": 1200, "completion_tokens": 30, "total_tokens": 1230}
    response = {"content": text, "usage": usage, **more.pop("response", {})}  # type: ignore[dict-item]
    return {"match": match, "response": response, "chunkSize": 7, **more}


GOOD = (sub("bell"), root(0, CODE), root(1, "```repl\nFINAL(word + '!')\n```"))


class Stack:
    """The command line and the mock behind it."""

    def __init__(self, jar: Jar, mock: AiMock, provider: str) -> None:
        self.jar = jar
        self.mock = mock
        self.contacts = jar.work / "contacts"
        self.contacts.touch()
        (jar.work / "text.txt").write_text("hello world")
        (jar.work / "prices.toml").write_text(PRICES)
        self.model = "claude-haiku-5-5" if provider == "anthropic" else "openai:mock-1"
        self._where = provider.upper(), mock.url + ("" if provider == "anthropic" else "/v1")

    def run(self, url: str | None = None, policy: str = "dev") -> Outcome:
        name, here = self._where
        environ = {f"{name}_API_KEY": KEY, f"{name}_BASE_URL": url or here, "CONTACTS": str(self.contacts)}
        return self.jar(
            *("run", "What?", "--context", self.jar.work / "text.txt", "--model", self.model, "--policy", policy),
            *("--prices", self.jar.work / "prices.toml", "--json", "--quiet"),
            env=environ,
            before=(sys.executable, GUARD),
        )

    def assert_the_log_is_the_journal(self) -> None:
        """Request for request: to whom, what, and how long an answer. And the key is nowhere."""
        logged = [(asked.data["model"], asked.data["prompt_sha256"]) for asked in self.jar.records("query.requested")]
        assert logged == [(self._name_of(entry), digest(entry)) for entry in self.mock.journal]
        bounds = [asked.data["output_tokens_max"] for asked in self.jar.records("query.requested")]
        assert bounds == [entry["body"]["max_tokens"] for entry in self.mock.journal]
        assert self.contacts.read_text() == ""
        kept = [path for path in self.jar.at.rglob("*") if path.is_file() and not path.is_symlink()]
        assert len(kept) > 1
        assert not [path for path in kept if "images" not in path.parts and KEY.encode() in path.read_bytes()]

    def _name_of(self, entry: dict[str, Any]) -> str:
        return f"{'openai:' if self.model.startswith('openai:') else ''}{entry['body']['model']}"


def digest(entry: dict[str, Any]) -> str:
    texts = [message["content"] for message in entry["body"]["messages"]]
    if texts and entry["body"]["messages"][0]["role"] != "system":
        texts.insert(0, "")
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@pytest.fixture(params=["anthropic", "openai"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def playing(jar: Jar, provider: str, *fixtures: dict[str, Any]) -> Iterator[Stack]:
    try:
        mock = AiMock(jar.work, *fixtures)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no aimock: {error}")
        pytest.skip(f"no aimock: {error}")
    with mock:
        yield Stack(jar, mock, provider)


def test_what_the_provider_was_sent_is_what_the_log_says(jar: Jar, provider: str) -> None:
    with playing(jar, provider, *GOOD) as stack:
        outcome = stack.run()
        assert outcome.code == 0, outcome.stderr
        stack.assert_the_log_is_the_journal()
        assert [entry["path"] for entry in stack.mock.journal] == [
            "/v1/messages" if provider == "anthropic" else "/v1/chat/completions"
        ] * 3
    result = outcome.result
    assert (result["status"], result["answer"], result["scripted"]) == ("ok", "bell!", False)
    assert result["usage"] == {"calls": 3, "input_tokens": 3600, "output_tokens": 90}
    # claude-haiku-5-5 costs 0.10 and 0.50 USD per million tokens
    rates = (100, 500) if provider == "anthropic" else (2000, 10_000)
    assert result["cost_nanousd"] == 3600 * rates[0] + 90 * rates[1]
    assert [record.data["stop_reason"] for record in jar.records("query.completed")] == ["end_turn"] * 3
    assert KEY not in outcome.stdout + outcome.stderr


def test_a_provider_that_is_busy_is_asked_again_and_both_attempts_are_in_the_log(jar: Jar, provider: str) -> None:
    busy = {"error": {"message": f"slow down, {KEY}", "type": "rate_limit_error"}, "status": 429, "retryAfter": 1}
    first = {"match": {"userMessage": "Say it", "sequenceIndex": 0}, "response": busy}
    with playing(jar, provider, first, *GOOD) as stack:
        outcome = stack.run()
        assert (outcome.code, outcome.result["answer"]) == (0, "bell!"), outcome.stderr
        stack.assert_the_log_is_the_journal()
        assert [entry["response"]["status"] for entry in stack.mock.journal] == [200, 429, 200, 200]
    assert [asked.data["attempt"] for asked in jar.records("query.requested")] == [1, 1, 2, 1]
    (failed,) = jar.records("query.failed")
    assert "is too busy" in failed.data["error"]
    assert (failed.data["input_tokens"], failed.data["cost_nanousd"]) == (0, 0)


def test_a_stream_that_is_cut_is_asked_for_again_and_both_are_paid(jar: Jar, provider: str) -> None:
    cut = fixture({"userMessage": "Say it", "sequenceIndex": 0}, "bell " * 20, truncateAfterChunks=6, latency=20)
    with playing(jar, provider, cut, *GOOD) as stack:
        outcome = stack.run()
        assert (outcome.code, outcome.result["answer"]) == (0, "bell!"), outcome.stderr
        stack.assert_the_log_is_the_journal()
    (failed,) = jar.records("query.failed")
    assert failed.data["cost_nanousd"] > 0
    assert outcome.result["cost_assumed_nanousd"] == failed.data["cost_nanousd"]


def test_code_that_is_cut_by_the_limit_is_not_run_but_written_again(jar: Jar, provider: str) -> None:
    half = root(0, "```repl\nFINAL('half')\nx = ", response={"finishReason": "length"})
    with playing(jar, provider, half, root(1, "```repl\nFINAL('whole')\n```")) as stack:
        outcome = stack.run()
        assert (outcome.code, outcome.result["answer"]) == (0, "whole"), outcome.stderr
        stack.assert_the_log_is_the_journal()
        told = stack.mock.journal[1]["body"]["messages"][-1]["content"]
    assert "cut" in told
    assert [record.data["stop_reason"] for record in jar.records("query.completed")] == ["max_tokens", "end_turn"]


def test_a_refusal_is_no_answer(jar: Jar, provider: str) -> None:
    word = "refusal" if provider == "anthropic" else "content_filter"
    refused = root(0, "I cannot.", response={"finishReason": word})
    with playing(jar, provider, refused) as stack:
        outcome = stack.run()
        stack.assert_the_log_is_the_journal()
    assert (outcome.code, outcome.result["status"], outcome.result["answer"]) == (7, "model_failed", None)
    assert "refused" in outcome.stderr


def test_thinking_is_no_part_of_the_text(jar: Jar, provider: str) -> None:
    thought = root(0, "```repl\nFINAL('done')\n```", response={"reasoning": "```repl\nFINAL('thought')\n```"})
    with playing(jar, provider, thought) as stack:
        outcome = stack.run()
        stack.assert_the_log_is_the_journal()
    assert (outcome.code, outcome.result["answer"]) == (0, "done"), outcome.stderr


def test_the_watch_over_contacts_sees_what_is_not_on_loopback(jar: Jar, provider: str) -> None:
    """The negative control. An address for documentation, and a name that nobody has; nothing is sent to either."""
    with playing(jar, provider, *GOOD) as stack:
        once = jar.file("once.toml", ONCE)
        for elsewhere in ("192.0.2.1", "belljar.invalid"):
            stack.contacts.write_text("")
            assert stack.run(f"http://{elsewhere}:9/v1", str(once)).code == 7
            assert elsewhere in stack.contacts.read_text()
        assert stack.mock.journal == []
