"""Where the output of a restricted program goes: `sys.stdout`, `sys.stderr`, redirection, and `warnings`.

A program has two streams; `print` and similar functions write to them through `Streams`, one for each session. It may
replace a stream with a `StringIO` (`contextlib.redirect_stdout`); nothing else is written to on its behalf. Programs
see `Stream` as `sys.stdout`, `Redirect` in the `with` statement, and `Warnings`, which keeps the filters of one
session, because the library's own are shared with the agent.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from guest.context.paged import plain
from guest.context.wrappers import BytesInto, StringIO
from guest.exact import exact_text
from guest.language import guards

__all__ = ["CatchWarnings", "Caught", "Redirect", "Stream", "Streams", "Warnings"]

Write = Callable[[str, str], None]
# A stream by its name, a program's own buffer, or nowhere.
_Target = StringIO | str | None


class Streams:
    """The two streams of a session, and what has replaced them."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._targets: dict[str, _Target] = {"stdout": "stdout", "stderr": "stderr"}
        self.stdout, self.stderr = Stream(self, "stdout"), Stream(self, "stderr")

    def write(self, stream: str, text: str) -> None:
        target = self._targets[stream]
        if type(target) is str:
            self._write(target, text)
        elif target is not None:
            target.write(text)  # type: ignore[union-attr]

    def into(self, file: object, stream: str, text: str) -> None:
        """As `print(text, file=file)`, if that can be written to; else to the stream."""
        if type(file) in (StringIO, Stream):
            file.write(text)  # type: ignore[attr-defined]
        else:
            self.write(stream, text)

    def target(self, file: object) -> _Target:
        """What a program wants written to in place of a stream."""
        if type(file) is Stream:
            return self._targets[file._name]
        if file is not None and type(file) is not StringIO:
            raise TypeError(f"output is redirected to an io.StringIO(), not to a {type(file).__name__}")
        return file

    def put(self, stream: str, target: _Target) -> _Target:
        """Replace a stream; returns what was there before."""
        before, self._targets[stream] = self._targets[stream], target
        return before

    def sys_members(self) -> dict[str, object]:
        """What `import sys` offers."""
        named = {name: getattr(sys, name) for name in ("byteorder", "float_info", "maxsize", "maxunicode")}
        named |= {"version": sys.version, "version_info": tuple(sys.version_info), "argv": [""], "platform": "linux"}
        return {**named, "stdout": self.stdout, "stderr": self.stderr, "exit": _exit}

    def redirections(self) -> dict[str, object]:
        """What `contextlib` offers in addition."""

        def redirect_stdout(new_target: object) -> Redirect:
            return Redirect(self, "stdout", new_target)

        def redirect_stderr(new_target: object) -> Redirect:
            return Redirect(self, "stderr", new_target)

        return {"redirect_stdout": redirect_stdout, "redirect_stderr": redirect_stderr}


def _exit(status: object = None) -> NoReturn:
    raise SystemExit(status)


class Stream:
    """`sys.stdout` or `sys.stderr` of a program."""

    __slots__ = ("_name", "_streams")

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, streams: Streams, name: str) -> None:
        self._streams = streams
        self._name = name

    def write(self, text: Any, /) -> int:
        text = plain(text)
        if type(text) is not str:
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._streams.write(self._name, text)
        return len(text)

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        pass  # what is written is already on its way

    def reconfigure(self, **options: object) -> None:
        pass  # it is always UTF-8

    @property
    def buffer(self) -> BytesInto:
        return BytesInto(self.write)

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{self._name}>"


class Redirect:
    """`contextlib.redirect_stdout(io.StringIO())` in a `with` statement."""

    __slots__ = ("_before", "_given", "_name", "_streams")

    def __init__(self, streams: Streams, name: str, given: object) -> None:
        streams.target(given)
        self._streams = streams
        self._name = name
        self._given = given
        self._before: list[_Target] = []

    def __enter__(self) -> object:
        self._before.append(self._streams.put(self._name, self._streams.target(self._given)))
        return self._given

    def __exit__(self, *error: object) -> None:
        self._streams.put(self._name, self._before.pop())


# ---------------------------------------------------------------------------------------------------------------------
# Warnings

_ACTIONS = ("default", "error", "ignore", "always", "all", "module", "once")
_Filter = tuple[str, type[Warning], re.Pattern[str] | None]
_IGNORED: tuple[_Filter, ...] = tuple(
    ("ignore", cls, None) for cls in (PendingDeprecationWarning, ImportWarning, ResourceWarning)
)


