"""What a tenant's stored contexts may take up, which is counted where they lie: the limit holds at every moment."""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from belljar.audit import records
from belljar.bounds import Bound, parse_bound
from belljar.context import ContextStore, ContextStores, FileSource
from belljar.context import room as room_module
from belljar.context.incoming import KEPT_NS
from belljar.errors import HostFault, InvalidInput, LedgerUnavailable, QuotaExceeded
from belljar.identity import Tenant
from belljar.quotas import Quotas, context_bounds, open_quotas
from tests.waiting import PATIENCE_S

NOW_NS = 1_800_000_000_000_000_000
MIB = 2**20
ACME, RESEARCH, ALICE = Tenant("acme"), Tenant("acme/research"), Tenant("acme/research/alice")


class Shelf(ContextStores):
    """All stores below a folder, with limits that a test sets."""

    def __init__(self, root: Path) -> None:
        self.limits: dict[str, int] = {}
        super().__init__(root, self._limits_of)

    def _limits_of(self, tenant: Tenant) -> Mapping[Tenant, int]:
        return {level: self.limits[level] for level in tenant.levels if level in self.limits}

    def add(self, tenant: Tenant, source: Any) -> str:
        return self.of(tenant).add(source, now_ns=NOW_NS).sha256


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "contexts")


def text(letter: str, size: int = 1000) -> str:
    return letter * size


def cost(shelf: Shelf, letter: str = "z") -> int:
    """What `text` takes up."""
    stranger = Tenant("stranger")
    sha256 = shelf.add(stranger, text(letter))
    size = shelf.sizes()[stranger]
    shelf.of(stranger).rm(sha256)
    return size


def refused(act: Callable[[], object]) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as caught:
        act()
    return caught.value


def left_over(root: Path) -> list[Path]:
    """What lies in any `incoming`, which is empty when nobody adds anything."""
    return list(root.glob("*/incoming/*"))


# -- one process -------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_its_numbers_and_leaves_nothing(shelf: Shelf, tmp_path: Path) -> None:
    one = cost(shelf)
    shelf.limits["acme"] = 2 * one
    for letter in "ab":
        shelf.add(ACME, text(letter))
    refusal = refused(lambda: shelf.add(ACME, text("c")))
    assert (refusal.code, refusal.dimension, refusal.scope, refusal.period) == (
        "context.stored",
        "context_bytes",
        "acme",
        "now",
    )
    assert (refusal.limit, refusal.used, refusal.observed) == (2 * one, 2 * one, 3 * one)
    assert str(refusal).startswith(f"tenant acme has 0 of {2 * one} bytes left for stored contexts on this host")
    assert "belljar context rm" in str(refusal)
    assert refusal.told is None
    assert shelf.sizes()[ACME] == 2 * one
    assert len(shelf.of(ACME).ls()) == 2
    assert left_over(tmp_path / "contexts") == []


def test_what_is_counted_is_what_lies_on_the_disk(shelf: Shelf, tmp_path: Path) -> None:
    store = shelf.of(ACME)
    store.add("äöü" * 1000, name="one", now_ns=NOW_NS)
    store.add({"a": "b", "c": ["d"]}, name="two", now_ns=NOW_NS)
    with store.lend("for a run", now_ns=NOW_NS):
        parts = [path for path in tmp_path.rglob("*") if path.name in ("text", "index", "lines", "directory")]
        assert {path.name for path in parts} == {"text", "index", "lines", "directory"}
        assert shelf.sizes() == {ACME: sum(path.stat().st_size for path in parts)}


def test_removal_frees_its_room(shelf: Shelf) -> None:
    one = cost(shelf)
    shelf.limits["acme"] = one
    store = shelf.of(ACME)
    for letter, free in (
        ("a", lambda sha256: store.rm(sha256)),
        ("b", lambda _: store.gc(0, now_ns=NOW_NS + KEPT_NS)),
    ):
        sha256 = shelf.add(ACME, text(letter))
        refused(lambda: shelf.add(ACME, text("c")))
        free(sha256)
    with store.lend(text("d"), now_ns=NOW_NS):
        refused(lambda: shelf.add(ACME, text("c")))
        refused(lambda: store.lend(text("e"), now_ns=NOW_NS))
    shelf.add(ACME, text("c"))


