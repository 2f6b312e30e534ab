"""A bounded queue in which tenants take turns. It touches no clock, task or thread: the desk asks it what is next.

Theory of operation. Tenants are a tree, and so is the queue. At each level those who have something waiting stand in a
ring; `take` follows the ring's first from level to level, down to an order, and everybody it came by goes to the end of
its ring. So siblings get every other turn whatever each has waiting, and a tenant that spreads its orders over a
thousand tenants below it gets no more turns than one that does not::

    acme ─┬─ acme itself     a1 a2 a3
          ├─ acme/alice      b1 b2            turns: c1 a1 c2 b1 ... as `other` and `acme` alternate,
    other ┴─ other itself    c1 c2 c3         and in acme's turns acme itself and acme/alice

Whoever comes new into a ring stands at its end, so its first order waits for one turn of each other. A node that has
nothing waiting is gone.

What may wait is bounded in all, by number and by bytes, and of each tenant, with those below it. A tenant below another
may take up half of what that one may, so that it cannot keep its siblings out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

from belljar.identity import Tenant

__all__ = ["FairQueue", "Full"]

_T = TypeVar("_T")


class Full(NamedTuple):
    """Why there is no room: whose bound was met (`tenant`, None for that of all), and which."""

    tenant: Tenant | None
    what: str
    limit: int
    observed: int


class _Node(Generic[_T]):
    """One level of a tenant: what waits for itself, and who waits below it. `ring` has "" for itself."""

    __slots__ = ("below", "count", "own", "ring")

    def __init__(self) -> None:
        self.count = 0
        self.own: OrderedDict[str, _T] = OrderedDict()
        self.below: dict[str, _Node[_T]] = {}
        self.ring: OrderedDict[str, None] = OrderedDict()


class _Waiting(NamedTuple):
    tenant: Tenant
    size: int


class FairQueue(Generic[_T]):
    """What waits, by key.

    Args:
        count_max: how many may wait, of all tenants.
        tenant_max: of one tenant, with those below it; half as many for each level that is above it.
        bytes_max: the sizes of all that waits.
    """

    def __init__(self, *, count_max: int, tenant_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._tenant_max = tenant_max
        self._bytes_max = bytes_max
        self._root: _Node[_T] = _Node()
        self._waiting: dict[str, _Waiting] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: str) -> bool:
        return key in self._waiting

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def waiting(self, tenant: Tenant) -> int:
        """How many orders of this tenant and those below it wait."""
        node = self._find(tenant)
        return 0 if node is None else node.count

    def firsts(self) -> dict[str, int]:
        """How many orders wait of each tenant of the first level, and those below it."""
        return {name: node.count for name, node in self._root.below.items()}

    def full(self, tenant: Tenant, size: int) -> Full | None:
        """Why an order of this size has no room; None if it has."""
        if len(self._waiting) >= self._count_max:
            return Full(None, "orders", self._count_max, len(self._waiting) + 1)
        if self._bytes + size > self._bytes_max:
            return Full(None, "bytes", self._bytes_max, self._bytes + size)
        node: _Node[_T] | None = self._root
        for depth, level in enumerate(tenant.levels):
            node = node.below.get(_name(level)) if node is not None else None
            if node is None:
                return None
            limit = max(1, self._tenant_max >> depth)
            if node.count >= limit:
                return Full(level, "orders", limit, node.count + 1)
        return None

    def put(self, key: str, tenant: Tenant, item: _T, size: int) -> None:
        """Let an order wait, behind those of its tenant. Whether there is room, the caller has asked (`full`)."""
        assert key not in self._waiting, "it waits already"
        node = self._root
        node.count += 1
        for level in tenant.levels:
            name = _name(level)
            node.ring.setdefault(name)
            node = node.below.setdefault(name, _Node())
            node.count += 1
        node.ring.setdefault("")
        node.own[key] = item
        self._waiting[key] = _Waiting(tenant, size)
        self._bytes += size

    def take(self) -> _T | None:
        """The order whose turn it is; None if none waits."""
        node = self._root
        if not node.count:
            return None
        while (name := next(iter(node.ring))) != "":
            node.ring.move_to_end(name)
            node = node.below[name]
        node.ring.move_to_end("")
        return self.remove(next(iter(node.own)))

    def remove(self, key: str) -> _T:
        """Take one out of its turn."""
        tenant, size = self._waiting.pop(key)
        self._bytes -= size
        path = [self._root]
        for level in tenant.levels:
            path.append(path[-1].below[_name(level)])
        item = path[-1].own.pop(key)
        if not path[-1].own:
            del path[-1].ring[""]
        self._root.count -= 1
        for above, node, level in zip(path[:-1], path[1:], tenant.levels, strict=True):
            node.count -= 1
            if not node.count:
                del above.below[_name(level)], above.ring[_name(level)]
        return item

    def place(self, key: str) -> int | None:
        """How many orders of its own tenant are before it; None if it does not wait."""
        if key not in self._waiting:
            return None
        node = self._find(self._waiting[key].tenant)
        assert node is not None, "it waits there"
        return next(place for place, other in enumerate(node.own) if other == key)

    def places(self, tenant: Tenant) -> dict[str, int]:
        """The place of each order of this tenant's own: for many at once."""
        node = self._find(tenant)
        return {} if node is None else {key: place for place, key in enumerate(node.own)}

    def _find(self, tenant: Tenant) -> _Node[_T] | None:
        node: _Node[_T] | None = self._root
        for level in tenant.levels:
            node = node.below.get(_name(level)) if node is not None else None
        return node


def _name(level: Tenant) -> str:
    """Its last part."""
    return level.rpartition("/")[2]