class Caught:
    """A warning that `catch_warnings(record=True)` kept."""

    __slots__ = ("category", "filename", "line", "lineno", "message", "source")

    def __init__(self, message: Warning, category: type[Warning], lineno: int, filename: str) -> None:
        self.message = message
        self.category = category
        self.lineno = lineno
        self.filename = filename
        self.line = self.source = None

    def __repr__(self) -> str:
        return f"{self.filename}:{self.lineno}: {_text(self.category.__name__)}: {_text(self.message)}"


class Warnings:
    """`warnings`, of one session."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._filters: list[_Filter] = [*_IGNORED]
        self._seen: set[tuple[str, type[Warning], int]] = set()
        self._kept: list[Caught] | None = None

    def members(self) -> dict[str, object]:
        names = ("catch_warnings", "filterwarnings", "resetwarnings", "simplefilter", "warn")
        return {name: getattr(self, name) for name in names}

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, source: object = None) -> None:
        """Print a warning on standard error, or do what the filters say."""
        warning = message if isinstance(message, Warning) else _category(category or UserWarning)(exact_text(message))
        caught = Caught(warning, type(warning), *_place(stacklevel))
        key = (_text(warning), caught.category, caught.lineno)
        action = self._action(*key[:2])
        if action == "error":
            raise warning
        if action == "ignore" or (action not in ("always", "all") and self._kept is None and key in self._seen):
            return
        self._seen.add(key)
        if self._kept is not None:
            self._kept.append(caught)
        else:
            self._streams.write("stderr", f"{caught!r}\n")

    def simplefilter(self, action: str, category: Any = Warning, lineno: int = 0, append: bool = False) -> None:
        """What to do with warnings of this kind."""
        self.filterwarnings(action, "", category, append=append)

    def filterwarnings(
        self,
        action: str,
        message: str = "",
        category: Any = Warning,
        module: str = "",
        lineno: int = 0,
        append: bool = False,
    ) -> None:
        """What to do with warnings of this kind whose text begins with a match of the pattern."""
        wanted, pattern = exact_text(action), exact_text(message)
        if wanted not in _ACTIONS:
            raise ValueError(f"the action must be one of {', '.join(_ACTIONS)}")
        one = (wanted, _category(category), re.compile(pattern, re.IGNORECASE) if pattern else None)
        self._filters.insert(len(self._filters) if append else 0, one)

    def resetwarnings(self) -> None:
        """Forget all filters."""
        self._filters.clear()

    def catch_warnings(self, *, record: bool = False, module: object = None, action: Any = None) -> CatchWarnings:
        """Filters that hold inside a `with` statement; with `record` a list of the warnings there."""
        return CatchWarnings(self, record is True, action)

    def _action(self, text: str, category: type[Warning]) -> str:
        for action, wanted, pattern in self._filters:
            if issubclass(category, wanted) and (pattern is None or pattern.match(text)):
                return action
        return "default"


class CatchWarnings:
    """`warnings.catch_warnings()` in a `with` statement."""

    __slots__ = ("_action", "_before", "_record", "_warnings")

    def __init__(self, warnings: Warnings, record: bool, action: Any) -> None:
        self._warnings = warnings
        self._record = record
        self._action = action
        self._before: list[tuple[list[_Filter], list[Caught] | None]] = []

    def __enter__(self) -> list[Caught] | None:
        mine = self._warnings
        self._before.append((mine._filters, mine._kept))
        mine._filters = [*mine._filters]
        if self._action is not None:
            mine.simplefilter(self._action)
        if self._record:
            mine._kept = []
        return mine._kept if self._record else None

    def __exit__(self, *error: object) -> None:
        self._warnings._filters, self._warnings._kept = self._before.pop()


def _category(category: Any) -> type[Warning]:
    if not isinstance(category, type) or not issubclass(category, Warning):
        raise TypeError("the category must be a Warning class")
    return category


def _text(value: object) -> str:
    return exact_text(str(value))  # type: ignore[no-any-return]


def _place(stacklevel: Any) -> tuple[int, str]:
    """Line and file of the program's function that warns, or of one of its callers."""
    left = stacklevel if type(stacklevel) is int else 1
    frame: types.FrameType | None = sys._getframe(2)
    found = None
    while frame is not None and (left > 0 or found is None):
        if frame.f_globals.get(guards.MARK) is guards.TOKEN:
            found, left = frame, left - 1
        frame = frame.f_back
    return (0, "<cell>") if found is None else (found.f_lineno, found.f_code.co_filename)
