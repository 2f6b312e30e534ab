"""The guest's end of the wire: blocking, callable from any thread, using only the standard library.

One descriptor, frames of ``u32 header length, u32 body length, header, body`` (see `belljar.wire` for the host's end).
Headers are JSON in the canonical form that the host insists on: fields in declared order, no spaces.

Nobody reads in the background. A thread that waits for a frame reads the stream itself, if no other thread does; it
keeps frames for others and wakes them. So a single thread pays no thread switch, and many threads share one stream::

    thread A   request 7 -> reads: Data 8 (kept for B, B woken), Data 7 (its own) -> returns, passes on the reading
    thread B   request 8 -> waits -> woken, finds Data 8 -> returns

Interrupts. The host ends an overlong cell with SIGINT, which may arrive anywhere, even between reading bytes and
storing them: then the stream would be out of step for ever. So the main thread is *shielded* while it works on the
stream, and open to the interrupt only where nothing can be lost: in `poll`, before any byte is read, and, while it
waits for another thread, between two short waits (never inside one: `threading` would lose track of its own locks). An
interrupt that meets the shield is kept and raised at the next open place. The reply to an interrupted request no longer
has an owner and is dropped.
"""

from __future__ import annotations

import collections
import json
import os
import select
import struct
import sys
import threading
from collections.abc import Callable

# The kernel's own: those of the module are the program's, which notes what it reads.
from time import perf_counter
from typing import Any

__all__ = ["Channel", "Closed"]

Frame = tuple[dict[str, Any], bytes]

_PREFIX = struct.Struct("!II")
_PIECE_BYTES = 1 << 20
# Frames without an id are the host's commands; requests count from 1.
_COMMAND = 0
# How late an interrupt may be while the main thread waits for another thread; a wake-up costs a few microseconds.
_INTERRUPT_SECONDS = 0.05
# A sleeping core takes about 30 µs to wake, a third of the shortest round trip. So after a reply that came faster than
# this, the thread spins for the next one, but no longer than this; waiting for a model costs nothing.
_SPIN_SECONDS = 0.0003
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


class Closed(BaseException):
    """The host hung up: there is nothing left to do but end."""


