"""Runs that a service is asked for: admitted, queued in fair turns, run, watched, found again."""

from belljar.jobs.desk import Desk
from belljar.jobs.orders import (
    Asked,
    AskedAgain,
    AskedSession,
    Busy,
    Context,
    DeskLimits,
    IdempotencyConflict,
    JsonContext,
    NoSuchRun,
    NoSuchSession,
    Order,
    OrderState,
    Page,
    RegisteredContext,
    RunState,
    SessionState,
    TextContext,
)

__all__ = [
    "Asked",
    "AskedAgain",
    "AskedSession",
    "Busy",
    "Context",
    "Desk",
    "DeskLimits",
    "IdempotencyConflict",
    "JsonContext",
    "NoSuchRun",
    "NoSuchSession",
    "Order",
    "OrderState",
    "Page",
    "RegisteredContext",
    "RunState",
    "SessionState",
    "TextContext",
]
