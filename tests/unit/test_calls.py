"""A metered call: logged before, reserved before, settled after, logged after, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import sqlite3
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar import heavy
from belljar.broker import Calls
from belljar.broker.calls import _ENTERING_MAX, _Answered, _complete, _pause_s
from belljar.broker.keeping import NOTHING_KEPT
from belljar.errors import HostFault, LedgerUnavailable, ModelFailed, PolicyDenied, QuotaExceeded
from belljar.heavy import LOOP_BYTES_MAX, off_loop
from belljar.identity import RunId, Tenant
from belljar.ledger import Amounts, Limits
from belljar.models import Message, ModelReply, ModelRequest, Prices, Rates, Usage, input_tokens_bound
from belljar.policy import load
from belljar.protocol import Query
from belljar.testing import FakeModel
from belljar.wire import Frame
from tests.journals import OwnLedger
from tests.unit.broker_fakes import INPUT_NANOUSD, OUTPUT_NANOUSD, World, drive, policy_with, reply, world
from tests.waiting import in_time


def question(text: str = "why?", output_tokens_max: int = 200) -> ModelRequest:
    return ModelRequest("system", (Message("user", text),), output_tokens_max, 60.0, "sub")


def worst(request: ModelRequest, output_tokens: int | None = None) -> Amounts:
    inputs = input_tokens_bound(request)
    outputs = request.output_tokens_max if output_tokens is None else output_tokens
    return Amounts(1, inputs, outputs, inputs * INPUT_NANOUSD + outputs * OUTPUT_NANOUSD)


def cost(input_tokens: int, output_tokens: int) -> Amounts:
    return Amounts(1, input_tokens, output_tokens, input_tokens * INPUT_NANOUSD + output_tokens * OUTPUT_NANOUSD)


def only(**bounds: int) -> Limits:
    return Limits(
        "total",
        *[bounds.get(name) for name in ("calls", "input_tokens", "output_tokens", "cost_nanousd", "read_bytes")],
    )


def attempts(number: int) -> dict[str, dict[str, int]]:
    return {"models": {"attempts_max": number}}


# --------------------------------------------------------------------------------------------------- the good path


def test_before_the_model_is_asked_the_request_is_durable_and_the_worst_case_is_held(tmp_path: Path) -> None:
    here: World
    seen: list[tuple[list[str], Amounts, Amounts]] = []

    async def answering(request: ModelRequest) -> ModelReply:
        balance = await here.balance()
        seen.append((here.events(), balance.held, balance.used))
        return reply("because", input_tokens=5, output_tokens=7)

    async def test() -> None:
        nonlocal here
        async with world(tmp_path) as here:
            answer = await here.calls.ask(FakeModel(answering), question(), cell=3)
            assert answer.text == "because"
            held = msgspec.structs.replace(worst(question()), calls_in_flight=1)
            assert seen == [(["query.requested"], held, Amounts())]
            assert (await here.balance()).used == cost(5, 7)
            assert here.events() == ["query.requested", "query.completed"]
            (_, requested), (_, completed) = here.durable()
            assert requested["action"] == completed["action"]
            assert (requested["cell"], requested["attempt"], requested["model"]) == (3, 1, "fake")
            assert (requested["purpose"], requested["prompt_bytes"]) == ("sub", len("systemwhy?"))
            assert (completed["input_tokens"], completed["output_tokens"], completed["reply_bytes"]) == (5, 7, 7)
            assert completed["cost_nanousd"] == cost(5, 7).cost_nanousd
            assert here.calls.spent.cost_nanousd == cost(5, 7).cost_nanousd

    drive(test())


def test_a_call_waits_for_its_record_however_long_that_takes(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path) as here:
            with contextlib.closing(sqlite3.connect(here.log)) as other:
                other.execute("BEGIN IMMEDIATE")  # nobody else writes to the log meanwhile
                asking = asyncio.create_task(here.calls.ask(model, question(), cell=3))
                async with in_time(60, "a round has begun"):
                    # Its round has begun, and waits for the lock.
                    while not here.journal._steady.locked():  # noqa: ASYNC110 - it belongs to a thread
                        await asyncio.sleep(0.001)
                await asyncio.sleep(0.2)  # as long as it would take, were it not for the record
                asked = len(model.requests)
                other.rollback()
            await asking
            assert (asked, len(model.requests)) == (0, 1)

    drive(test())


def test_neither_prompt_nor_reply_is_in_the_log(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.calls.ask(FakeModel(), question("a secret of the document"), cell=1)
            assert "secret" not in repr(here.durable())

    drive(test())


def test_no_more_calls_run_side_by_side_than_the_policy_allows(tmp_path: Path) -> None:
    running = worst_seen = 0
    full = asyncio.Event()

    async def answering(_: ModelRequest) -> ModelReply:
        nonlocal running, worst_seen
        running += 1
        worst_seen = max(worst_seen, running)
        if running == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0.005)
        running -= 1
        return reply("x")

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(models={"parallel_max": 3})) as here:
            model = FakeModel(answering)
            await asyncio.gather(*(here.calls.ask(model, question(), cell=1) for _ in range(12)))
            assert worst_seen == 3
            assert (await here.balance()).used.calls == 12

    drive(test())


def test_few_calls_are_on_their_way_at_a_time_and_all_arrive(tmp_path: Path) -> None:
    """The first of many is sent long before the last is held, and comes back before it, too."""
    holding = most = answering = 0
    everyone = asyncio.Event()

    async def together(_: ModelRequest) -> ModelReply:
        nonlocal answering
        answering += 1
        if answering == 20:
            everyone.set()
        await everyone.wait()
        return reply("x")

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(models={"parallel_max": 20})) as here:
            reserve = here.ledger.reserve

            async def counted(*args: Any, **options: Any) -> str:
                nonlocal holding, most
                holding += 1
                most = max(most, holding)
                try:
                    return await reserve(*args, **options)
                finally:
                    holding -= 1

            here.ledger.reserve = counted  # type: ignore[method-assign]
            async with in_time(60, "twenty calls are under way"):
                await asyncio.gather(*(here.calls.ask(FakeModel(together), question(), cell=1) for _ in range(20)))
            assert most == _ENTERING_MAX
            assert (await here.balance()).used.calls == 20

    drive(test())


def test_a_call_that_waits_for_room_is_in_nobody_s_way(tmp_path: Path) -> None:
    """Many wait for more money than is left while one is under way; what costs less does not wait behind them."""
    began, end = asyncio.Event(), asyncio.Event()

    async def slow(_: ModelRequest) -> ModelReply:
        began.set()
        await end.wait()
        return reply("x")

    async def test() -> None:
        async with world(tmp_path, limits=only(output_tokens=250)) as here:
            first = asyncio.create_task(here.calls.ask(FakeModel(slow), question(), cell=1))
            await began.wait()
            calls = [here.calls.ask(FakeModel(), question(), cell=1) for _ in range(_ENTERING_MAX)]
            waiting = [asyncio.create_task(call) for call in calls]
            async with in_time(60, "they wait"):
                while here.calls._admission._waiting < _ENTERING_MAX:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
            assert not here.calls._entrance.locked()
            end.set()
            await asyncio.gather(first, *waiting, return_exceptions=True)

    drive(test())


# --------------------------------------------------------------------------------------------------------- quotas


@pytest.mark.parametrize("limits", [only(calls=0), only(input_tokens=10), only(output_tokens=3), only(cost_nanousd=1)])
def test_what_does_not_fit_is_denied_and_the_model_is_not_asked(tmp_path: Path, limits: Limits) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, limits=limits) as here:
            with pytest.raises(QuotaExceeded) as caught:
                await here.calls.ask(model, question(), cell=1)
            assert model.requests == []
            assert here.events() == ["query.requested", "query.denied"]
            denied = here.durable()[1][1]
            assert denied["code"] == caught.value.code
            assert (denied["limit"], denied["observed"]) == (caught.value.limit, caught.value.observed)
            assert (await here.balance()).used == Amounts()

    drive(test())


@pytest.mark.parametrize("dimension", ["input_tokens", "cost_nanousd"])
def test_a_refusal_says_how_long_a_prompt_fits(tmp_path: Path, dimension: str) -> None:
    """That long it is answered, with the shortest answer; one character more and it is refused again."""

    async def length_that_fits() -> int:
        async with world(tmp_path / "1", limits=only(**{dimension: bound})) as here:
            with pytest.raises(QuotaExceeded, match=r"; a prompt of at most .* characters fits") as caught:
                await here.calls.ask(FakeModel(), question("x" * 30_000), cell=1)
            told = re.search(r"at most ([0-9,]+) characters fits, fewer where they are not ASCII$", str(caught.value))
            assert told is not None
            return int(told[1].replace(",", ""))

    async def test() -> None:
        fits = await length_that_fits()
        assert fits == 12_000
        async with world(tmp_path / "2", limits=only(**{dimension: bound})) as here:
            with pytest.raises(QuotaExceeded):
                await here.calls.ask(FakeModel(), question("x" * (fits + 1)), cell=1)
            await here.calls.ask(FakeModel(), question("x" * fits), cell=1)

    bound = getattr(worst(question("x" * 12_000), 16), dimension)
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    drive(test())


def test_a_refusal_for_what_no_length_mends_names_none(tmp_path: Path) -> None:
    async def test() -> None:
        for number, limits in enumerate([only(calls=0), only(output_tokens=3), only(cost_nanousd=1)]):
            place = tmp_path / str(number)
            place.mkdir()
            async with world(place, limits=limits) as here:
                with pytest.raises(QuotaExceeded) as caught:
                    await here.calls.ask(FakeModel(), question("x" * 3000), cell=1)
                assert "fits" not in str(caught.value)

    drive(test())


def test_a_small_quota_gets_as_long_an_answer_as_fits(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        room = worst(question(), 50).cost_nanousd + OUTPUT_NANOUSD - 1
        async with world(tmp_path, limits=only(cost_nanousd=room)) as here:
            await here.calls.ask(model, question(), cell=1)
            assert model.requests[0].output_tokens_max == 50

    drive(test())


def test_a_quota_of_output_tokens_shrinks_the_answer_too(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, limits=only(output_tokens=30)) as here:
            for _ in range(3):  # 7 tokens each: 30, 23 and 16 are left before, 9 after
                await here.calls.ask(model, question(), cell=1)
            with pytest.raises(QuotaExceeded):
                await here.calls.ask(model, question(), cell=1)
            assert [request.output_tokens_max for request in model.requests] == [30, 23, 16]

    drive(test())


def test_an_answer_too_short_to_be_of_use_is_not_bought(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, limits=only(cost_nanousd=worst(question(), 15).cost_nanousd)) as here:
            with pytest.raises(QuotaExceeded):
                await here.calls.ask(model, question(), cell=1)
            assert model.requests == []

    drive(test())


def test_calls_side_by_side_never_hold_or_use_more_than_the_limit(tmp_path: Path) -> None:
    here: World
    each = worst(question()).cost_nanousd
    limit = int(each * 3.5)
    most = 0

    async def answering(request: ModelRequest) -> ModelReply:
        nonlocal most
        balance = await here.balance()
        most = max(most, balance.held.cost_nanousd + balance.used.cost_nanousd)
        await asyncio.sleep(0.002)
        return reply("x", input_tokens=input_tokens_bound(request), output_tokens=request.output_tokens_max)

    async def test() -> None:
        nonlocal here
        async with world(tmp_path, limits=only(cost_nanousd=limit)) as here:
            model = FakeModel(answering)
            asked = [here.calls.ask(model, question(), cell=1) for _ in range(10)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(isinstance(one, QuotaExceeded) for one in outcomes) >= 6
            assert (await here.balance()).used.cost_nanousd <= limit
        assert 0 < most <= limit

    drive(test())


def test_a_model_without_a_price_is_denied_in_the_log_as_well(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel(name="unknown-model")
        async with world(tmp_path) as here:
            with pytest.raises(PolicyDenied):
                await here.calls.ask(model, question(), cell=1)
            assert model.requests == []
            assert here.durable()[1] == (
                "query.denied",
                {"action": "r1.1", "code": "model.unpriced"},
            )

    drive(test())


def root_question(*texts: str, output_tokens_max: int = 200) -> ModelRequest:
    """A conversation: the texts are by turns the user's and the model's."""
    roles: list[Any] = ["user", "assistant"]
    messages = tuple(Message(roles[place % 2], text) for place, text in enumerate(texts))
    return ModelRequest("system", messages, output_tokens_max, 60.0, "root")


def test_a_conversation_that_goes_on_holds_what_was_told_and_the_bytes_of_what_is_new(tmp_path: Path) -> None:
    held: list[int] = []
    here: World

    async def answering(_: ModelRequest) -> ModelReply:
        held.append((await here.balance()).held.input_tokens)
        return reply("done", input_tokens=told[len(held) - 1])

    told = [1000, 1, 1]

    async def test() -> None:
        nonlocal here
        async with world(tmp_path) as here:
            model, long = FakeModel(answering), "x" * 4000
            talk = [[long], [long, "done", "more"], [long, "done", "more", "done", "again"]]
            for texts in talk:
                await here.calls.ask(model, root_question(*texts), cell=1)
            by_bytes = [input_tokens_bound(root_question(*texts)) for texts in talk]
            # The second told fewer tokens than anybody can make of it, so the third is bounded by its bytes again.
            assert held == [by_bytes[0], 1000 + 64 + 2 * 32 + len("donemore"), by_bytes[2]]

    drive(test())


def test_the_root_s_next_call_is_kept_back_from_the_program(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, limits=only(calls=3)) as here:
            await here.calls.ask(model, root_question("go"), cell=0)
            assert (await here.calls.left()).calls == 1
            await here.calls.ask(model, question(), cell=1)
            with pytest.raises(QuotaExceeded, match="1 calls kept for the root model") as caught:
                await here.calls.ask(model, question(), cell=1)
            assert caught.value.code == "quota.run.calls"
            await here.calls.ask(model, root_question("go", "on", "then"), cell=1)
            assert (await here.balance()).used.calls == 3

    drive(test())


def test_money_is_kept_back_for_the_root_too_and_never_more_than_a_quarter(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        limit = 30 * worst(question()).cost_nanousd
        quota = msgspec.structs.replace(load("standard").quota.run, cost_nanousd=limit)
        policy = policy_with(quota={"run": quota})
        async with world(tmp_path, policy=policy, limits=only(cost_nanousd=limit)) as here:
            await here.calls.ask(model, root_question("go", output_tokens_max=10_000), cell=0)
            used = (await here.balance()).used.cost_nanousd
            assert (await here.calls.left()).cost_nanousd == limit - used - limit // 4
            model = FakeModel(lavish)
            with contextlib.suppress(QuotaExceeded):
                while True:
                    await here.calls.ask(model, question(), cell=1)
            assert limit // 4 <= limit - (await here.balance()).used.cost_nanousd < limit // 2
            await here.calls.ask(model, root_question("go", "on", "then", output_tokens_max=10_000), cell=1)

    async def lavish(request: ModelRequest) -> ModelReply:
        return reply("x", input_tokens=input_tokens_bound(request), output_tokens=request.output_tokens_max)

    drive(test())


def test_of_a_slice_no_more_than_a_quarter_is_kept_back(tmp_path: Path) -> None:
    async def test() -> None:
        limit = 30 * worst(question()).cost_nanousd
        async with world(tmp_path, limits=only(cost_nanousd=limit)) as here:
            here.calls.limits = only(cost_nanousd=limit)
            await here.calls.ask(FakeModel(), root_question("go", output_tokens_max=10_000), cell=0)
            used = (await here.balance()).used.cost_nanousd
            assert (await here.calls.left()).cost_nanousd == limit - used - limit // 4

    drive(test())


def test_without_a_root_model_nothing_is_kept_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, limits=only(calls=2)) as here:
            for _ in range(2):
                await here.calls.ask(FakeModel(), question(), cell=1)
            assert (await here.balance()).used.calls == 2

    drive(test())


# -------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("failure", "charged"),
    [
        (ModelFailed("down", charged=False), Amounts(calls=1)),
        (ModelFailed("lost"), worst(question())),
        (ModelFailed("half", input_tokens=9), worst(question())),
        (ModelFailed("late", input_tokens=9, output_tokens=4), cost(9, 4)),
    ],
)
def test_a_failure_is_charged_by_what_is_known_of_it(tmp_path: Path, failure: ModelFailed, charged: Amounts) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise failure

    async def test() -> None:
        async with world(tmp_path) as here:
            with pytest.raises(ModelFailed, match=str(failure)):
                await here.calls.ask(FakeModel(answering), question(), cell=1)
            assert (await here.balance()).used == charged
            assert here.events() == ["query.requested", "query.failed"]
            assert here.durable()[1][1]["cost_nanousd"] == charged.cost_nanousd
            assert here.durable()[1][1]["error"] == str(failure)

    drive(test())


@pytest.mark.parametrize(
    ("cached", "nanousd"),
    [
        ({}, 100 * 10),
        ({"cache_read_tokens": 90}, 10 * 10 + 90 * 1),
        ({"cache_write_tokens": 90}, 10 * 10 + 90 * 12),
        ({"cache_write_tokens": 90, "cache_write_1h_tokens": 40}, 10 * 10 + 50 * 12 + 40 * 20),
        ({"cache_read_tokens": 101}, None),  # more than all of it
        ({"cache_write_tokens": 5, "cache_write_1h_tokens": 6}, None),
        ({"cache_read_tokens": "many"}, None),
    ],
)
def test_what_a_failed_call_cost_counts_what_was_cached(
    tmp_path: Path, cached: dict[str, Any], nanousd: int | None
) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise ModelFailed("late", input_tokens=100, output_tokens=0, **cached)

    rates = [Decimal(rate) for rate in (INPUT_NANOUSD, OUTPUT_NANOUSD, 1, 12, 20)]

    async def test() -> None:
        async with world(tmp_path) as here:
            prices = Prices({"fake": Rates(*rates)})
            calls = Calls(here.scope, audit=here.audit, ledger=here.ledger, prices=prices)
            with pytest.raises(ModelFailed, match="late"):
                await calls.ask(FakeModel(answering), question(), cell=1)
            await calls.settled()
            worst_case = prices.bound("fake", worst(question()).input_tokens, 200)
            assert (await here.balance()).used.cost_nanousd == (worst_case if nanousd is None else nanousd)

    drive(test())


@pytest.mark.parametrize(("ttl", "rate"), [("5m", 12), ("1h", 20)])
def test_a_model_that_keeps_a_conversation_for_an_hour_reserves_for_it(tmp_path: Path, ttl: str, rate: int) -> None:
    held: list[int] = []
    rates = [Decimal(rate) for rate in (INPUT_NANOUSD, OUTPUT_NANOUSD, 1, 12, 20)]

    async def test() -> None:
        async with world(tmp_path) as here:

            async def answering(_: ModelRequest) -> ModelReply:
                held.append((await here.balance()).held.cost_nanousd)
                return reply("x")

            model = FakeModel(answering)
            model.cache_ttl = ttl  # type: ignore[attr-defined]
            prices = Prices({"fake": Rates(*rates)})
            calls = Calls(here.scope, audit=here.audit, ledger=here.ledger, prices=prices)
            await calls.ask(model, question(), cell=1)
            await calls.settled()
            assert held == [input_tokens_bound(question()) * rate + 200 * OUTPUT_NANOUSD]

    drive(test())


def test_each_attempt_is_an_action_and_a_reservation_of_its_own(tmp_path: Path) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        if len(model.requests) < 3:
            raise ModelFailed("busy", retryable=True, retry_after_s=0.0, input_tokens=2, output_tokens=0)
        return reply("at last")

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(**attempts(4))) as here:
            assert (await here.calls.ask(model, question(), cell=1)).text == "at last"
            await here.calls.settled()
            assert here.events() == [
                *("query.requested", "query.failed"),
                *("query.requested", "query.failed"),
                *("query.requested", "query.completed"),
            ]
            assert [data["action"] for _, data in here.durable()] == ["r1.1", "r1.1", "r1.2", "r1.2", "r1.3", "r1.3"]
            assert [data["attempt"] for event, data in here.durable() if event == "query.requested"] == [1, 2, 3]
            assert (await here.balance()).used == Amounts(3, 2 + 2 + 5, 7, 9 * INPUT_NANOUSD + 7 * OUTPUT_NANOUSD)

    model = FakeModel(answering)
    drive(test())


@pytest.mark.parametrize(("retryable", "asked"), [(True, 3), (False, 1)])
def test_attempts_end_with_the_policy_or_with_what_cannot_be_retried(
    tmp_path: Path, retryable: bool, asked: int
) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise ModelFailed("no", retryable=retryable, retry_after_s=0.0, charged=False)

    async def test() -> None:
        model = FakeModel(answering)
        async with world(tmp_path, policy=policy_with(**attempts(3))) as here:
            with pytest.raises(ModelFailed):
                await here.calls.ask(model, question(), cell=1)
            assert len(model.requests) == asked

    drive(test())


def test_the_wait_that_the_provider_asks_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def answering(_: ModelRequest) -> ModelReply:
        if not any(pauses):
            raise ModelFailed("busy", retryable=True, retry_after_s=37.5, charged=False)
        return reply("x")

    async def test() -> None:
        async with world(tmp_path) as here:
            monkeypatch.setattr(asyncio, "sleep", at_once)
            await here.calls.ask(FakeModel(answering), question(), cell=1)

    drive(test())
    (pause,) = [pause for pause in pauses if pause]
    assert 37.5 <= pause <= 37.5 * 1.5


def test_calls_that_fail_together_do_not_come_back_together() -> None:
    pauses = {_pause_s(ModelFailed("busy", retryable=True, retry_after_s=2.0), 1) for _ in range(50)}
    assert len(pauses) == 50
    assert 2.0 <= min(pauses) < max(pauses) <= 3.0
    own = [_pause_s(ModelFailed("busy", retryable=True), attempt) for attempt in (1, 2, 3, 20)]
    assert all(floor <= pause <= 1.5 * floor for floor, pause in zip((0.5, 1, 2, 30), own, strict=True))


def test_all_attempts_of_a_call_share_one_deadline(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=policy_with(**attempts(9))) as here:

            async def slow(_: ModelRequest) -> ModelReply:
                here.clock.now += 100
                raise ModelFailed("slow", retryable=True, retry_after_s=0.0, charged=False)

            model = FakeModel(slow)
            with pytest.raises(ModelFailed, match="slow"):
                await here.calls.ask(model, question(), cell=1)
            assert here.scope.policy.models.call_wall_s == 300
            assert [request.deadline_s for request in model.requests] == [300, 200, 100]

    drive(test())


def test_a_wait_beyond_the_time_of_the_call_is_not_begun(tmp_path: Path) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise ModelFailed("busy", retryable=True, retry_after_s=300.0, charged=False)

    async def test() -> None:
        model = FakeModel(answering)
        async with world(tmp_path) as here:
            assert here.scope.left_s() > 600
            with pytest.raises(ModelFailed):
                await here.calls.ask(model, question(), cell=1)
            assert len(model.requests) == 1

    drive(test())


def test_a_wait_beyond_the_end_of_the_run_is_not_begun(tmp_path: Path) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise ModelFailed("busy", retryable=True, retry_after_s=3600.0, charged=False)

    async def test() -> None:
        model = FakeModel(answering)
        async with world(tmp_path) as here:
            with pytest.raises(ModelFailed):
                await here.calls.ask(model, question(), cell=1)
            assert len(model.requests) == 1

    drive(test())


def test_a_call_gets_no_more_time_than_the_run_has_left_and_none_after_it(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path) as here:
            await here.calls.ask(model, question(), cell=1)
            here.clock.now = here.scope.deadline - 2.5
            await here.calls.ask(model, question(), cell=1)
            here.clock.now = here.scope.deadline
            with pytest.raises(PolicyDenied, match="time is up") as caught:
                await here.calls.ask(model, question(), cell=1)
            assert caught.value.code == "limits.run_wall"
            wall = here.scope.policy.models.call_wall_s
            assert [request.deadline_s for request in model.requests] == [wall, 2.5]

    drive(test())


def test_a_call_that_fails_when_the_run_s_time_is_up_failed_for_that(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:

            async def until_the_end(_: ModelRequest) -> ModelReply:
                here.clock.now = here.scope.deadline
                raise ModelFailed("no answer within 2.5 s", retryable=True)

            here.clock.now = here.scope.deadline - 2.5
            with pytest.raises(PolicyDenied, match="time is up") as caught:
                await here.calls.ask(FakeModel(until_the_end), question(), cell=1)
            assert caught.value.code == "limits.run_wall"

    drive(test())


@pytest.mark.slow
def test_a_model_that_keeps_no_deadline_is_given_up(tmp_path: Path) -> None:
    async def never(_: ModelRequest) -> ModelReply:
        await asyncio.Event().wait()
        raise AssertionError

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(models={"call_wall_s": 0.1, "attempts_max": 1})) as here:
            asking = asyncio.create_task(here.calls.ask(FakeModel(never), question(), cell=1))
            done, _ = await asyncio.wait({asking}, timeout=20)
            asking.cancel()
            assert done, "it is waited for without end"
            with pytest.raises(ModelFailed, match=r"did not answer within 0\.1 s"):
                await asking

    drive(test())


@pytest.mark.parametrize(
    "given",
    [
        None,
        b"bytes",
        ModelReply(None, Usage(), "fake-1", "end_turn"),  # type: ignore[arg-type]
        ModelReply("x", None, "fake-1", "end_turn"),  # type: ignore[arg-type]
        ModelReply("x", Usage(), b"fake-1", "end_turn"),  # type: ignore[arg-type]
        ModelReply("x", Usage(), "fake-1", ["end_turn"]),  # type: ignore[arg-type]
        ModelReply("x", Usage(1.5, 2), "fake-1", "end_turn"),  # type: ignore[arg-type]
        ModelReply("x", Usage(True, 2), "fake-1", "end_turn"),
        ModelReply("x", Usage(2**60, 2), "fake-1", "end_turn"),
    ],
    ids=repr,
)
def test_what_is_no_reply_is_a_fault_and_charged_in_full(tmp_path: Path, given: Any) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        return given  # type: ignore[no-any-return]

    async def test() -> None:
        async with world(tmp_path) as here:
            with pytest.raises(HostFault, match=r"the model fake raised \w+, which a model must never do"):
                await here.calls.ask(FakeModel(answering), question(), cell=1)
            assert (await here.balance()).used == worst(question())
            assert here.events() == ["query.requested", "query.failed"]

    drive(test())


def test_a_usage_that_the_books_cannot_take_is_no_usage(tmp_path: Path) -> None:
    """Each count is one that there could be; at this price they come to more than a million dollars."""

    async def answering(_: ModelRequest) -> ModelReply:
        return reply("x", output_tokens=2**31)

    async def failing(_: ModelRequest) -> ModelReply:
        raise ModelFailed("late", input_tokens=1, output_tokens=2**31)

    async def test() -> None:
        async with world(tmp_path) as here:
            dear = Prices({"fake": Rates(Decimal(10), Decimal(10**6))})
            for model, fault in ((FakeModel(answering), HostFault), (FakeModel(failing), ModelFailed)):
                calls = Calls(here.scope, audit=here.audit, ledger=here.ledger, prices=dear)
                calls.next_action = here.calls.next_action  # type: ignore[method-assign]
                with pytest.raises(fault):
                    await calls.ask(model, question(), cell=1)
                await calls.settled()
                assert calls.spent.cost_nanousd == calls.spent.assumed_nanousd > 0
            assert (await here.data("query.failed"))[0]["error"] == "the model object raised TypeError"

    drive(test())


def test_what_no_provider_told_is_told_apart(tmp_path: Path) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        match len(model.requests):
            case 1:
                return reply("fine")
            case 2:
                raise ModelFailed("lost")
            case 3:
                raise ModelFailed("late", input_tokens=9, output_tokens=4)
            case _:
                raise ModelFailed("down", charged=False)

    model = FakeModel(answering)

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(**attempts(1))) as here:
            for _ in range(4):
                with contextlib.suppress(ModelFailed):
                    await here.calls.ask(model, question(), cell=1)
            spent, assumed = here.calls.spent, worst(question()).cost_nanousd
            assert spent.assumed_nanousd == assumed
            assert spent.cost_nanousd == assumed + cost(5 + 9, 7 + 4).cost_nanousd

    drive(test())


class _Odd(BaseException):
    """Neither an error nor a cancellation."""


@pytest.mark.parametrize("raised", [asyncio.CancelledError, _Odd])
def test_a_model_that_says_it_was_cancelled_when_nobody_did_is_at_fault(
    tmp_path: Path, raised: type[BaseException]
) -> None:
    async def answering(request: ModelRequest) -> ModelReply:
        if request.messages[-1].text == "b":
            raise raised
        return reply("fine")

    async def test() -> None:
        async with world(tmp_path, model=FakeModel(answering)) as here:
            await here.in_cell()
            with pytest.raises(HostFault, match=f"the model fake raised {raised.__name__}"):
                await here.broker.handle(Frame(Query(1, None, [1, 1]), b"ab"))

    drive(test())


def test_one_run_stands_in_line_for_heavy_work_once(tmp_path: Path) -> None:
    """The thread is busy; behind eight prompts of one run that wait for it, another's work is the second in line."""
    order: list[str] = []
    taken, gate = threading.Event(), threading.Event()
    large = "x" * (LOOP_BYTES_MAX + 1)

    def block() -> None:
        taken.set()
        gate.wait()

    async def answering(_: ModelRequest) -> ModelReply:
        order.append("prompt")
        return reply("x")

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(models={"parallel_max": 8})) as here:
            busy = asyncio.create_task(off_loop(LOOP_BYTES_MAX + 1, block))
            await asyncio.to_thread(taken.wait, 30)
            calls = [
                asyncio.create_task(here.calls.ask(FakeModel(answering), question(large), cell=1)) for _ in range(8)
            ]
            while heavy._THREAD._work_queue.qsize() < 1:  # noqa: ASYNC110 - a queue tells nobody
                await asyncio.sleep(0.001)
            for _ in range(10):
                await asyncio.sleep(0)
            assert heavy._THREAD._work_queue.qsize() == 1
            other = asyncio.create_task(off_loop(LOOP_BYTES_MAX + 1, order.append, "other"))
            await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(busy, other, *calls)
            assert order.index("other") <= 1

    try:
        drive(test())
    finally:
        gate.set()


