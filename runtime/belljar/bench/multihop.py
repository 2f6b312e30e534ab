"""A question over many documents that no single document answers: three facts have to be found one after the other.

There are 1,000 documents (fewer, if the text is to be shorter than some hundred characters for each), as a list. Each
is about one invented thing, person or town, and has one fact and filler around it. A chain of three leads to the
answer: who designed a thing, where that person grew up, and in which year that town got its bridge. The wordings of a
fact differ, so that no one pattern finds all. The answer, a year, is right or wrong.
"""

from __future__ import annotations

import re
from random import Random
from typing import Final

from belljar.bench.cases import BYTES_PER_TOKEN, Case, Oracle, below, exact, names, one_of, shuffle, turn

__all__ = ["DOCUMENTS", "cases"]

DOCUMENTS: Final = 1000
_CASES: Final = 4
_CHARS_MIN: Final = 400

_THINGS: Final = ("lamp", "loom", "pump", "clock", "kiln", "press", "valve", "winch")
_FACTS: Final[dict[str, tuple[str, ...]]] = {
    "designer": (
        "The {subject} was designed by {object}.",
        "It was {object} who drew up the plans of the {subject}.",
        "Behind the {subject} stands the work of {object}.",
    ),
    "town": (
        "{subject} grew up in {object}.",
        "The childhood of {subject} was spent in {object}.",
        "{subject} was raised by an aunt in {object}.",
    ),
    "year": (
        "{subject} got its bridge in {object}.",
        "The bridge of {subject} was opened in {object}.",
        "Since {object} a bridge has led into {subject}.",
    ),
}
_QUESTION: Final = "In which year did the town in which the designer of the {thing} grew up get its bridge?"
_FILLER: Final = (
    "Visitors come mostly in spring.",
    "Little else is known for certain.",
    "A local paper printed a long article about it.",
    "Opinions on the matter still differ.",
    "Some of the records were lost in a flood.",
    "The archive has two drawings and a letter.",
)
# What the script asks, and the kind of fact that answers it.
_HOPS: Final = {
    "Who designed the ": "designer",
    "In which town grew up ": "town",
    "In which year was a bridge built in ": "year",
}
_ASKED: Final = re.compile("(" + "|".join(_HOPS) + r")([^?\n]{1,60})\?")
_OBJECT: Final = r"([A-Z][a-z]{2,20}(?: [A-Z][a-z]{2,20})?|[0-9]{4})"

_PROBE: Final = """
print(len(context), "documents,", sum(len(document) for document in context), "characters")
print(context[0][:200])
print(context[len(context) // 2][:200])
"""
_HELPER: Final = """
MARK = "If the documents do not say, answer NOT FOUND."


def look_up(asked, name):
    # Only documents that mention the name can answer; a sub-model reads them.
    near = [document for document in context if name in document]
    documents = "\\n---\\n".join(document[:20000] for document in near[:40])
    answer = llm_query(asked + name + "?\\nAnswer with that alone. " + MARK + "\\n\\n" + documents).strip()
    print(asked + name, "->", answer, "from", len(near), "documents")
    return answer


designer = look_up("Who designed the ", {thing!r})
"""
_FOLLOW: Final = """
town = look_up("In which town grew up ", designer)
year = look_up("In which year was a bridge built in ", town)
"""
_ANSWER: Final = """
for document in context:
    if town in document and year in document:
        place = document.find(year)
        print(document[max(0, place - 100) : place + 20])
FINAL(year)
"""


def cases(tokens: int, seed: int) -> list[Case]:
    """Some chains, each over documents of its own, together about `tokens` long."""
    return [_case(number, tokens, seed) for number in range(1, _CASES + 1)]


def _case(number: int, tokens: int, seed: int) -> Case:
    rng = Random(f"multihop {seed} {number}")  # noqa: S311 - a reproducible text is wanted, not a secret
    chars = tokens * BYTES_PER_TOKEN
    chains = max(2, min(DOCUMENTS, chars // _CHARS_MIN) // 3)
    drawn = names(rng, 4 * chains)
    documents: list[str] = []
    for first in range(0, 4 * chains, 4):
        thing, person, town = _chain(rng, drawn[first : first + 4])
        year = str(1700 + below(rng, 300))
        for kind, subject, found in (("designer", thing, person), ("town", person, town), ("year", town, year)):
            documents.append(_document(rng, kind, subject, found, chars // (3 * chains)))
        if first == 0:
            asked, gold = thing, year
    shuffle(rng, documents)
    return Case(
        name=f"chain-{number}",
        question=_QUESTION.format(thing=asked),
        context=documents,
        score=exact(gold),
        turns=(
            turn("I look at what the documents are like.", _PROBE),
            turn("The question is a chain. First the designer.", _HELPER.format(thing=asked)),
            turn("Now the town, and then its bridge.", _FOLLOW),
            turn("I look at the place in the text before I answer.", _ANSWER),
        ),
        oracle=Oracle(_read),
    )


def _chain(rng: Random, names: list[str]) -> tuple[str, str, str]:
    """A thing, a person and a town."""
    return f"{names[0]} {one_of(rng, _THINGS)}", f"{names[1]} {names[2]}", names[3]


def _document(rng: Random, kind: str, subject: str, found: str, chars: int) -> str:
    """One fact, somewhere in filler."""
    fact = one_of(rng, _FACTS[kind]).format(subject=subject, object=found)
    filler = [one_of(rng, _FILLER) for _ in range(max(2, (chars - 50) // 40))]
    filler.insert(below(rng, len(filler) + 1), fact)
    return " ".join(filler)


def _read(prompt: str) -> str:
    """What the documents in the prompt say about what it asks."""
    if (asked := _ASKED.search(prompt)) is None:
        return "NOT FOUND"
    for fact in _FACTS[_HOPS[asked[1]]]:
        wanted = re.escape(fact).replace(r"\{subject\}", re.escape(asked[2])).replace(r"\{object\}", _OBJECT)
        if found := re.search(wanted, prompt):
            return found[1]
    return "NOT FOUND"
