"""No program and no model holds up another's run: whatever they send, the host's event loop goes on.

Each worst case is as large as the policy allows and cheap for its sender, mostly written to the wire by hand. Beside it
runs a heartbeat in the same event loop. A beat that is late because the machine is busy says nothing, so what counts is
the processor time that this whole process used between two beats: work in the loop, and work in a thread that keeps
the interpreter for itself, both come out as one long beat. The best of some rounds counts, for a beat can also be long
because the loop found no processor while a thread had one. And on a slow machine, or on a core that others share, the
same work takes more of that time: so a beat counts by what a loop of known length takes beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import Struct
from msgspec.structs import replace

from belljar import Result, Runtime
from belljar.audit import AuditLog
from belljar.broker.answer import check_answer
from belljar.errors import LedgerUnavailable
from belljar.heavy import off_loop
from belljar.identity import Tenant
from belljar.journal import opened_journal
from belljar.ledger import Ledger
from belljar.models import ScriptedModel
from belljar.policy import Policy, load
from belljar.protocol import Coverage, Covered
from belljar.quotas import Quotas, apply_limits
from belljar.service.api.quotas import ROUTES, QuotaQuery
from tests.integration.support import Jar
from tests.integration.test_floods import forget_high_water_mark, memory_bytes
from tests.unit.broker_fakes import policy_with, world

MIB = 2**20
ROUNDS = 4
STALL_S_MAX = 0.05
PAUSE_S = 0.001
# What `_loop` takes where nothing is slow.
LOOP_S = 0.01
LIMITS = load("standard")
# So long that one alone holds everybody up wherever it is gone through in the loop.
LONG_PROMPTS = replace(
    LIMITS,
    models=replace(LIMITS.models, prompt_bytes_max=4 * 2**20),
    quota=replace(LIMITS.quota, run=replace(LIMITS.quota.run, input_tokens=10**8)),
)

# Speaks the wire by hand: `frame(head, body)`.
WIRE = """
import os, struct
def frame(head, body=b""):
    data = struct.pack("!II", len(head), len(body)) + head + body
    view = memoryview(data)
    while view: view = view[os.write(3, view):]
def final(body, form="json"):
    frame(b'{"op":"final","cell":1,"form":"%s"}' % form.encode(), body[:8 * 2**20])
    import time; time.sleep(60)