@pytest.mark.parametrize("wish", [SystemExit, KeyboardInterrupt])
def test_a_model_that_ends_the_process_ends_it_in_order(tmp_path: Path, wish: type[BaseException]) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise wish

    async def test() -> None:
        async with world(tmp_path) as here:
            with pytest.raises(wish):
                await here.calls.ask(FakeModel(answering), question(), cell=1)
            assert (await here.balance()).used == worst(question())
            assert here.events() == ["query.requested", "query.failed"]

    drive(test())


@pytest.mark.parametrize("reads", range(2, 8))
def test_a_name_that_raises_leaves_no_open_action(tmp_path: Path, reads: int) -> None:
    class Shy(FakeModel):
        left = reads

        @property
        def name(self) -> str:
            self.left -= 1
            if not self.left:
                raise ZeroDivisionError
            return "fake"

        @name.setter
        def name(self, _: str) -> None: ...

    async def test() -> None:
        async with world(tmp_path) as here:  # which ends with a look at the log and the books
            with contextlib.suppress(ZeroDivisionError, HostFault):
                await here.calls.ask(Shy(), question(), cell=1)

    drive(test())


@pytest.mark.parametrize("count", [-1, 1.5, 2**70])
def test_a_failure_with_no_count_of_tokens_is_charged_in_full(tmp_path: Path, count: Any) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise ModelFailed("half", input_tokens=count, output_tokens=1)

    async def test() -> None:
        async with world(tmp_path) as here:
            with pytest.raises(ModelFailed, match="half"):
                await here.calls.ask(FakeModel(answering), question(), cell=1)
            assert (await here.balance()).used == worst(question())

    drive(test())


