"""The broker: a sentence out of turn ends the box, a wish beyond the policy is refused, and the log knows of both."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import tracemalloc
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar.broker import Child, Outcome, Text, calls
from belljar.broker.cell import Cell
from belljar.broker.shown import Shown
from belljar.context import Part
from belljar.errors import HostFault, ModelFailed, PolicyDenied, ProtocolViolation, QuotaExceeded, Refusal
from belljar.ledger import Amounts, Limits
from belljar.models import ModelReply, ModelRequest, Usage
from belljar.policy import Policy, load
from belljar.protocol import (
    PROTOCOL,
    Answer,
    Answers,
    Budget,
    CellError,
    Clock,
    Coverage,
    Covered,
    Data,
    Done,
    Execute,
    Extent,
    Final,
    Found,
    Given,
    GuestMessage,
    Left,
    Output,
    Query,
    Read,
    Ready,
    Recurse,
    Refused,
    Search,
)
from belljar.search import Searcher
from belljar.states import BoxState, Event
from belljar.testing import FakeModel
from belljar.wire import Frame, encode
from guest.agent.clock import NOTED_MAX
from tests.unit.audit_events import made
from tests.unit.broker_fakes import RUN, World, drive, policy_with, reply, world
from tests.waiting import PATIENCE_S

ASCII = "0123456789" * 500
# One to four bytes a character, and longer than one stretch of the index.
WIDE = "aé→\U0001f600" * 700
DONE = Done(1, "ok", None)


async def refused(here: World, message: GuestMessage, body: bytes = b"") -> Refused:
    answer = await here.say(message, body)
    assert answer is not None
    assert isinstance(answer[0], Refused), answer
    assert answer[1] == b""
    return answer[0]


async def violates(here: World, message: GuestMessage, body: bytes = b"") -> str:
    with pytest.raises(ProtocolViolation) as caught:
        await here.say(message, body)
    return str(caught.value)


def ask(*prompts: str, number: int = 1, model: str | None = None) -> tuple[Query, bytes]:
    parts = [prompt.encode() for prompt in prompts]
    return Query(number, model, [len(part) for part in parts]), b"".join(parts)


async def answers(here: World, *prompts: str) -> list[str | None]:
    """What each prompt came to: its text, or None for a failure."""
    said = await here.say(*ask(*prompts))
    assert said is not None
    header, body = said
    assert isinstance(header, Answers), header
    texts: list[str | None] = []
    at = 0
    for item in header.items:
        texts.append(None if item.failure is not None else bytes(body[at : at + item.length]).decode())
        at += item.length
    assert at == len(body)
    return texts


def calls_left(number: int) -> Limits:
    return Limits("total", number, None, None, None, None)


# ----------------------------------------------------------------------------------------------------- turn order


@pytest.mark.parametrize(
    "message",
    [
        Output(1, "stdout"),
        Final(1, "text"),
        DONE,
        Read(1, 0, 0, 1, 0),
        Budget(1),
        Coverage(1),
        Query(1, None, [0]),
        Search(1, 0, "find", 0, 10, 1, 0),
    ],
)
def test_nothing_is_heard_before_ready(tmp_path: Path, message: GuestMessage) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII]) as here:
            assert "while the box was starting" in await violates(here, message)
            assert here.broker.states.box is BoxState.STARTING
            assert here.events() == []

    drive(test())


def test_ready_comes_once_and_speaks_our_protocol(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            assert f"protocol {PROTOCOL + 1}" in await violates(here, Ready(PROTOCOL + 1, "3.11"))
            seen = [here.broker.states.box]
            assert await here.say(Ready(PROTOCOL, "3.11")) is None
            seen.append(here.broker.states.box)
            await violates(here, Ready(PROTOCOL, "3.11"))
            assert seen == [BoxState.STARTING, BoxState.LISTENING]

    drive(test())


def test_between_cells_nothing_ends_and_nothing_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.say(Ready(PROTOCOL, "3.11"))
            await violates(here, Output(1, "stdout"), b"early")
            await violates(here, DONE)
            await violates(here, Final(1, "text"), b"x")
            await here.broker.begin("pass")
            await here.say(DONE)
            await violates(here, DONE)
            await violates(here, Final(1, "text"), b"x")
            assert here.broker.cell is None or here.broker.cell.answer is None

    drive(test())


def test_after_the_first_final_nothing_counts(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII]) as here:
            await here.in_cell()
            await here.say(Final(1, "text"), "first ü".encode())
            await violates(here, Final(1, "text"), b"second")
            await violates(here, DONE)
            assert (await refused(here, Read(1, 0, 0, 1, 0))).failure.code == "cell.over"
            cell = here.broker.cell
            assert cell is not None
            assert (cell.answer, cell.answer_body) == (Final(1, "text"), "first ü".encode())
            assert [data["answer_bytes"] for data in await here.data("answer.given")] == [8]

    drive(test())


def test_a_request_between_two_cells_is_refused_and_not_punished(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, model=model, texts=[ASCII]) as here:
            await here.in_cell()
            await here.say(DONE)
            asked: list[tuple[GuestMessage, bytes]] = [(Read(1, 0, 0, 1, 0), b""), (Budget(2), b""), ask("x")]
            for message, body in [*asked, (Search(3, 0, "find", 0, 10, 1, 0), b"a")]:
                assert (await refused(here, message, body)).failure.code == "cell.over"
            await here.say(Output(1, "stdout"), b"late")
            assert here.broker.cell is not None
            assert here.broker.cell.output == (b"", b"")
            assert model.requests == []
            assert [data["asked"] for data in await here.data("request.refused")] == [
                "read",
                "budget",
                "query",
                "search",
            ]
            assert (await here.broker.begin("pass"))[0] == Execute(2)

    drive(test())


@pytest.mark.parametrize("cell", [1, 3])
@pytest.mark.parametrize("body", [b"", b"x"])
def test_the_end_and_the_answer_of_another_cell_are_violations(tmp_path: Path, cell: int, body: bytes) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            await here.say(DONE)
            await here.broker.begin("pass")
            assert f"Done of cell {cell} while cell 2 ran" in await violates(here, Done(cell, "ok", None), body)
            assert f"Final of cell {cell} while cell 2 ran" in await violates(here, Final(cell, "text"), body)
            assert here.broker.cell is None or here.broker.cell.answer is None
            assert [data["cell"] for data in await here.data("cell.finished")] == [1]
            await here.say(Done(2, "ok", None))

    drive(test())


def test_output_counts_for_the_cell_that_it_names_while_that_runs(tmp_path: Path) -> None:
    """A thread that is left behind prints when the next order is on its way; nobody prints for a cell to come."""

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(limits={"output_flood_bytes": 8 * 1024})) as here:
            await here.in_cell()
            await here.say(Output(1, "stdout"), b"of the first")
            await here.say(DONE)
            await here.broker.begin("pass")
            await here.say(Output(1, "stdout"), b"late")
            await here.say(Output(2, "stdout"), b"of the second")
            assert here.broker.cell is not None
            assert here.broker.cell.output == (b"of the second", b"")
            assert "cell 3, which has not begun" in await violates(here, Output(3, "stdout"), b"early")
            for _ in range(4):
                await here.say(Output(1, "stdout"), b"late")
            with pytest.raises(Refusal, match="print less"):  # what does not count is charged all the same
                await here.say(Output(1, "stdout"), b"late")

    drive(test())


def test_no_cell_begins_while_another_runs(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            with pytest.raises(PolicyDenied, match="a cell is running") as caught:
                await here.broker.begin("x = 2")
            assert (caught.value.code, here.broker.cells) == ("cell.running", 1)
            assert len(await here.data("cell.started")) == 1
            await here.say(DONE)
            assert (await here.broker.begin("x = 2"))[0] == Execute(2)

    drive(test())


def test_the_order_says_whether_the_cell_before_was_sent_an_interrupt(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            assert here.broker.cell is not None
            here.broker.cell.interrupted = True
            await here.say(DONE)
            assert (await here.broker.begin("pass"))[0] == Execute(2, interrupted=True)
            await here.say(Done(2, "ok", None))
            assert (await here.broker.begin("pass"))[0] == Execute(3, interrupted=False)

    drive(test())


def test_a_cell_that_is_stopped_reads_on_but_asks_no_model_and_is_logged_as_stopped(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, model=model, texts=[ASCII]) as here:
            await here.in_cell()
            here.broker.cut_short("killed")
            here.broker.cut_short("timeout")  # the first cause wins
            assert (await refused(here, *ask("x"))).failure.code == "cell.over"
            assert (await refused(here, Recurse(1, None, [1], []), b"x")).failure.code == "cell.over"
            assert await here.say(Read(1, 0, 0, 1, 0)) == (Data(1), b"0")
            await here.say(Done(1, "interrupted", None))
            assert model.requests == []
            assert [data["status"] for data in await here.data("cell.finished")] == ["killed"]

    drive(test())


def test_a_cell_that_the_box_did_not_outlive_is_logged_as_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            await here.say(Output(1, "stdout"), b"abc")
            here.broker.states.on(Event.END)
            await here.broker.lost("memory")
            assert await here.data("cell.finished") == [{"cell": 1, "status": "memory", "output_bytes": 3}]

    drive(test())


def test_a_cell_is_logged_by_the_hash_of_its_code(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.say(Ready(PROTOCOL, "3.11"))
            assert await here.broker.begin("x = 'ü'") == (Execute(1), "x = 'ü'".encode())
            await here.say(Done(1, "error", CellError("ValueError", "no", 1)), b"Traceback \xff")
            cell = here.broker.cell
            assert cell is not None
            assert (cell.error, cell.traceback) == (CellError("ValueError", "no", 1), "Traceback \ufffd")
            (started,), (finished,) = await here.data("cell.started"), await here.data("cell.finished")
            assert (started["cell"], started["code_bytes"], len(started["code_sha256"])) == (1, 8, 64)
            assert finished == {"cell": 1, "status": "error", "output_bytes": 0}

    drive(test())


def test_code_over_the_limit_is_refused_and_no_cell_begins(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(limits={"code_bytes": 10}, wire={"body_bytes_max": 8})
        async with world(tmp_path, policy=policy) as here:
            await here.say(Ready(PROTOCOL, "3.11"))
            with pytest.raises(PolicyDenied) as caught:
                await here.broker.begin("ü" * 5)
            assert (caught.value.code, caught.value.limit, caught.value.observed) == ("limits.code", 8, 10)
            await here.broker.begin("ü" * 4)
            assert here.broker.cells == 1

    drive(test())


# ----------------------------------------------------------------------------------------------------------- reads


@pytest.mark.parametrize("text", [ASCII, WIDE])
def test_a_read_gives_exactly_the_characters_asked_for_and_one_record(tmp_path: Path, text: str) -> None:
    ranges = [(0, 1), (0, len(text)), (len(text), len(text)), (1023, 1025), (7, 7), (1500, 2600), (3, 1024)]

    async def test() -> None:
        async with world(tmp_path, texts=["other", text]) as here:
            await here.in_cell()
            for number, (start, stop) in enumerate(ranges, start=1):
                said = await here.say(Read(number, 1, start, stop, 0))
                assert said is not None
                assert said[0] == Data(number)
                assert bytes(said[1]).decode() == text[start:stop]
            assert await here.data("context.read") == [
                {"cell": 1, "line": 0, "doc": 1, "start": start, "stop": stop} for start, stop in ranges
            ]
            assert here.broker.reads == len(ranges)
            assert here.broker.read_bytes == sum(len(text[start:stop].encode()) for start, stop in ranges)

    drive(test())


def test_the_record_of_a_read_is_queued_before_its_reply_is_given(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII]) as here:
            await here.in_cell()
            await here.audit.flush()
            said = await here.say(Read(1, 0, 0, 1, 0))
            assert said is not None
            # Whatever is durable later comes after it: the order of the log is the order of the promises.
            await here.audit.append(RUN, made("request.refused", {}))
            assert here.events()[-2:] == ["context.read", "request.refused"]

    drive(test())


@pytest.mark.parametrize(
    ("read", "code"),
    [
        (Read(1, 1, 0, 1, 0), "read.no_document"),
        (Read(1, 1023, 0, 1, 0), "read.no_document"),
        (Read(1, 0, 0, len(ASCII) + 1, 0), "read.out_of_range"),
        (Read(1, 0, 2, 1, 0), "read.out_of_range"),
        (Read(1, 0, 2**53 - 1, 2**53 - 1, 0), "read.out_of_range"),
        (Read(1, 0, 0, 4097, 0), "context.read"),
    ],
)
def test_a_read_that_is_not_allowed_is_refused_and_logged(tmp_path: Path, read: Read, code: str) -> None:
    async def test() -> None:
        policy = policy_with(context={"read_bytes_max": 4096})
        async with world(tmp_path, policy=policy, texts=[ASCII]) as here:
            await here.in_cell()
            failure = (await refused(here, read)).failure
            assert (failure.kind, failure.code) == ("PolicyDenied", code)
            (logged,) = await here.data("request.refused")
            assert (logged["asked"], logged["code"], logged.get("limit")) == ("read", code, failure.limit)
            assert await here.data("context.read") == []
            assert (here.broker.reads, here.broker.denials) == (0, 1)

    drive(test())


def test_a_read_is_measured_in_bytes_and_fits_the_wire(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(context={"read_bytes_max": 1 << 20}, wire={"body_bytes_max": 1000})
        async with world(tmp_path, policy=policy, texts=[WIDE]) as here:
            await here.in_cell()
            failure = (await refused(here, Read(1, 0, 0, 404, 0))).failure  # 101 times 10 bytes
            assert (failure.code, failure.limit, failure.observed) == ("context.read", 1000, 1010)
            said = await here.say(Read(2, 0, 0, 400, 0))
            assert said is not None
            assert len(said[1]) == 1000

    drive(test())


def test_the_run_s_allowance_of_reads_ends(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(context={"read_total_bytes_max": 5000})
        async with world(tmp_path, policy=policy, texts=[ASCII]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, 4000, 0))
            failure = (await refused(here, Read(2, 0, 0, 1001, 0))).failure
            assert (failure.kind, failure.code) == ("QuotaExceeded", "context.read_total")
            assert (failure.limit, failure.observed) == (5000, 5001)
            await here.say(Read(3, 0, 0, 1000, 0))
            assert (await refused(here, Read(4, 0, 0, 1, 0))).failure.code == "context.read_total"
            assert here.broker.read_bytes == 5000

    drive(test())


def test_a_read_that_cannot_be_charged_gives_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, limits=Limits("total", None, None, None, None, 5000), texts=[ASCII]) as here:
            await here.in_cell()
            said = await here.say(Read(1, 0, 0, 3000, 0))
            assert said is not None
            failure = (await refused(here, Read(2, 0, 0, 2001, 0))).failure
            assert (failure.kind, failure.code) == ("QuotaExceeded", "context.read_total")
            said = await here.say(Read(3, 0, 0, 2000, 0))
            assert said is not None
            await here.broker.settled()
            assert (await here.balance()).used.read_bytes == 5000

    drive(test())


def test_small_reads_are_not_free(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(context={"read_total_bytes_max": 10 * 1024})
        async with world(tmp_path, policy=policy, texts=[ASCII]) as here:
            await here.in_cell()
            for number in range(1, 12):  # at 1 KiB each; one of no characters still costs its record
                await here.say(Read(number, 0, 5, 5, 0))
            assert (await refused(here, Read(12, 0, 5, 5, 0))).failure.code == "context.read_total"
            said = await here.say(Budget(13))
            assert said is not None
            assert isinstance(said[0], Left)
            assert said[0].read_bytes == 0

    drive(test())


def test_budget_tells_what_is_left(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits("total", 5, None, 100_000, 10**9, None)
        async with world(tmp_path, model=FakeModel(), limits=limits, texts=[ASCII]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, 1000, 0))
            await answers(here, "one")
            here.clock.now += 1.5
            said = await here.say(Budget(9))
            assert said is not None
            policy = here.scope.policy
            assert said[0] == Left(
                id=9,
                calls=4,
                input_tokens=None,
                output_tokens=100_000 - 7,
                cost_nanousd=10**9 - 5 * 10 - 7 * 100,
                read_bytes=policy.context.read_total_bytes_max - 1024,
                wall_ms=int((policy.limits.run_wall_s - 1.5) * 1000),
                cpu_ms=round(policy.limits.cpu_s * 1000),
                memory_mib_s=None,
            )
            here.clock.now = here.scope.deadline + 1
            late = await here.say(Budget(10))
            assert late is not None
            assert isinstance(late[0], Left)
            assert late[0].wall_ms == 0

    drive(test())


def deep(depth: int, beyond: str = "query", **more: Any) -> Policy:
    return policy_with(models={"depth_max": depth, "beyond_depth": beyond, **more})


def test_a_child_is_what_its_parent_says_within_what_the_host_knows(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII], items=["ab", "cd"], model=FakeModel(), policy=deep(2)) as here:
            await here.in_cell()
            given = [Given(doc=0, start=2, stop=5), Given(length=4), Given(doc=1, stop=2, items=True)]
            said = await here.say(Recurse(7, None, [2, 1, 1], given), "äbctext".encode())
            assert said is not None
            assert isinstance(said[0], Answers)
            contexts = [Part(2, 5), "text", Part(0, 2, items=True)]
            assert [(one.number, one.context, one.doc) for one in here.children] == [
                (1, contexts[0], 0),
                (2, contexts[1], 0),
                (3, contexts[2], 1),
            ]
            assert all(one.deadline < here.broker.cell.deadline for one in here.children if here.broker.cell)

    drive(test())


@pytest.mark.parametrize(
    ("message", "body", "code"),
    [
        (Recurse(7, None, [1], [Given(doc=9, stop=1)]), b"x", "read.no_document"),
        (Recurse(7, None, [1], [Given(doc=2, stop=1)]), b"x", "read.no_document"),  # a directory
        (Recurse(7, None, [1], [Given(doc=0, stop=10**9)]), b"x", "read.out_of_range"),
        (Recurse(7, None, [1], [Given(doc=0, start=2, stop=1)]), b"x", "read.out_of_range"),
        (Recurse(7, None, [1], [Given(doc=0, stop=1, items=True)]), b"x", "read.out_of_range"),
        (Recurse(7, None, [1], [Given(doc=1, stop=3, items=True)]), b"x", "read.out_of_range"),
        (Recurse(7, None, [1], [Given(doc=0)]), b"x", "query.blank"),
        (Recurse(7, None, [1], [Given()]), b"x", "query.blank"),
        (Recurse(7, None, [1], [Given(length=1)]), b" x", "query.blank"),
        (Recurse(7, None, [1], [Given(length=2, json=True)]), b"x[]", "query.blank"),
        (Recurse(7, None, [1], [Given(length=2, json=True)]), b"x{}", "query.blank"),
        (Recurse(7, None, [1], [Given(length=130, json=True)]), b"x" + b"[" * 65 + b"]" * 65, "answer.too_deep"),
        (Recurse(7, None, [1], [Given(length=1025, json=True)]), b"x[" + b"1" * 1023 + b"]", "models.child_context"),
        (Recurse(7, "another", [1], []), b"x", "model.denied"),
        (Recurse(7, None, [2000], []), b"x" * 2000, "models.child_context"),
        (Recurse(7, None, [1] * 5, []), b"x" * 5, "models.batch"),
    ],
)
def test_no_child_starts_with_what_its_parent_may_not_give(
    tmp_path: Path, message: Recurse, body: bytes, code: str
) -> None:
    async def test() -> None:
        policy = deep(2, child_context_bytes_max=1024, batch_max=4)
        async with world(tmp_path, texts=[ASCII], items=["ab", "cd"], model=FakeModel(), policy=policy) as here:
            await here.in_cell()
            answer = await refused(here, message, body)
            assert (answer.id, answer.failure.code, here.children) == (7, code, [])

    drive(test())


@pytest.mark.parametrize(
    "message",
    [
        Recurse(7, None, [1, 1], [Given(length=1)]),
        Recurse(7, None, [1], [Given(length=2)]),
        Recurse(7, None, [1], [Given(length=1, json=True)]),
    ],
)
def test_a_request_for_children_that_does_not_add_up_is_a_violation(tmp_path: Path, message: Recurse) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII], model=FakeModel(), policy=deep(2)) as here:
            await here.in_cell()
            with pytest.raises(ProtocolViolation):
                await here.say(message, b"x1")

    drive(test())


def test_depth_is_the_hosts_own_count(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII], model=FakeModel(), policy=deep(1, "refuse")) as here:
            await here.in_cell()
            answer = await refused(here, Recurse(7, None, [1], []), b"x")
            failure = answer.failure
            assert (failure.code, failure.limit, failure.observed, here.children) == ("models.depth", 1, 2, [])

    drive(test())


def test_children_of_one_run_are_bounded_and_each_has_its_place(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII], model=FakeModel(), policy=deep(2, children_max=3)) as here:
            await here.in_cell()
            now = most = 0

            async def child(one: Child) -> Outcome:
                nonlocal now, most
                now, most = now + 1, max(most, now + 1)
                for _ in range(10 - one.number):
                    await asyncio.sleep(0)
                now -= 1
                if one.number == 4:
                    raise QuotaExceeded("no box left: wait", code="quota.tenant.boxes")
                return Text(str(one.number).encode())

            here.child = child
            said = await here.say(Recurse(7, None, [1] * 8, []), b"abcdefgh")
            assert said is not None
            assert isinstance(said[0], Answers)
            assert (bytes(said[1]), most) == (b"1235678", 3)
            assert [one.failure for one in said[0].items] == [None] * 3 + [0] + [None] * 4
            assert said[0].failures[0].code == "quota.tenant.boxes"

    drive(test())


# -------------------------------------------------------------------------------------------------------- searches


async def found(here: World, search: Search, pattern: bytes = b"") -> tuple[Found, bytes]:
    said = await here.say(search, pattern)
    assert said is not None
    assert isinstance(said[0], Found), said[0]
    return said[0], bytes(said[1])


def test_the_line_of_the_cell_is_in_the_record_of_a_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, 1, 17))
            assert [(data["cell"], data["line"]) for data in await here.data("context.read")] == [(1, 17)]

    drive(test())


def test_a_search_is_answered_and_its_record_says_what_came_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=["other", f"{WIDE}\nneedle\n{WIDE}"]) as here:
            await here.in_cell()
            at, end = len(WIDE) + 1, 2 * len(WIDE) + 8
            header, body = await found(here, Search(1, 1, "find", 0, 2**53 - 1, 10, 4), b"ne+dle")
            assert (header, body) == (Found(1, 1, None), struct.pack("<QQ", at, at + 6) + b"needle")
            assert await found(here, Search(2, 1, "count", 0, end, 1, 5), "é".encode()) == (Found(2, 1400, None), b"")
            assert await found(here, Search(3, 1, "lines", 1, 2**53 - 1, 1, 6)) == (
                Found(3, 7 + len(WIDE), None),
                f"needle\n{WIDE}".encode(),
            )
            logged = await here.data("context.searched")
            assert [(one["mode"], one["line"], one["count"], one["spans"]) for one in logged] == [
                ("find", 4, 1, [[at, at + 6]]),
                ("count", 5, 1400, []),
                ("lines", 6, 7 + len(WIDE), [[at, end]]),
            ]
            assert logged[0]["pattern_sha256"] == hashlib.sha256(b"ne+dle").hexdigest()
            assert "ne+dle" not in json.dumps(logged)
            assert here.broker.read_bytes == 22 + 7 + len(WIDE.encode())
            assert here.broker.coverage.read == 7 + len(WIDE)

    drive(test())


def test_the_spans_of_many_matches_are_spread_over_records(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=["a-" * 2500]) as here:
            await here.in_cell()
            header, _ = await found(here, Search(1, 0, "find", 0, 5000, 100_000, 0), b"a")
            logged = await here.data("context.searched")
            assert (header.count, [len(one["spans"]) for one in logged]) == (2500, [1000, 1000, 500])
            assert [span for one in logged for span in one["spans"]] == [[at, at + 1] for at in range(0, 5000, 2)]

    drive(test())


@pytest.mark.parametrize(
    ("search", "pattern", "context", "code"),
    [
        (Search(1, 1, "find", 0, 10, 1, 0), b"a", {}, "read.no_document"),
        (Search(1, 0, "find", 0, 10, 1, 0), b"(", {}, "search.pattern"),
        (Search(1, 0, "count", 0, 10, 1, 0), b"(?=a)", {}, "search.pattern"),
        (Search(1, 0, "find", 0, 10, 1, 0), b"1\\C", {}, "search.pattern"),
        (Search(1, 0, "find_items", 0, 10, 1, 0), b"1", {}, "search.no_text"),
        (Search(1, 0, "count_items", 0, 10, 1, 0), b"1", {}, "search.no_text"),
        (Search(1, 0, "count", 0, 10, 1, 0), b"a" * 65537, {}, "search.pattern"),
        (Search(1, 0, "find", 0, 5000, 100, 0), b"[0-9]+", {"read_bytes_max": 1000}, "context.read"),
        (Search(1, 0, "lines", 0, 1, 1, 0), b"", {"read_bytes_max": 4000}, "context.read"),
        (Search(1, 0, "lines", 0, 1, 1, 0), b"", {"read_total_bytes_max": 4000}, "context.read_total"),
        (Search(1, 0, "count", 0, 5000, 1, 0), b"1", {"search_total_bytes_max": 4999}, "context.search_total"),
        (Search(1, 0, "count", 5, 4, 1, 0), b"1", {"search_total_bytes_max": 255}, "context.search_total"),
    ],
)
def test_a_search_that_is_not_allowed_is_refused_and_logged(
    tmp_path: Path, search: Search, pattern: bytes, context: dict[str, int], code: str
) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(context=context), texts=[ASCII]) as here:
            await here.in_cell()
            failure = (await refused(here, search, pattern)).failure
            assert failure.code == code
            (logged,) = await here.data("request.refused")
            assert (logged["asked"], logged["code"]) == ("search", code)
            assert await here.data("context.searched") == []
            assert here.broker.coverage.read == 0

    drive(test())


def test_what_a_search_did_not_come_to_is_not_charged(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(context={"search_total_bytes_max": 9000})
        async with world(tmp_path, policy=policy, texts=[ASCII]) as here:
            await here.in_cell()
            for number in range(4):  # each is charged as the least that one costs, 1 KiB
                header, _ = await found(here, Search(number, 0, "find", 0, 5000, 1, 0), b"[0-9]")
                assert header.next is not None
            assert (
                await refused(here, Search(4, 0, "find", 0, 5000, 1, 0), b"[0-9]")
            ).failure.code == "context.search_total"
            await found(here, Search(5, 0, "count", 0, 9000 - 4 * 1024, 1, 0), b"1")
            assert (await refused(here, Search(6, 0, "count", 0, 1, 1, 0), b"1")).failure.code == "context.search_total"

    drive(test())


def test_the_policy_says_how_many_matches_come_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(context={"search_hits_max": 3}), texts=[ASCII]) as here:
            await here.in_cell()
            header, _ = await found(here, Search(1, 0, "find", 0, 5000, 100_000, 0), b"7")
            assert (header.count, header.next) == (3, 28)

    drive(test())


def test_what_is_searched_adds_up_whether_it_is_found_or_not(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(context={"search_total_bytes_max": 12_000})
        async with world(tmp_path, policy=policy, texts=[ASCII]) as here:
            await here.in_cell()
            for number in (1, 2):
                assert (await found(here, Search(number, 0, "count", 0, 2**53 - 1, 1, 0), b"x"))[0].count == 0
            failure = (await refused(here, Search(3, 0, "count", 0, 2**53 - 1, 1, 0), b"x")).failure
            assert (failure.kind, failure.limit, failure.observed) == ("QuotaExceeded", 12_000, 15_000)
            assert (await found(here, Search(4, 0, "count", 0, 2000, 1, 0), b"1"))[0].count == 200

    drive(test())


def test_a_pattern_that_is_no_text_ends_the_box(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=[ASCII]) as here:
            await here.in_cell()
            assert "not UTF-8" in await violates(here, Search(1, 0, "find", 0, 10, 1, 0), b"\xff")

    drive(test())


def test_a_directory_is_not_searched_in_the_name_of_its_text(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, items=["a secret", "of items"]) as here:
            await here.in_cell()
            said = await here.say(Read(1, 1, 0, 84, 0))
            assert said is not None
            assert len(said[1]) == 84
            failure = (await refused(here, Search(2, 1, "find", 0, 84, 10, 0), b".+")).failure
            assert failure.code == "search.no_text"
            assert (await found(here, Search(3, 0, "find", 0, 99, 10, 0), b"s.c"))[1][16:] == b"sec"
            assert here.broker.coverage.read == 3

    drive(test())


@pytest.mark.slow
def test_a_run_has_one_search_at_a_time_and_reads_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=["abcdefgh" * (1 << 18)]) as here:
            await here.in_cell()
            searches = [
                asyncio.create_task(found(here, Search(number, 0, "count", 0, 1 << 21, 1, 0), b"[aceg]"))
                for number in range(1, 5)
            ]
            await asyncio.sleep(0)
            said = await here.say(Read(9, 0, 0, 4, 0))
            assert said is not None
            assert not any(task.done() for task in searches)
            for header, _ in await asyncio.gather(*searches):  # the whole count, or what one slice of time came to
                assert header.count == (1 << 20 if header.next is None else (header.next + 1) // 2)
            assert len(here.searcher._idle) == 1  # one process has done them all

    drive(test())


# --------------------------------------------------------------------------------------------------------- queries


def test_answers_come_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    async def answering(request: ModelRequest) -> ModelReply:
        prompt = request.messages[-1].text
        await asyncio.sleep(0.02 - 0.004 * int(prompt[0]))  # the last is answered first
        return reply(prompt * 2)

    async def test() -> None:
        async with world(tmp_path, model=FakeModel(answering)) as here:
            await here.in_cell()
            assert await answers(here, "0ü", "1", "2→", "3") == ["0ü0ü", "11", "2→2→", "33"]
            assert here.broker.queries == 4

    drive(test())


def test_a_prompt_reaches_the_model_as_it_is_and_alone(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, model=model) as here:
            await here.in_cell()
            await answers(here, "x", "é", "\0")
            assert sorted(request.messages[0].text for request in model.requests) == ["\0", "x", "é"]
            assert {request.purpose for request in model.requests} == {"sub"}
            assert {len(request.messages) for request in model.requests} == {1}

    drive(test())


def test_a_failure_stands_in_its_place_and_harms_no_other(tmp_path: Path) -> None:
    async def answering(request: ModelRequest) -> ModelReply:
        if request.messages[-1].text == "bad":
            raise ModelFailed("provider said " + "no " * 10_000, charged=False)
        return reply(request.messages[-1].text)

    async def test() -> None:
        async with world(tmp_path, model=FakeModel(answering)) as here:
            await here.in_cell()
            assert await answers(here, "a", "bad", "c") == ["a", None, "c"]
            said = await here.say(*ask("bad"))
            assert said is not None
            assert isinstance(said[0], Answers)
            assert said[0].items == [Answer(0, 0)]
            [failure] = said[0].failures
            assert (failure.kind, failure.code) == ("ModelError", "model.failed")
            assert len(failure.message) <= 1000
            assert here.broker.denials == 0

    drive(test())


def test_a_failure_whose_words_are_no_text_can_be_told(tmp_path: Path) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise ModelFailed("lost \udc80 here", charged=False)

    async def test() -> None:
        async with world(tmp_path, model=FakeModel(answering)) as here:
            await here.in_cell()
            said = await here.say(*ask("a"))
            assert said is not None
            header, _ = encode(*said, header_bytes_max=1 << 16, body_bytes_max=1 << 20)
            assert b"lost ? here" in header

    drive(test())


def test_a_batch_that_is_refused_is_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object) -> None:
        raise AssertionError

    async def test() -> None:
        async with world(tmp_path, model=FakeModel()) as here:
            await here.in_cell()
            monkeypatch.setattr("belljar.broker.querying._split", taken)
            too_many = here.broker.batch_max + 1
            assert (await refused(here, *ask(*["x"] * too_many))).failure.code == "models.batch"

    drive(test())


def test_a_quota_that_ends_inside_a_batch_fails_the_rest_of_it_only(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits("total", None, None, None, 33_500, None)
        policy = policy_with(models={"parallel_max": 1, "output_tokens_max": 300})
        async with world(tmp_path, policy=policy, model=FakeModel(expensive), limits=limits) as here:
            await here.in_cell()
            said = await here.say(*ask("a", "b", "c"))
            assert said is not None
            assert isinstance(said[0], Answers)
            kinds = [item.failure is not None and said[0].failures[item.failure].kind for item in said[0].items]
            assert kinds == [False, "QuotaExceeded", "QuotaExceeded"]
            assert (await here.balance()).used.calls == 1

    async def expensive(_: ModelRequest) -> ModelReply:
        return reply("dear", input_tokens=10, output_tokens=300)

    drive(test())


def run_quota_of(calls: int) -> Policy:
    run = msgspec.structs.replace(load("standard").quota.run, calls=calls)
    return policy_with(quota={"run": run})


@pytest.mark.parametrize(
    ("of_policy", "of_run", "of_tenant", "code"),
    [(2, 2, 2000, "quota.run.calls"), (2000, 2000, 2, "quota.tenant.calls"), (2000, 2, 2000, "quota.run.calls")],
    ids=["run", "tenant", "slice"],
)
def test_a_batch_that_cannot_be_finished_is_refused_before_its_first_call(
    tmp_path: Path, of_policy: int, of_run: int, of_tenant: int, code: str
) -> None:
    async def test() -> None:
        model = FakeModel()
        policy, limits, above = run_quota_of(of_policy), calls_left(of_run), calls_left(of_tenant)
        async with world(tmp_path, policy=policy, model=model, limits=limits, tenant_limits=above) as here:
            await here.in_cell()
            failure = (await refused(here, *ask("a", "b", "c"))).failure
            assert (failure.kind, failure.code, failure.limit, failure.observed) == (
                "QuotaExceeded",
                code,
                2,
                3,
            )
            assert model.requests == []
            assert await answers(here, "a", "b") == ["to a", "to b"]
            assert (await refused(here, *ask("a", "b"))).failure.code == code

    drive(test())


@pytest.mark.parametrize(
    ("prompts", "wish", "code"),
    [
        (["x"], "claude-other", "model.denied"),
        (["x"], "", "model.denied"),
        (["x"] * 4, None, "models.batch"),
        (["x", "y" * 2000], None, "models.prompt"),
    ],
)
def test_a_query_beyond_the_policy_is_refused_and_the_model_not_asked(
    tmp_path: Path, prompts: Sequence[str], wish: str | None, code: str
) -> None:
    async def test() -> None:
        model = FakeModel()
        policy = policy_with(models={"batch_max": 3, "prompt_bytes_max": 1024})
        async with world(tmp_path, policy=policy, model=model) as here:
            await here.in_cell()
            assert (await refused(here, *ask(*prompts, model=wish))).failure.code == code
            assert model.requests == []
            assert (await here.balance()).used == Amounts()
            assert [data["code"] for data in await here.data("request.refused")] == [code]

    drive(test())


DENYING = policy_with(models={"deny_prompts": (r"(?i)secret\s+key", r"sk-[0-9a-f]{8}"), "depth_max": 2})


@pytest.mark.parametrize("prompts", [["what is the SECRET\n key?"], ["harmless", f"{'é' * 50_000}sk-0123abcd{WIDE}"]])
def test_a_prompt_that_the_policy_denies_is_refused_with_its_batch_and_nothing_is_sent(
    tmp_path: Path, prompts: list[str]
) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, policy=DENYING, model=model) as here:
            await here.in_cell()
            failure = (await refused(here, *ask(*prompts))).failure
            which = "the prompt" if len(prompts) == 1 else "prompts[1]"
            assert failure.code == "models.deny_prompts"
            assert failure.message.startswith(f"{which} has text in it that the policy does not let out")
            assert f"number {len(prompts)})" in failure.message
            assert (model.requests, here.broker.queries) == ([], 0)
            assert (await here.balance()).used == Amounts()
            assert [data["code"] for data in await here.data("request.refused")] == ["models.deny_prompts"]
            assert None not in await answers(here, "a secretive keyboard", "sk-0123")

    drive(test())


LINES = [f"{number}: the entry of a log, which is like no other {number * number}\n" for number in range(100)]
TENTH = policy_with(models={"prompt_share_percent": 10, "depth_max": 2})


def part_of_log(lines: int) -> str:
    """So many lines, far apart, as a program may put them together."""
    return "What is odd?\n" + "".join(LINES[:: 100 // lines][:lines])


@pytest.mark.parametrize(("lines", "percent"), [(12, 12), (50, 51), (100, 100)])
def test_a_prompt_that_carries_more_of_the_contexts_than_its_share_is_refused_with_its_batch(
    tmp_path: Path, lines: int, percent: int
) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, policy=TENTH, model=model, texts=["".join(LINES)]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, sum(map(len, LINES)), 0))
            failure = (await refused(here, *ask("a", part_of_log(lines)))).failure
            assert (failure.code, failure.limit) == ("models.prompt_share", 10)
            assert failure.observed == pytest.approx(percent, abs=1)
            assert failure.message.startswith("prompts[1] carries too much of the contexts")
            assert (model.requests, here.broker.queries) == ([], 0)
            assert [data["code"] for data in await here.data("request.refused")] == ["models.prompt_share"]

    drive(test())


def test_a_prompt_within_its_share_is_sent_however_long_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=TENTH, model=FakeModel(), texts=["".join(LINES)]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, sum(map(len, LINES)), 0))
            most = sum(map(len, LINES)) // 10
            for prompt in ("".join(LINES)[:most], "my own words " * 1000, part_of_log(8) + "my own words " * 1000):
                assert None not in await answers(here, prompt)

    drive(test())


def test_what_a_child_run_read_is_looked_for_in_the_prompts_of_its_parent(tmp_path: Path) -> None:
    """It may stand in its answer."""

    async def test() -> None:
        async with world(tmp_path, policy=TENTH, model=FakeModel(), texts=["".join(LINES)]) as here:
            await here.in_cell()
            here.broker._shown._texts[0].read_below.add(0, sum(map(len, LINES)))
            assert (await refused(here, *ask(part_of_log(50)))).failure.code == "models.prompt_share"

    drive(test())


def test_a_prompt_that_cannot_be_compared_in_time_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=TENTH, model=FakeModel(), texts=["".join(LINES)]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, sum(map(len, LINES)), 0))
            here.broker._shown._searcher = Hurried()
            failure = (await refused(here, *ask(part_of_log(50)))).failure
            assert (failure.code, failure.limit, failure.observed) == ("models.prompt_share", 10, None)
            assert failure.message.startswith("the prompt could not be compared with the contexts in time")
            assert None not in await answers(here, "a short one")

    drive(test())


class Hurried(Searcher):
    """Says of every prompt that it was not looked through to its end."""

    async def trace(self, *_: Any, **__: Any) -> Any:
        return [], False


def test_a_question_to_a_child_is_a_prompt_and_the_text_that_it_reads_is_none(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=DENYING, model=FakeModel()) as here:
            await here.in_cell()
            asked = await refused(here, Recurse(7, None, [10], [Given(length=1)]), b"secret keyx")
            assert (asked.failure.code, here.children) == ("models.deny_prompts", [])
            await here.say(Recurse(8, None, [1], [Given(length=10)]), b"xsecret key")
            assert [child.context for child in here.children] == ["secret key"]

    drive(test())


def test_the_run_s_own_model_may_be_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, model=FakeModel()) as here:
            await here.in_cell()
            said = await here.say(*ask("x", model="fake"))
            assert said is not None
            assert isinstance(said[0], Answers)

    drive(test())


def test_a_run_without_a_model_refuses_queries(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            assert (await refused(here, *ask("x"))).failure.code == "model.none"

    drive(test())


@pytest.mark.parametrize(
    ("lengths", "body"),
    [([3], b"ab"), ([1], b"ab"), ([1, 1], b"abc"), ([2**53 - 1, 1], b"ab"), ([1], b"\xff"), ([1, 1], "é".encode())],
)
def test_lengths_or_bytes_that_do_not_fit_end_the_box(tmp_path: Path, lengths: list[int], body: bytes) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, model=model) as here:
            await here.in_cell()
            await violates(here, Query(1, None, lengths), body)
            assert model.requests == []

    drive(test())


def test_answers_that_do_not_fit_one_reply_are_failures_and_the_reply_fits(tmp_path: Path) -> None:
    async def answering(request: ModelRequest) -> ModelReply:
        return reply(request.messages[-1].text * 60)

    async def test() -> None:
        policy = policy_with(wire={"body_bytes_max": 1000})
        async with world(tmp_path, policy=policy, model=FakeModel(answering)) as here:
            await here.in_cell()
            assert await answers(here, "0123456789", "abcdefghij", "x") == ["0123456789" * 60, None, "x" * 60]

    drive(test())


def test_a_batch_holds_no_more_answers_than_fit_its_reply(tmp_path: Path) -> None:
    size, held = 1 << 20, [0]

    async def answering(request: ModelRequest) -> ModelReply:
        held.append(tracemalloc.get_traced_memory()[0])
        return reply("x" * size)

    async def test() -> None:
        policy = policy_with(wire={"body_bytes_max": size}, models={"parallel_max": 1})
        async with world(tmp_path, policy=policy, model=FakeModel(answering)) as here:
            await here.in_cell()
            tracemalloc.start()
            try:
                given = await answers(here, *["q"] * 20)
            finally:
                tracemalloc.stop()
            assert [answer is None for answer in given] == [False] + [True] * 19
            assert max(held) < 5 * size

    drive(test())


@pytest.mark.parametrize("header_bytes_max", [1024, 4096, 1 << 16])
def test_the_largest_batch_still_fits_the_reply_s_header(tmp_path: Path, header_bytes_max: int) -> None:
    """Checked with `encode`: what the broker answers must never be over the wire's limits."""

    async def test() -> None:
        wire: dict[str, Any] = {"header_bytes_max": header_bytes_max}
        policy = policy_with(wire=wire, models={"batch_max": 100_000, "parallel_max": 64})
        async with world(tmp_path, policy=policy, model=FakeModel()) as here:
            await here.in_cell()
            largest = min(here.broker.batch_max, 200)
            said = await here.say(*ask(*["x"] * largest, number=2**32 - 1))
            assert said is not None
            encode(*said, header_bytes_max=header_bytes_max, body_bytes_max=1 << 20)
            assert (await refused(here, *ask(*["x"] * (here.broker.batch_max + 1)))).failure.code == "models.batch"
            widest = Answers(2**32 - 1, [Answer(2**32 - 1, cut=True)] * here.broker.batch_max, [])
            encode(widest, header_bytes_max=header_bytes_max, body_bytes_max=0)

    drive(test())


