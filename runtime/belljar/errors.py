"""The type of an error says who is at fault; its first line says what to do.

::

    BelljarError
    ├── GuestFault               the boxed program did it
    │   ├── ProtocolViolation      it broke the rules of the wire; the box ends
    │   └── GuestDied              the box ended by itself
    ├── Refusal                  we said no: `code`, and where a limit was met `limit` and `observed`
    │   ├── AccessDenied           whoever asks a service did not prove who they are
    │   │   └── AccessThrottled      they failed to too often, and must wait
    │   ├── AccessForbidden        they did, and may not do this
    │   ├── ContentUnavailable     what a record of the log names cannot be shown
    │   │   ├── ContentErased        it was erased, or its time was over
    │   │   ├── ContentLocked        its key is another host's, or lost
    │   │   └── ContentMissing       it was never kept
    │   ├── InvalidInput           the request makes no sense (a missing file, an undecodable text)
    │   ├── InvalidPolicy          a policy file is wrong; names file and line
    │   ├── LayerMissing           the policy requires a layer of the wall that this host cannot provide
    │   ├── PolicyDenied           the policy does not allow it
    │   └── QuotaExceeded          it would spend more than is left
    └── HostFault                our side, or the world we depend on, failed
        ├── AccessUnavailable      who asks cannot be found out
        ├── BoxFault               a box could not be built, or its supervisor died
        ├── ModelFailed            the model gave no answer
        ├── LedgerUnavailable      quotas cannot be enforced, so the request is refused
        ├── AuditUnavailable       the log cannot be written, so nothing is done
        └── VerificationFailed     the log is not what was written

Each type also has its exit code (`exit_code`), so the command line needs no table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "AccessDenied",
    "AccessForbidden",
    "AccessThrottled",
    "AccessUnavailable",
    "AuditUnavailable",
    "BelljarError",
    "BoxFault",
    "ContentErased",
    "ContentLocked",
    "ContentMissing",
    "ContentUnavailable",
    "GuestDied",
    "GuestFault",
    "HostFault",
    "InvalidInput",
    "InvalidPolicy",
    "LayerMissing",
    "LedgerUnavailable",
    "ModelFailed",
    "PolicyDenied",
    "ProtocolViolation",
    "QuotaExceeded",
    "Refusal",
    "VerificationFailed",
]


class BelljarError(Exception):
    """Base of all. `str(error)` is one line: what happened, then what to do."""

    exit_code: ClassVar[int] = 1


class GuestFault(BelljarError):
    """The boxed program failed, or broke a rule."""

    exit_code = 6


class ProtocolViolation(GuestFault):
    """The box sent bytes that are not a message of the protocol. The text never repeats guest bytes."""


class GuestDied(GuestFault):
    """The box ended before it reported that the cell was done."""


class Refusal(BelljarError):
    """We said no.

    Args:
        message: one line, ends with what to do.
        code: a short stable word (`context.read`), for programs.
        limit: the limit that was met, in milliseconds, bytes or nano-dollars, or a count. If it is one of the policy's,
            `code` is the key that sets it, and `belljar.policy.unit_of(code)` the unit.
        observed: what was asked for, in the same unit.
    """

    exit_code = 4

    def __init__(
        self, message: str, *, code: str = "refused", limit: int | None = None, observed: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.limit = limit
        self.observed = observed


class AccessDenied(Refusal):
    """Whoever asks did not prove who they are. The text never repeats what they showed."""

    exit_code = 4


class AccessThrottled(AccessDenied):
    """Nobody looked at what was shown: too many attempts from there have failed.

    Args:
        retry_after_s: in how many seconds the next one is looked at.
    """

    def __init__(self, message: str, *, code: str, retry_after_s: int) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class AccessForbidden(Refusal):
    exit_code = 4


class ContentUnavailable(Refusal):
    exit_code = 2


class ContentErased(ContentUnavailable):
    pass


class ContentLocked(ContentUnavailable):
    pass


class ContentMissing(ContentUnavailable):
    pass


class InvalidInput(Refusal):
    exit_code = 2


class InvalidPolicy(Refusal):
    exit_code = 3


class LayerMissing(Refusal):
    exit_code = 4


class PolicyDenied(Refusal):
    exit_code = 4


class QuotaExceeded(Refusal):
    """It would spend more than is left.

    Args:
        told: what the boxed program hears instead, without the numbers, if they are somebody else's.
        scope: the level that refused: a tenant's path, or `run:ID`. It and what follows are None where it was none of
            the ledger's quotas, such as the number of turns.
        dimension: `calls`, `input_tokens`, `output_tokens`, `cost_nanousd`, `read_bytes`, `cpu_ms`, `wall_ms`,
            `memory_mib_s`, `boxes`, `calls_in_flight`, `context_bytes` or `depth`.
        period: `minute`, `hour`, `day`, `month`, `total`, or `now` for what is bounded at each moment.
        used: what was charged in the period, in the unit of `limit`.
        held: what is under way may still cost that much.
        resets_at: when the next period begins (UTC); None for `total` and `now`.
        waited_s: how many seconds it had waited for a period's end before it was refused; None if it did not wait.
    """

    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        code: str = "refused",
        limit: int | None = None,
        observed: int | None = None,
        told: str | None = None,
        scope: str | None = None,
        dimension: str | None = None,
        period: str | None = None,
        used: int | None = None,
        held: int | None = None,
        resets_at: datetime | None = None,
        waited_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, limit=limit, observed=observed)
        self.told = told
        self.scope = scope
        self.dimension = dimension
        self.period = period
        self.used = used
        self.held = held
        self.resets_at = resets_at
        self.waited_s = waited_s

    def after(self, waited_s: float) -> QuotaExceeded:
        """The same refusal, which says that it came after so many seconds of waiting for a period's end."""
        return self.adding(f"it had waited {waited_s:.1f} s for a period's end", waited_s=waited_s)

    def adding(self, words: str, *, waited_s: float | None = None) -> QuotaExceeded:
        """The same refusal, which says this, too."""
        words = f"; {words}"
        return QuotaExceeded(
            f"{self}{words}",
            code=self.code,
            limit=self.limit,
            observed=self.observed,
            told=None if self.told is None else f"{self.told}{words}",
            scope=self.scope,
            dimension=self.dimension,
            period=self.period,
            used=self.used,
            held=self.held,
            resets_at=self.resets_at,
            waited_s=self.waited_s if waited_s is None else waited_s,
        )


