"""Quotas: reserve before the spend, settle after.

`base` says what is promised, `accounts` has the rules, `ledger` applies them to a journal.
"""

from belljar.journal.tables import DIMENSIONS
from belljar.ledger.base import (
    AMOUNT_MAX,
    NOTHING,
    USED_UP,
    Abandoned,
    Amounts,
    Balance,
    Limits,
    Period,
    Remaining,
    Room,
    period_key,
    run_account,
)
from belljar.ledger.ledger import Ledger

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
    "period_key",
    "run_account",
]
