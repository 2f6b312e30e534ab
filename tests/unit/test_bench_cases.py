"""The generated tasks: the same everywhere, and scored so that only the right answer is right."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime

import msgspec
import pytest
from RestrictedPython.compile import compile_restricted_exec

from belljar.bench import multihop, niah, oolong, pairs, repository
from belljar.bench.cases import Case, Oracle, exact, normal
from belljar.demo.oracle import label_of
from belljar.models.base import Message, Model, ModelRequest

BLOCK = re.compile(r"```repl\n(.*?)```", re.DOTALL)
TASKS: dict[str, Callable[[int, int], list[Case]]] = {
    "niah": niah.cases,
    "oolong": oolong.cases,
    "pairs": pairs.cases,
    "multihop": multihop.cases,
    "code": repository.cases,
}
TOKENS = 2**13
CASES = {f"{task} {case.name}": case for task, cases in TASKS.items() for case in cases(TOKENS, 1)}

# The texts and questions of seed 1 at 8,192 tokens, on every machine and with every Python.
DIGESTS = {
    "niah": "739436418c447fe2",
    "multihop": "db4120ec3254e4d2",
    "code": "6400e47f45ac0e42",
    "oolong": "a7a62b2610dac6f7",
    "pairs": "659304208b1c73a0",
}


@pytest.mark.parametrize("task", TASKS)
def test_the_same_size_and_seed_give_the_same_cases(task: str) -> None:
    made = [[(case.name, case.question, case.context) for case in TASKS[task](TOKENS, 1)] for _ in range(2)]
    assert made[0] == made[1]
    assert hashlib.sha256(msgspec.json.encode(made[0])).hexdigest()[:16] == DIGESTS[task]


@pytest.mark.parametrize("task", TASKS)
def test_another_seed_gives_other_texts_and_size_is_what_was_asked_for(task: str) -> None:
    first, second = TASKS[task](2**15, 1)[0], TASKS[task](2**15, 2)[0]
    assert first.text != second.text
    assert 2**15 * 2.2 < len(first.text) < 2**15 * 4.5


@pytest.mark.parametrize("name", CASES)
def test_no_answer_and_a_wrong_one_are_worth_less_than_the_right_one(name: str) -> None:
    case = CASES[name]
    right = solve(case)
    assert case.score(right) == 1.0
    assert case.score("") < 1.0
    assert case.score("I do not know.") < 1.0


@pytest.mark.parametrize("name", CASES)
def test_the_restricted_language_accepts_every_turn_of_the_script(name: str) -> None:
    for turn in CASES[name].turns:
        (code,) = BLOCK.findall(turn)
        assert compile_restricted_exec(code).errors == ()
        assert not turn.startswith("```")
    assert ["FINAL(" in turn for turn in CASES[name].turns].index(True) == len(CASES[name].turns) - 1


# Who and when stands in the lines: only the kind of a question has to be read out of it.
NEEDS_NO_MODEL = {"oolong most-frequent-user", "oolong most-frequent-date"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in NEEDS_NO_MODEL])
def test_without_its_oracle_the_script_does_not_find_the_answer(name: str) -> None:
    """The answer comes from what a sub-model read, not from the script."""
    case = CASES[name]
    try:
        answer = solve(case, oracle=Oracle(lambda _: "I do not know."))
    except (LookupError, ValueError):
        return
    assert case.score(answer) < 1.0


@pytest.mark.parametrize(
    "answer", ["Location", "Answer: location", '"location".', "**Location**", "Label:  location\n"]
)
def test_what_models_put_around_an_answer_does_not_count(answer: str) -> None:
    assert exact("location")(answer) == 1.0


@pytest.mark.parametrize("answer", ["", "entity", "location or entity", "dislocation", "no location"])
def test_anything_else_does(answer: str) -> None:
    assert exact("location")(answer) == 0.0


def test_a_normal_answer_is_one_line_in_small_letters() -> None:
    assert normal("  The answer is: Human\n  Being. ") == "human being"


# The needle


def test_a_needle_stands_once_at_its_depth_and_its_number_is_the_answer() -> None:
    for case in niah.cases(2**15, 3):
        depth = int(case.name.removeprefix("depth-"))
        (value,) = re.findall(r"One of the special magic numbers for [a-z-]+ is: ([0-9]{7})\.", case.text)
        assert case.text.index(value) / len(case.text) == pytest.approx(depth / (niah.DEPTHS - 1), abs=0.01)
        assert case.score(f"The number is {value}.") == 1.0
        assert case.score(str(int(value) ^ 1)) == 0.0


# OOLONG


@pytest.mark.parametrize(
    ("answer", "worth"), [("12", 1.0), ("Answer: 12.", 1.0), ("13", 0.75), ("10", 0.5625), ("no 12", 0.0), ("", 0.0)]
)
def test_a_count_is_worth_less_the_further_it_is_off(answer: str, worth: float) -> None:
    assert oolong.near(12)(answer) == worth


def test_every_type_of_question_has_the_answer_that_a_slow_count_gives() -> None:
    """Counted again from the lines of the text, with the labels that the templates say."""
    lines = re.findall(r"Date: (.+) \|\| User: (\d+) \|\| Instance: (.+)", oolong.cases(TOKENS, 5)[0].text)
    rows = [
        (datetime.strptime(day, "%b %d, %Y").date().isoformat(), int(user), label_of(it)) for day, user, it in lines
    ]
    by_name = {case.name: case for case in oolong.cases(TOKENS, 5)}
    labels = [label for _, _, label in rows]
    most = max(labels.count(label) for label in labels)
    (top,) = {label for label in labels if labels.count(label) == most}
    assert by_name["most-common-label"].score(str(top)) == 1.0
    users = [user for _, user, _ in rows]
    busiest = min(user for user in users if users.count(user) == max(users.count(other) for other in users))
    assert by_name["most-frequent-user"].score(str(busiest)) == 1.0
    asked = re.search(r"have the label ([a-z ]+?) and a date from (\S+) to (\S+),", by_name["count-in-dates"].question)
    assert asked is not None
    hits = [day for day, _, label in rows if label == asked[1] and asked[2] <= day <= asked[3]]
    assert by_name["count-in-dates"].score(str(len(hits))) == 1.0
    assert by_name["count"].score(str(labels.count(asked[1]))) == 1.0


# OOLONG-Pairs


def test_where_there_are_too_many_pairs_the_question_is_about_fewer_users(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pairs.cases(TOKENS, 1)[0]
    monkeypatch.setattr(pairs, "PAIRS_MAX", 100)
    fewer = pairs.cases(TOKENS, 1)[0]
    found = solve(fewer).splitlines()
    assert 60 < len(found) <= 100 < len(solve(whole).splitlines())
    assert "only the users" in fewer.question
    assert "only the users" not in whole.question
    assert fewer.score("\n".join(found)) == 1.0
    assert fewer.score(solve(whole)) < 1.0


# The chain of documents


def test_there_are_a_thousand_documents_and_none_holds_the_whole_chain() -> None:
    for case in multihop.cases(2**17, 3):
        assert 998 <= len(case.context) <= multihop.DOCUMENTS
        (thing,) = re.findall("designer of the ([A-Z][a-z]+ [a-z]+) grew", case.question)
        year = solve(case)
        assert case.score(year) == 1.0
        assert case.score(str(int(year) + 1)) == 0.0
        assert [document for document in case.context if thing in document and year in document] == []


# The repository


def test_a_command_leads_through_three_files_and_only_the_last_says_what_it_does() -> None:
    for case in repository.cases(2**15, 3):
        files = case.context
        assert isinstance(files, dict)
        (command,) = re.findall(r"the command `([a-z]+)`", case.question)
        assert [path for path, text in files.items() if command in text] == ["app/registry.py"]
        (module,) = re.findall(rf'"{command}": "([a-z.]+):', files["app/registry.py"])
        for layer in ("services", "stores"):
            (module,) = re.findall(rf"^(?:from|import) (app[.]{layer}[.][a-z]+)", files[path_of(module)], re.MULTILINE)
        assert "import " not in files[path_of(module)]
        assert [letter for letter in "ABCD" if case.score(letter) == 1.0] == [solve(case)]


def path_of(module: str) -> str:
    return module.replace(".", "/") + ".py"


@pytest.mark.parametrize("answer", ["B", "(b)", "B. By name, from A to Z.", "Answer: B"])
def test_a_letter_counts_with_what_it_stands_for(answer: str) -> None:
    assert repository.letter("B")(answer) == 1.0


@pytest.mark.parametrize("answer", ["", "C", "AB", "By name", "A record is kept, b"])
def test_another_letter_or_a_word_does_not(answer: str) -> None:
    assert repository.letter("B")(answer) == 0.0


def solve(case: Case, oracle: Model | None = None) -> str:
    """The case's script over its oracle, in this very process."""
    finals: list[object] = []
    model = case.oracle if oracle is None else oracle

    def ask(prompt: str) -> str:
        request = ModelRequest("", (Message("user", prompt),), 16384, 10.0, "sub")
        return asyncio.run(model.complete(request)).text

    names: dict[str, object] = {"context": case.context, "FINAL": finals.append, "llm_query": ask}
    names["llm_query_batched"] = lambda prompts: [ask(prompt) for prompt in prompts]
    with redirect_stdout(io.StringIO()):
        for turn in case.turns:
            exec(compile(BLOCK.findall(turn)[0], "turn", "exec"), names)
    (final,) = finals
    return final if isinstance(final, str) else msgspec.json.encode(final).decode()
