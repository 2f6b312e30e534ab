"""Whether the log and the ledger say the same of what each run was charged.

The outcome of a call and its settlement are written in one transaction, so for each run the usage in the log's records
is the sum of what the ledger has settled, at every moment of one snapshot. What was read and what a box used are apart:
they are settled in portions that have no record.

Of runs with a reservation that an older version made nothing can be said: it wrote the two one after the other. Those
reservations know their day alone. Nor of runs that the ledger does not know, by the log alone: an older one may have
had its ledger elsewhere. Who knows that there was one asks for them (`unknown`).
"""

from __future__ import annotations

from typing import Final

from belljar.audit.events import AmountsData, Event, QueryCompleted, QueryFailed, RunAbandoned
from belljar.journal import Ask

__all__ = ["CHARGING", "Charges"]

# The events that say what something cost.
CHARGING: Final = frozenset({QueryCompleted.name, QueryFailed.name, RunAbandoned.name})
_COMPARED: Final = ("calls", "input_tokens", "output_tokens", "cost_nanousd")
_DAY_CHARS: Final = len("2026-11-23")

_SUMS: Final = ", ".join(f"coalesce(sum(CASE WHEN state = 'settled' THEN actual_{name} END), 0)" for name in _COMPARED)
_SETTLED: Final = f"SELECT run, min(length(made_at)), {_SUMS} FROM reservations GROUP BY run"  # noqa: S608


class Charges:
    """The usage of each run, from its records; `feed` takes them one by one."""

    def __init__(self) -> None:
        self._of_run: dict[str, tuple[int, ...]] = {}

    def feed(self, run: str, event: Event) -> None:
        match event:
            case QueryCompleted() | QueryFailed():
                self._add(run, event)
            case RunAbandoned():
                self._add(run, event.charged)
            case _:
                pass

    def _add(self, run: str, amounts: QueryCompleted | QueryFailed | AmountsData) -> None:
        more = (amounts.calls, amounts.input_tokens, amounts.output_tokens, amounts.cost_nanousd)
        if before := self._of_run.get(run):
            more = tuple(map(sum, zip(before, more, strict=True)))  # type: ignore[assignment]
        self._of_run[run] = more

    def unknown(self, ask: Ask) -> list[str]:
        """The runs that were charged something in the log, and that the ledger does not know."""
        known = {run for (run,) in ask("SELECT run FROM runs")}
        return sorted(run for run, said in self._of_run.items() if any(said) and run not in known)

    def differences(self, ask: Ask) -> list[str]:
        """Compare with the ledger, in the snapshot that the records are of: one line for each run that differs."""
        nothing = (0,) * len(_COMPARED)
        settled = {row[0]: row[1:] for row in ask(_SETTLED)}
        found = []
        for (run,) in ask("SELECT run FROM runs ORDER BY run"):
            chars, *charged = settled.get(run, (None, *nothing))
            said = self._of_run.get(run, nothing)
            if tuple(charged) != said and (chars is None or chars > _DAY_CHARS):
                found.append(_line(run, said, charged))
        return found


def _line(run: str, said: tuple[int, ...], charged: list[int]) -> str:
    parts = [
        f"{here} {name} in the log and {there} in the ledger"
        for name, here, there in zip(_COMPARED, said, charged, strict=True)
        if here != there
    ]
    return f"run {run[:80]!a} was charged {', '.join(parts)}"
