"""Failed attempts to prove who one is, counted for each address: after some, nobody looks at more for a while.

Each address has a bucket of attempts, which a failure takes one from and time fills again. An address of IPv6 stands
for its network (/64), since one machine has all of that. Nobody can guess a key of 256 bits, however many attempts
there are; what is bounded is what strangers may cost: a question to the journal for each.

There is room for so many addresses. Beyond that the one that failed longest ago is forgotten, which gives it a full
bucket; whoever has so many addresses needs no bucket filled.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from belljar.errors import AccessThrottled

__all__ = ["Throttle", "place_of"]

_BURST: Final = 10
_EACH_S: Final = 6.0
_ADDRESSES_MAX: Final = 10_000
_NETWORK_BITS: Final = 64


class Throttle:
    """Counts failures; asks nobody.

    Args:
        burst: failures that are looked at one after the other.
        each_s: seconds until one more is.
        addresses_max: for how many addresses failures are remembered.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        burst: int = _BURST,
        each_s: float = _EACH_S,
        addresses_max: int = _ADDRESSES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._each_s = each_s
        self._addresses_max = addresses_max
        self._clock = clock
        # When the bucket of each will be full again; the one that failed last is the last.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str) -> None:
        """Refuse where too many attempts have failed.

        Raises:
            AccessThrottled: `access.throttled`.
        """
        full_at = self._full_at.get(place_of(address), -math.inf)
        empty_s = full_at - self._clock() - (self._burst - 1) * self._each_s
        if empty_s > 0:
            seconds = math.ceil(empty_s)
            raise AccessThrottled(
                f"too many attempts from this address have failed: try again in {seconds} s",
                code="access.throttled",
                retry_after_s=seconds,
            )

    def failed(self, address: str) -> None:
        """An attempt from there has failed."""
        place, now = place_of(address), self._clock()
        full_at = max(self._full_at.pop(place, now), now) + self._each_s
        self._full_at[place] = min(full_at, now + self._burst * self._each_s)
        if len(self._full_at) > self._addresses_max:
            self._full_at.popitem(last=False)


def place_of(address: str) -> str:
    """What is counted together; a text that is no address, such as the path of a socket, counts for itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _NETWORK_BITS), strict=False))
    return str(found)
