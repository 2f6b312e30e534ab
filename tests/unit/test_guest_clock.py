"""The clocks of a box: as those of `time` and `datetime`, noted, and in a replay as they were noted."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guest.agent.clock import LEFT, NOTED_MAX, Clocks

GUEST = Path(__file__).parents[2] / "sandbox_images"
HOUR_NS = 3_600 * 10**9
# In a process of its own: `prepare` replaces functions of `time`.
ALL = """
import copy, json, logging, os, pickle, sys, time
from datetime import datetime as looked_up
looked_up.now(), looked_up.utcnow()  # and found, and remembered
from guest.agent import clock
clocks = clock.prepare()
import datetime, timeit

class Kept:
    timer = time.perf_counter

class Late(datetime.datetime):
    @classmethod
    def fromtimestamp(cls, *given):
        raise AssertionError("the base class's own is meant")

def told():
    return [
        time.time(), time.time_ns(), time.monotonic(), time.monotonic_ns(), time.perf_counter(), time.perf_counter_ns(),
        time.process_time(), time.process_time_ns(), time.thread_time(), time.thread_time_ns(),
        time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_BOOTTIME), Kept().timer(),
        timeit.default_timer(), list(os.times()),
        list(time.gmtime()), list(time.localtime()), time.ctime(), time.asctime(),
        time.strftime("%c"), str(datetime.datetime.now()), str(looked_up.now(datetime.UTC)),
        str(datetime.datetime.utcnow()), str(datetime.datetime.today()), str(datetime.date.today()),
        str(Late.now(tz=datetime.UTC)), type(Late.now()).__name__,
        logging.LogRecord("", 1, "", 1, "", (), None).created,
    ]

clocks.begin(b"")
one = told()
noted = clocks.take()
clocks.begin(noted)
two = told()
assert clocks.take() == noted, "a replay notes the same"
three = told()
print(json.dumps([one, two, three]))
assert clocks.time_ns() < clocks.time_ns() < time.clock_gettime_ns(0)
assert copy.deepcopy(time.time) == pickle.loads(pickle.dumps(time.time)) == time.time
"""
ASKED_WRONGLY = """
import datetime, json, sys, time
ways = [
    lambda: time.strftime(), lambda: time.gmtime("x"), lambda: time.ctime(1e30), lambda: time.clock_gettime(4711),
    lambda: time.clock_gettime_ns("x"), lambda: datetime.datetime.now(5),
    lambda: time.time(1), lambda: time.asctime(1, 2),
]
def told():
    for way in ways:
        try:
            yield way()
        except Exception as error:
            yield type(error).__name__
theirs = [*told()]
from guest.agent import clock
clock.prepare()
assert theirs == [*told()], theirs
assert (time.gmtime(0)[:6], time.asctime(time.gmtime(0))) == ((1970, 1, 1, 0, 0, 0), "Thu Jan  1 00:00:00 1970")
assert time.strftime("%Y", time.gmtime(0)) == "1970" and time.clock_gettime(0) > 0
"""
FORKED = """
import os, time
from guest.agent import clock
clocks = clock.prepare()
clocks.begin(b"")
time.time()
if not os.fork():
    time.time()
    os._exit(len(clocks.take()))
