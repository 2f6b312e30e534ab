"""The desk of a service: what stands between whoever asks over a network and the host that runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Self

from belljar.engine import AskResult, CellResult, Result
from belljar.host import Host
from belljar.identity import Tenant
from belljar.jobs.orders import Asked, AskedSession, DeskLimits, Order, OrderState, Page, SessionState
from belljar.policy import Policy
from belljar.streaming import StreamEvent

__all__ = ["Desk"]


class Desk:
    """Takes orders for one open host. One per process, used in `async with`, inside the host's own block.

    Args:
        policies: what a policy's name means besides presets; a name that it does not know is refused.
    """

    def __init__(
        self, host: Host, limits: DeskLimits | None = None, *, policies: Mapping[str, Policy] | None = None
    ) -> None:
        self.host = host
        self.policies = dict(policies or {})
        self.limits = limits or DeskLimits()

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(self, *_: object) -> None:
        raise NotImplementedError

    async def submit(self, asked: Asked, *, tenant: Tenant, by: str, idem: str = "") -> Order:
        """Take an order: durable when this returns, and begun when its turn comes.

        Args:
            by: who asks, as the log names him.
            idem: a key under which the same request makes one run, however often it comes; "" for none.

        Raises:
            Busy: its queue is full, or the desk is draining.
            IdempotencyConflict: the key was used for another request.
            InvalidInput, InvalidPolicy, PolicyDenied: it cannot be run as it is.
            QuotaExceeded: nothing is left for it.
            HostFault: the log or the ledger does not work.
        """
        raise NotImplementedError

    async def get(self, run: str) -> OrderState:
        """A run, and its result once it has ended. Raises NoSuchRun."""
        raise NotImplementedError

    async def wait(self, run: str, timeout_s: float) -> OrderState:
        """As `get`, when it has ended or after `timeout_s` seconds, whichever comes first."""
        raise NotImplementedError

    async def ls(
        self,
        tenant: Tenant | None,
        *,
        status: str | None = None,
        model: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Runs of a tenant and those below it, or of all (None), the latest first; no child runs.

        Raises:
            InvalidInput: `page.cursor`, `page.limit`.
        """
        raise NotImplementedError

    async def cancel(self, run: str, *, by: str) -> OrderState:
        """End a run that waits or runs, here or in another process, which hears of it within a second or two.

        One that has ended stays as it is. Raises NoSuchRun.
        """
        raise NotImplementedError

    def events(self, run: str, after: int | None = None) -> AsyncGenerator[tuple[int, StreamEvent], None]:
        """What a run does, each event with an id that grows; those behind `after`, or all that is still known.

        The last event is a `ResultEvent`, which carries the largest id; then it ends. Whoever takes too long misses
        events, and is told how many. Raises NoSuchRun at the first step.
        """
        raise NotImplementedError

    async def open_session(self, asked: AskedSession, *, tenant: Tenant, by: str) -> SessionState:
        """Raises as `submit`; `Busy` where too many are open."""
        raise NotImplementedError

    def session(self, session: str) -> SessionState:
        """Raises NoSuchSession."""
        raise NotImplementedError

    def sessions(self, tenant: Tenant | None) -> list[SessionState]:
        """Those of a tenant and below it, or all, that are open in this process."""
        raise NotImplementedError

    async def execute(self, session: str, code: str, *, timeout_s: float | None = None) -> CellResult:
        """One cell. Raises NoSuchSession; Busy (`session.busy`) while another is under way; as `Session.execute`."""
        raise NotImplementedError

    async def ask(self, session: str, question: str, *, answer_schema: dict[str, Any] | None = None) -> AskResult:
        """One question. Raises as `execute`, and as `Session.ask`."""
        raise NotImplementedError

    async def close_session(self, session: str) -> Result:
        """End it. Its result is also what `get` gives. Raises NoSuchSession."""
        raise NotImplementedError

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more, let what runs end for so many seconds, then kill it; what waits is interrupted."""
        raise NotImplementedError

    async def recover(self) -> int:
        """Orders whose process is dead are interrupted. Returns how many; called at the start and each half minute."""
        raise NotImplementedError

    @property
    def is_draining(self) -> bool:
        raise NotImplementedError

    def load(self) -> dict[str, int]:
        """For metrics: `running`, `queued`, `slots`, `sessions`, `listeners`."""
        raise NotImplementedError

    def on_end(self, tell: Callable[[OrderState], None]) -> None:
        """Call `tell` with each run that ends here; a plain function that does not wait."""
        raise NotImplementedError
