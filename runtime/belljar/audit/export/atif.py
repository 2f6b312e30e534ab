"""The Agent Trajectory Interchange Format, version 1.8: one document, with the runs below embedded.

A turn of the root model is a step, its cells are calls of the tool `run_code`, and what a cell printed is the
observation of that call. A child run is in `subagent_trajectories`, and the result of the cell that started it refers
to it; where several cells of a run did, each to its own. What a program asked is in `extra` of the call's result: the
format has no place for calls that code makes.

Where no root model was asked, a step has `llm_call_count` 0 if its cells asked nothing either. Money is a float there;
the exact nano-dollars are in each `extra`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from belljar.audit.export.encoding import document, exact, iso, said, usd
from belljar.audit.export.words import end_of, numbers, origin_of, printed
from belljar.audit.trajectory import (
    Answer,
    Cell,
    Child,
    Contents,
    Query,
    Read,
    Refused,
    Run,
    Search,
    Shown,
    Spent,
    Step,
    Turn,
)

__all__ = ["VERSION", "atif"]

VERSION = "ATIF-v1.8"


def atif(run: Run, contents: Contents | None = None, *, version: str) -> Iterator[bytes]:
    """The document, in one piece. `version` is that of what writes it."""
    yield document(_trajectory(run, contents, version))


def _trajectory(run: Run, contents: Contents | None, version: str) -> dict[str, Any]:
    steps = [{"source": "user", "timestamp": iso(run.started_ns), "message": _question(run, contents)}]
    steps += [_turn(turn, contents) for turn in run.turns]
    if run.outside:
        steps.append(_outside(run.outside, contents))
    children = [_trajectory(child, contents, version) for child in run.children()]
    return {
        "schema_version": VERSION,
        "session_id": run.run.partition(".")[0] if run.depth else run.run,
        "trajectory_id": run.run,
        "agent": _agent(run, version),
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, start=1)],
        "final_metrics": _final(run, len(steps)),
        "extra": _extra(run),
        **({"subagent_trajectories": children} if children else {}),
    }


def _question(run: Run, contents: Contents | None) -> str:
    return said(run.question, contents) if run.question is not None else "[no question: code was run]"


def _agent(run: Run, version: str) -> dict[str, Any]:
    controls = {name: getattr(run, name) for name in ("policy", "policy_digest", "backend", "language", "sub_model")}
    return {
        "name": "belljar",
        "version": version,
        **({"model_name": run.root_model} if run.root_model else {}),
        "extra": {**controls, "scripted": run.scripted, "layers": run.layers, "facts": run.facts},
    }


def _final(run: Run, steps: int) -> dict[str, Any]:
    """Its own, without those of the runs below: each has its own."""
    return {
        "total_prompt_tokens": run.own.input_tokens,
        "total_completion_tokens": run.own.output_tokens,
        "total_cost_usd": usd(run.own.cost_nanousd),
        "total_steps": steps,
        "extra": {
            "total_cost_nanousd": exact(run.own.cost_nanousd),
            "with_subagents": _spent(run.total),
        },
    }


def _extra(run: Run) -> dict[str, Any]:
    limit = run.limit
    return {
        "tenant": run.tenant,
        "status": run.status,
        **({} if (origin := origin_of(run)) is None else {"origin": origin}),
        "limit": None if limit is None else {"code": limit.code, "limit": limit.limit, "observed": limit.observed},
        "records": {"first": run.first_seq, "last": run.last_seq, "count": run.records},
        "contexts": [
            {
                "name": one.name,
                "kind": one.kind,
                "sha256": one.sha256,
                "chars": one.chars,
                "read_chars": one.read.covered,
                "shown_chars": one.shown.covered,
            }
            for one in run.documents
        ],
    }


def _turn(turn: Turn, contents: Contents | None) -> dict[str, Any]:
    """A step of the agent. Its metrics are those of all calls in it, of which there may be many."""
    asked = turn.queries[-1] if turn.queries else None
    calls = [*turn.queries, *(step for cell in turn.cells for step in cell.steps if isinstance(step, Query))]
    spent = _sum(query.spent for query in calls)
    started = asked.at_ns if asked is not None else turn.cells[0].started_ns if turn.cells else None
    return {
        "source": "agent",
        "timestamp": iso(started),
        "message": said(asked.reply, contents) if asked is not None else "",
        **({"model_name": asked.answered_by or asked.model} if asked is not None else {}),
        "tool_calls": [_tool_call(cell, contents) for cell in turn.cells],
        "observation": {"results": [_result(cell, contents) for cell in turn.cells]},
        "llm_call_count": spent.calls,
        **({"metrics": _metrics(calls, spent)} if spent.calls else {}),
        "extra": {
            "turn": turn.number,
            "cost_nanousd": exact(spent.cost_nanousd),
            "queries": [_query(query, contents, with_reply=False) for query in turn.queries],
        },
    }


def _sum(parts: Iterable[Spent]) -> Spent:
    whole = Spent()
    for part in parts:
        whole.calls += part.calls
        whole.input_tokens += part.input_tokens
        whole.output_tokens += part.output_tokens
        whole.cost_nanousd += part.cost_nanousd
    return whole


def _metrics(calls: list[Query], spent: Spent) -> dict[str, Any]:
    return {
        "prompt_tokens": spent.input_tokens,
        "completion_tokens": spent.output_tokens,
        "cached_tokens": sum(query.cache_read_tokens for query in calls),
        "cost_usd": usd(spent.cost_nanousd),
        "extra": _spent(spent),
    }


def _spent(spent: Spent) -> dict[str, Any]:
    return {
        "calls": spent.calls,
        "input_tokens": spent.input_tokens,
        "output_tokens": spent.output_tokens,
        "cost_nanousd": exact(spent.cost_nanousd),
    }


def _call_id(cell: Cell) -> str:
    return f"cell-{cell.number}-{cell.seq}"


def _tool_call(cell: Cell, contents: Contents | None) -> dict[str, Any]:
    return {
        "tool_call_id": _call_id(cell),
        "function_name": "run_code",
        "arguments": {"code": said(cell.code, contents)},
        "extra": {"sha256": cell.code.sha256, "started": iso(cell.started_ns)},
    }


def _result(cell: Cell, contents: Contents | None) -> dict[str, Any]:
    status, ended = end_of(cell)
    return {
        "source_call_id": _call_id(cell),
        "content": said(printed(cell), contents),
        **_children(cell.steps),
        "extra": {"status": status, "ended": iso(ended), **_happened(cell.steps, contents)},
    }


def _outside(steps: list[Step], contents: Contents | None) -> dict[str, Any]:
    result = {"content": "outside of cells", **_children(steps), "extra": _happened(steps, contents)}
    return {"source": "system", "message": "outside of cells", "observation": {"results": [result]}}


def _children(steps: list[Step]) -> dict[str, Any]:
    refs = [
        {"trajectory_id": step.run.run, "extra": {"status": step.run.status}}
        for step in steps
        if isinstance(step, Child)
    ]
    return {"subagent_trajectory_ref": refs} if refs else {}


def _happened(steps: list[Step], contents: Contents | None) -> dict[str, Any]:
    return {
        "queries": [_query(step, contents) for step in steps if isinstance(step, Query)],
        "reads": [_read(step, contents) for step in steps if isinstance(step, Read | Search | Shown)],
        "refusals": [
            {"asked": step.asked, "code": step.why.code, "numbers": numbers(step.why), "count": step.count}
            for step in steps
            if isinstance(step, Refused)
        ],
        "answers": [
            {"answer": said(step.text, contents), "void": step.void} for step in steps if isinstance(step, Answer)
        ],
    }


def _read(step: Read | Search | Shown, contents: Contents | None) -> dict[str, Any]:
    text = None if isinstance(step, Shown) else step.text
    given = {} if text is None else {"text": said(text, contents)}
    return {"what": type(step).__name__.lower(), "doc": step.doc, "spans": step.spans, **given}


def _query(query: Query, contents: Contents | None, *, with_reply: bool = True) -> dict[str, Any]:
    return {
        "action": query.action,
        "model": query.answered_by or query.model,
        "purpose": query.purpose,
        "outcome": query.outcome,
        "asked": iso(query.at_ns),
        "ended": iso(query.ended_ns),
        "prompt": said(query.prompt, contents),
        **({"reply": said(query.reply, contents)} if with_reply else {}),
        "error": query.error if query.denied is None else query.denied.code,
        **_spent(query.spent),
    }
