"""The states of a box, its cell and the host's turn, and what moves them: one table, which broker and box both ask.

Three state machines run side by side. The *box* starts, listens and ends; the *cell* is idle, runs, and ends by its
`Done`, by an answer, or with its box; the *turn* says whether the host may order the next cell. An event moves the
machines that it concerns, and then the state of one may move another: a box that ends takes its running cell along, an
answer ends its box, and after that there are no more turns. Nothing here waits, reads a clock or sends. The caller
reports each event with `on`; if the event must not happen now, `on` changes nothing and raises `ProtocolViolation`,
which names the state and the message. A request at the wrong time is not a violation, since a thread that a cell left
behind may ask at any time: it is refused (`serves`), and the box goes on.

    box    STARTING -> LISTENING -> ANSWERED | THROUGH | ENDED -> DEAD
                   \\-> DYING ----------------------------------/
    cell   IDLE <-> RUNNING <-> CHECKING -> ANSWERED
                   \\-> STOPPING -> IDLE,  both -> LOST -> IDLE
    turn   FREE -> TAKEN -> DUE -> FREE | SPENT
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final as Const

from belljar.errors import ProtocolViolation
from belljar.protocol import (
    Budget,
    Clock,
    Coverage,
    Done,
    Final,
    GuestMessage,
    Output,
    Query,
    Read,
    Ready,
    Recurse,
    Search,
)

__all__ = [
    "BOX",
    "BOX_BY_CELL",
    "CELL",
    "CELL_BY_BOX",
    "DYING",
    "EVENT_OF",
    "FINISHED",
    "OPEN",
    "SERVED",
    "TURN",
    "TURN_BY_BOX",
    "BoxState",
    "CellState",
    "Event",
    "States",
    "TurnState",
]


class _Named(Enum):
    """Hashed as objects: `Enum` hashes the names of its members in Python, which costs three times the table itself.

    An event then takes 3 µs instead of 1; an empty cell has some five, and its goal is 0.1 ms.
    """

    __hash__ = object.__hash__


class BoxState(_Named):
    """The state of the box as a whole."""

    STARTING = "starting"  # its agent has not said Ready; the first order may be on its way
    LISTENING = "listening"  # what it says counts, and it can be interrupted
    DYING = "dying"  # its wire ended by itself, and it is being killed; why it ended is not known yet
    ANSWERED = "answered"  # it has given the answer
    THROUGH = "through"  # its last cell is over: it is asked for its usage, and nothing it says or meets counts
    ENDED = "ended"  # it has a verdict
    DEAD = "dead"  # it is being killed, or was; nothing more can happen to it


class CellState(_Named):
    """The state of the cell that began last."""

    IDLE = "idle"  # none has begun yet, or it is over
    RUNNING = "running"
    STOPPING = "stopping"  # it was cut short and may go on for its grace period: it can neither answer nor ask a model
    CHECKING = "giving its answer"  # it came in time and is being checked, however long that takes
    LOST = "lost"  # its box ended before it did, and its end is not in the log yet
    ANSWERED = "answered"


class TurnState(_Named):
    """Whether the host may give the next order."""

    FREE = "free"
    TAKEN = "taken"  # a cell was ordered and is not over
    DUE = "due"  # it is over, and its result is still to be made
    SPENT = "spent"  # there are no more turns


class Event(_Named):
    """What moves them: the guest's messages, and what the host does."""

    READY = "Ready"
    OUTPUT = "Output"
    CLOCK = "Clock"
    READ = "Read"
    SEARCH = "Search"
    BUDGET = "Budget"
    COVERAGE = "Coverage"
    QUERY = "Query"
    RECURSE = "Recurse"
    DONE = "Done"
    FINAL = "Final"  # before the cell's deadline
    LATE_FINAL = "late Final"
    BEGIN = "beginning of a cell"
    CUT = "cutting short"
    ACCEPT = "acceptance of the answer"
    RESUME = "going on after an answer"
    REJECT = "rejection of the answer"
    BURY = "log of a lost cell"
    ORDER = "order"
    OVER = "end of a cell"
    LAST_OVER = "end of the last cell"
    RESULT = "result"
    END = "verdict"
    KILL = "kill"


