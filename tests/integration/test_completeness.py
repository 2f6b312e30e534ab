"""Whatever a program does, the log has all of it: what it was given to read, what was found, what a model was sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from belljar import ModelFailed, ModelRequest, Runtime
from belljar.audit import Record
from belljar.broker import Reply
from belljar.engine.box import Box
from belljar.protocol import Data, Found
from belljar.testing import FakeModel
from tests.examples import examples
from tests.integration.support import Jar

# In ASCII, so that its characters are its bytes.
TEXT = "".join(f"line {number:05} of the text\n" for number in range(20_000))
ITEMS = [f"item {number} " * 20 for number in range(500)]
CHILD = "```repl\nprint(context[0:50], llm_query('below'), len(context.search('1')))\nFINAL(1)\n```"

_at = st.integers(0, len(TEXT) + 100)
_few = st.integers(0, 30)
_word = st.sampled_from(["line", "0{2}1", "text$", "(", "item 7 ", "nothing", ""])
_prompt = st.sampled_from(["''", "'why?'", "'fail'", "'busy'", "context[0:200]", "'x' * 3_000_000"])
_statement = st.one_of(
    st.builds("print(context[{}:{}])".format, _at, _at),
    st.builds("print(len(context[{0}:{0} + {1}]))".format, _at, st.integers(0, 400_000)),
    st.builds("for at in range({}): context[at * 40_000]".format, _few),
    st.builds("for one in context.search({!r}): print(one)".format, _word),
    st.builds("print(context.count_matches({!r}))".format, _word),
    st.builds("print(context.lines({}, {}))".format, _few, _few),
    st.builds("print(more[{}], len(more), more[{}:{}])".format, _few, _few, _few),
    st.builds("print(llm_query({}))".format, _prompt),
    st.builds("print(llm_query_batched([{}, {}] * {}))".format, _prompt, _prompt, st.integers(1, 4)),
    st.builds("print(add(a={}, b=1))".format, st.sampled_from(["1", "'x'", "2**70"])),
    st.builds("print(rlm_query('?', context[{0}:{0} + 100]))".format, _at),
    st.builds("print(rlm_query('?', context.part({}, {})))".format, _at, _at),
    st.builds("print(rlm_query_batched(['?', {}]))".format, _prompt),
)
# What is refused, or does not exist, is no reason to stop.
_cell = st.lists(
    _statement.map("try:\n    {}\nexcept Exception as error:\n    print(error)".format), min_size=1, max_size=6
)


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


def answer(request: ModelRequest) -> str:
    if request.purpose == "root":
        return CHILD
    match request.messages[-1].text:
        case "fail":
            raise ModelFailed("it does not want to", retryable=False)
        case "busy":
            raise ModelFailed("it is busy", retryable=True, retry_after_s=0.001)
        case _:
            return "because"


class Served:
    """What boxes were sent, by run: bytes of text, how many reads that were, and how many matches each search gave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clear()
        send = Box._send

        async def spy(box: Box, reply: Reply) -> None:
            message, body = reply
            match message:
                case Data():
                    self.read[box._scope.run] += len(body)
                    self.reads[box._scope.run] += 1
                case Found():
                    self.found.append((box._scope.run, message.count))
                case _:
                    pass  # not from a context
            await send(box, reply)

        monkeypatch.setattr(Box, "_send", spy)

    def clear(self) -> None:
        self.read: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.found: list[tuple[str, int]] = []


def logged_reads(found: list[Record]) -> tuple[Counter[str], Counter[str]]:
    """By run: the bytes, and how many reads."""
    read: Counter[str] = Counter()
    reads: Counter[str] = Counter()
    for record in found:
        if record.event == "context.read":
            data = record.data
            assert data.get("spans") is None, "so few are logged one by one"
            read[record.run] += data["stop"] - data["start"]
            reads[record.run] += 1
    return read, reads


def sent(found: list[Record]) -> Counter[str]:
    """The digests of what a model was asked, by the log."""
    denied = {record.data["action"] for record in found if record.event == "query.denied"}
    asked = [record.data for record in found if record.event == "query.requested"]
    return Counter(
        data["prompt_sha256"] for data in asked if data["action"] not in denied and data["purpose"] != "tool"
    )


def digest(request: ModelRequest) -> str:
    texts = (request.system, *(message.text for message in request.messages))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@pytest.mark.slow
def test_the_log_has_all_that_a_program_was_given_and_all_that_was_sent(
    jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, model = Served(monkeypatch), FakeModel(answer)

    async def opened() -> Runtime:
        return await Runtime("dev", state=jar.at, language="python").__aenter__()

    async def one(runtime: Runtime, cells: list[list[str]]) -> None:
        contexts: dict[str, Any] = {"text": TEXT, "more": ITEMS}
        async with runtime.session(contexts=contexts, model=model, tools=[add]) as session:
            for cell in [["context, more = contexts['text'], contexts['more']"], *cells]:
                await session.execute("\n".join(cell))
                if session.result is not None:
                    break

    totals: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        runtime = runner.run(opened())

        @settings(max_examples=examples(30), database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(_cell, min_size=1, max_size=3))
        @example([["print(len(context[7:300_000]))"]])
        def check(cells: list[list[str]]) -> None:
            served.clear()
            model.requests.clear()
            before = len(jar.records())
            runner.run(one(runtime, cells))
            found = jar.records()[before:]
            assert logged_reads(found) == (served.read, served.reads)
            searched = [record for record in found if record.event == "context.searched" and record.data.get("mode")]
            assert Counter((record.run, record.data["count"]) for record in searched) == Counter(served.found)
            assert sent(found) == Counter(map(digest, model.requests))
            ends = {record.run: record.data["reads"] for record in found if record.event == "run.finished"}
            assert Counter(ends) == served.reads + Counter(run for run, _ in served.found)
            totals.update(reads=served.reads.total(), found=len(served.found), sent=len(model.requests))

        check()
        runner.run(runtime.__aexit__(None, None, None))
    assert min(totals.values()) > 10
