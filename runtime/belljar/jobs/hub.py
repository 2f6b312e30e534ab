"""What one run does, for any number of listeners, who may come late, go, and come again.

    run, children ── Telling ──▶ Hub: the latest events, each with an id ──▶ a listener's own loop, at its own pace
                                                                        ╰──▶ ... a thousand of them

Theory of operation. An id grows from event to event, and says of which record of the log the event was made::

    id = seq of the record · 2^20 + n       n counts what came since that record and is in no record: turns, output

So an id means the same in every process: where the events of a run are made from its log once more (`following`), they
have the ids that they had, and a listener that comes again with the last one that it saw goes on behind it. Another
host that writes in the same moment may push a record to a larger number than the one that was told here; then a
listener that changes its process there sees an event twice, and never misses one that is in the log.

Events are kept once, in a ring that is bounded by what is in them. A listener is no more than its place in that ring:
nothing is copied for it, nothing waits for it, and no task is its own. Whoever falls behind the ring's beginning gets a
`MissedEvent` with the number of those that are gone. All who wait are woken by one event object, and a new one is made.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator
from typing import Final

from belljar.streaming import EVENT_CHARS, MissedEvent, StreamEvent, Telling

__all__ = ["SEQ_BITS", "Hub", "id_of"]

SEQ_BITS: Final = 20
# The ring is cut in steps: to remove its first event alone would move all others.
_CUT: Final = 256
# So many events are given before others have the loop: a listener that comes late has thousands to catch up with.
_AT_ONCE: Final = 200


def id_of(seq: int) -> int:
    """The id of the event that is made of a record."""
    return seq << SEQ_BITS


class Hub(Telling):
    """The latest events of a run.

    Args:
        chars_max: for the texts in them, each counted with as much again as an event takes.
    """

    def __init__(self, chars_max: int) -> None:
        super().__init__()
        self._chars_max = chars_max
        self._ids: list[int] = []
        self._events: list[tuple[StreamEvent, int]] = []
        self._chars = 0
        self._first = 0  # in the two lists; what is before it is gone
        self._gone = 0  # how many are gone, from the beginning on
        self._last_id = 0
        # Of the last event that is gone; 0 if none is.
        self.gone_id = 0
        self._more = asyncio.Event()
        self.closed = False
        self.listeners = 0

    @property
    def chars(self) -> int:
        """About how much memory its events take up."""
        return self._chars

    def put(self, event: StreamEvent, chars: int, seq: int = 0) -> None:
        """Tell all listeners of an event."""
        chars += EVENT_CHARS
        self._last_id = max(self._last_id + 1, id_of(seq))
        self._ids.append(self._last_id)
        self._events.append((event, chars))
        self._chars += chars
        while self._chars > self._chars_max and self._first < len(self._ids) - 1:
            self._chars -= self._events[self._first][1]
            self.gone_id = self._ids[self._first]
            self._first += 1
            self._gone += 1
        if self._first >= _CUT:
            del self._ids[: self._first], self._events[: self._first]
            self._first = 0
        self._wake()

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def listen(self, after: int | None = None) -> AsyncGenerator[tuple[int, StreamEvent], None]:
        """The events behind the one with the id `after`, or all that are kept; then those to come, until `close`."""
        self.listeners += 1
        last, seen = (0, 0) if after is None else (after, self._count(self._place(after)))
        given = 0
        try:
            while True:
                place = self._place(last)
                if (missed := self._count(place) - seen) > 0:
                    seen, last = seen + missed, self._ids[place] - 1
                    yield last, MissedEvent(missed)
                elif place < len(self._ids):
                    seen, last = seen + 1, self._ids[place]
                    yield last, self._events[place][0]
                    given += 1
                    if given % _AT_ONCE == 0:
                        await asyncio.sleep(0)
                elif self.closed:
                    return
                else:
                    await self._more.wait()
        finally:
            self.listeners -= 1

    def _place(self, last: int) -> int:
        """Where the first event behind this id is in the lists, of those that are kept."""
        return max(self._first, bisect_right(self._ids, last))

    def _count(self, place: int) -> int:
        """How many events there were before this place."""
        return self._gone + place - self._first
