"""The table of states, gone through whole: where each event leads, what is refused, what can never come together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from belljar.errors import PolicyDenied, ProtocolViolation
from belljar.protocol import (
    PROTOCOL,
    Answers,
    Budget,
    Clock,
    Coverage,
    Covered,
    Data,
    Done,
    Final,
    GuestMessage,
    Left,
    Output,
    Query,
    Read,
    Ready,
    Recurse,
    Refused,
)
from belljar.states import (
    BOX,
    CELL,
    EVENT_OF,
    FINISHED,
    OPEN,
    TURN,
    BoxState,
    CellState,
    Event,
    States,
    TurnState,
)
from belljar.testing import FakeModel
from tests.unit.broker_fakes import World, drive, world

Triple = tuple[BoxState, CellState, TurnState]
TABLES: dict[str, Mapping[Any, Mapping[Event, Any]]] = {"box": BOX, "cell": CELL, "turn": TURN}


def at(triple: Triple) -> States:
    states = States()
    states.box, states.cell, states.turn = triple
    return states


def where(states: States) -> Triple:
    return states.box, states.cell, states.turn


def moves(triple: Triple) -> Iterator[tuple[Event, Triple]]:
    for event in Event:
        states = at(triple)
        if states.allows(event):
            states.on(event)
            yield event, where(states)


def paths() -> dict[Triple, tuple[Event, ...]]:
    """All that can be reached from the start, each by a shortest way."""
    found: dict[Triple, tuple[Event, ...]] = {where(States()): ()}
    line = [*found]
    for triple in line:
        for event, there in moves(triple):
            if there not in found:
                found[there] = (*found[triple], event)
                line.append(there)
    return found


PATHS = paths()
# Where the others may take one in the same step.
_PULLED: dict[Any, Any] = {
    BoxState.LISTENING: BoxState.ANSWERED,
    BoxState.DYING: BoxState.DEAD,
    CellState.RUNNING: CellState.LOST,
    CellState.STOPPING: CellState.LOST,
    TurnState.TAKEN: TurnState.DUE,
    TurnState.FREE: TurnState.SPENT,
}


@pytest.mark.parametrize("name", TABLES)
def test_each_event_in_each_state_leads_where_the_table_says_or_is_refused(name: str) -> None:
    table = TABLES[name]
    alphabet = {event for row in table.values() for event in row}
    # Whatever the other two are in: an event is refused if one of those that it concerns refuses it.
    for triple in itertools.product(BoxState, CellState, TurnState):
        rows: dict[str, Mapping[Event, Any]] = {"box": BOX[triple[0]], "cell": CELL[triple[1]], "turn": TURN[triple[2]]}
        for event in alphabet:
            states = at(triple)
            if event in rows[name]:
                continue
            assert not states.allows(event)
            with pytest.raises(ProtocolViolation) as caught:
                states.on(event)
            assert where(states) == triple
            assert str(caught.value).startswith(f"{event.value} while the ")
            assert any(str(caught.value).endswith(f" was {state.value}") for state in triple)
    for triple, path in PATHS.items():
        for event, there in moves(triple):
            own = dict(zip(TABLES, triple, strict=True))[name]
            stated = table[own].get(event, own)
            pulled = dict(zip(TABLES, there, strict=True))[name]
            assert pulled in (stated, _PULLED.get(stated)), (path, event)


def test_every_state_can_be_reached_and_three_are_for_good() -> None:
    assert {box for box, _, _ in PATHS} == {*BoxState}
    assert {cell for _, cell, _ in PATHS} == {*CellState}
    assert {turn for _, _, turn in PATHS} == {*TurnState}
    for triple in PATHS:
        for _, there in moves(triple):
            for last in (BoxState.DEAD, CellState.ANSWERED, TurnState.SPENT):
                assert last not in triple or last in there
    assert set(BOX[BoxState.DEAD].values()) == {BoxState.DEAD}
    assert set(CELL[CellState.ANSWERED].values()) == {CellState.ANSWERED}
    assert set(TURN[TurnState.SPENT].values()) == set()


def test_wherever_three_of_them_can_come_together_the_rules_hold() -> None:
    for triple in PATHS:
        box, cell, turn = triple
        # A box that has come to its end has no cell that goes on, and nobody waits for one of it.
        assert box in OPEN or cell not in (CellState.RUNNING, CellState.STOPPING)
        assert box not in FINISHED or turn in (TurnState.DUE, TurnState.SPENT)
        # An answer is the end of its box: it gets no verdict, unless that was there before the answer was checked.
        assert cell is not CellState.ANSWERED or box in FINISHED
        assert box is not BoxState.ANSWERED or cell is CellState.ANSWERED
        for event, there in moves(triple):
            assert box in OPEN or there[0] not in OPEN
            assert box is not BoxState.STARTING or event not in EVENT_OF.values() or event is Event.READY
            assert (box, there[0]) != (BoxState.ANSWERED, BoxState.ENDED)
            assert box in OPEN or event not in (Event.BEGIN, Event.ORDER)
            # Only a cell that runs gives an answer that counts, and one that is cut short never.
            assert there[1] is not CellState.CHECKING or cell in (CellState.RUNNING, CellState.CHECKING)


def test_whoever_waits_is_told_of_each_change_and_of_nothing_else() -> None:
    told: list[Triple] = []
    states = States()
    states.told = lambda: told.append(where(states))
    for event in (Event.READY, Event.BEGIN, Event.ORDER, Event.OUTPUT, Event.LATE_FINAL, Event.END, Event.END):
        states.on(event)
    assert told == [
        (BoxState.LISTENING, CellState.IDLE, TurnState.FREE),
        (BoxState.LISTENING, CellState.RUNNING, TurnState.FREE),
        (BoxState.LISTENING, CellState.RUNNING, TurnState.TAKEN),
        (BoxState.ENDED, CellState.LOST, TurnState.DUE),
    ]


# --------------------------------------------------------------------------------------------- against the broker

SAID: dict[Event, tuple[GuestMessage, bytes]] = {
    Event.READY: (Ready(PROTOCOL, "3.11"), b""),
    Event.OUTPUT: (Output(1, "stdout"), b"x"),
    Event.CLOCK: (Clock(1), bytes(9)),
    Event.READ: (Read(1, 0, 0, 1, 0), b""),
    Event.BUDGET: (Budget(2), b""),
    Event.COVERAGE: (Coverage(5), b""),
    Event.QUERY: (Query(3, None, [1]), b"x"),
    Event.RECURSE: (Recurse(4, None, [1], []), b"x"),
    Event.FINAL: (Final(1, "text"), b"x"),
    Event.LATE_FINAL: (Final(1, "text"), b"x"),
    Event.DONE: (Done(1, "ok", None), b""),
}


async def do(here: World, event: Event) -> None:
    """Let something happen that moves the broker's states, the broker doing what it has to."""
    if event is Event.BEGIN:
        await here.broker.begin("pass")
    elif event is Event.CUT:
        here.broker.cut_short("timeout")
    elif event is Event.BURY:
        await here.broker.lost("killed")
    elif event in (Event.END, Event.KILL):
        here.broker.states.on(event)
    else:
        await say(here, event)


