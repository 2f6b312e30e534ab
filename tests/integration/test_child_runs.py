"""Child runs in real boxes: what a child is given, what comes back, and how a tree of runs ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from belljar import Result, Runtime
from belljar.audit import coverage, records_below, verify
from belljar.identity import Language, RunId
from belljar.models import FREE, ModelReply, ModelRequest, Usage
from belljar.policy import Policy, load
from tests.integration.support import PATIENCE_S, Jar

TEXT = "".join(f"line {number:05} →\n" for number in range(3000))
ROWS = ["null", "eins", {"zwei": [1, 2]}, "drei →", "vier"]


REFUSED = """
try:
    {}
except PolicyDenied as error:
    FINAL([error.code, error.limit, error.observed])
"""


class Played:
    """A root model that answers a question with `[[name]]` in it by the program of that name, any other by `alone`.

    As a sub-model it tells the length of its prompt, and its end.
    """

    name = "scripted:played"
    scripted = True
    rates = FREE

    def __init__(self, programs: Mapping[str, str]) -> None:
        self._programs = programs
        self.openings: list[str] = []
        # The last message of each later turn.
        self.told: list[str] = []
        self._more = asyncio.Event()

    async def seen(self, openings: int) -> None:
        """Return when so many runs have asked it for code."""
        while len(self.openings) < openings:
            self._more.clear()
            await self._more.wait()

    async def complete(self, request: ModelRequest) -> ModelReply:
        first = request.messages[0].text
        if request.purpose == "sub":
            return self._reply(f"{len(first)} {first[-6:]}")
        if len(request.messages) == 1:
            self.openings.append(first)
        else:
            self.told.append(request.messages[-1].text)
        self._more.set()
        name = re.search(r"\[\[(\w+)\]\]", first)
        return self._reply(f"```repl\n{self._programs[name[1] if name else 'alone']}\n```")

    def _reply(self, text: str) -> ModelReply:
        return ModelReply(text, Usage(1000, 10), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


def policy_of(**models: Any) -> Policy:
    policy = load("dev")
    return msgspec.structs.replace(policy, name="test", models=msgspec.structs.replace(policy.models, **models))


def run(
    jar: Jar,
    code: str,
    programs: Mapping[str, str],
    *,
    policy: Policy | None = None,
    language: Language = "python",
    while_it_runs: Callable[[Runtime], Any] | None = None,
    **how: Any,
) -> tuple[Result, Played]:
    model = Played(programs)

    async def go() -> Result:
        async with Runtime(policy or policy_of(), state=jar.at, environ={}, language=language) as runtime:
            beside = asyncio.create_task(while_it_runs(runtime)) if while_it_runs else None
            result = await runtime.execute(code, model=model, **how)
            if beside is not None:
                await beside
            assert await runtime._host._shared.ledger.check_books() == []
        return result

    return asyncio.run(go()), model


def answered(jar: Jar, code: str, programs: Mapping[str, str], **how: Any) -> Any:
    result, _ = run(jar, code, programs, **how)
    assert result.status == "ok", result.error
    return result.answer


def test_a_prompt_alone_is_the_childs_context(jar: Jar) -> None:
    programs = {"alone": "FINAL(f'{context[-9:]} {len(context)}')"}
    assert answered(jar, "FINAL(rlm_query('How many? one two three'))", programs, context=TEXT) == "two three 23"


def test_with_a_context_the_prompt_is_the_question(jar: Jar) -> None:
    result, model = run(jar, "FINAL(rlm_query('Count. [[x]]', 'a' * 5000))", {"x": "FINAL(len(context))"}, context=TEXT)
    assert result.answer == 5000
    assert "Count. [[x]]" in model.openings[0]
    assert "characters: 5000" in model.openings[0]


def test_what_a_child_gives_comes_back_as_a_value(jar: Jar) -> None:
    programs = {"x": "FINAL({'n': [1, 2.5, None], 'text': context[:3]})", "y": "FINAL('{}')"}
    code = "FINAL([rlm_query('[[x]]', context)['n'], rlm_query('[[x]]', 'abcd')['text'], rlm_query('[[y]]', 'a')])"
    assert answered(jar, code, programs, context=TEXT) == [[1, 2.5, None], "abc", "{}"]


def test_a_child_answers_its_own_question_whatever_its_parents_answer_has_to_be(jar: Jar) -> None:
    class Count(msgspec.Struct):
        lines: int

    programs = {"root": "SUBMIT(lines=len(rlm_query('[[x]]', 'a')))", "x": "FINAL('no struct')"}

    async def go() -> Result:
        async with Runtime(policy_of(turns_max=2), state=jar.at, environ={}, language="python") as runtime:
            return await runtime.run("[[root]]", model=Played(programs), answer_type=Count)

    result = asyncio.run(go())
    assert result.status == "ok", result.error
    assert result.value == Count(len("no struct"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("context", TEXT),
        ("context.part(12_345, 30_000)", TEXT[12_345:30_000]),
        ("context.part(20).part(14, 28)", TEXT[34:48]),
        ("contexts['rows']", ROWS),
        ("contexts['rows'].part(1, 4)", ROWS[1:4]),
        ("contexts['rows'].part(1).part(1, -1)", ROWS[2:4]),
        ("contexts['mails'].part(1, 3)", {"b": "zwei", "c": {"n": 3}}),
    ],
)
def test_a_part_reaches_a_child_by_reference(jar: Jar, given: str, expected: Any) -> None:
    mails = {"a": "eins →", "b": "zwei", "c": {"n": 3}, "d": "vier"}
    programs = {
        "x": "import json\nwhole = context.copy() if not isinstance(context, str) else str(context)\n"
        "FINAL([len(context), whole, context.search('[a-z]', limit=1)[0].start, [*context.lines()][:3]])"
    }
    code = f"FINAL(rlm_query('[[x]]', {given}))"
    result, _ = run(jar, code, programs, context=TEXT, contexts={"rows": ROWS, "mails": mails})
    assert result.status == "ok", result.error
    length, whole, _, lines = result.answer
    assert (length, whole) == (len(expected), expected)
    if isinstance(expected, str):
        assert lines == expected.splitlines()[:3]
    (child,) = [one for one in jar.records("run.started") if one.run.endswith(".00001")]
    (described,) = child.data["contexts"]
    assert described["sha256"] in {one["sha256"] for one in jar.records("run.started")[0].data["contexts"]}
    assert len(list((jar.at / "contexts").glob("**/lent/*"))) == 0


MADE = {
    "list": ["eins", None, {"zwei": [1, 2.5]}, "drei \u2192"],
    "dict": {"a": "eins", "b": {"n": 3}, "\u00e9": "vier", "big": 10**30},
}


@pytest.mark.parametrize("language", ["python", "restricted"])
@pytest.mark.parametrize("kind", MADE)
def test_a_list_or_dict_that_the_program_made_is_one_for_the_child(jar: Jar, language: Language, kind: str) -> None:
    made = MADE[kind]
    programs = {"x": "FINAL([context.copy(), len(context), [hit.text for hit in context.search('eins|vier')]])"}
    code = f"made = {made!r}\nFINAL(rlm_query_batched(['[[x]]'] * 2, [made, {{'one': (1, 'zwei')}}]))"
    result, model = run(jar, code, programs, language=language)
    assert result.status == "ok", result.error
    assert result.answer == [
        [made, 4, ["eins"] if kind == "list" else ["eins", "vier"]],
        [{"one": [1, "zwei"]}, 1, []],
    ]
    assert f"a {kind} (items: 4" in "".join(model.openings)
    assert len(list((jar.at / "contexts").glob("**/lent/*"))) == 0


def test_what_has_no_form_in_json_is_no_context(jar: Jar) -> None:
    code = """
