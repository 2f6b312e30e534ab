"""A program with many threads spends what its tenant has, to the last call, and nothing beyond it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from belljar import Result, Runtime
from belljar.audit import records, verify
from belljar.models import NullModel
from belljar.quotas import differences
from tests import journals
from tests.integration.support import Jar

CALLS = 150
THREADS = 64
CODE = f"""
import threading
answers, refusals, others = [], [], []

def ask():
    while len(refusals) < {THREADS}:
        try:
            answers.append(llm_query("again"))
        except QuotaExceeded as error:
            refusals.append(str(error))
            return
        except Exception as error:  # too many at once, for one
            others.append(error)

threads = [threading.Thread(target=ask) for _ in range({THREADS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(answers), len(refusals))
"""


@pytest.mark.slow
def test_sixty_four_threads_spend_all_that_there_is_and_nothing_beyond(jar: Jar, store: str) -> None:
    place = journals.place(jar.journal)
    environ = {"BELLJAR_JOURNAL": place} if isinstance(place, str) else {}

    async def go() -> tuple[Result, list[Any]]:
        async with Runtime(state=jar.at, environ=environ, language="python") as runtime:
            await runtime.quotas.set("acme", "day", calls=CALLS, by="test")
            model = NullModel("fine", name="scripted:null")
            result = await runtime.execute(CODE, model=model, tenant="acme/research")
            return result, await runtime.quotas.show("acme")

    result, shown = asyncio.run(go())
    assert (result.status, result.error) == ("ok", None)
    assert result.stdout.split() == [str(CALLS), str(THREADS)]
    (day,) = [one for one in shown if one.period == "day" and one.tenant == "acme"]
    assert (day.used.calls, day.held.calls, day.left.calls) == (CALLS, 0, 0)
    assert place is not None
    assert len([record for record in records(place) if record.event == "query.completed"]) == CALLS
    assert jar.journal.exists() == (store == "sqlite")
    assert differences(place) == verify(place).problems == []
