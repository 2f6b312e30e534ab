"""How much of a run the log takes, however much it reads or is refused, and what its program hears of others."""

from __future__ import annotations

import re
from pathlib import Path

from belljar.audit import characters_read, records
from belljar.broker.denials import LOGGED_MAX
from belljar.broker.readlog import JOINED_MAX, SINGLE_MAX
from belljar.ledger import USED_UP, Limits
from belljar.protocol import Budget, Left, Read
from belljar.testing import FakeModel
from belljar.wire import Frame
from tests.journals import set_limits
from tests.unit.broker_fakes import TENANT, drive, world
from tests.unit.test_broker import answers, ask, calls_left, refused


def test_of_refused_calls_the_log_has_the_first_ones_and_then_their_number(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, model=FakeModel(), limits=calls_left(0)) as here:
            await here.in_cell()
            for _ in range(250):
                assert await answers(here, "one") == [None]
            await here.broker.settled()
            requested, denied = await here.data("query.requested"), await here.data("query.denied")
            assert len(requested) == len(denied) == LOGGED_MAX
            (summed,) = await here.data("request.refused")
            assert (summed["asked"], summed["code"], summed["count"]) == ("query", "quota.run.calls", 250)
            assert here.broker.denials == 250

    drive(test())


def test_of_each_kind_of_refusal_the_log_has_the_first_ones(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, texts=["text"]) as here:
            await here.in_cell()
            for number in range(1, 251):
                await refused(here, Read(number, 9, 0, 1, 0))
            await refused(here, Read(251, 0, 0, 99, 0))
            await here.broker.settled()
            said = [(data["code"], data.get("count")) for data in await here.data("request.refused")]
            assert said[-2:] == [("read.out_of_range", None), ("read.no_document", 250)]

    drive(test())


def test_of_very_many_reads_the_log_has_the_ranges_in_few_records(tmp_path: Path) -> None:
    text = "0123456789" * 1000

    async def test() -> None:
        async with world(tmp_path, texts=[text]) as here:
            await here.in_cell()
            for number in range(SINGLE_MAX + 2 * JOINED_MAX + 5):
                await here.broker.handle(Frame(Read(number + 1, 0, 2 * number, 2 * number + 1, 7), b""))
            await refused(here, Read(1, 9, 0, 1, 0))
            found = await here.data("context.read")
            assert len(found) == SINGLE_MAX + 3
            assert [data["reads"] for data in found[-3:]] == [JOINED_MAX, JOINED_MAX, 5]
            assert here.events()[-2:] == ["context.read", "request.refused"]
            ours = [one for one in records(here.log) if one.event == "context.read"]
            assert characters_read(ours) == here.broker.reads == SINGLE_MAX + 2 * JOINED_MAX + 5

    drive(test())


def test_a_program_hears_no_number_of_what_its_tenants_parent_has(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, model=FakeModel()) as here:
            await here.in_cell()
            await set_limits(here.ledger, TENANT.levels[0], Limits("total", 1, None, None, None, None))
            left = await here.say(Budget(1))
            assert left is not None
            assert isinstance(left[0], Left)
            assert left[0].calls is None
            for prompts in (("one", "two"), ("one",), ("two",)):
                said = await here.say(*ask(*prompts))
                if prompts != ("one",):
                    assert USED_UP in repr(said)
                    assert "acme" not in repr(said)
                    assert not re.search(r"[1-9] (calls )?(are|is) left", repr(said))
            left = await here.say(Budget(2))
            assert left is not None
            assert isinstance(left[0], Left)
            assert left[0].calls == 0

    drive(test())


def test_the_log_says_how_long_an_answer_was_asked_for(tmp_path: Path) -> None:
    model = FakeModel()

    async def test() -> None:
        async with world(tmp_path, model=model, limits=Limits("total", None, None, 100, None, None)) as here:
            await here.in_cell()
            assert await answers(here, "one") == ["to one"]
            asked = [data["output_tokens_max"] for data in await here.data("query.requested")]
            assert asked[-1] == model.requests[0].output_tokens_max == 100
            (completed,) = await here.data("query.completed")
            assert completed["action"] == (await here.data("query.requested"))[-1]["action"]

    drive(test())


def test_a_query_that_comes_when_the_time_is_up_stands_in_the_log(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, model=FakeModel()) as here:
            await here.in_cell()
            here.clock.now = here.scope.deadline
            assert await answers(here, "one") == [None]
            (said,) = await here.data("request.refused")
            assert (said["asked"], said["code"]) == ("query", "limits.run_wall")
            assert here.broker.denials == 1

    drive(test())