found = []
for wrong in ([1, {2, object()}], {1: 2, "1": 3}, [float("nan")], [], {}, {1, 2}):
    try:
        rlm_query("x", wrong)
    except (TypeError, PolicyDenied) as error:
        found.append(type(error).__name__)
FINAL(found)
"""
    result, model = run(jar, code, {})
    assert result.answer == [*["TypeError"] * 3, *["PolicyDenied"] * 2, "TypeError"], result.error
    assert model.openings == []


def test_beyond_the_depth_a_sub_model_reads_what_the_program_made_as_json(jar: Jar) -> None:
    result, _ = run(jar, "FINAL(rlm_query('What?', ['a', {'b': 1}]))", {}, policy=policy_of(depth_max=1))
    asked = 'What?\n\n["a", {"b": 1}]'
    assert result.answer == f"{len(asked)} {asked[-6:]}"


def test_a_child_reads_nothing_beside_its_part(jar: Jar) -> None:
    """By the wire itself, since the names of the agent would not even ask."""
    program = """
import gc
tried = []
from guest.agent.wire import Channel
(channel,) = [one for one in gc.get_objects() if type(one) is Channel]
for start, stop in ((0, 10), (990, 1001), (1999, 2001), (1000, 2000)):
    header, body = channel.request("read", {"doc": 0, "start": start, "stop": stop, "line": 0})
    tried.append([header["op"], len(body)])
    header, _ = channel.request("search", {"doc": 0, "mode": "count", "start": start, "stop": stop, "limit": 1,
                                           "line": 0, "first": max(1, start - 1)}, b"x")
    tried[-1].append(header["op"])
