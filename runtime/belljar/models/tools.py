"""Host tools: functions of the embedder's that a program in a box may call.

To the rest of the program a tool is asked as a model is, so a call of it takes the same way: permitted by the policy's
`models.allow` (as `tool:NAME`), reserved and logged before it is made, settled and logged after, under a deadline, and
as many at a time. It has no tokens; it counts as a call, and costs what it states. It is never tried twice, since it
may have done something.

    JSON arguments  ->  checked against the signature  ->  the function  ->  its result as JSON, of a bounded size

An async function runs in the event loop. Any other runs in a thread of its own, a daemon: at the deadline, or when the
run ends, nobody waits for it any more, and it holds up no exit of the process. What it then returns counts for nothing.
An async function is cancelled then, and not waited for if it goes on. The coroutine that any other returns, as one does
under a decorator that is not async, is awaited like its own. One that has left some calls behind is not called again in
that run.

Nothing of the host reaches the program but the result: of an exception only its type's name, unless it is a
`ToolError`, whose text is meant for the program. Nothing is pickled.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import copy
import functools
import inspect
import io
import json
import keyword
import re
import threading
import typing
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import msgspec

from belljar.errors import InvalidInput, ModelFailed
from belljar.heavy import give_way, no_collection, off_loop, reader_of
from belljar.members import check_names
from belljar.models.base import ModelReply, ModelRequest, Usage

__all__ = ["GIVEN_NAMES", "TOOL_PREFIX", "HostTool", "Tool", "ToolError", "host_tools"]

TOOL_PREFIX: Final = "tool:"
# What a program finds in any case; a tool must not take one of these from it.
GIVEN_NAMES: Final = frozenset(
    (
        *("context", "contexts", "llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched"),
        *("budget", "coverage", "SHOW_VARS", "FINAL", "FINAL_VAR", "SUBMIT", "answer"),
        *("PolicyDenied", "QuotaExceeded", "ModelError", "CutAnswer"),
    )
)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)
_TOOLS_MAX: Final = 32
_DOC_CHARS_MAX: Final = 1000
_FORMS_CHARS_MAX: Final = 1000
_ERROR_CHARS_MAX: Final = 300
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
# A millisecond or two.
_PIECES_A_SLICE: Final = 2000
# Ten years: beyond any policy's deadline.
_TIMEOUT_S_MAX: Final = 3.2e8
_COST_NANOUSD_MAX: Final = 10**15
# How long an async function that was given up has to end.
_CANCEL_S: Final = 0.5
# Calls that never came back: so many does one function leave behind in a run at most.
_LEFT_BEHIND_MAX: Final = 4
_MODULES: Final = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ToolError(Exception):
    """Raised by a tool, with a text for the program that called it. Of other exceptions it learns the type alone."""


class Tool(msgspec.Struct, frozen=True):
    """A function that programs may call, where more than the function itself has to be said.

    Attributes:
        function: with a type for each argument, each of which JSON has a form for; async or not.
        name: what programs call it; the function's own name when None.
        cost_nanousd: what each call costs, in billionths of a USD; also one that fails.
        timeout_s: how long a call may take, in seconds, unless the policy (`models.call_wall`) allows less.
    """

    function: Callable[..., Any]
    name: str | None = None
    cost_nanousd: int = 0
    timeout_s: float = 60.0


class HostTool:
    """A tool of one run. It has the form of a model, but only the broker asks it.

    Attributes:
        told: the name as the program knows it, the names of the arguments, and what it is, in words.
    """

    scripted = False

    def __init__(self, tool: Tool) -> None:
        function = tool.function
        own = getattr(function, "__name__", "") if tool.name is None else tool.name
        self._name = _checked_name(own)
        self.name = TOOL_PREFIX + own
        self.cost_nanousd = _checked_number(own, "cost_nanousd", tool.cost_nanousd, 0, _COST_NANOUSD_MAX)
        self._timeout_s = _checked_number(own, "timeout_s", tool.timeout_s, 0.001, _TIMEOUT_S_MAX)
        self._function = function
        self._arguments, words, names = _signature(own, function)
        self._read = reader_of(self._arguments)
        self._is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self.bytes_max = 0  # the policy's, set by `host_tools`
        self._left_behind = 0
        said = (words, _doc_of(function), _forms_of(self._arguments))
        self.told = (own, names, "\n\n".join(part for part in said if part))

    async def complete(self, request: ModelRequest) -> ModelReply:
        """One call, with the request's only message as its arguments. Raises ModelFailed."""
        (message,) = request.messages
        limit_s = min(request.deadline_s, self._timeout_s)
        arguments = await off_loop(len(message.text), self._decoded, message.text)
        if self._left_behind >= _LEFT_BEHIND_MAX:
            raise ModelFailed(
                f"{self._name} is not called: {self._left_behind} calls of it in this run have not returned",
                charged=False,
            )
        # A task of its own: it may cancel itself, raise anything, and go on after it was given up.
        work = asyncio.create_task(self._outcome(arguments))
        try:
            await asyncio.wait([work], timeout=limit_s)
            is_late = not work.done()
        finally:
            if not work.done():
                await self._give_up(work)
        if is_late:
            raise self._failed(f"did not return within {limit_s:g} s: ask it for less")
        said = work.result()
        if isinstance(said, BaseException):
            raise said
        return ModelReply(said, Usage(), self.name, "end_turn")

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _decoded(self, text: str) -> dict[str, Any]:
        data = text.encode()
        try:
            given = self._read(data)
            check_names(data)  # the log has them as they came
        except (msgspec.DecodeError, RecursionError) as error:
            raise ModelFailed(f"{self._name} got wrong arguments: {_line(str(error))}", charged=False) from None
        return {name: getattr(given, name) for name in self._arguments.__struct_fields__}

    async def _outcome(self, arguments: dict[str, Any]) -> str | ModelFailed | KeyboardInterrupt:
        """The result as JSON, or why there is none. Raised in a task, an interrupt would stop the event loop."""
        try:
            if self._is_async:
                result = await self._function(**arguments)
            else:
                made = await self._in_thread(arguments)
                if isinstance(made, str | ModelFailed):
                    return made
                result = await made
        except KeyboardInterrupt as wish:
            return wish
        except BaseException as error:  # the program is told of it
            return self._raised(error)
        return await asyncio.to_thread(self._encoded, result)

    async def _give_up(self, work: asyncio.Task[Any]) -> None:
        work.cancel()
        try:
            await asyncio.wait([work], timeout=_CANCEL_S)
        finally:
            if not work.done():
                self._left_behind += 1
                work.add_done_callback(self._came_back)

    def _came_back(self, _: object = None) -> None:
        self._left_behind -= 1

    async def _in_thread(self, arguments: dict[str, Any]) -> str | ModelFailed | Coroutine[Any, Any, Any]:
        """Not in the loop's own pool of threads, whose end a process waits for when it exits.

        What is to be awaited is what a decorator gives that is no async function, of one that is.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | ModelFailed | Coroutine[Any, Any, Any]] = loop.create_future()

        def tell(outcome: str | ModelFailed | Coroutine[Any, Any, Any]) -> None:
            if done.cancelled():
                self._came_back()
                _close(outcome)
            else:
                done.set_result(outcome)

        def run() -> None:
            try:
                result = self._function(**arguments)
            except BaseException as error:  # nobody else sees what is raised in this thread
                outcome: str | ModelFailed | Coroutine[Any, Any, Any] = self._raised(error)
            else:
                outcome = result if inspect.iscoroutine(result) else self._encoded(result)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(tell, outcome)

        threading.Thread(target=run, name=self.name, daemon=True).start()
        try:
            return await done
        finally:
            if done.cancelled():
                self._left_behind += 1

    def _encoded(self, result: object) -> str | ModelFailed:
        """The result as JSON, or that it has no form there, or a larger one than the policy allows."""
        try:
            if inspect.isawaitable(result):
                _close(result)
                return self._failed("returned something to await that is not its own coroutine")
            with no_collection():
                text = _json_of(msgspec.to_builtins(result, str_keys=True))
            size = len(text.encode())
        except BaseException as error:  # a type's own methods may raise anything
            return self._failed(f"returned what JSON has no form for ({type(error).__name__[:80]})")
        if size > self.bytes_max:
            return self._failed(f"returned {size:,} bytes, and at most {self.bytes_max:,} are allowed: ask it for less")
        return text

    def _raised(self, error: BaseException) -> ModelFailed:
        return self._failed(f"raised {_line(type(error).__name__)[:80]}{_words_of(error)}")

    def _failed(self, how: str) -> ModelFailed:
        return ModelFailed(f"{self._name} {how}")


def _json_of(plain: object) -> str:
    """Written piece by piece, in Python: the encoder in C keeps the interpreter, and with it the loop, to the end."""
    written = io.StringIO()
    for number, piece in enumerate(_ENCODER.iterencode(plain), 1):
        written.write(piece)
        if number % _PIECES_A_SLICE == 0:
            give_way()
    return written.getvalue()


def _close(result: object) -> None:
    """It is not awaited, and nobody should be warned of that."""
    if inspect.iscoroutine(result):
        result.close()


def host_tools(given: Iterable[Any], *, bytes_max: int, told_bytes_max: int) -> tuple[HostTool, ...]:
    """The tools of one run, checked; each is a function or a `Tool`.

    Args:
        bytes_max: of a result.
        told_bytes_max: of what the box is told of them all.

    Raises:
        InvalidInput: `tool.invalid`.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise _invalid("tools must be a list of functions")
    tools = tuple(one if isinstance(one, HostTool) else _made(one) for one in given)
    names = [tool.name for tool in tools]
    if len(tools) > _TOOLS_MAX or len(set(names)) < len(names):
        raise _invalid(f"there can be {_TOOLS_MAX} tools at most, each with a name of its own")
    size = len(msgspec.json.encode([tool.told for tool in tools]))
    if size > told_bytes_max:
        raise _invalid(
            f"what the tools say of themselves takes {size:,} bytes, and {told_bytes_max:,} fit a message: use shorter "
            "docstrings, or allow a larger wire.header"
        )
    for tool in tools:
        tool.bytes_max = bytes_max
    return tools


