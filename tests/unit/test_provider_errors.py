"""Calls of models that failed, as the page of a service's health tells them."""

from __future__ import annotations

from typing import Any

from belljar.audit.events import QueryCompleted, QueryFailed, QueryRequested
from belljar.service.provider_errors import PAIRS_MAX, ProviderErrors

SPENT: dict[str, Any] = {"calls": 1, "input_tokens": 1, "output_tokens": 1, "cost_nanousd": 1}


class Clock:
    def __init__(self) -> None:
        self.now = 10**6

    def __call__(self) -> float:
        return float(self.now)


def asked(errors: ProviderErrors, action: str, model: str, purpose: Any = "sub") -> None:
    told: dict[str, Any] = {"prompt_sha256": "ab" * 32, "prompt_bytes": 1, "output_tokens_max": 1}
    errors.observe("r", QueryRequested(action=action, cell=1, attempt=1, model=model, purpose=purpose, **told))


def failed(errors: ProviderErrors, model: str, error: str, purpose: Any = "sub") -> None:
    asked(errors, "r.1", model, purpose)
    errors.observe("r", QueryFailed(action="r.1", error=error, **SPENT))


def test_failed_calls_are_counted_by_model_and_code_and_those_of_the_last_hour_apart() -> None:
    clock = Clock()
    errors = ProviderErrors(clock=clock)
    failed(errors, "a", "the provider answered 529 (overloaded)")
    clock.now += 1800
    failed(errors, "a", "the provider answered 529 (overloaded)")
    failed(errors, "a", "no connection")
    failed(errors, "b", "429: too many requests")
    found = [tuple(one) for one in errors.ls(9)]
    assert found == [("a", "529", 2, 2), ("a", "no_answer", 1, 1), ("b", "429", 1, 1)]
    clock.now += 1900
    assert [tuple(one) for one in errors.ls(1)] == [("a", "529", 1, 2)]
    clock.now += 3600
    assert {one.last_hour for one in errors.ls(9)} == {0}
    assert sum(one.since_start for one in errors.ls(9)) == 4


def test_an_hour_of_failures_is_counted_whole_and_takes_bounded_memory() -> None:
    clock = Clock()
    errors = ProviderErrors(clock=clock)
    for _ in range(200):
        failed(errors, "a", "500")
        clock.now += 60
    (one,) = errors.ls(9)
    assert one.since_start == 200
    assert 59 <= one.last_hour <= 60


def test_tools_are_no_providers_and_an_answer_is_no_failure() -> None:
    errors = ProviderErrors()
    failed(errors, "tool:sum", "it raised ValueError", "tool")
    asked(errors, "r.1", "a")
    reply: dict[str, Any] = {"reply_sha256": "ab" * 32, "reply_bytes": 1, "answered_by": "a", "stop_reason": "end_turn"}
    errors.observe("r", QueryCompleted(action="r.1", **SPENT, **reply))
    errors.observe("r", QueryFailed(action="r.1", error="500", **SPENT))  # of a call that nobody knows
    assert errors.ls(9) == []


def test_however_many_models_fail_the_pairs_are_bounded() -> None:
    errors = ProviderErrors()
    for number in range(3 * PAIRS_MAX):
        failed(errors, f"model-{number}", "500")
    found = errors.ls(3 * PAIRS_MAX)
    assert len(found) == PAIRS_MAX + 1
    assert found[0][:2] == ("other", "other")
    assert sum(one.since_start for one in found) == 3 * PAIRS_MAX