for mode in ("count", "lines"):
    header, _ = channel.request("search", {"doc": 0, "mode": mode, "start": 1000, "stop": 2000, "limit": 1,
                                           "line": 0, "first": 1000}, b"x" if mode == "count" else b"")
    tried.append(header["op"])
header, _ = channel.request("recurse", {"model": None, "prompts": [1],
                                        "contexts": [{"doc": 0, "start": 999, "stop": 1500}]}, b"q")
FINAL([tried, header["op"], header["failure"]["code"]])
"""
    code = "FINAL(rlm_query('[[x]]', context.part(1000, 2000)))"
    refused = ["refused", 0, "refused"]
    assert answered(jar, code, {"x": program}, context="x" * 3000) == [
        [refused, refused, refused, ["data", 1000, "refused"], "found", "refused"],
        "refused",
        "read.out_of_range",
    ]


@pytest.mark.parametrize("language", ["python", "restricted"])
def test_a_program_is_told_what_it_and_its_children_have_read_and_shown_and_nothing_of_others(
    jar: Jar, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's ranges are those of its part; what its parent read and showed before of that part is not told."""
    monkeypatch.setattr("belljar.broker.shown._LOOK_S", PATIENCE_S)  # what is traced so far is all
    programs = {
        "x": "before = coverage()\n"
        "reply = llm_query('Read: ' + context[1000:2000])\n"
        "part = coverage().contexts['context']\n"
        "FINAL([before.chars, before.read, before.shown, part.shown_spans, part.unshown, part.shown_share])",
        "y": "llm_query('Read: ' + context['b'])\n"
        "found = coverage()\n"
        "FINAL([found.chars, found.shown, sorted(found.contexts['context'])])",
    }
    text = "".join(f"{number * 7919:09}\n" for number in range(1000))
    code = """
start = coverage()
llm_query(context[4500:4600])
child = rlm_query('[[x]]', context.part(4000, 8000))
keyed = rlm_query('[[y]]', contexts['keyed'].part(1, 2))
both = coverage()
own = both.contexts['context']
print(start == coverage(), both == coverage(), both.shown_share > 0.1)
print(own)
FINAL([start.read, start.complete, child, keyed, own.shown_spans, own.shown_spans_count, both.shown, both.complete])
"""
    contexts = {"keyed": {"a": "nobody reads this", "b": "but this text is read"}}
    result, _ = run(jar, code, programs, language=language, context=text, contexts=contexts)
    assert result.status == "ok", result.error
    assert result.answer == [
        *(0, True),
        [4000, 0, 0, [[999, 2000]], [[0, 999], [2000, 4000]], 0.25025],
        [22, 21, ["chars", "read", "read_share", "shown", "shown_share"]],
        *([[4499, 4600], [4999, 6000]], 2, 1123, True),
    ]
    assert result.coverage.shown_chars == 1123
    first, second = result.stdout.splitlines()
    assert first == "False True True"
    assert second.endswith("1102 of 10000 characters shown to sub-models>")


def test_a_childs_root_model_is_told_of_the_items_of_its_part_and_of_no_others(jar: Jar) -> None:
    rows = {f"key {number}": "x" * number for number in range(20)}
    code = "FINAL(rlm_query('[[x]]', context.part(10, 12)))"
    result, played = run(jar, code, {"x": "FINAL(list(context))"}, context=rows)
    assert result.answer == ["key 10", "key 11"]
    (opening,) = played.openings
    assert re.findall(r"key \d+", opening) == ["key 10", "key 11"]
    assert "The first items have so many characters: 10, 11\n" in opening


