"""Every function that a program can reach, called with a spy in every place.

For each function first a few calls with ordinary values, to learn what it takes; then, from the best of these, each
place is given each spy, and each keyword a few. What comes back is looked at: the value, the attributes that can be
read on it, what it gives when it is gone through or called, and the exception with everything that hangs on it.
"""

from __future__ import annotations

import inspect
import itertools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

from guest.agent.names import Ended
from guest.language import guards
from tests.fuzz.oracle import C_DESCRIPTORS as _C_DESCRIPTORS
from tests.fuzz.oracle import differences, is_guest_made, state_of
from tests.fuzz.world import CALL_SECONDS, Late, World, readable, within

__all__ = ["CallFuzzer", "is_foreign"]

_PLACES_MAX = 4
_LATE_MAX = 2
_TRIES = 6
_SPIES_FOR_C = 6
_MIXTURES = 4
_OTHERS = 8  # objects of somebody else as the first argument of a method that is read on its class
_BETWEEN_LOOKS = 8  # functions; a look at everybody's namespaces takes as long as some hundred calls
_KEYWORDS = "key default start end sep file initial func strict reverse model context return_exceptions"
# These never end, or wait: as arguments they would only cost time.
_ENDLESS: tuple[str, ...] = (
    "count",
    "cycle",
    "repeat",
    "callable_iterator",
    "Queue",
    "PriorityQueue",
    "SimpleQueue",
    "lock",
    "RLock",
)
_ENDLESS += ("Event", "Semaphore", "Condition", "BoundedSemaphore", "ThreadPoolExecutor", "LifoQueue")
_MOODS = ("calm", "wild", "foreign", "raise", "plant")


class CallFuzzer:
    """One seed's calls. `run` gives the number of calls made; finds are with the world's recorder."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.recorder = world.recorder
        self.call: Callable[..., Any] = world.names["call"]
        self.spies: list[Any] = world.names["spies"]()
        self.foreign = [one for one in world.samples if is_foreign(one)]
        self.calls = 0
        self._explored: set[object] = set()

    def run(self, wanted: Callable[[str], bool] = lambda label: True, share: float = 1.0) -> int:
        """Calls every function that is written in Python, and this share of those in C."""
        watch = self.world.watch()
        with self.recorder.quiet():
            todo = [
                (label, function)
                for label, function in self.functions()
                if wanted(label) and (_in_python(function) or self.random.random() < share)
            ]
        self.random.shuffle(todo)
        for at in range(0, len(todo), _BETWEEN_LOOKS):
            for label, function in todo[at : at + _BETWEEN_LOOKS]:
                self.recorder.doing = label
                self.one(label, function)
            self.recorder.doing = "one of " + ", ".join(label for label, _ in todo[at : at + _BETWEEN_LOOKS])
            for change in watch.changes():
                self.recorder.add(change)
        return self.calls

    # What there is to call

    def functions(self) -> Iterator[tuple[str, Any]]:
        seen: set[object] = set()
        offered = self.world.offered()
        for label, value in offered.items():
            if callable(value) and not is_guest_made(value) and (key := _identity(value)) not in seen:
                seen.add(key)
                yield label, value
        for label, owner in [*offered.items(), *self._owners()]:
            for name, value in readable(owner):
                key = (name, isinstance(owner, type), is_guest_made(owner), _identity(value))
                if key not in seen and not is_guest_made(value):
                    seen.add(key)
                    yield from _callables_of(f"{label}.{name}", value)

    def _owners(self) -> Iterator[tuple[str, Any]]:
        for sample in self.world.samples:
            what = sample if isinstance(sample, type) else type(sample)
            yield f"<{what.__qualname__}>", sample

    # What to call it with

    def one(self, label: str, function: Any) -> None:
        late = 0
        for given, named, mood in self._arguments(function):
            late += self.try_call(label, function, given, named, mood) is Late
            if late >= _LATE_MAX:
                return

    def _arguments(self, function: Any) -> Iterator[tuple[list[Any], dict[str, Any], str]]:
        with self.recorder.quiet():
            least, most = _arity(function)
            keywords = _keywords(function)
        for count in range(least, most + 1):
            best = self._learn(function, count)
            for place in range(count):
                for spy in self._spies_for(function):
                    given = [*best[:place], spy, *best[place + 1 :]]
                    yield given, {}, self.random.choice(_MOODS)
            yield self.random.choices(self.spies, k=count), {}, self.random.choice(_MOODS)
            if count and type(function) is types.FunctionType and "." in function.__qualname__:
                for other in self.random.sample(self.foreign, _OTHERS):
                    yield [other, *self.random.choices(self.spies, k=count - 1)], {}, "calm"
        best = self._learn(function, least)
        for keyword in keywords:
            for spy in self.random.sample(self.spies, 3):
                yield best, {keyword: spy}, self.random.choice(_MOODS)

    def _spies_for(self, function: Any) -> list[Any]:
        """All for what is written in Python; some for C functions, which do less with what they are given."""
        self.world.names |= {"V": self.random.choice(self.foreign), "mood": "calm"}
        mixtures = self.world.names["mixtures"]()
        in_python = _in_python(function)
        spies = self.spies if in_python else self.random.sample(self.spies, _SPIES_FOR_C)
        return [*spies, *self.random.sample(mixtures, _MIXTURES if in_python else 1)]

    def _learn(self, function: Any, count: int) -> list[Any]:
        """Arguments with which it raises nothing, or the last that were tried."""
        given: list[Any] = []
        for _ in range(_TRIES if count else 1):
            given = [self._ordinary() for _ in range(count)]
            if self.try_call("", function, given, {}, "calm") is None:
                break
        return given

    def _ordinary(self) -> Any:
        names = self.world.names
        plain = [0, 1, 2, 1.5, "a", "a b", "a,b\nc", b"ab", True, None, (1, 2), [1, 2, 3], ["a", "b"], {"a": 1}, {1, 2}]
        more = [names["function"], names["called"], str, len, iter([1, 2]), object(), names["Base"], names["Data"]()]
        return self.random.choice(
            [self.random.choice(plain), self.random.choice(more), self.random.choice(self.foreign)]
        )

    # The call, and what came of it

    def try_call(self, label: str, function: Any, given: list[Any], named: dict[str, Any], mood: str) -> Any:
        """None when the function gave something, else the exception's type."""
        self.calls += 1
        names = self.world.names
        names["mood"], names["turn"] = mood, self.random.randrange(12)
        _swap(names, on=mood == "foreign")
        held = _of_another(function, given)
        before = state_of(held) if held is not None else {}
        self.recorder.given = frozenset(_identities(given, named))
        try:
            with within(CALL_SECONDS):
                result = self.call(function, given, named)
                self._look(label, function, result)
            return None
        except Late:
            return Late
        except (Ended, SystemExit, KeyboardInterrupt) as error:
            return type(error)
        except BaseException as error:
            self._look_at_error(label, error)
            return type(error)
        finally:
            _swap(names, on=False)
            if held is not None:
                for change in differences(f"a {_name(held)}", before, state_of(held)):
                    self.recorder.add(change)

    def _look(self, label: str, function: Any, result: Any) -> None:
        kind = type(result)
        if (
            not self.recorder.look("it gives", result)
            or is_guest_made(result)
            or kind in (int, str, float, bool, bytes, type(None))
        ):
            return
        if (label, kind) in self._explored:
            return
        self._explored.add((label, kind))
        for name, value in readable(result):
            self.recorder.look(f"its result's .{name}", value)
        if hasattr(kind, "__next__") and kind.__name__ not in ("count", "cycle", "repeat"):
            for one in itertools.islice(result, 3):
                self.recorder.look("its result runs through", one)
        elif callable(result) and not isinstance(result, type):
            for one in (self.world.names["called"], self.random.choice(self.spies)):
                self.recorder.look("its result gives", self.call(result, [one], {}))

    def _look_at_error(self, label: str, error: BaseException) -> None:
        try:
            with within(CALL_SECONDS):
                for at in (error, error.__cause__, error.__context__):
                    self.recorder.look("it raises", at)
                    if (label, type(at)) not in self._explored:
                        self._explored.add((label, type(at)))
                        for name, value in readable(at):
                            self.recorder.look(f"its error's .{name}", value)
        except (Late, Exception):  # the error may be a spy: its attributes may do anything
            return