class Channel:
    """Requests out, replies in, over a socket, or over a pipe each way when `writing` is another descriptor."""

    def __init__(self, descriptor: int, writing: int | None = None) -> None:
        self._reading_fd = descriptor
        self._writing_fd = descriptor if writing is None else writing
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._write_lock = threading.Lock()
        self._turn = threading.Condition()
        self._reading = False
        self._quick = False
        self._inbox: dict[int, Frame] = {}
        self._waiting: set[int] = set()
        self._last_id = 0
        self._queue: collections.deque[object] = collections.deque()
        self._in_flight = 0
        self._in_flight_max = 1
        self._held_bytes = 0
        self._held_bytes_max = sys.maxsize
        self._found_bytes_max = 0
        self._main = threading.get_ident()
        # The number of the cell that runs, or ran last. Messages that belong to a cell carry it.
        self.cell = 0
        # Gives what the program has read of the clocks: it is sent with whatever is sent next.
        self.readings: Callable[[], bytes] = bytes
        self._shielded = False
        self._interrupted = False

    def limit_in_flight(self, requests: int, held_bytes: int = sys.maxsize, found_bytes: int = 0) -> None:
        """Allow at most so many requests under way; further threads wait their turn.

        Those requests may not hold more than `held_bytes` on the host, unless there is only one: each holds its body, a
        search also `found_bytes`. They wait here because a host without room would have to stop reading.
        """
        self._in_flight_max = requests
        self._held_bytes_max = held_bytes
        self._found_bytes_max = found_bytes

    def interrupt(self) -> None:
        """For the SIGINT handler: raise now if nothing can be lost, else at the next open place."""
        if self._shielded:
            self._interrupted = True
        else:
            raise KeyboardInterrupt

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Write one frame. The fields of `header` are in the protocol's order, `op` first."""
        if type(body) is not bytes:  # a value that only claims to be could write any frame
            raise TypeError(f"the body of a frame must be bytes, not {type(body).__name__}")
        text = _dumps(header).encode("utf-8", "replace")
        was = self._shield(True)
        try:
            with self._write_lock:
                start = self._clock() + _PREFIX.pack(len(text), len(body)) + text
                self._write(start + (body if len(body) < 65536 else b""))
                if len(body) >= 65536:
                    self._write(body)
        finally:
            self._shield(was)

    def _clock(self) -> bytes:
        """A frame of its own with what was read, if anything was."""
        body = self.readings()
        if not body:
            return b""
        text = _dumps({"op": "clock", "cell": self.cell}).encode()
        return _PREFIX.pack(len(text), len(body)) + text + body

    def request(self, op: str, fields: dict[str, Any], body: bytes = b"") -> Frame:
        """Send a request, wait for its reply: `(header, body)`."""
        was = self._shield(True)
        weight = len(body) + (self._found_bytes_max if op == "search" else 0)
        try:
            with self._turn:
                self._take_slot(weight)
                self._last_id += 1
                number = self._last_id
                self._waiting.add(number)
            try:
                self.send({"op": op, "id": number, **fields}, body)
                return self._await(number)
            finally:
                with self._turn:
                    self._in_flight -= 1
                    self._held_bytes -= weight
                    self._waiting.discard(number)
                    self._inbox.pop(number, None)
                    self._turn.notify_all()
        finally:
            self._shield(was)

    def command(self) -> Frame:
        """Wait for the host's next command."""
        was = self._shield(True)
        try:
            self._waiting.add(_COMMAND)
            return self._await(_COMMAND)
        finally:
            self._shield(was)

    def _take_slot(self, weight: int) -> None:
        """Wait until another request may be under way, first come, first served."""
        ticket = object()
        self._queue.append(ticket)
        try:
            while self._queue[0] is not ticket or not self._room(weight):
                self._wait_turn()
            self._in_flight += 1
            self._held_bytes += weight
        finally:
            self._queue.remove(ticket)
            if self._queue:
                self._turn.notify_all()

    def _room(self, weight: int) -> bool:
        if self._in_flight == 0:
            return True
        return self._in_flight < self._in_flight_max and self._held_bytes + weight <= self._held_bytes_max

    def _await(self, number: int) -> Frame:
        while True:
            with self._turn:
                while number not in self._inbox and self._reading:
                    self._wait_turn()
                if number in self._inbox:
                    return self._inbox.pop(number)
                self._reading = True
            try:
                self._poll_open()
                header, body = self._read_frame()
                owner = header.get("id", _COMMAND)
                if owner == number:
                    return header, body
                with self._turn:
                    if owner in self._waiting:
                        self._inbox[owner] = (header, body)
            finally:
                with self._turn:
                    self._reading = False
                    self._turn.notify_all()

    def _shield(self, on: bool) -> bool:
        """Set the shield, only in the main thread; return what it was. Taking it off raises a kept interrupt."""
        if threading.get_ident() != self._main:
            return False
        was, self._shielded = self._shielded, on
        if not on and self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
        return was

    def _wait_turn(self) -> None:
        """Wait for news from another thread. Called and left with the lock of `_turn` held."""
        if threading.get_ident() != self._main:
            self._turn.wait()
            return
        self._turn.wait(_INTERRUPT_SECONDS)
        try:
            self._shield(False)
        finally:
            self._shield(True)

    def _poll_open(self) -> None:
        """Wait for bytes, open to the interrupt."""
        try:
            self._shield(False)
            began = perf_counter()
            if self._quick:
                while not self._poll.poll(0) and perf_counter() - began < _SPIN_SECONDS:
                    pass
            self._poll.poll()
            self._quick = perf_counter() - began < _SPIN_SECONDS
        finally:
            self._shield(True)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._writing_fd, view) :]
        except OSError:
            raise Closed from None

    def _read_frame(self) -> Frame:
        header_bytes, body_bytes = _PREFIX.unpack(self._read(_PREFIX.size))
        header = json.loads(self._read(header_bytes))
        return header, self._read(body_bytes)

    def _read(self, size: int) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            try:
                piece = os.read(self._reading_fd, min(missing, _PIECE_BYTES))
            except OSError:
                raise Closed from None
            if not piece:
                raise Closed
            parts.append(piece)
            missing -= len(piece)
        return b"".join(parts)
