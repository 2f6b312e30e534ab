"""Quotas: reserve before the spend, settle after.

`base` says what is promised, `accounts` has the rules, `ledger` applies them to a journal; `reading` tells people.
"""

from belljar.journal.tables import AT_ONCE, DIMENSIONS, GAUGES, LIMITED
from belljar.ledger.accounts import check as check_books
from belljar.ledger.base import (
    AMOUNT_MAX,
    NOTHING,
    PERIODS,
    USED_UP,
    Abandoned,
    Amounts,
    Balance,
    Changes,
    Limits,
    Period,
    Remaining,
    Room,
    beyond,
    period_end,
    period_key,
    plus,
    run_account,
)
from belljar.ledger.ledger import LOOK_S, BoxIds, Ledger
from belljar.ledger.reading import Choice, Place, Quota, Span, Used, context_limits, history, limits_of, overage, quotas

__all__ = [
    "AMOUNT_MAX",
    "AT_ONCE",
    "DIMENSIONS",
    "GAUGES",
    "LIMITED",
    "LOOK_S",
    "NOTHING",
    "PERIODS",
    "USED_UP",
    "Abandoned",
    "Amounts",
    "Balance",
    "BoxIds",
    "Changes",
    "Choice",
    "Ledger",
    "Limits",
    "Period",
    "Place",
    "Quota",
    "Remaining",
    "Room",
    "Span",
    "Used",
    "beyond",
    "check_books",
    "context_limits",
    "history",
    "limits_of",
    "overage",
    "period_end",
    "period_key",
    "plus",
    "quotas",
    "run_account",
]
