"""`python -m tests.reference` writes docs/reference.md from the program itself; a test fails when it is not current.

Statuses and types come from the types, limits from the policy's kinds and presets, exit codes from where they are
decided. The codes of errors are found in the source: each call with `code="..."`, the type that it raises and what it
says. A code that is put together (`f"{what}.denied"`) is looked up in `PUT_TOGETHER`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast, get_args

from belljar import errors
from belljar.cli import EXIT_INTERNAL, EXIT_INTERRUPTED
from belljar.cli.output import EXIT_OUTPUT, exit_code
from belljar.engine import Result, Status
from belljar.jobs import IdempotencyConflict
from belljar.policy import dump, load, presets, schema

__all__ = ["REFERENCE", "coded", "reference"]

ROOT: Final = Path(__file__).resolve().parents[1]
REFERENCE: Final = ROOT / "docs" / "reference.md"
RUNTIME: Final = ROOT / "runtime" / "belljar"
# No tenant meets these: they are errors of the demo's own data.
_LEFT_OUT: Final = ("demo.",)

STATUSES: Final[dict[str, str]] = {
    "ok": "the program ended",
    "error": "the program raised an exception",
    "rejected": "the program did not compile",
    "timeout": "`limits.cell_wall`, `limits.run_wall` or the cell's own `timeout` was over",
    "cpu": "`limits.cpu` was used up",
    "memory": "`limits.memory` was used up",
    "processes": "`limits.processes` was reached",
    "disk": "`limits.scratch` was used up",
    "output": "the program printed more than `limits.output_flood`, or gave too large an answer",
    "denied": "the policy ended the run",
    "quota": "a quota ended the run",
    "protocol": "the box broke the rules of the wire",
    "killed": "somebody stopped the run or cell from outside",
    "model_failed": "the model provider gave no answer",
    "host_fault": "our side failed",
}

EXIT_CODES: Final[dict[int, str]] = {
    0: "ok",
    1: "our side failed",
    2: "the command or its input makes no sense",
    3: "the policy file is not valid",
    4: "the policy does not allow it",
    5: "a quota is used up",
    6: "the program failed or met a limit",
    7: "the model provider failed",
    8: "the log or the ledger cannot be written: nothing was sent",
    9: "verification failed, `audit coverage --require` was not met, or the runs of `audit diff` differ",
    10: "stdout could not be written",
    130: "interrupted by Ctrl-C (129 by SIGHUP, 143 by SIGTERM)",
}

# What a code that is put together can be.
PUT_TOGETHER: Final[dict[str, tuple[str, ...]]] = {
    "layer.{}": ("NAME",),
    "units.{}": ("size", "duration", "memory_time"),
    "{}.denied": ("backend", "language"),
    "run.{}": ("STATUS",),
    "policy.{}": ("syntax", "missing", "unknown_key", "value", "looser", "misfit", "extends", "reserved"),
}

_ANSWER: Final = "the answer has more than is allowed: give a smaller answer, or give it as text"

# Errors that belong to one package.
KINDS: Final = frozenset({*errors.__all__, "Busy", "IdempotencyConflict", "NoSuchRun", "NoSuchSession"})

_FULL: Final = ("Busy", "the queue … is full (… …): try again in … s")

# Codes that are chosen before the call that raises them.
CHOSEN_BEFORE: Final[dict[str, tuple[str, str]]] = {
    "search.memory": ("PolicyDenied", "the search used up its memory: search for something simpler"),
    **dict.fromkeys(("limits.answer_values", "answer.too_deep", "answer.too_many_digits"), ("Refusal", _ANSWER)),
    **{
        f"quota.{whose}.{key}": ("QuotaExceeded", f"the {whose}'s quota has no room for this")
        for whose in ("run", "tenant")
        for key in ("calls", "input_tokens", "output_tokens", "cost", "memory_time")
    },
    **{
        f"quota.tenant.{key}": ("QuotaExceeded", "the tenant's quota has no room for this")
        for key in ("read", "cpu", "wall", "boxes", "calls_in_flight")
    },
    "order.idem_conflict": ("IdempotencyConflict", str(IdempotencyConflict())),
    "run.unknown": ("NoSuchRun", "there is no run …: list the runs to find it"),
    "session.unknown": ("NoSuchSession", "there is no open session … in this process: open a new one"),
    **dict.fromkeys(("queue.tenant", "queue.full", "queue.bytes"), _FULL),
    **dict.fromkeys(
        ("sessions.tenant", "sessions.full"),
        ("Busy", "… may have … sessions open at a time: close one, or try again later"),
    ),
}

# Limits that the host sees to be met, without a word from anybody.
OF_THE_BOX: Final[dict[str, str]] = {
    "limits.cell_wall": "`limits.cell_wall` was met, in milliseconds",
    "limits.cpu": "`limits.cpu` was met, in milliseconds",
    "limits.memory": "`limits.memory` was met",
    "limits.processes": "`limits.processes` was met",
    "limits.scratch": "`limits.scratch` was met",
}


def reference() -> str:
    """The whole document."""
    return "\n".join([*_HEAD, *_statuses(), *_limits(), *_codes(), *_exit_codes()]) + "\n"


_HEAD: Final = [
    "# Reference",
    "",
    "This page is generated from the program (`python -m tests.reference`), and a test fails when it is not current.",
    "",
]


def _table(*heading: str, rows: list[list[str]]) -> list[str]:
    lines = [list(heading), ["---"] * len(heading), *rows]
    return [*("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines), ""]


# ------------------------------------------------------------------------------------------------------------- statuses


def _statuses() -> list[str]:
    rows = [[f"`{status}`", STATUSES[status], str(_exit(status))] for status in get_args(Status)]
    return [
        "## Statuses",
        "",
        "A result has exactly one. If a program died of a refusal, its status is `error` and the exit code that of the",
        "refusal.",
        "",
        *_table("status", "meaning", "exit code", rows=rows),
    ]


def _exit(status: str) -> int:
    return exit_code(cast("Result", SimpleNamespace(status=status, error=None, limit=None)))


# --------------------------------------------------------------------------------------------------------------- limits


def _limits() -> list[str]:
    texts = {name: _values(dump(load(name))) for name in presets()}
    rows = [
        [f"`{key}`", _range(about), *(f"`{values[key]}`" for values in texts.values())]
        for key, about in _keys(schema()["oneOf"][0]["properties"])
        if all(key in values for values in texts.values()) and not _is_prose(key)
    ]
    return [
        "## Limits",
        "",
        "Each is a key of the policy: `limits.cpu` is `cpu` under `[limits]`. A quota may also be `unlimited`.",
        "",
        *_table("key", "range", *(f"`{name}`" for name in texts), rows=rows),
    ]


def _is_prose(key: str) -> bool:
    lists = ("models.allow", "models.by_depth", "models.canaries", "models.deny_prompts")
    return "." not in key or key.startswith("box.") or key in lists or key.endswith(".period")


def _keys(properties: dict[str, Any], before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, about in properties.items():
        if about.get("type") == "object":
            yield from _keys(about["properties"], f"{before}{name}.")
        else:
            yield before + name, about


def _range(about: dict[str, Any]) -> str:
    one = about["anyOf"][0] if "anyOf" in about else about
    if "maximum" in one:
        return f"{one['minimum']} to {one['maximum']}"
    return str(one.get("description", ""))


def _values(text: str) -> dict[str, str]:
    """The values of a policy as its file writes them, by dotted key."""
    values, section = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif " = " in line and not line.startswith("#"):
            key, _, value = line.partition(" = ")
            values[section + key] = value.strip('"')
    return values


# ---------------------------------------------------------------------------------------------------------------- codes


def coded() -> Iterator[tuple[Path, str, str, str]]:
    """Each place of the source that makes something with a code: the file, the code, the type, and what it says."""
    for path in sorted(RUNTIME.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            for code in _codes_of(call):
                yield path, code, _name(call.func), _says(call)


def _codes() -> list[str]:
    found = dict(CHOSEN_BEFORE)
    for _, code, kind, says in coded():
        if code not in found or (kind in KINDS and found[code][0] not in KINDS):  # a record of an error is none
            found[code] = (kind, says)
    rows = [
        [f"`{code}`", f"`{kind}`" if kind in KINDS else "", says or OF_THE_BOX.get(code, "")]
        for code, (kind, says) in sorted(found.items())
        if not code.startswith(_LEFT_OUT)
    ]
    return [
        "## Error codes",
        "",
        "`code` of a `Refusal`, of a result's `limit`, and of a refusal in the log. `…` stands for what varies.",
        "",
        *_table("code", "type", "says", rows=rows),
    ]


def _codes_of(call: ast.Call) -> list[str]:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    if ast.unparse(call.func) == "Limit.of" and call.args:
        given.append(call.args[0])
    for value in given:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return [value.value]
        if isinstance(value, ast.JoinedStr):
            pattern = _text(value, "{}")
            return [pattern.replace("{}", part) for part in PUT_TOGETHER.get(pattern, ())]
    return []


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _says(call: ast.Call) -> str:
    return _text(call.args[0], "…") if call.args and _name(call.func) in KINDS else ""


def _text(value: ast.expr, hole: str) -> str:
    """A literal, with a hole for each part that is not known."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.JoinedStr):
        return "".join(_text(part, hole) for part in value.values)
    return hole if isinstance(value, ast.FormattedValue) else ""


# ----------------------------------------------------------------------------------------------------------- exit codes


def _exit_codes() -> list[str]:
    types: dict[int, list[str]] = {}
    for name in errors.__all__:
        types.setdefault(getattr(errors, name).exit_code, []).append(f"`{name}`")
    codes = {*types, *map(_exit, get_args(Status)), EXIT_INTERNAL, EXIT_OUTPUT, EXIT_INTERRUPTED}
    rows = [[str(code), EXIT_CODES[code], ", ".join(types.get(code, []))] for code in sorted(codes)]
    return [
        "## Exit codes",
        "",
        *_table("code", "meaning", "types", rows=rows)[:-1],
    ]


if __name__ == "__main__":
    REFERENCE.write_text(reference())
