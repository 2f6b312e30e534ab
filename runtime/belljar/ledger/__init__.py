"""Quotas: reserve before the spend, settle after. `base` says what is promised, `sqlite` keeps it in one file."""

from belljar.ledger.base import (
    AMOUNT_MAX,
    DIMENSIONS,
    NOTHING,
    USED_UP,
    Abandoned,
    Amounts,
    Balance,
    Ledger,
    Limits,
    Period,
    Remaining,
    Room,
    period_key,
    run_account,
)
from belljar.ledger.sqlite import SqliteLedger

__all__ = [
    "AMOUNT_MAX",
    "DIMENSIONS",
    "NOTHING",
    "USED_UP",
    "Abandoned",
    "Amounts",
    "Balance",
    "Ledger",
    "Limits",
    "Period",
    "Remaining",
    "Room",
    "SqliteLedger",
    "period_key",
    "run_account",
]
