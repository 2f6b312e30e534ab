"""What a policy says of the contents of prompts, in real boxes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from belljar import PolicyDenied, Result, Runtime
from belljar.identity import Language
from belljar.models import ScriptedModel
from belljar.policy import Policy, load
from tests.integration.support import Jar
from tests.integration.test_child_runs import Played
from tests.integration.test_contexts import LANGUAGES

DENIED = """
try:
    {}
except PolicyDenied as error:
    FINAL([error.code, str(error)])
"""


def policy_with(**models: Any) -> Policy:
    policy = load("standard")
    return msgspec.structs.replace(policy, name="test", models=msgspec.structs.replace(policy.models, **models))


def execute(jar: Jar, code: str, policy: Policy, language: Language, context: str = "a line\n") -> Result:
    async def main() -> Result:
        async with Runtime(policy, state=jar.at, language=language) as runtime:
            return await runtime.execute(code, context=context, model=ScriptedModel([], default="yes"))

    return asyncio.run(main())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_denied_prompt_is_an_exception_in_the_program_and_a_record_in_the_log(jar: Jar, language: Language) -> None:
    policy = policy_with(deny_prompts=("(?i)internal use",))
    code = DENIED.format("llm_query_batched(['a', 'Tell me: ' + context[:]])")
    result = execute(jar, code, policy, language, context="For INTERNAL USE only.")
    assert result.status == "ok", result.error
    named, words = result.answer
    assert named == "models.deny_prompts"
    assert words.startswith(
        "prompts[1] has text in it that the policy does not let out (models.deny_prompts, number 1)"
    )
    (refused,) = jar.records("request.refused")
    assert (refused.data["asked"], refused.data["code"]) == ("query", "models.deny_prompts")
    assert (result.usage.calls, jar.records("query.requested")) == (0, [])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_prompt_with_too_much_of_a_context_is_an_exception_in_the_program(jar: Jar, language: Language) -> None:
    """And a program that asks piece by piece goes on."""
    code = """
pieces = [context[at : at + len(context) // 8] for at in range(0, len(context), len(context) // 8)]
asked = llm_query_batched([piece[:1000] for piece in pieces])
try:
    llm_query("Which? " + context[: len(context) // 2])
except PolicyDenied as error:
    FINAL([len(asked), error.code, error.limit, 45 < error.observed < 55])
"""
    text = "".join(f"line {number}: {number * 7919 % 1000} of something or other\n" for number in range(2000))
    result = execute(jar, code, policy_with(prompt_share_percent=20), language, context=text)
    assert result.status == "ok", result.error
    assert result.answer == [9, "models.prompt_share", 20, True]


class Large(Played):
    name = "scripted:large"


class Small(Played):
    name = "scripted:small"


def by_depth(*patterns: tuple[str, ...]) -> Policy:
    return policy_with(by_depth=patterns, depth_max=3)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_may_choose_among_the_models_of_its_run_for_a_child_and_no_other(
    jar: Jar, language: Language
) -> None:
    asked = [
        f"rlm_query('[[x]]', 'text'{model}), " for model in ("", ", model='scripted:small'", ", model='scripted:large'")
    ]
    other = DENIED.format("rlm_query('[[x]]', 'text', model='claude-opus-5-5')").replace("FINAL(", "FINAL(found + ")
    large = Large({"alone": f"found = [{''.join(asked)}]{other}", "x": "FINAL('large')"})
    small = Small({"x": "FINAL('small')"})

    async def main() -> Result:
        async with Runtime(policy_with(), state=jar.at, environ={}, language=language) as runtime:
            return await runtime.run("What?", context="a line", model=large, sub_model=small)

    result = asyncio.run(main())
    assert result.status == "ok", result.error
    *found, code, said = result.answer
    assert (found, code) == (["large", "small", "large"], "model.denied")
    assert "scripted:large or scripted:small" in said
    named = [one.data["model"] for one in jar.records("query.requested")]
    assert named == ["scripted:large", "scripted:large", "scripted:small", "scripted:large"]


def test_a_child_may_not_be_given_to_a_model_that_its_depth_does_not_allow(jar: Jar) -> None:
    large = Large({"alone": DENIED.format("rlm_query('a', 'text', model='scripted:large')")})

    async def main() -> Result:
        async with Runtime(by_depth(("*large",), ("*small",)), state=jar.at, environ={}) as runtime:
            return await runtime.run("What?", context="a line", model=large, sub_model=Small({}))

    assert asyncio.run(main()).answer[0] == "models.by_depth"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_child_is_asked_by_the_model_that_its_depth_allows_and_one_too_deep_is_refused(
    jar: Jar, language: Language
) -> None:
    large = Large({"alone": "FINAL([llm_query('a'), rlm_query('[[x]]', 'text')])"})
    small = Small({"x": "FINAL([llm_query('a'), rlm_query('b')])", "alone": DENIED.format("FINAL(llm_query('a'))")})

    async def main() -> Result:
        policy = by_depth(("*large",), ("*small",), ("*small",), ())
        async with Runtime(policy, state=jar.at, environ={}, language=language) as runtime:
            return await runtime.run("What?", context="a line", model=large, sub_model=small)

    result = asyncio.run(main())
    assert result.status == "ok", result.error
    first, (second, refused) = result.answer
    assert (first, second, refused[0]) == ("1 a", "1 a", "models.by_depth")
    assert refused[1].startswith("the policy test does not let scripted:small be asked at depth 3: ")
    assert (len(large.openings), len(small.openings)) == (1, 2)
    assert "models.by_depth" in [one.data["code"] for one in jar.records("request.refused")]


@pytest.mark.parametrize("patterns", [(("*small",),), (("*large",), ("*large",))])
def test_no_run_starts_with_a_model_that_its_depth_does_not_allow(
    jar: Jar, patterns: tuple[tuple[str, ...], ...]
) -> None:
    async def main() -> None:
        async with Runtime(by_depth(*patterns), state=jar.at, environ={}) as runtime:
            await runtime.run("What?", context="a line", model=Large({}), sub_model=Small({}))

    with pytest.raises(PolicyDenied) as refused:
        asyncio.run(main())
    assert refused.value.code == "models.by_depth"
    assert jar.records("query.requested") == []