@pytest.mark.parametrize("asked", [float("nan"), float("inf"), -5.0, "soon", [7]])
def test_a_wait_that_is_no_number_is_ours_to_choose(tmp_path: Path, asked: Any) -> None:
    tries = 0

    async def answering(_: ModelRequest) -> ModelReply:
        nonlocal tries
        tries += 1
        raise ModelFailed("down", retryable=True, retry_after_s=asked, charged=False)

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(**attempts(2))) as here:
            with pytest.raises(ModelFailed, match="down"):
                await here.calls.ask(FakeModel(answering), question(), cell=1)
        assert tries == 2

    drive(test())


def test_a_wait_of_any_length_can_be_asked_for() -> None:
    busy = ModelFailed("busy", retryable=True, retry_after_s=10**400)
    assert 10**8 < _pause_s(busy, 1) < 10**9


@pytest.mark.parametrize("charged", [None, 0, "no"])
def test_only_a_model_that_says_so_has_charged_nothing(tmp_path: Path, charged: Any) -> None:
    async def answering(_: ModelRequest) -> ModelReply:
        raise ModelFailed("down", charged=charged)

    async def test() -> None:
        async with world(tmp_path) as here:
            with pytest.raises(ModelFailed, match="down"):
                await here.calls.ask(FakeModel(answering), question(), cell=1)
            assert (await here.balance()).used == worst(question())

    drive(test())


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["deadline", "cancellation"])
def test_a_model_that_does_not_let_itself_be_cancelled_is_left_behind(tmp_path: Path, ends: str) -> None:
    asked, enough = asyncio.Event(), asyncio.Event()

    async def stubborn(_: ModelRequest) -> ModelReply:
        asked.set()
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()
        return reply("too late")

    async def test() -> None:
        wall_s = 0.1 if ends == "deadline" else 3600.0
        async with world(tmp_path, policy=policy_with(models={"call_wall_s": wall_s, "attempts_max": 1})) as here:
            call = asyncio.create_task(here.calls.ask(FakeModel(stubborn), question(), cell=1))
            await asked.wait()
            if ends == "cancellation":
                call.cancel()
            try:
                await asyncio.wait([call], timeout=20)
                assert call.done()
                with pytest.raises(ModelFailed if ends == "deadline" else asyncio.CancelledError):
                    call.result()
                assert (await here.balance()).used == worst(question())
                assert here.events() == ["query.requested", "query.failed"]
            finally:
                enough.set()

    drive(test())