@pytest.mark.slow
@pytest.mark.parametrize("header_bytes_max", [2048, 1 << 16])
def test_failures_that_do_not_fit_the_header_cost_no_answer(tmp_path: Path, header_bytes_max: int) -> None:
    """Each failure has long words of its own, and of some kinds the first comes last; yet all answers are there."""

    async def answering(request: ModelRequest) -> ModelReply:
        prompt = request.messages[-1].text
        if prompt.startswith("fail"):
            raise ModelFailed(f"{prompt} " + "\x01" * 900, charged=False)
        return msgspec.structs.replace(reply(prompt), stop_reason="refusal" if prompt == "refuse" else "end_turn")

    async def test() -> None:
        policy = policy_with(wire={"header_bytes_max": header_bytes_max})
        async with world(tmp_path, policy=policy, model=FakeModel(answering)) as here:
            await here.in_cell()
            many = here.broker.batch_max - 2
            said = await here.say(*ask("good", *(f"fail {number}" for number in range(many)), "refuse"))
            assert said is not None
            assert isinstance(said[0], Answers)
            encode(*said, header_bytes_max=header_bytes_max, body_bytes_max=1 << 20)
            assert said[1] == b"good"
            codes = ["" if item.failure is None else said[0].failures[item.failure].code for item in said[0].items]
            assert codes == ["", *["model.failed"] * many, "model.refused"]
            assert said[0].failures[0].message.startswith("fail 0")

    drive(test())


