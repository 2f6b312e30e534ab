"""A run as the answer to a conversation: ordered, followed, and ended when its caller goes away."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from belljar.engine import Result
from belljar.errors import BelljarError, HostFault, ModelFailed, PolicyDenied, QuotaExceeded, Refusal
from belljar.jobs import Asked, OrderState
from belljar.service.routes import Asking
from belljar.streaming import CellEvent, ChildEvent, QueryEvent, ResultEvent, StreamEvent, TurnEvent

__all__ = ["answer_of", "finished", "ordered", "progress", "told"]

_LOOK_S: Final = 2.0


async def ordered(asking: Asking[Any, Any], asked: Asked) -> str:
    """Order the run for the caller's own tenant; its id."""
    idem = asking.request.headers.get("idempotency-key", "")
    tenant, caller = asking.named(None), asking.caller
    order = await asking.desk.submit(asked, tenant=tenant, by=asking.by, idem=idem, caller=caller)
    asking.about = order.run
    return order.run


async def finished(asking: Asking[Any, Any], run: str) -> Result:
    """The result, once there is one. A caller who goes away meanwhile ends the run.

    Raises: what `answer_of` raises.
    """
    while (state := await asking.desk.wait(run, _LOOK_S)).is_open:
        if await asking.request.is_disconnected():
            state = await asking.desk.cancel(run, by=asking.by)
            break
    return _result(state)


def _result(state: OrderState) -> Result:
    if state.result is not None:
        answer_of(state.result)
        return state.result
    why = state.error.message if state.error is not None else f"the run {state.run} is {state.state}"
    raise Refusal(why, code=f"run.{state.state}")


def answer_of(result: Result) -> str:
    """The answer as a text.

    Raises:
        QuotaExceeded, PolicyDenied, ModelFailed, HostFault, Refusal: there is none; the status says whose fault it is.
    """
    if result.status == "ok" and result.given is not None:
        given = result.given
        return given if isinstance(given, str) else msgspec.json.format(bytes(given), indent=0).decode()
    why = result.error.message if result.error is not None else f"the run ended with {result.status}"
    if result.status == "quota":
        raise QuotaExceeded(why, code="run.quota")
    if result.status == "denied":
        raise PolicyDenied(why, code="run.denied")
    if result.status == "model_failed":
        raise ModelFailed(why)
    if result.status == "host_fault":
        raise HostFault(why)
    raise Refusal(f"{result.status}: {why}"[:2000], code=f"run.{result.status}")


async def told(asking: Asking[Any, Any], run: str) -> AsyncGenerator[StreamEvent, None]:
    """What the run does. Whoever stops listening before its end ends it."""
    events, over = asking.desk.events(run), False
    try:
        async for _, event in events:
            over = isinstance(event, ResultEvent)
            yield event
    finally:
        await events.aclose()
        if not over:
            with contextlib.suppress(BelljarError):
                await asking.desk.cancel(run, by=asking.by)


def progress(event: StreamEvent) -> str | None:
    """A line about what happens, for whoever waits; never what a context or a model said."""
    match event:
        case TurnEvent():
            return f"Turn {event.turn.number} is over.\n"
        case CellEvent(status=None):
            return f"Cell {event.cell} runs.\n"
        case QueryEvent(state="asked", purpose="sub"):
            return f"{event.model} is asked.\n"
        case ChildEvent(status=None):
            return "A child run begins.\n"
        case _:
            return None
