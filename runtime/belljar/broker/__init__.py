"""The broker: the only place where a guest's words become actions. See `broker.broker` for the rules it keeps."""

from __future__ import annotations

from belljar.broker.broker import Broker, Reply
from belljar.broker.calls import Calls, Spent
from belljar.broker.cell import Cell
from belljar.broker.meter import Meter
from belljar.broker.querying import Outcome, Text
from belljar.broker.recursing import Child
from belljar.broker.reuse import Reuse
from belljar.broker.run import RunScope

__all__ = ["Broker", "Calls", "Cell", "Child", "Meter", "Outcome", "Reply", "Reuse", "RunScope", "Spent", "Text"]
