"""`match` statements, expanded into tests so that each part passes a guard.

For a pattern, CPython compares, unpacks and looks up attributes in C, by names that it finds in a class that the
program chose, and no guard can intervene. So the compile step writes each statement as what the language reference
says it means (`.s` is a temporary, `.n` the number of the case):

    match SUBJECT:                  .s = SUBJECT
        case P if G: A              .n = TEST(P) and CAPTURES and G and 1 or TEST(Q) and ... and 2 or 0
        case Q: B                   if .n == 1: A
                                    if .n == 2: B

A test is an expression over the subject: for a value `==`, with its attributes read as anywhere else; for a sequence,
a mapping or a class a call of a function below, which returns the parts to test in turn, or None. Attributes are read
by the guest's own `getattr`, whether the pattern names them or `__match_args__` does. Captured names are bound when
the whole pattern has matched, before the case's own `if`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from guest.language import guards

__all__ = ["PATTERN_GUARDS", "at", "load", "lowered", "store"]

_Node = TypeVar("_Node", bound=ast.AST)
_Visit = Callable[[ast.expr], ast.expr]

# A class with this flag matches `C(x)` with the object itself as x: int, str, list and their subclasses.
_MATCHES_ITSELF = 1 << 22
_flags_of: Callable[[type], int] = type.__dict__["__flags__"].__get__


# ---------------------------------------------------------------------------------------------------------------------
# At compile time


def lowered(node: ast.Match, visit: _Visit, statements: Callable[[list[ast.stmt]], list[ast.stmt]]) -> list[ast.stmt]:
    """The statements for `node`. `visit` guards an expression, `statements` the body of a case."""
    prefix = f".m{node.lineno}.{node.col_offset}"
    subject, chosen = f"{prefix}.s", f"{prefix}.n"
    cases = [_Test(f"{prefix}.{number}", visit) for number in range(1, len(node.cases) + 1)]
    tests: list[ast.expr] = []
    branches: list[ast.stmt] = []
    for number, case in enumerate(node.cases, start=1):
        tests.append(_case_test(case, cases[number - 1], subject, number))
        wanted = ast.Compare(load(chosen), [ast.Eq()], [ast.Constant(number)])
        branches.append(at(case.pattern, ast.If(wanted, statements(case.body), [])))
    choice = ast.BoolOp(ast.Or(), [*tests, ast.Constant(0)])
    made: list[ast.stmt] = [ast.Assign([store(subject)], visit(node.subject)), ast.Assign([store(chosen)], choice)]
    # Release what is held here, so that it lives no longer than it would have.
    held = [subject, *(name for one in cases for name in one.held)]
    made.append(ast.Assign([store(name) for name in held], ast.Constant(None)))
    return [*(at(node, one) for one in made), *branches]


def _case_test(case: ast.match_case, test: _Test, subject: str, number: int) -> ast.expr:
    parts = [test.of(case.pattern, load(subject))]
    parts += [_bound(store(name), load(held)) for name, held in test.captures.items()]
    if case.guard is not None:
        parts.append(test.visit(case.guard))
    return at(case.pattern, ast.BoolOp(ast.And(), [*parts, ast.Constant(number)]))


class _Test:
    """Writes the tests of one case, and records which names it captures in which temporaries."""

    def __init__(self, prefix: str, visit: _Visit) -> None:
        self.visit = visit
        self.captures: dict[str, str] = {}
        self.held: list[str] = []
        self._prefix = prefix

    def of(self, pattern: ast.pattern, subject: ast.expr) -> ast.expr:
        """An expression that is true when `pattern` matches `subject`."""
        return at(pattern, self._of(pattern, subject))

    def _of(self, pattern: ast.pattern, subject: ast.expr) -> ast.expr:
        match pattern:
            case ast.MatchValue(value):
                return ast.Compare(subject, [ast.Eq()], [self.visit(value)])
            case ast.MatchSingleton(value):
                return ast.Compare(subject, [ast.Is()], [ast.Constant(value)])
            case ast.MatchOr(patterns):
                return ast.BoolOp(ast.Or(), [self.of(one, subject) for one in patterns])
            case ast.MatchAs(inner, name):
                tests = [] if inner is None else [self.of(inner, subject)]
                return _all([*tests, *([] if name is None else [self._captured(name, subject)])])
            case ast.MatchSequence(patterns):
                return self._sequence(patterns, subject)
            case ast.MatchMapping(keys, patterns, rest):
                return self._mapping(keys, patterns, rest, subject)
            case ast.MatchClass(cls, patterns, names, keyword_patterns):
                listed = ast.Tuple([ast.Constant(name) for name in names], ast.Load())
                arguments = [subject, self.visit(cls), ast.Constant(len(patterns)), listed]
                return self._parts_of("match_class", arguments, [*patterns, *keyword_patterns])
            case _:
                raise TypeError(f"{type(pattern).__name__} is not a pattern")

    def _sequence(self, patterns: Sequence[ast.pattern], subject: ast.expr) -> ast.expr:
        stars = [at for at, one in enumerate(patterns) if isinstance(one, ast.MatchStar)]
        inner: list[ast.pattern] = [
            ast.MatchAs(None, one.name) if isinstance(one, ast.MatchStar) else one for one in patterns
        ]
        star = stars[0] if stars else None
        wanted = star is not None and inner[star].name is not None  # type: ignore[attr-defined]
        arguments = [ast.Constant(one) for one in (len(patterns), star, wanted)]
        return self._parts_of("match_sequence", [subject, *arguments], inner)

    def _mapping(
        self, keys: Sequence[ast.expr], patterns: Sequence[ast.pattern], rest: str | None, subject: ast.expr
    ) -> ast.expr:
        listed = ast.Tuple([self.visit(key) for key in keys], ast.Load())
        inner = [*patterns, *([] if rest is None else [ast.MatchAs(None, rest)])]
        return self._parts_of("match_mapping", [subject, listed, ast.Constant(rest is not None)], inner)

    def _parts_of(self, guard: str, arguments: list[ast.expr], patterns: Sequence[ast.pattern]) -> ast.expr:
        held = self._hold(str(len(self.held)))
        call = ast.NamedExpr(store(held), ast.Call(load(f".{guard}"), arguments, []))
        tests: list[ast.expr] = [ast.Compare(call, [ast.IsNot()], [ast.Constant(None)])]
        for at, pattern in enumerate(patterns):
            part = ast.Subscript(load(held), ast.Constant(at), ast.Load())
            tests.append(self.of(pattern, part))
        return _all(tests)

    def _captured(self, name: str, subject: ast.expr) -> ast.expr:
        if name not in self.captures:
            self.captures[name] = self._hold(name)
        return _bound(store(self.captures[name]), subject)

    def _hold(self, name: str) -> str:
        self.held.append(f"{self._prefix}.{name}")
        return self.held[-1]


def _bound(target: ast.Name, value: ast.expr) -> ast.expr:
    """Binds, and is true whatever is bound."""
    return ast.List([ast.NamedExpr(target, value)], ast.Load())


def _all(tests: list[ast.expr]) -> ast.expr:
    return ast.BoolOp(ast.And(), tests) if len(tests) > 1 else tests[0] if tests else ast.Constant(True)


def load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def store(name: str) -> ast.Name:
    return ast.Name(name, ast.Store())


def at(node: ast.AST, new: _Node) -> _Node:
    return ast.copy_location(new, node)


# ---------------------------------------------------------------------------------------------------------------------
# At run time: the parts of a subject, or None where it does not match


def _match_sequence(subject: Any, count: int, star: int | None, wanted: bool) -> Sequence[Any] | None:
    """The items for `count` patterns; the one at `star` takes what the others leave, if it is `wanted`."""
    if isinstance(subject, (str, bytes, bytearray)) or not isinstance(subject, Sequence):
        return None
    length = len(subject)
    if length < count - 1 if star is not None else length != count:
        return None
    if star is None:
        return [subject[at] for at in range(count)]
    after = count - star - 1
    middle = [subject[at] for at in range(star, length - after)] if wanted else []
    before = [subject[at] for at in range(star)]
    return [*before, middle, *(subject[at] for at in range(length - after, length))]


def _match_mapping(subject: Any, keys: tuple[Any, ...], rest: bool) -> Sequence[Any] | None:
    """The values of the keys and, if wanted, a dict of everything else."""
    if not isinstance(subject, Mapping) or len(subject) < len(keys):
        return None
    nothing = object()
    values = [subject.get(key, nothing) for key in keys]
    if any(value is nothing for value in values):
        return None
    left = dict(subject) if rest else {}
    for key in keys if rest else ():
        del left[key]
    return [*values, left]


def _match_class(subject: Any, cls: Any, positional: int, names: tuple[str, ...]) -> Sequence[Any] | None:
    """The object's attributes: those that the class lists for positional patterns, then the named ones."""
    if not guards.is_class_like(cls):
        raise TypeError("called match pattern must be a class")
    if not isinstance(subject, cls):
        return None
    listed = _listed(cls)
    accepted = 1 if listed is None else len(listed)
    if positional > accepted or (positional and listed == ()):
        plural = "" if accepted == 1 else "s"
        name = getattr(cls, "__name__", cls)
        raise TypeError(f"{name}() accepts {accepted} positional sub-pattern{plural} ({positional} given)")
    try:
        own = [subject][:positional] if listed is None else _attributes(subject, listed[:positional])
        return own + _attributes(subject, names)
    except AttributeError:
        return None


def _listed(cls: Any) -> tuple[str, ...] | None:
    """The names for positional patterns, which only `@dataclass` and the like write; None for the object itself."""
    found = getattr(cls, "__match_args__", None) if isinstance(cls, type) else ()
    if found is None and _flags_of(cls) & _MATCHES_ITSELF:
        return None
    return found if type(found) is tuple and all(type(name) is str for name in found) else ()


def _attributes(subject: Any, names: Iterable[str]) -> list[Any]:
    return [guards.guest_getattr(subject, name) for name in names]


PATTERN_GUARDS: dict[str, object] = {
    ".match_class": _match_class,
    ".match_mapping": _match_mapping,
    ".match_sequence": _match_sequence,
}