@pytest.mark.parametrize(
    ("answer", "stop_reason", "given"),
    [
        ("whole", "end_turn", Answer(5)),
        ("half an ans", "max_tokens", Answer(11, cut=True)),
        ("sorry", "refusal", "model.refused"),
        ("sorry", "content_filter", "model.refused"),
        ("", "end_turn", "model.blank"),
        (" \n\u3000", "max_tokens", "model.blank"),
    ],
)
def test_how_a_model_stopped_is_told(tmp_path: Path, answer: str, stop_reason: str, given: Answer | str) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        return ModelReply(answer, Usage(5, 7), "fake-1", stop_reason)

    async def test() -> None:
        async with world(tmp_path, model=FakeModel(answering)) as here:
            await here.in_cell()
            said = await here.say(*ask("a"))
            assert said is not None
            assert isinstance(said[0], Answers)
            [item] = said[0].items
            assert (said[0].failures[0].code if item.failure is not None else item) == given
            assert (await here.balance()).used.calls == 1

    drive(test())


def test_a_reply_may_be_of_a_class_of_the_models_own(tmp_path: Path) -> None:
    said = types.SimpleNamespace(text="half", usage=Usage(5, 7), model="fake-1", stop_reason="length")

    async def test() -> None:
        async with world(tmp_path, model=FakeModel(lambda _: said)) as here:
            await here.in_cell()
            told = await here.say(*ask("a"))
            assert told is not None
            assert isinstance(told[0], Answers)
            assert (told[0].items, told[1]) == ([Answer(4, cut=True)], b"half")

    drive(test())


