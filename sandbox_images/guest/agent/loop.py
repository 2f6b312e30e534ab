"""The agent: one loop that takes a cell from the wire, runs it in the session's one namespace, and says how it ended.

    Start -> Ready -> (Execute -> Output*, requests*, [Final], Done)*

It runs as the first process of the box and shares that process with the guest program. Standard output and error are
replaced by writers that send `Output` frames; the real descriptors 0, 1 and 2 lead nowhere.

Interrupts. The host sends SIGINT to end a cell, at most once for each cell, and a signal does not say which cell it is
for. It may come before its cell has started here, if the host sent the cell a moment ago and has changed its mind: then
it is kept, and that cell ends at once. Or it may come when its cell has already ended, perhaps during the next one.
Each order says whether the previous cell was sent an interrupt, so the two can be told apart: an interrupt that was
meant for an earlier cell is dropped when it comes.
"""

from __future__ import annotations

import builtins
import codecs
import contextlib
import io
import linecache
import mmap
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable

# The kernel's own: that of the module is the program's, which notes what it reads.
from time import monotonic
from typing import Any

from guest.agent import chance, clock
from guest.agent.contexts import make_contexts
from guest.agent.names import CutAnswer, Ended, Endings, ModelError, PolicyDenied, Queries, QuotaExceeded, called
from guest.agent.wire import Channel, Closed
from guest.context import regex, wrappers
from guest.context.paged import plain
from guest.exact import exact_text
from guest.language import program, rejection

__all__ = ["Agent", "Stream", "main"]

_WIRE_FD = 3
_PROTOCOL = 2
# What waits here is lost if the box is killed, so a line is sent at once: of many in a short time the first ones, and
# then one in so many seconds. The rest, and a flood, is gathered into frames of this size.
_FLUSH_BYTES = 8192
_FLUSH_SECONDS = 0.02
_BURST_SECONDS = 20 * _FLUSH_SECONDS
_THREAD_STACK_BYTES = 1 << 20
# Address space that no program can fill, in pieces: enough to say that one has filled the rest. Nothing touches it.
_SPARE_BYTES = 1 << 20
_SPARES = 4
_MESSAGE_CHARS = 4000
_TRACEBACK_CHARS = 16000
# What a class or an exception has, not what its own class makes of these names.
_NAME: Any = vars(type)["__name__"]
_TRACE: Any = vars(BaseException)["__traceback__"]
# Of what the program has defined, as told when a cell is over.
_VARIABLES_MAX = 20
_VARIABLE_CHARS = 80
_NOTHING = object()


