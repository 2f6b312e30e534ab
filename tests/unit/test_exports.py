"""A trajectory in other formats: what their own readers make of it, and what the page of a run holds."""

from __future__ import annotations

import contextlib
import hashlib
import html as markup
import json
import os
import re
import socket
import threading
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import atif as interchange
import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.audit import Record
from belljar.audit.content import Output, Prompt, PromptMessage
from belljar.audit.export.atif import atif
from belljar.audit.export.encoding import document, exact
from belljar.audit.export.html import html
from belljar.audit.export.jsonl import jsonl
from belljar.audit.export.otel import BATCH_SPANS_MAX, otel, send
from belljar.audit.export.rlm import rlm
from belljar.audit.export.strips import strips
from belljar.audit.export.texts import cut_at, fair_limit, highlighted, plain, visible
from belljar.audit.export.timelines import timeline
from belljar.audit.export.view import Badge
from belljar.audit.export.viewing import TEXT_CHARS_MAX, page_of
from belljar.audit.export.words import money, took
from belljar.audit.trajectory import Cell, Read, Run, Step, Turn
from belljar.errors import HostFault, InvalidInput
from belljar.glyphs import blanked, glyphs, has_glyph
from tests.rlms import iteration_of, types_of_rlms
from tests.unit.audit_events import made
from tests.unit.collectors import Collector
from tests.unit.trajectories import HOSTILE, START, Shelf, documents, story

BADGE = Badge(tone="good", word="The log verifies", detail="")


def page(run: Run, shelf: Shelf | None) -> str:
    return b"".join(html(run, shelf, badge=BADGE, exported_ns=START, version="1")).decode()


# ------------------------------------------------------------------------------------------------------ jsonl and JSON


def test_jsonl_is_the_records_byte_for_byte() -> None:
    bodies = [b'{"seq":1}', b'{"seq":2}']
    found = [
        Record(seq=1, time_ns=0, run="r", typed=made("run.finished", {}), prev="", hash="", body=body)
        for body in bodies
    ]
    lines = b"".join(jsonl(found)).splitlines()
    assert [hashlib.sha256(line).digest() for line in lines] == [hashlib.sha256(body).digest() for body in bodies]


class Kept(Shelf):
    """Prompts and outputs as well, by their names; what is not there was erased."""

    def prompt(self, run: str, name: str | None) -> Any:
        text = self.text(run, name)
        return Prompt("Be brief.", [PromptMessage("user", text), PromptMessage("assistant", "Go on.")])

    def output(self, run: str, name: str | None) -> Any:
        return Output(self.text(run, name), "warned")


def records_with(shelf: Shelf) -> list[Record]:
    def name(said: str) -> str:
        return str(shelf.put(said).content)

    events = [
        made("run.started", {"question": name("why?"), "setup": name("{}")}),
        made("query.requested", {"action": "a", "content": name("a prompt")}),
        made("query.completed", {"action": "a", "content": name("a reply")}),
        made("cell.started", {"content": name("1 + 1")}),
        made("cell.finished", {"content": name("printed")}),
        made("query.requested", {"action": "b", "content": name("a prompt")}),
        made("answer.given", {"content": "too-long", "output": name("printed before")}),
    ]
    return [
        Record(seq=seq, time_ns=0, run="r1", typed=event, prev="", hash="", body=b'{"seq":%d}' % seq)
        for seq, event in enumerate(events)
    ]


def test_jsonl_with_contents_has_each_once_behind_the_record_that_names_it_and_the_records_as_they_are() -> None:
    shelf = Kept()
    found = records_with(shelf)
    lines = b"".join(jsonl(found, shelf)).splitlines()
    assert [line for line in lines if b'"content"' not in line] == b"".join(jsonl(found)).splitlines()
    said = [json.loads(line) for line in lines if b'"content"' in line]
    assert [one.get("text") for one in said if "text" in one] == ["why?", "{}", "a reply", "1 + 1"]
    (prompt,) = (one["prompt"] for one in said if "prompt" in one)
    assert [message["text"] for message in prompt["messages"]] == ["a prompt", "Go on."]
    assert [one["output"]["stdout"] for one in said if "output" in one] == ["printed", "printed before"]
    assert [(one["content"], one["absent"]) for one in said if "absent" in one] == [("too-long", "content.erased")]
    assert lines.index(b'{"seq":1}') + 1 == next(at for at, line in enumerate(lines) if b'"prompt"' in line)