def test_a_limit_counts_for_all_tenants_below_it_and_for_no_other(shelf: Shelf) -> None:
    one = cost(shelf)
    shelf.limits = {"acme": 3 * one, "acme/research": 2 * one}
    shelf.add(ACME, text("a"))
    for tenant in (RESEARCH, ALICE):  # nothing is shared between two of them
        shelf.add(tenant, text("a"))
    refusal = refused(lambda: shelf.add(ALICE, text("b")))
    assert (refusal.scope, refusal.used, refusal.limit) == ("acme", 3 * one, 3 * one)
    assert refusal.told is not None
    assert not any(digit in refusal.told for digit in "0123456789")
    shelf.limits["acme"] = 10 * one
    assert refused(lambda: shelf.add(ALICE, text("b"))).scope == "acme/research"
    for tenant in (ACME, Tenant("acme/sales")):
        shelf.add(tenant, text("b"))


@pytest.mark.parametrize("other", ["acme2", "acme-x", "acm", "acme.research", "acme2/research"])
def test_a_tenant_named_like_the_beginning_of_another_is_another(shelf: Shelf, other: str) -> None:
    one = cost(shelf)
    shelf.limits = {"acme": one, "acme/res": one}
    for letter in "abc":
        shelf.add(Tenant(other), text(letter))
    shelf.add(RESEARCH, text("a"))
    assert refused(lambda: shelf.add(ACME, text("b"))).used == one
    shelf.limits["acme"] = 5 * one
    shelf.add(Tenant("acme/res"), text("b"))
    assert refused(lambda: shelf.add(Tenant("acme/res"), text("c"))).used == one