# ---------------------------------------------------------------------------------------------------- cancellation


def test_a_call_cancelled_on_its_way_is_charged_in_full_and_logged_as_failed(tmp_path: Path) -> None:
    async def test() -> None:
        asked = asyncio.Event()

        async def answering(_: ModelRequest) -> ModelReply:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        async with world(tmp_path) as here:
            task = asyncio.create_task(here.calls.ask(FakeModel(answering), question(), cell=1))
            await asked.wait()
            task.cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await here.balance()).used == worst(question())
            assert here.calls.spent.cost_nanousd == worst(question()).cost_nanousd
            assert here.events() == ["query.requested", "query.failed"]
            assert "interrupted" in here.durable()[1][1]["error"]

    drive(test())


def test_a_call_cancelled_at_any_moment_ends_its_action_and_its_reservation(tmp_path: Path) -> None:
    """Cancels after 0, 1, 2 ... turns of the event loop until the call gets through; `world` checks books and log."""
    asked: list[bool] = []

    async def answering(_: ModelRequest) -> ModelReply:
        await asyncio.sleep(0)
        return reply("x")

    async def cancelled(folder: Path, turns: int) -> bool:
        async with world(folder) as here:
            model = FakeModel(answering)
            task = asyncio.create_task(here.calls.ask(model, question(), cell=1))
            for _ in range(turns):
                await asyncio.sleep(0.0002)
            task.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            used = (await here.balance()).used
            if not model.requests:
                assert used == Amounts()
                assert "query.completed" not in here.events()
            asked.append(bool(model.requests))
            return isinstance(outcome, asyncio.CancelledError)

    turns = 0
    while drive(cancelled(new_folder(tmp_path, turns), turns)):
        turns += 1
    assert not asked[0]
    assert asked[-1]


