"""An interrupt ends the cell that it was sent for, however early or late it comes, and no other."""

from __future__ import annotations

import types
from typing import Any

import pytest

from belljar.protocol import Done
from guest.agent.loop import Agent
from tests.unit.test_guest_wire import wired

# What happens in a box, in this order: an order for the next cell, which may say that the one before was sent an
# interrupt; "!" is an interrupt that comes between two cells, "x = 1" a cell's source, and RAISES is one that comes in
# the middle of it.
RAISES = "interrupt()"
ORDER, ORDER_AFTER = "order", "order after an interrupt"
Story = list[str]


def told(story: Story) -> list[str]:
    """The statuses of the cells."""
    with wired(lambda _: None) as (channel, host):
        agent = Agent(channel)

        def interrupt() -> None:
            agent._on_interrupt(2, None)

        agent._globals = {"interrupt": interrupt}
        endings: Any = types.SimpleNamespace(after_cell=lambda: None, after_a_failure=lambda: None)
        agent._endings = endings
        number = 0
        for step in story:
            match step:
                case "!":
                    interrupt()
                case _ if step in (ORDER, ORDER_AFTER):
                    number += 1
                    agent._begin(number, interrupted=step == ORDER_AFTER)
                case _:
                    agent._cell(number, step)
    return [frame.message.status for frame in host.frames if isinstance(frame.message, Done)]


@pytest.mark.parametrize(
    ("story", "statuses"),
    [
        ([ORDER, RAISES], ["interrupted"]),
        ([ORDER, RAISES, ORDER_AFTER, "x = 1", ORDER, "x = 1"], ["interrupted", "ok", "ok"]),
        # Early: the order has just been given.
        (["!", ORDER, "x = 1", ORDER_AFTER, "x = 1"], ["interrupted", "ok"]),
        ([ORDER, "!", "x = 1", ORDER_AFTER, "x = 1"], ["interrupted", "ok"]),
        ([ORDER, "x = 1", "!", ORDER, "x = 1", ORDER_AFTER, "x = 1"], ["ok", "interrupted", "ok"]),
        # Late: it was sent for a cell that was over when it came.
        ([ORDER, "x = 1", "!", ORDER_AFTER, "x = 1", ORDER, "x = 1"], ["ok", "ok", "ok"]),
        ([ORDER, "x = 1", ORDER_AFTER, "!", "x = 1", ORDER, "x = 1"], ["ok", "ok", "ok"]),
        ([ORDER, "x = 1", ORDER_AFTER, RAISES, ORDER, "x = 1"], ["ok", "ok", "ok"]),
        ([ORDER, "x = 1", ORDER_AFTER, "x = 1", "!", ORDER, RAISES], ["ok", "ok", "interrupted"]),
        # One late and one early.
        ([ORDER, "x = 1", ORDER_AFTER, "!", "!", "x = 1", ORDER_AFTER, "x = 1"], ["ok", "interrupted", "ok"]),
        ([ORDER, "x = 1", ORDER_AFTER, f"{RAISES}\n{RAISES}"], ["ok", "interrupted"]),
    ],
    ids=str,
)
def test_an_interrupt_ends_the_cell_that_it_was_sent_for(story: Story, statuses: list[str]) -> None:
    assert told(story) == statuses
