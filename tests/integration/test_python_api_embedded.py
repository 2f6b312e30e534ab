"""The library inside somebody else's program: its models, its loops, what it may write for an argument, the names."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import belljar
from belljar import ModelReply, ModelRequest, Progress, Rates, Result, Runtime, Usage
from belljar.models import ScriptedModel
from belljar.policy import dump, load
from tests.integration.support import Jar, no_process_left, processes_below, until
from tests.integration.test_python_api_sync import done

ASKS = "FINAL(llm_query('x'))"


class Own:
    """A model of an embedder's own: nothing of ours is in it."""

    scripted = False

    def __init__(self, says: str, name: str = "gpt-5", rates: Rates | None = None) -> None:
        self.name = name
        self.rates = rates
        self._says = says

    async def complete(self, request: ModelRequest) -> ModelReply:
        return ModelReply(self._says, Usage(10, 10), self.name, "end_turn")

    async def aclose(self) -> None:
        raise AssertionError("whoever made it closes it")


def rates(usd_per_mtok: int) -> Rates:
    return Rates(Decimal(usd_per_mtok * 1000), Decimal(usd_per_mtok * 1000))


def allowing(jar: Jar, *names: str) -> Path:
    """A policy of one's own, made from the standard one as README says."""
    standard = load("standard")
    models = msgspec.structs.replace(standard.models, allow=names)
    return jar.file("mine.toml", dump(msgspec.structs.replace(standard, name="mine", models=models)))


