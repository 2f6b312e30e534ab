"""Texts that a policy watches for, in real boxes."""

from __future__ import annotations

import asyncio

import pytest

from belljar import PolicyDenied, Result, Runtime
from belljar.identity import Language
from belljar.models import ScriptedModel
from belljar.policy import Policy
from belljar.streaming import CanaryEvent
from tests.integration.support import Jar
from tests.integration.test_child_runs import Played
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
    assert "canary.seen" in jar("audit", "show", result.run, "--records").stdout


ENDING = {
    "prompt": ("try:\n    llm_query(context[:])\nexcept Exception:\n    FINAL(1)", 0),
    "reply": ("try:\n    llm_query_batched(['a'])\nexcept Exception:\n    FINAL(1)", 1),
    "output": ("print(context[:])\nFINAL(1)", 0),
    "answer": ("FINAL([context[:]])", 0),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("place", ENDING)
def test_a_planted_text_ends_the_run_where_the_policy_says_so(jar: Jar, place: str, language: Language) -> None:
    code, calls = ENDING[place]
    result = execute(jar, code, watching(on_canary="end"), language)
    assert (result.status, result.answer, result.usage.calls) == ("denied", None, calls)
    assert result.limit is not None
    assert result.error is not None
    assert (result.limit.code, result.error.type) == ("models.on_canary", "PolicyDenied")
    assert not any(text in result.error.message for text in (KEY, LURE))
    assert seen(jar) == [(place, 2 if place == "reply" else 1)]
    assert jar.records("answer.given") == []
    (finished,) = jar.records("run.finished")
    assert (finished.data["status"], finished.data["code"]) == ("denied", "models.on_canary")
    assert (len(jar.records("query.requested")), jar.spent().calls, jar.open_reservations()) == (calls, calls, 0)


def test_a_planted_text_in_a_reply_of_the_root_model_ends_its_session(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(watching(on_canary="end"), state=jar.at) as runtime:
            model = ScriptedModel([f"```repl\nprint('{LURE}')\n```", "```repl\nFINAL(1)\n```"])
            async with runtime.session(context=CONTEXT, root_model=model) as session:
                asked = await session.ask("What?")
                assert (asked.status, asked.limit and asked.limit.code) == ("denied", "models.on_canary")
                with pytest.raises(PolicyDenied) as refused:
                    await session.ask("And now?")
                assert refused.value.code == "session.ended"

    asyncio.run(main())
    assert (seen(jar), jar.records("cell.started")) == ([("reply", 2)], [])


def test_a_planted_text_in_a_child_run_ends_the_child_and_its_parent_is_told(jar: Jar) -> None:
    asking = "try:\n    rlm_query('[[x]]', 'text')\nexcept PolicyDenied as error:\n    FINAL(error.code)"
    model = Played({"root": asking, "x": "print('wolf in' + ' sheep')\nFINAL(1)"})

    async def main() -> Result:
        async with Runtime(watching(on_canary="end", depth_max=2), state=jar.at, environ={}) as runtime:
            return await runtime.run("[[root]]", context="a line", model=model)

    result = asyncio.run(main())
    assert (result.status, result.answer) == ("ok", "models.on_canary")
    assert [record.run == result.run for record in jar.records("canary.seen")] == [False]


def test_a_stream_tells_of_a_planted_text(jar: Jar) -> None:
    async def main() -> list[CanaryEvent]:
        async with Runtime(watching(), state=jar.at, environ={}) as runtime:
            model = ScriptedModel(["```repl\nprint(context[:])\n```", "```repl\nFINAL(1)\n```"])
            stream = runtime.stream("What?", context=CONTEXT, model=model)
            return [event async for event in stream if isinstance(event, CanaryEvent)]

    assert [(event.cell, event.place, event.canary) for event in asyncio.run(main())] == [(1, "output", 1)]
