"""A run's identity, time and tasks: kept in the host's memory only, never read from a frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from belljar.broker.keeping import Keeper
from belljar.errors import PolicyDenied
from belljar.identity import RunId, Tenant
from belljar.policy import Policy
from belljar.tasks import Nursery

__all__ = ["RunScope"]


class RunScope(msgspec.Struct, frozen=True, kw_only=True):
    """`tasks` owns everything that runs beside the run's main line.

    `deadline` is on the monotonic clock `monotonic`, in seconds; `now` is wall time since the epoch. `bound_s` is how
    long the run was allowed to take where that is less than its policy's limit, as for a child. `clocks` has what its
    cells read of clocks when they were recorded, by their numbers, if this is a replay.
    """

    run: RunId
    tenant: Tenant
    policy: Policy
    deadline: float
    tasks: Nursery
    keeper: Keeper = msgspec.field(default_factory=Keeper.of_nothing)
    bound_s: float | None = None
    clocks: Mapping[int, bytes] = {}
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def left_s(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.deadline - self.monotonic()

    def time_up(self) -> PolicyDenied:
        """The refusal when the deadline has passed: `limits.run_wall`, with the limit and the time used."""
        bound_s = self.policy.limits.run_wall_s if self.bound_s is None else self.bound_s
        used_s = bound_s - self.left_s()
        return PolicyDenied(
            f"the run's time is up after {used_s:.1f} s: allow it more, or ask for less",
            code="limits.run_wall",
            limit=round(bound_s * 1000),
            observed=round(used_s * 1000),
        )
