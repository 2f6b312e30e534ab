"""The generated task: the same everywhere, shaped as published, its gold answers confirmed by a slow second opinion."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime

import pytest

from belljar.demo import oolong
from belljar.demo.oolong import (
    DEMO_TASK,
    FILLERS,
    LABELS,
    PAIR_TASKS,
    TEMPLATES,
    Corpus,
    generate,
    lines_for_tokens,
    question,
    score_f1,
)
from belljar.demo.oracle import label_of
from belljar.errors import InvalidInput

LINE = re.compile(r"Date: ([A-Z][a-z]{2} \d{2}, \d{4}) \|\| User: (\d{5}) \|\| Instance: (.+ [?.])")


def data_lines(corpus: Corpus) -> list[str]:
    return [line for line in corpus.text.splitlines() if line.startswith("Date: ")]


def test_the_same_arguments_give_the_same_text_on_every_machine() -> None:
    corpus = generate(200, seed=7)
    assert (
        hashlib.sha256(corpus.text.encode()).hexdigest()
        == "eedb3132cd036defdc25e74a2c5aaed77ccbdd83930c247df9ef975feb1d21ec"
    )
    assert (
        hashlib.sha256("\n".join(corpus.labels).encode()).hexdigest()
        == "cc6adc189dfe749337ae72efad55db13d20489697583a4d6c65d138d49f8fc91"
    )
    assert generate(200, seed=7) == corpus


def test_another_seed_gives_another_text() -> None:
    assert generate(50, seed=1).text != generate(50, seed=2).text


def test_sizes_are_the_published_ones() -> None:
    assert [lines_for_tokens(2**power) for power in (13, 17, 20)] == [188, 3_182, 25_531]
    assert lines_for_tokens(0) == 1


def test_every_line_has_the_published_shape_and_says_what_the_lists_say() -> None:
    corpus = generate(2_000, seed=3)
    lines = data_lines(corpus)
    assert len(lines) == len(corpus.labels) == len(corpus.users) == len(corpus.dates) == 2_000
    for line, user, day in zip(lines, corpus.users, corpus.dates, strict=True):
        match = LINE.fullmatch(line)
        assert match is not None, line
        assert datetime.strptime(match[1], "%b %d, %Y").date() == day
        assert int(match[2]) == user
        assert date(2022, 2, 16) <= day <= date(2025, 6, 21)


def test_the_header_names_the_count_and_the_labels_but_no_line_does() -> None:
    corpus = generate(300)
    header, _, _ = corpus.text.partition("Date: ")
    assert " 300 " in header
    assert all(label in header for label in LABELS)
    assert corpus.text.isascii()
    assert corpus.text.endswith("\n")


@pytest.mark.parametrize("seed", range(5))
def test_lines_are_about_98_characters_long(seed: int) -> None:
    lines = data_lines(generate(2_000, seed=seed))
    assert 90 <= sum(map(len, lines)) / len(lines) <= 106


@pytest.mark.parametrize("seed", range(8))
def test_no_label_vanishes_and_none_takes_all(seed: int) -> None:
    counts = Counter(generate(3_000, seed=seed).labels)
    assert set(counts) == set(LABELS)
    assert min(counts.values()) > 15
    assert max(counts.values()) < 2_400


def test_most_lines_come_from_a_pool_of_regular_users() -> None:
    counts = Counter(generate(5_000, seed=2).users)
    regulars = [user for user, _ in counts.most_common(500)]
    assert 0.75 < sum(counts[user] for user in regulars) / 5_000 < 0.9


@pytest.mark.parametrize("lines", [0, -1, oolong.LINES_MAX + 1])
def test_a_senseless_number_of_lines_is_refused(lines: int) -> None:
    with pytest.raises(InvalidInput):
        generate(lines)


def test_no_two_classes_can_make_the_same_question() -> None:
    owner: dict[str, str] = {}
    for label, text in all_questions():
        assert owner.setdefault(text, label) == label, text


def test_every_question_that_can_be_made_is_labelled_right() -> None:
    wrong = [text for label, text in all_questions() if label_of(text) != label]
    assert wrong == []


def all_questions() -> list[tuple[str, str]]:
    """Every template with every filler; where a template has two slots, all of the first with some of the second."""
    questions: list[tuple[str, str]] = []
    for label, templates in TEMPLATES.items():
        for template in templates:
            literals = oolong.SLOT.split(template)
            choices = [FILLERS[slot] for slot in literals[1::2]]
            choices[1:] = [fillers[:7] for fillers in choices[1:]]
            for fillers in itertools.product(*choices):
                parts = [*itertools.chain(*zip(literals[::2], fillers, strict=False)), literals[-1]]
                questions.append((label, "".join(parts)))
    return questions


# The second opinion: each condition once more, by hand, over all pairs of users. `c` counts a letter, `d` lists days.
LETTERS = dict(zip("aedhln", LABELS, strict=True))
Count = Callable[[str], int]
Days = Callable[[str], list[date]]
Rule = Callable[[Count, Days], bool]

BOTH: dict[int, Rule] = {
    1: lambda c, d: c("n") + c("l") > 0,
    2: lambda c, d: c("e") + c("h") > 0,
    3: lambda c, d: c("d") + c("a") > 0,
    4: lambda c, d: c("h") + c("l") > 0 and not [x for x in d("h") if x <= date(2023, 1, 6)],
    5: lambda c, d: c("e") + c("n") > 0 and not [x for x in d("e") if x >= date(2023, 3, 15)],
    6: lambda c, d: c("l") + c("a") > 0,
    7: lambda c, d: c("d") + c("n") > 0 and not [x for x in d("n") if x <= date(2023, 2, 1)],
    8: lambda c, d: c("h") + c("d") > 0,
    9: lambda c, d: c("e") + c("l") > 0 and not [x for x in d("l") if x <= date(2023, 4, 10)],
    10: lambda c, d: c("n") + c("a") > 0 and not [x for x in d("a") if x >= date(2023, 5, 20)],
}
ONE_AND_OTHER: dict[int, tuple[Rule, Rule]] = {
    11: (lambda c, d: c("e") >= 1 and c("a") >= 1, lambda c, d: c("e") == 1),
    12: (lambda c, d: c("n") >= 2, lambda c, d: c("l") >= 1 and c("h") >= 1),
    13: (lambda c, d: c("d") == 1, lambda c, d: c("a") >= 1 and c("e") >= 1),
    14: (lambda c, d: c("h") >= 1 and c("n") >= 1, lambda c, d: c("l") == 2),
    15: (lambda c, d: c("e") >= 1 and c("l") >= 1 and c("a") >= 1, lambda c, d: c("n") == 1),
    16: (lambda c, d: c("d") >= 1 and c("h") >= 1, lambda c, d: c("e") >= 2 and c("a") == 1),
    17: (lambda c, d: c("n") == 1, lambda c, d: c("l") >= 1 and c("d") >= 1),
    18: (lambda c, d: c("a") >= 1 and c("h") == 1, lambda c, d: c("e") >= 1 and c("n") >= 1),
    19: (lambda c, d: c("l") >= 2 and c("e") >= 1, lambda c, d: c("d") == 1 and c("a") == 1),
    20: (lambda c, d: c("n") >= 1 and c("h") >= 1, lambda c, d: c("l") >= 1 and c("e") >= 1 and c("a") == 1),
}


def slow_gold(task: int, corpus: Corpus) -> set[tuple[int, int]]:
    rule_a, rule_b = ONE_AND_OTHER[task] if task in ONE_AND_OTHER else (BOTH[task], BOTH[task])
    rows = list(zip(corpus.users, corpus.labels, corpus.dates, strict=True))

    def meets(rule: Rule, user: int) -> bool:
        def days(letter: str) -> list[date]:
            return [day for owner, label, day in rows if owner == user and label == LETTERS[letter]]

        return rule(lambda letter: len(days(letter)), days)

    users = sorted(set(corpus.users))
    side = {user: (meets(rule_a, user), meets(rule_b, user)) for user in users}
    return {
        (low, high)
        for low, high in itertools.combinations(users, 2)
        if (side[low][0] and side[high][1]) or (side[high][0] and side[low][1])
    }


@pytest.mark.parametrize("task", range(1, 21))
def test_gold_is_what_comparing_every_pair_of_users_finds(task: int) -> None:
    corpus = generate(400, seed=5)
    expected = slow_gold(task, corpus)
    assert len(expected) > 5  # else this would compare nothing with nothing
    assert PAIR_TASKS[task].gold(corpus) == expected
    assert PAIR_TASKS[task].gold_count(corpus) == len(expected)


def test_there_are_twenty_tasks_and_all_are_worded_differently() -> None:
    assert list(PAIR_TASKS) == list(range(1, 21))
    assert len({question(task) for task in PAIR_TASKS}) == 20


def test_a_question_states_condition_labels_and_form() -> None:
    text = question(4)
    assert "at least one instance with the label human being or location" in text
    assert "all their instances with the label human being dated after January 6, 2023" in text
    assert "no duplicate pairs, lower ID first" in text
    assert "(id1, id2)" in text
    assert ", ".join(LABELS) in text


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InvalidInput):
        question(21)


def test_the_demo_task_has_a_gold_answer_of_a_size_that_can_be_an_answer() -> None:
    corpus = generate(lines_for_tokens(2**20))
    assert 1_000 <= PAIR_TASKS[DEMO_TASK].gold_count(corpus) <= 100_000


GOLD = {(10001, 10002), (10001, 10003), (10002, 10003), (10002, 10004)}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\n".join(str(pair) for pair in GOLD), 1.0),
        ("Here they are:\n- (10001,10002)\n* ( 10001 , 10003 ) (10002, 10003)\n(10002, 10004).", 1.0),
        ("(10002, 10001)\n(10003, 10001)\n(10003, 10002)\n(10004, 10002)", 1.0),
        ("(10001, 10002)\n" * 50, 2 * 1 / (1 + 4)),
        ("(10001, 10002)\n(10001, 10003)\n(1, 2)\n(1, 2)\n(7, 7)", 2 * 2 / (4 + 4)),
        ("(10001, 10002", 0.0),
        ("10001 and 10002", 0.0),
        ("", 0.0),
        (f"({'9' * 5000}, 1)", 0.0),
    ],
)
def test_f1_of_an_answer(answer: str, expected: float) -> None:
    assert score_f1(answer, GOLD) == pytest.approx(expected)


def test_an_empty_answer_is_right_where_nothing_is_to_be_found() -> None:
    assert score_f1("none", set()) == 1.0
    assert score_f1("(1, 2)", set()) == 0.0


def test_f1_of_a_flood_of_wrong_pairs_remembers_only_so_many() -> None:
    flood = "".join(f"({n}, {n + 1})" for n in range(1_000)) + "(10001, 10002)"
    assert score_f1(flood, GOLD, wrong_pairs_max=10) == pytest.approx(2 / (1_001 + 4))