def _identity(value: Any) -> object:
    """What makes two bound methods the same function."""
    if type(value) is types.MethodType:
        return _identity(value.__func__)
    if type(value) in (types.BuiltinMethodType, types.MethodWrapperType, *_C_DESCRIPTORS):
        owner = getattr(value, "__objclass__", None) or getattr(value, "__module__", None)
        return owner, value.__qualname__
    return id(value)


def _in_python(function: Any) -> bool:
    return type(function) in (types.FunctionType, types.MethodType) or isinstance(function, type)


def _callables_of(label: str, value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is property:
        for part in ("fget", "fset", "fdel"):
            try:
                accessor = guards.guest_getattr(value, part)
            except AttributeError:
                continue
            if accessor is not None and not guards.is_guest_function(accessor):
                yield f"{label}.{part}", accessor
    elif callable(value):
        yield label, value


def is_foreign(value: Any) -> bool:
    kind = type(value)
    plain = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, type(None))
    return kind not in plain and not is_guest_made(value) and kind.__name__ not in _ENDLESS


def _arity(function: Any) -> tuple[int, int]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return 0, 3
    except Exception:  # a spy's own signature
        return 0, 2
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    least = sum(one.default is one.empty for one in places)
    most = len(places) + 2 * any(one.kind is one.VAR_POSITIONAL for one in parameters)
    return min(least, _PLACES_MAX), min(max(most, least), _PLACES_MAX)


def _keywords(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:  # C functions tell nothing
        return _KEYWORDS.split()
    names = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return names + _KEYWORDS.split() * any(one.kind is one.VAR_KEYWORD for one in parameters)


def _of_another(function: Any, given: list[Any]) -> Any:
    """The first argument of a library class's function, when it is no object of that class: it must stay as it is."""
    if type(function) is not types.FunctionType or not given or is_guest_made(given[0]):
        return None
    name = getattr(function, "__name__", "")
    if "." not in function.__qualname__ or type(given[0]) in (list, dict, set, types.NoneType):
        return None
    kind = type(given[0])
    return None if any(vars(cls).get(name) is function for cls in kind.__mro__) else given[0]


def _identities(given: list[Any], named: dict[str, Any]) -> Iterator[int]:
    todo = [*given, *named.values()]
    for _depth in range(3):
        yield from map(id, todo)
        inside: list[Any] = []
        for one in todo:
            if type(one) in (list, tuple, set):
                inside += one
            elif type(one) is dict:
                inside += one.values()
        todo = inside


def _swap(names: dict[str, Any], *, on: bool) -> None:
    names["Swapped"].ready = names["SlotSwapped"].ready = on


def _name(value: Any) -> str:
    return value.__qualname__ if isinstance(value, type) else type(value).__qualname__
