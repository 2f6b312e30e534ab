"""What a run has sent, in bytes: each frame is charged, even an empty one, and the sum is limited.

A frame is work for the host whatever it carries, and so is what the host does about it (a refusal with its record). So
each is charged a minimum, and a flood of empty frames, or of requests that are refused, ends like any other.

A request that is served is paid for elsewhere, by calls or by what is read. One that is refused is paid for here, with
what it weighs: its header was decoded and its body copied, and perhaps looked through, before it was refused. And a
frame that comes in crumbs wakes the host for each, and whoever forwards the stream: each that ends no frame is charged.
"""

from __future__ import annotations

from typing import Final as Const

from belljar.errors import Refusal
from belljar.policy import Policy

__all__ = ["REFUSED_CALL_COST_BYTES", "REUSED_COST_BYTES", "Flood"]

# Even an empty frame takes some 16 µs, as much as a KiB of output.
_FRAME_COST_BYTES_MIN: Const = 1024
# A call that the ledger refuses costs two records in the log and a transaction.
REFUSED_CALL_COST_BYTES: Const = 4096
# A query that is answered without a call costs its digest and one record, but neither calls nor money.
REUSED_COST_BYTES: Const = 4096
# Copying a body, and perhaps going through it, takes an eighth to a quarter of what as much output takes. A header is
# decoded and written again, which takes as long as output.
_REFUSED_BODY_SHARE: Const = 8
# Being woken for next to nothing takes some 70 µs, and a daemon in between four times that.
_CRUMB_COST_BYTES: Const = 4096


class Flood:
    """Counts what one run has sent, in bytes."""

    def __init__(self, policy: Policy) -> None:
        self._bytes_max = policy.limits.output_flood_bytes
        self._emitted_bytes = 0

    def charge(self, size: int) -> None:
        """Charge a frame with a body of `size` bytes.

        Raises:
            Refusal: `limits.output_flood`: the run has sent more than the policy allows.
        """
        self._emitted_bytes += max(size, _FRAME_COST_BYTES_MIN)
        if self._emitted_bytes > self._bytes_max:
            raise Refusal(
                "the program sent more than the policy lets a run send: print less, or keep it in variables",
                code="limits.output_flood",
                limit=self._bytes_max,
                observed=self._emitted_bytes,
            )

    def charge_refused(self, body_bytes: int, header_bytes: int = 0, *, least: int = 0) -> None:
        """Charge a request, or one prompt of it, that is not served; `least` is what refusing it costs in any case.

        Raises:
            Refusal: `limits.output_flood`, as for `charge`.
        """
        self.charge(max(header_bytes + body_bytes // _REFUSED_BODY_SHARE, least))

    def charge_piece(self, size: int) -> None:
        """Charge what came of the stream at once, `size` bytes that end no frame. Large pieces are charged with theirs.

        Raises:
            Refusal: `limits.output_flood`, as for `charge`.
        """
        if size < _FRAME_COST_BYTES_MIN:
            self.charge(_CRUMB_COST_BYTES)
