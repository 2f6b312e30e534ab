"""The processes that search: they find what `re` finds, and whatever they are asked, they end when they should.

Where both engines take a pattern they must agree on every span. `re` is told to see ASCII classes only, which is what
RE2 has, and goes on one character after an empty match.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.context import ContextStore
from belljar.errors import BelljarError, HostFault, PolicyDenied
from belljar.search import Searcher, Tracked
from belljar.search.hits import MATCH_CHARS_MAX
from belljar.search.searcher import Findings
from guest.agent.contexts import unpacked
from guest.context.pushdown import Hit
from tests.examples import examples
from tests.unit.broker_fakes import drive
from tests.unit.searches import HUGE, LONG, PATIENCE_S, SLOW, busy, question, refusal, searching, workers

ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
WIDE = "aé→\U0001f600"


def hits(found: Findings) -> list[tuple[int, int, str]]:
    """What a guest makes of the body, but for the groups."""
    return [(hit.start, hit.stop, hit.text) for hit, _, _ in parsed(found)]


def parsed(found: Findings, *, of_items: bool = False) -> list[tuple[Hit, int, int]]:
    """What a guest makes of the body: each hit, the item that it is in, and that one's first character."""
    header = {"count": found.count, "groups": found.groups, "names": found.names}
    return unpacked(header, found.body, of_items=of_items)


def expected(pattern: str, text: str, start: int, stop: int) -> list[tuple[int, int]]:
    compiled, at, out = re.compile(f"(?a){pattern}"), start, []
    stop = min(stop, len(text))
    while match := compiled.search(text, at, stop):
        out.append(match.span())
        at = match.end() + (match.start() == match.end())
        if at > stop:
            break
    return out


