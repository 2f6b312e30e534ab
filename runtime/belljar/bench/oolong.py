"""OOLONG: questions about a long list whose answers need every line read, labelled and counted.

The list is that of the demo (`belljar.demo.oolong`): many lines, each with a date, a user and a question of one of six
kinds, which the line does not name. There is one case for each type of question. An answer is right or wrong, and a
count is worth 0.75 to the power of how far it is off. Where several would be right, the question says which is meant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from belljar.bench.cases import Case, Oracle, below, exact, normal, turn
from belljar.demo.oolong import LABELS, Corpus, generate, lines_for_tokens
from belljar.demo.oracle import label_prompt
from belljar.demo.script import LABELLING_TURNS

__all__ = ["cases", "near"]

_QUESTION: Final = """\
{words}
Each instance has exactly one of these labels: {labels}.
The data does not give the labels: work each one out from what its question asks for.
Answer with that alone, and nothing else."""
_TIE: Final = "If several are equally frequent, that is the first of them in ascending order."
_NEVER: Final = "never"
_NUMBER: Final = re.compile(r"[0-9]{1,12}")

# What the script runs when the rows are there, in the place of {A}, {B}, {FIRST} and {LAST} the question's own.
_TOP: Final = """
counts = Counter({WHAT} for user, day, label in rows{IF})
print(counts.most_common(5))
FINAL(str(min(counts, key=lambda name: ({SIGN}counts[name], name))))
"""
_COMPARE: Final = """
counts = Counter(label for user, day, label in rows)
a, b = counts[{A!r}], counts[{B!r}]
print(a, "to", b)
FINAL("more common than" if a > b else "less common than" if a < b else "same frequency as")
"""
_COUNT: Final = """
hits = [day for user, day, label in rows if label == {A!r} and {FIRST!r} <= day <= {LAST!r}]
print(sorted(hits)[:3], "...", len(hits), "of", len(rows))
FINAL(len(hits))
"""
_FIRST_MONTH: Final = """
a = Counter(day[:7] for user, day, label in rows if label == {A!r})
b = Counter(day[:7] for user, day, label in rows if label == {B!r})
months = [month for month in sorted(a) if a[month] > b[month]]
print([(month, a[month], b[month]) for month in months[:3]])
FINAL(months[0] if months else "never")
"""


def near(gold: int) -> Callable[[str], float]:
    """1.0 for this number, 0.75 for the ones beside it, and so on; 0.0 for what is no number."""

    def score(answer: str) -> float:
        number = normal(answer).replace(",", "")
        return 0.75 ** abs(gold - int(number)) if _NUMBER.fullmatch(number) else 0.0

    return score


def cases(tokens: int, seed: int) -> list[Case]:
    """One case for each type of question, all over one text of about `tokens`."""
    corpus = generate(lines_for_tokens(tokens), seed=seed)
    rng = Random(f"oolong {seed}")  # noqa: S311 - a reproducible text is wanted, not a secret
    a = below(rng, len(LABELS))
    b = (a + 1 + below(rng, len(LABELS) - 1)) % len(LABELS)
    year = 2023 + below(rng, 2)
    words = {"A": LABELS[a], "B": LABELS[b], "FIRST": f"{year}-03-01", "LAST": f"{year}-10-31"}
    return [*_tops(corpus, words["A"]), *_counts(corpus, words), *_orders(corpus, words)]


def _tops(corpus: Corpus, label: str) -> list[Case]:
    """Which label, user or date is the most frequent one, or the least."""
    mine = [user for user, its in zip(corpus.users, corpus.labels, strict=True) if its == label]
    where = f" if label == {label!r}"
    days = (day.isoformat() for day in corpus.dates)
    rows: list[tuple[str, str, Iterable[object], str, str, int]] = [
        ("most-common-label", "which label is the most common one?", corpus.labels, "label", "", -1),
        (
            "least-common-label",
            "which of the labels that occur is the least common one?",
            corpus.labels,
            "label",
            "",
            1,
        ),
        ("most-frequent-user", "which user ID has the most instances?", corpus.users, "user", "", -1),
        ("user-with-most", f"which user ID has the most instances with the label {label}?", mine, "user", where, -1),
        ("most-frequent-date", "which date (as YYYY-MM-DD) has the most instances?", days, "day", "", -1),
    ]
    made = []
    for name, asked, items, what, condition, sign in rows:
        counts = Counter(items)
        gold = min(counts.items(), key=lambda item: (sign * item[1], str(item[0])), default=("", 0))[0]
        code = _TOP.replace("{WHAT}", what).replace("{IF}", condition).replace("{SIGN}", "-" if sign < 0 else "")
        made.append(_case(name, f"In the data above, {asked} {_TIE}", exact(str(gold)), code, corpus))
    return made


def _counts(corpus: Corpus, words: dict[str, str]) -> list[Case]:
    """How many instances a label has: all of them, or those of some months."""
    days = [day.isoformat() for day, its in zip(corpus.dates, corpus.labels, strict=True) if its == words["A"]]
    asked = "In the data above, how many instances have the label {A}"
    between = words["FIRST"], words["LAST"]
    within = sum(between[0] <= day <= between[1] for day in days)
    ever = _COUNT.replace(" and {FIRST!r} <= day <= {LAST!r}", "")
    return [
        _case("count", f"{asked}?".format(**words), near(len(days)), ever.format(**words), corpus),
        _case(
            "count-in-dates",
            f"{asked} and a date from {{FIRST}} to {{LAST}}, both included?".format(**words),
            near(within),
            _COUNT.format(**words),
            corpus,
        ),
    ]


def _orders(corpus: Corpus, words: dict[str, str]) -> list[Case]:
    """Which of two labels is the more common one, and since when."""
    counts = Counter(corpus.labels)
    ahead = counts[words["A"]] - counts[words["B"]]
    compared = "more common than" if ahead > 0 else "less common than" if ahead < 0 else "same frequency as"
    monthly = Counter((day.isoformat()[:7], its) for day, its in zip(corpus.dates, corpus.labels, strict=True))
    months = sorted({month for month, _ in monthly})
    first = next((month for month in months if monthly[month, words["A"]] > monthly[month, words["B"]]), _NEVER)
    asked = (
        "In the data above, is the label {A} more common than the label {B}, less common, or does it have the same "
        "frequency? Say 'more common than', 'less common than' or 'same frequency as'."
    )
    since = (
        "In the data above, which is the first month (as YYYY-MM) in which the label {A} occurs more often than the "
        "label {B}? If there is none, say 'never'."
    )
    return [
        _case("compare-labels", asked.format(**words), exact(compared), _COMPARE.format(**words), corpus),
        _case("first-month", since.format(**words), exact(first), _FIRST_MONTH.format(**words), corpus),
    ]


def _case(name: str, words: str, score: Callable[[str], float], code: str, corpus: Corpus) -> Case:
    return Case(
        name=name,
        question=_QUESTION.format(words=words, labels=", ".join(LABELS)),
        context=corpus.text,
        score=score,
        turns=(*LABELLING_TURNS, turn("The rows are complete, so the rest is counting.", code)),
        oracle=Oracle(label_prompt),
    )
