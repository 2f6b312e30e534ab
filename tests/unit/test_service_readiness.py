"""Whether a service is ready: everybody who asks is told soon, also where something does not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from belljar.service.readiness import Readiness


def test_many_who_ask_at_once_wait_for_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], list[float]()
    host: Any = SimpleNamespace(try_box=None)
    readiness = Readiness(host, clock=lambda: now[0])

    async def slow() -> dict[str, str]:
        asked.append(now[0])
        now[0] += 2.0
        await asyncio.sleep(0)
        return {"backend": "slow"}

    monkeypatch.setattr(readiness, "_ask", slow)

    async def go() -> list[dict[str, str]]:
        return await asyncio.gather(*(readiness.look() for _ in range(10)))

    assert asyncio.run(go()) == [{"backend": "slow"}] * 10
    assert asked == [100.0]
