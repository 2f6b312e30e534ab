"""Names are checked where they come in, and are then of their own type: tenants and run ids."""

from __future__ import annotations

import asyncio
import copy
import json
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.audit.events import RunStarted
from belljar.errors import InvalidInput
from belljar.identity import BACKENDS, DEFAULT_TENANT, LANGUAGES, RunId, Tenant, TraceParent
from belljar.policy import Models
from tests.journals import OwnLog

ROOT = RunId("20261128T120000-5f0c1d9a7b3e")
# The alphabet of names, and what looks like it, hides in it, turns it round or ends it.
CHARS = "ab09._-/ABZ \0\n\r\t\\:~%\u00e9\u0430\u0661\u200b\u202e\u2066\ud800\uff41\U0001f600"
names = st.text(st.sampled_from(CHARS), max_size=12) | st.text(max_size=200)
level = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
tenants = st.lists(level, min_size=1, max_size=8).map("/".join)
run_ids = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,30}(\.[0-9]{5}){0,16}\Z")


def is_tenant(text: str) -> bool:
    """What a tenant's name is, written down a second time."""
    levels = text.split("/")
    return len(levels) <= 8 and all(
        0 < len(one) <= 63
        and set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
        and one[0] in "abcdefghijklmnopqrstuvwxyz0123456789"
        for one in levels
    )


# ------------------------------------------------------------------------------------------------------------- tenants


@given(names | tenants)
def test_a_tenant_is_what_the_rule_says_and_nothing_else(text: str) -> None:
    if is_tenant(text):
        tenant = Tenant(text)
        assert (tenant, hash(tenant), f"{tenant}") == (text, hash(text), text)
        return
    with pytest.raises(InvalidInput) as refused:
        Tenant(text)
    assert refused.value.code == "tenant.invalid"
    assert str(refused.value).isprintable()
    assert str(refused.value).isascii()


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "acme/", "/acme", "a//b", ".", "..", "acme/..", "../../etc", "~", "C:\\x", "%2e%2e", "run:r1"),
        *("Acme", "-a", "_a", "a b", " a", "a\n", "a\0", "a/b\0", "a" * 64, "/a" * 9, "a/b/c/d/e/f/g/h/i", "a" * 10**6),
        *("\u00e9", "\u0430cme", "a\u200bb", "a\u202eb", "\ud800", "\uff41", "\u0661"),
    ],
)
def test_what_is_not_a_tenant_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Tenant(name)
    message = str(refused.value)
    assert refused.value.code == "tenant.invalid"
    assert message.startswith(f"{name[:80]!a} is not a valid tenant name; use ")
    assert message.isprintable()
    assert len(message) < 1000


def test_a_tenant_knows_its_levels() -> None:
    tenant = Tenant("acme/research/alice")
    assert tenant.levels == ("acme", "acme/research", "acme/research/alice")
    assert tenant.parent == "acme/research"
    assert {type(level) for level in (*tenant.levels, tenant.parent)} == {Tenant}
    assert Tenant("acme").parent is None
    assert Tenant("acme").levels == ("acme",)
    assert DEFAULT_TENANT == "default"


@given(tenants)
def test_each_level_of_a_tenant_is_a_tenant(text: str) -> None:
    tenant = Tenant(text)
    assert tenant.levels[-1] == tenant
    assert [Tenant(level) for level in tenant.levels] == list(tenant.levels)
    assert [level.parent for level in tenant.levels] == [None, *tenant.levels[:-1]]


# ------------------------------------------------------------------------------------------------------------- run ids


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "r.", "r.1", "r.000001", "r.00001.1", ".00001", "-r", "_r", "r 1", 'r"', "r\n", "r/1", "r\0", "r:1"),
        *("r%d", 'a","b":"', "\u00e9", "\u0661", "r.0000\u0661", "\ud800", "x" * 129),
    ],
)
def test_what_is_not_a_run_id_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        RunId(text)
    assert refused.value.code == "run.invalid"
    assert str(refused.value).startswith(f"{text[:80]!a} is not a valid run id; use ")
    assert str(refused.value).isprintable()


