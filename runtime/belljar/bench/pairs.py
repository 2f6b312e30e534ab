"""OOLONG-Pairs: all pairs of users who meet a condition, 20 conditions, scored by F1. The answer grows quadratically.

Text, conditions, gold and script are the demo's (`belljar.demo`). What is added here is a bound: over a million tokens
most conditions have millions of pairs, more than any answer may hold. There the question asks only about users below an
ID, chosen so that `PAIRS_MAX` pairs are left. Every line still has to be read to know whose it is.

In a short text a condition may be met by nobody, and then silence would be right. So each condition has the first
of some seeds in which somebody meets it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from belljar.bench.cases import Case, Oracle
from belljar.demo.oolong import PAIR_TASKS, Corpus, PairTask, generate, lines_for_tokens, question, score_f1
from belljar.demo.oracle import label_prompt
from belljar.demo.script import root_turns

__all__ = ["PAIRS_MAX", "cases"]

# 1.5 MB of answer.
PAIRS_MAX: Final = 100_000
_SEEDS_TRIED: Final = 50
_SEEDS_APART: Final = 1_000_003  # so that a seed next to the one asked for gives other texts


def cases(tokens: int, seed: int) -> list[Case]:
    """One case for each condition, each over a text of about `tokens`."""
    made: dict[int, Corpus] = {}

    def corpus_of(task: PairTask) -> Corpus:
        for number in range(_SEEDS_TRIED):
            its = seed + number * _SEEDS_APART
            if its not in made:
                made[its] = generate(lines_for_tokens(tokens), seed=its)
            if task.gold_count(made[its]):
                return made[its]
        return made[seed]

    return [_case(task, corpus_of(task)) for task in PAIR_TASKS.values()]


def _case(task: PairTask, corpus: Corpus) -> Case:
    below = _below(task, corpus)
    return Case(
        name=f"condition-{task.number}",
        question=question(task.number, below=below),
        context=corpus.text,
        score=lambda answer: score_f1(answer, task.gold(corpus if below is None else _only(corpus, below))),
        turns=tuple(root_turns(task.number, below=below)),
        oracle=Oracle(label_prompt),
    )


def _below(task: PairTask, corpus: Corpus) -> int | None:
    """The ID below which `PAIRS_MAX` pairs are left at most; None if there are no more than that."""
    users_a, users_b = task.sides(corpus)
    groups = sorted(users_a), sorted(users_b), sorted(users_a & users_b)

    def pairs(bound: int) -> int:
        a, b, both = (bisect_left(group, bound) for group in groups)
        return a * b - both * (both + 1) // 2

    ids = sorted({*corpus.users, max(corpus.users) + 1})
    last = bisect_left(ids, PAIRS_MAX + 1, key=pairs)
    return None if last == len(ids) else ids[last - 1]


def _only(corpus: Corpus, below: int) -> Corpus:
    """The lines of users below an ID."""
    rows = zip(corpus.labels, corpus.users, corpus.dates, strict=True)
    kept = [row for row in rows if row[1] < below]
    return Corpus("", [row[0] for row in kept], [row[1] for row in kept], [row[2] for row in kept])
