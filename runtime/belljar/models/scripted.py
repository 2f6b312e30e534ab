"""Scripted models: they answer from a file. They ship with the package, for demos, tests and benchmarks.

`ScriptedModel` is a tape. Root turns are played in the order of the requests until the tape ends; a run that recurses
plays its children's turns from the same tape. Sub-queries are answered by rule, first match wins, so they may come in
any order. To play the tape again, use a `rewound` one.

The file is TOML::

    default = "I do not know."          # optional: answers sub-queries that no rule matches

    [price]                             # optional, in US dollars per million tokens; 0 if absent
    input_usd_per_mtok = 2.0
    output_usd_per_mtok = 10.0

    [[turn]]                            # what the root model says, turn by turn
    text = '''
    ```repl
    FINAL(llm_query("Which city?"))
    ```
    '''

    [[reply]]                           # how sub-queries are answered; `when` is searched in the last message
    when = "city"
    text = "Paris"

`when` is a Python regular expression. It comes from the file's author but is searched in text that a guest chose, so
keep it simple. Tokens are always estimated the same way: a quarter of the bytes, rounded up. An answer longer than the
request allows is cut, as a model's would be.

`NullModel` answers everything at once with one fixed text, which leaves the cost of everything around a model.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from belljar.errors import InvalidInput, ModelFailed
from belljar.models.base import ModelReply, ModelRequest, Usage
from belljar.models.prices import FREE, NANOUSD_PER_TOKEN_IN_USD_PER_MTOK, Rates

__all__ = ["NullModel", "ScriptedModel", "scripted_reply"]

_BYTES_PER_TOKEN: Final = 4

# A script is typed or recorded; the longest recorded runs stay far below.
_FILE_BYTES_MAX: Final = 16 << 20


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class _Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    when: str
    text: str


class _Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal


class _Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    turn: tuple[_Turn, ...] = ()
    reply: tuple[_Reply, ...] = ()
    default: str | None = None
    price: _Price | None = None


class ScriptedModel:
    """Plays `turns` to the root model's requests, in order, and answers sub-queries by rule.

    Args:
        turns: what the root model says.
        replies: pairs of a regular expression and an answer; the first that matches the last message answers.
        default: the answer where no rule matches; without one that is a `ModelFailed`.
        name: the model's name in results and the log; starts with `scripted:`.
        rates: what its tokens cost.

    Raises:
        InvalidInput: a rule is not a regular expression.
    """

    scripted: Final = True

    def __init__(
        self,
        turns: Sequence[str],
        replies: Sequence[tuple[str, str]] = (),
        *,
        default: str | None = None,
        name: str = "scripted:inline",
        rates: Rates = FREE,
    ) -> None:
        self.name: Final = name
        self.rates: Final = rates
        self._turns = tuple(turns)
        self._replies = tuple((_compiled(when, name), text) for when, text in replies)
        self._default = default
        self._turns_played = 0

    @classmethod
    def load(cls, path: Path) -> ScriptedModel:
        """Read a script file.

        Raises:
            InvalidInput: the file cannot be read, is not TOML, or has keys or values that a script does not have; names
                the file and, where known, the line.
        """
        text = _read(path)
        script = _parse(text, path)
        return cls(
            [turn.text for turn in script.turn],
            [(reply.when, reply.text) for reply in script.reply],
            default=script.default,
            name=f"scripted:{path.name}",
            rates=_rates(script.price, path),
        )

    def rewound(self) -> ScriptedModel:
        """The same script from its first turn, independent of this one."""
        replies = [(pattern.pattern, text) for pattern, text in self._replies]
        return ScriptedModel(self._turns, replies, default=self._default, name=self.name, rates=self.rates)

    async def complete(self, request: ModelRequest) -> ModelReply:
        """The next turn, or the answer of the first rule that matches.

        Raises:
            ModelFailed: no turn is left, or no rule matches. Nothing was charged.
        """
        text = self._next_turn() if request.purpose == "root" else self._answer(request)
        return scripted_reply(text, request, self.name)

    async def aclose(self) -> None:
        """Nothing to close."""

    def __repr__(self) -> str:
        return f"ScriptedModel({self.name!r}, {self._turns_played} of {len(self._turns)} turns played)"

    def _next_turn(self) -> str:
        asked = self._turns_played + 1
        if asked > len(self._turns):
            turns = "1 turn" if len(self._turns) == 1 else f"{len(self._turns)} turns"
            raise ModelFailed(
                f"scripted model {self.name.removeprefix('scripted:')} has {turns} and a {_ordinal(asked)} was asked "
                "for: add a [[turn]] or end the last with FINAL(...)",
                charged=False,
            )
        self._turns_played = asked
        return self._turns[asked - 1]

    def _answer(self, request: ModelRequest) -> str:
        question = request.messages[-1].text if request.messages else ""
        for pattern, text in self._replies:
            if pattern.search(question):
                return text
        if self._default is None:
            raise ModelFailed(
                f"scripted model {self.name.removeprefix('scripted:')} has no [[reply]] that matches a sub-query of "
                f"{len(question)} characters: add one, or a default",
                charged=False,
            )
        return self._default


class NullModel:
    """Answers every request with `text`, at once and free of charge. Shipped for benchmarks."""

    scripted: Final = True
    rates: Final = FREE

    def __init__(self, text: str = "ok", *, name: str = "null") -> None:
        self.name: Final = name
        self._text = text

    async def complete(self, request: ModelRequest) -> ModelReply:
        return scripted_reply(self._text, request, self.name)

    async def aclose(self) -> None:
        """Nothing to close."""


def scripted_reply(text: str, request: ModelRequest, name: str) -> ModelReply:
    """An answer without a model: the text, cut to what the request allows, with its tokens counted."""
    data = text.encode()
    bytes_max = request.output_tokens_max * _BYTES_PER_TOKEN
    stop_reason = "end_turn"
    if len(data) > bytes_max:
        data, stop_reason = data[:bytes_max], "max_tokens"
        text = data.decode(errors="ignore")  # only the character that the cut went through is dropped
    sent = request.system, *(message.text for message in request.messages)
    sent_bytes = sum(len(part.encode(errors="surrogatepass")) for part in sent)
    usage = Usage(input_tokens=_tokens(sent_bytes), output_tokens=_tokens(len(data)))
    return ModelReply(text=text, usage=usage, model=name, stop_reason=stop_reason)


def _tokens(size_bytes: int) -> int:
    return -(-size_bytes // _BYTES_PER_TOKEN)


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _compiled(when: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(when)
    except re.error as error:
        raise InvalidInput(
            f"{name.removeprefix('scripted:')}: the [[reply]] pattern {when!r} is not valid: {error}",
            code="model.script",
        ) from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}: give the path of a script file") from None
    except UnicodeDecodeError as error:
        raise _invalid(path, f"is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    if len(data) > _FILE_BYTES_MAX:
        raise InvalidInput(
            f"{path}: a script has at most {_FILE_BYTES_MAX} bytes: shorten it",
            code="model.script",
            limit=_FILE_BYTES_MAX,
        )
    return text


def _parse(text: str, path: Path) -> _Script:
    try:
        table = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise _invalid(path, f"is not TOML: {error}", int(line[1]) if line else None) from None
    try:
        return msgspec.convert(table, _Script)
    except msgspec.ValidationError as error:
        problem = f"{error}: a script has default, [price], [[turn]] with text, and [[reply]] with when and text"
        raise _invalid(path, problem, _line_of(str(error), text, table)) from None


def _line_of(problem: str, text: str, table: dict[str, object]) -> int | None:
    """The line of the key or table that a validation message is about, or None if it is uncertain.

    Multi-line strings may hold lines that look like headers: then the counts differ, and no line is better than a wrong
    one.
    """
    unknown = re.search(r"unknown field `([^`]+)`", problem)
    place = re.search(r"at `\$\.(\w+)(?:\[(\d+)\])?(?:\.(\w+))?`", problem)
    entry, number, field = place.groups() if place else (None, None, None)
    key = unknown[1] if unknown else field or entry
    lines = text.splitlines()
    first = 0
    if entry is not None and number is not None:
        headers, entries = _matching(rf"\[\[\s*{entry}\s*\]\]", lines), table[entry]
        if not isinstance(entries, list) or len(headers) != len(entries):
            return None
        first = headers[int(number)]
    found = _matching(rf"(?:\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*[\]=]", lines[first:]) if key else []
    if not found:
        return None if number is None else first + 1
    return first + found[0] + 1


def _matching(pattern: str, lines: Sequence[str]) -> list[int]:
    compiled = re.compile(r"\s*" + pattern)
    return [number for number, line in enumerate(lines) if compiled.match(line)]


def _rates(price: _Price | None, path: Path) -> Rates:
    if price is None:
        return FREE
    try:
        return Rates(
            price.input_usd_per_mtok * NANOUSD_PER_TOKEN_IN_USD_PER_MTOK,
            price.output_usd_per_mtok * NANOUSD_PER_TOKEN_IN_USD_PER_MTOK,
        )
    except ValueError as error:
        raise _invalid(path, f"{error} - at `$.price`") from None


def _invalid(path: Path, problem: str, line: int | None = None) -> InvalidInput:
    place = str(path) if line is None else f"{path}:{line}"
    return InvalidInput(f"{place}: {problem}", code="model.script")