def test_what_is_already_stored_costs_nothing_again(shelf: Shelf, tmp_path: Path) -> None:
    long = "0123456789abcdef" * (3 * MIB // 16)
    file = tmp_path / "long.txt"
    file.write_text(long)
    sha256 = shelf.add(ACME, long)
    shelf.limits["acme"] = 0
    assert shelf.add(ACME, long) == sha256
    assert shelf.add(ACME, file) == sha256
    assert shelf.add(ACME, io.BytesIO(long.encode())) == sha256
    assert refused(lambda: shelf.add(ACME, "x" + long)).limit == 0
    assert refused(lambda: shelf.add(ACME, "x")).limit == 0


def test_a_limit_below_what_is_there_lets_nothing_in_and_takes_nothing_away(shelf: Shelf) -> None:
    one = cost(shelf)
    shelf.add(ACME, text("a"))
    shelf.limits["acme"] = one // 2
    assert refused(lambda: shelf.add(ACME, text("b"))).observed == 2 * one
    assert len(shelf.of(ACME).ls()) == 1
    shelf.limits.clear()
    shelf.add(ACME, text("b"))


# -- on the way in -----------------------------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """Text that never ends; whoever reads far more than there is room for has failed."""

    def __init__(self, line: bytes, read_max: int) -> None:
        self._lines = line * (2**17 // len(line))
        self._line_bytes = len(line)
        self._read = 0
        self._read_max = read_max

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        begun = self._read % self._line_bytes
        block = self._lines[begun : begun + min(len(buffer), 2**16)]
        self._read += len(block)
        assert self._read < self._read_max, "it reads on although there is no more room"
        buffer[: len(block)] = block
        return len(block)


@pytest.mark.parametrize(
    ("line", "json_lines"),
    [(b"a line of text\n", False), (b'"an item"\n', True), (b'""\n', True)],
    ids=["text", "items", "empty-items"],
)
def test_a_stream_is_refused_as_soon_as_it_is_over_the_limit_and_leaves_nothing(
    shelf: Shelf, tmp_path: Path, line: bytes, json_lines: bool
) -> None:
    shelf.limits["acme"] = 3 * MIB
    source = Endless(line, 5 * MIB)
    refusal = refused(lambda: shelf.add(RESEARCH, FileSource(source, json_lines=json_lines)))  # type: ignore[arg-type]
    assert (refusal.code, refusal.scope, refusal.used) == ("context.stored", "acme", 0)
    assert refusal.observed is not None
    assert 3 * MIB < refusal.observed < 4 * MIB
    assert left_over(tmp_path / "contexts") == []
    assert shelf.sizes().get(RESEARCH, 0) == 0


def in_a_file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def in_a_folder(folder: Path) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    for number in range(8):
        (tree / f"{number}.txt").write_bytes(b"%d" % number * MIB)
    return tree


LONG = b"0123456789abcde\n" * (8 * MIB // 16)


@pytest.mark.parametrize(
    "source",
    [
        lambda _: LONG.decode(),
        lambda _: ["x" * MIB] * 8,
        lambda _: {str(number): "x" * MIB for number in range(8)},
        in_a_file("plain.txt", LONG),
        in_a_file("packed.gz", gzip.compress(LONG)),
        in_a_file("wide.txt", LONG.decode().encode("utf-16")),
        in_a_folder,
    ],
    ids=["str", "list", "dict", "file", "gzip", "utf-16", "folder"],
)
def test_whatever_comes_in_is_refused_before_all_of_it_is_there(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Callable[[Path], Any]
) -> None:
    monkeypatch.setattr(ContextStore, "_publish", lambda *_: pytest.fail("all of it was taken in"))
    shelf.limits["acme"] = 3 * MIB
    given = source(tmp_path)
    refusal = refused(lambda: shelf.add(ACME, given))
    assert refusal.observed is not None
    assert 3 * MIB < refusal.observed < 6 * MIB
    refused(lambda: shelf.of(ACME).lend(given, now_ns=NOW_NS))
    assert left_over(tmp_path / "contexts") == []


def test_room_that_comes_while_it_is_taken_in_counts(shelf: Shelf) -> None:
    shelf.limits["acme"] = 2 * MIB

    class Raising(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 3 * MIB // 2:
                shelf.limits["acme"] = 20 * MIB
            return super().read(size)

    shelf.add(ACME, Raising(LONG))
    assert shelf.sizes()[ACME] > len(LONG)


# -- several at once ---------------------------------------------------------------------------------------------------


def test_of_two_that_are_added_at_the_same_moment_only_one_takes_the_last_room(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one has counted, and goes on only when the second has counted too, or waits until it may."""
    one = cost(shelf)
    second_is_there = threading.Event()
    counted = 0

    class Counting(Shelf):
        def sizes(self, root: Tenant | None = None) -> dict[Tenant, int]:
            nonlocal counted
            found = super().sizes(root)
            counted += 1
            if counted == 1:
                assert second_is_there.wait(PATIENCE_S)
            else:
                second_is_there.set()
            return found

    monkeypatch.setattr("belljar.context.room.time.sleep", lambda _: second_is_there.set())
    counting = Counting(tmp_path / "contexts")
    counting.limits["acme"] = one
    said: list[object] = []

    def add(tenant: Tenant, letter: str) -> None:
        try:
            said.append(counting.add(tenant, text(letter)))
        except QuotaExceeded as refusal:
            said.append(refusal.used)

    adders = [threading.Thread(target=add, args=pair) for pair in ((RESEARCH, "a"), (ALICE, "b"))]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join(PATIENCE_S)
    assert sorted(isinstance(word, str) for word in said) == [False, True]
    assert one in said
    assert sum(shelf.sizes().values()) == one


ADDS = """
import sys
from pathlib import Path
from belljar.errors import QuotaExceeded
from belljar.identity import Tenant
from tests.unit.test_context_quota import Shelf, text

root, tenant, limit, letters = sys.argv[1:]
shelf = Shelf(Path(root))
shelf.limits["acme"] = int(limit)
print("ready", flush=True)
sys.stdin.readline()
added = 0
for letter in letters:
    try:
        shelf.add(Tenant(tenant), text(letter))
        added += 1
    except QuotaExceeded:
        pass
print(added, flush=True)
"""


def test_two_processes_that_add_at_once_fill_the_room_and_never_pass_it(shelf: Shelf, tmp_path: Path) -> None:
    one = cost(shelf)
    adders = [
        subprocess.Popen(
            [sys.executable, "-c", ADDS, str(tmp_path / "contexts"), tenant, str(10 * one), letters],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for tenant, letters in ((RESEARCH, "abcdefghijklmnop"), (Tenant("acme/sales"), "ABCDEFGHIJKLMNOP"))
    ]
    for adder in adders:
        assert adder.stdout is not None
        assert adder.stdout.readline() == "ready\n"
    added = [int(adder.communicate("go\n", timeout=PATIENCE_S)[0]) for adder in adders]
    assert sum(added) == 10
    assert sum(shelf.sizes().values()) == 10 * one
    assert left_over(tmp_path / "contexts") == []


def test_who_holds_the_lock_for_too_long_is_not_waited_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "_BUSY_TIMEOUT_S", 0.0)
    shelf.add(ACME, "text")
    held = shelf.of(ACME)._room
    assert held is not None
    with held.locked(), pytest.raises(HostFault, match="has been adding a context for acme for more than"):
        shelf.add(RESEARCH, "text")
    with held.locked():
        shelf.add(Tenant("other"), "text")
    shelf.add(RESEARCH, "text")


# -- whose limits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def test_a_limit_that_is_set_holds_from_the_next_context_on(shelf: Shelf, tmp_path: Path, log: Path) -> None:
    one = cost(shelf)
    stores = ContextStores(tmp_path / "contexts", functools.partial(context_bounds, log))
    store = stores.of(RESEARCH)
    store.add(text("a"), now_ns=NOW_NS)  # there is no ledger yet

    async def main() -> None:
        async with open_quotas(log, stores.sizes) as quotas:
            await quotas.set("acme", "total", context_bytes=one, calls=5, by="test")
            assert await asyncio.to_thread(lambda: refused(lambda: store.add(text("b"), now_ns=NOW_NS)).scope) == "acme"
            total, below = await quotas.show("acme/research")
            assert (total.tenant, total.period, total.context_bytes, total.context_bytes_left) == (
                "acme",
                "total",
                one,
                0,
            )
            assert total.limits is not None
            assert (total.limits.context_bytes, total.left.calls) == (one, 5)
            assert (below.tenant, below.context_bytes, below.context_bytes_left) == ("acme/research", one, None)
            await quotas.change("acme", {"total": {"context_bytes": 2 * one}})
            store.add(text("b"), now_ns=NOW_NS)
            await quotas.set("acme", "total", context_bytes=None)
            store.add(text("c"), now_ns=NOW_NS)
            await quotas.set("acme", "total", context_bytes=one)
            refused(lambda: store.add(text("d"), now_ns=NOW_NS))
            assert (await quotas.show("acme"))[0].context_bytes == 3 * one
            await quotas.clear("acme")
            store.add(text("d"), now_ns=NOW_NS)
            assert await quotas.check() == []

    asyncio.run(main())
    changes = [record.data for record in records(log, "host.quotas")]
    assert [change.get("context_bytes") for change in changes] == [one, 2 * one, None, one, None]
    assert [one.tenant for one in asyncio.run(Quotas(log, None, shelf.sizes).show())] == ["acme", "acme/research"]
    assert asyncio.run(Quotas(log, None).show()) == []


def test_where_nobody_can_say_what_the_limits_are_nothing_is_added(tmp_path: Path, log: Path) -> None:
    async def main() -> None:
        async with open_quotas(log) as quotas:
            await quotas.set("other", "total", context_bytes=1)

    asyncio.run(main())
    log.write_bytes(log.read_bytes()[:4096] + b"\xff" * 65536)
    store = ContextStores(tmp_path / "contexts", functools.partial(context_bounds, log)).of(ACME)
    with pytest.raises((LedgerUnavailable, HostFault)):
        store.add("text", now_ns=NOW_NS)
    assert store.ls() == []


def test_bytes_of_contexts_are_limited_at_each_moment_and_for_no_period(log: Path) -> None:
    assert parse_bound("contexts", "10 GiB/now") == Bound("total", "context_bytes", 10 * 2**30)
    assert parse_bound("contexts", "unlimited/now") == Bound("total", "context_bytes", None)
    for wrong in ("10GiB/day", "10GiB/total", "10/now", "10USD/now"):
        with pytest.raises(InvalidInput, match="use one such as 10GiB/now, or unlimited/now"):
            parse_bound("contexts", wrong)

    async def main() -> None:
        async with open_quotas(log) as quotas:
            with pytest.raises(InvalidInput, match="context_bytes is counted at each moment, not for a day"):
                await quotas.set("acme", "day", context_bytes=5)
            assert await quotas.show() == []

    asyncio.run(main())
