"""What of a conversation is the question, and what the text that it is about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.errors import InvalidInput
from belljar.jobs import TextContext
from belljar.service.front.asked import Said, asked
from belljar.service.front.running import split
from belljar.service.settings import Profile

LONG = "a line\n" * 1000
CLAUDE = Profile(model="claude-x")


def texts(said: list[Said], system: str = "") -> tuple[str | None, dict[str, str]]:
    found = asked(CLAUDE, system, said)
    assert found.model == "claude-x"
    return found.question, {n: one.text for n, one in found.contexts.items() if isinstance(one, TextContext)}


def test_a_short_text_is_a_question() -> None:
    assert texts([Said("user", "Why?")], "Be brief.") == ("Be brief.\n\nWhy?", {})


def test_of_a_long_text_the_last_paragraph_is_the_question() -> None:
    assert texts([Said("user", f"{LONG}\n\nWhy?")]) == ("Why?", {"context": LONG.strip()})


def test_a_long_message_before_the_question_is_the_context() -> None:
    assert texts([Said("user", LONG), Said("user", "Why?")]) == ("Why?", {"context": LONG})


def test_what_was_said_before_is_a_context_of_its_own() -> None:
    said = [Said("user", LONG), Said("user", "Why?"), Said("assistant", "Because."), Said("user", "And now?")]
    question, contexts = texts(said)
    assert question == "And now?"
    assert contexts == {"context": LONG, "conversation": "user: Why?\n\nassistant: Because."}


@pytest.mark.parametrize("said", [[], [Said("assistant", "Hm.")], [Said("user", " ")], [Said("user", "x" * 9000)]])
def test_where_nothing_is_asked_nothing_is_ordered(said: list[Said]) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked(CLAUDE, "", said)
    assert refused.value.code == "front.question"


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=6000)), max_size=6))
def test_no_text_of_the_users_is_lost(pairs: list[tuple[str, str]]) -> None:
    said = [Said(*pair) for pair in pairs]
    try:
        question, contexts = texts(said)
    except InvalidInput:
        return
    everything = " ".join([str(question), *contexts.values()])
    for one in said:
        assert all(word in everything for word in one.text.split())


@pytest.mark.parametrize("count", [0, 1, 65_536, 65_537, 200_000])
def test_an_answer_goes_in_pieces_of_which_none_is_long(count: int) -> None:
    text = "ab" * (count // 2) + "c" * (count % 2)
    pieces = [*split(text)]
    assert "".join(pieces) == text
    assert pieces
    assert max(map(len, pieces)) <= 65_536
