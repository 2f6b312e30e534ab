"""S-NIAH: one needle in a haystack (of RULER). The answer does not grow with the context.

The haystack repeats one line of small talk. At one of 40 even depths there is a line with a "magic number" of seven
digits. The score is 1 if that number is in the answer.
"""

from __future__ import annotations

import re
from random import Random
from typing import Final

from belljar.bench.cases import BYTES_PER_TOKEN, Case, Oracle, below, one_of, turn

__all__ = ["DEPTHS", "cases"]

DEPTHS: Final = 40
# At the start, at the end and in between; more would only repeat them.
_ASKED: Final = (0, 13, 26, 39)

_HAY: Final = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
_NEEDLE: Final = "One of the special magic numbers for {key} is: {value}.\n"
_QUESTION: Final = (
    "What is the special magic number for {key} mentioned in the text? The text is long; the number stands in it once."
)
_ADJECTIVES: Final = ("abrupt", "brave", "calm", "dusty", "eager", "faint", "gentle", "hollow", "jolly", "keen")
_NOUNS: Final = ("anchor", "bridge", "candle", "drummer", "engine", "falcon", "garden", "harbour", "island", "kettle")

_ASKS: Final = re.compile(r"magic number for ([a-z]{1,20}-[a-z]{1,20})")
_SAYS: Final = "One of the special magic numbers for {key} is: "

_PROBE: Final = """
print(len(context), "characters,", context.count("\\n"), "lines")
print(context[:300])
print(context[-300:])
"""
_ASK: Final = """
QUESTION = {question!r}
CHUNK, OVERLAP = 100_000, 200
chunks = [context[start : start + CHUNK + OVERLAP] for start in range(0, len(context), CHUNK)]
prompts = [
    QUESTION + "\\nAnswer with the number alone, or NOT FOUND if this part does not say.\\n\\nText:\\n" + chunk
    for chunk in chunks
]
answers = llm_query_batched(prompts)
found = [(number, answer.strip()) for number, answer in enumerate(answers) if "NOT FOUND" not in answer]
print(len(chunks), "chunks, found:", found)
"""
_ANSWER: Final = """
number, value = found[0]
place = chunks[number].find(value)
print("in the text:", chunks[number][max(0, place - 80) : place + 40])
FINAL(value)
"""


def cases(tokens: int, seed: int) -> list[Case]:
    """One case for each of some depths, about `tokens` long."""
    return [_case(depth, tokens, seed) for depth in _ASKED]


def _case(depth: int, tokens: int, seed: int) -> Case:
    rng = Random(f"niah {seed} {depth}")  # noqa: S311 - a reproducible text is wanted, not a secret
    key = f"{one_of(rng, _ADJECTIVES)}-{one_of(rng, _NOUNS)}"
    value = str(1_000_000 + below(rng, 9_000_000))
    lines = max(DEPTHS, tokens * BYTES_PER_TOKEN // len(_HAY))
    above = lines * depth // (DEPTHS - 1)
    question = _QUESTION.format(key=key)
    return Case(
        name=f"depth-{depth}",
        question=question,
        context=_HAY * above + _NEEDLE.format(key=key, value=value) + _HAY * (lines - above),
        score=lambda answer: float(value in answer),
        turns=(
            turn("First a look at how the text is made.", _PROBE),
            turn("It repeats itself, so I have every part of it read.", _ASK.format(question=question)),
            turn("One part had it. I look at the place before I answer.", _ANSWER),
        ),
        oracle=Oracle(_find),
    )


def _find(prompt: str) -> str:
    """The number after the sentence about the key that the prompt asks for."""
    if (asked := _ASKS.search(prompt)) is None:
        return "NOT FOUND"
    _, found, rest = prompt.partition(_SAYS.format(key=asked[1]))
    return rest.partition(".")[0][:20] if found else "NOT FOUND"
