"""The queue of orders: whose turn it is, what has room, and that nothing stays behind."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from belljar.identity import Tenant
from belljar.jobs.queue import FairQueue, Full

BIG = 1 << 60
PATHS = ("acme", "acme/alice", "acme/bob", "acme/bob/x", "other", "third/one", "third/two")


def queue(count: int = BIG, tenant: int = BIG, size: int = BIG) -> FairQueue[str]:
    return FairQueue(count_max=count, tenant_max=tenant, bytes_max=size)


def fill(waiting: FairQueue[str], path: str, count: int) -> list[str]:
    keys = [f"{path}:{number}" for number in range(count)]
    for key in keys:
        waiting.put(key, Tenant(path), key, 1)
    return keys


def drained(waiting: FairQueue[str]) -> list[str]:
    return list(iter(waiting.take, None))


def test_a_tenant_with_a_thousand_orders_delays_anothers_first_by_one() -> None:
    waiting = queue()
    fill(waiting, "acme", 1000)
    assert waiting.take() == "acme:0"
    fill(waiting, "other", 2)
    assert [waiting.take() for _ in range(5)] == ["acme:1", "other:0", "acme:2", "other:1", "acme:3"]


def test_each_of_many_tenants_has_a_turn_before_anybody_has_two() -> None:
    waiting = queue()
    for number in range(20):
        fill(waiting, f"t{number}", 1 + 50 * (number % 3))
    first = [key.partition(":")[0] for key in (waiting.take() or "" for _ in range(20))]
    assert len({*first}) == 20


def test_a_tenant_gets_no_more_turns_by_spreading_over_those_below_it() -> None:
    waiting = queue()
    for number in range(500):
        fill(waiting, f"acme/{number}", 2)
    fill(waiting, "other", 10)
    turns = Counter(key.partition(":")[0].partition("/")[0] for key in (waiting.take() or "" for _ in range(20)))
    assert turns == {"acme": 10, "other": 10}


def test_a_tenants_own_orders_and_those_below_it_take_turns() -> None:
    waiting = queue()
    own, below = fill(waiting, "acme", 3), fill(waiting, "acme/alice", 3)
    assert drained(waiting) == [own[0], below[0], own[1], below[1], own[2], below[2]]


def test_the_places_of_many_are_those_of_each() -> None:
    waiting = queue()
    keys = [key for path in PATHS for key in fill(waiting, path, 5)]
    for _ in range(10):
        waiting.take()
    places = {key: place for path in PATHS for key, place in waiting.places(Tenant(path)).items()}
    assert places == {key: waiting.place(key) for key in keys if key in waiting}
    assert waiting.places(Tenant("nobody")) == {}


def test_what_may_wait_is_bounded_in_number_in_bytes_and_for_each_tenant() -> None:
    waiting = queue(count=7, tenant=4, size=100)
    acme, alice, other = Tenant("acme"), Tenant("acme/alice"), Tenant("other")
    fill(waiting, "acme/alice", 2)
    assert waiting.full(alice, 1) == Full(alice, "orders", 2, 3)  # its siblings have room
    assert waiting.full(Tenant("acme/bob"), 1) is None
    fill(waiting, "acme", 2)
    assert waiting.full(Tenant("acme/bob"), 1) == Full(acme, "orders", 4, 5)
    assert waiting.full(other, 97) == Full(None, "bytes", 100, 101)
    assert waiting.full(other, 96) is None
    fill(waiting, "other", 3)
    assert waiting.full(Tenant("new"), 1) == Full(None, "orders", 7, 8)
    waiting.remove("other:1")
    assert waiting.full(Tenant("new"), 1) is None


@given(st.lists(st.sampled_from(PATHS), max_size=60))
def test_everything_that_was_put_is_taken_once_and_each_tenants_in_its_order(paths: list[str]) -> None:
    waiting = queue()
    keys = [(f"{number:03}", path) for number, path in enumerate(paths)]
    for key, path in keys:
        waiting.put(key, Tenant(path), key, 1)
    taken = drained(waiting)
    assert sorted(taken) == [key for key, _ in keys]
    for path in PATHS:
        assert [key for key in taken if (key, path) in keys] == [key for key, one in keys if one == path]


class Model:
    """The rule again, as one would say it: at each level, who had the longest time no turn, of those who wait."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, str]] = []
        self.rings: dict[str, list[str]] = {}

    def put(self, key: str, path: str) -> None:
        self.waiting.append((key, path))
        parts = path.split("/")
        for depth in range(len(parts)):
            self._join("/".join(parts[:depth]), parts[depth])
        self._join(path, "")

    def _join(self, level: str, name: str) -> None:
        ring = self.rings.setdefault(level, [])
        if name not in ring:
            ring.append(name)

    def _below(self, level: str, name: str) -> list[tuple[str, str]]:
        whole = f"{level}/{name}".strip("/")
        if name == "":
            return [one for one in self.waiting if one[1] == level]
        return [one for one in self.waiting if one[1] == whole or one[1].startswith(f"{whole}/")]

    def take(self) -> str | None:
        if not self.waiting:
            return None
        level = ""
        while (name := self.rings[level][0]) != "":
            self.rings[level].append(self.rings[level].pop(0))
            level = f"{level}/{name}".strip("/")
        self.rings[level].append(self.rings[level].pop(0))
        key = self._below(level, "")[0][0]
        self.remove(key)
        return key

    def remove(self, key: str) -> None:
        self.waiting = [one for one in self.waiting if one[0] != key]
        self.rings = {level: [name for name in ring if self._below(level, name)] for level, ring in self.rings.items()}


class Machine(RuleBasedStateMachine):
    """Orders come, get their turn, and are cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.model, self.count = queue(), Model(), 0

    @rule(path=st.sampled_from(PATHS))
    def put(self, path: str) -> None:
        key, self.count = f"k{self.count}", self.count + 1
        self.real.put(key, Tenant(path), key, 3)
        self.model.put(key, path)

    @rule()
    def take(self) -> None:
        assert self.real.take() == self.model.take()

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key, path = data.draw(st.sampled_from(self.model.waiting))
        before = [one for one, whose in self.model.waiting if whose == path]
        assert self.real.place(key) == before.index(key)
        assert self.real.remove(key) == key
        self.model.remove(key)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.real) == len(self.model.waiting)
        assert self.real.size_bytes == 3 * len(self.real)
        for path in PATHS:
            level = [one for one, whose in self.model.waiting if whose == path or whose.startswith(f"{path}/")]
            assert self.real.waiting(Tenant(path)) == len(level)

    @invariant()
    def nobody_stays_behind(self) -> None:
        if not len(self.real):
            assert not self.real._root.below
            assert not self.real._root.ring
            assert not self.real._waiting


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_turns_are_as_in_the_model = Machine.TestCase