def test_cost_and_coverage_belong_to_the_tree(jar: Jar) -> None:
    programs = {
        "x": "answer_ = llm_query('Read: ' + context[:1000])\nFINAL(rlm_query('[[y]]', context.part(1000, 2000)))",
        "y": "FINAL(len(context[:1000]))",
    }
    text = "".join(f"{number * 7919:09}\n" for number in range(1000))
    result, _ = run(jar, "FINAL(rlm_query('[[x]]', context.part(4000, 8000)))", programs, context=text)
    assert result.answer == 1000
    assert (result.usage.calls, result.usage.input_tokens) == (3, 3000)
    assert (result.coverage.read_chars, result.coverage.shown_chars) == (4000, 1000)  # read by the page
    of_tree = coverage(records_below(jar.at / "audit.db", result.run))
    assert (of_tree.read_chars, of_tree.shown_chars) == (result.coverage.read_chars, result.coverage.shown_chars)
    ids = {RunId(record.run) for record in jar.records("run.started")}
    assert sorted((one.depth, one.parent) for one in ids) == sorted(
        [(0, None), (1, result.run), (2, result.run.child(1))], key=lambda pair: pair[0]
    )


def test_beyond_the_depth_a_sub_model_answers(jar: Jar) -> None:
    code = "FINAL([rlm_query('How long?', context.part(0, 100)), rlm_query('one two'), rlm_query('a', 'bcdefgh')])"
    result, model = run(jar, code, {}, context=TEXT, policy=policy_of(depth_max=1))
    assert result.answer == [f"{9 + 2 + 100} {TEXT[94:100]}", "7 ne two", "10 cdefgh"]
    assert (model.openings, result.read_bytes) == ([], len(TEXT[:100].encode()))


def test_or_it_is_refused_as_the_policy_says(jar: Jar) -> None:
    code = REFUSED.format("rlm_query('How long?')")
    policy = policy_of(depth_max=2, beyond_depth="refuse")
    programs = {"alone": code}
    assert answered(jar, "FINAL(rlm_query('x'))", programs, policy=policy) == ["models.depth", 2, 3]


def test_a_failed_child_is_an_exception_that_says_why(jar: Jar) -> None:
    policy = policy_of(turns_max=1)
    code = """
try:
    rlm_query('[[x]]', 'a')
except Exception as error:
    FINAL([type(error).__name__, error.code, str(error)])
"""
    kind, why, words = answered(jar, code, {"x": "1 / 0"}, policy=policy)
    assert (kind, why) == ("QuotaExceeded", "models.turns")
    assert re.match(r"the child run \S+\.00001 ended with quota: the root model did not finish in 1 turns", words)


def test_one_failure_fails_alone(jar: Jar) -> None:
    code = """
found = rlm_query_batched(["[[x]]", "[[y]]", "[[x]]"], ["ab", "cd", context.part(0, 3)], return_exceptions=True)
FINAL([str(one)[:13] for one in found])
"""
    programs = {"x": "FINAL(len(context))", "y": "raise SystemExit(3)"}
    result, _ = run(jar, code, programs, context=TEXT, policy=policy_of(turns_max=1))
    assert result.answer == ["2", "the child run", "3"]


def test_a_text_that_is_too_long_for_the_policy_is_refused(jar: Jar) -> None:
    policy = policy_of(child_context_bytes_max=1024)
    code = REFUSED.format("rlm_query('x', 'a' * 1025)")
    assert answered(jar, code, {}, policy=policy) == ["models.child_context", 1024, 1025]


@pytest.mark.parametrize("whose", ["acme", "acme/research"])
def test_a_tenant_bounds_how_deep_its_runs_go(jar: Jar, whose: str) -> None:
    async def go() -> Result:
        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            await runtime.quotas.set(whose, "total", depth=1, by="test")
            return await runtime.execute(code, model=Played({"x": "FINAL(1)"}), tenant="acme/research")

    code = """
try:
    rlm_query('[[x]]')
except QuotaExceeded as error:
    FINAL([error.code, error.limit, str(error)])
"""
    result = asyncio.run(go())
    assert result.status == "ok", result.error
    assert isinstance(result.answer, list)
    refused, limit, words = result.answer
    assert refused == "quota.tenant.depth"
    assert (limit, "acme" in words) == ((None, False) if whose == "acme" else (1, True))
    assert [record.run for record in jar.records("run.started") if not record.data.get("refused")] == [result.run]
    explained = jar("quota", "explain", result.run).stdout
    assert f"the limit of tenant {whose} on depth refused a recurse: it would have come to 2 of 1" in explained
    assert jar("audit", "verify").code == jar("quota", "check").code == 0