def filled(head, unit, last, values=999_000):
    return head + unit * min(values, (8 * 2**20 - len(head) - len(last)) // len(unit)) + last
def many(unit): return filled(b"[", unit, b"0]")
"""

ANSWERS = {
    "very small floats": ("final(many(b'9.7e-310,'))", "ok"),
    "integers of 4000 digits": ("final(many(b'9' * 4000 + b','))", "ok"),
    "more lists than are allowed": ("final(b'[' + b'[],' * 2_700_000 + b'[]]')", "output"),
    "lists": ("final(filled(b'[', b'[],', b'[]]', 490_000))", "ok"),
    "keys": ("final(b'{' + b','.join(b'\"%x\":1' % n for n in range(490_000)) + b'}')", "ok"),
    "nested as deep as may be": ("final(filled(b'[', b'[' * 63 + b']' * 63 + b',', b'[]]', 15_000))", "ok"),
    "nested deeper": ("final(b'[' * 4_000_000 + b']' * 4_000_000)", "protocol"),
    "escapes": ("final(filled(b'\"', b'\\\\\\\\', b'\"', 5_000_000))", "ok"),
    "one wide text": ("final(filled(b'', '\\U0001f600'.encode(), b'', 5_000_000), 'text')", "ok"),
    "text that has to be escaped": ("final(filled(b'', b'\\x01', b'', 9_000_000), 'text')", "ok"),
}

PROMPTS = {
    "marks out of order": "'a' + '\\u0301' * 250_000 + '\\u0327' * 250_000",
    "a character that grows": "'\\ufdfa' * 1_300_000",
    "wide characters": "'\\U0001f600' + 'x' * 1_000_000",
    "no character of ASCII": "'\\u65e5' * 340_000",
    "white space and one letter": "' ' * 1_000_000 + 'x'",
}

OTHERS = {
    "a traceback as large as a frame": (
        'error = b\'{"type":"E","message":"m","line":null}\'\n'
        'end = b\',"variables":[],"unlisted":0}\'\n'
        'frame(b\'{"op":"done","cell":1,"status":"error","error":\' + error + end, b"\\xff" * 2**24)',
        "error",
    ),
    "output that is no text": (
        'for _ in range(9): frame(b\'{"op":"output","cell":1,"stream":"stdout"}\', b"\\xff" * 2**23)',
        "output",
    ),
    "empty frames": (
        'head = b\'{"op":"output","cell":1,"stream":"stdout"}\'\n'
        "data = (struct.pack('!II', len(head), 0) + head) * 1000\nwhile True: os.write(3, data)",
        "output",
    ),
    "a pattern as large as a frame": (
        'frame(b\'{"op":"search","id":1,"doc":0,"mode":"find","start":0,"stop":3,"limit":1,"line":0}\', b"a" * 2**24)\n'
        'FINAL("x" * 100)',
        "ok",
    ),
    "more prompts than a batch may have": (
        'frame(b\'{"op":"query","id":1,"model":null,"lengths":[\' + b"0," * 8191 + b"0]}")\nFINAL("x" * 100)',
        "ok",
    ),
}


class Beats:
    """The longest of a heartbeat's beats, in seconds of this process's processor time."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def beat(self) -> None:
        before = time.process_time()
        while True:
            await asyncio.sleep(PAUSE_S)
            now = time.process_time()
            self.longest_s, before = max(self.longest_s, now - before), now


@asynccontextmanager
async def heartbeat() -> AsyncIterator[Beats]:
    beats = Beats()
    beating = asyncio.create_task(beats.beat())
    try:
        yield beats
    finally:
        beating.cancel()


def _loop() -> float:
    """Seconds of processor time for some work of the interpreter."""
    began, total = time.process_time(), 0
    for number in range(200_000):
        total += number
    return time.process_time() - began


def slowness() -> float:
    """How many times as long as usual everything takes now; 1 at least."""
    return max(1.0, min(_loop() for _ in range(3)) / LOOP_S)


async def longest_beat_s(work: Callable[[], Awaitable[None]]) -> float:
    """Of the best round, in seconds of a machine that is not slow."""
    longest_s = float("inf")
    for _ in range(ROUNDS):
        async with heartbeat() as beats:
            await work()
        longest_s = min(longest_s, beats.longest_s / slowness())
        if longest_s < STALL_S_MAX:
            break
    return longest_s


def held_up_s(jar: Jar, code: str, status: str, *, policy: str | Path | Policy = "standard", **more: Any) -> float:
    """How long a run of this program holds up the others of its process."""

    async def main() -> float:
        async with Runtime(policy, state=jar.at, language="python") as runtime:
            await runtime.execute("1", context="abc")

            async def work() -> None:
                result = await runtime.execute(WIRE + code, context="abc", **more)
                assert result.status == status, result.error

            return await longest_beat_s(work)

    return asyncio.run(main())


@pytest.mark.parametrize("case", ANSWERS)
def test_no_answer_holds_up_another_run(jar: Jar, case: str) -> None:
    assert held_up_s(jar, *ANSWERS[case]) < STALL_S_MAX


@pytest.mark.parametrize("case", PROMPTS)
def test_no_prompt_holds_up_another_run(jar: Jar, case: str) -> None:
    calls = 1 if case == "a character that grows" else 15  # 43 million tokens
    code = f"text = {PROMPTS[case]}\nllm_query_batched([text] * {calls})\nFINAL(1)"
    assert held_up_s(jar, code, "ok", model=ScriptedModel([], default="yes"), policy=LONG_PROMPTS) < STALL_S_MAX


def test_no_prompt_that_is_looked_through_holds_up_another_run(jar: Jar) -> None:
    texts = ",\n".join(f"'needle needle needle {number}'" for number in range(64))
    patterns = ["needle[0-9]", *(f"(?i)needle {number} .{{1,20}}x" for number in range(20))]
    denying = 'schema = 1\nname = "denying"\nextends = "standard"\n[models]\nprompt_share = 50\n'
    denying += f"deny_prompts = {patterns}\ncanaries = [\n{texts}\n]\n"
    policy = jar.work / "denying.toml"
    policy.write_text(denying)
    code = "llm_query_batched(['needle ' * 140_000] * 15)\nFINAL(1)"
    assert held_up_s(jar, code, "ok", model=ScriptedModel([], default="yes"), policy=policy) < STALL_S_MAX


@pytest.mark.parametrize("case", OTHERS)
def test_nothing_else_in_a_frame_holds_up_another_run(jar: Jar, case: str) -> None:
    assert held_up_s(jar, *OTHERS[case], model=ScriptedModel([], default="yes")) < STALL_S_MAX


def take(values: list[float]) -> int:
    return len(values)


def give(values: list[Any], times: int) -> list[Any]:
    return values * times


TOOL_CALLS = {
    "very small floats": "take([9.7e-310] * 100_000)",
    "very large floats": "take([1.7e300] * 100_000)",
    "a result of floats": "give([9.7e-310], 500_000)",
    "a result of integers": "give([1], 2_000_000)",
}


@pytest.mark.parametrize("call", TOOL_CALLS.values(), ids=TOOL_CALLS)
def test_neither_what_a_tool_is_given_nor_what_it_gives_holds_up_another_run(jar: Jar, call: str) -> None:
    policy = jar.work / "tools.toml"
    policy.write_text('schema = 1\nname = "tools"\nextends = "dev"\n[models]\nallow = ["tool:*"]\nprompt = "1 MiB"\n')
    assert held_up_s(jar, f"{call}\nFINAL(1)", "ok", policy=policy, tools=[take, give]) < STALL_S_MAX


class Measured(Struct):
    values: list[float]
    rest: Any = None


TYPED_ANSWERS = {
    "very small floats": "{'values': [9.7e-310] * 100_000}",
    "very large floats": "{'values': [1.7e300] * 100_000}",
    "floats of no type": "{'values': [], 'rest': [9.7e-310] * 100_000}",
    "lists": "{'values': [], 'rest': [[]] * 190_000}",
}


@pytest.mark.parametrize("answer", TYPED_ANSWERS.values(), ids=TYPED_ANSWERS)
def test_no_answer_of_a_type_holds_up_another_run(jar: Jar, answer: str) -> None:
    async def main() -> float:
        async with Runtime(state=jar.at) as runtime:
            await runtime.execute("1")

            async def work() -> None:
                model = ScriptedModel([f"```repl\nFINAL({answer})\n```"])
                assert (await runtime.run("What?", model=model, answer_type=Measured)).status == "ok"

            return await longest_beat_s(work)

    assert asyncio.run(main()) < STALL_S_MAX


def test_no_question_for_coverage_holds_up_another_run(tmp_path: Path) -> None:
    """As many ranges as are kept, of the run and of those below it, with a few that are new with each question."""

    async def main() -> float:
        policy = policy_with(limits={"output_flood_bytes": 64 * MIB})
        async with world(tmp_path, policy=policy, texts=["x" * 1_000_000]) as here:
            await here.in_cell()
            (text,) = here.broker._shown._texts.values()
            for number, spans in enumerate(text.all_spans):
                for start in range(70_000):
                    spans.add(12 * start + 3 * number, 12 * start + 3 * number + 1)
            asked = 0

            async def work() -> None:
                nonlocal asked
                asked += 1
                text.read_below.add(900_000 + 2 * asked, 900_001 + 2 * asked)
                await asyncio.sleep(5 * PAUSE_S)  # a beat before, and one behind
                said = await here.say(Coverage(asked))
                assert said is not None
                assert isinstance(said[0], Covered)
                assert said[0].contexts[0].read > 100_000
                await asyncio.sleep(5 * PAUSE_S)

            return await longest_beat_s(work)

    assert asyncio.run(main()) < STALL_S_MAX


@pytest.mark.parametrize("tenant", [None, "t01"])
def test_no_question_for_the_quotas_of_ten_thousand_tenants_holds_up_a_run(tmp_path: Path, tenant: str | None) -> None:
    async def main() -> float:
        path = tmp_path / "audit.db"
        async with opened_journal(path, unavailable=LedgerUnavailable) as journal:
            bounds: Any = {"day": {"calls": 100}, "month": {"calls": 1000}, "total": {"calls": 5000}}
            many = {Tenant(f"t{number % 50:02}/u{number:05}"): bounds for number in range(10_000)}
            await apply_limits(Ledger(journal, owner="1:1"), AuditLog(journal), many, by="config")
        asked = SimpleNamespace(host=SimpleNamespace(quotas=Quotas(path, None)), tenant=tenant, query=QuotaQuery())

        async def work() -> None:
            await asyncio.sleep(5 * PAUSE_S)  # a beat before, and one behind
            assert len((await ROUTES[0].handler(cast("Any", asked))).quotas) == 100
            await asyncio.sleep(5 * PAUSE_S)

        return await longest_beat_s(work)

    assert asyncio.run(main()) < STALL_S_MAX


ODD_REPLIES = {
    "openings": "````repl\n" + "```repl\n" * 125_000 + '"""',
    "blanks": "```" + " \t" * 500_000,
    "line ends": "\n" * 1_000_000,
    "quotes": "```repl\n" + '"""\n' * 250_001,
    "tildes": "~~~json\n" + "~~~ x\n" * 170_000,
}


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES)
def test_no_reply_of_a_root_model_holds_up_another_run(jar: Jar, reply: str) -> None:
    async def main() -> float:
        async with Runtime("dev", state=jar.at) as runtime:
            await runtime.execute("1")

            async def work() -> None:
                model = ScriptedModel([reply, "```repl\nFINAL(1)\n```"])
                result = await runtime.run("What?", model=model)
                assert (result.status, result.turns) == ("ok", 2)

            return await longest_beat_s(work)

    assert asyncio.run(main()) < STALL_S_MAX