class Desk:
    """One searcher in a loop of its own, with a store to put texts in."""

    def __init__(self, folder: Path, slice_s: float = 60) -> None:
        self._runner = asyncio.Runner()
        self._searcher = Searcher(slice_s=slice_s)
        self._store = ContextStore(folder)

    def folder(self, text: Any) -> Path:
        with self._store.open(self._store.add(text, now_ns=1).sha256) as opened:
            return opened.folder

    def ask(self, text: Any, pattern: str, **fields: Any) -> Findings:
        asked = self._searcher.ask(question(self.folder(text), pattern, **fields), deadline_s=PATIENCE_S)
        return self._runner.run(asked)

    def close(self) -> None:
        self._runner.run(self._searcher.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.close()


# ------------------------------------------------------------------------------------------------------ what is found


texts = st.one_of(
    st.text("ab1 \n", min_size=1, max_size=60),
    st.text(f"ab1 \n{WIDE}", min_size=1, max_size=60),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
)
atoms = st.sampled_from(["a", "b", "é", "→", "1", ".", "[ab]", "[^a]", r"\d", r"\w", r"\n", " ", "(?:ab|b1)", "(a|é)"])
pieces = st.builds(str.__add__, atoms, st.sampled_from(["", "", "+", "*", "?", "{1,2}"]))
bare = st.lists(pieces, min_size=1, max_size=4).map("".join)
patterns = st.one_of(
    bare,
    st.builds("(?m)^{}".format, bare),
    st.builds("(?m){}$".format, bare),
    st.builds(r"\b{}".format, bare),
    st.builds(r"{}\b".format, bare),
    st.builds("(?i){}|B1".format, bare),
    st.sampled_from(["(?m)^", "(?m)$", r"\b", r"\B", "", "x*", r"\A", r"\Aa", "(?s).+", "(?m)^$"]),
)


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(texts, patterns)
def test_every_match_is_where_re_finds_it(desk: Desk, text: str, pattern: str) -> None:
    spans = expected(pattern, text, 0, len(text))
    found = desk.ask(text, pattern)
    assert hits(found) == [(start, stop, text[start:stop]) for start, stop in spans]
    assert found.next is None
    assert desk.ask(text, pattern, mode="count").count == len(spans)


GROUPED = r"(?P<who>\w+)(?: is (\d+)?)?(!)?; ?"


def test_groups_are_those_of_re(desk: Desk) -> None:
    text = "ä→; Bob is 5; Eve is ; x!; " * 3
    found = desk.ask(text, GROUPED)
    expected = [*re.finditer(f"(?a){GROUPED}", text)]
    assert [hit.groups() for hit, _, _ in parsed(found)] == [match.groups() for match in expected]
    said: list[Any] = [hit for hit, _, _ in parsed(found)]
    for hit, match in zip(said, expected, strict=True):
        assert [hit.span(number) for number in range(4)] == [match.span(number) for number in range(4)]
        assert (hit["who"], hit[0], hit.groupdict("-")) == (match["who"], match[0], match.groupdict("-"))
    assert found.spans("find") == [[*match.span()] for match in expected]


def test_a_group_beyond_the_first_thousand_characters_is_told_and_counts_as_given(desk: Desk) -> None:
    text = f"<{'é' * 5000}>{'b' * 3000};"
    found = desk.ask(text, "<(é+)(x)?>((b)b*)(;)")
    ((hit, _, _),) = parsed(found)
    assert [hit.span(number) for number in range(6)] == [
        (0, 8003),
        (1, 5001),
        (-1, -1),
        *[(5002, 8002), (5002, 5003)],
        (8002, 8003),
    ]
    assert hit.groups() == ("é" * 1000, None, "b" * 1000, "b", ";")
    assert found.spans("find") == [[0, 1000], [1, 1001], [5002, 6002], [5002, 5003], [8002, 8003]]


@pytest.mark.parametrize("pattern", [r"\C", r"日\C", r"[a]\C*", r"\\\C", r"\Qa\E\C", r"(\C)"])
def test_a_single_byte_is_nothing_to_look_for(desk: Desk, pattern: str) -> None:
    for mode in ("find", "count"):
        with pytest.raises(PolicyDenied, match="single byte") as caught:
            desk.ask("日本\\C", pattern, mode=mode)
        assert caught.value.code == "search.pattern"


@pytest.mark.parametrize("pattern", [r"\\C", r"\Q\C\E", r"\Q\C", r"\\Cx?"])
def test_a_backslash_and_a_c_are_found(desk: Desk, pattern: str) -> None:
    assert hits(desk.ask("日本\\C", pattern)) == [(2, 4, "\\C")]


def test_more_groups_than_are_told_are_refused(desk: Desk) -> None:
    assert parsed(desk.ask("a", "()" * 100 + "a"))[0][0].groups() == ("",) * 100
    with pytest.raises(PolicyDenied, match="101 groups"):
        desk.ask("a", "()" * 101 + "a")


items = st.lists(st.text(f"ab1 \n{WIDE}", max_size=6), min_size=1, max_size=12).filter(any)


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(items, patterns, st.booleans())
def test_of_a_list_or_dict_each_item_is_a_text_of_its_own(
    desk: Desk, values: list[str], pattern: str, keyed: bool
) -> None:
    value = {f"k{number}": one for number, one in enumerate(values)} if keyed else values
    expected = [(item, start, stop) for item, one in enumerate(values) for start, stop in expected_in(pattern, one)]
    found = desk.ask(value, pattern, mode="find_items")
    assert [(item, hit.start - char, hit.stop - char) for hit, item, char in parsed(found, of_items=True)] == expected
    assert desk.ask(value, pattern, mode="count_items").count == len(expected)
    whole = "".join([*value, *value.values()] if isinstance(value, dict) else value)
    assert [whole[start:stop] for start, stop in found.spans("find_items")] == [values[i][a:b] for i, a, b in expected]


def expected_in(pattern: str, item: str) -> list[tuple[int, int]]:
    """An item without a character has no matches."""
    return expected(pattern, item, 0, len(item)) if item else []


def test_a_search_of_items_goes_on_in_the_midst_of_one(desk: Desk) -> None:
    value, found, at = ["aXa", "", "Xa", "naXX"], [], 0
    while True:
        one = desk.ask(value, "(?m)X|^[an]|a$", mode="find_items", limit=1, start=at)
        found += [(item, hit.start - char, hit.text) for hit, item, char in parsed(one, of_items=True)]
        if one.next is None:
            break
        at = one.next
    assert found == [
        (0, 0, "a"),
        (0, 1, "X"),
        (0, 2, "a"),
        (2, 0, "X"),
        (2, 1, "a"),
        (3, 0, "n"),
        (3, 2, "X"),
        (3, 3, "X"),
    ]


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(texts, bare, st.data())
def test_a_range_is_searched_as_re_searches_it(desk: Desk, text: str, pattern: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) + 2))
    stop = data.draw(st.integers(0, len(text) + 2))
    first, last = min(start, len(text)), min(stop, len(text))
    spans = expected(pattern, text, first, last) if first <= last else []
    assert [hit[:2] for hit in hits(desk.ask(text, pattern, start=start, stop=stop))] == spans
    assert desk.ask(text, pattern, mode="count", start=start, stop=stop).count == len(spans)


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(texts, patterns, st.data())
def test_a_part_is_searched_as_a_text_of_its_own(desk: Desk, text: str, pattern: str, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(text) - 1))
    start = data.draw(st.integers(first, len(text)))
    stop = data.draw(st.integers(max(start, first + 1), len(text)))  # `re` and RE2 differ over an empty text
    part = text[first:stop]
    spans = [(at + first, end + first) for at, end in expected(pattern, part, start - first, len(part))]
    fields = {"start": start, "stop": stop, "first": first}
    assert [hit[:2] for hit in hits(desk.ask(text, pattern, **fields))] == spans
    assert desk.ask(text, pattern, mode="count", **fields).count == len(spans)