def test_jsonl_says_of_each_content_that_is_gone_why() -> None:
    shelf = Kept()
    found = records_with(shelf)
    shelf.erase()
    said = [json.loads(line) for line in jsonl(found, shelf) if b'"content"' in line]
    assert len(said) == 8
    assert all((one["absent"], one["why"]) == ("content.erased", "it was erased") for one in said)


def test_no_reader_of_json_loses_a_digit_or_meets_a_surrogate() -> None:
    assert [exact(2**53 - 1), exact(2**53), exact(-(2**53))] == [2**53 - 1, str(2**53), str(-(2**53))]
    line = document({"lone \udfff": "a\ud800b", "pair": "\U0001f514", "line": "\u2028"})
    assert json.loads(line) == {"lone \\udfff": "a\\ud800b", "pair": "\U0001f514", "line": "\u2028"}
    assert line.count(b"\n") == 1


# ---------------------------------------------------------------------------------------------------------------- ATIF


def refs(trajectory: interchange.Trajectory) -> list[str | None]:
    results = [result for step in trajectory.steps if step.observation for result in step.observation.results]
    return [ref.trajectory_id for result in results for ref in result.subagent_trajectory_ref or ()]


def test_atif_is_accepted_by_its_models_and_every_reference_resolves() -> None:
    shelf = Shelf()
    run = story(shelf, said=HOSTILE, children=3)
    found = interchange.Trajectory.model_validate_json(b"".join(atif(run, shelf, version="1")))
    assert (found.schema_version, found.trajectory_id, len(found.steps)) == ("ATIF-v1.8", "r1", 4)
    below = found.subagent_trajectories or []
    assert refs(found) == [one.trajectory_id for one in below] == ["r1.00001", "r1.00002", "r1.00003"]
    assert found.steps[0].message == HOSTILE[0]
    assert found.steps[1].tool_calls is not None
    assert HOSTILE[1] in found.steps[1].tool_calls[0].arguments["code"]


def test_the_metrics_of_atif_add_up_and_keep_the_last_nano_dollar() -> None:
    shelf = Shelf()
    run = story(shelf)
    query = run.turns[0].queries[0]
    query.spent.cost_nanousd += 2**53
    run.own.cost_nanousd += 2**53
    run.total.cost_nanousd += 2**53
    found = json.loads(b"".join(atif(run, shelf, version="1")))
    steps = [step["metrics"] for step in found["steps"] if "metrics" in step]
    assert sum(one["prompt_tokens"] for one in steps) == found["final_metrics"]["total_prompt_tokens"]
    assert found["final_metrics"]["extra"]["total_cost_nanousd"] == str(run.own.cost_nanousd)
    assert isinstance(steps[0]["extra"]["cost_nanousd"], str)


# ---------------------------------------------------------------------------------------------------------------- rlms


@pytest.fixture(scope="module")
def types() -> ModuleType:
    """Those of the reference library."""
    if (found := types_of_rlms()) is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no rlms: run `make rlms`")
        pytest.skip("no rlms: run `make rlms`")
    return found


def read_back(types: ModuleType, line: dict[str, Any]) -> Any:
    """An iteration by the library's own types, from a line of ours."""
    ours = {"type", "iteration", "timestamp"}
    return iteration_of(types, {key: value for key, value in line.items() if key not in ours})


def test_rlm_is_read_by_the_types_of_the_library_and_written_as_it_writes(types: ModuleType) -> None:
    shelf = Shelf()
    run = story(shelf, said=HOSTILE)
    head, *lines = (json.loads(line) for line in rlm(run, shelf))
    ours = {"type", "timestamp", "belljar"}
    known = types.RLMMetadata(**{key: value for key, value in head.items() if key not in ours})
    assert {key: value for key, value in head.items() if key not in ours} == known.to_dict()
    iterations = [read_back(types, line) for line in lines]
    for line, iteration in zip(lines, iterations, strict=True):
        written = iteration.to_dict()
        for call in (call for block in line["code_blocks"] for call in block["result"]["rlm_calls"]):
            call.pop("belljar")
        assert line.items() >= written.items()
    calls = iterations[0].code_blocks[0].result.rlm_calls
    assert sum(call.usage_summary.total_input_tokens for call in calls) > 0
    children = [call.metadata for call in calls if call.metadata is not None]
    assert [len(child["iterations"]) for child in children] == [1, 1]
    assert iterations[-1].final_answer == HOSTILE[0]


