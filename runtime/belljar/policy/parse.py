"""From the text of a policy file to a `Policy`, or to one line that says where it is wrong and what to write.

Three readings, each of which may end in `InvalidPolicy`:

1. as TOML, which also gives the line of each key (`locate`);
2. as tables: every key is known, every value is one that its kind accepts, nothing is missing. With `extends`, a key
   that is absent is taken from the base, and one that is present must not allow anything that the base does not;
3. as a whole: limits that contain each other must fit (a prompt has to fit into a frame). This comes last, because half
   of such a pair may be inherited.

Nothing here opens a file: the caller passes the text, and a function that looks up the base by its name.
"""

from __future__ import annotations

import difflib
import operator
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from functools import cache, reduce
from typing import Any, Final, NoReturn, TypeVar, get_type_hints

import msgspec

from belljar.errors import InvalidInput, InvalidPolicy
from belljar.glyphs import glyphs
from belljar.policy.kinds import Kind, Unit, Wrong, shown
from belljar.policy.locate import Path, locate
from belljar.policy.model import Policy

__all__ = ["FITS", "all_kinds", "fields_of", "is_optional", "kind_at", "parse", "unit_of"]

Table = TypeVar("Table", bound=msgspec.Struct)

# A policy has about 5 KiB with all its comments. The bounds keep a file that is something else from costing much:
# nested or dotted keys take memory that grows with the square of a line.
_TEXT_CHARS_MAX: Final = 64 * 1024
_LINE_CHARS_MAX: Final = 1000
_HINT_CHARS_MAX: Final = 40

# (inner, outer): a value that could never be reached, or would be allowed here and refused there, is a mistake to
# report now and not in the middle of a run.
FITS: Final[tuple[tuple[str, str], ...]] = (
    ("limits.cell_wall", "limits.run_wall"),
    ("limits.grace", "limits.cell_wall"),
    ("models.call_wall", "limits.run_wall"),
    ("limits.output", "limits.output_flood"),
    ("wire.body", "wire.in_flight_bytes"),
    ("limits.answer", "wire.body"),
    ("limits.code", "wire.body"),
    ("context.read", "context.read_total"),
    ("context.read", "wire.body"),
    ("models.prompt", "wire.body"),
    ("context.materialise", "limits.memory"),
)


def parse(text: str, *, source: str, base: Callable[[str], Policy], reserved: Collection[str] = frozenset()) -> Policy:
    """Read a policy file.

    Args:
        text: the whole file.
        source: the file's name in messages.
        base: returns the policy that an `extends` names. It raises `InvalidInput` where there is none (the message then
            gets this file's name and line) and `InvalidPolicy` where the base itself is wrong.
        reserved: names that the policy may not have: the presets', because the log would confuse it with them.

    Raises:
        InvalidPolicy: `FILE:LINE: what is wrong; what to write`.
    """
    return _Reader(text, glyphs(source)).policy(base, reserved)


@cache
def fields_of(table: type[msgspec.Struct]) -> dict[str, tuple[str, Kind[Any] | type[msgspec.Struct]]]:
    """The keys of a table as `{key: (attribute, kind or sub-table)}`, in their canonical order.

    Cached, because resolving the type hints took 17 of the 19 ms that it takes to read a preset.
    """
    hints = get_type_hints(table, include_extras=True)
    fields: dict[str, tuple[str, Kind[Any] | type[msgspec.Struct]]] = {}
    for attribute in table.__struct_fields__:
        hint = hints[attribute]
        kind = hint.__metadata__[0] if hasattr(hint, "__metadata__") else hint
        fields[kind.key if isinstance(kind, Kind) else attribute] = (attribute, kind)
    return fields


def is_optional(kind: Kind[Any] | type[msgspec.Struct]) -> bool:
    """Whether a file that extends nothing may leave it out: a table, where it may leave out each of its keys."""
    if isinstance(kind, Kind):
        return kind.optional
    return all(is_optional(one) for _, one in fields_of(kind).values())


def kind_at(dotted: str) -> tuple[str, Kind[Any]]:
    """`"limits.memory"` -> (`"limits.memory_bytes"`, its kind)."""
    return _all_keys()[dotted]


def unit_of(dotted: str) -> Unit:
    """The unit of a limit's numbers in refusals and results; "" also for what is not a key of a policy."""
    kind = all_kinds().get(dotted)
    return kind.unit if kind else ""