def _made(given: Any) -> HostTool:
    return HostTool(given if isinstance(given, Tool) else Tool(given))


def _signature(name: str, function: Callable[..., Any]) -> tuple[type[msgspec.Struct], str, list[str]]:
    """A struct of the arguments, the signature in words, and the arguments' names.

    Raises:
        InvalidInput: `tool.invalid`: an argument has no type, or one without a form in JSON.
    """
    if not callable(function):
        raise _invalid(f"a tool must be a function, not a value of type {type(function).__name__}")
    try:
        parameters = inspect.signature(function).parameters
        typed = function if inspect.isroutine(function) else type(function).__call__
        hints = typing.get_type_hints(typed, include_extras=True)
    except (TypeError, ValueError, NameError, AttributeError) as error:
        raise _invalid(f"the types of {name} cannot be read: {_line(str(error))}") from None
    fields: list[Any] = []
    words = []
    for one in parameters.values():
        if one.kind not in _NAMED or one.name not in hints:
            raise _invalid(f"{name}: the argument {one.name} needs a name and a type; * and ** are not possible")
        default = () if one.default is one.empty else (one.default,)
        # Each call has a list or dict for itself.
        made_new = [msgspec.field(default_factory=functools.partial(copy.deepcopy, value)) for value in default]
        fields.append((one.name, hints[one.name], *made_new))
        words.append(f"{one.name}: {_type_words(hints[one.name])}" + (f" = {_json(name, *default)}" if default else ""))
    try:
        made = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        msgspec.json.Decoder(made)
        msgspec.json.schema(made)
    except (TypeError, ValueError) as error:
        raise _invalid(f"the arguments of {name} have no form in JSON: {_line(str(error))}") from None
    back = f" -> {_type_words(hints['return'])}" if "return" in hints else ""
    return made, f"{name}({', '.join(words)}){back}", [one.name for one in parameters.values()]