# ------------------------------------------------------------------------------------------------------ OpenTelemetry


def spans_of(run: Run, shelf: Shelf | None) -> list[dict[str, Any]]:
    requests = [json.loads(line) for line in otel(run, shelf, version="1")]
    scopes = [scope for one in requests for resource in one["resourceSpans"] for scope in resource["scopeSpans"]]
    assert all(0 < len(scope["spans"]) <= BATCH_SPANS_MAX for scope in scopes)
    return [span for scope in scopes for span in scope["spans"]]


def attributes_of(span: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: one["value"] for one in span["attributes"]}


def test_each_span_is_below_the_one_that_it_happened_in() -> None:
    shelf = Shelf()
    run = story(shelf, queries=300)
    spans = spans_of(run, None)
    by_id = {span["spanId"]: span for span in spans}
    assert len(by_id) == len(spans) > BATCH_SPANS_MAX
    assert len({span["traceId"] for span in spans}) == 1
    (root,) = (span for span in spans if "parentSpanId" not in span)
    assert root["name"] == "invoke_agent claude-opus-4-6"
    above = {
        (span["name"].split()[0], by_id[span["parentSpanId"]]["name"].split()[0]) for span in spans if span is not root
    }
    assert above == {
        ("turn", "invoke_agent"),
        ("chat", "turn"),
        ("execute_tool", "turn"),
        ("chat", "execute_tool"),
        ("invoke_agent", "execute_tool"),
    }
    assert spans_of(run, None) == spans  # an export made twice is the same spans


def test_numbers_of_spans_are_exact_and_failures_say_so() -> None:
    shelf = Shelf()
    run = story(shelf)
    run.total.cost_nanousd = 2**60 + 1
    root, *spans = spans_of(run, None)
    assert attributes_of(root)["belljar.cost.nanousd"] == {"intValue": str(2**60 + 1)}
    assert root["startTimeUnixNano"] == str(START)
    told = {attributes_of(span).get("belljar.outcome", {}).get("stringValue"): span["status"] for span in spans}
    assert told["failed"] == {"code": 2, "message": "failed"}
    assert told["completed"] == {"code": 1}


def test_nothing_of_what_was_said_is_in_a_span_unless_it_was_asked_for() -> None:
    shelf = Shelf()
    run = story(shelf, said=("a canary",))
    run.documents.clear()
    assert "a canary" not in json.dumps(spans_of(run, None))
    assert "a canary" in json.dumps(spans_of(run, shelf))


def test_a_prompt_in_a_span_has_its_instructions_and_messages_and_what_is_gone_says_why() -> None:
    shelf = Kept()
    run = story(shelf)
    query = run.turns[0].queries[0]
    query.prompt.kind = "prompt"
    query.stop_reason = "end_turn"

    def span() -> dict[str, Any]:
        found = next(span for span in spans_of(run, shelf) if span["name"].startswith("chat "))
        return {
            key.removeprefix("gen_ai."): json.loads(value["stringValue"])
            for key, value in attributes_of(found).items()
            if key in ("gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages")
        }

    said = span()
    assert said["system_instructions"] == [{"type": "text", "content": "Be brief."}]
    assert [(one["role"], one["parts"][0]["type"]) for one in said["input.messages"]] == [
        ("user", "text"),
        ("assistant", "text"),
    ]
    assert said["output.messages"][0]["finish_reason"] == "end_turn"
    root = attributes_of(spans_of(run, shelf)[0])
    assert json.loads(root["gen_ai.output.messages"]["stringValue"])[0]["finish_reason"] == run.status
    shelf.erase()
    gone = span()
    assert "system_instructions" not in gone
    for one in (gone["input.messages"], gone["output.messages"]):
        assert [part["content"] for message in one for part in message["parts"]] == ["[not here: it was erased]"]