_REQUESTS: Const = frozenset({Event.READ, Event.SEARCH, Event.BUDGET, Event.COVERAGE, Event.QUERY, Event.RECURSE})
# Legal once the box is ready, and without effect on it: the cell's own table says what they do to the cell.
_SAID: Const = _REQUESTS | {Event.OUTPUT, Event.CLOCK, Event.DONE, Event.FINAL, Event.LATE_FINAL}


def _heard(state: BoxState) -> dict[Event, BoxState]:
    return dict.fromkeys(_SAID, state)


# Event-triggered transitions of each machine, by its state. An event that is missing in a row must not happen in that
# state; an event that is in no row does not concern the machine.
BOX: Const[dict[BoxState, dict[Event, BoxState]]] = {
    BoxState.STARTING: {
        Event.READY: BoxState.LISTENING,
        Event.BEGIN: BoxState.STARTING,
        Event.END: BoxState.ENDED,
        Event.KILL: BoxState.DYING,
    },
    BoxState.LISTENING: {
        **_heard(BoxState.LISTENING),
        Event.BEGIN: BoxState.LISTENING,
        Event.LAST_OVER: BoxState.THROUGH,
        Event.END: BoxState.ENDED,
        Event.KILL: BoxState.DYING,
    },
    BoxState.DYING: {  # what it said before is still read, and the next cell learns the verdict
        **_heard(BoxState.DYING),
        Event.BEGIN: BoxState.DYING,
        Event.LAST_OVER: BoxState.DEAD,
        Event.END: BoxState.DEAD,
        Event.KILL: BoxState.DYING,
    },
    BoxState.ANSWERED: {**_heard(BoxState.ANSWERED), Event.END: BoxState.ANSWERED, Event.KILL: BoxState.DEAD},
    BoxState.THROUGH: {**_heard(BoxState.THROUGH), Event.END: BoxState.THROUGH, Event.KILL: BoxState.DEAD},
    BoxState.ENDED: {**_heard(BoxState.ENDED), Event.END: BoxState.ENDED, Event.KILL: BoxState.DEAD},
    BoxState.DEAD: {**_heard(BoxState.DEAD), Event.END: BoxState.DEAD, Event.KILL: BoxState.DEAD},
}
CELL: Const[dict[CellState, dict[Event, CellState]]] = {
    CellState.IDLE: {
        Event.BEGIN: CellState.RUNNING,
        Event.CUT: CellState.IDLE,
        Event.OVER: CellState.IDLE,
        Event.LAST_OVER: CellState.IDLE,
    },
    CellState.RUNNING: {
        Event.DONE: CellState.IDLE,
        Event.FINAL: CellState.CHECKING,
        Event.LATE_FINAL: CellState.RUNNING,
        Event.ORDER: CellState.RUNNING,
        Event.CUT: CellState.STOPPING,
    },
    CellState.STOPPING: {
        Event.DONE: CellState.IDLE,
        Event.FINAL: CellState.STOPPING,
        Event.LATE_FINAL: CellState.STOPPING,
        Event.CUT: CellState.STOPPING,
    },
    CellState.CHECKING: {
        Event.CUT: CellState.CHECKING,  # the answer came before
        Event.ACCEPT: CellState.ANSWERED,
        Event.RESUME: CellState.RUNNING,  # it does not end the run
        Event.REJECT: CellState.STOPPING,  # the box is ended for it
    },
    CellState.LOST: {  # messages that were being handled when the box ended
        Event.DONE: CellState.IDLE,
        Event.FINAL: CellState.LOST,
        Event.LATE_FINAL: CellState.LOST,
        Event.CUT: CellState.LOST,
        Event.BURY: CellState.IDLE,
    },
    CellState.ANSWERED: {Event.CUT: CellState.ANSWERED},
}
TURN: Const[dict[TurnState, dict[Event, TurnState]]] = {
    TurnState.FREE: {Event.ORDER: TurnState.TAKEN},
    TurnState.TAKEN: {Event.OVER: TurnState.DUE, Event.LAST_OVER: TurnState.DUE},
    TurnState.DUE: {Event.RESULT: TurnState.FREE},
    TurnState.SPENT: {},
}

