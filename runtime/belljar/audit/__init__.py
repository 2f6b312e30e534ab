"""The audit log: `log` appends, `verify` checks, `read` reads. A record is durable before what it announces happens."""

from belljar.audit.log import JSON, AuditLog
from belljar.audit.read import Record, RunSummary, records, runs
from belljar.audit.verify import Report, verify

__all__ = ["JSON", "AuditLog", "Record", "Report", "RunSummary", "records", "runs", "verify"]
