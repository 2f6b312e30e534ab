"""What a root model is sent again with each turn: bounded, shortened from the oldest on, and never out of step."""

from __future__ import annotations

import time

import pytest

from belljar.engine.history import History, cut
from belljar.errors import PolicyDenied

KIB = 1024


def size(history: History) -> int:
    return sum(len(message.text.encode()) for message in history.messages())


def filled(turns: int, bytes_max: int, *, reply: str = "r" * 1000, shown: str = "s" * 10_000) -> History:
    history = History("system", "the question", bytes_max)
    for turn in range(1, turns + 1):
        history.add(turn, f"reply {turn} {reply}", f"shown {turn} {shown}")
    return history


@pytest.mark.slow
@pytest.mark.parametrize("bytes_max", [16 * KIB, 100 * KIB, 1024 * KIB])
@pytest.mark.parametrize("turns", [1, 5, 40, 400])
def test_a_request_stays_under_the_bound_of_prompts(bytes_max: int, turns: int) -> None:
    history = History("s" * 2000, "q" * 2000, bytes_max)
    for turn in range(1, turns + 1):
        history.add(turn, "é" * 1_000_000, "\U0001f600" * history.shown_chars_max)
        assert size(history) + 2000 <= bytes_max
        roles = [message.role for message in history.messages()]
        assert roles == ["user", *["assistant", "user"] * (len(roles) // 2)]


def test_the_oldest_outputs_go_first_and_say_so() -> None:
    texts = [message.text for message in filled(30, 1024 * KIB).messages()]
    assert texts[0] == "the question"
    assert len(texts) == 61
    left_out = [number for number, text in enumerate(texts[2::2], start=1) if "was left out" in text]
    assert left_out == list(range(1, len(left_out) + 1))
    assert 0 < len(left_out) < 30
    assert texts[2] == "[What turn 1 showed was left out to save room: 10008 characters.]"
    assert all(text.startswith(f"reply {turn} ") for turn, text in enumerate(texts[1::2], start=1))


def test_then_replies_become_what_they_ran_and_at_last_turns_go_and_are_counted() -> None:
    history = History("system", "the question", 16 * KIB)
    for turn in range(1, 31):
        history.add(turn, f"reply {turn} {'r' * 700}", f"shown {turn}", f"`step{turn}()` (ok, 3 bytes printed)")
    texts = [message.text for message in history.messages()]
    assert texts[1] == "[Turn 1 in short, to save room: `step1()` (ok, 3 bytes printed)]"
    assert texts[-2].startswith("reply 30 r")
    assert texts[0] == "the question"
    for turn in range(31, 400):
        history.add(turn, f"reply {turn} {'r' * 700}", f"shown {turn}", f"`step{turn}()` (ok, 3 bytes printed)")
    texts = [message.text for message in history.messages()]
    gone = (400 - 1) - len(texts) // 2
    assert texts[0] == (
        f"the question\n\n[The first {gone} turns were left out to save room. What they defined is still there: "
        "SHOW_VARS().]"
    )
    assert texts[1].startswith(f"[Turn {gone + 1} in short")


def test_the_question_and_the_last_turn_are_never_shortened() -> None:
    history = History("system", "the question", 16 * KIB)
    for turn in range(200):
        history.add(turn, f"reply {turn}", f"shown {turn} {'s' * 900}")
        first, *_, reply, shown = [message.text for message in history.messages()]
        assert (first.partition("\n")[0], reply) == ("the question", f"reply {turn}")
        assert shown.startswith(f"shown {turn} s")


def test_it_is_shortened_so_far_that_it_stays_as_it_is_for_some_turns() -> None:
    """What has not changed need not be read again by the provider."""
    history = filled(1, 1024 * KIB)
    changes = 0
    for turn in range(2, 102):
        before = history.messages()
        history.add(turn, "r" * 1000, "s" * 10_000)
        changes += history.messages()[: len(before)] != before
    assert 5 <= changes <= 20


@pytest.mark.parametrize("reply", ["", " \n", "\t"])
def test_white_space_is_not_sent_back(reply: str) -> None:
    history = History("", "q", 1024 * KIB)
    history.add(1, reply, "shown")
    assert history.messages()[1].text == "(nothing was written)"


def test_halved_it_stays_so() -> None:
    history = filled(10, 1024 * KIB)
    before = size(history)
    assert history.halve()
    halved = size(history)
    assert halved <= before // 2
    for turn in range(11, 30):
        history.add(turn, "r", "s" * 1000)
        assert size(history) <= before // 2 + KIB


def test_what_has_one_turn_only_cannot_be_halved() -> None:
    history = filled(1, 1024 * KIB)
    assert not history.halve()
    assert history.messages()[-1].text.startswith("shown 1 s")


def test_a_question_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(PolicyDenied, match="put the long part into a context") as caught:
        History("system", "q" * 60 * KIB, 64 * KIB)
    assert (caught.value.code, caught.value.limit) == ("models.prompt", 64 * KIB)
    assert caught.value.observed is not None
    assert caught.value.observed > 64 * KIB


@pytest.mark.parametrize("turns", [1, 3, 200])
def test_the_last_question_of_a_session_is_never_left_out(turns: int) -> None:
    history = filled(3, 16 * KIB)
    for question in ("the second", "the third"):
        history.ask(question)
        for turn in range(turns):
            history.add(turn, "r" * 1000, "s" * 10_000)
    texts = [message.text for message in history.messages()]
    assert sum("the third" in text for text in texts) == 1
    assert size(history) <= 16 * KIB
    roles = [message.role for message in history.messages()]
    assert roles == ["user", *["assistant", "user"] * (len(roles) // 2)]
    if turns == 200:
        assert texts[0].endswith("the third")
        assert all("the second" not in text for text in texts)


def test_a_further_question_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(PolicyDenied) as refused:
        filled(3, 64 * KIB).ask("q" * 9000)
    assert (refused.value.code, refused.value.observed) == ("models.prompt", 9000)


def test_a_very_long_conversation_is_kept_in_little_time() -> None:
    started = time.thread_time()
    filled(3000, 1024 * KIB, reply="r", shown="s" * 100)
    assert time.thread_time() - started < 10


def test_a_cut_text_says_how_long_it_was() -> None:
    assert cut("x" * 10, 10) == "x" * 10
    assert cut("a" * 500 + "b" * 600, 100) == "a" * 50 + "\n[... 1,000 of 1,100 characters not shown ...]\n" + "b" * 50
