"""An event of each kind with all that it needs, for tests that care for a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from belljar.audit.events import EVENTS, Event

__all__ = ["NEEDED", "made"]

_AMOUNTS: Final = {"calls": 1, "input_tokens": 12, "output_tokens": 3, "cost_nanousd": 4500}
# What each event must have.
NEEDED: Final[Mapping[str, dict[str, Any]]] = {
    "run.started": {"tenant": "acme", "contexts": []},
    "box.started": {"layers": ["seccomp"]},
    "cell.started": {"cell": 1, "code_sha256": "c" * 64, "code_bytes": 9},
    "cell.finished": {"cell": 1, "status": "ok", "output_bytes": 2},
    "answer.given": {"cell": 1, "answer_sha256": "a" * 64, "answer_bytes": 5},
    "answer.void": {"cell": 1, "answer_sha256": "a" * 64, "answer_bytes": 5},
    "context.read": {"cell": 1, "line": 3, "doc": 0, "start": 0, "stop": 9},
    "context.searched": {"cell": 1, "doc": 0, "spans": [[0, 9]]},
    "query.requested": {
        "action": "r1.1",
        "cell": 1,
        "attempt": 1,
        "model": "fake",
        "purpose": "sub",
        "prompt_sha256": "b" * 64,
        "prompt_bytes": 12,
        "output_tokens_max": 100,
    },
    "query.denied": {"action": "r1.1", "code": "quota.calls"},
    "query.completed": {
        "action": "r1.1",
        **_AMOUNTS,
        "reply_sha256": "d" * 64,
        "reply_bytes": 7,
        "answered_by": "fake-1",
        "stop_reason": "end_turn",
    },
    "query.failed": {"action": "r1.1", **_AMOUNTS, "error": "overloaded"},
    "query.reused": {
        "action": "r1.2",
        "cell": 1,
        "model": "fake",
        "prompt_sha256": "b" * 64,
        "prompt_bytes": 12,
        "output_tokens_max": 100,
        "source": "cache",
        "origin": "r1.1",
        "reply_sha256": "d" * 64,
        "reply_bytes": 7,
        "answered_by": "fake-1",
        "stop_reason": "end_turn",
    },
    "query.shown": {"cell": 1, "doc": 0, "spans": [[0, 9]]},
    "request.refused": {"cell": 1, "asked": "read", "code": "read.out_of_range"},
    "canary.seen": {"cell": 1, "place": "output", "canary": 2},
    "run.finished": {"status": "ok", "calls": 1},
    "run.abandoned": {**_AMOUNTS, "read_bytes": 7, "charged": {**_AMOUNTS, "read_bytes": 0}},
    "content.erased": {"of": "r1", "by": "user:alice", "why": "erased"},
    "quota.changed": {"tenant": "acme", "period": "day", "by": "user:alice"},
    "log.accepted": {"by": "user:alice", "records": 7, "signed": 9, "removed": 1},
    "key.changed": {"by": "user:alice", "old": "a", "new": "b", "old_signature": "c", "new_signature": "d"},
    "log.read": {"by": "user:alice", "command": "audit show"},
    "service.changed": {"by": "user:alice", "state": "started"},
    "http.request": {"by": "key:k1", "route": "POST /v1/runs", "status": 201},
    "access.changed": {"by": "user:alice", "key": "k1", "what": "made", "tenant": "acme", "role": "runner"},
    "hook.changed": {"by": "key:k1", "hook": "h1", "what": "made", "tenant": "acme"},
    "hook.delivered": {"hook": "h1", "delivery": "d1", "told": "run.ended", "of": "r1", "attempts": 1, "arrived": True},
}


def made(name: str, fields: Mapping[str, Any]) -> Event:
    """The event of this name with these fields, and what else it needs."""
    needed = {key: value for key, value in NEEDED[name].items() if not ("spans" in fields and key in ("start", "stop"))}
    return msgspec.convert({**needed, **fields}, EVENTS[name])