assert os.wait()[1] == 0, "a child has nothing to send"
assert len(clocks.take()) == 9
"""


def run(code: str) -> str:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    return subprocess.run(command, env={"PYTHONPATH": str(GUEST)}, capture_output=True, check=True, text=True).stdout


def test_whatever_reads_a_clock_reads_it_so_and_a_replay_reads_the_same() -> None:
    one, two, three = json.loads(run(ALL))
    assert one == two
    passing = [value for value in one if isinstance(value, float | int)]
    later = [value for value in three if isinstance(value, float | int)]
    assert len(passing) == 15
    assert all(before < after for before, after in zip(passing, later, strict=True))
    assert one[-2] == "Late"


def test_who_asks_wrongly_fails_as_with_the_real_ones() -> None:
    run(ASKED_WRONGLY)


def test_a_process_that_the_program_forks_notes_nothing() -> None:
    run(FORKED)


def noted(clocks: Clocks, *calls: Any) -> bytes:
    for call in calls:
        call()
    return clocks.take()


def test_behind_what_was_noted_a_clock_goes_on_from_there() -> None:
    clocks = Clocks()
    clocks.begin(b"")
    clocks.seen(0, HOUR_NS)
    data = clocks.take()
    clocks.begin(data)
    assert [clocks.seen(0, now) for now in (100, 250, 260)] == [HOUR_NS, HOUR_NS + 150, HOUR_NS + 160]
    clocks.begin(b"")  # in the next cell, too
    assert clocks.seen(0, 300) == HOUR_NS + 200
    assert clocks.seen(1, 300) == 300  # and no other clock is moved
    assert clocks.left("wall_ms", 7) == 7


def test_no_clock_says_less_than_nothing_where_another_thread_has_used_less() -> None:
    clocks = Clocks()
    clocks.begin(b"")
    clocks.seen(3, 40)
    clocks.begin(clocks.take())
    assert [clocks.seen(3, now) for now in (100, 10, 110)] == [40, 0, 50]


def test_what_is_left_is_what_was_said_then_and_behind_that_what_is_said_now() -> None:
    clocks = Clocks()
    clocks.begin(b"")
    assert [clocks.left(name, 5) for name in LEFT] == [5] * len(LEFT)
    assert clocks.left("calls", None) is None
    clocks.begin(clocks.take())
    # A replay has no quota of a tenant, so there may be no limit.
    assert [clocks.left(name, None) for name in LEFT] == [5] * len(LEFT)
    assert (clocks.left("calls", None), clocks.left("wall_ms", 1000), clocks.left("calls", 9)) == (None, 1000, 9)


def test_a_number_of_a_clock_is_asked_for_once() -> None:
    class Turning:
        asked = 0

        def __index__(self) -> int:
            self.asked += 1
            return 0 if self.asked == 1 else -6

    clocks = Clocks()
    clocks.begin(b"")
    ways: list[Callable[[Any], float]] = [clocks.clock_gettime, clocks.clock_gettime_ns]
    assert all(way(Turning()) > 0 for way in ways)
    assert len(clocks.take()) == 18


def test_each_clock_has_a_row_of_its_own() -> None:
    clocks = Clocks()
    clocks.begin(b"")
    data = noted(clocks, clocks.time, clocks.monotonic, clocks.time_ns, clocks.monotonic_ns)
    clocks.begin(data)
    mixed = noted(clocks, clocks.monotonic, clocks.monotonic_ns, clocks.time, clocks.time_ns)
    assert sorted(data[at : at + 9] for at in range(0, 36, 9)) == sorted(mixed[at : at + 9] for at in range(0, 36, 9))


def test_of_a_cell_so_much_is_noted_and_no_more_however_many_threads_look() -> None:
    clocks = Clocks()
    assert noted(clocks, clocks.time) == b""  # in no cell
    clocks.begin(b"")
    threads = [threading.Thread(target=lambda: [clocks.time() for _ in range(NOTED_MAX)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert NOTED_MAX <= len(clocks.take()) // 9 < NOTED_MAX + len(threads)
    assert noted(clocks, clocks.time) == b""
    clocks.begin(b"")
    assert len(noted(clocks, clocks.time)) == 9


def test_what_is_done_aside_is_neither_noted_nor_read_again() -> None:
    clocks = Clocks()
    clocks.begin(b"")
    data = noted(clocks, clocks.time, lambda: clocks.aside(clocks.time), clocks.time)
    assert len(data) == 18
    clocks.begin(data)
    assert noted(clocks, lambda: clocks.aside(clocks.time), clocks.time, clocks.time) == data


def test_a_loop_that_waits_for_a_moment_ends_in_a_replay_too() -> None:
    clocks = Clocks()

    def looks(step: int) -> int:
        now = itertools.count(0, step)
        until = clocks.seen(1, next(now)) + 10 * NOTED_MAX
        return next(number for number in itertools.count(1) if clocks.seen(1, next(now)) >= until)

    clocks.begin(b"")
    assert looks(5) == 2 * NOTED_MAX
    clocks.begin(clocks.take())
    assert NOTED_MAX < looks(10) < 2 * NOTED_MAX
