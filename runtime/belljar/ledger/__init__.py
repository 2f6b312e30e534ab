"""Quotas: reserve before the spend, settle after. `base` says what is promised, `sqlite` keeps it in one file."""

from belljar.ledger.base import (
    DIMENSIONS,
    USED_UP,
    Abandoned,
    Amounts,
    Balance,
    Ledger,
    Limits,
    Period,
    Remaining,
    period_key,
    run_account,
    tenant_accounts,
)
from belljar.ledger.sqlite import SqliteLedger

__all__ = [
    "DIMENSIONS",
    "USED_UP",
    "Abandoned",
    "Amounts",
    "Balance",
    "Ledger",
    "Limits",
    "Period",
    "Remaining",
    "SqliteLedger",
    "period_key",
    "run_account",
    "tenant_accounts",
]