def _json(name: str, default: object) -> str:
    try:
        return ascii(json.loads(json.dumps(msgspec.to_builtins(default), allow_nan=False)))
    except (TypeError, ValueError, RecursionError):
        raise _invalid(f"{name}: a default value has no form in JSON") from None


def _type_words(hint: object) -> str:
    return _MODULES.sub("", inspect.formatannotation(hint))[:200]


def _doc_of(function: Callable[..., Any]) -> str:
    doc = inspect.getdoc(function) if inspect.isroutine(function) else ""
    return (doc or "")[:_DOC_CHARS_MAX].encode("utf-8", "replace").decode()


def _forms_of(arguments: type[msgspec.Struct]) -> str:
    """What the types that the signature only names are made of; nothing if there are none, or if it is long."""
    schema = msgspec.json.schema(arguments)
    own = schema["$ref"].rpartition("/")[2]
    forms = {name: form for name, form in schema["$defs"].items() if name != own}
    text = msgspec.json.encode(forms).decode() if forms else ""
    return f"In JSON Schema: {text}" if 0 < len(text) <= _FORMS_CHARS_MAX else ""


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise _invalid(f"{_line(repr(name))} cannot be a tool's name: use letters, digits and _, a letter first")
    if name in GIVEN_NAMES or hasattr(builtins, name):
        raise _invalid(f"a program already has another {name}: give the tool another name")
    return name


def _checked_number(name: str, what: str, value: Any, low: float, high: float) -> Any:
    kinds = (int,) if isinstance(low, int) else (int, float)
    if type(value) not in kinds or not low <= value <= high:
        raise _invalid(f"{what} of the tool {name} must be from {low} to {high:g}")
    return value


def _words_of(error: BaseException) -> str:
    """What a tool says to the program, and nothing that it did not mean to say."""
    if not isinstance(error, ToolError):
        return ""
    try:
        text = str(error)
    except Exception:  # a subclass of the embedder's may do anything
        return ""
    return f": {_line(text)}" if text.strip() else ""


def _line(text: str) -> str:
    """One line that can be printed, and sent."""
    line = " ".join(text[: 4 * _ERROR_CHARS_MAX].split())[:_ERROR_CHARS_MAX]
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(f"these tools cannot be used: {message}", code="tool.invalid")