@pytest.mark.parametrize("whose", ["acme", "acme/research"])
def test_what_a_child_is_given_counts_for_the_contexts_of_its_tenant(jar: Jar, whose: str) -> None:
    async def go() -> Result:
        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            await runtime.quotas.set(whose, "total", context_bytes=2**18, by="test")
            return await runtime.execute(code, model=Played({"x": "FINAL(len(context))"}), tenant="acme/research")

    code = """
found = [rlm_query('[[x]]', 'a' * 1000)]
try:
    rlm_query('[[x]]', 'b' * 2**18)
except QuotaExceeded as error:
    found += [error.code, error.limit, str(error)]
FINAL(found)
"""
    result = asyncio.run(go())
    assert result.status == "ok", result.error
    assert isinstance(result.answer, list)
    chars, refused, limit, words = result.answer
    assert (chars, refused) == (1000, "context.stored")
    if whose == "acme":  # whose numbers are none of the program's business
        assert limit is None
        assert "acme" not in words
    else:
        assert limit == 2**18
        assert words.startswith("tenant acme/research has ")
    (end,) = [record.data for record in jar.records("run.finished") if record.run == f"{result.run}.00002"]
    assert (end["status"], end["code"], end["limit"]) == ("quota", "context.stored", 2**18)
    assert jar("audit", "verify").code == 0


def test_a_child_gets_a_share_of_what_is_left(jar: Jar) -> None:
    policy = policy_of(child_share_percent=25)
    run_quota = msgspec.structs.replace(policy.quota.run, calls=40)
    policy = msgspec.structs.replace(policy, quota=msgspec.structs.replace(policy.quota, run=run_quota))
    programs = {"x": "FINAL([budget()['calls'], rlm_query('[[y]]', 'a')])", "y": "FINAL(budget()['calls'])"}
    code = "first = rlm_query('[[x]]', 'a')\nFINAL([first, budget()['calls']])"
    # Ten calls for the child, one of which its own turn has used, and of the others one is kept for its next turn.
    (mine, below), left = answered(jar, code, programs, policy=policy)
    assert (mine <= 9, below <= 2, left) == (True, True, 38)


def test_a_root_model_is_told_what_is_left_of_its_slice_and_what_its_children_spent(jar: Jar) -> None:
    policy = policy_of(child_share_percent=25)
    run_quota = msgspec.structs.replace(policy.quota.run, calls=40, cost_nanousd=40 * 10**9)
    policy = msgspec.structs.replace(policy, quota=msgspec.structs.replace(policy.quota, run=run_quota))
    twice = "try:\n    FINAL(found)\nexcept NameError:\n    found = rlm_query('[[y]]', 'a')"
    programs = {"x": twice, "y": "FINAL(1)"}
    result, model = run(jar, "FINAL(rlm_query('[[x]]', 'a'))", programs, policy=policy)
    assert result.answer == 1
    # Ten calls are its slice: one was its own first turn, one its child's.
    (told,) = [told for told in model.told if "Turn 2 of" in told]
    assert "calls left: 8; spent: 0.00 of 10.00 USD" in told.rpartition("\n\n")[2]


def test_a_batch_that_is_too_large_for_a_slice_is_refused_by_its_numbers(jar: Jar) -> None:
    policy = policy_of(child_share_percent=25)
    run_quota = msgspec.structs.replace(policy.quota.run, calls=40)
    policy = msgspec.structs.replace(policy, quota=msgspec.structs.replace(policy.quota, run=run_quota))
    program = """
try:
    llm_query_batched(["a"] * 20)
except QuotaExceeded as error:
    FINAL([error.code, error.limit, error.observed, budget()["calls"]])
"""
    code, limit, observed, left = answered(jar, "FINAL(rlm_query('[[x]]', 'a'))", {"x": program}, policy=policy)
    assert (code, limit, observed) == ("quota.run.calls", left, 20)
    assert left < 10


