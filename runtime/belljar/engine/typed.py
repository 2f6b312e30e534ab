"""Answers of a type: a msgspec struct, a dataclass, a pydantic model, any type that msgspec knows, or a JSON Schema.

The model is told the schema, and an answer is checked by it before it counts (`schema`), where every fault has a path
and all work is bounded. What fits is then read as the type, which may know more than its schema can say (a validator of
a pydantic model). What it raises goes back to the model like a fault of the schema: of a `ValueError` the text, of any
other exception the type, as that was not written for it.

pydantic reads what is its own (models and its kind of dataclass), and whatever has such a class in it, as an item or as
a field: to msgspec such a dataclass is one without validators. A msgspec struct with one in it is read by neither.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import typing
from collections.abc import Callable, Mapping
from typing import Any
from typing import Final as Const

import msgspec

from belljar.engine.schema import Schema
from belljar.errors import InvalidInput
from belljar.heavy import no_collection, plain_of, reader_of
from belljar.protocol import Final

__all__ = ["AnswerType"]

# A value takes many times the memory of its text, and reading it holds up the event loop: 10 ms for this much.
_BYTES_MAX: Const = 1 << 20
_FAULT_CHARS_MAX: Const = 300
_FAULTS_MAX: Const = 5


class AnswerType:
    """What an answer has to be.

    Args:
        spec: a type, or a JSON Schema as a dict.

    Raises:
        InvalidInput: `answer.type`: nothing can be checked by it; `answer.schema`.
    """

    def __init__(self, spec: Any) -> None:
        self._read: Callable[[bytes], Any] = plain_of
        if isinstance(spec, Mapping):
            self.schema = Schema(dict(spec))
            return
        try:
            if _is_pydantics(spec):
                adapter = importlib.import_module("pydantic").TypeAdapter(spec)
                document, self._read = adapter.json_schema(), functools.partial(adapter.validate_json, strict=True)
            else:
                document, self._read = msgspec.json.schema(spec), reader_of(spec)
        except Exception as error:  # whatever the caller's own class raises when it is asked
            raise InvalidInput(
                f"answer_type must be a msgspec struct, a dataclass, a pydantic model, another type with a JSON form, "
                f"or a JSON Schema as a dict, not {str(getattr(spec, '__name__', type(spec).__name__))[:80]} "
                f"({type(error).__name__})",
                code="answer.type",
            ) from error
        self.schema = Schema(document, strict=False)

    def misfit(self, final: Final, body: bytes) -> str:
        """Why an answer is not what was asked for: a line for each fault, with its path; empty if it is.

        `body` is text or JSON that the broker has checked.
        """
        if len(body) > _BYTES_MAX:
            return f"$: expected at most {_BYTES_MAX} bytes of JSON, got {len(body)}"
        with no_collection():
            value = body.decode() if final.form == "text" else plain_of(body)
            faults = self.schema.faults(value)
            if faults and isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
                faults.append("(give the value itself, not its JSON as a string)")
        return "\n".join(faults) or self._unread(final, body)

    def _unread(self, final: Final, body: bytes) -> str:
        try:
            self.value(body.decode() if final.form == "text" else msgspec.Raw(body))
        except ValueError as error:
            return "\n".join(_faults_of(error))
        except Exception as error:  # whatever the caller's own class raises
            return f"$: it was refused with {type(error).__name__}"[:_FAULT_CHARS_MAX]
        return ""

    def value(self, given: str | msgspec.Raw | None) -> Any:
        """An answer that fits, as a value of the type; of JSON values, where the type is a schema."""
        if given is None:
            return None
        body = msgspec.json.encode(given) if isinstance(given, str) else bytes(given)
        with no_collection():
            return self._read(body)


def _is_pydantics(spec: Any, seen: set[type] | None = None) -> bool:
    """Whether it is a class of pydantic's, or has one in it."""
    seen = set() if seen is None else seen
    if hasattr(spec, "__pydantic_validator__"):
        return True
    parts = list(typing.get_args(spec))
    if isinstance(spec, type) and spec not in seen:
        seen.add(spec)  # it may have itself in it
        with contextlib.suppress(NameError, TypeError):  # whoever reads it will say so
            parts += typing.get_type_hints(spec).values()
    return any(_is_pydantics(part, seen) for part in parts)


def _faults_of(error: ValueError) -> list[str]:
    """pydantic's list of faults, or the one line of another library."""
    listed = getattr(error, "errors", None)
    if not callable(listed):
        what, _, path = str(error).rpartition(" - at `")
        if not path.startswith("$"):
            what, path = str(error), "$`"
        return [f"{path[:-1]}: {what}"[:_FAULT_CHARS_MAX]]
    faults = listed(include_url=False, include_input=False, include_context=False)[:_FAULTS_MAX]
    return [f"{_path(fault['loc'])}: {fault['msg']}"[:_FAULT_CHARS_MAX] for fault in faults]


def _path(places: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)