async def say(here: World, event: Event) -> object:
    if event is Event.LATE_FINAL:
        assert here.broker.cell is not None
        here.clock.now = max(here.clock.now, here.broker.cell.deadline)
    said = await here.say(*SAID[event])
    return None if said is None else type(said[0])


def driven() -> dict[Triple, tuple[Event, ...]]:
    """What the broker can be brought to by itself: no turn, of one cell; and an answer is never seen half checked."""
    mine = {*SAID, Event.BEGIN, Event.CUT, Event.BURY, Event.END, Event.KILL}
    return {
        triple: path
        for triple, path in PATHS.items()
        if path.count(Event.BEGIN) <= 1 and triple[1] is not CellState.CHECKING and {*path} <= {*mine, Event.ACCEPT}
    }


@pytest.mark.parametrize("path", driven().values(), ids=lambda path: " ".join(event.name for event in path) or "START")
def test_the_broker_does_what_the_table_says_wherever_it_stands(tmp_path: Path, path: tuple[Event, ...]) -> None:
    async def test() -> None:
        left = [*SAID]
        while left:  # one world as long as nothing moves
            folder = tmp_path / str(len(left))
            folder.mkdir()
            async with world(folder, texts=["abc"], model=FakeModel()) as here:
                for event in path:
                    if event is not Event.ACCEPT:  # which its answer brings with it
                        await do(here, event)
                while left and await one(here, left.pop(0)):
                    pass

    async def one(here: World, event: Event) -> bool:
        """Whether everything is where it was."""
        states = here.broker.states
        before = where(states)
        foreseen = at(before)
        of_a_cell = event in (Event.OUTPUT, Event.CLOCK, Event.LATE_FINAL)
        if here.broker.cell is None and of_a_cell and foreseen.allows(event):
            return True  # of a cell that has not begun, which is another matter
        try:
            foreseen.on(event)
        except ProtocolViolation as violation:
            with pytest.raises(ProtocolViolation, match=str(violation).removeprefix("late ")):
                await here.say(*SAID[event])
            assert where(states) == before
            return True
        if foreseen.cell is CellState.CHECKING:
            foreseen.on(Event.ACCEPT)
        said = await say(here, event)
        served = {Event.READ: Data, Event.BUDGET: Left, Event.COVERAGE: Covered, Event.RECURSE: Answers}
        if event in served:
            assert said is (served[event] if states.serves(event) else Refused)
        assert where(states) == where(foreseen)
        return where(states) == before

    drive(test())


def test_no_cell_begins_where_the_table_has_none(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            for state, code in ((CellState.RUNNING, "cell.running"), (CellState.LOST, "session.ended")):
                if state is CellState.LOST:
                    here.broker.states.on(Event.END)
                with pytest.raises(PolicyDenied) as caught:
                    await here.broker.begin("pass")
                assert caught.value.code == code
            await here.broker.lost("killed")

    drive(test())
