"""The audit log: `events` says what is in it, `log` appends, `verify` checks, `read` reads.

A record is durable before what it announces happens.
"""

from belljar.audit.coverage import Coverage, DocumentCoverage, Ranges, characters_read, coverage
from belljar.audit.log import AuditLog
from belljar.audit.read import Record, RunSummary, head, latest, page_after, records, records_after, records_below, runs
from belljar.audit.receipt import Receipt
from belljar.audit.signing import Checkpoints, signing
from belljar.audit.source import Log
from belljar.audit.tampering import Finding
from belljar.audit.trees import TreeRun, parent_of, tree
from belljar.audit.verify import Report, verify

__all__ = [
    "AuditLog",
    "Checkpoints",
    "Coverage",
    "DocumentCoverage",
    "Finding",
    "Log",
    "Ranges",
    "Receipt",
    "Record",
    "Report",
    "RunSummary",
    "TreeRun",
    "characters_read",
    "coverage",
    "head",
    "latest",
    "page_after",
    "parent_of",
    "records",
    "records_after",
    "records_below",
    "runs",
    "signing",
    "tree",
    "verify",
]