@pytest.mark.parametrize("bad", ["", " \n\t", "\u3000\u2003", "x" * 2000])
def test_a_prompt_that_a_provider_would_refuse_is_refused_before_any_is_sent(tmp_path: Path, bad: str) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, model=model, policy=policy_with(models={"prompt_bytes_max": 1000})) as here:
            await here.in_cell()
            for prompts in (["a", "b", bad, "d"], [bad]):
                failure = (await refused(here, *ask(*prompts))).failure
                assert failure.code == ("models.prompt" if bad.strip() else "query.blank")
                assert ("prompts[2]" in failure.message) == (len(prompts) > 1)
            assert model.requests == []

    drive(test())


def test_no_child_is_started_after_the_time_that_it_would_have(tmp_path: Path) -> None:
    """Each would take a box, only to end at once; the answers of those before it would go with the cell's time."""

    async def test() -> None:
        policy = deep(2, children_max=1)
        async with world(tmp_path, policy=policy, model=FakeModel()) as here:
            await here.in_cell()

            async def answer(child: Child) -> Outcome:
                here.clock.now = child.deadline
                return Text(b"in time")

            here.child = answer
            said = await here.say(Recurse(7, None, [1, 1, 1], []), b"abc")
            assert said is not None
            assert isinstance(said[0], Answers)
            assert (said[1], len(here.children)) == (b"in time", 1)
            assert [item.failure for item in said[0].items] == [None, 0, 0]
            assert [failure.code for failure in said[0].failures] == ["limits.cell_wall"]

    drive(test())