def test_a_collector_gets_each_batch_at_the_usual_path() -> None:
    with Collector((200, b"{}"), (200, b'{"partialSuccess":{}}'), (200, b"")) as collector:
        assert send(collector.url, [b"1\n", b"2\n"]) == 2
        assert send(f"{collector.url}/own", [b"3\n"]) == 1
    assert collector.got == [("/v1/traces", b"1\n"), ("/v1/traces", b"2\n"), ("/own", b"3\n")]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, b"busy", "answered 503"),
        (404, b"", "answered 404"),
        (307, b"", "answered 307"),
        (200, b"<html>", "no OTLP"),
        (200, b"[]", "no OTLP"),
        (200, b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too\\u001b old"}}', "rejected 3 spans"),
    ],
)
def test_what_a_collector_did_not_take_is_an_error(status: int, body: bytes, words: str) -> None:
    with Collector((200, b""), (status, body)) as collector, pytest.raises(HostFault, match=words) as told:
        send(collector.url, [b"1", b"2", b"3"])
    assert len(collector.got) == 2
    assert str(told.value).isprintable()


@pytest.mark.parametrize("drips", [False, True])
def test_an_answer_that_does_not_end_is_given_up(drips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes as fast as it can by its size, one that never stops dripping by the time of the whole request."""
    if drips:
        monkeypatch.setattr("belljar.audit.export.otel._TIMEOUT_S", 0.5)
    over = threading.Event()

    def answer(server: socket.socket) -> None:
        wire, _ = server.accept()
        with wire, contextlib.suppress(OSError):
            wire.recv(4096)
            wire.sendall(b"HTTP/1.1 200 OK\r\n" + (b"" if drips else b"\r\n"))
            while not over.wait(0.05 if drips else 0):
                wire.sendall(b"X: y\r\n" if drips else b" " * 65536)

    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer, args=[server])
        answering.start()
        try:
            with pytest.raises(HostFault, match="longer than" if drips else "no OTLP"):
                send(f"http://127.0.0.1:{server.getsockname()[1]}", [b"1"])
        finally:
            over.set()
            answering.join()


def test_a_collector_that_is_not_there_or_no_collector_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(HostFault, match="cannot be reached"):
            send(f"http://127.0.0.1:{taken.getsockname()[1]}", [b"1"])
    for url in ("ftp://127.0.0.1", "127.0.0.1:4318", "http://", "http://user:word@127.0.0.1", "http://127.0.0.1:x"):
        with pytest.raises(InvalidInput, match="not the URL of a collector"):
            send(url, [b"1"])


# --------------------------------------------------------------------------------------------------- what is not there


def test_what_was_never_kept_and_what_was_erased_says_so_in_every_format() -> None:
    kept, gone = Shelf(), Shelf()
    never = story(kept, said=("secret",))
    for text in (never.question, never.turns[0].cells[0].code):
        assert text is not None
        text.content = None
    erased = story(gone, said=("secret",))
    gone.erase()
    for run, shelf, why in ((never, kept, "not kept"), (erased, gone, "it was erased")):
        assert f'<p class="gone">{why}' in page(run, shelf)
        (whole,) = atif(run, shelf, version="1")
        assert f"[not here: {why}" in json.loads(whole)["steps"][0]["message"]
        line = json.loads(list(rlm(run, shelf))[1])
        assert f"[not here: {why}" in line["code_blocks"][0]["code"]
    assert "No. secret" in page(never, kept)
    assert "No. secret" not in page(erased, gone)


# --------------------------------------------------------------------------------------------------------------- texts


class Reader(HTMLParser):
    """The texts of a page, and its tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@given(st.text())
def test_any_text_is_text_and_has_a_glyph_for_each_character(text: str) -> None:
    reader = Reader()
    reader.feed(f"<p>{visible(text)}</p>")
    reader.close()
    assert [tag for tag, _ in reader.tags if tag != "b"] == ["p"]
    assert all(has_glyph(char) or char in "\n\t" for char in "".join(reader.said))
    assert glyphs("".join(reader.said)) == glyphs(text)
    value = str(plain(text))
    assert not set(value) & set("<>\"'\n\t")
    assert markup.unescape(value) == glyphs(text)


@pytest.mark.parametrize(
    "char", ["\u034f", "\u115f", "\u17b4", "\u180b", "\u2800", "\u3164", "\ufe0f", "\uffa0", "\U000e0100", "\U000e01ef"]
)
def test_what_a_model_reads_and_nobody_sees_is_written_out(char: str) -> None:
    """Variation selectors and fillers carry any text behind one visible letter."""
    assert char.isprintable(), "Python would show it"
    written = char.encode("unicode_escape").decode()
    assert glyphs(f"a{char}b") == f"a{written}b"
    assert blanked(f"a{char}b") == "a b"
    assert visible(f"a{char}b") == f"a<b>{written}</b>b"


@given(st.text(), st.integers(1, 100))
def test_a_cut_text_keeps_its_ends_and_says_how_much_is_missing(text: str, chars_max: int) -> None:
    head, left_out, tail = cut_at(text, chars_max)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + left_out + len(tail) == len(text)
    assert len(head) + len(tail) == min(len(text), chars_max)


@given(st.lists(st.integers(0, 1000)), st.integers(0, 10_000))
def test_a_fair_limit_keeps_within_the_whole_and_cuts_only_what_is_long(lengths: list[int], total: int) -> None:
    limit = fair_limit(lengths, total)
    assert sum(min(length, limit) for length in lengths) <= total
    if sum(lengths) <= total:
        assert limit >= max(lengths, default=0)
    else:
        assert sum(min(length, limit + 1) for length in lengths) > total


@pytest.mark.parametrize(
    ("nanousd", "words"),
    [(0, "$0"), (1, "<$0.000001"), (1250_000, "$0.001250"), (10**7, "$0.0100"), (1234_567_890_123, "$1,234.5679")],
)
def test_money_is_never_nothing_that_was_something(nanousd: int, words: str) -> None:
    assert money(nanousd) == words


def test_durations_have_three_digits() -> None:
    found = [took(ns) for ns in (None, 0, 999_400_000, 999_600_000, 12_345_000_000, 125 * 10**9, 7260 * 10**9)]
    assert found == ["–", "0 ms", "999 ms", "1 s", "12.3 s", "2 min 5 s", "2 h 1 min"]


# -------------------------------------------------------------------------------------------------------------- strips

RANGES = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(lambda both: (min(both), max(both))))