class HostFault(BelljarError):
    """Our side failed. The guest is not to blame, and the caller need not change the request."""

    exit_code = 1


class AccessUnavailable(HostFault):
    pass


class BoxFault(HostFault):
    pass


class ModelFailed(HostFault):
    """One attempt to call a model gave no answer.

    Args:
        message: one line, ends with what to do. Never contains a key.
        retryable: the same request may succeed later.
        retry_after_s: how long the provider asked us to wait, in seconds.
        charged: False only if it is certain that the provider charged nothing.
        input_tokens: all input tokens, cached ones included, if the provider reported them before it failed.
        output_tokens: all output tokens, if the provider reported the final number.
        cache_read_tokens, cache_write_tokens: the part of `input_tokens` that came from the provider's cache or went
            into it.
        cache_write_1h_tokens: the part of `cache_write_tokens` that is kept for an hour.

    On a charged failure, tokens that are None are unknown: the caller charges the full reservation for them.
    """

    exit_code = 7

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        charged: bool = True,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.charged = charged
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cache_read_tokens = cache_read_tokens
        self.cache_write_tokens = cache_write_tokens
        self.cache_write_1h_tokens = cache_write_1h_tokens


class LedgerUnavailable(HostFault):
    exit_code = 8


class AuditUnavailable(HostFault):
    exit_code = 8


class VerificationFailed(HostFault):
    exit_code = 9
