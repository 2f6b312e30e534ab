"""What waits for the journal's thread: what is urgent wakes it, what is lazy goes with that, nothing is forgotten."""

from __future__ import annotations

import threading
import time

import pytest

from belljar.journal.inbox import Inbox

# For ever, as tests go; what must not happen is looked for only so long.
_LONG_S = 60.0
_INSTANT_S = 0.2


class _Taker:
    """A thread that waits for the next items, and takes them."""

    def __init__(self, inbox: Inbox[int], most: int = 100) -> None:
        self.taken: list[int] | None = None

        def work() -> None:
            assert inbox.wait()
            self.taken = inbox.take(most)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def end(self) -> list[int]:
        self._thread.join(_LONG_S / 2)
        assert self.taken is not None, "it still waits"
        return self.taken

    def still_waits(self) -> bool:
        self._thread.join(_INSTANT_S)
        return self._thread.is_alive()


@pytest.fixture
def patient() -> Inbox[int]:
    """What is lazy can wait for as long as the test runs."""
    return Inbox(_LONG_S)


def _until_asleep(inbox: Inbox[int]) -> None:
    while not inbox._asleep:
        time.sleep(0.001)


def test_what_is_urgent_is_taken_at_once_and_in_order(patient: Inbox[int]) -> None:
    taker = _Taker(patient)
    patient.put(1, lazy=True)
    patient.put(2, lazy=False)

    assert taker.end() == [1, 2]


def test_what_is_lazy_waits_for_what_is_urgent(patient: Inbox[int]) -> None:
    taker = _Taker(patient)
    patient.put(1, lazy=True)

    assert taker.still_waits()
    patient.put(2, lazy=False)
    assert taker.end() == [1, 2]


def test_what_is_lazy_also_waits_after_something_that_was_urgent_and_taken(patient: Inbox[int]) -> None:
    patient.put(1, lazy=False)
    assert _Taker(patient).end() == [1]

    patient.put(2, lazy=True)
    taker = _Taker(patient)

    assert taker.still_waits()
    patient.put(3, lazy=False)
    assert taker.end() == [2, 3]


def test_what_is_lazy_waits_no_longer_than_an_instant() -> None:
    inbox: Inbox[int] = Inbox(0.001)
    inbox.put(1, lazy=True)

    assert _Taker(inbox).end() == [1]


def test_what_is_lazy_wakes_a_thread_that_sleeps() -> None:
    inbox: Inbox[int] = Inbox(0.001)
    taker = _Taker(inbox)
    _until_asleep(inbox)
    inbox.put(1, lazy=True)

    assert taker.end() == [1]


def test_what_is_left_of_many_is_taken_without_a_wait(patient: Inbox[int]) -> None:
    for item in range(5):
        patient.put(item, lazy=False)

    assert [_Taker(patient, most=2).end() for _ in range(3)] == [[0, 1], [2, 3], [4]]


def test_nothing_is_put_behind_the_end_and_what_is_before_it_is_taken(patient: Inbox[int]) -> None:
    patient.put(1, lazy=True)
    patient.close()

    assert not patient.put(2, lazy=False)
    assert _Taker(patient).end() == [1]
    assert _Taker(patient).end() == []


def test_the_end_wakes_a_thread_that_sleeps() -> None:
    inbox: Inbox[int] = Inbox(0.001)
    taker = _Taker(inbox)
    _until_asleep(inbox)
    inbox.close()

    assert taker.end() == []


def test_a_wait_has_a_bound() -> None:
    inbox: Inbox[int] = Inbox(0.001)

    assert not inbox.wait(0.001)
    inbox.put(1, lazy=True)
    assert inbox.wait(0.001)


def test_of_many_threads_nothing_is_lost_or_taken_twice() -> None:
    inbox: Inbox[tuple[int, int]] = Inbox(0.0005)
    threads, each = 8, 500
    putters = [
        threading.Thread(target=lambda who=who: [inbox.put((who, n), lazy=n % 3 != 0) for n in range(each)])
        for who in range(threads)
    ]
    for putter in putters:
        putter.start()

    taken: list[tuple[int, int]] = []
    while len(taken) < threads * each:
        assert inbox.wait(_LONG_S), "something is there, and nobody was woken"
        taken += inbox.take(7)

    assert [[n for who, n in taken if who == one] for one in range(threads)] == [list(range(each))] * threads
    for putter in putters:
        putter.join()