def test_a_pattern_sees_nothing_beside_a_part(desk: Desk) -> None:
    fields = {"start": 2, "stop": 5, "first": 2}
    assert [hit[:2] for hit in hits(desk.ask("→ab ab", r"\Ab|a\z|\bb ", **fields))] == [(2, 3), (4, 5)]
    assert desk.ask("→ab ab", r"\Ab|a\z", mode="count", **fields).count == 2
    assert desk.ask("→ab ab", r"\A|\bb", mode="count", start=2, stop=5).count == 0


@pytest.mark.slow
@settings(max_examples=examples(50), deadline=None)
@given(texts, patterns, st.integers(1, 3))
def test_going_on_from_next_finds_each_match_once(desk: Desk, text: str, pattern: str, limit: int) -> None:
    """As far as going on can: an empty match beside the last one is stepped over."""
    found: list[tuple[int, int]] = []
    at: int | None = 0
    while at is not None:
        some = desk.ask(text, pattern, start=at, limit=limit)
        assert some.count <= limit
        assert some.next is None or (some.count == limit and some.next > at)
        found += [hit[:2] for hit in hits(some)]
        at = some.next
    assert found == expected(pattern, text, 0, len(text))


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(st.text(f"ab{ENDS}é", min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 70))
def test_lines_are_those_of_splitlines(desk: Desk, text: str, first: int, last: int) -> None:
    found = desk.ask(text, "", mode="lines", start=first, stop=last)
    lines = text.splitlines(keepends=True)
    assert found.body.decode() == "".join(lines[first:last])
    assert found.count == len(found.body.decode())
    if first <= last:
        assert found.start == len("".join(lines[:first]))
        assert found.spans("lines") == [[found.start, found.start + found.count]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\x1d"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_lines_far_into_a_text(desk: Desk, end: str, ascii_only: bool) -> None:
    lines = [f"{'x' if ascii_only else '→'} line {number}{end}" for number in range(9000)]
    for first, last in ((0, 1), (1023, 1025), (4096, 4097), (8999, 9000), (2000, 6000), (9000, 9001), (5, 5)):
        found = desk.ask("".join(lines), "", mode="lines", start=first, stop=last)
        assert found.body.decode() == "".join(lines[first:last])
        assert found.start == sum(map(len, lines[:first]))


@pytest.mark.parametrize("char", ["y", "→", "\U0001f600"])
def test_a_long_match_is_placed_whole_and_quoted_in_part(desk: Desk, char: str) -> None:
    text = f"<{char * 5000}> <{char * 10}>"
    assert hits(desk.ask(text, "<[^>]*>")) == [
        (0, 5002, f"<{char * 5001}>"[:MATCH_CHARS_MAX]),
        (5003, 5015, f"<{char * 10}>"),
    ]
    assert desk.ask(text, "<[^>]*>").spans("find") == [[0, 1000], [5003, 5015]]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["a", "a|b", "[a-z]", "(?i)A"])
def test_a_hundred_thousand_matches(desk: Desk, pattern: str) -> None:
    text = "a→" * 100_000
    found = desk.ask(text, pattern, limit=100_000)
    assert (found.count, found.next) == (100_000, None)
    assert [start for start, _, _ in hits(found)] == [*range(0, 200_000, 2)]
    assert desk.ask(text, pattern, mode="count").count == 100_000


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["a", "a*", "", "→|b", r"\ba", "(?m)^a"])
def test_slices_of_time_add_up_to_the_whole(tmp_path: Path, pattern: str) -> None:
    text = "a→aa\n" * 1000
    hasty = Desk(tmp_path, slice_s=0)
    matches = (
        expected(pattern, text, 0, len(text)) if "(?m)" not in pattern else [(at, at + 1) for at in range(0, 5000, 5)]
    )
    for mode in ("find", "count"):
        at: int | None = 0
        count, slices, spans = 0, 0, []
        while at is not None:
            found = hasty.ask(text, pattern, mode=mode, start=at, stop=len(text), limit=100_000)
            spans += [(start, stop) for start, stop, _ in hits(found)] if mode == "find" else []
            count, slices, at = count + found.count, slices + 1, found.next
        assert (count, slices > 3) == (len(matches), True)
        assert spans == (matches if mode == "find" else [])
    hasty.close()