@cache
def all_kinds() -> dict[str, Kind[Any]]:
    """Every key of a policy, dotted, in the canonical order."""
    return {key: kind for key, (_, kind) in _all_keys().items()}


@cache
def _all_keys() -> dict[str, tuple[str, Kind[Any]]]:
    return dict(_keys_below(Policy, "", ""))


def _keys_below(table: type[msgspec.Struct], keys: str, attributes: str) -> Iterator[tuple[str, tuple[str, Kind[Any]]]]:
    for key, (attribute, kind) in fields_of(table).items():
        if isinstance(kind, Kind):
            yield keys + key, (attributes + attribute, kind)
        else:
            yield from _keys_below(kind, f"{keys}{key}.", f"{attributes}{attribute}.")


class _Reader:
    """One file being read."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.lines: dict[Path, int] = {}
        self.raw = self.toml(text)

    def policy(self, base: Callable[[str], Policy], reserved: Collection[str]) -> Policy:
        self.version()
        parent = self.parent(base)
        policy = self.table(Policy, self.raw, (), parent)
        if policy.name in reserved:
            what = f'name is "{policy.name}", which belongs to the preset, and the log would confuse the two'
            self.refuse(("name",), f'{what}; give it another name, such as "my-{policy.name}"', "reserved")
        self.whole(policy)
        return policy

    def toml(self, text: str) -> dict[str, Any]:
        if len(text) > _TEXT_CHARS_MAX:
            self.refuse((), f"the file has {len(text)} characters; use at most {_TEXT_CHARS_MAX}", "syntax")
        for number, line in enumerate(text.split("\n"), start=1):
            if len(line) > _LINE_CHARS_MAX:
                self.refuse(number, f"the line is too long; use at most {_LINE_CHARS_MAX} characters", "syntax")
        try:
            raw = tomllib.loads(text)
            self.lines = locate(text)
        except RecursionError:
            self.refuse((), "the values are nested too deep; write tables and lists as the presets have them", "syntax")
        except ValueError as error:  # TOMLDecodeError, and int() on thousands of digits
            self.not_toml(error, text)
        return raw

    def not_toml(self, error: ValueError, text: str) -> NoReturn:
        place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = text.count("\n") + 1
        if place is None:
            line = 1
        elif place[1]:
            line = int(place[1])
        what = glyphs(str(error).replace(place[0] if place else "", ""))
        self.refuse(line, f"this is not valid TOML ({what}); compare it with the presets", "syntax")

    def version(self) -> None:
        """Comes first: nothing else in another version's file would be understood."""
        kind = fields_of(Policy)["schema"][1]
        assert isinstance(kind, Kind)
        if "schema" not in self.raw:
            self.refuse((), "schema is missing; write schema = 1 above the first table", "missing")
        self.read(kind, self.raw["schema"], ("schema",))

    def parent(self, base: Callable[[str], Policy]) -> Policy | None:
        if "extends" not in self.raw:
            return None
        name = self.raw.pop("extends")
        if not isinstance(name, str) or not name or not name.isprintable():
            self.refuse(
                ("extends",), f'extends is {shown(name)}; write a preset or a file, as in "standard"', "extends"
            )
        if "name" not in self.raw:
            self.refuse((), "name is missing; give the policy its own, because it may not pass for its base", "missing")
        try:
            return base(name)
        except InvalidInput as error:
            self.refuse(("extends",), str(error), "extends")

    def table(self, table: type[Table], raw: dict[str, Any], path: Path, base: Table | None) -> Table:
        fields = fields_of(table)
        for key in raw:
            if key not in fields:
                self.unknown(key, path, list(fields))
        values = {
            attribute: self.field(kind, raw, (*path, key), getattr(base, attribute) if base is not None else _ABSENT)
            for key, (attribute, kind) in fields.items()
        }
        return table(**values)

    def field(self, kind: Kind[Any] | type[msgspec.Struct], raw: dict[str, Any], path: Path, base: Any) -> Any:
        key = str(path[-1])
        if key not in raw and base is not _ABSENT:
            return base
        if not isinstance(kind, Kind):
            return self.sub_table(kind, raw, path, None if base is _ABSENT else base)
        if key not in raw:
            return kind.absent if kind.optional else self.missing(path)
        value = self.read(kind, raw[key], path)
        if base is not _ABSENT and kind.looser(value, base):
            self.looser(kind, value, path, base)
        return value if base is _ABSENT else kind.under(value, base)

    def sub_table(self, table: type[Table], raw: dict[str, Any], path: Path, base: Table | None) -> Table:
        key, name = str(path[-1]), _dotted(path)
        if key not in raw and is_optional(table):
            return self.table(table, {}, path, base)
        if key not in raw:
            self.refuse((), f"the table [{name}] is missing; write it, or extend a policy that has it", "missing")
        if not isinstance(raw[key], dict):
            self.refuse(path, f"{name} is {shown(raw[key])}; write it as the table [{name}]", "value")
        return self.table(table, raw[key], path, base)

    def read(self, kind: Kind[Any], value: object, path: Path) -> Any:
        try:
            return kind.read(value)
        except Wrong as wrong:
            place = path if wrong.index is None else (*path, wrong.index)
            self.refuse(place, f"{_dotted(path)} {wrong}", "value")

    def unknown(self, key: str, path: Path, known: list[str]) -> NoReturn:
        names = known if path else [*known, "extends"]
        where = f"[{_dotted(path)}] has" if path else "there is"
        self.refuse((*path, key), f"{where} no key {shown(key)}; {_advice(key, names)}", "unknown_key")

    def missing(self, path: Path) -> NoReturn:
        where = f"[{_dotted(path[:-1])}]" if len(path) > 1 else "the first table"
        verb = "write it in" if len(path) > 1 else "write it above"
        self.refuse(path[:-1], f"{_dotted(path)} is missing; {verb} {where}, or extend a policy that has it", "missing")

    def looser(self, kind: Kind[Any], value: Any, path: Path, base: Any) -> NoReturn:
        given, allowed = _shortened(kind.write(value)), _shortened(kind.write(base))
        what = f"{_dotted(path)} = {given} is looser than the {allowed} of the policy it extends"
        self.refuse(path, f"{what}; write {kind.bound(base)}, or extend another policy", "looser")

    def whole(self, policy: Policy) -> None:
        """Check pairs where one value must fit into the other; all misfits are reported at once."""
        misfits = [(inner, outer, what) for inner, outer in FITS if (what := _misfit(policy, inner, outer))]
        if misfits:
            (inner, outer, what), *others = misfits
            message = f"{what}, which contains it; lower {inner} or raise {outer}"
            also = "".join(f"; also {other}" for _, _, other in others)
            self.refuse_first((inner, outer), message + also, "misfit")

    def refuse_first(self, keys: tuple[str, str], message: str, code: str) -> NoReturn:
        """Refuse at the first of the keys that this file has; the others are inherited."""
        paths: list[Path] = [tuple(key.split(".")) for key in keys]
        self.refuse(next((path for path in paths if path in self.lines), ("extends",)), message, code)

    def refuse(self, place: Path | int, message: str, code: str) -> NoReturn:
        line = place if isinstance(place, int) else self.line(place)
        raise InvalidPolicy(f"{self.source}:{line}: {message}", code=f"policy.{code}")

    def line(self, path: Path) -> int:
        """The line of `path`, or else of the nearest table around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


_ABSENT: Final = object()


def _misfit(policy: Policy, inner: str, outer: str) -> str:
    """What is wrong with two values, empty if the first fits into the second."""
    (inner_attribute, kind), (outer_attribute, _) = kind_at(inner), kind_at(outer)
    small, large = _attribute(policy, inner_attribute), _attribute(policy, outer_attribute)
    return f"{inner} = {kind.write(small)} is more than {outer} = {kind.write(large)}" if small > large else ""


def _attribute(policy: Policy, dotted: str) -> Any:
    return reduce(lambda value, name: operator.attrgetter(name)(value), dotted.split("."), policy)


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _advice(key: str, names: list[str]) -> str:
    """The nearest key of this table; or the table where a key of that name belongs; or all keys of this table."""
    near = difflib.get_close_matches(key[:_HINT_CHARS_MAX], names, n=1)
    if near:
        return f'write "{near[0]}"'
    homes = [table for table, known in _all_tables() if key in known]
    if homes:
        return f"write it in [{homes[0]}]"
    return f"write one of {', '.join(names)}"


@cache
def _all_tables() -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple(_tables_below(Policy, ""))


def _tables_below(table: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, frozenset[str]]]:
    for key, (_, kind) in fields_of(table).items():
        if not isinstance(kind, Kind):
            yield f"{prefix}{key}", frozenset(fields_of(kind))
            yield from _tables_below(kind, f"{prefix}{key}.")


def _shortened(literal: str) -> str:
    literal = " ".join(literal.split("\n"))
    return literal if len(literal) <= 200 else literal[:200] + "..."