# The box has no verdict and no answer: how it ends is open, and what it says counts.
OPEN: Const = frozenset({BoxState.STARTING, BoxState.LISTENING, BoxState.DYING})
# No further cell can run.
FINISHED: Const = frozenset({BoxState.ANSWERED, BoxState.ENDED, BoxState.DEAD})
# The sandbox is releasing what it holds: it is neither asked nor told anything.
DYING: Const = frozenset({BoxState.DYING, BoxState.DEAD})

# State-triggered transitions: how the state of the first moves the second.
BOX_BY_CELL: Const[dict[tuple[CellState, BoxState], BoxState]] = {
    (CellState.ANSWERED, BoxState.LISTENING): BoxState.ANSWERED,
    (CellState.ANSWERED, BoxState.DYING): BoxState.DEAD,
}
CELL_BY_BOX: Const[dict[tuple[BoxState, CellState], CellState]] = {
    (box, cell): CellState.LOST
    for box in (BoxState.ENDED, BoxState.DEAD)
    for cell in (CellState.RUNNING, CellState.STOPPING)
}
TURN_BY_BOX: Const[dict[tuple[BoxState, TurnState], TurnState]] = {
    **{(box, TurnState.TAKEN): TurnState.DUE for box in FINISHED},
    **{(box, TurnState.FREE): TurnState.SPENT for box in {*FINISHED, BoxState.THROUGH}},
}

# What a cell may ask for. Any other request is refused, but is not a violation.
SERVED: Const[dict[CellState, frozenset[Event]]] = {
    **dict.fromkeys(CellState, frozenset()),
    CellState.RUNNING: _REQUESTS,
    CellState.CHECKING: _REQUESTS,
    CellState.STOPPING: _REQUESTS - {Event.QUERY, Event.RECURSE},
}

EVENT_OF: Const[dict[type[GuestMessage], Event]] = {
    Ready: Event.READY,
    Output: Event.OUTPUT,
    Clock: Event.CLOCK,
    Read: Event.READ,
    Search: Event.SEARCH,
    Budget: Event.BUDGET,
    Coverage: Event.COVERAGE,
    Query: Event.QUERY,
    Recurse: Event.RECURSE,
    Done: Event.DONE,
    Final: Event.FINAL,
}

_OF_BOX: Const = frozenset().union(*BOX.values())
_OF_CELL: Const = frozenset().union(*CELL.values())
_OF_TURN: Const = frozenset().union(*TURN.values())


class States:
    """The states of one box. `told` is called after each change of any of them."""

    def __init__(self) -> None:
        self.box = BoxState.STARTING
        self.cell = CellState.IDLE
        self.turn = TurnState.FREE
        self.told: Callable[[], None] = lambda: None

    def on(self, event: Event) -> None:
        """Report an event.

        Raises:
            ProtocolViolation: it must not happen in the present state. Nothing has changed.
        """
        self.check(event)
        before = self.box, self.cell, self.turn
        self.box = BOX[self.box].get(event, self.box)
        self.cell = CELL[self.cell].get(event, self.cell)
        self.turn = TURN[self.turn].get(event, self.turn)
        if before != (self.box, self.cell, self.turn):
            self._pull_along()
            self.told()

    def check(self, event: Event) -> None:
        """Raise as `on` would, and change nothing."""
        if (refusing := self._refusing(event)) is not None:
            raise ProtocolViolation(f"{event.value} while the {refusing}")

    def allows(self, event: Event) -> bool:
        """Whether `on` would accept it."""
        return self._refusing(event) is None

    def serves(self, request: Event) -> bool:
        """Whether the cell may ask for this now."""
        return request in SERVED[self.cell]

    def _refusing(self, event: Event) -> str | None:
        if event in _OF_BOX and event not in BOX[self.box]:
            return f"box was {self.box.value}"
        if event in _OF_CELL and event not in CELL[self.cell]:
            return f"cell was {self.cell.value}"
        if event in _OF_TURN and event not in TURN[self.turn]:
            return f"turn was {self.turn.value}"
        return None

    def _pull_along(self) -> None:
        """The state-triggered transitions, in the order in which they can follow from each other."""
        self.box = BOX_BY_CELL.get((self.cell, self.box), self.box)
        self.cell = CELL_BY_BOX.get((self.box, self.cell), self.cell)
        self.turn = TURN_BY_BOX.get((self.box, self.turn), self.turn)
