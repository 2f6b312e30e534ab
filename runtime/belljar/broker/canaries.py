"""Texts that are not to turn up (`models.canaries`): planted where no honest program finds or repeats them.

Four places are looked at: what a program sends to a model or host tool, what comes back (a root model's replies, too),
the answer that counts, and a cell's output, its traceback included. What is found is a record in the
log, once for each cell, place and text, so that a program that repeats one does not fill the log. The record has the
text's number in the policy's list and never the text. With `on_canary = "end"` the run ends then and there, as denied:
what was looked at is not sent, given to the program or counted as an answer. The refusal is none that the program hears
of, so whoever turns refusals into replies lets it through (`ends_run`).

Output comes in pieces, and a text may be cut between two. So with each piece the end of what came before is looked at
again, one byte less than the longest text has. One search looks for all texts; only where it finds something does it
matter which. Above a size it is done off the event loop (`heavy`), and RE2 leaves the interpreter to other threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, TypeAlias

from belljar.audit import AuditLog
from belljar.audit.events import CanarySeen
from belljar.broker.run import RunScope
from belljar.errors import PolicyDenied, Refusal
from belljar.heavy import bytes_of, off_loop
from belljar.policy import Expression, any_text, forms_of

__all__ = ["Canaries", "Place", "ends_run"]

Place: TypeAlias = Literal["prompt", "reply", "answer", "output"]


def ends_run(refusal: Refusal) -> bool:
    """Whether the refusal is not for the program to hear: its run ends by it."""
    return refusal.code == "models.on_canary"


class Canaries:
    """What one run's policy watches for."""

    def __init__(self, scope: RunScope, audit: AuditLog) -> None:
        self._scope = scope
        self._audit = audit
        self._texts = texts = scope.policy.models.canaries
        self._ends = scope.policy.models.on_canary == "end"
        self._any = any_text(texts) if texts else None
        self._tail_bytes = max((len(form.encode()) for text in texts for form in forms_of(text)), default=1) - 1
        # The last cell in which each was seen, by place and number.
        self._seen: dict[tuple[Place, int], int] = {}
        # The cell that printed last, and how each of its streams ends so far.
        self._before: tuple[int, dict[str, bytes]] = (0, {})

    @cached_property
    def _each(self) -> list[Expression]:
        return [any_text([text]) for text in self._texts]

    async def look(self, place: Place, texts: Sequence[bytes | memoryview | str], cell: int) -> None:
        """Log which of them these texts have.

        Raises:
            PolicyDenied: `models.on_canary`: they have one, and the policy says that this ends the run.
        """
        if self._any is None:
            return
        found = await off_loop(sum(map(len, texts)), self._found, self._any, texts)
        # Two requests may be looked at side by side: nothing is awaited before all of it is marked as seen.
        new = [number for number in found if self._seen.get((place, number), -1) < cell]
        self._seen.update({(place, number): cell for number in new})
        for number in new:
            await self._audit.note(self._scope.run, CanarySeen(cell=cell, place=place, canary=number))
        if found and self._ends:
            raise PolicyDenied(
                f"a text that the policy watches for turned up (models.canaries, number {found[0]}: {place}), "
                "which ends the run: find out where it came from before you run it again",
                code="models.on_canary",
            )

    async def look_at_output(self, stream: str, piece: bytes, cell: int) -> None:
        """The same of the next piece of what a cell prints."""
        if self._any is None:
            return
        if self._before[0] != cell:
            self._before = (cell, {})
        text = self._before[1].get(stream, b"") + piece
        self._before[1][stream] = text[max(len(text) - self._tail_bytes, 0) :]
        await self.look("output", [text], cell)

    def _found(self, anything: Expression, texts: Sequence[bytes | memoryview | str]) -> list[int]:
        """The numbers of what is in them."""
        views = [memoryview(bytes_of(text) if isinstance(text, str) else text) for text in texts]
        having = [view for view in views if anything.search(view)]
        return (
            [number for number, one in enumerate(self._each, start=1) if any(map(one.search, having))] if having else []
        )
