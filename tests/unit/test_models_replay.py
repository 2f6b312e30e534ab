"""A recorded run as a model: what was asked is answered as it was, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from belljar.errors import ModelFailed
from belljar.models import Message, ModelReply, ModelRequest, Registry, Usage
from belljar.models.base import texts_digest
from belljar.models.replay import Asked, ReplayModel, ReplayTool, Tape

RUN = "20261128T120000-00aa"


def request(text: str, *, run: str = "20261129T090000-11bb", purpose: Literal["root", "sub", "tool"] = "sub") -> Any:
    return ModelRequest("be brief", (Message("user", text),), 1000, 60.0, purpose, run)


def asked(
    text: str, reply: str | None, action: int, *, place: str = "", purpose: Any = "sub", model: str = "m", **more: Any
) -> Asked:
    digest = texts_digest("be brief", text)[0]
    return Asked(
        place=place,
        action=f"{RUN}.{action}",
        purpose=purpose,
        model=model,
        prompt_sha256=digest,
        reply=reply,
        **more,
    )


def ask(model: ReplayModel | ReplayTool, *requests: ModelRequest) -> list[str]:
    async def all_of_them() -> list[ModelReply]:
        return [await model.complete(one) for one in requests]

    return [reply.text for reply in asyncio.run(all_of_them())]


def test_answers_are_found_by_what_was_asked_whatever_the_order() -> None:
    model = ReplayModel(Tape(RUN, [asked("a", "A", 1), asked("b", "B", 2), asked("c", "C", 3)]))
    assert ask(model, request("c"), request("a"), request("b")) == ["C", "A", "B"]


def test_equal_prompts_have_their_answers_in_the_recorded_order_each_once() -> None:
    model = ReplayModel(Tape(RUN, [asked("a", "first", 1), asked("a", "second", 2)]))
    assert ask(model, request("a"), request("a")) == ["first", "second"]
    with pytest.raises(ModelFailed):
        ask(model, request("a"))


def test_what_was_refused_and_never_sent_comes_last_since_it_is_refused_again() -> None:
    refused = asked("a", None, 1, error="nothing was sent", denied=True)
    model = ReplayModel(Tape(RUN, [refused, asked("a", "A", 2)]))
    assert ask(model, request("a")) == ["A"]
    with pytest.raises(ModelFailed, match="nothing was sent"):
        ask(model, request("a"))


def test_turns_of_a_root_model_come_in_order_where_their_prompts_are_not_the_same_again() -> None:
    turns = [asked("5 min left", "one", 1, purpose="root"), asked("4 min left", "two", 2, purpose="root")]
    model = ReplayModel(Tape(RUN, turns))
    assert ask(model, request("3 min", purpose="root"), request("2 min", purpose="root")) == ["one", "two"]


def test_a_turn_that_was_found_by_its_prompt_does_not_come_again_by_its_order() -> None:
    turns = [asked("x", "one", 1, purpose="root"), asked("y", "two", 2, purpose="root")]
    model = ReplayModel(Tape(RUN, turns))
    assert ask(model, request("y", purpose="root"), request("z", purpose="root")) == ["two", "one"]


def test_each_run_of_a_tree_has_its_own_answers() -> None:
    tape = Tape(
        RUN,
        [
            asked("a", "parent", 1),
            asked("a", "child", 2, place="00001"),
            asked("a", "grandchild", 3, place="00001.00001"),
            asked("t", "turn of the child", 4, place="00001", purpose="root"),
        ],
    )
    new = "20261129T090000-11bb"
    model = ReplayModel(tape)
    asking = [request("a", run=f"{new}.00001.00001"), request("a", run=f"{new}.00001"), request("a", run=new)]
    assert ask(model, *asking) == ["grandchild", "child", "parent"]
    assert ask(model, request("other", run=f"{new}.00001", purpose="root")) == ["turn of the child"]


def test_with_an_earlier_one_there_is_what_a_fork_of_it_did_not_come_to_ask_again() -> None:
    """The fork was given two turns of three again, and one answer of two to equal queries; then it was interrupted."""
    earlier = Tape(
        "earlier",
        [
            asked("turn one", "1", 1, purpose="root"),
            asked("same", "a", 2),
            asked("same", "b", 3),
            asked("turn two", "2", 4, purpose="root"),
            asked("other", "c", 5, place="00001"),
            asked("turn three", "3", 6, purpose="root"),
        ],
        {"": {1: b"a", 3: b"d"}, "00001": {1: b"e"}},
    )
    fork = [asked("TURN ONE", "1", 7, purpose="root"), asked("same", "a", 8), asked("TURN TWO", "2", 9, purpose="root")]
    both = Tape("fork", fork, {"": {1: b"b", 2: b"c"}}).and_of(earlier)
    assert both.name == "fork"
    assert [one.reply for one in both.asked] == ["1", "a", "2", "b", "c", "3"]
    assert both.clocks == {"": {1: b"b", 2: b"c", 3: b"d"}, "00001": {1: b"e"}}
    assert Tape("", ()).and_of(earlier).asked == earlier.asked
    assert both.and_of(earlier).asked == both.asked


def test_a_query_that_the_record_does_not_have_names_both_sides() -> None:
    model = ReplayModel(Tape(RUN, [asked("a", "A", 1)]))
    with pytest.raises(ModelFailed) as caught:
        ask(model, request("b"))
    assert RUN in str(caught.value)
    assert "1 query" in str(caught.value)
    assert texts_digest("be brief", "b")[0][:12] in str(caught.value)
    assert (caught.value.retryable, caught.value.charged) == (False, False)


def test_one_turn_too_many_says_how_many_there_were() -> None:
    model = ReplayModel(Tape(RUN, [asked("a", "A", 1, purpose="root")]))
    ask(model, request("a", purpose="root"))
    with pytest.raises(ModelFailed, match=f"{RUN} has 1 turn, and one more was asked for"):
        ask(model, request("a", purpose="root"))


def test_a_failure_is_the_same_failure_and_is_tried_again_only_where_it_was() -> None:
    failed = [
        asked("a", None, 1, error="overloaded", again=True),
        asked("a", None, 2, error="still overloaded"),
    ]
    model = ReplayModel(Tape(RUN, failed))
    seen = []
    for _ in failed:
        with pytest.raises(ModelFailed) as caught:
            ask(model, request("a"))
        seen.append((str(caught.value), caught.value.retryable, caught.value.retry_after_s))
    assert seen == [("overloaded", True, 0.0), ("still overloaded", False, None)]


def test_what_was_given_up_is_not_answered() -> None:
    model = ReplayModel(Tape(RUN, [asked("a", None, 1, unanswered=True)]))

    async def wait() -> bool:
        waiting = asyncio.create_task(model.complete(request("a")))
        for _ in range(10):
            await asyncio.sleep(0)
        is_done = waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return is_done

    assert not asyncio.run(wait())


def test_a_reply_says_what_it_cost_and_who_gave_it() -> None:
    usage = Usage(input_tokens=7, output_tokens=3, cache_read_tokens=2)
    tape = Tape(RUN, [asked("a", "A", 1, usage=usage, stop_reason="max_tokens", answered_by="claude-x")])
    reply = asyncio.run(ReplayModel(tape).complete(request("a")))
    assert reply == ModelReply("A", usage, "claude-x", "max_tokens")


def test_a_rewound_one_has_all_answers_again() -> None:
    model = ReplayModel(Tape(RUN, [asked("a", "A", 1)]), name="as-it-was")
    ask(model, request("a"))
    again = model.rewound()
    assert ask(again, request("a")) == ["A"]
    assert again.name == "as-it-was"


def test_a_tool_gives_what_it_gave_and_nothing_of_a_query() -> None:
    tape = Tape(RUN, [asked("{}", "query", 1), asked("{}", '"tool"', 2, purpose="tool", model="tool:look")])
    tool = ReplayTool(tape, ("look", [], ""))
    assert ask(tool, request("{}", purpose="tool")) == ['"tool"']
    with pytest.raises(ModelFailed):
        ask(tool, request("{}", purpose="tool"))


def test_a_run_is_a_model_by_its_name_and_each_use_of_it_begins_anew() -> None:
    reads: list[str] = []

    def recorded(run: str) -> Tape:
        reads.append(run)
        return Tape(run, [asked("a", "A", 1)])

    registry = Registry({}, recorded=recorded)
    asyncio.run(registry.load(f"replay:{RUN}"))
    first, second = (registry.resolve(f"replay:{RUN}") for _ in range(2))
    assert (first.name, first.scripted) == (f"replay:{RUN}", True)
    assert isinstance(first, ReplayModel)
    assert isinstance(second, ReplayModel)
    assert ask(first, request("a")) == ask(second, request("a")) == ["A"]
    assert reads == [RUN]
