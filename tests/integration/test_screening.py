"""What a policy says of the contents of prompts, in real boxes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from belljar import Result, Runtime
from belljar.identity import Language
from belljar.models import ScriptedModel
from belljar.policy import Policy, load
from tests.integration.support import Jar
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
