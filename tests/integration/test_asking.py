"""`session.ask`: question after question to one root model, over one box, its variables and its budget."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

import belljar
from belljar import AskResult, InvalidInput, PolicyDenied, Runtime
from belljar.models import Message, ModelRequest
from belljar.policy import Policy, load
from belljar.testing import FakeModel
from tests.integration.support import Jar
from tests.integration.test_root_replies import block
from tests.waiting import PATIENCE_S, in_time

NAME = "scripted:asked"


def playing(*replies: str) -> FakeModel:
    """A root model that gives these replies, one after the other."""
    left = iter(replies)
    return FakeModel(lambda _: next(left), NAME)


def asked(jar: Jar, model: FakeModel, *questions: str, **options: Any) -> list[AskResult]:
    async def go() -> list[AskResult]:
        async with (
            Runtime(options.pop("policy", "standard"), state=jar.at, **options) as runtime,
            runtime.session(context="abc", root_model=model) as session,
        ):
            return [await session.ask(question) for question in questions]

    return asyncio.run(go())


def allowing(*, models: dict[str, Any] | None = None, calls: int | None = None) -> Policy:
    standard = load("standard")
    run = standard.quota.run if calls is None else replace(standard.quota.run, calls=calls)
    quota = replace(standard.quota, run=run)
    return replace(standard, models=replace(standard.models, **models or {}), quota=quota)


def texts(messages: tuple[Message, ...]) -> list[str]:
    return [message.text for message in messages]


def test_a_second_question_finds_the_variables_and_the_conversation_of_the_first(jar: Jar) -> None:
    model = playing(block("kept = len(context)\nFINAL(f'{kept} letters')"), block("FINAL([kept, context[0]])"))
    first, second = asked(jar, model, "How long is it?", "How does it begin?")
    assert (first.status, first.answer, first.turns, first.usage.calls) == ("ok", "3 letters", 1, 1)
    assert (second.status, second.answer, second.turns, second.usage.calls) == ("ok", [3, "a"], 1, 1)
    shown = texts(model.requests[1].messages)
    assert ["How long is it?" in shown[0], "kept = len(context)" in shown[1]] == [True, True]
    assert all(part in shown[2] for part in ("3 letters", "Question: How does it begin?", "Turn 1 of"))
    assert [turn.number for turn in second.turns_log] == [2]
    assert [(one.data["cell"], one.data["stays"]) for one in jar.records("answer.given")] == [(1, True), (3, True)]


def test_the_synchronous_session_takes_questions(jar: Jar) -> None:
    model = playing(block("SUBMIT(n=len(context))"), block("FINAL(n)"))
    told: list[int] = []
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with belljar.session(state=jar.at, context="abc", root_model=model) as session:
        first = session.ask("How long?", answer_type=schema, on_turn=lambda turn: told.append(turn.number))
        assert session.execute("n = 7").status == "ok"
        second = session.ask("And n?")
    assert (first.value, second.answer, told) == ({"n": 3}, 7, [1])
    assert session.result is not None
    assert (session.result.status, session.result.answer, session.result.turns) == ("ok", 7, 2)
    assert session.result.usage.calls == first.usage.calls + second.usage.calls == 2


def test_each_question_has_the_policys_turns_and_one_without_an_answer_leaves_the_session_open(jar: Jar) -> None:
    policy = allowing(models={"turns_max": 2})
    model = playing(
        block("answer['content'] = 'draft'\nresult = 'r'\nprint(1)"),
        block("print(2)"),
        block("print(3)"),
        block("print(4)"),
        block("FINAL(result)"),
    )
    first, second, third = asked(jar, model, "One?", "Two?", "Three?", policy=policy)
    assert (first.status, first.limit and first.limit.code, first.partial) == ("quota", "models.turns", "draft")
    # What the question before left is no part of this one's answer.
    assert (second.status, second.partial, second.turns) == ("quota", None, 2)
    assert (third.status, third.answer, third.turns) == ("ok", "r", 1)
    assert "stays without an answer" in texts(model.requests[2].messages)[-1]


def test_a_question_that_is_refused_is_not_told_how_the_one_before_it_ended(jar: Jar) -> None:
    policy = allowing(models={"turns_max": 1})
    model = playing(block("answer['content'] = 'draft'\nprint(1)"), block("FINAL(2)"))
    first, second, third = asked(jar, model, "One?", "x" * 60_000, "Three?", policy=policy)
    assert (first.status, first.partial) == ("quota", "draft")
    assert (second.status, second.partial, second.turns) == ("denied", None, 0)
    assert second.limit is not None
    assert second.limit.code == "models.prompt"
    assert (third.status, third.answer) == ("ok", 2)


def test_a_draft_that_was_ready_does_not_answer_the_next_question(jar: Jar) -> None:
    ready = "answer['content'], answer['ready'] = 'old', True"
    model = playing(block(ready), block("print(1)"), block("FINAL('new')"))
    first, second = asked(jar, model, "One?", "Two?")
    assert (first.answer, second.answer, second.turns) == ("old", "new", 2)


@pytest.mark.parametrize("busy", ["thinking", "running"])
def test_a_cancelled_question_leaves_the_session_usable(jar: Jar, busy: str) -> None:
    reached = asyncio.Event()

    async def reply(request: ModelRequest) -> str:
        if "Two?" in request.messages[-1].text:
            return block("FINAL(here)")
        if busy == "thinking":
            reached.set()
            await asyncio.Event().wait()
        return block("here = 5\nprint(here)\nwhile True: pass")

    async def go() -> AskResult:
        model = FakeModel(reply, NAME)
        async with Runtime(state=jar.at) as runtime:
            async with runtime.session(root_model=model) as session:
                await session.execute("here = 4")
                asking = asyncio.create_task(session.ask("One?"))
                async with in_time(PATIENCE_S, f"it is {busy}"):
                    if busy == "thinking":
                        await reached.wait()
                    else:
                        await anext(at async for at in runtime._host.watch(session._run.order.run) if at.cells == 3)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                found = await session.ask("Two?")
            if busy == "running":
                assert "stopped from outside" in texts(model.requests[-1].messages)[-1]
            return found

    assert asyncio.run(go()).answer == (4 if busy == "thinking" else 5)


@pytest.mark.parametrize("busy", ["model", "program"])
def test_a_session_that_is_closed_within_a_question_ends_it_and_the_log_is_whole(jar: Jar, busy: str) -> None:
    async def go() -> tuple[list[Any], bool]:
        thinking = asyncio.Event()

        async def think(request: ModelRequest) -> str:
            if busy == "program" and request.purpose == "root":
                return block("llm_query('x')")
            thinking.set()
            await asyncio.Event().wait()
            raise AssertionError("nobody ends it")

        async with Runtime(state=jar.at) as runtime:
            async with runtime.session(root_model=FakeModel(think, NAME)) as session:
                asking = [asyncio.create_task(session.ask(question)) for question in ("One?", "Two?")]
                async with in_time(PATIENCE_S, "a model is asked"):
                    await thinking.wait()
            async with in_time(PATIENCE_S, "the questions have ended with their session"):
                ended = await asyncio.gather(*asking, return_exceptions=True)
            assert await runtime._host._shared.ledger.check_books() == []
            return ended, (await runtime.verify()).ok

    (first, second), is_whole = asyncio.run(go())
    assert (first.status, first.answer) == ("killed", None)
    assert isinstance(second, PolicyDenied)
    assert second.code == "session.ended"
    assert is_whole
    assert jar.open_reservations() == 0


def test_a_box_that_ends_in_a_question_ends_the_session(jar: Jar) -> None:
    async def go() -> tuple[AskResult, str]:
        model = playing(block("import os\nos._exit(3)"))
        async with (
            Runtime(state=jar.at, language="python") as runtime,
            runtime.session(root_model=model) as session,
        ):
            first = await session.ask("One?")
            with pytest.raises(PolicyDenied) as refused:
                await session.ask("Two?")
        assert session.result is not None
        assert session.result.status == "error"
        return first, refused.value.code

    first, code = asyncio.run(go())
    assert (first.status, first.answer, code) == ("error", None, "session.ended")


def test_a_question_to_a_session_without_a_root_model_is_refused(jar: Jar) -> None:
    with belljar.session(state=jar.at) as session, pytest.raises(InvalidInput) as refused:
        session.ask("One?")
    assert refused.value.code == "session.no_model"


def test_the_budget_of_a_session_goes_on_from_question_to_question(jar: Jar) -> None:
    policy = allowing(calls=2)
    model = playing(block("FINAL(1)"), block("print(2)"), block("FINAL(3)"))
    first, second = asked(jar, model, "One?", "Two?", policy=policy)
    assert (first.status, second.status, second.turns) == ("ok", "quota", 2)


def test_a_program_that_goes_on_after_its_answer_gives_no_second_one(jar: Jar) -> None:
    code = "for n in (1, 2):\n    try:\n        FINAL(n)\n    except BaseException:\n        pass"
    first, second = asked_python(jar, code, "FINAL(3)")
    assert (first.answer, second.answer) == (1, 3)
    assert [len(jar.records(event)) for event in ("answer.void", "answer.given")] == [1, 2]


def asked_python(jar: Jar, *codes: str) -> list[AskResult]:
    return asked(jar, playing(*map(block, codes)), *("What?" for _ in codes), language="python")
