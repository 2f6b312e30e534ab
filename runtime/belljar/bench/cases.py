"""What a case is, and what all tasks share: chance that is the same everywhere, the oracle, and two of the scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Final, TypeAlias, TypeVar

from belljar.models import Model, ModelReply, ModelRequest, Rates
from belljar.models.scripted import scripted_reply

__all__ = [
    "BYTES_PER_TOKEN",
    "Case",
    "Context",
    "Oracle",
    "below",
    "exact",
    "names",
    "normal",
    "one_of",
    "shuffle",
    "turn",
]

# The usual rule of thumb. OOLONG has sizes of its own, which are published.
BYTES_PER_TOKEN: Final = 4

Context: TypeAlias = str | list[str] | dict[str, str]
_T = TypeVar("_T")
_SYLLABLES: Final = ("bar", "del", "fen", "gor", "hal", "ker", "lin", "mor", "nes", "pol", "rud", "sor", "tam", "vel")

# What models put around an answer: a label in front, quotes, a full stop.
_IN_FRONT: Final = re.compile(
    r"^\s*(?:the |final )*(?:answer|label|user|date|month|choice)(?: is)?\s*:?\s+", re.IGNORECASE
)
_AROUND: Final = " \t\r\n\"'`*.()[]"


@dataclass(frozen=True, slots=True)
class Case:
    """One question over one context.

    `score` says what an answer is worth, from 0.0 to 1.0. `turns` are a scripted root model's, and `oracle` is the
    sub-model that those need.
    """

    name: str
    question: str
    context: Context
    score: Callable[[str], float]
    turns: tuple[str, ...]
    oracle: Model

    @property
    def text(self) -> str:
        """The whole context as one text, for a prompt without Belljar."""
        if isinstance(self.context, dict):
            return "\n".join(f"# {path}\n{text}" for path, text in self.context.items())
        return self.context if isinstance(self.context, str) else "\n\n".join(self.context)


class Oracle:
    """A sub-model without a model: `answer` gives its answer from the prompt alone."""

    scripted: Final = True
    name: Final = "scripted:oracle"
    # So that the books have something to show: 1 + 5 USD for a million tokens in and out.
    rates: Final = Rates(Decimal(1000), Decimal(5000))

    def __init__(self, answer: Callable[[str], str]) -> None:
        self._answer = answer

    async def complete(self, request: ModelRequest) -> ModelReply:
        prompt = request.messages[-1].text if request.messages else ""
        return scripted_reply(self._answer(prompt), request, self.name)

    async def aclose(self) -> None:
        """Nothing is held."""


def below(rng: Random, bound: int) -> int:
    """A number from 0 to `bound` - 1. Of a seeded generator only `random()` is promised to stay as it is."""
    return int(rng.random() * bound)


def one_of(rng: Random, items: Sequence[_T]) -> _T:
    return items[below(rng, len(items))]


def shuffle(rng: Random, items: list[_T]) -> None:
    """Put them into another order, in place."""
    for place in range(len(items) - 1, 0, -1):
        other = below(rng, place + 1)
        items[place], items[other] = items[other], items[place]


def names(rng: Random, count: int) -> list[str]:
    """Distinct names, in the order drawn. All are of four syllables, so none is a part of another."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(one_of(rng, _SYLLABLES) for _ in range(4)).capitalize()] = None
    return list(found)


def turn(prose: str, code: str) -> str:
    """What a root model writes: a line or two, and one block of code."""
    return f"{prose}\n\n```repl\n{code.strip()}\n```\n"


def normal(answer: str) -> str:
    """An answer without what models put around one: `Answer: "Location".` is `location`."""
    return " ".join(_IN_FRONT.sub("", answer).strip(_AROUND).casefold().split())


def exact(gold: str) -> Callable[[str], float]:
    """1.0 for this answer, whatever is around it, and 0.0 for any other."""
    return lambda answer: float(normal(answer) == normal(gold))