def test_a_roots_id_says_when_it_began_in_utc() -> None:
    began = datetime(2026, 11, 28, 14, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert RunId.root(began, "5f0c1d9a7b3e") == ROOT == "20261128T120000-5f0c1d9a7b3e"
    assert (ROOT.parent, ROOT.depth) == (None, 0)


def test_a_childs_id_names_its_parent_and_depth() -> None:
    child = ROOT.child(2)
    assert child == f"{ROOT}.00002"
    assert (child.parent, child.depth) == (ROOT, 1)
    grandchild = child.child(1)
    assert grandchild == f"{ROOT}.00002.00001"
    assert (grandchild.parent, grandchild.depth) == (child, 2)
    assert {type(one) for one in (child, child.parent, grandchild)} == {RunId}


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_trace_parent_is_read_as_w3c_trace_context_has_it(flags: str) -> None:
    assert TraceParent.read(f"00-{TRACE}-{SPAN}-{flags}") == (TRACE, SPAN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}g-01",
        f"00-{TRACE}-{SPAN[:-1]}\u0661-01",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        "00-" + "a" * 100_000,
    ],
)
def test_what_is_no_trace_parent_to_the_letter_is_none(text: str) -> None:
    assert TraceParent.read(text) is None


def test_sorted_ids_are_the_tree_in_the_order_in_which_it_grew() -> None:
    children = [ROOT.child(number) for number in (1, 2, 9, 10, 11, 99_999)]
    tree = [ROOT, *(id_ for child in children for id_ in (child, child.child(1), child.child(10)))]
    next_second = RunId("20261128T120001-000000000000")
    assert sorted([next_second, *reversed(tree)]) == [*tree, next_second]


def test_a_tree_may_be_as_deep_as_a_policy_allows() -> None:
    _, kind = get_args(get_type_hints(Models, include_extras=True)["depth_max"])
    run = ROOT
    for depth in range(1, kind.most + 1):
        run = run.child(99_999)
        assert (run.depth, RunId(run)) == (depth, run)
    with pytest.raises(InvalidInput):
        run.child(1)
    for number in (-1, 100_000):
        with pytest.raises(InvalidInput):
            ROOT.child(number)


@given(run_ids)
def test_a_run_id_of_any_depth_comes_back_from_its_text(text: str) -> None:
    if len(text) <= 128:
        run = RunId(text)
        assert run.depth == text.count(".")
        assert run.parent is None or run == run.parent.child(int(text[-5:]))


# -------------------------------------------------------------------------------------------------------- as their text


@pytest.mark.parametrize("name", [Tenant("acme/research"), ROOT.child(1)])
def test_a_name_is_stored_and_sent_as_its_text(name: Any, tmp_path: Path) -> None:
    assert (copy.deepcopy(name), type(copy.deepcopy(name))) == (name, type(name))
    assert (
        json.dumps({"name": name}, separators=(",", ":")) == msgspec.json.encode({"name": name}, enc_hook=str).decode()
    )
    assert type(str(name)) is str  # which goes into the documents that msgspec writes by itself
    with closing(sqlite3.connect(":memory:")) as db:
        assert db.execute("SELECT ?, typeof(?), ? = ?", (name, name, name, str(name))).fetchone() == (name, "text", 1)
    assert {name: 1}[str(name)] == 1

    async def logged() -> None:
        log = OwnLog(tmp_path / "audit.db")
        await log.append(ROOT.child(1), RunStarted(tenant=str(name), contexts=[]))
        await log.aclose()

    asyncio.run(logged())


def test_languages_and_backends_are_said_once() -> None:
    assert LANGUAGES == ("restricted", "python")
    assert BACKENDS == ("jail", "docker", "gvisor")
