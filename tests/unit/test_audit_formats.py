"""The bytes of each version of the log, which must verify and decode for ever, and the one way to write JSON.

`audit_golden/vN.jsonl` has a line for each record of a whole log of version N, with every event and every shape of it.
A file of an older version is never changed; a new version adds one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from belljar.audit import verify
from belljar.audit.canonical import canonical
from belljar.audit.events import EVENTS, VERSION, encoded, host_run
from belljar.audit.read import parse
from belljar.identity import RunId
from tests.journals import OwnLog
from tests.unit.audit_events import NEEDED, made

GOLDEN = Path(__file__).with_name("audit_golden")
VERSIONS = range(1, VERSION + 1)
# The first version of each event that is not of the first.
SINCE = {"quota.changed": 3, "query.reused": 3, "canary.seen": 4, "content.erased": 4, "log.read": 4}
SINCE |= {"log.accepted": 4, "key.changed": 4}
SINCE |= dict.fromkeys(("service.changed", "http.request", "access.changed", "hook.changed", "hook.delivered"), 5)


def lines(version: int) -> list[bytes]:
    return GOLDEN.joinpath(f"v{version}.jsonl").read_bytes().splitlines()


# -- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_log_of_each_version_has_every_event_and_verifies(version: int, tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    asyncio.run(OwnLog(path).aclose())
    with closing(sqlite3.connect(path)) as db, db:
        for seq, body in enumerate(lines(version), 1):
            db.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?)",
                (seq, json.loads(body)["run"], body, hashlib.sha256(body).digest()),
            )
    report = verify(path)
    assert (report.problems, report.records) == ([], len(lines(version)))
    found = [parse(seq, body) for seq, body in enumerate(lines(version), 1)]
    assert {record.event for record in found} == {name for name in EVENTS if SINCE.get(name, 1) <= version}
    assert all(json.loads(record.body)["v"] == version for record in found)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_says_the_same(version: int) -> None:
    """As far as it can: what is new in a version comes last in its file."""
    found = [parse(seq, body).typed for seq, body in enumerate(lines(version), 1)]
    assert found == [parse(seq, body).typed for seq, body in enumerate(lines(VERSION), 1)][: len(found)]


def test_this_version_writes_the_same_bytes(tmp_path: Path) -> None:
    golden = [parse(seq, body) for seq, body in enumerate(lines(VERSION), 1)]

    async def main() -> None:
        times = iter(record.time_ns for record in golden)
        log = OwnLog(tmp_path / "audit.db", clock=lambda: next(times))
        for record in golden:
            if host_run(record.typed) is not None:
                await log.journal.submit(log.host_entry(record.typed))
            else:
                await log.append(RunId(record.run), record.typed)
        await log.aclose()

    asyncio.run(main())
    with closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        assert [body for (body,) in db.execute("SELECT body FROM records ORDER BY seq")] == lines(VERSION)


def assert_later(version: int, number: str, old: bytes, new: bytes) -> None:
    """The first record of this event, so changed, cannot be of the version before."""
    body = next(body for body in lines(version) if f'"event":"{number}"'.encode() in body)
    fields = json.loads(body.replace(old, new, 1) if old else body)
    with pytest.raises(ValueError, match=f"is a {number} of a later version than it says"):
        parse(fields["seq"], canonical({**fields, "v": version - 1}))


def test_a_record_of_version_1_is_held_to_its_fields() -> None:
    body = lines(1)[2].replace(b'"code_bytes":9', b'"code_bites":9')
    with pytest.raises(ValueError, match=r"is not a valid cell\.started: Object contains unknown field `code_bites`"):
        parse(3, body)


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        ("quota.changed", b"", b""),
        ("query.reused", b"", b""),
        ("query.denied", b'"code":', b'"scope":"acme","code":'),
        ("request.refused", b'"code":', b'"held":0,"code":'),
        ("query.denied", b'"code":', b'"waited_ms":0,"code":'),
        ("answer.given", b'"cell":', b'"stays":true,"cell":'),
        ("query.completed", b'"calls":', b'"cache_read_tokens":1,"calls":'),
        ("query.completed", b'"calls":', b'"cache_write_tokens":1,"calls":'),
        ("query.completed", b'"calls":', b'"cache_write_1h_tokens":1,"calls":'),
    ],
)
def test_a_record_of_version_2_has_nothing_of_version_3(number: str, old: bytes, new: bytes) -> None:
    assert_later(3, number, old, new)


_NAME = b'"' + b"e" * 64 + b'"'


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        ("content.erased", b"", b""),
        ("canary.seen", b"", b""),
        ("log.read", b"", b""),
        ("log.accepted", b"", b""),
        ("key.changed", b"", b""),
        ("run.started", b'"contexts":', b'"question":%b,"contexts":' % _NAME),
        ("run.started", b'"contexts":', b'"setup":%b,"contexts":' % _NAME),
        ("run.started", b'"contexts":', b'"seed":"5eed","contexts":'),
        ("run.started", b'"contexts":', b'"replays":"r1","contexts":'),
        ("run.started", b'"contexts":', b'"forks":"r1","contexts":'),
        ("run.started", b'"contexts":', b'"from_turn":2,"contexts":'),
        ("answer.given", b'"cell":', b'"output":%b,"cell":' % _NAME),
        ("query.reused", b'"cell":', b'"reply":%b,"cell":' % _NAME),
        ("quota.changed", b'"by":', b'"depth":2,"by":'),
        *(
            (event, b'"data":{', b'"data":{"content":%b,' % _NAME)
            for event in (
                *("cell.started", "cell.finished", "answer.given", "context.read"),
                *("query.requested", "query.completed", "query.reused"),
            )
        ),
    ],
)
def test_a_record_of_version_3_has_nothing_of_version_4(number: str, old: bytes, new: bytes) -> None:
    assert_later(4, number, old, new)


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        *((name, b"", b"") for name, since in SINCE.items() if since == 5),
        ("run.started", b'"contexts":', b'"by":"key:k1","contexts":'),
        ("context.searched", b'"data":{', b'"data":{"content":%b,' % _NAME),
        ("answer.void", b'"data":{', b'"data":{"content":%b,' % _NAME),
    ],
)
def test_a_record_of_version_4_has_nothing_of_version_5(number: str, old: bytes, new: bytes) -> None:
    assert_later(5, number, old, new)


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        ("run.started", b'"contexts":', b'"hash_seed":0,"contexts":'),
        ("http.request", b'"data":{', b'"data":{"unlogged":1,'),
    ],
)
def test_a_record_of_version_5_has_nothing_of_version_6(number: str, old: bytes, new: bytes) -> None:
    assert_later(6, number, old, new)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_records_since_version_2_need_only_the_fast_reader(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slow: list[int] = []
    monkeypatch.setattr("belljar.audit.read._parse", lambda seq, *_: slow.append(seq))
    for seq, body in enumerate(lines(version), 1):
        parse(seq, body)
    assert slow == [2]  # it has a lone surrogate


def test_there_is_an_example_of_each_event() -> None:
    assert set(NEEDED) == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_written_in_its_canonical_bytes(name: str) -> None:
    event = made(name, {})
    assert encoded(event) == canonical(msgspec.to_builtins(event)) == rfc8785.dumps(msgspec.to_builtins(event))


@given(st.text(st.characters(), max_size=30), st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9_]{0,9}\Z"), st.text()))
def test_whatever_its_texts_say(text: str, facts: dict[str, str]) -> None:
    event = made("run.started", {"tenant": text, "facts": facts})
    assert encoded(event) == canonical(msgspec.to_builtins(event))


# -- canonical JSON --------------------------------------------------------------------------------------------------

exact = st.integers(-(2**53) + 1, 2**53 - 1)
scalars = st.none() | st.booleans() | exact | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ours = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_canonical_bytes_are_those_of_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


def test_keys_are_sorted_by_utf_16_as_rfc_8785_says() -> None:
    value = {"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "\r": 4, "1": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical(value)).values()) == [4, 5, 6, 7, 3, 2, 1]
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, 2**63 - 1, -(2**63) + 1, 1795392000000000000])
def test_integers_have_all_their_digits(value: int) -> None:
    assert canonical(value) == str(value).encode()


@given(ours)
def test_canonical_bytes_read_back_to_the_value_that_writes_them(value: Any) -> None:
    data = canonical(value)
    assert canonical(json.loads(data)) == data


@given(st.text(st.characters(categories=["Cs", "Lu", "Po"]), max_size=12))
def test_surrogates_in_any_order_read_back(value: str) -> None:
    data = canonical(value)
    assert canonical(json.loads(data.decode())) == data


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf"), b"bytes", {1, 2}, object(), {1: "a"}, [0.5]])
def test_what_has_no_single_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)