@pytest.mark.slow
def test_a_call_that_waits_for_room_may_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    """Cancels after 0, 1, 2 ... moments, while another holds the room, and while it is given back."""

    async def cancelled(folder: Path, moments: int) -> None:
        leave = asyncio.Event()

        async def answering(_: ModelRequest) -> ModelReply:
            await leave.wait()
            return reply("x")

        limit = worst(question()).cost_nanousd * 3 // 2
        async with world(folder, limits=only(cost_nanousd=limit)) as here:
            model = FakeModel(answering)
            first = asyncio.create_task(here.calls.ask(model, question(), cell=1))
            while not model.requests:  # noqa: ASYNC110 - the model tells nobody
                await asyncio.sleep(0.001)
            waiting = asyncio.create_task(here.calls.ask(model, question(), cell=1))
            for moment in range(moments):
                if moment == 12:
                    leave.set()
                await asyncio.sleep(0.0005)
            waiting.cancel()
            leave.set()
            await asyncio.gather(first, waiting, return_exceptions=True)
            await here.calls.ask(model, question(), cell=1)  # nobody is in the way any more

    for moments in range(0, 32, 2):
        drive(cancelled(new_folder(tmp_path, moments), moments))


def test_cancelled_while_the_request_is_logged_it_is_logged_as_denied(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path) as here:
            task = asyncio.create_task(here.calls.ask(model, question(), cell=1))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert model.requests == []
            assert [(event, data.get("code")) for event, data in here.durable()] == [
                ("query.requested", None),
                ("query.denied", "cancelled"),
            ]

    drive(test())


