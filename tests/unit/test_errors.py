"""The error tree: the culprit is the type, the drawing at the top of the file is the tree, exit codes are as told."""

from __future__ import annotations

import inspect
import re

import pytest

from belljar import errors
from belljar.errors import BelljarError, GuestFault, HostFault, ModelFailed, QuotaExceeded, Refusal


def classes() -> dict[str, type[BelljarError]]:
    return {name: getattr(errors, name) for name in errors.__all__}


def drawn() -> dict[str, str | None]:
    """The tree in the module's docstring: each class with its parent."""
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in inspect.getdoc(errors).__str__().splitlines():
        found = re.match(r"^[ │├└─]*([A-Z]\w+)(\s|$)", line)
        if found is None or found[1] not in errors.__all__:
            continue
        depth = found.start(1)
        while path and path[-1][0] >= depth:
            path.pop()
        parents[found[1]] = path[-1][1] if path else None
        path.append((depth, found[1]))
    return parents


def test_the_drawing_is_the_tree() -> None:
    real = {name: kind.__base__.__name__ for name, kind in classes().items() if kind.__base__ is not None}
    assert drawn() == {**real, "BelljarError": None}


def test_every_error_has_exactly_one_culprit() -> None:
    for name, kind in classes().items():
        culprits = [issubclass(kind, culprit) for culprit in (GuestFault, Refusal, HostFault)]
        assert sum(culprits) == (name != "BelljarError"), name


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("AccessDenied", 4),
        ("AccessForbidden", 4),
        ("AccessThrottled", 4),
        ("ContentErased", 2),
        ("ContentLocked", 2),
        ("ContentMissing", 2),
        ("InvalidInput", 2),
        ("InvalidPolicy", 3),
        ("LayerMissing", 4),
        ("PolicyDenied", 4),
        ("QuotaExceeded", 5),
        ("LedgerUnavailable", 8),
        ("GuestDied", 6),
        ("ProtocolViolation", 6),
        ("ModelFailed", 7),
        ("AuditUnavailable", 8),
        ("VerificationFailed", 9),
        ("BoxFault", 1),
        ("HostFault", 1),
    ],
)
def test_exit_codes_are_those_of_the_command_line(name: str, code: int) -> None:
    assert classes()[name].exit_code == code


def test_a_refusal_carries_its_numbers() -> None:
    error = QuotaExceeded("no", code="quota.run.calls", limit=2, observed=3)
    assert (str(error), error.code, error.limit, error.observed) == ("no", "quota.run.calls", 2, 3)
    assert (Refusal("no").code, Refusal("no").limit, Refusal("no").observed) == ("refused", None, None)


def test_a_model_s_failure_is_taken_for_charged_unless_it_is_certain_that_it_was_not() -> None:
    error = ModelFailed("no")
    assert (error.charged, error.retryable, error.retry_after_s) == (True, False, None)
    assert (error.input_tokens, error.output_tokens) == (None, None)