def run_of(chars: int, ranges: list[tuple[int, int]]) -> Run:
    whole = documents("c", chars)
    steps: list[Step] = []
    for number, (start, stop) in enumerate(ranges):
        whole.read.add(start, min(stop, chars))
        steps.append(Read(seq=number, at_ns=number, line=1, doc=0, reads=1, spans=[(start, stop)]))
    cell = Cell(number=1, seq=0, started_ns=0, code=Shelf().put(""), steps=steps)
    return Run(run="r", depth=0, started_ns=0, documents=[whole], turns=[Turn(number=0, cells=[cell])])


@given(st.integers(0, 2000), RANGES)
def test_a_strip_shows_each_character_where_it_is(chars: int, ranges: list[tuple[int, int]]) -> None:
    (strip,) = strips(run_of(chars, ranges))
    read = [any(start <= at < stop for start, stop in ranges) for at in range(chars)]
    assert [one.start for one in strip.segments] == [0, *(one.stop for one in strip.segments[:-1])]
    assert strip.segments[-1].stop == strip.columns
    for one in strip.segments:
        for column in range(one.start, one.stop):
            inside = read[column * chars // strip.columns : (column + 1) * chars // strip.columns]
            assert one.read == (2 if inside and all(inside) else 1 if any(inside) else 0)
            assert ("never read" in one.title) == (not any(inside))
    never = [tuple(map(int, re.sub(",", "", one).split("–"))) for one in strip.never_read]
    assert sum(stop - start for start, stop in never) == read.count(False)


def test_a_column_names_the_first_who_read_it_and_counts_the_others() -> None:
    (strip,) = strips(run_of(1, [(0, 1)] * 7))
    assert strip.segments[0].title == ("characters 0–1; read by cell 1 at +0 ms and 6 more times; never shown")


# ------------------------------------------------------------------------------------------------------- the timeline


def test_the_timeline_shows_where_a_run_read_a_mark_for_each_part_in_which_it_did() -> None:
    run = run_of(10, [(0, 1)] * 3)
    run.ended_ns = 1000
    for step, at_ns in zip(run.steps(), (0, 2, 996), strict=True):
        step.at_ns = at_ns
    (lane,) = timeline([(run, "root", "r")], {}).lanes
    assert (lane.reads, lane.marks) == (3, "M0 30v8h4v-8zM996 30v8h4v-8z")
    run.turns[0].cells[0].steps.clear()
    (lane,) = timeline([(run, "root", "r")], {}).lanes
    assert (lane.reads, lane.marks) == (0, "")


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_policy_is_the_first_thing_in_the_page_and_names_our_script_and_style() -> None:
    shelf = Shelf()
    found = page(story(shelf), shelf)
    assert found.startswith('<!doctype html>\n<html lang="en">\n<head>\n<meta http-equiv="Content-Security-Policy"')
    policy = markup.unescape(re.findall(r'Security-Policy" content="([^"]*)"', found)[0])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert len(re.findall(r"</script", found)) == 2


def test_no_attribute_of_the_page_holds_a_tag_or_a_character_without_a_glyph() -> None:
    shelf = Shelf()
    reader = Reader()
    reader.feed(page(story(shelf, said=HOSTILE, cells=len(HOSTILE)), shelf))
    names = {name for _, attributes in reader.tags for name in attributes}
    assert names.isdisjoint({"style", "src", "srcdoc", "action", "onerror", "onload", "onclick"})
    for _, attributes in reader.tags:
        for value in attributes.values():
            assert value is None or value == glyphs(value)
            assert value is None or "<b>" not in value
    assert {tag for tag, _ in reader.tags}.isdisjoint({"img", "iframe", "link", "base", "object"})


def test_a_page_is_bounded_whatever_the_run_did() -> None:
    """Four million characters of prompts, as a run over a million tokens has them."""
    shelf = Shelf()
    run = story(shelf, said=["word " * 4000 + str(number) for number in range(200)], queries=80)
    found = page(run, shelf)
    assert TEXT_CHARS_MAX < len(found) < 3_000_000
    assert "characters left out here" in found
    view = page_of(run, shelf, BADGE, exported_ns=START, version="1")
    assert view.cut
    many = page_of(story(Shelf(), queries=2000, cells=30), None, BADGE, exported_ns=START, version="1")
    cells = [cell for one in many.runs for cell in one.cells]
    assert sum(len(cell.queries) for cell in cells) <= 1200
    assert sum(len(cell.queries) + len(cell.more) for cell in cells) < 30 * 2000
    assert any(fact.label == "not on this page" for cell in cells for fact in cell.notes)


def test_a_page_tells_what_a_tree_cost_and_where_it_was_refused() -> None:
    shelf = Shelf()
    run = story(shelf)
    view = page_of(run, shelf, BADGE, exported_ns=START, version="1")
    assert [one.name for one in view.tree] == ["root", ".00001", ".00002"]
    assert view.tree[0].cost == money(run.total.cost_nanousd)
    assert {one.code for one in view.refusals} == {"quota.calls", "read.out_of_range"}
    anchors = {cell.anchor for one in view.runs for cell in one.cells}
    assert {one.anchor for one in view.refusals} <= anchors
    assert [one.label for one in view.quotas] == ["quota.calls"]
    assert "scope acme, period day, limit 100" in view.quotas[0].value
    assert view.strips[0].never_read_count > 0


CODE = """for part in context: # all <of> it
    ask(f'''who's
\\"there\\"''', 0x1f)
"not closed
FINAL(forty)
"""


def test_code_says_what_its_words_are_and_stays_the_same_text() -> None:
    shown = str(highlighted(CODE))
    kinds = re.findall(r"<span class=w-(\w+)>", shown)
    assert kinds == ["keyword", "keyword", "own", "comment", "string", "number", "string", "own"]
    assert markup.unescape(re.sub(r"</?span[^>]*>", "", shown)) == CODE


@pytest.mark.parametrize("text", [*HOSTILE, *(f"'{one}" for one in HOSTILE), "'''" + "\\'" * 30_000, '"""' * 30_000])
def test_no_code_becomes_more_than_text_and_spans(text: str) -> None:
    shown = str(highlighted(text))
    bare = re.sub(r"<span class=w-(?:comment|string|number|keyword|own)>|</span>|</?b>", "", shown)
    assert "<" not in bare
    assert ">" not in bare
    assert markup.unescape(bare) == markup.unescape(re.sub(r"</?b>", "", str(visible(text))))