@pytest.mark.slow
def test_a_batch_ends_before_its_cell_where_something_is_answered(tmp_path: Path) -> None:
    async def answering(request: ModelRequest) -> ModelReply:
        if request.messages[-1].text.startswith("slow"):
            await asyncio.Event().wait()
        return reply("quick")

    async def test() -> None:
        policy = policy_with(limits={"cell_wall_s": 4.0}, models={"parallel_max": 2})
        async with world(tmp_path, policy=policy, model=FakeModel(answering)) as here:
            await here.in_cell()
            batch = asyncio.create_task(here.say(*ask("a", "slow", "b", "slow", "c")))
            await asyncio.wait([batch], timeout=30)
            assert batch.done()
            said = batch.result()
            assert said is not None
            assert isinstance(said[0], Answers)
            assert said[1] == b"quickquick"
            assert [item.failure for item in said[0].items] == [None, 0, None, 0, 0]
            assert [failure.code for failure in said[0].failures] == ["limits.cell_wall"]
            here.clock.now += 3.5
            asking = asyncio.create_task(here.say(*ask("slow", "slow")))  # nothing to keep: the deadline ends it
            await asyncio.sleep(0.7)
            assert not asking.done()
            asking.cancel()
            await asyncio.wait([asking])

    drive(test())