def test_cells_of_a_neighbour_come_and_go_while_an_answer_is_checked(jar: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads, computes and prints; seen by the order of what happens in the loop, and not by its clock."""
    code, _ = ANSWERS["very small floats"]
    checking = False

    async def told(size: int, work: Callable[..., Any], /, *given: Any, **more: Any) -> Any:
        nonlocal checking
        if work is not check_answer:
            return await off_loop(size, work, *given, **more)
        checking = True
        try:
            return await off_loop(size, work, *given, **more)
        finally:
            checking = False

    async def main() -> int:
        async with (
            Runtime(state=jar.at, language="python") as runtime,
            runtime.session(context="z" * 1000, tenant="neighbour") as session,
        ):
            attack, within = asyncio.create_task(runtime.execute(WIRE + code)), 0
            while not attack.done():
                begun = checking
                assert (await session.execute("x = context[0:300]\nprint(sum(range(1000)))")).status == "ok"
                within += begun and checking
            assert (await attack).status == "ok"
            return within

    monkeypatch.setattr("belljar.broker.cells.off_loop", told)
    assert asyncio.run(main()) > 1


def test_the_bytes_of_open_requests_are_bounded_by_the_policy(jar: Jar) -> None:
    """Requests of 15 MB of which none is answered: ten threads, and 24 frames of a program that does not wait."""
    wire = replace(LIMITS.wire, in_flight_bytes_max=LIMITS.wire.body_bytes_max)
    models = replace(LIMITS.models, parallel_max=2)
    policy = replace(LIMITS, wire=wire, models=models)
    threads = """
import threading, time
batch = ["\\U0001F600" + "x" * 1_000_000] * 15
for _ in range(10):
    threading.Thread(target=lambda: llm_query_batched(batch), daemon=True).start()
time.sleep(3)
"""
    frames = """
import time
head = b'{"op":"query","id":%d,"model":null,"lengths":[1000000' + b",1000000" * 14 + b"]}"
for n in range(24): frame(head % (n + 1), b"x" * 15_000_000)
time.sleep(1)
"""

    class Silent(ScriptedModel):
        async def complete(self, request: Any) -> Any:
            await asyncio.sleep(600)

    async def main() -> list[tuple[Result, int]]:
        async with Runtime(policy, state=jar.at, language="python") as runtime:
            await runtime.execute("1")
            seen = []
            for number, code in enumerate((threads, frames)):
                before = memory_bytes("VmRSS")
                forget_high_water_mark()
                result = await runtime.execute(WIRE + code, model=Silent([], name=f"scripted:{number}"))
                seen.append((result, memory_bytes("VmHWM") - before))
            return seen

    # Bodies; the texts of prompts that are on their way to a model, four bytes a character; a frame being read, twice.
    # Half as much again for what the allocator has not given back. All of them would be 150 MB, and 360.
    texts = models.parallel_max * 4 * models.prompt_bytes_max
    most = wire.in_flight_bytes_max + texts + 2 * wire.body_bytes_max
    for result, grown in asyncio.run(main()):
        assert result.status == "ok", result.error
        assert grown < 1.5 * most