def test_children_side_by_side_are_bounded_and_need_no_room_of_their_ancestors(jar: Jar) -> None:
    policy = policy_of(children_max=2)
    programs = {
        "x": "FINAL(sum(rlm_query_batched(['[[y]]'] * 3, ['a'] * 3)))",
        "y": "FINAL(1)",
    }
    most = 0

    async def watch(runtime: Runtime) -> None:
        nonlocal most
        for _ in range(200):
            ledger = runtime._host._shared.ledger
            balance = await ledger.balance("default", "now")
            most = max(most, balance.held.boxes)
            await asyncio.sleep(0.01)

    code = "FINAL(sum(rlm_query_batched(['[[x]]'] * 5, ['a'] * 5)))"
    result, _ = run(jar, code, programs, policy=policy, while_it_runs=watch)
    assert result.answer == 15
    assert len(jar.records("run.started")) == 1 + 5 + 15
    assert most <= 1 + 2 + 4


@pytest.mark.parametrize("how", ["cancelled", "killed", "deadline"])
def test_a_tree_ends_with_its_root(jar: Jar, how: str) -> None:
    programs = {
        "x": "FINAL(rlm_query_batched(['[[y]]'] * 2, ['a'] * 2))",
        "y": "import time\nprint(llm_query('x'))\ntime.sleep(1000)",
    }
    code = "FINAL(rlm_query_batched(['[[x]]'] * 2, ['a'] * 2))"
    model = Played(programs)

    async def go() -> None:
        policy = policy_of()
        if how == "deadline":
            limits = msgspec.structs.replace(policy.limits, cell_wall_s=12.0, grace_s=0.1)
            policy = msgspec.structs.replace(policy, limits=limits)
        async with Runtime(policy, state=jar.at, environ={}, language="python") as runtime:
            running = asyncio.create_task(runtime.execute(code, model=model))
            host = runtime._host
            if how != "deadline":
                await model.seen(6)
            if how == "cancelled":
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            elif how == "killed":
                live, *below = host.live()
                assert len(below) == 6
                await host.cancel(live.run)
                assert (await running).status == "killed"
            else:
                result = await running
                assert result.status in ("error", "timeout")
            assert await host._shared.ledger.check_books() == []

    asyncio.run(go())
    started = {record.run for record in jar.records("run.started")}
    assert started == {record.run for record in jar.records("run.finished")}
    assert len(started) >= 7 if how == "deadline" else len(started) == 7


def test_a_child_that_is_cancelled_ends_with_all_below_it_and_its_parent_hears_of_it(jar: Jar) -> None:
    programs = {
        "x": "FINAL(rlm_query('[[y]]', 'a'))",
        "y": "import time\nprint(1)\ntime.sleep(1000)",
        "z": "FINAL(2)",
    }
    code = """
try:
    rlm_query('[[x]]', 'a')
except ModelError as error:
    FINAL([error.code, str(error), rlm_query('[[z]]', 'a')])
"""
    model = Played(programs)

    async def go() -> tuple[Result, list[tuple[str, str | None, int]]]:
        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            host = runtime._host
            running = asyncio.create_task(runtime.execute(code, model=model))
            await model.seen(2)
            live = host.live()
            assert [one.depth for one in live] == [0, 1, 2]
            await host.cancel(live[1].run)
            result = await running
            assert host.live() == []
            assert await host._shared.ledger.check_books() == []
            return result, [(one.run, one.parent, one.depth) for one in live]

    result, live = asyncio.run(go())
    root, child = result.run, result.run.child(1)
    assert live == [(root, None, 0), (child, root, 1), (child.child(1), child, 2)]
    why = f"the child run {child} ended with killed: the run was cancelled through its host"
    assert result.answer == ["child.killed", why, 2]
    ended = {one.run: one.data["status"] for one in jar.records("run.finished")}
    assert ended == {root: "ok", child: "killed", child.child(1): "killed", root.child(2): "ok"}
    assert verify(jar.at / "audit.db").ok


def test_the_children_of_a_cancelled_session_do_not_wait_for_its_end(jar: Jar) -> None:
    model = Played({"y": "import time\ntime.sleep(1000)"})

    async def go() -> None:
        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            host = runtime._host
            async with runtime.session(sub_model=model) as session:
                running = asyncio.create_task(session.execute("rlm_query('[[y]]', 'a')"))
                await model.seen(1)
                (root, _) = host.live()
                await host.cancel(root.run)
                assert (await running).status == "killed"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_S / 2):
                        while len(host.live()) > 1:  # noqa: ASYNC110 - nobody is told of it
                            await asyncio.sleep(0.01)
                assert [one.run for one in host.live()] == [root.run]

    asyncio.run(go())