def test_more_requests_in_flight_than_allowed_end_the_box(tmp_path: Path) -> None:
    async def test() -> None:
        gate = asyncio.Event()

        async def answering(_: ModelRequest) -> ModelReply:
            await gate.wait()
            return reply("x")

        model = FakeModel(answering)
        policy = policy_with(wire={"in_flight_max": 2})
        async with world(tmp_path, policy=policy, model=model, texts=[ASCII]) as here:
            await here.in_cell()
            waiting = [asyncio.create_task(here.say(*ask("x", number=number))) for number in (1, 2)]
            while len(model.requests) < 2:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
            assert "in flight" in await violates(here, Read(3, 0, 0, 1, 0))
            gate.set()
            await asyncio.gather(*waiting)
            assert await here.say(Read(4, 0, 0, 1, 0)) is not None

    drive(test())


def test_a_query_cancelled_with_its_cell_is_settled(tmp_path: Path) -> None:
    async def test() -> None:
        asked = asyncio.Event()

        async def answering(_: ModelRequest) -> ModelReply:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        async with world(tmp_path, model=FakeModel(answering)) as here:
            await here.in_cell()
            task = asyncio.create_task(here.say(*ask("a", "b")))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await here.say(Budget(2)) is not None

    drive(test())


def test_without_a_log_nothing_is_done_and_the_fault_is_ours(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, model=model, texts=[ASCII]) as here:
            await here.in_cell()
            await here.journal.aclose()
            said: list[tuple[GuestMessage, bytes]] = [ask("a"), ask("a", "b"), (Final(1, "text"), b"x"), (DONE, b"")]
            for message, body in [(Read(1, 0, 0, 1, 0), b""), *said]:
                with pytest.raises(HostFault):
                    await here.say(message, body)
            with pytest.raises(HostFault):
                await here.say(Read(1, 5, 0, 1, 0))  # not even a refusal goes unlogged
            assert model.requests == []
            assert here.broker.cell is None or here.broker.cell.answer is None
            here.open_again()

    drive(test())


# --------------------------------------------------------------------------------------------- output and answers