@pytest.mark.slow
@pytest.mark.parametrize("bytes_max", [20, 21, 100, 999, 2000, 2001])
def test_what_does_not_fit_one_reply_is_given_in_several(desk: Desk, bytes_max: int) -> None:
    text = "a line of text\n" * 100
    for mode, stop, expected in (("find", len(text), 100), ("lines", 90, 89 * 15)):
        at: int | None = 0 if mode == "find" else 1
        total, body = 0, b""
        while at is not None:
            found = desk.ask(text, "line", bytes_max=bytes_max, mode=mode, start=at, stop=stop, limit=1000)
            assert 0 < len(found.body) <= bytes_max
            total, body, at = total + found.count, body + found.body, found.next
        assert total == expected
        if mode == "lines":
            assert body.decode() == text[15 : 90 * 15]


def test_what_does_not_fit_any_reply_is_refused_with_both_sizes(desk: Desk) -> None:
    for mode, stop in (("find", 3000), ("lines", 1)):
        with pytest.raises(PolicyDenied) as caught:
            desk.ask("a" * 3000, "a+", bytes_max=1000, mode=mode, start=0, stop=stop)
        assert (caught.value.code, caught.value.limit) == ("context.read", 1000)
        assert "read it in slices" in str(caught.value)


# ------------------------------------------------------------------------------------------------ what is not searched


@pytest.mark.parametrize(
    "pattern",
    [
        *("(", "a)", "[", "a**", "+", "(?P<n>", "a{2,1}", "\\", "(?<=a)b", "a(?=b)", "(?!a)", r"(a)\1", "(?P=n)"),
        *(r"\Z", "(?>a)", "a++", "a{1001}", "((a{100}){100}){100}", "[[:nothing:]]"),
        *("(((((((.{99}){99}){99}){99}){99}){99}){99})", r"\pX", "(?x) a"),
    ],
)
def test_what_re2_does_not_take_is_refused_with_another_way(desk: Desk, pattern: str) -> None:
    for mode in ("find", "count"):
        with pytest.raises(PolicyDenied) as caught:
            desk.ask("aaaa", pattern, mode=mode)
        assert caught.value.code == "search.pattern"
        assert "use re over slices or context.lines()" in str(caught.value)
        assert len(str(caught.value)) < 2000
    assert desk.ask("aaaa", "a").count == 4


@pytest.mark.parametrize("pattern", ["(a{1000})", "(?:(?:a?){30}){30}a", "(.*)" * 500, "[^b]{500}|a{900}", "a\0b"])
def test_a_pattern_that_is_large_or_strange_is_searched_for_in_bounded_memory(desk: Desk, pattern: str) -> None:
    text = "a" * 999 + "\n" + "b" * 1000
    assert desk.ask(text, pattern, mode="count").count == len(expected(pattern, text, 0, len(text)))
    assert workers()
    assert all(worker.memory_info().rss < 300 << 20 for worker in workers())


# ------------------------------------------------------------------------------------------------------ how they end


def test_a_search_that_takes_too_long_is_ended_and_its_process_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with searching(tmp_path, HUGE) as (searcher, about):
            before = set(workers())
            assert (await searcher.ask(about("b", stop=10), deadline_s=PATIENCE_S)).count == 2
            first = set(workers()) - before
            late = await refusal(searcher.ask(about(SLOW, mode="count"), deadline_s=0.01))
            assert (late.code, late.limit) == ("context.search_wall", 10)
            assert "search a smaller range" in str(late)
            assert not any(worker.is_running() for worker in first), first
            assert (await searcher.ask(about("b", stop=10), deadline_s=PATIENCE_S)).count == 2

    drive(test())


