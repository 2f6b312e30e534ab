"""The JSON Lines of the reference RLM library (rlms 0.1.3): a line of metadata, then one for each turn.

A query of a program is in the `rlm_calls` of its cell, and so is a child run, with its whole trajectory in `metadata`,
which is how that library writes recursion. What its format has no place for is left out; the exact costs are there
(`belljar`), as readers ignore keys that they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from belljar.audit.export.encoding import document, exact, iso, said, usd
from belljar.audit.export.words import end_of, origin_of, printed
from belljar.audit.trajectory import (
    Absent,
    Answer,
    Cell,
    Child,
    Contents,
    Output,
    Prompt,
    Query,
    Run,
    Spent,
    Text,
    Turn,
)

__all__ = ["rlm"]


def rlm(run: Run, contents: Contents | None = None) -> Iterator[bytes]:
    """The lines of a run; those below it are inside."""
    yield document({"type": "metadata", "timestamp": iso(run.started_ns), **_metadata(run)})
    yield from (document(line) for line in _iterations(run, contents))


def _metadata(run: Run) -> dict[str, Any]:
    return {
        "root_model": run.root_model or "",
        "max_depth": max((one.depth for one in run.below()), default=run.depth) - run.depth,
        "max_iterations": len(run.turns),
        "backend": "belljar",
        "backend_kwargs": {"model_name": run.root_model or ""},
        "environment_type": run.backend or "",
        "environment_kwargs": {"policy": run.policy, "policy_digest": run.policy_digest, "language": run.language},
        "other_backends": None,
        "belljar": {"run": run.run, "tenant": run.tenant, "status": run.status, **_origin(run), **_exact(run.total)},
    }


def _iterations(run: Run, contents: Contents | None) -> Iterator[dict[str, Any]]:
    for number, turn in enumerate(run.turns, start=1):
        asked = turn.queries[-1] if turn.queries else None
        start, end = _times(turn)
        yield {
            "type": "iteration",
            "iteration": number,
            "timestamp": iso(end),
            "prompt": _messages(asked.prompt if asked is not None else run.question, contents),
            "response": said(asked.reply, contents) if asked is not None else "",
            "code_blocks": [_block(cell, contents) for cell in turn.cells],
            "final_answer": next(filter(None, (_answer(cell, contents) for cell in turn.cells)), None),
            "iteration_time": _seconds(start, end),
        }


def _times(turn: Turn) -> tuple[int | None, int | None]:
    starts = [query.at_ns for query in turn.queries] + [cell.started_ns for cell in turn.cells]
    ends = [query.ended_ns for query in turn.queries] + [end_of(cell)[1] for cell in turn.cells]
    return min(starts, default=None), max((end for end in ends if end is not None), default=None)


def _seconds(start: int | None, end: int | None) -> float | None:
    return None if start is None or end is None else (end - start) / 10**9


def _messages(prompt: Text | None, contents: Contents | None) -> list[dict[str, str]]:
    """What its visualiser shows: an array of roles and texts."""
    found = None if prompt is None else prompt.read(contents)
    if prompt is None or isinstance(found, str | Absent) or prompt.kind != "prompt":
        return [{"role": "user", "content": said(prompt, contents)}]
    whole = cast("Prompt", found)
    system = [{"role": "system", "content": whole.system}] if whole.system else []
    return [*system, *({"role": one.role, "content": one.text} for one in whole.messages)]


def _block(cell: Cell, contents: Contents | None) -> dict[str, Any]:
    stdout, stderr = _streams(printed(cell), contents)
    calls = [_call(step, contents) for step in cell.steps if isinstance(step, Query)]
    calls += [_child(step.run, contents) for step in cell.steps if isinstance(step, Child)]
    return {
        "code": said(cell.code, contents),
        "result": {
            "stdout": stdout,
            "stderr": stderr,
            "locals": {},
            "execution_time": _seconds(cell.started_ns, end_of(cell)[1]),
            "rlm_calls": calls,
            "final_answer": _answer(cell, contents),
        },
    }


def _streams(output: Text | None, contents: Contents | None) -> tuple[str, str]:
    found = None if output is None else output.read(contents)
    if output is None or isinstance(found, str | Absent) or output.kind != "output":
        return said(output, contents), ""
    out = cast("Output", found)
    return out.stdout, "\n".join(filter(None, (out.stderr, out.traceback)))


def _answer(cell: Cell, contents: Contents | None) -> str | None:
    given = [step.text for step in cell.steps if isinstance(step, Answer) and not step.void]
    return said(given[-1], contents) if given else None


def _call(query: Query, contents: Contents | None) -> dict[str, Any]:
    error = query.error
    if query.denied is not None:
        error = f"denied: {query.denied.code}"
    elif query.outcome is None:
        error = "no outcome"
    return {
        "root_model": query.answered_by or query.model,
        "prompt": said(query.prompt, contents),
        "response": said(query.reply, contents),
        "usage_summary": _usage({query.answered_by or query.model: query.spent}),
        "execution_time": _seconds(query.at_ns, query.ended_ns),
        **({"error": error} if error is not None else {}),
        "belljar": {"action": query.action, "outcome": query.outcome, **_exact(query.spent)},
    }


def _child(run: Run, contents: Contents | None) -> dict[str, Any]:
    answers = [answer for cell in run.cells() if (answer := _answer(cell, contents)) is not None]
    model = run.root_model or ""
    return {
        "root_model": model,
        "prompt": said(run.question, contents),
        "response": answers[-1] if answers else "",
        "usage_summary": _usage({model: run.total}),
        "execution_time": _seconds(run.started_ns, run.ended_ns),
        "metadata": {"run_metadata": _metadata(run), "iterations": list(_iterations(run, contents))},
        **({"error": f"status: {run.status}"} if run.status != "ok" else {}),
        "belljar": {"run": run.run, **_exact(run.total)},
    }


def _usage(spent: dict[str, Spent]) -> dict[str, Any]:
    found = {
        model: {
            "total_calls": one.calls,
            "total_input_tokens": one.input_tokens,
            "total_output_tokens": one.output_tokens,
            "total_cost": usd(one.cost_nanousd),
        }
        for model, one in spent.items()
    }
    return {"model_usage_summaries": found, "total_cost": usd(sum(one.cost_nanousd for one in spent.values()))}


def _origin(run: Run) -> dict[str, Any]:
    return {} if (origin := origin_of(run)) is None else {"origin": origin}


def _exact(spent: Spent) -> dict[str, Any]:
    return {"cost_nanousd": exact(spent.cost_nanousd)}
