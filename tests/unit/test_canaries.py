"""Texts that a policy watches for: where they are seen, and what the log says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from belljar.policy import forms_of
from belljar.protocol import CellError, Done, Final, Given, Output, Query, Recurse
from belljar.testing import FakeModel
from tests.unit.broker_fakes import RUN, World, drive, policy_with, world

# The policy sorts them: these are numbers 1 and 2.
KEY, LURE = "K-4711 Ä", "wolf in sheep"
WATCHING = policy_with(models={"canaries": (KEY, LURE), "depth_max": 2})
TWICE = f"{KEY}{LURE}".encode()


async def seen(here: World) -> list[tuple[int, str, int]]:
    return [(data["cell"], data["place"], data["canary"]) for data in await here.data("canary.seen")]


def prompts(*texts: str, model: str | None = None) -> tuple[Query, bytes]:
    return Query(1, model, [len(text.encode()) for text in texts]), "".join(texts).encode()


@pytest.mark.parametrize("at", range(1, len(KEY.encode())))
def test_output_is_looked_at_across_its_pieces_and_each_stream_alone(tmp_path: Path, at: int) -> None:
    async def test() -> None:
        key = b"..." + KEY.encode() + b"..."
        async with world(tmp_path, policy=WATCHING) as here:
            await here.in_cell()
            await here.say(Output(1, "stdout"), key[: at + 3])
            await here.say(Output(1, "stderr"), key[at + 3 :])
            assert await seen(here) == []
            await here.say(Output(1, "stdout"), key[at + 3 :])
            assert await seen(here) == [(1, "output", 1)]
            await here.say(Done(1, "ok", None))

    drive(test())


def test_output_one_byte_at_a_time_is_seen_once_in_each_cell(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=WATCHING) as here:
            await here.in_cell()
            for byte in (json.dumps(KEY) + LURE + LURE).encode():
                await here.say(Output(1, "stderr"), bytes([byte]))
            await here.say(Done(1, "ok", None))
            assert await seen(here) == [(1, "output", 1), (1, "output", 2)]
            await here.broker.begin("pass")
            await here.say(Output(1, "stdout"), LURE.encode())
            await here.say(Output(2, "stdout"), LURE.encode())
            await here.say(Done(2, "ok", None))
            assert await seen(here) == [(1, "output", 1), (1, "output", 2), (2, "output", 2)]

    drive(test())


def test_output_that_is_not_kept_is_looked_at_too(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(models={"canaries": (KEY, LURE)}, limits={"output_bytes": 16})
        async with world(tmp_path, policy=policy) as here:
            await here.in_cell()
            await here.say(Output(1, "stdout"), b"x" * 100 + LURE[:4].encode())
            await here.say(Output(1, "stdout"), LURE[4:].encode() + b"y" * 100)
            await here.say(Done(1, "ok", None))
            assert await seen(here) == [(1, "output", 2)]

    drive(test())


@pytest.mark.parametrize(
    "done",
    [
        (Done(1, "error", CellError("ValueError", "no", 1)), LURE.encode()),
        (Done(1, "error", CellError("ValueError", f"no {LURE}", 1)), b"ValueError: no"),
        (Done(1, "ok", None, [f"{LURE}: int"]), b""),
    ],
)
def test_what_a_cell_says_at_its_end_is_output(tmp_path: Path, done: tuple[Done, bytes]) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=WATCHING) as here:
            await here.in_cell()
            await here.say(*done)
            assert await seen(here) == [(1, "output", 2)]

    drive(test())


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_answer_that_counts_is_looked_at_before_it_counts(tmp_path: Path, form: str) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=WATCHING) as here:
            await here.in_cell()
            body = json.dumps({KEY: [KEY]}).encode() if form == "json" else TWICE
            await here.say(Final(1, "json" if form == "json" else "text"), body)
            await here.audit.flush()
            assert here.events()[1:] == ["canary.seen"] * (1 if form == "json" else 2) + ["answer.given"]
            assert {place for _, place, _ in await seen(here)} == {"answer"}

    drive(test())


def test_a_prompt_is_looked_at_before_it_is_sent_and_its_reply_before_the_program_has_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=WATCHING, model=FakeModel()) as here:
            await here.in_cell()
            await here.say(*prompts("harmless", "x" * 70_000 + KEY))
            # The fake model answers with the prompt.
            assert await seen(here) == [(1, "prompt", 1), (1, "reply", 1)]
            assert here.events()[:2] == ["cell.started", "canary.seen"]
            await here.say(Done(1, "ok", None))

    drive(test())


def test_a_question_to_a_child_is_looked_at_and_the_text_that_it_reads_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=WATCHING, model=FakeModel()) as here:
            await here.in_cell()
            await here.say(Recurse(7, None, [1], [Given(length=len(LURE))]), b"x" + LURE.encode())
            assert await seen(here) == []
            await here.say(Recurse(8, None, [len(LURE)], [Given(length=1)]), LURE.encode() + b"x")
            assert await seen(here) == [(1, "prompt", 2)]
            await here.say(Done(1, "ok", None))

    drive(test())


def test_the_log_has_the_number_of_a_text_and_never_the_text(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, policy=WATCHING, model=FakeModel()) as here:
            await here.in_cell()
            await here.say(*prompts(KEY + LURE))
            await here.say(Output(1, "stdout"), TWICE)
            await here.say(Final(1, "text"), TWICE)
            assert len(await seen(here)) == 8

    drive(test())
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("audit.db*"))
    assert RUN.encode() in stored
    for text in (KEY, LURE):
        assert not any(form.encode() in stored for form in forms_of(text))


def test_without_such_texts_nothing_is_looked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as here:
            await here.in_cell()
            await here.say(Output(1, "stdout"), TWICE)
            await here.say(Final(1, "text"), TWICE)
            assert await seen(here) == []

    drive(test())