# ------------------------------------------------------------------------------------------- log and books that fail


def test_without_a_journal_the_model_is_not_asked(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path) as here:
            broken = OwnLedger(None, owner="1:1")
            await broken.aclose()
            calls = Calls(here.scope, audit=here.audit, ledger=broken, prices=free_prices())
            with pytest.raises(LedgerUnavailable):
                await calls.ask(model, question(), cell=1)
            assert model.requests == []
            assert here.durable() == []

    drive(test())


def test_a_journal_that_fails_after_the_call_fails_what_comes_next(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            ledger = OwnLedger(None, owner="1:1")
            free = Limits("total", None, None, None, None, None)
            await ledger.open_run(RunId("r1"), Tenant("acme"), run_limits=free, tenant_limits=free)

            async def answering(_: ModelRequest) -> ModelReply:
                await ledger.aclose()
                return reply("x")

            calls = Calls(here.scope, audit=here.audit, ledger=ledger, prices=free_prices())
            assert (await calls.ask(FakeModel(answering), question(), cell=1)).text == "x"
            with pytest.raises(LedgerUnavailable):
                await calls.settled()
            with pytest.raises(LedgerUnavailable):
                await calls.ask(FakeModel(), question(), cell=1)

    drive(test())


class _Crooked(OwnLedger):
    """Settles in ways that nobody foresaw."""

    raises: BaseException

    async def settle(self, *_: Any, **__: Any) -> None:
        raise self.raises


@pytest.mark.parametrize("raised", [ZeroDivisionError(), asyncio.CancelledError(), LedgerUnavailable("gone")])
def test_whatever_goes_wrong_with_an_end_is_the_run_s_fault(tmp_path: Path, raised: BaseException) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            ledger = _Crooked(None, owner="1:1")
            ledger.raises = raised
            await ledger.open_run(RunId("r1"), Tenant("acme"), run_limits=only(), tenant_limits=only())
            calls = Calls(here.scope, audit=here.audit, ledger=ledger, prices=free_prices())
            await calls.ask(FakeModel(), question(), cell=1)
            with pytest.raises(HostFault):
                await calls.settled()
            with pytest.raises(HostFault):
                await calls.ask(FakeModel(), question(), cell=1)
            await ledger.aclose()

    drive(test())


def test_an_outcome_that_has_no_form_in_the_log_is_logged_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = _Answered("a" * 64, 1.5, "m", "s", Usage(), NOTHING_KEPT)  # type: ignore[arg-type]
    monkeypatch.setattr("belljar.broker.calls._answered", lambda *_: odd)

    async def test() -> None:
        async with world(tmp_path) as here:
            calls = Calls(here.scope, audit=here.audit, ledger=here.ledger, prices=free_prices())
            await calls.ask(FakeModel(), question(), cell=1)
            with pytest.raises(HostFault, match="TypeError"):
                await calls.settled()
            assert [data["error"] for data in await here.data("query.failed")] == [
                "its outcome could not be logged: TypeError"
            ]

    drive(test())


def new_folder(parent: Path, number: int) -> Path:
    folder = parent / str(number)
    folder.mkdir()
    return folder


def free_prices() -> Prices:
    return Prices({"fake": Rates(Decimal(0), Decimal(0))})


def test_a_failure_in_the_moment_in_which_its_caller_is_cancelled_is_nobodys_surprise() -> None:
    """The loop complains of errors that nobody took; here somebody else's end came first."""
    complaints: list[str] = []

    async def go() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
        asked, may_fail = asyncio.Event(), asyncio.Event()

        async def fails(_: ModelRequest) -> str:
            asked.set()
            await may_fail.wait()
            loop.call_soon(asking.cancel)
            raise ModelFailed("too busy")

        asking = asyncio.create_task(_complete(FakeModel(fails), question()))
        await asked.wait()
        may_fail.set()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(go())
    gc.collect()
    assert complaints == []
