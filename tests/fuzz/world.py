"""One session of the real agent in the restricted language, over a wire of the test, and what watches it.

`World` is the agent with everything that a program can name, the spies inside, and the recorder: `see` is called by
every method of a spy with what it was handed, and asks the oracle at once, for what is handed over may change.
"""

from __future__ import annotations

import importlib
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from guest.agent.loop import Agent
from guest.language import facades, guards
from guest.language.guards import METHOD_DUNDERS, Kind, guest_getattr, kind_of
from guest.language.restricted import compile_cell
from tests.fuzz import spies
from tests.fuzz.oracle import Oracle, Watch, is_guest_made
from tests.unit.paged_fakes import Stored
from tests.unit.test_facade_walk import SAMPLES

__all__ = ["Find", "Late", "Recorder", "Wire", "World", "readable", "within"]

TEXT = "a first line, a.b\nsecond line: x=1\n"
# What a call may take. Spies can keep a loop of the library busy for ever, and queues wait.
CALL_SECONDS = 0.05
_FINDS_MAX = 400
Find = tuple[str, str]


class Late(BaseException):
    """The call took too long."""


class Recorder:
    """What was seen that must not be: pairs of (who was at it, why it is wrong)."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.finds: list[Find] = []
        self.doing = "the start"
        self.given: frozenset[int] = frozenset()
        self._busy = False
        self._late = False

    def see(self, where: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """For spies."""
        if not self._busy:
            for value in (*given, *named.values()):
                self.look(f"seen by {where}", value)

    def see_error(self, where: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """For `__exit__`: the `with` statement itself hands over a traceback, whose names are all closed."""
        self.see(where, given[:2], named)

    def look(self, where: str, value: Any) -> bool:
        """Whether the program may hold it."""
        if self._busy:
            return True
        self._busy = True
        try:
            why = self.oracle.danger(value, self.given)
            if why is not None:
                self.add(f"{where}: {why}")
        finally:
            self._busy = False
        if self._late:
            self._late = False
            raise Late
        return why is None

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While the test itself handles spies."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def add(self, why: str) -> None:
        find = (self.doing, why)
        if find not in self.finds and len(self.finds) < _FINDS_MAX:
            self.finds.append(find)

    def alarm(self, _signal: int, _frame: object) -> None:
        """The handler of SIGALRM. Never in the middle of the oracle's own work."""
        self._late = self._busy
        if not self._late:
            raise Late


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Late in the main thread when the time is up."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Wire:
    """The agent's channel: a small host that answers, and a border over which only exact values may go."""

    cell = 1

    def __init__(self, recorder: Recorder, documents: list[str]) -> None:
        self._recorder = recorder
        self._documents = documents

    def limit_in_flight(self, requests: int) -> None:
        pass

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        for value in (*_leaves(header), body):
            if is_guest_made(value) or type(value) not in (str, int, bool, bytes, type(None)):
                self._recorder.add(
                    f"a {type(value).__name__} of the program goes over the wire in {header.get('op')!r}"
                )
        if type(body) is not bytes:
            self._recorder.add("the wire's body is not exactly bytes")

    def request(self, op: str, fields: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        self.send({"op": op, **fields}, body)
        if op == "read":
            text = self._documents[fields["doc"]][fields["start"] : fields["stop"]]
            return {"op": "data"}, text.encode()
        if op in ("query", "recurse"):
            count = len(fields.get("lengths", fields.get("prompts", ())))
            return {"op": "answers", "items": [{"length": 2}] * count, "failures": []}, b"ok" * count
        if op == "search" and fields["mode"].startswith("find"):
            names, of_items = b'{"w":1}', fields["mode"] == "find_items"
            body = (
                names + struct.pack("<4Q", 0, 1, 0, 1) if not of_items else names + struct.pack("<6Q", 0, 1, 0, 0, 0, 1)
            )
            return {"op": "found", "id": 1, "count": 1, "groups": 1, "names": len(names), "next": None}, body + b"a"
        if op == "coverage":
            extent = {"chars": 2, "read": 1, "shown": 1, "read_spans": 1, "shown_spans": 1}
            header = {"op": "covered", "spans_max": 1, "complete": True, "contexts": [extent] * 3}
            return header, struct.pack("<4Q", 0, 1, 0, 1) * 3
        return {"op": op, "id": 1, "count": 0, "next": None, "calls": 3}, b""


def _leaves(value: Any) -> Iterator[Any]:
    if type(value) is dict:
        yield from value
        value = value.values()
    elif type(value) not in (list, tuple):
        yield value
        return
    for one in value:
        yield from _leaves(one)


class World:
    """A session: `names` is the program's namespace."""

    def __init__(self, oracle: Oracle) -> None:
        self.recorder = Recorder(oracle)
        listed, keyed = Stored(["a", [1]]), Stored({"a": "b"})
        documents = [TEXT, listed.text, listed.directory, keyed.text, keyed.directory]
        self.wire = Wire(self.recorder, documents)
        self.agent = Agent(self.wire)  # type: ignore[arg-type]
        self.agent._build(_start(documents))
        self.names: dict[str, Any] = self.agent._globals
        self.scope: dict[str, Any] = self.names["__builtins__"]
        self.names |= {"see": self.recorder.see, "see_error": self.recorder.see_error, "DUCK_NAMES": duck_names()}
        self.run(spies.source())
        self.run(SAMPLES)
        self.run("for name in DUCK_NAMES:\n    if not hasattr(DUCK, name): setattr(DUCK, name, DUCK)")
        self.samples: list[Any] = self.names["samples"]
        self._teach()

    def run(self, source: str) -> None:
        exec(compile_cell(source), self.names)

    def facades(self) -> dict[str, Any]:
        importer = self.scope["__import__"]
        return {name: importer(name, None, None, ("x",)[:0], 0) for name in facades.module_names()}

    def offered(self) -> dict[str, Any]:
        """Everything that has a name in some program: built-ins, given names, what modules offer."""
        names = {name: value for name, value in (self.scope | self.names).items() if name.isidentifier()}
        offered = {name: value for name, value in names.items() if not name.startswith("__")}
        for module, facade in self.facades().items():
            offered |= {f"{module}.{name}": one for name, one in vars(facade).items() if not name.startswith("_")}
        return offered

    def _teach(self) -> None:
        """Tell the oracle what is handed out, and which types hang on it: those that the facade walk goes through."""
        oracle = self.recorder.oracle
        offered = [*self.offered().values(), self.recorder.see, self.recorder.see_error]
        oracle.allow([*offered, *self.facades().values(), *self.agent._given.values()])
        known = [*offered, *self.samples, *self.facades().values(), *self.agent._given["contexts"].values()]
        for value in list(known):
            known += [one for _, one in readable(value)]
        oracle.learn(known)

    def watch(self) -> Watch:
        classes = [one for one in self.offered().values() if isinstance(one, type)] + [*guards._BASES]
        agents = [self.agent._endings, self.names["llm_query"].__self__]
        return Watch(classes, [*self.facades().values(), *agents])


def readable(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of `value` that a program can name and read."""
    try:
        names = sorted({*dir(value), *dir(type(value))})
    except Exception:  # whatever a spy's attributes do
        return
    for name in names:
        if kind_of(name) not in (Kind.PLAIN, Kind.SPECIAL) and name not in METHOD_DUNDERS:
            continue
        try:
            yield name, guest_getattr(value, name)
        except Exception:  # a refusal, or a property that raises: no value
            continue


def duck_names() -> list[str]:
    """The attributes that functions of the facades' modules read from whatever they are given."""
    names: set[str] = set()
    for module in facades.module_names():
        todo = [one for one in vars(importlib.import_module(module)).values() if isinstance(one, type) or callable(one)]
        for one in todo:
            members = list(vars(one).values()) if isinstance(one, type) else [one]
            for member in members:
                code = getattr(getattr(member, "__func__", member), "__code__", None)
                if code is not None:
                    names |= set(_names_in(code))
    return sorted(name for name in names if kind_of(name) in (Kind.PLAIN, Kind.PRIVATE) and len(name) < 40)


def _names_in(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names_in(constant)


def _start(documents: list[str]) -> dict[str, Any]:
    contexts = [
        {"name": "text", "kind": "text", "text": 0, "lines": 2, "part": None},
        {"name": "listed", "kind": "list", "text": 1, "lines": None, "directory": 2, "items": 2, "part": None},
        {"name": "keyed", "kind": "dict", "text": 3, "lines": None, "directory": 4, "items": 1, "part": None},
    ]
    return {
        "op": "start",
        "language": "restricted",
        "in_flight_max": 4,
        "batch_max": 4,
        "prompt_bytes_max": 1 << 16,
        "body_bytes_max": 1 << 16,
        "read_bytes_max": 1 << 16,
        "materialise_bytes_max": 1 << 20,
        "more": False,
        "stays": False,
        "seed": "",
        "clock": True,
        "tools": [{"name": "fetch", "arguments": ["key"], "doc": "fetch(key: str)"}],
        "contexts": contexts,
        "documents": [{"bytes": len(text.encode()), "chars": len(text), "spans": None} for text in documents],
    }
