"""What all requests together may take up of something, and how much of that one tenant may.

Each request has its own bounds. But a tenant that sends many at once, and takes its time with each, would have all the
memory, or all the threads. So what is scarce is counted: who finds no room is refused at once, and may try again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from belljar.identity import Tenant
from belljar.jobs import Busy

__all__ = ["Places", "Room"]

_AGAIN_S: Final = 5.0
_CROWDED_AGAIN_S: Final = 1.0


class Room:
    """So much of something. A tenant, with all below it, has at most a part; so has the whole host's own.

    Args:
        total: how much there is; None where something else bounds that.
        each: how much of it one may have.
        what: what it is, in the plural.
    """

    def __init__(self, total: int | None, each: int, what: str) -> None:
        self.total: Final = total
        self.each: Final = each
        self._what = what
        self._taken = 0
        self._of: dict[str, int] = {}

    @property
    def taken(self) -> int:
        return self._taken

    def take(self, tenant: Tenant | None, count: int = 1) -> None:
        """Take some more.

        Raises:
            Busy: there is no room for it.
        """
        whose = _whose(tenant)
        mine = self._of.get(whose, 0) + count
        if mine > self.each or (self.total is not None and self._taken + count > self.total):
            raise self._full(whose)
        self._of[whose] = mine
        self._taken += count

    def _full(self, _whose: str) -> Busy:
        return Busy(
            f"too many {self._what} are under way: try again in {_AGAIN_S:.0f} s",
            code="service.busy",
            retry_after_s=_AGAIN_S,
        )

    def leave(self, tenant: Tenant | None, count: int = 1) -> None:
        """Give some back."""
        whose = _whose(tenant)
        self._taken -= count
        self._of[whose] -= count
        if not self._of[whose]:
            del self._of[whose]

    @contextlib.contextmanager
    def held(self, tenant: Tenant | None) -> Iterator[None]:
        """Have a place for the length of a block. Raises as `take`."""
        self.take(tenant)
        try:
            yield
        finally:
            self.leave(tenant)


class Places(Room):
    """Of requests under way, whose number the server bounds: a tenant has half of the connections at most.

    So whoever follows a thousand runs keeps no other tenant out.
    """

    def __init__(self, connections: int) -> None:
        super().__init__(None, max(1, connections // 2), "requests")

    def _full(self, whose: str) -> Busy:
        return Busy(
            f"{whose} has {self.each} requests under way: end some of them, or try again later",
            code="requests.tenant",
            retry_after_s=_CROWDED_AGAIN_S,
        )


def _whose(tenant: Tenant | None) -> str:
    return "" if tenant is None else tenant.levels[0]
