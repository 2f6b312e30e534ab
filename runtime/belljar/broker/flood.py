"""What a run has sent, in bytes: each frame is charged, also where nothing is in it, and the sum has an end.

A frame is work for the host whatever it carries, and so is what the host does about it (a refusal with its record). So
each costs a least number of bytes, and a flood of empty ones, or of requests that are refused, ends like any other.
"""

from __future__ import annotations

from typing import Final as Const

from belljar.errors import Refusal
from belljar.policy import Policy

__all__ = ["REFUSED_CALL_COST_BYTES", "Flood"]

# A frame takes some 16 µs even with nothing in it, as much as a KiB of output.
_FRAME_COST_BYTES_MIN: Const = 1024
# A call that the ledger refuses costs two records in the log and a transaction.
REFUSED_CALL_COST_BYTES: Const = 4096


class Flood:
    """Counts what one run has sent, in bytes."""

    def __init__(self, policy: Policy) -> None:
        self._bytes_max = policy.limits.output_flood_bytes
        self._emitted_bytes = 0

    def charge(self, size: int) -> None:
        """Charge a frame with a body of `size` bytes.

        Raises:
            Refusal: `output.flood`: the run has sent more than the policy lets it.
        """
        self._emitted_bytes += max(size, _FRAME_COST_BYTES_MIN)
        if self._emitted_bytes > self._bytes_max:
            raise Refusal(
                "the program sent more than the policy lets a run emit: print less, or keep it in variables",
                code="output.flood",
                limit=self._bytes_max,
                observed=self._emitted_bytes,
            )