def test_a_search_that_nobody_waits_for_leaves_no_process(tmp_path: Path) -> None:
    async def test() -> None:
        async with searching(tmp_path, HUGE) as (searcher, about):
            before = set(workers())
            task = asyncio.create_task(searcher.ask(about(LONG, mode="count"), deadline_s=PATIENCE_S))
            worker = await busy(before)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not worker.is_running()
            assert set(workers()) == before
            assert (await searcher.ask(about("b", stop=10), deadline_s=PATIENCE_S)).count == 2

    drive(test())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_process_that_died_while_it_waited_is_replaced(tmp_path: Path, number: signal.Signals) -> None:
    async def test() -> None:
        async with searching(tmp_path, "ab") as (searcher, about):
            before = set(workers())
            assert (await searcher.ask(about("b"), deadline_s=PATIENCE_S)).count == 1
            for worker in set(workers()) - before:
                worker.send_signal(number)
                await asyncio.to_thread(psutil.wait_procs, [worker], PATIENCE_S)
            assert (await searcher.ask(about("b"), deadline_s=PATIENCE_S)).count == 1

    drive(test())


@pytest.mark.slow
def test_two_search_at_once_and_the_third_waits_its_turn(tmp_path: Path) -> None:
    async def test() -> None:
        async with searching(tmp_path, "abcdefgh" * (1 << 16)) as (searcher, about):
            before = set(workers())
            asked = [searcher.ask(about("[aeg]", mode="count"), deadline_s=PATIENCE_S) for _ in range(6)]
            assert [found.count for found in await asyncio.gather(*asked)] == [3 << 16] * 6
            assert len(set(workers()) - before) == 2

    drive(test())


def test_long_searches_take_turns_with_a_short_one(tmp_path: Path) -> None:
    """As the agent does it: a question that was answered in part is asked again from where it stopped."""

    async def test() -> None:
        async with searching(tmp_path, HUGE) as (_, about):
            searcher = Searcher()

            async def all_of(pattern: str) -> None:
                at: int | None = 0
                while at is not None:
                    asked = about(pattern, mode="count", start=at)
                    at = (await searcher.ask(asked, deadline_s=PATIENCE_S)).next

            before = set(workers())
            tasks = [asyncio.create_task(all_of(LONG)) for _ in range(2)]
            await busy(before)
            short = asyncio.create_task(searcher.ask(about("b", stop=10), deadline_s=PATIENCE_S))
            await asyncio.wait([short], timeout=PATIENCE_S / 2)
            assert [task.done() for task in (short, *tasks)] == [True, False, False]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await searcher.aclose()

    drive(test())


@pytest.mark.slow
def test_closing_ends_what_is_under_way_and_who_waits_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with searching(tmp_path, HUGE) as (searcher, about):
            before = set(workers())
            tasks = [
                asyncio.create_task(searcher.ask(about(LONG, mode="count"), deadline_s=PATIENCE_S)) for _ in range(4)
            ]
            await busy(before)
            await searcher.aclose()
            assert set(workers()) == before
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, BelljarError) for outcome in outcomes), outcomes
            with pytest.raises(HostFault):
                await searcher.ask(about("b"), deadline_s=PATIENCE_S)
            await searcher.aclose()

    drive(test())


@pytest.mark.slow
def test_many_documents_are_traced_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        store = ContextStore(tmp_path)
        added = [store.add(f"document {number} is about → {number:07}\n" * 9, now_ns=1) for number in range(200)]
        searcher = Searcher()
        with contextlib.ExitStack() as opened:
            documents = [opened.enter_context(store.open(one.sha256)) for one in added]
            tracked = [Tracked(doc, one.folder, [(0, one.document.chars)]) for doc, one in enumerate(documents)]
            prompts = [bytes(one.read(0, one.document.chars)) for one in documents]
            found, complete = await searcher.trace(prompts, tracked, deadline_s=PATIENCE_S)
        await searcher.aclose()
        assert complete
        assert sorted(found) == [(doc, 0, one.chars) for doc, one in enumerate(added)]

    drive(test())


def test_an_account_that_is_looked_up_holds_up_no_search(tmp_path: Path) -> None:
    async def test() -> None:
        async with searching(tmp_path, "abc def ghi\n" * 400_000) as (searcher, about):
            folder, chars = about("x").folder, 400_000 * 12
            tracked = [Tracked(0, folder, [(0, chars)])]
            prompt = b"".join(b"%07d abc def ghi %07d\n" % (at, at) for at in range(100_000))
            before = set(workers())
            traces = [asyncio.create_task(searcher.trace([prompt], tracked, deadline_s=PATIENCE_S)) for _ in range(3)]
            (await busy(before)).suspend()  # it is still at it, however fast it is
            assert (await searcher.ask(about("def", stop=100), deadline_s=PATIENCE_S)).count == 8
            assert not any(trace.done() for trace in traces)
            for trace in traces:
                trace.cancel()
            await asyncio.gather(*traces, return_exceptions=True)

    drive(test())
