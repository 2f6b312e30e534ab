"""Belljar: a hardened runtime for code that language models write.

Contained, brokered, metered, accountable. Start with `Runtime`, or `run` where there is no event loop::

    async with belljar.Runtime(policy="standard") as runtime:
        result = await runtime.run("Which users ...?", context=Path("log.txt"), model="claude-sonnet-5-5")
"""

from __future__ import annotations

from importlib.metadata import version

from belljar.audit import Record, Report
from belljar.context import Document, FileSource
from belljar.engine import (
    CellResult,
    Coverage,
    ErrorInfo,
    Limit,
    Progress,
    Receipt,
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
from belljar.facade import SyncSession, execute, run, session
from belljar.identity import BackendName, Language
from belljar.models import Message, Model, ModelReply, ModelRequest, Prices, Rates, Usage
from belljar.policy import Policy
from belljar.run import OnProgress, OnTurn
from belljar.runtime import ContextSource, Runtime, Session

__version__ = version("belljar")

__all__ = [
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
    "HostFault",
    "InvalidInput",
    "InvalidPolicy",
    "Language",
    "LayerMissing",
    "LedgerUnavailable",
    "Limit",
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
    "QuotaExceeded",
    "Rates",
    "Receipt",
    "Record",
    "Refusal",
    "Report",
    "Result",
    "RunUsage",
    "Runtime",
    "Session",
    "Status",
    "SyncSession",
    "Turn",
    "TurnBlock",
    "Usage",
    "VerificationFailed",
    "__version__",
    "execute",
    "run",
    "session",
]