def test_what_is_printed_beyond_the_limit_takes_no_memory() -> None:
    cell = Cell(1, policy_with(limits={"output_bytes": 1024}).limits, began=0.0, deadline=1.0, wall_s=1.0)
    tracemalloc.start()
    try:
        for number in range(100_000):
            cell.write(Output(1, "stdout"), b"%10d" % number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 64 * 1024
    assert cell.output_bytes == 1_000_000
    assert cell.output[0].endswith(b"%10d" % 99_999)


def test_output_over_the_limit_is_cut_and_counted(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(limits={"output_bytes": 16, "output_flood_bytes": 16 * 1024})
        async with world(tmp_path, policy=policy) as here:
            await here.in_cell()
            cell = here.broker.cell
            assert cell is not None
            await here.say(Output(1, "stdout"), b"12345")
            await here.say(Output(1, "stderr"), b"abc")
            await here.say(Output(1, "stdout"), b"67890---")
            assert (cell.output, cell.truncated) == ((b"1234567890---", b"abc"), False)
            await here.say(Output(1, "stderr"), b"d")
            assert (cell.output, cell.truncated) == ((b"1234567890--\n[... bytes not kept: 1 ...]\n", b"abcd"), True)
            for piece in (b"efghijk", b"l", b"m"):
                await here.say(Output(1, "stderr"), piece)
            assert cell.output == (
                b"1234567890-\n[... bytes not kept: 2 ...]\n",
                b"abc\n[... bytes not kept: 8 ...]\nlm",
            )
            assert cell.output_bytes == 26
            await here.say(DONE)
            assert [data["output_bytes"] for data in await here.data("cell.finished")] == [26]
            await here.broker.begin("pass")
            await here.say(Output(1, "stdout"), b"x" * 16)
            assert here.broker.cell is not None
            assert not here.broker.cell.truncated

    drive(test())


def readings(*values: int) -> bytes:
    return b"".join(struct.pack("<Bq", 0, value) for value in values)


def test_readings_of_clocks_count_for_the_cell_that_they_name_while_that_runs(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(limits={"output_flood_bytes": 8 * 1024})) as here:
            await here.in_cell()
            await here.say(Clock(1), readings(1, 2))
            await here.say(Clock(1), readings(3))
            assert here.broker.cell is not None
            assert here.broker.cell.noted == readings(1, 2, 3)
            await here.say(DONE)
            await here.say(Clock(1), readings(4))
            assert here.broker.cell.noted == readings(1, 2, 3)
            await here.broker.begin("pass")
            await here.say(Clock(1), readings(5))
            assert here.broker.cell.noted == b""
            for violation in (b"12345678", readings(-1), readings(1, 2**62)):
                assert "which are no readings" in await violates(here, Clock(2), violation)
            assert here.broker.cell.noted == b""  # what was none is not kept
            assert "cell 3, which has not begun" in await violates(here, Clock(3), readings(6))
            for _ in range(5):  # besides two that did not count, and the end of a cell
                await here.say(Clock(1), b"")
            with pytest.raises(Refusal, match="print less"):  # what does not count is charged all the same
                await here.say(Clock(1), b"")

    drive(test())


def test_as_many_readings_as_an_agent_sends_are_no_flood_whatever_frames_they_are_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(limits={"output_flood_bytes": 8 * 1024})) as here:
            await here.in_cell()
            for _ in range(NOTED_MAX):
                await here.say(Clock(1), readings(1))
            for _ in range(8):
                await here.say(Clock(1), readings(1))
            with pytest.raises(Refusal, match="print less"):  # no agent sends those
                await here.say(Clock(1), readings(1))

    drive(test())


def test_of_one_cell_no_more_readings_are_kept_than_an_agent_sends(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            for _ in range(3):
                await here.say(Clock(1), readings(*range(NOTED_MAX // 2)))
            assert here.broker.cell is not None
            assert len(here.broker.cell.noted) == NOTED_MAX * 9

    drive(test())


def test_what_was_read_of_clocks_goes_to_the_same_cell_again_as_far_as_a_frame_has_room(tmp_path: Path) -> None:
    async def test() -> None:
        clocks = {1: readings(1, 2), 3: readings(*range(1024))}
        policy = policy_with(wire={"body_bytes_max": 8192})
        async with world(tmp_path, policy=policy, clocks=clocks) as here:
            await here.say(Ready(PROTOCOL, "3.11"))
            assert await here.broker.begin("one") == (Execute(1, noted_bytes=18), b"one" + clocks[1])
            await here.say(DONE)
            assert await here.broker.begin("two") == (Execute(2), b"two")
            await here.say(Done(2, "ok", None))
            order, body = await here.broker.begin("x" * 100)
            assert order == Execute(3, noted_bytes=(8192 - 100) // 9 * 9)
            assert bytes(body) == b"x" * 100 + clocks[3][: (8192 - 100) // 9 * 9]

    drive(test())


def test_a_flood_over_all_cells_ends_the_run(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(limits={"output_bytes": 10, "output_flood_bytes": 5000})
        async with world(tmp_path, policy=policy) as here:
            await here.in_cell()
            await here.say(Output(1, "stdout"), bytes(2000))
            await here.say(DONE)
            await here.broker.begin("pass")
            await here.say(Output(1, "stderr"), bytes(1976))
            with pytest.raises(Refusal) as caught:
                await here.say(Output(1, "stdout"), b"x")
            assert (caught.value.code, caught.value.limit, caught.value.observed) == ("limits.output_flood", 5000, 6024)

    drive(test())


def test_a_flood_of_empty_output_ends_the_run_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(limits={"output_flood_bytes": 10 * 1024})) as here:
            await here.in_cell()
            for _ in range(10):
                await here.say(Output(1, "stdout"), b"")
            with pytest.raises(Refusal) as caught:
                await here.say(Output(1, "stdout"), b"")
            assert caught.value.code == "limits.output_flood"

    drive(test())


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (Output(1, "stdout"), b""),
        (Output(1, "stderr"), b"x"),
        (Budget(1), b""),
        (Coverage(1), b""),
        (Read(1, 0, 10**9, 10**9, 0), b""),
        (Search(1, 9, "count", 0, 1, 1, 0), b"x"),
        (Query(1, "another", [1]), b"x"),
        (Query(1, None, [1]), b"x"),
        (Recurse(1, "another", [1], []), b"x"),
    ],
)
def test_a_flood_of_frames_that_cost_the_program_nothing_ends_early(
    tmp_path: Path, message: GuestMessage, body: bytes
) -> None:
    """Each costs the host as much as a KiB of output, a call that the books refuse four times that."""

    async def test() -> None:
        policy = policy_with(limits={"output_flood_bytes": 20 * 1024})
        async with world(tmp_path, policy=policy, texts=[ASCII], model=FakeModel(), limits=calls_left(0)) as here:
            await here.in_cell()
            by_the_books = isinstance(message, Query) and message.model is None
            for _ in range(5 if by_the_books else 20):
                await here.say(message, body)
            with pytest.raises(Refusal) as caught:
                await here.say(message, body)
            assert caught.value.code == "limits.output_flood"

    drive(test())


@pytest.mark.parametrize(
    ("message", "body", "header_bytes", "cost"),
    [
        (Query(1, "another", [1]), b"x", 5000, 5000),
        (Query(1, "another", [64_000]), b"x" * 64_000, 50, 8050),
        (Search(1, 9, "count", 0, 1, 1, 0), b"x" * 64_000, 50, 8050),
        (Recurse(1, "another", [64_000], []), b"x" * 64_000, 5000, 13_000),
        (Query(1, None, [64_000]), b"x" * 64_000, 5000, 8000),
    ],
)
def test_a_request_that_is_refused_is_charged_for_what_it_weighs(
    tmp_path: Path, message: GuestMessage, body: bytes, header_bytes: int, cost: int
) -> None:
    """All of its header and an eighth of its body, for it was looked at; of a call that the books refuse, the body."""

    async def test() -> None:
        policy = policy_with(limits={"output_flood_bytes": 2 * cost})
        async with world(tmp_path, policy=policy, texts=[ASCII], model=FakeModel(), limits=calls_left(0)) as here:
            await here.in_cell()
            for _ in range(2):
                await here.broker.handle(Frame(message, body, header_bytes))
            with pytest.raises(Refusal) as caught:
                await here.broker.handle(Frame(message, body, header_bytes))
            assert caught.value.code == "limits.output_flood"
            await here.calls.settled()

    drive(test())


def test_a_piece_that_ends_no_frame_is_charged_unless_it_is_large(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(limits={"output_flood_bytes": 8 * 1024})) as here:
            await here.in_cell()
            for _ in range(100):
                here.broker.came(1024)  # it is charged with the frame that it belongs to
            for size in (1, 1023):
                here.broker.came(size)
            with pytest.raises(Refusal) as caught:
                here.broker.came(1)
            assert caught.value.code == "limits.output_flood"

    drive(test())


def test_a_flood_of_reads_that_give_nothing_ends_by_the_read_allowance_and_then_as_a_flood(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(limits={"output_flood_bytes": 8 * 1024}, context={"read_total_bytes_max": 8 * 1024})
        async with world(tmp_path, policy=policy, texts=[ASCII]) as here:
            await here.in_cell()
            for number in range(17):
                await here.say(Read(number + 1, 0, 5, 5, 0))
            assert (here.broker.reads, here.broker.denials) == (9, 8)
            with pytest.raises(Refusal) as caught:
                await here.say(Read(18, 0, 5, 5, 0))
            assert caught.value.code == "limits.output_flood"

    drive(test())


def test_a_traceback_is_cut_and_charged_like_output(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(limits={"output_bytes": 1024, "output_flood_bytes": 40_000})
        async with world(tmp_path, policy=policy) as here:
            await here.in_cell()
            await here.say(Done(1, "error", CellError("E", "m", None)), b"x" * 30_000)
            assert here.broker.cell is not None
            assert here.broker.cell.traceback == "x" * 1024
            await here.broker.begin("pass")
            with pytest.raises(Refusal) as caught:
                await here.say(Done(2, "error", CellError("E", "m", None)), b"x" * 30_000)
            assert (caught.value.code, caught.value.observed) == ("limits.output_flood", 60_000)

    drive(test())


def test_no_traceback_is_longer_than_the_agent_would_send_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            await here.say(Done(1, "error", CellError("E", "m", None)), b"\xff" * (16 << 20))
            assert here.broker.cell is not None
            assert len(here.broker.cell.traceback) == 64_000

    drive(test())


def test_calls_that_the_books_refuse_are_counted_as_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, model=FakeModel(), limits=calls_left(1)) as here:
            await here.in_cell()
            assert await answers(here, "one") == ["to one"]
            assert await answers(here, "two") == [None]
            assert here.broker.denials == 1

    drive(test())


def test_only_as_many_prompts_of_a_batch_are_texts_as_may_run_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait as the bytes that they came as."""
    made = done = most = 0

    def counted(data: bytes | memoryview) -> str:
        nonlocal made
        made += 1
        return str(data, "utf-8")

    async def answering(request: ModelRequest) -> ModelReply:
        nonlocal done, most
        most = max(most, made - done)
        await asyncio.sleep(0.001)
        done += 1
        return reply("to " + request.messages[-1].text)

    async def test() -> None:
        monkeypatch.setattr(calls, "text_of", counted)
        policy = policy_with(models={"parallel_max": 2})
        async with world(tmp_path, policy=policy, model=FakeModel(answering)) as here:
            await here.in_cell()
            prompts = [f"prompt {number}" for number in range(12)]
            assert await answers(here, *prompts) == [f"to {prompt}" for prompt in prompts]

    drive(test())
    assert (made, most) == (12, 2)


def test_an_answer_over_the_limit_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(limits={"answer_bytes": 10})) as here:
            await here.in_cell()
            with pytest.raises(Refusal) as caught:
                await here.say(Final(1, "text"), b"x" * 11)
            assert (caught.value.code, caught.value.limit, caught.value.observed) == ("limits.answer", 10, 11)
            assert here.broker.cell is None or here.broker.cell.answer is None

    drive(test())


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("text", b"\xff"),
        ("text", b"\xed\xa0\x80"),
        ("json", b""),
        ("json", b"{"),
        ("json", b"NaN"),
        ("json", b"[1] [2]"),
        ("json", b"'a'"),
        ("json", b'"\xff"'),
    ],
)
def test_an_answer_that_is_not_what_it_says_ends_the_box(tmp_path: Path, form: Any, body: bytes) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            message = await violates(here, Final(1, form), body)
            assert message == f"a Final that is not {form}"
            assert here.broker.cell is None or here.broker.cell.answer is None

    drive(test())


@pytest.mark.parametrize("value", ["", "ü", {"a": [1, 2.5, None, True]}, [], 10**15, "x" * 100_000])
def test_an_answer_in_json_is_taken(tmp_path: Path, value: Any) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            await here.say(Final(1, "json"), json.dumps(value).encode())
            assert here.broker.cell is not None
            assert here.broker.cell.answer == Final(1, "json")

    drive(test())


# ------------------------------------------------------------------------------------------------------- the denials


def test_a_program_refused_over_and_over_fills_neither_log_nor_memory(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            for number in range(1, 251):
                await refused(here, Read(number, 0, 0, 1, 0))
            assert len(await here.data("request.refused")) == 100
            assert here.broker.denials == 250

    drive(test())


def test_the_guest_names_no_tenant_run_or_model_in_the_log(tmp_path: Path) -> None:
    """A sentence has no field for them, and what it has instead is not written."""

    async def test() -> None:
        async with world(tmp_path, model=FakeModel()) as here:
            await here.say(Ready(PROTOCOL, "evil\nrecord"))
            await here.broker.begin("pass")
            await refused(here, *ask("x", model="evil-model"))
            await here.say(Done(1, "error", CellError("evil.Type", "evil message", 1)), b"evil trace")
            await here.audit.flush()
            assert "evil" not in repr(here.durable())

    drive(test())


@pytest.mark.parametrize("queries", [1, 2])
def test_what_goes_wrong_while_prompts_are_traced_is_the_run_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    failures = [ZeroDivisionError()]

    async def failing(*_: object, **__: object) -> tuple[list[Any], bool]:
        if failures:
            raise failures.pop()
        return [], True

    async def test() -> None:
        text = "A text that is long enough to be found again. "
        async with world(tmp_path, model=FakeModel(), texts=[text]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, len(text), 0))
            with monkeypatch.context() as patch:
                patch.setattr(here.searcher, "trace", failing)
                with pytest.raises(HostFault, match="unexpected ZeroDivisionError"):
                    await ask_and_settle(here, text, queries)
            here.broker._shown._fault = None

    async def ask_and_settle(here: World, text: str, queries: int) -> None:
        for number in range(queries):
            await answers(here, f"{number} {text}")
            await asyncio.sleep(0.01)
        await here.broker.settled()

    drive(test())


def test_only_what_was_answered_counts_as_shown(tmp_path: Path) -> None:
    async def answering(request: ModelRequest) -> ModelReply:
        if request.messages[-1].text.startswith("fail"):
            raise ModelFailed("no answer", charged=True)
        return reply("fine")

    async def test() -> None:
        texts = ["The first text, long enough. ", "The second text, long enough. ", "The third text, long enough. "]
        model = FakeModel(answering)
        async with world(tmp_path, model=model, limits=calls_left(2), texts=["".join(texts)]) as here:
            await here.in_cell()
            await here.say(Read(1, 0, 0, len("".join(texts)), 0))
            assert await answers(here, texts[0]) == ["fine"]
            assert await answers(here, f"fail {texts[1]}") == [None]
            assert await answers(here, texts[2]) == [None]  # the quota
            await here.broker.settled()
            shown = [span for one in await here.data("query.shown") for span in one["spans"]]
            assert shown == [[0, len(texts[0])]]
            assert here.broker.coverage.shown == len(texts[0])

    drive(test())


async def covered(here: World, number: int = 99) -> tuple[Covered, list[tuple[int, ...]]]:
    said = await here.say(Coverage(number))
    assert said is not None
    assert isinstance(said[0], Covered), said
    return said[0], [*struct.iter_unpack("<QQ", said[1])]


def test_coverage_tells_what_was_read_and_shown_so_far_and_of_lists_only_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.broker.shown._LOOK_S", PATIENCE_S)  # what is traced so far is all

    async def test() -> None:
        parts = ["The first text, long enough. ", "The second text, long enough. ", "The third text, long enough. "]
        one, two, three = map(len, parts)
        items = ["an item", "and one more"]
        async with world(tmp_path, model=FakeModel(), texts=["".join(parts)], items=items) as here:
            await here.in_cell()
            chars = [one + two + three, sum(map(len, items))]
            nothing = [Extent(chars[0], 0, 0, 0, 0), Extent(chars[1], 0, 0, None, None)]
            assert await covered(here) == (Covered(99, 100, True, nothing), [])
            await here.say(Read(1, 0, 0, one, 0))
            await here.say(Read(2, 0, one + two, one + two + three, 0))
            await here.say(Read(3, 1, 0, 7, 0))
            await answers(here, parts[2])
            some = [Extent(chars[0], one + three, three, 2, 1), Extent(chars[1], 7, 0, None, None)]
            third = (one + two, one + two + three)
            assert await covered(here) == (Covered(99, 100, True, some), [(0, one), third, third])

    drive(test())


def test_of_very_many_ranges_coverage_tells_the_first_and_their_number_and_is_charged_for_all(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(limits={"output_flood_bytes": 100 * 1024})
        async with world(tmp_path, policy=policy, texts=["x" * 20_000]) as here:
            await here.in_cell()
            for start in range(5000):
                here.broker._shown.read(0, 4 * start, 4 * start + 1)
            found, spans = await covered(here)
            assert found.contexts == [Extent(20_000, 5000, 0, 5000, 0)]
            assert spans == [(4 * start, 4 * start + 1) for start in range(100)]
            with pytest.raises(Refusal) as caught:
                await here.say(Coverage(2))
            assert caught.value.code == "limits.output_flood"

    drive(test())


def test_coverage_says_when_prompts_are_still_looked_through(tmp_path: Path) -> None:
    async def test() -> None:
        text = "A text that somebody will be shown."
        async with world(tmp_path, texts=[text], model=FakeModel()) as here:
            await here.in_cell()
            shown = here.broker._shown
            searcher, shown._searcher = shown._searcher, Endless()
            await here.say(Read(1, 0, 0, len(text), 0))
            await answers(here, text)
            assert await covered(here) == (
                Covered(99, 100, False, [Extent(len(text), len(text), 0, 1, 0)]),
                [(0, len(text))],
            )
            shown._searcher = searcher
            assert shown._tracing is not None
            shown._tracing.cancel()

    drive(test())


class Endless(Searcher):
    """Looks up nothing in time."""

    async def trace(self, *_: Any, **__: Any) -> Any:
        await asyncio.sleep(60)


def test_a_run_ends_however_long_its_account_would_take_and_the_log_says_that_it_is_not_all(tmp_path: Path) -> None:
    async def test() -> None:
        text = "A text that somebody will be shown."
        async with world(tmp_path, texts=[text]) as here:
            shown = Shown(
                here.scope,
                audit=here.audit,
                searcher=Endless(),
                documents=here.broker._reading._documents,
                texts=[0],
                end_s=0.05,
            )
            shown.read(0, 0, len(text))
            for cell in (1, 2, 3):
                await shown.prompt(cell, text.encode())
            await shown.settled()
            (logged,) = await here.data("query.shown")
            assert (logged["spans"], logged["complete"]) == ([], False)
            assert shown.coverage.shown == 0

    drive(test())
