"""`re`, for programs whose subject may be a `PagedText`.

The C engine needs a real `str`. So every function and every method of a compiled pattern turns a `PagedText` argument
into one first, and is plain `re` otherwise. A long text is not loaded whole if there is another way: `search`, `match`,
`fullmatch`, `finditer` and `findall` go through it in windows, if that gives exactly the same for the pattern (see
`scan`); their match objects are then our own. Otherwise, if the text is too large to load as a whole, the program gets
TextTooLarge, which names `context.search`.
"""

from __future__ import annotations

import operator
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from re import (
    ASCII,
    DEBUG,
    DOTALL,
    IGNORECASE,
    LOCALE,
    MULTILINE,
    NOFLAG,
    UNICODE,
    VERBOSE,
    A,
    I,
    L,
    M,
    Match,
    RegexFlag,
    S,
    U,
    X,
    error,
    purge,
)
from typing import Any

from guest.context import scan
from guest.context.paged import LookAlike, PagedText, plain

__all__ = [
    "ASCII",
    "DEBUG",
    "DOTALL",
    "IGNORECASE",
    "LOCALE",
    "MULTILINE",
    "NOFLAG",
    "UNICODE",
    "VERBOSE",
    "A",
    "I",
    "L",
    "M",
    "Match",
    "Pattern",
    "RegexFlag",
    "S",
    "U",
    "X",
    "as_module",
    "compile",
    "error",
    "escape",
    "findall",
    "finditer",
    "fullmatch",
    "match",
    "purge",
    "search",
    "split",
    "sub",
    "subn",
]


