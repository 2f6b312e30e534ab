"""Jobs that the policy `standard` is made for, at the prices of real models: what is affordable is done."""

from __future__ import annotations

import asyncio

from belljar import ModelReply, ModelRequest, Result, Runtime
from belljar.cli.run import DEFAULT_MODEL
from belljar.demo.oolong import DEMO_TASK, generate, lines_for_tokens, pair_task, question, score_f1
from belljar.demo.oracle import OracleModel
from belljar.demo.script import root_turns
from belljar.models import Prices, ScriptedModel, Usage
from tests.integration.support import Jar

USD = 10**9


class Listed:
    """A model by a listed name, and so at its price, which is played. Its answers take long enough to overlap."""

    name = DEFAULT_MODEL
    scripted = True

    def __init__(self) -> None:
        self.root = ScriptedModel(root_turns(DEMO_TASK))
        self.sub = OracleModel()
        self.output_tokens_least = 2**32

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.output_tokens_least = min(self.output_tokens_least, request.output_tokens_max)
        await asyncio.sleep(0.02)
        return await (self.root if request.purpose == "root" else self.sub).complete(request)

    async def aclose(self) -> None: ...


class Terse(Listed):
    """Reads 20 KB of English as a real model does, and answers in two sentences."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        await asyncio.sleep(0.02)
        return ModelReply("noted", Usage(5000, 100), self.name, "end_turn")


def test_a_million_tokens_at_the_default_models_price_are_within_the_standard_budget(jar: Jar) -> None:
    corpus = generate(lines_for_tokens(2**20))
    model = Listed()

    async def run() -> Result:
        async with Runtime("standard", state=jar.at, environ={}) as runtime:
            return await runtime.run(question(DEMO_TASK), context=corpus.text, model=model)

    result = asyncio.run(run())
    assert result.status == "ok", result.error
    assert isinstance(result.answer, str)
    assert score_f1(result.answer, pair_task(DEMO_TASK).gold(corpus)) == 1.0
    assert Prices().has(DEFAULT_MODEL)
    assert 2 * USD < result.cost < 5 * USD
    assert model.output_tokens_least == 16384  # nobody's answer was shortened for what others held


def test_a_batch_that_costs_two_of_five_dollars_is_answered_whole(jar: Jar) -> None:
    async def run() -> Result:
        async with Runtime("standard", state=jar.at, environ={}) as runtime:
            code = "FINAL(len(llm_query_batched([f'{n:05}' * 4000 for n in range(184)])))"
            return await runtime.execute(code, model=Terse())

    result = asyncio.run(run())
    assert (result.status, result.answer) == ("ok", 184), result.error
    assert result.cost == 184 * Prices().cost(DEFAULT_MODEL, Usage(5000, 100)) == 2_024_000_000