class Stream:
    """A text stream whose writes become `Output` frames. Enough of a file object for `print` and `logging`."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._stream = name
        self._lock = threading.RLock()
        self._parts: list[str] = []
        self._chars = 0
        self._due = 0.0  # up to which moment lines have been sent at once
        self._bytes: _Bytes | None = None

    def write(self, text: str) -> int:
        text = plain(text)
        if type(text) is not str:
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self._parts.append(text)
            self._chars += len(text)
            if self._chars >= _FLUSH_BYTES or ("\n" in text and self._is_due()):
                self.flush()
        return len(text)

    def _is_due(self) -> bool:
        now = monotonic()
        due = max(self._due, now - _BURST_SECONDS) + _FLUSH_SECONDS
        if due > now:
            return False
        self._due = due
        return True

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._lock:
            parts, self._parts, self._chars = self._parts, [], 0
        data = "".join(parts).encode("utf-8", "replace")
        for start in range(0, len(data), 65536):
            header = {"op": "output", "cell": self._channel.cell, "stream": self._stream}
            self._channel.send(header, data[start : start + 65536])

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def reconfigure(self, **_options: Any) -> None:
        """Programs call this to get UTF-8, which the stream uses anyway."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno: there is no file behind this stream; use print() or write()")

    @property
    def buffer(self) -> _Bytes:
        if self._bytes is None:
            self._bytes = _Bytes(self)
        return self._bytes


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes of UTF-8 for the stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        data = bytes(data)
        self._stream.write(self._decoder.decode(data))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Only flushes: a wrapper closes it when the program drops the wrapper, but the stream stays open."""
        self.flush()


class Agent:
    """One session: the namespace, the guest names, and the loop over cells."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stdout = Stream(channel, "stdout")
        self._stderr = Stream(channel, "stderr")
        self._in_cell = False
        # Interrupts: the current cell got its own; one came while no cell ran; how many for earlier cells are to come.
        self._met = False
        self._early = False
        self._owed = 0
        self._pid = os.getpid()
        self._globals: dict[str, Any] = {}
        self._compile: Callable[..., types.CodeType] = program.compile_cell
        self._main: program.Main | None = None
        self._more = False  # whether other cells may follow
        self._stays = False  # whether they may follow an answer
        self._failed = False  # the cell before
        self._spare: list[mmap.mmap] = []
        self._take_spare()
        self._kept: set[str] = set()
        self._user: Callable[[dict[str, Any]], dict[str, Any]] = lambda names: names
        self._given: dict[str, Any] = {}
        self._clocks: clock.Clocks | None = None

    def run(self) -> None:
        start, _ = self._channel.command()
        held, found = start["in_flight_bytes_max"], start["read_bytes_max"]
        self._channel.limit_in_flight(start["in_flight_max"], held, found)
        self._build(start)
        sys.stdout, sys.stderr = self._stdout, self._stderr
        sys.__stdout__, sys.__stderr__ = self._stdout, self._stderr  # type: ignore[assignment,misc]
        signal.signal(signal.SIGINT, self._on_interrupt)
        # With the default of 8 MiB of address space each, a pool of threads would use up the box's allowance.
        threading.stack_size(_THREAD_STACK_BYTES)
        version = ".".join(map(str, sys.version_info[:3]))
        self._channel.send({"op": "ready", "protocol": _PROTOCOL, "python": version})
        while True:
            command, body = self._channel.command()
            source, noted = body[: len(body) - command["noted_bytes"]], body[len(body) - command["noted_bytes"] :]
            self._begin(command["cell"], interrupted=command["interrupted"])
            if self._clocks is not None:
                self._clocks.begin(noted)
            self._cell(command["cell"], source.decode("utf-8", "surrogatepass").removeprefix("\ufeff"))

    # ------------------------------------------------------------------------------------------------ the namespace

    def _build(self, start: dict[str, Any]) -> None:
        if start["clock"]:
            self._clocks = clock.prepare()
            self._channel.readings = self._clocks.take
        queries = Queries(
            self._channel,
            batch_max=start["batch_max"],
            prompt_bytes_max=start["prompt_bytes_max"],
            body_bytes_max=start["body_bytes_max"],
            flush=self._flush,
            warn=self._stderr.write,
            **({"left": self._clocks.left} if self._clocks is not None else {}),
            contexts=[info["name"] for info in start["contexts"]],
        )
        self._endings = Endings(self._channel, self._variables, self._flush, body_bytes_max=start["body_bytes_max"])
        contexts = make_contexts(self._channel, start)
        self._given = {
            "context": next(iter(contexts.values()), ""),
            "contexts": contexts,
            "llm_query": queries.llm_query,
            "llm_query_batched": queries.llm_query_batched,
            "rlm_query": queries.rlm_query,
            "rlm_query_batched": queries.rlm_query_batched,
            "budget": queries.budget,
            "coverage": queries.coverage,
            "SHOW_VARS": self._show_vars,
            "FINAL": self._endings.final,
            "FINAL_VAR": self._endings.final_var,
            "SUBMIT": self._endings.submit,
            "answer": self._endings.answer,
            "PolicyDenied": PolicyDenied,
            "QuotaExceeded": QuotaExceeded,
            "ModelError": ModelError,
            "CutAnswer": CutAnswer,
        }
        for info in start["tools"]:
            self._given[info["name"]] = queries.tool(info, lambda: self._endings.read)
        self._more, self._stays = start["more"], start["stays"]
        if start["seed"]:
            chance.begin(start["seed"])
        if start["language"] == "restricted":
            self._use_restricted()
        else:
            self._use_python()
        self._endings.namespace = self._globals

    def _use_python(self) -> None:
        self._main = program.Main()
        self._globals = self._main.__dict__
        self._globals |= {"__builtins__": _BUILTINS, **self._given}
        sys.modules["__main__"] = self._main
        sys.argv, sys.orig_argv = [""], [sys.executable]

    def _use_restricted(self) -> None:
        from guest.language import guards, restricted

        self._compile = restricted.compile_cell
        self._user = restricted.user_variables
        self._globals = restricted.make_globals(write=self._write, names=self._given, regex=regex.as_module())
        self._endings.read = guards.guest_getattr

    def _variables(self) -> dict[str, object]:
        given = self._given
        return {
            name: value
            for name, value in self._user(self._globals).items()
            if not (name in given and value is given[name])
            and not (name.startswith("__") and name.endswith("__"))
            and not program.is_imported(value)
        }

    @called("SHOW_VARS")
    def _show_vars(self) -> str:
        """What the program has defined so far, one `name: type` per line."""
        variables = self._variables()
        lines = (f"{name}: {_type_name(type(variables[name]))}" for name in sorted(variables))
        return "\n".join(lines) or "(no variables yet)"

    def _told_variables(self) -> tuple[list[str], int]:
        """The latest variables, as `name: type`, where both are short names in ASCII; and how many others there are."""
        told, variables = [], self._variables()
        for name, value in reversed(variables.items()):
            kind = _type_name(type(value))
            line = f"{name}: {kind if kind.isascii() and kind.isidentifier() else 'object'}"
            if name.isascii() and name.isidentifier() and len(line) <= _VARIABLE_CHARS:
                told.append(line)
            if len(told) == _VARIABLES_MAX:
                break
        return told[::-1], len(variables) - len(told)

    # ----------------------------------------------------------------------------------------------------- one cell

    def _begin(self, number: int, *, interrupted: bool) -> None:
        """Start a cell: what is sent from now on is its own. `interrupted`: the cell before was sent an interrupt."""
        self._flush()  # what was printed until now belongs to the cell before
        self._channel.cell = number
        if interrupted and not self._met:
            self._owed += not self._early
            self._early = False
        self._met = False

    def _cell(self, number: int, source: str) -> None:
        filename = f"<cell {number}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        try:
            done = self._run(source, filename)
            self._in_cell = False
        except KeyboardInterrupt:
            done = _interrupted("")
            self._in_cell = False
        self._take_spare()
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the program forked and that reached the end of the cell must not send Done
        variables: list[str] = []
        unlisted = 0
        if self._more:
            self._give_back()
            variables, unlisted = self._told_variables()
        self._flush()
        status, error, trace = done
        self._failed = status != "ok"
        header = {"op": "done", "cell": number, "status": status, "error": error, "variables": variables}
        self._channel.send(header | {"unlisted": unlisted}, trace)

    def _run(self, source: str, filename: str) -> tuple[str, dict[str, Any] | None, bytes]:
        self._in_cell = True
        if self._early:
            self._early, self._met = False, True
            return _interrupted("")
        try:
            code = self._compile(source, filename, show=self._more)
        except KeyboardInterrupt:
            return _interrupted("")
        except BaseException as error:
            return _refused(error, source, filename)
        try:
            if self._failed:
                self._endings.after_a_failure()
            self._execute(code)
            self._endings.after_cell()
        except (Ended, Closed):
            self._more = self._stays
            return "ok", None, b""
        except KeyboardInterrupt as error:
            # An interrupt that the host did not send is the program's own.
            return _interrupted(_traceback(error)) if self._met else _raised(error)
        except BaseException as error:
            self._spare.clear()  # what the program made is there as long as its error is
            return _raised(error)
        return "ok", None, b""

    def _execute(self, code: types.CodeType) -> None:
        if self._main is not None:
            self._main.ran(code.co_filename)
        try:
            exec(code, self._globals)  # noqa: S102 - that is what a box is for
        except SystemExit as leaving:
            if program.exit_status(leaving) is not None:
                raise
        if self._main is not None and sys.stdout is not self._stdout:
            sys.stdout.flush()  # the program's own stream, which may buffer

    def _give_back(self) -> None:
        """Restore the names that a program finds for the next cell, whatever this one did with them."""
        taken = []
        for name, value in self._given.items():
            own = self._globals.get(name, _NOTHING)
            # The program may replace `answer`.
            if own is value or (name == "answer" and own is not _NOTHING):
                continue
            self._globals[name] = value
            taken.append(f"`{name}` ({'deleted' if own is _NOTHING else self._keep(name, own)})")
        if taken:
            self._write("stderr", f"note: names that you overwrote or deleted are restored: {', '.join(taken)}\n")

    def _keep(self, name: str, value: object) -> str:
        """Keep the program's value of a given name under another name."""
        kept = f"my_{name}"
        while kept in self._globals and kept not in self._kept:
            kept += "_"
        self._kept.add(kept)
        self._globals[kept] = value
        return f"your value is now `{kept}`"

    def _take_spare(self) -> None:
        """Have address space to give back when there is no other, as much as there is now."""
        with contextlib.suppress(OSError, MemoryError):
            while len(self._spare) < _SPARES:
                self._spare.append(mmap.mmap(-1, _SPARE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def _on_interrupt(self, _signal: int, _frame: object) -> None:
        if self._owed:
            self._owed -= 1
        elif self._in_cell:
            self._met = True
            self._channel.interrupt()
        else:
            self._early = True

    def _write(self, stream: str, text: str) -> None:
        (self._stderr if stream == "stderr" else self._stdout).write(text)

    def _flush(self) -> None:
        self._stdout.flush()
        self._stderr.flush()


def _builtins() -> dict[str, Any]:
    """The builtins of the `python` language: all of them, but `import` gives some modules that accept paged text."""
    names = dict(vars(builtins))
    real_import = builtins.__import__
    own = wrappers.as_modules()

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: A002
        is_new = level == 0 and name not in sys.modules and name.partition(".")[0] in sys.stdlib_module_names
        given = name, globals, locals, fromlist, level
        found = clock.aside(real_import, *given) if is_new else real_import(*given)
        # `import json.decoder` gives `json` as well; `from json.decoder import ...` gives the submodule.
        wanted = name if fromlist else name.partition(".")[0]
        if level == 0 and wanted in wrappers.LATER and wanted not in own:
            own[wanted] = wrappers.later(found)
        return own.get(wanted, found) if level == 0 else found

    names["__import__"] = import_
    return names | program.CONSOLE


def _refused(error: BaseException, source: str, filename: str) -> tuple[str, dict[str, Any], bytes]:
    """The cell did not compile: `rejected`, with the line."""
    line = getattr(error, "line", None) or getattr(error, "lineno", None)
    kind = type(error).__name__
    message = str(getattr(error, "message", None) or getattr(error, "msg", None) or error)
    report = {"type": kind, "message": message[:_MESSAGE_CHARS], "line": line if isinstance(line, int) else None}
    trace = rejection.shown(error, source, filename)
    return "rejected", report, trace[:_TRACEBACK_CHARS].encode("utf-8", "replace")


def _raised(error: BaseException) -> tuple[str, dict[str, Any], bytes]:
    try:
        message = exact_text(str(error))
    except BaseException:  # a program's own __str__ may do anything
        message = "(its message could not be shown)"
    if type(program.exit_status(error)) is int:
        message = f"the program ended with exit status {message}"
    trace = _traceback(error)
    report = {"type": _type_name(type(error))[:200], "message": message[:_MESSAGE_CHARS], "line": _line_of(error)}
    return "error", report, trace.encode("utf-8", "replace")


def _type_name(cls: type) -> str:
    """The name as a plain `str`: the program may have set it to one of its own class, and its metaclass say another."""
    name: str = exact_text(_NAME.__get__(cls))
    return name


def _interrupted(trace: str) -> tuple[str, dict[str, Any], bytes]:
    report = {"type": "KeyboardInterrupt", "message": "the cell was interrupted", "line": None}
    return "interrupted", report, trace.encode("utf-8", "replace")


def _line_of(error: BaseException) -> int | None:
    """As the interpreter knows it, whatever the exception's class says; None also for a line that there cannot be."""
    line = None
    trace = _TRACE.__get__(error)
    while trace is not None:
        if exact_text(trace.tb_frame.f_code.co_filename).startswith("<cell "):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line if line is not None and line >= 0 else None


def _traceback(error: BaseException) -> str:
    """The traceback without the agent's own frames, cut in the middle when long."""
    try:
        report = traceback.TracebackException.from_exception(error, limit=-50)
        kept = [frame for frame in report.stack if "/guest/" not in frame.filename]
        report.stack = traceback.StackSummary.from_list(kept)
        text = "".join(report.format())
    except BaseException:  # the exception's own methods may do anything
        return f"{_type_name(type(error))}: (its traceback could not be shown)"
    if len(text) > _TRACEBACK_CHARS:
        text = f"{text[: _TRACEBACK_CHARS // 2]}\n...\n{text[-_TRACEBACK_CHARS // 2 :]}"
    return text


# Made once, before any clone: copying the dictionary touches every builtin, each in its own page. A process has one
# session, so it is not shared.
_BUILTINS = _builtins()


def main(reading: int = _WIRE_FD, writing: int = _WIRE_FD) -> None:
    try:
        Agent(Channel(reading, writing)).run()
    except Closed:
        return