class Pattern:
    """A compiled pattern: `re.Pattern`, with subjects that may be a PagedText. Made by `compile`."""

    __slots__ = ("_compiled",)

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def __init__(self, compiled: re.Pattern[Any]) -> None:
        if type(compiled) is not re.Pattern:  # a look-alike would see inside the texts
            raise TypeError("write re.compile(pattern) to make a pattern")
        self._compiled = compiled

    @property
    def pattern(self) -> Any:
        """The source, as it was given to `compile`."""
        return self._compiled.pattern

    @property
    def flags(self) -> int:
        """All flags in effect, inline and implied ones included."""
        return self._compiled.flags

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self._compiled.groups

    @property
    def groupindex(self) -> Mapping[str, int]:
        """Group names and their numbers."""
        return types.MappingProxyType(dict(self._compiled.groupindex))

    def search(self, string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Match[Any] | None:
        return _search(self._compiled, string, pos, endpos)

    def match(self, string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Match[Any] | None:
        return _match(self._compiled, string, pos, endpos)

    def fullmatch(self, string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Match[Any] | None:
        return _fullmatch(self._compiled, string, pos, endpos)

    def findall(self, string: Any, pos: int = 0, endpos: int = sys.maxsize) -> list[Any]:
        return _findall(self._compiled, string, pos, endpos)

    def finditer(self, string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Iterator[Match[Any]]:
        return _finditer(self._compiled, string, pos, endpos)

    def split(self, string: Any, maxsplit: int = 0) -> list[Any]:
        return self._compiled.split(_subject(string), maxsplit)

    def sub(self, repl: Any, string: Any, count: int = 0) -> Any:
        return self._compiled.sub(plain(repl), _subject(string), count)

    def subn(self, repl: Any, string: Any, count: int = 0) -> tuple[Any, int]:
        return self._compiled.subn(plain(repl), _subject(string), count)

    def __repr__(self) -> str:
        return repr(self._compiled)

    def __eq__(self, other: object) -> bool:
        return self._compiled == other._compiled if type(other) is Pattern else NotImplemented

    def __hash__(self) -> int:
        return hash(self._compiled)

    def __copy__(self) -> Pattern:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Pattern:
        return self

    def __reduce__(self) -> tuple[Callable[..., Pattern], tuple[Any, int]]:
        return compile, (self.pattern, self.flags)


def compile(pattern: Any, flags: int = 0) -> Pattern:  # noqa: A001  # the name that `re` gives it
    """A reusable pattern. Raises re.error if it is not a regular expression."""
    compiled = _engine(pattern, flags)
    return pattern if type(pattern) is Pattern else Pattern(compiled)


def search(pattern: Any, string: Any, flags: int = 0) -> Match[Any] | None:
    """The first match anywhere, or None."""
    return _search(_engine(pattern, flags), string)


def match(pattern: Any, string: Any, flags: int = 0) -> Match[Any] | None:
    """The match at the beginning, or None."""
    return _match(_engine(pattern, flags), string)


def fullmatch(pattern: Any, string: Any, flags: int = 0) -> Match[Any] | None:
    """The match of the whole text, or None."""
    return _fullmatch(_engine(pattern, flags), string)


def findall(pattern: Any, string: Any, flags: int = 0) -> list[Any]:
    """All matches: texts, or the groups where the pattern has some."""
    return _findall(_engine(pattern, flags), string)


def finditer(pattern: Any, string: Any, flags: int = 0) -> Iterator[Match[Any]]:
    """All match objects, one after the other."""
    return _finditer(_engine(pattern, flags), string)


def split(pattern: Any, string: Any, maxsplit: int = 0, flags: int = 0) -> list[Any]:
    """The parts between matches, and the groups."""
    return _engine(pattern, flags).split(_subject(string), maxsplit)


def sub(pattern: Any, repl: Any, string: Any, count: int = 0, flags: int = 0) -> Any:
    """The text with matches replaced by `repl`, a template or a function of the match."""
    return _engine(pattern, flags).sub(plain(repl), _subject(string), count)


def subn(pattern: Any, repl: Any, string: Any, count: int = 0, flags: int = 0) -> tuple[Any, int]:
    """As `sub`, and how many were replaced."""
    return _engine(pattern, flags).subn(plain(repl), _subject(string), count)


def escape(pattern: Any) -> Any:
    """The text as a pattern that matches exactly it."""
    return re.escape(plain(pattern))


def as_module() -> types.ModuleType:
    """A module named "re" with everything above, for `import re` in a program."""
    module = types.ModuleType("re", "Regular expressions, over texts that may be paged.")
    names = [name for name in __all__ if name != "as_module"]
    for name in names:
        setattr(module, name, globals()[name])
    if hasattr(re, "PatternError"):  # the newer name of `error`
        names.append("PatternError")
        module.__dict__["PatternError"] = error
    module.__dict__["__all__"] = names
    return module


def _engine(pattern: Any, flags: int) -> re.Pattern[Any]:
    """The engine's own pattern. `re.compile` has a cache, and refuses flags for an already compiled pattern."""
    # The parser is Python code over the pattern's characters, so it gets an exact text and exact flags.
    return re.compile(pattern._compiled if type(pattern) is Pattern else plain(pattern), _exact_flags(flags))


def _exact_flags(flags: Any) -> Any:
    # Even for the library's own class: `re.I | flags` keeps a value of the program's own int.
    return operator.index(flags)


# ------------------------------------------------------------------------------------------------- over look-alikes


def _subject(string: Any) -> Any:
    """The subject for the engine. Raises TypeError, as `re` does, for a list or a dict."""
    if issubclass(type(string), LookAlike) and type(string) is not PagedText:
        look = string.__class__.__name__
        raise TypeError(
            f"expected string or bytes-like object, got '{look}': search one item at a time, "
            "for example [item for item in context if re.search(pattern, item)]"
        )
    return plain(string)


def _windows(compiled: re.Pattern[Any], string: Any) -> scan.Reach | None:
    """How far matches look, if the subject is searched in windows."""
    return string._reach(compiled) if type(string) is PagedText else None


def _search(compiled: re.Pattern[Any], string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Match[Any] | None:
    far = _windows(compiled, string)
    if far is None:
        return compiled.search(_subject(string), pos, endpos)
    return next(string._matches(compiled, pos, endpos), None)


def _match(compiled: re.Pattern[Any], string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Match[Any] | None:
    far = _windows(compiled, string)
    if far is None:
        return compiled.match(_subject(string), pos, endpos)
    return scan.match(compiled, far, string, pos, endpos)  # type: ignore[no-any-return]


def _fullmatch(compiled: re.Pattern[Any], string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Match[Any] | None:
    far = _windows(compiled, string)
    if far is None:
        return compiled.fullmatch(_subject(string), pos, endpos)
    return scan.fullmatch(compiled, far, string, pos, endpos)  # type: ignore[no-any-return]


def _finditer(compiled: re.Pattern[Any], string: Any, pos: int = 0, endpos: int = sys.maxsize) -> Iterator[Match[Any]]:
    far = _windows(compiled, string)
    if far is None:
        return compiled.finditer(_subject(string), pos, endpos)
    return string._matches(compiled, pos, endpos)  # type: ignore[no-any-return]


def _findall(compiled: re.Pattern[Any], string: Any, pos: int = 0, endpos: int = sys.maxsize) -> list[Any]:
    far = _windows(compiled, string)
    if far is None:
        return compiled.findall(_subject(string), pos, endpos)
    found = scan.finditems(compiled, far, string, pos, endpos, window_chars=string._window_chars())
    return string._listed(found)  # type: ignore[no-any-return]
