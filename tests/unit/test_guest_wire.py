"""The guest's end of the wire: it speaks as the host insists on, threads share it, no interrupt puts it out of step.

The host's end is a thread here, with the real decoder and encoder, on the other side of a socket pair.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.protocol import (
    Answer,
    Answers,
    Budget,
    CellError,
    Coverage,
    Covered,
    Data,
    Done,
    Execute,
    Extent,
    Failure,
    Final,
    GuestMessage,
    HostMessage,
    Left,
    Output,
    Query,
    Read,
    Ready,
    Recurse,
    Refused,
)
from belljar.wire import Frame, encode, guest_decoder
from guest.agent.names import Budget as WhatIsLeft
from guest.agent.names import CutAnswer, Ended, Endings, ModelError, PolicyDenied, Queries, QuotaExceeded
from guest.agent.wire import Channel, Closed
from tests.examples import examples

HEADER_MAX = 1 << 16
BODY_MAX = 1 << 25

# What JSON writers disagree about: escapes, quotes, DEL, the line separators, planes, and what UTF-8 cannot carry.
AWKWARD = [
    "".join(map(chr, range(0x20))),
    "\x7f\x80\x9f\xa0",
    "quote \" backslash \\ slash / apostrophe '",
    "line \u2028 paragraph \u2029 mark \ufeff",
    "\U0001f600 \U0010ffff \ufffe \uffff",
    "é e\u0301 ﬁ",
    "\\u0041 \\n </script>",
    "",
]

Reply = tuple[HostMessage, bytes]
Handler = Callable[[Frame[GuestMessage]], Reply | None]


class Host:
    """Answers every request by `handler`, as soon as it comes; with `shuffle`, a batch at a time and out of order."""

    def __init__(self, sock: socket.socket, handler: Handler, shuffle: int = 0) -> None:
        self._sock = sock
        self._handler = handler
        self._shuffle = shuffle
        self._random = random.Random(7)
        self.frames: list[Frame[GuestMessage]] = []
        self.replies = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def say(self, message: HostMessage, body: bytes = b"") -> None:
        head, rest = encode(message, body, header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)
        self._sock.sendall(head + bytes(rest))

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        decoder = guest_decoder(header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)
        pending: list[Reply] = []
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    self._sock.settimeout(0.02 if pending else None)
                    data = self._sock.recv(1 << 16)
                    if not data:
                        return
                    decoder.receive(data)
                    pending += self._heard(decoder.next)
                    if len(pending) < self._shuffle:
                        continue
                self._sock.settimeout(None)
                self._random.shuffle(pending)
                for reply in pending:
                    self.replies += 1
                    self.say(*reply)
                pending.clear()
        except OSError:
            return  # the guest's end is closed
        except Exception as error:
            self.error = error

    def _heard(self, take: Callable[[], Frame[GuestMessage] | None]) -> list[Reply]:
        replies = []
        while (frame := take()) is not None:
            self.frames.append(frame)
            reply = self._handler(frame)
            if reply is not None:
                replies.append(reply)
        return replies


@contextlib.contextmanager
def wired(handler: Handler, *, shuffle: int = 0, in_flight: int = 1) -> Iterator[tuple[Channel, Host]]:
    ours, theirs = socket.socketpair()
    host = Host(theirs, handler, shuffle)
    channel = Channel(ours.fileno())
    channel.limit_in_flight(in_flight)
    try:
        yield channel, host
    finally:
        ours.shutdown(socket.SHUT_RDWR)
        host.join()
        ours.close()
        theirs.close()


def echo(frame: Frame[GuestMessage]) -> Reply | None:
    """The reply names its request, so that a stream out of step cannot go unseen."""
    match frame.message:
        case Read(id=number, start=start):
            return Data(number), f"{number}:{start}".encode()
        case Query(id=number, lengths=lengths):
            return Answers(number, [Answer(length) for length in lengths], []), frame.body
        case Budget(id=number):
            return Left(number, None, 1, 2, 3, 4, 5, 6, 7), b""
        case Coverage(id=number):
            return Covered(number, 1, True, []), b""
        case Recurse(id=number):
            return Refused(number, Failure("PolicyDenied", "models.depth", "not here", None, None)), b""
        case _:
            return None


def read(channel: Channel, start: int) -> None:
    header, body = channel.request("read", {"doc": 0, "start": start, "stop": start + 1, "line": 0})
    assert header["op"] == "data"
    assert body == f"{header['id']}:{start}".encode()


def queries(channel: Channel, **options: int) -> Queries:
    limits: dict[str, Any] = {"batch_max": 100, "body_bytes_max": BODY_MAX, **options}
    return Queries(channel, flush=lambda: None, **limits)


def silent(_: Frame[GuestMessage]) -> None:
    return None


# --------------------------------------------------------------------------------------------------------- spelling


@pytest.mark.parametrize("text", AWKWARD)
def test_every_sentence_of_the_guest_is_spelled_as_the_host_insists(text: str) -> None:
    failed = {"type": text, "message": text, "line": 3}
    with wired(echo) as (channel, host):
        channel.send({"op": "ready", "protocol": 1, "python": text})
        channel.send({"op": "output", "cell": 1, "stream": "stdout"}, text.encode())
        channel.send({"op": "output", "cell": 1, "stream": "stderr"}, b"\xff\x00")
        channel.send({"op": "final", "cell": 1, "form": "text"}, text.encode())
        channel.send({"op": "final", "cell": 1, "form": "json"}, b"[1]")
        channel.send({"op": "done", "cell": 1, "status": "ok", "error": None, "variables": ["x: int"], "unlisted": 7})
        channel.send(
            {"op": "done", "cell": 1, "status": "error", "error": failed, "variables": [], "unlisted": 0}, text.encode()
        )
        unplaced = {**failed, "line": None}
        channel.send(
            {"op": "done", "cell": 1, "status": "interrupted", "error": unplaced, "variables": [], "unlisted": 0}
        )
        channel.request("read", {"doc": 1023, "start": 0, "stop": 2**53 - 1, "line": 0})
        channel.request("query", {"model": text, "lengths": [1, 0]}, b"x")
        channel.request("query", {"model": None, "lengths": [0]})
        channel.request("recurse", {"model": None, "prompts": [1], "contexts": []}, b"x")
        channel.request("budget", {})
        channel.request("coverage", {})
    assert host.frames == [
        Frame(Ready(1, text), b""),
        Frame(Output(1, "stdout"), text.encode()),
        Frame(Output(1, "stderr"), b"\xff\x00"),
        Frame(Final(1, "text"), text.encode()),
        Frame(Final(1, "json"), b"[1]"),
        Frame(Done(1, "ok", None, ["x: int"], 7), b""),
        Frame(Done(1, "error", CellError(text, text, 3)), text.encode()),
        Frame(Done(1, "interrupted", CellError(text, text, None)), b""),
        Frame(Read(1, 1023, 0, 2**53 - 1, 0), b""),
        Frame(Query(2, text, [1, 0]), b"x"),
        Frame(Query(3, None, [0]), b""),
        Frame(Recurse(4, None, [1], []), b"x"),
        Frame(Budget(5), b""),
        Frame(Coverage(6), b""),
    ]


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=20), min_size=20, max_size=40))
def test_any_text_reaches_the_host_with_lone_surrogates_replaced(texts: list[str]) -> None:
    with wired(silent) as (channel, host):
        for text in texts:
            channel.send({"op": "ready", "protocol": 1, "python": text})
    heard = [frame.message.python for frame in host.frames if isinstance(frame.message, Ready)]
    assert heard == [text.encode("utf-8", "replace").decode() for text in texts]


def test_every_character_has_one_spelling_on_both_sides() -> None:
    ours = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
    for plane in range(17):
        chars = [chr(code) for code in range(plane << 16, (plane + 1) << 16) if not 0xD800 <= code < 0xE000]
        assert ours.encode(chars).encode() == msgspec.json.encode(chars)


# ---------------------------------------------------------------------------------------------------------- threads


@pytest.mark.slow
def test_many_threads_share_one_channel_and_each_gets_its_own_reply() -> None:
    with wired(echo, shuffle=8, in_flight=16) as (channel, host), concurrent.futures.ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda start: read(channel, start), range(2000)))
    assert sorted(frame.message.start for frame in host.frames if isinstance(frame.message, Read)) == list(range(2000))


def test_no_more_requests_are_under_way_than_the_limit() -> None:
    worst = 0

    def counted(frame: Frame[GuestMessage]) -> Reply | None:
        nonlocal worst
        worst = max(worst, len(host.frames) - host.replies)
        return echo(frame)

    with wired(counted, shuffle=3, in_flight=3) as (channel, host), concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda start: read(channel, start), range(300)))
    assert worst == 3


@pytest.mark.slow
def test_requests_under_way_hold_no_more_bytes_than_the_limit() -> None:
    """A body counts as what it is, a search as what it may find, and one request alone has room in any case."""
    worst = 0
    held = {"query": 300, "search": 400}

    def counted(frame: Frame[GuestMessage]) -> Reply | None:
        nonlocal worst
        open_frames = host.frames[host.replies :]
        worst = max(worst, sum(held[type(one.message).__name__.lower()] for one in open_frames))
        return Left(frame.message.id, None, 1, 2, 3, 4, 5, 6, None), b""  # type: ignore[union-attr]

    def ask(number: int) -> None:
        if number % 2:
            channel.request("query", {"model": None, "lengths": [300]}, b"x" * 300)
        else:
            place = {"doc": 0, "mode": "count", "start": 0, "stop": 1, "limit": 1, "line": 0}
            channel.request("search", place, b"")

    for limit, least, most in ((1000, 600, 1000), (100, 300, 400)):
        worst = 0
        with wired(counted, shuffle=4) as (channel, host), concurrent.futures.ThreadPoolExecutor(12) as pool:
            channel.limit_in_flight(16, limit, 400)
            list(pool.map(ask, range(60)))
        assert least <= worst <= most


def test_whoever_waits_for_a_slot_gets_one_in_turn() -> None:
    stop = threading.Event()

    def greedy() -> None:
        while not stop.is_set():
            read(channel, 1)

    with wired(echo, in_flight=1) as (channel, _), concurrent.futures.ThreadPoolExecutor(3) as pool:
        others = [pool.submit(greedy) for _ in range(3)]
        for start in range(100):
            read(channel, start)
        stop.set()
        for other in others:
            other.result(10)


def test_a_command_that_arrives_while_a_thread_reads_is_kept_for_the_main_thread() -> None:
    def order_first(frame: Frame[GuestMessage]) -> Reply | None:
        host.say(Execute(2), b"x = 1")
        return echo(frame)

    with wired(order_first) as (channel, host):
        host.say(Execute(1), b"pass")
        assert channel.command() == ({"op": "execute", "cell": 1, "interrupted": False, "noted_bytes": 0}, b"pass")
        read(channel, 5)
        assert channel.command() == ({"op": "execute", "cell": 2, "interrupted": False, "noted_bytes": 0}, b"x = 1")


def test_a_reply_that_nobody_waits_for_is_dropped() -> None:
    def twice(frame: Frame[GuestMessage]) -> Reply | None:
        host.say(Data(4_000_000_000), b"for nobody")
        return echo(frame)

    with wired(twice) as (channel, host):
        for start in range(50):
            read(channel, start)
        assert channel._inbox == {}


# ------------------------------------------------------------------------------------------------- closed, and large


def test_a_host_that_hangs_up_ends_every_waiting_thread() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.fileno())
    channel.limit_in_flight(8)
    with ours, concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(read, channel, start) for start in range(8)]
        theirs.recv(1)
        theirs.close()
        for future in waiting:
            with pytest.raises(Closed):
                future.result(10)
        with pytest.raises(Closed):
            channel.send({"op": "output", "cell": 1, "stream": "stdout"}, b"x")
        with pytest.raises(Closed):
            channel.command()


def test_a_host_that_hangs_up_inside_a_frame_is_closed_too() -> None:
    ours, theirs = socket.socketpair()
    head, body = encode(Execute(1), b"x" * 100, header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)
    theirs.sendall(head + bytes(body)[:50])
    theirs.close()
    with ours, pytest.raises(Closed):
        Channel(ours.fileno()).command()


def test_large_bodies_go_both_ways_whole() -> None:
    texts = ["a" * 65535, "b" * 65536, "ü" * 3_000_000, "d" * 8_000_000]
    with wired(echo) as (channel, _):
        assert queries(channel).llm_query_batched(texts) == texts


# ------------------------------------------------------------------------------------------------------- interrupts


@contextlib.contextmanager
def interrupts(channel: Channel) -> Iterator[Callable[..., None]]:
    """Gives a function that makes a call which one real signal interrupts after so many seconds.

    The signal's handler is the agent's.
    """

    def interrupted(after_s: float, call: Callable[..., object], *args: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        call(*args)

    before = signal.signal(signal.SIGALRM, lambda *_: channel.interrupt())
    try:
        yield interrupted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def overlong_cell(channel: Channel, start: int, body: bytes) -> None:
    """It asks and prints, without an end."""
    while True:
        read(channel, start)
        channel.send({"op": "output", "cell": 1, "stream": "stdout"}, body)


@pytest.mark.slow
@pytest.mark.parametrize("in_flight", [1, 3])
def test_an_interrupt_at_any_moment_leaves_the_stream_in_step(in_flight: int) -> None:
    rng = random.Random(in_flight)
    with wired(echo, in_flight=in_flight) as (channel, host), interrupts(channel) as interrupted:
        for cell in range(2500):
            with pytest.raises(KeyboardInterrupt):
                interrupted(rng.uniform(1e-6, 4e-4), overlong_cell, channel, cell, rng.choice([b"", bytes(70_000)]))
            read(channel, cell)
        assert channel._in_flight == 0
    assert host.error is None


def test_an_interrupt_while_threads_share_the_stream_harms_none_of_them() -> None:
    rng = random.Random(3)
    stop = threading.Event()

    def background(first: int) -> int:
        done = 0
        while not stop.is_set():
            read(channel, first + done)
            done += 1
        return done

    with wired(echo, shuffle=2, in_flight=3) as (channel, host), interrupts(channel) as interrupted:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            others = [pool.submit(background, 1_000_000 * n) for n in range(1, 5)]
            try:
                for cell in range(60):
                    with pytest.raises(KeyboardInterrupt):
                        interrupted(rng.uniform(1e-4, 2e-2), overlong_cell, channel, cell, b"x")
                    read(channel, cell)
            finally:
                stop.set()
            assert all(other.result(30) > 0 for other in others)
        assert (channel._in_flight, channel._inbox) == (0, {})
    assert host.error is None


def test_an_interrupt_ends_a_wait_for_a_reply_that_never_comes() -> None:
    with wired(silent) as (channel, _), interrupts(channel) as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted(0.02, read, channel, 1)


def test_an_interrupt_ends_a_wait_for_a_free_slot() -> None:
    with wired(silent) as (channel, _), interrupts(channel) as interrupted:
        blocked = threading.Thread(target=until_closed, args=(channel,))
        blocked.start()
        while not channel._waiting:
            time.sleep(0.001)
        with pytest.raises(KeyboardInterrupt):
            interrupted(0.02, read, channel, 2)
    blocked.join(60)
    assert not blocked.is_alive()


def until_closed(channel: Channel) -> None:
    with contextlib.suppress(Closed):
        read(channel, 1)


# ------------------------------------------------------------------------------------------- the names of the guest


def test_a_batch_is_split_by_count_and_by_bytes_and_joined_again_in_order() -> None:
    texts = [f"{n}:" + "x" * (n % 7) * 10 for n in range(100)]
    with wired(echo) as (channel, host):
        assert queries(channel, batch_max=9, body_bytes_max=300).llm_query_batched(texts) == texts
    sizes = [frame.message.lengths for frame in host.frames if isinstance(frame.message, Query)]
    assert max(map(len, sizes)) <= 9
    assert max(map(sum, sizes)) <= 300


def test_an_empty_batch_asks_nobody() -> None:
    with wired(echo) as (channel, host):
        assert queries(channel).llm_query_batched([]) == []
        assert queries(channel).rlm_query_batched([]) == []
    assert host.frames == []


def test_what_no_frame_can_carry_is_refused_in_the_program_and_does_not_end_the_box() -> None:
    with wired(echo) as (channel, host):
        ask = queries(channel, body_bytes_max=100)
        with pytest.raises(PolicyDenied) as caught:
            ask.llm_query("é" * 51)
        assert (caught.value.limit, caught.value.observed) == (100, 102)
        with pytest.raises(PolicyDenied):
            ask.rlm_query("x" * 60, context="y" * 60)
        with pytest.raises(PolicyDenied):
            endings(channel, body_bytes_max=100).final("z" * 101)
        assert ask.llm_query("x" * 100) == "x" * 100
    assert len(host.frames) == 1


def test_a_model_that_is_no_name_is_refused_in_the_program() -> None:
    with wired(echo) as (channel, host):
        for wrong in (7, b"claude", ["claude"]):
            with pytest.raises(TypeError):
                queries(channel).llm_query("x", model=wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                queries(channel).rlm_query("x", model=wrong)  # type: ignore[arg-type]
        assert queries(channel).llm_query("x", model="m" * 1000) == "x"
    assert len(host.frames) == 1


def test_failures_are_raised_or_stand_in_their_place() -> None:
    def half(frame: Frame[GuestMessage]) -> Reply:
        assert isinstance(frame.message, Query)
        return Answers(
            frame.message.id,
            [
                Answer(3),
                Answer(0, 0),
                Answer(0, 1),
                Answer(2),
            ],
            [
                Failure("QuotaExceeded", "quota.run.calls", "none left", 5, 6),
                Failure("ModelError", "model.failed", "no", None, None),
            ],
        ), b"onezw"

    with wired(half) as (channel, _):
        one, quota, model, last = queries(channel).llm_query_batched(list("abcd"), return_exceptions=True)
        assert (one, last) == ("one", "zw")
        assert isinstance(quota, QuotaExceeded)
        assert (quota.limit, quota.observed) == (5, 6)
        assert isinstance(model, ModelError)
        with pytest.raises(QuotaExceeded, match="none left") as caught:
            queries(channel).llm_query_batched(list("abcd"))
        assert "prompts[1] failed first; 2 of 4 were answered" in str(caught.value)
        assert (caught.value.limit, caught.value.observed, caught.value.code) == (5, 6, "quota.run.calls")
        assert [str(answer) for answer in caught.value.answers] == ["one", "none left", "no", "zw"]
        assert isinstance(caught.value.answers[2], ModelError)


def upper_but(*bad: bytes) -> Callable[[Frame[GuestMessage]], Reply]:
    """Answers in capitals; the prompts in `bad` fail."""

    def handler(frame: Frame[GuestMessage]) -> Reply:
        assert isinstance(frame.message, Query)
        starts = [0, *accumulate(frame.message.lengths)]
        prompts = [frame.body[start:stop] for start, stop in pairwise(starts)]
        items = [Answer(0, 0) if prompt in bad else Answer(len(prompt)) for prompt in prompts]
        failures = [Failure("ModelError", "model.failed", "bad prompt", None, None)]
        return Answers(frame.message.id, items, failures), b"".join(p.upper() for p in prompts if p not in bad)

    return handler


def test_what_a_failed_batch_has_paid_for_is_not_asked_again() -> None:
    with wired(upper_but(b"b")) as (channel, host):
        asking = queries(channel)
        with pytest.raises(ModelError, match="3 of 4 were answered") as caught:
            asking.llm_query_batched(["a", "b", "a", "d"])
        assert caught.value.answers[::2] == ["A", "A"]
        assert asking.llm_query_batched(["d", "c", "a", "a", "a"]) == ["D", "C", "A", "A", "A"]
        assert asking.llm_query_batched(["a", "d"]) == ["A", "D"]  # each was kept once
    assert [frame.body for frame in host.frames] == [b"abad", b"ca", b"ad"]


def test_a_child_run_that_gave_its_answer_is_not_started_again() -> None:
    """By what it was asked: the same question about another text is another one."""

    def started(frame: Frame[GuestMessage]) -> Reply:
        assert isinstance(frame.message, Recurse)
        items = [Answer(0, 0) if length == 3 else Answer(3, json=True) for length in frame.message.prompts]
        failure = Failure("ModelError", "model.failed", "the child run failed", None, None)
        return Answers(frame.message.id, items, [failure]), b"[1]" * sum(item.failure is None for item in items)

    with wired(started) as (channel, host):
        asking = queries(channel)
        with pytest.raises(ModelError, match="2 of 3 were answered") as caught:
            asking.rlm_query_batched(["a", "bad", "c"], ["A", "B", "C"])
        caught.value.answers[0].append(2)  # the program's own from here on
        assert asking.rlm_query_batched(["a", "c", "c"], ["A", "other", "C"]) == [[1]] * 3
    assert [frame.body for frame in host.frames] == [b"abadcABC", b"cother"]


def test_contexts_of_a_batch_that_are_no_list_of_as_many_are_refused_in_the_program() -> None:
    with wired(echo) as (channel, host):
        asking = queries(channel)
        wrongs: tuple[Any, ...] = ("ab", {"a": 1, "b": 2}, ["a"])
        for wrong in wrongs:
            with pytest.raises(TypeError, match=r"\[context\] \* len\(prompts\)"):
                asking.rlm_query_batched(["x", "y"], wrong)
    assert host.frames == []


def test_a_batch_of_several_requests_keeps_what_was_answered_before_one_was_refused() -> None:
    calls = 0

    def second_refused(frame: Frame[GuestMessage]) -> Reply:
        nonlocal calls
        calls += 1
        if calls == 2:
            return Refused(calls, Failure("QuotaExceeded", "quota.run.calls", "none left", 5, 6)), b""
        return upper(frame)

    upper = upper_but()

    with wired(second_refused) as (channel, host):
        asking = Queries(channel, batch_max=2, body_bytes_max=BODY_MAX, flush=lambda: None)
        with pytest.raises(QuotaExceeded, match=r"none left \(2 of 5 were answered before") as caught:
            asking.llm_query_batched(list("abcde"), return_exceptions=True)
        assert caught.value.answers == ["A", "B", None, None, None]
        assert asking.llm_query_batched(list("abc")) == ["A", "B", "C"]
    assert [frame.body for frame in host.frames] == [b"ab", b"cd", b"c"]


@pytest.mark.parametrize("bad", ["", " \n", "\u3000", "x" * 11])
def test_a_batch_of_several_requests_is_looked_at_before_the_first(bad: str) -> None:
    with wired(echo) as (channel, host):
        asking = Queries(channel, batch_max=2, body_bytes_max=BODY_MAX, prompt_bytes_max=10, flush=lambda: None)
        with pytest.raises(PolicyDenied, match=r"prompts\[3\]"):
            asking.llm_query_batched(["a", "b", "c", bad])
    assert host.frames == []


def test_an_answer_that_was_cut_says_so() -> None:
    def cut(frame: Frame[GuestMessage]) -> Reply:
        assert isinstance(frame.message, Query)
        return Answers(frame.message.id, [Answer(4), Answer(4, cut=True)], []), b"goodhalf"

    said: list[str] = []
    with wired(cut) as (channel, _):
        asking = Queries(channel, batch_max=9, body_bytes_max=BODY_MAX, flush=lambda: None, warn=said.append)
        good, half = asking.llm_query_batched(["a", "b"])
    assert (good, half) == ("good", "half")
    assert (type(good), type(half)) == (str, CutAnswer)
    assert said == ["1 of 2 answers were cut off at the output limit (CutAnswer)\n"]


def test_budget_gives_what_is_left_and_a_refusal_is_raised() -> None:
    with wired(echo) as (channel, _):
        assert queries(channel).budget() == {
            "calls": None,
            "input_tokens": 1,
            "output_tokens": 2,
            "cost_nanousd": 3,
            "read_bytes": 4,
            "wall_ms": 5,
            "cpu_ms": 6,
            "memory_mib_s": 7,
        }
        with pytest.raises(PolicyDenied, match="not here"):
            queries(channel).rlm_query("x")


def test_a_budget_can_be_compared_and_prints_what_is_left() -> None:
    left = WhatIsLeft(calls=None, output_tokens=2, cost_nanousd=120_000_000, wall_ms=1500, memory_mib_s=None)
    assert left.calls > 10**18
    assert left.output_tokens < 3
    assert left["calls"] is None
    assert not hasattr(left, "tenant")
    assert repr(left) == (
        "<budget: unlimited calls, 2 output tokens, 0.1200 USD, 1.5 s of time, unlimited MiB-seconds of memory>"
    )


def test_coverage_is_of_all_contexts_and_of_each_with_what_was_left_out() -> None:
    """The second range that was read is not told; the list that follows has no ranges, and takes none."""

    def covered(frame: Frame[GuestMessage]) -> Reply:
        extents = [Extent(10, 4, 2, 2, 1), Extent(20, 20, 0, None, None), Extent(3, 3, 3, 1, 1)]
        spans = struct.pack("<8Q", 1, 3, 1, 3, 0, 3, 0, 3)
        return Covered(frame.message.id, 1, False, extents), spans  # type: ignore[union-attr]

    with wired(covered) as (channel, _):
        asking = Queries(channel, batch_max=9, body_bytes_max=9, flush=lambda: None, contexts=["one", "two", "three"])
        found = asking.coverage()
    assert (found.chars, found.read, found.shown, found.complete) == (33, 27, 5, False)
    assert (found.read_share, found.shown_share) == (0.818181, 0.151515)
    one, two, three = found.contexts.values()
    assert (one.read_spans, one.read_spans_count, one.unread) == ([(1, 3)], 2, [(0, 1)])
    assert (one.shown_spans, one.shown_spans_count, one.unshown) == ([(1, 3)], 1, [(0, 1), (3, 10)])
    assert two == {"chars": 20, "read": 20, "shown": 0, "read_share": 1.0, "shown_share": 0.0}
    assert (three.unread, three.unshown, three.shown_share) == ([], [], 1.0)
    assert not hasattr(two, "unread")
    assert repr(three) == "<coverage: 3 of 3 characters read, 3 of 3 characters shown to sub-models>"
    assert repr(found).endswith("shown to sub-models; more than that may have been>")


def endings(channel: Channel, body_bytes_max: int = BODY_MAX) -> Endings:
    channel.cell = 1
    return Endings(channel, lambda: {"found": [1, 2]}, lambda: None, body_bytes_max=body_bytes_max)


@pytest.mark.parametrize(
    ("value", "form", "body"),
    [
        ("text \ud800", "text", b"text ?"),
        ({"ü": [1, None]}, "json", '{"ü": [1, null]}'.encode()),
        ({1, 2} - {1}, "json", b"[2]"),
        (12, "json", b"12"),
    ],
)
def test_an_answer_is_text_or_json(value: object, form: str, body: bytes) -> None:
    with wired(silent) as (channel, host), pytest.raises(Ended):
        endings(channel).final(value)
    assert host.frames == [Frame(Final(1, form), body)]  # type: ignore[arg-type]


def test_the_other_endings() -> None:
    with wired(silent) as (channel, host):
        ends = endings(channel)
        ends.after_cell()
        with pytest.raises(NameError, match="there are: found"):
            ends.final_var("lost")
        ends.namespace["found"] = [1, 2]
        with pytest.raises(Ended):
            ends.final_var(" 'found' ")
        with pytest.raises(Ended):
            ends.submit(a=1)
        ends.answer.update(content="c", ready=True)
        with pytest.raises(Ended):
            ends.after_cell()
    assert [frame.body for frame in host.frames] == [b"[1, 2]", b'{"a": 1}', b"c"]


def test_a_body_that_is_not_bytes_is_not_sent() -> None:
    class Evil(bytes):
        def __len__(self) -> int:
            raise AssertionError("asked")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours.fileno())
        for body in (Evil(b"x"), bytearray(b"x"), "x"):
            with pytest.raises(TypeError, match="must be bytes"):
                channel.send({"op": "final", "cell": 1, "form": "text"}, body)  # type: ignore[arg-type]
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
