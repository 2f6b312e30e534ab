"""What became of an order that has ended without a result, as the error that whoever waits for it is told."""

from __future__ import annotations

from belljar.errors import BelljarError, HostFault, QuotaExceeded, Refusal
from belljar.jobs import OrderState
from belljar.jobs.orders import REFUSED

__all__ = ["unanswered"]

# Refusals whose reason is what the operator set up; whoever asks can do nothing about it.
_OF_THE_OPERATOR = ("LayerMissing", "InvalidPolicy")


def unanswered(state: OrderState) -> BelljarError:
    """Why there is no result: it was cancelled before its turn, could not start, or the service stops.

    A quota that refused the start may be that of a level above, so its numbers are left out.
    """
    kind, why = "", f"the run {state.run} is {state.state}"
    if state.error is not None:
        kind, why = state.error.type, state.error.message
    if state.state == "host_fault" or (state.state == REFUSED and kind in _OF_THE_OPERATOR):
        return HostFault(why)
    if kind == "QuotaExceeded":
        return QuotaExceeded(
            f"a quota has nothing left for the run {state.run}: see the quotas",
            code="run.quota" if state.limit is None else state.limit.code,
        )
    return Refusal(why, code=f"run.{state.state}")
