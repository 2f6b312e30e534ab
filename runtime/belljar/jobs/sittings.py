"""Sessions that a service has open: each is a session of the host, used by one request at a time, closed when idle."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from belljar.engine import Result
from belljar.errors import HostFault, InvalidInput, PolicyDenied, Refusal
from belljar.host import Host, Ticket
from belljar.identity import Tenant
from belljar.jobs.orders import REFUSED, RUNNING, AskedSession, Busy, DeskLimits, NoSuchSession, SessionState
from belljar.jobs.work import Work, fault_of
from belljar.policy import Policy
from belljar.sessions import Session
from belljar.tasks import to_the_end

__all__ = ["Sittings"]

_T = TypeVar("_T")
_BUSY_AGAIN_S: Final = 1.0
_FULL_AGAIN_S: Final = 30.0


class _Sitting:
    def __init__(self, work: Work, asked: AskedSession) -> None:
        self.work = work
        self.asked = asked
        self.opening: contextlib.AbstractAsyncContextManager[Session] | None = None
        self.session: Session | None = None
        self.used_ns = time.time_ns()
        self.used_at = asyncio.get_running_loop().time()
        self.is_busy = True
        self.closing: asyncio.Task[Result] | None = None


class Sittings:
    """The open ones of this process.

    Args:
        keep: is given each one that has ended.
        told: makes of a run's result what is told outside; `folders` are paths that no error names.
    """

    def __init__(
        self,
        host: Host,
        limits: DeskLimits,
        keep: Callable[[Work], None],
        told: Callable[[str, Result], Result],
        folders: Sequence[str],
    ) -> None:
        self._host = host
        self._limits = limits
        self._keep = keep
        self._told = told
        self._folders = folders
        self._open: dict[str, _Sitting] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, session: str) -> bool:
        return session in self._open

    def check_room(self, tenant: Tenant) -> None:
        """Raises Busy. A tenant below another may have half as many as that one, as in the queue."""
        if len(self._open) >= self._limits.sessions:
            raise _full("sessions.full", "all tenants", self._limits.sessions, len(self._open) + 1)
        for depth, level in enumerate(tenant.levels):
            limit = self._limits.sessions_per_tenant >> depth or min(1, self._limits.sessions_per_tenant)
            count = sum(1 for one in self._open.values() if level in one.work.tenant.levels)
            if count >= limit:
                raise _full("sessions.tenant", f"tenant {level}", limit, count + 1)

    async def open(self, work: Work, asked: AskedSession, policy: str | Policy) -> SessionState:
        """Raises as `Host.session`."""
        self.check_room(work.tenant)
        sitting = self._open[work.run] = _Sitting(work, asked)
        sitting.opening = self._host.ordered_session(
            Ticket(run=work.run, by=work.by, feed=work.hub),
            contexts=work.sources,
            model=asked.model,
            sub_model=asked.sub_model,
            tenant=work.tenant,
            policy=policy,
            backend=asked.backend,
            language=asked.language,
        )
        work.state, work.started_ns = RUNNING, time.time_ns()
        try:
            sitting.session = await sitting.opening.__aenter__()
        except BaseException as error:
            del self._open[work.run]
            if isinstance(error, Refusal | HostFault):
                work.error = fault_of(error, self._folders)
            work.over(REFUSED if isinstance(error, Refusal) else "host_fault")
            raise
        self._used(sitting)
        return self.state(work.run)

    def state(self, session: str) -> SessionState:
        sitting = self._find(session)
        work, asked = sitting.work, sitting.asked
        return SessionState(
            session=str(work.run),
            tenant=str(work.tenant),
            by=work.by,
            policy=asked.policy,
            model=asked.model,
            sub_model=asked.sub_model,
            opened_ns=work.asked_ns,
            used_ns=sitting.used_ns,
            busy=sitting.is_busy,
            idle_s_max=self._limits.session_idle_s,
        )

    def ls(self, tenant: Tenant | None) -> list[SessionState]:
        wanted = (one.work for one in self._open.values() if tenant is None or tenant in one.work.tenant.levels)
        return [self.state(work.run) for work in wanted]

    async def use(self, session: str, do: Callable[[Session], Awaitable[_T]]) -> _T:
        """One thing at a time. Where that finds the session ended, it is closed."""
        sitting = self._find(session)
        if sitting.is_busy or sitting.session is None:
            raise Busy(
                "the session is at work: wait for it, or close it", code="session.busy", retry_after_s=_BUSY_AGAIN_S
            )
        sitting.is_busy = True
        try:
            return await do(sitting.session)
        except PolicyDenied as refusal:
            if refusal.code == "session.ended":
                await to_the_end(self.close(session))
            raise
        finally:
            self._used(sitting)

    def _used(self, sitting: _Sitting) -> None:
        sitting.is_busy = False
        sitting.used_ns, sitting.used_at = time.time_ns(), asyncio.get_running_loop().time()

    def idle(self) -> list[str]:
        """Those that nobody has used for too long."""
        before = asyncio.get_running_loop().time() - self._limits.session_idle_s
        return [run for run, one in self._open.items() if not one.is_busy and one.used_at < before]

    async def close(self, session: str) -> Result:
        """End it, whatever it does; whoever closes it at the same time gets the same result.

        Raises:
            NoSuchSession: it is not open here.
            HostFault: its end could not be written.
        """
        sitting = self._find(session)
        if sitting.closing is None:
            sitting.closing = asyncio.create_task(self._close(sitting))
        return await asyncio.shield(sitting.closing)

    async def _close(self, sitting: _Sitting) -> Result:
        work = sitting.work
        try:
            while sitting.session is None:  # it is just being opened
                await asyncio.sleep(_BUSY_AGAIN_S / 10)
                if work.run not in self._open:
                    raise NoSuchSession(work.run)
            if sitting.is_busy:
                with contextlib.suppress(InvalidInput):  # it has just ended
                    await self._host.cancel(work.run)
            assert sitting.opening is not None
            await sitting.opening.__aexit__(None, None, None)
        finally:
            self._open.pop(work.run, None)
            if not work.done.is_set():
                result = None if sitting.session is None else sitting.session.result
                work.result = None if result is None else self._told(work.run, result)
                work.over("host_fault" if work.result is None else work.result.status)
                self._keep(work)
        assert work.result is not None, "it was closed"
        return work.result

    async def drain(self, deadline_s: float) -> None:
        """Close those that nobody uses now, the others when they are through, or at the deadline."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        while self._open:
            over = asyncio.get_running_loop().time() >= deadline
            ending = [run for run, one in self._open.items() if over or not one.is_busy]
            await asyncio.gather(*map(self.close, ending), return_exceptions=True)
            if not ending:
                await asyncio.sleep(0.05)

    def _find(self, session: str) -> _Sitting:
        if (sitting := self._open.get(session)) is None:
            raise NoSuchSession(session)
        return sitting


def _full(code: str, whose: str, limit: int, observed: int) -> Busy:
    return Busy(
        f"{whose} may have {limit} sessions open at a time: close one, or try again later",
        code=code,
        retry_after_s=_FULL_AGAIN_S,
        limit=limit,
        observed=observed,
    )