def within(jar: Jar, work: Callable[[Runtime], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def go() -> Any:
        async with Runtime(state=jar.at, environ={}, **options) as runtime:
            return await work(runtime)

    return asyncio.run(go())


# ---------------------------------------------------------------------------------------------------------- own models


def test_two_objects_of_one_name_each_answer_and_cost_what_they_say(jar: Jar) -> None:
    async def work(runtime: Runtime) -> list[Result]:
        models = [Own("one", rates=rates(1)), Own("two", rates=rates(2)), Own("three", rates=rates(3))]
        one_after_another = [await runtime.execute(ASKS, model=model) for model in models]
        side_by_side = await asyncio.gather(*(runtime.execute(ASKS, model=model) for model in models))
        return [*one_after_another, *side_by_side]

    results: list[Result] = within(jar, work, policy=allowing(jar, "gpt-*"))
    assert [result.answer for result in results] == ["one", "two", "three"] * 2
    assert [result.cost for result in results] == [20_000, 40_000, 60_000] * 2
    assert {record.data["sub_model"] for record in jar.records("run.started")} == {"gpt-5"}


def test_a_root_and_a_sub_model_of_one_name_and_two_prices_are_told_apart_by_nobody(jar: Jar) -> None:
    async def work(runtime: Runtime) -> None:
        with pytest.raises(belljar.InvalidInput, match="give one of the two another name"):
            await runtime.run("?", model=Own("", rates=rates(1)), sub_model=Own("", rates=rates(2)))

    within(jar, work, policy=allowing(jar, "gpt-*"))


def test_nothing_is_kept_of_a_model_after_its_run(jar: Jar) -> None:
    async def work(runtime: Runtime) -> list[str]:
        kept: list[weakref.ref[Own]] = []
        for number in range(150):
            model = Own("y", name=f"gpt-{number}", rates=rates(1))
            kept.append(weakref.ref(model))
            if number % 10:  # a run each would take long, and what is refused is kept no more than what is run
                with contextlib.suppress(belljar.InvalidInput):
                    await runtime.execute(ASKS, model=model, context=Path("no such file"))
            else:
                assert (await runtime.execute(ASKS, model=model)).answer == "y"
            del model
        await asyncio.sleep(0)  # the loop itself has the last exception until its next turn
        gc.collect()
        return [one.name for ref in kept if (one := ref()) is not None]

    assert within(jar, work, policy=allowing(jar, "gpt-*")) == []


def test_a_model_that_no_policy_allows_says_how_one_does(jar: Jar) -> None:
    async def work(runtime: Runtime) -> None:
        with pytest.raises(belljar.PolicyDenied, match=r"under \[models\] allow.*belljar policy show"):
            await runtime.execute(ASKS, model=Own("", rates=rates(1)))

    within(jar, work)


def test_a_model_without_a_price_is_told_three_ways_and_each_works(jar: Jar) -> None:
    policy = allowing(jar, "claude-of-tomorrow", "gpt-*")

    async def refused(runtime: Runtime) -> None:
        with pytest.raises(belljar.PolicyDenied, match=r"belljar\.Prices, `rates` .*--prices FILE") as denied:
            await runtime.execute(ASKS, model=Own("y"))
        assert denied.value.code == "model.unpriced"

    def asked(prices: belljar.Prices) -> Result:
        result: Result = within(
            jar, lambda runtime: runtime.execute(ASKS, model=Own("y")), policy=policy, prices=prices
        )
        return result

    within(jar, refused, policy=policy)
    prices = belljar.Prices({"gpt-5": rates(1)})
    assert asked(prices).cost == 20_000
    file = jar.file("prices.toml", '[price."gpt-5"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2.5\n')
    prices = belljar.Prices.load(file)
    assert asked(prices).cost == 35_000


def test_the_command_line_takes_prices_from_a_file(jar: Jar) -> None:
    policy = allowing(jar, "claude-of-tomorrow")
    key = {"ANTHROPIC_API_KEY": "none", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    arguments = ("exec", jar.file("p.py", "print(1)"), "--model", "claude-of-tomorrow", "--policy", policy, "--quiet")
    outcome = jar(*arguments, env=key)
    assert (outcome.code, "--prices FILE" in outcome.complaint) == (4, True)
    prices = jar.file("prices.toml", '[price."claude-of-tomorrow"]\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 15\n')
    assert jar(*arguments, "--prices", prices, env=key).stdout == "1\n"
    for wrong in ("nonsense", "[price.x]\ninput_usd_per_mtok = -1\noutput_usd_per_mtok = 1\n", "[other]\n"):
        outcome = jar(*arguments, "--prices", jar.file("wrong.toml", wrong), env=key)
        assert (outcome.code, len(outcome.stderr.splitlines())) == (2, 1)
        assert "wrong.toml" in outcome.stderr
    assert "no.toml" in jar(*arguments, "--prices", "no.toml", env=key).complaint


# --------------------------------------------------------------------------------------------------------------- loops


def test_a_runtime_on_another_loop_is_refused_at_once_and_closes(jar: Jar) -> None:
    runtime = Runtime(state=jar.at, environ={})

    async def first() -> None:
        await runtime.__aenter__()
        assert (await runtime.execute("FINAL(1)")).answer == 1

    async def later() -> None:
        for work in (lambda: runtime.execute("1"), runtime.prepare, runtime.session().__aenter__):
            with pytest.raises(
                belljar.InvalidInput, match="belongs to the event loop in which it was opened"
            ) as refused:
                await work()
            assert refused.value.code == "runtime.loop"

    asyncio.run(first())
    asyncio.run(later())
    asyncio.run(runtime.__aexit__())
    no_process_left()
    gc.collect()

    async def again() -> int:
        async with runtime:
            return int((await runtime.execute("FINAL(2)")).answer)

    assert asyncio.run(again()) == 2


def test_a_runtime_with_boxes_made_ahead_closes_on_another_loop(jar: Jar) -> None:
    runtime = Runtime(state=jar.at, environ={}, pool=2)

    async def first() -> None:
        await runtime.__aenter__()
        await runtime.execute("1")

    asyncio.run(first())
    asyncio.run(runtime.__aexit__())
    no_process_left()


def test_a_runtime_is_closed_from_another_thread_on_its_own_loop(jar: Jar) -> None:
    async def go() -> None:
        runtime = await Runtime(state=jar.at, environ={}).__aenter__()
        await runtime.execute("1")
        await asyncio.to_thread(asyncio.run, runtime.__aexit__())
        no_process_left()

    asyncio.run(go())


def test_a_runtime_is_opened_once(jar: Jar) -> None:
    async def work(runtime: Runtime) -> None:
        with pytest.raises(belljar.InvalidInput, match="already open"):
            await runtime.__aenter__()
        assert (await runtime.execute("FINAL(1)")).answer == 1

    within(jar, work)


ABANDONED = {
    "a session of a runtime": """\
async def main():
    runtime = await belljar.Runtime(state=STATE).__aenter__()
    block = runtime.session(context="abc")
    session = await block.__aenter__()
    print((await session.execute("print(1)")).stdout)
""",
    "only the session is held": """\
async def main():
    runtime = await belljar.Runtime(state=STATE).__aenter__()
    global session
    session = await runtime.session(context="abc").__aenter__()
    print((await session.execute("print(1)")).stdout)
""",
    "a runtime": """\
async def main():
    runtime = await belljar.Runtime(state=STATE).__aenter__()
    print((await runtime.execute("print(1)", context="abc")).stdout)
""",
    "a global runtime": """\
async def main():
    global runtime
    runtime = await belljar.Runtime(state=STATE).__aenter__()
    print((await runtime.execute("print(1)", context="abc")).stdout)
""",
    "a cell under way": """\
async def main():
    global runtime, session
    runtime = await belljar.Runtime(state=STATE).__aenter__()
    session = await runtime.session(context="abc").__aenter__()
    asyncio.create_task(session.execute("while True: pass"))
    await asyncio.sleep(0.3)
    print(1)
""",
}


@pytest.mark.parametrize("code", ABANDONED.values(), ids=ABANDONED)
def test_what_its_loop_leaves_behind_is_over_with_it(jar: Jar, code: str) -> None:
    # An unclosed socket or process may be warned of: to forget it is a mistake. That is all.
    ends = "asyncio.run(main()); print('ended', file=sys.stderr)\n"
    outcome = done(jar, code + ends, warnings="ignore")
    assert (outcome.code, outcome.stdout[:1], outcome.stderr) == (0, "1", "ended\n")
    assert len(jar.records("run.finished")) == len(jar.records("run.started")) == 1


def test_a_session_that_is_forgotten_is_closed_while_the_loop_goes_on(jar: Jar) -> None:
    async def work(runtime: Runtime) -> None:
        await (await runtime.session().__aenter__()).execute("1")
        gc.collect()
        await asyncio.to_thread(until, lambda: jar.records("run.finished"), what="the forgotten run is over")

    within(jar, work)


def test_a_session_given_up_while_it_opens_leaves_nothing(jar: Jar) -> None:
    async def work(runtime: Runtime) -> None:
        await runtime.prepare()
        around = len(processes_below())
        for steps in range(0, 40, 3):
            opening = asyncio.ensure_future(runtime.session(context="abc").__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled():
                opening.result()
            del opening
        gc.collect()
        await asyncio.to_thread(until, lambda: len(processes_below()) <= around + 1, what="the boxes are gone")

    within(jar, work)


def test_after_its_block_a_session_says_so_and_has_a_result_also_after_an_error(jar: Jar) -> None:
    async def fail(runtime: Runtime, opened: list[belljar.Session], error: BaseException) -> None:
        async with runtime.session() as session:
            opened.append(session)
            await session.execute("print(1)")
            raise error

    async def work(runtime: Runtime) -> None:
        for error in (ValueError("mine"), belljar.InvalidInput("mine"), StopIteration(), asyncio.CancelledError()):
            opened: list[belljar.Session] = []
            with pytest.raises((type(error), RuntimeError) if isinstance(error, StopIteration) else type(error)):
                await fail(runtime, opened, error)
            assert opened[0].result is not None
            assert opened[0].result.status != "ok"
            with pytest.raises(belljar.PolicyDenied) as ended:
                await opened[0].execute("1")
            assert ended.value.code == "session.ended"

    within(jar, work)


# ----------------------------------------------------------------------------------------------------------- arguments


def test_policy_and_state_are_texts_or_paths_and_the_policy_a_value_too(jar: Jar) -> None:
    path = jar.policy("")
    for policy in ("standard", str(path), path, load("standard")):
        assert Runtime(policy, state=str(jar.at)).state.root == jar.at
    assert Runtime(path, state=jar.at).policy.name == "small"


def test_a_path_of_one_word_is_no_preset(jar: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(jar.work)
    with pytest.raises(belljar.InvalidPolicy, match="is not a file"):
        Runtime(Path("standard"))
    jar.file("standard", jar.policy("").read_text())
    assert Runtime(Path("standard")).policy.name == "small"


async def _nobody_awaits(progress: Progress) -> None:
    raise AssertionError


class _Callable:
    async def __call__(self, progress: Progress) -> None:
        raise AssertionError


OPEN: dict[str, dict[str, Any]] = {
    "policy": {"policy": 5},
    "policy must be a preset's name": {"policy": None},
    "state": {"state": 5},
    "state must be the path of a folder, or a URL of PostgreSQL, not ''": {"state": ""},
    "pool": {"pool": "2"},
    "prices": {"prices": {"a": 1}},
    "not a model": {"models": [None]},
}
RUN: dict[str, dict[str, Any]] = {
    "not a model": {"model": None},
    "Not a model": {"model": 5},
    "question": {"question": None},
    "tenant": {"tenant": None},
    "contexts": {"contexts": [1]},
    "cannot be a context": {"context": 5},
    "on_progress must be a function of one argument, not a value of type int": {"on_progress": 5},
    "on_progress is an async function": {"on_progress": _nobody_awaits},
    "on_progress is an async": {"on_progress": _Callable()},
}


@pytest.mark.parametrize(("says", "options"), OPEN.items(), ids=OPEN)
def test_a_wrong_argument_of_a_runtime_is_told_in_one_line(jar: Jar, says: str, options: dict[str, Any]) -> None:
    with pytest.raises(belljar.InvalidInput, match=says) as told:
        Runtime(**{"state": jar.at, **options})
    assert "\n" not in str(told.value)


def test_a_wrong_argument_of_a_run_is_told_in_one_line(jar: Jar) -> None:
    async def work(runtime: Runtime) -> None:
        for says, options in RUN.items():
            every: dict[str, Any] = {"question": "?", "model": ScriptedModel([]), **options}
            with pytest.raises(belljar.InvalidInput, match=f"(?i){says}") as told:
                await runtime.run(every.pop("question"), **every)
            assert "\n" not in str(told.value)
        with pytest.raises(belljar.InvalidInput, match="code must be the program as a text, not None"):
            await runtime.execute(None)  # type: ignore[arg-type]
        async with runtime.session() as session:
            with pytest.raises(belljar.InvalidInput, match="not a value of type bytes"):
                await session.execute(b"1")  # type: ignore[arg-type]
            assert (await session.execute("")).status == "ok"

    within(jar, work)
    begun = [record for record in jar.records("run.started") if "refused" not in record.data]
    assert len(begun) == 1


def test_a_callback_that_returns_a_coroutine_is_told_and_loses_nothing(
    jar: Jar, caplog: pytest.LogCaptureFixture
) -> None:
    sneaky: Any = lambda seen: _nobody_awaits(seen)  # noqa: E731
    result = within(jar, lambda runtime: runtime.execute("FINAL(1)", on_progress=sneaky))
    assert result.answer == 1
    assert "which nobody awaits" in caplog.text


def test_a_text_that_names_a_file_is_warned_of(jar: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(jar.work)
    jar.file("log.txt", "what was meant")

    async def work(runtime: Runtime) -> str:
        with pytest.warns(UserWarning, match=r"use Path\('log.txt'\)"):
            result = await runtime.execute("FINAL(context)", context="log.txt")
        for text in ("no.txt", "x" * 5000, " ", "log.txt\n"):  # warnings are errors here
            await runtime.execute("1", context=text)
        return str(result.answer)

    assert within(jar, work) == "log.txt"


# --------------------------------------------------------------------------------------------------- contexts, the log


def test_contexts_are_listed_and_removed_and_the_log_is_read_and_verified(jar: Jar) -> None:
    async def work(runtime: Runtime) -> None:
        document = await runtime.add_context("a text", name="kept")
        assert [one.sha256 for one in runtime.contexts()] == [document.sha256]
        assert runtime.contexts(tenant="other") == []
        result = await runtime.execute("FINAL(len(context))", context=runtime.registered("kept"))
        assert runtime.remove_context("kept").sha256 == document.sha256
        assert runtime.contexts() == []
        with pytest.raises(belljar.InvalidInput):
            runtime.remove_context("kept")
        assert [record.event for record in await runtime.records(result.run)][::-1][0] == "run.finished"
        report = await runtime.verify()
        assert (report.ok, report.runs) == (True, 1)
        assert result.receipt is not None
        assert report.head == result.receipt.head

    within(jar, work)


# ------------------------------------------------------------------------------------------------------ names, policies


CONSUMER = """\
from decimal import Decimal
from pathlib import Path
from typing import assert_type

import belljar


def told(progress: belljar.Progress) -> None: ...


class Mine:
    name = "gpt-5"
    scripted = False
    rates = belljar.Rates(Decimal(3000), Decimal(15_000))

    async def complete(self, request: belljar.ModelRequest) -> belljar.ModelReply:
        return belljar.ModelReply("", belljar.Usage(1, 1), self.name, "end_turn")

    async def aclose(self) -> None: ...


language: belljar.Language = "python"
backend: belljar.BackendName = "jail"
source: belljar.ContextSource = Path("log.txt")
callback: belljar.OnProgress = told


async def use() -> belljar.Document:
    async with belljar.Runtime(Path("mine.toml"), state="/tmp/x", backend=backend, language=language) as runtime:
        assert_type(await runtime.run("?", model=Mine(), context=source, on_progress=callback), belljar.Result)
        async with runtime.session(contexts={"a": source}) as session:
            assert_type(await session.execute("1"), belljar.CellResult)
        records: list[belljar.Record] = await runtime.records()
        report: belljar.Report = await runtime.verify()
        return runtime.contexts()[0]


with belljar.session(models=[Mine()], prices=belljar.Prices({"gpt-5": Mine.rates}), pool=1) as opened:
    assert_type(opened, belljar.SyncSession)
assert_type(belljar.execute("1", model="gpt-5", models=[Mine()]), belljar.Result)
quotas = belljar.SyncQuotas(state="/tmp/x")
assert_type(quotas.set("acme", "day", calls=10, cost_nanousd=None), belljar.Limits)
assert_type(quotas.show("acme"), list[belljar.Quota])
assert_type(quotas.history(per="month"), list[belljar.Used])
"""


def test_a_program_that_uses_every_name_is_typed(tmp_path: Path) -> None:
    file = tmp_path / "consumer.py"
    file.write_text(CONSUMER)
    root = Path(belljar.__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={root / '.mypy_cache'}",
        str(file),
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert (outcome.returncode, outcome.stdout.splitlines()[-1:]) == (0, ["Success: no issues found in 1 source file"])


def test_a_policy_made_of_a_preset_in_code_is_not_told_for_it(jar: Jar) -> None:
    standard = load("standard")
    changed = msgspec.structs.replace(standard, limits=msgspec.structs.replace(standard.limits, cell_wall_s=60.0))
    for policy in (standard, changed):
        within(jar, lambda runtime: runtime.execute("1"), policy=policy)
    assert [record.data["policy"] for record in jar.records("run.started")] == ["standard", "standard-changed"]
