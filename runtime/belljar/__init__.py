"""Belljar: a hardened runtime for code that language models write.

Contained, brokered, metered, accountable. Start with `Runtime`, or with `run` where there is no event loop::

    async with belljar.Runtime(policy="standard") as runtime:
        result = await runtime.run("Which users ...?", context=Path("log.txt"), model="claude-sonnet-5-5")

A name is loaded when it is first used, so a program that only needs `belljar.errors` loads nothing else. That is why
no module of this package has the name of a public function (`run`, `execute`, `session`): importing such a module
would put it in the function's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from belljar.audit import Receipt, Record, Report
    from belljar.context import Document, FileSource
    from belljar.engine import (
        AskResult,
        CellResult,
        Coverage,
        ErrorInfo,
        Limit,
        Progress,
        Result,
        RunUsage,
        Status,
        Turn,
        TurnBlock,
    )
    from belljar.errors import (
        AuditUnavailable,
        BelljarError,
        BoxFault,
        GuestFault,
        HostFault,
        InvalidInput,
        InvalidPolicy,
        LayerMissing,
        LedgerUnavailable,
        ModelFailed,
        PolicyDenied,
        QuotaExceeded,
        Refusal,
        VerificationFailed,
    )
    from belljar.facade import SyncQuotas, SyncSession, execute, run, session
    from belljar.host import Host, LiveRun
    from belljar.identity import BackendName, Language
    from belljar.ledger import Amounts, Limits, Quota, Remaining, Used
    from belljar.lifecycle import OnProgress, OnTurn
    from belljar.models import FREE, Message, Model, ModelReply, ModelRequest, Prices, Rates, Tool, ToolError, Usage
    from belljar.policy import Policy
    from belljar.runtime import Runtime
    from belljar.sessions import Session
    from belljar.sources import ContextSource

__version__: str

__all__ = [
    "FREE",
    "Amounts",
    "AskResult",
    "AuditUnavailable",
    "BackendName",
    "BelljarError",
    "BoxFault",
    "CellResult",
    "ContextSource",
    "Coverage",
    "Document",
    "ErrorInfo",
    "FileSource",
    "GuestFault",
    "Host",
    "HostFault",
    "InvalidInput",
    "InvalidPolicy",
    "Language",
    "LayerMissing",
    "LedgerUnavailable",
    "Limit",
    "Limits",
    "LiveRun",
    "Message",
    "Model",
    "ModelFailed",
    "ModelReply",
    "ModelRequest",
    "OnProgress",
    "OnTurn",
    "Policy",
    "PolicyDenied",
    "Prices",
    "Progress",
    "Quota",
    "QuotaExceeded",
    "Rates",
    "Receipt",
    "Record",
    "Refusal",
    "Remaining",
    "Report",
    "Result",
    "RunUsage",
    "Runtime",
    "Session",
    "Status",
    "SyncQuotas",
    "SyncSession",
    "Tool",
    "ToolError",
    "Turn",
    "TurnBlock",
    "Usage",
    "Used",
    "VerificationFailed",
    "__version__",
    "execute",
    "run",
    "session",
]

# The module of each name. The imports above say the same to type checkers and editors, which do not read tables; a
# test keeps the two and `__all__` equal.
_NAMES_OF: Final = {
    "audit": ("Receipt", "Record", "Report"),
    "context": ("Document", "FileSource"),
    "engine": (
        *("CellResult", "Coverage", "ErrorInfo", "Limit", "Progress", "Result", "RunUsage", "Status"),
        *("AskResult", "Turn", "TurnBlock"),
    ),
    "errors": (
        *("AuditUnavailable", "BelljarError", "BoxFault", "GuestFault", "HostFault", "InvalidInput", "InvalidPolicy"),
        *("LayerMissing", "LedgerUnavailable", "ModelFailed", "PolicyDenied", "QuotaExceeded", "Refusal"),
        "VerificationFailed",
    ),
    "facade": ("SyncQuotas", "SyncSession", "execute", "run", "session"),
    "host": ("Host", "LiveRun"),
    "identity": ("BackendName", "Language"),
    "ledger": ("Amounts", "Limits", "Quota", "Remaining", "Used"),
    "lifecycle": ("OnProgress", "OnTurn"),
    "models": (
        "FREE",
        "Message",
        "Model",
        "ModelReply",
        "ModelRequest",
        "Prices",
        "Rates",
        "Tool",
        "ToolError",
        "Usage",
    ),
    "policy": ("Policy",),
    "runtime": ("Runtime",),
    "sessions": ("Session",),
    "sources": ("ContextSource",),
}
_MODULE_OF: Final = {name: module for module, names in _NAMES_OF.items() for name in names}

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every possible name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            found = version("belljar")
        elif name in _MODULE_OF:
            found = getattr(_loaded(_MODULE_OF[name]), name)
        else:
            raise AttributeError(f"module 'belljar' has no attribute {name!r}")
        globals()[name] = found  # looked up once
        return found

    def _loaded(module: str) -> object:
        from importlib import import_module

        try:
            return import_module(f"belljar.{module}")
        except RuntimeError as error:  # it starts threads, which is impossible once the main thread has ended
            from belljar.errors import InvalidInput

            raise InvalidInput(
                f"belljar.{module} cannot be loaded after the end of the main thread ({error}): use it earlier",
                code="runtime.late",
            ) from error

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
