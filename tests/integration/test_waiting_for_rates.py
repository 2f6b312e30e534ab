"""A rate that a program's calls wait for, with a real box: the clock of periods runs on only when there is somebody."""

from __future__ import annotations

import asyncio
import time

import pytest

from belljar import Result, Runtime
from belljar.journal.sqlite import SqliteStore
from belljar.models import ModelReply, ModelRequest, Usage
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, SMALL, Jar

NOON = 1795435200.0
CODE = """
print(llm_query("one"))
try:
    print(llm_query("two"))
except QuotaExceeded as error:
    print("refused:", error)
"""


class Minute:
    """A clock that stands three seconds before the end of a minute, until a model was asked; or for ever."""

    def __init__(self, *, runs_on: bool) -> None:
        self._runs_on = runs_on
        self.asked_at: float | None = None
        self.model = FakeModel(self._answer, name="scripted:fine")

    async def _answer(self, _: ModelRequest) -> ModelReply:
        if self._runs_on:
            self.asked_at = self.asked_at or time.monotonic()
        return ModelReply("fine", Usage(5, 7), "fine-1", "end_turn")

    def now(self) -> float:
        return NOON + 57 + (0.0 if self.asked_at is None else time.monotonic() - self.asked_at)


@pytest.mark.parametrize("wait", ["0 s", "5 s"])
def test_a_program_s_call_waits_for_the_next_minute_where_its_policy_says_so(
    jar: Jar, monkeypatch: pytest.MonkeyPatch, wait: str
) -> None:
    minute = Minute(runs_on=wait != "0 s")
    monkeypatch.setattr(SqliteStore, "now", lambda _: minute.now())
    policy = jar.file("waits.toml", f'{SMALL}\n[quota]\nwait = "{wait}"\n')

    async def go() -> tuple[Result, dict[str, int]]:
        async with Runtime(state=jar.at, environ={}, policy=policy) as runtime:
            await runtime.quotas.set("acme", "minute", calls=1, by="test")
            result = await runtime.execute(CODE, model=minute.model, tenant="acme")
            ledger, _ = runtime.quotas._writing()
            keys = ("2026-11-23T12:00", "2026-11-23T12:01")
            return result, {key: (await ledger.spent("acme", key)).calls for key in keys}

    result, used = asyncio.run(asyncio.wait_for(go(), PATIENCE_S))
    assert result.status == "ok", result.error
    first, second = result.stdout.splitlines()
    assert first == "fine"
    if wait == "0 s":
        assert second.startswith(
            "refused: tenant acme has 0 calls of 1 calls left for the minute 2026-11-23 12:00 (UTC)"
        )
        assert used == {"2026-11-23T12:00": 1, "2026-11-23T12:01": 0}
    else:
        assert second == "fine"
        assert used == {"2026-11-23T12:00": 1, "2026-11-23T12:01": 1}
