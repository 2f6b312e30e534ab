"""Texts that a policy watches for, in real boxes."""

from __future__ import annotations

import asyncio

import pytest

from belljar import Result, Runtime
from belljar.identity import Language
from belljar.models import ScriptedModel
from belljar.policy import Policy
from tests.integration.support import Jar
from tests.integration.test_contexts import LANGUAGES
from tests.integration.test_screening import policy_with

# The policy sorts them: these are numbers 1 and 2.
KEY, LURE = "K-4711 Ä", "wolf in sheep"
CONTEXT = f"An ordinary line.\n{KEY}\n"


def watching(**models: object) -> Policy:
    return policy_with(canaries=(KEY, LURE), **models)


def execute(jar: Jar, code: str, policy: Policy, language: Language) -> Result:
    async def main() -> Result:
        async with Runtime(policy, state=jar.at, language=language) as runtime:
            return await runtime.execute(code, context=CONTEXT, model=ScriptedModel([], default=LURE))

    return asyncio.run(main())


def seen(jar: Jar) -> list[tuple[str, int]]:
    return [(record.data["place"], record.data["canary"]) for record in jar.records("canary.seen")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_planted_text_is_told_of_wherever_it_turns_up_and_the_run_goes_on(jar: Jar, language: Language) -> None:
    code = "said = llm_query('Why? ' + context[:])\nprint(context[:])\nFINAL([said, context[:]])"
    result = execute(jar, code, watching(), language)
    assert (result.status, result.answer) == ("ok", [LURE, CONTEXT])
    assert seen(jar) == [("prompt", 1), ("reply", 2), ("output", 1), ("answer", 1), ("answer", 2)]
    assert all(KEY.encode() not in record.body and LURE.encode() not in record.body for record in jar.records())
    assert "canary.seen" in jar("audit", "show", result.run).stdout
