"""A run as the answer to a conversation: ordered, followed, and ended when its caller goes away."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import msgspec

from belljar.engine import Result
from belljar.errors import AccessDenied, HostFault, InvalidInput, ModelFailed, PolicyDenied, QuotaExceeded, Refusal
from belljar.heavy import SLICE_BYTES, off_loop
from belljar.jobs import OrderState
from belljar.service.front.asked import Said, asked
from belljar.service.front.offered import no_model, offered, profile_of
from belljar.service.listening import heard
from belljar.service.outcomes import unanswered
from belljar.service.routes import Asking
from belljar.service.scopes import ended, proof_of
from belljar.streaming import CellEvent, ChildEvent, QueryEvent, ResultEvent, StreamEvent, TurnEvent

__all__ = ["answer_of", "begun", "finished", "progress", "split", "told"]


async def begun(asking: Asking[Any, Any], model: str, read: Callable[[], tuple[str, Sequence[Said]]]) -> str:
    """Order the run that a conversation is, for the caller's own tenant; its id.

    Args:
        model: as the caller names it.
        read: gives what is said to the system, and the conversation; of many pieces it takes a while.

    Raises:
        InvalidInput: `front.model`, `front.question`; as `read`.
        Refusal, HostFault: as `Desk.submit`.
    """
    tenant = asking.named(None)
    profile = profile_of(asking.service, model, tenant)
    idem = asking.request.headers.get("idempotency-key", "")
    order = await off_loop(asking.held_bytes, lambda: asked(profile, *read()))
    try:
        made = await asking.desk.submit(order, tenant=tenant, by=asking.by, idem=idem, caller=asking.caller)
    except InvalidInput as error:
        if error.code != "model.unknown" or model in offered(asking.service, tenant):
            raise
        raise no_model(asking.service, model, tenant) from error  # the caller's own name: as the provider would say it
    if made.made != "known":  # there is nothing else that counts it
        asking.let_go()  # the queue counts it now
    asking.about = made.run
    return made.run


async def finished(asking: Asking[Any, Any], run: str) -> Result:
    """The result, once there is one. A caller who goes away meanwhile ends the run.

    Raises: what `ended` and `answer_of` raise.
    """
    state = await ended(asking, run)
    if state.is_open:
        state = await asking.desk.cancel(run, by=asking.by)
    return _result(state)


def _result(state: OrderState) -> Result:
    if state.result is not None:
        answer_of(state.result)
        return state.result
    raise unanswered(state)


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


async def told(asking: Asking[Any, Any], run: str) -> AsyncGenerator[StreamEvent | None, None]:
    """What the run does, and None as a sign of life. Whoever stops listening before its end ends it.

    Raises:
        AccessDenied: the key was revoked meanwhile, or the token has expired. The run goes on.
        BelljarError: as `finished`, where no result comes.
    """
    events, over = heard(asking.desk.events(run), proof_of(asking), asking.service.stopping), False
    try:
        async for event in events:
            if event is None:
                yield None
                continue
            over = isinstance(event[1], ResultEvent)
            yield event[1]
        if not over:
            over = True
            raise unanswered(await asking.desk.get(run))
    except AccessDenied:
        over = True
        raise
    finally:
        if not over:  # whoever left is not waited for: here, everything that waits is cancelled again and again
            asking.desk.give_up(run, by=asking.by)
        await events.aclose()


def split(text: str) -> Iterator[str]:
    """An answer in pieces, each of which is encoded in no time; there is at least one."""
    yield text[:SLICE_BYTES]
    for start in range(SLICE_BYTES, len(text), SLICE_BYTES):
        yield text[start : start + SLICE_BYTES]


def progress(event: StreamEvent | None) -> str | None:
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
