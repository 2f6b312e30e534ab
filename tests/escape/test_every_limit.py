"""Each number of a policy's `[limits]` is met by a program, on every backend, and ends in the verdict with its name.

The programs are those of the corpus; their headers say what is right, and where a backend differs. Here it is made sure
that no limit is without one.
"""

from __future__ import annotations

import contextlib

import pytest

from belljar.errors import PolicyDenied
from belljar.policy.model import Limits
from belljar.policy.parse import fields_of
from tests.escape.harness import Escapes, Program, load_programs

# The limit, the program that meets it, and the name that it then has in the result.
VERDICTS = {
    "cell_wall": ("resources/sleep", "limits.cell_wall"),
    "grace": ("resources/ignore_signals", "limits.cell_wall"),
    "cpu": ("resources/cpu_loop", "limits.cpu"),
    "memory": ("resources/memory_over_cells", "limits.memory"),
    "processes": ("resources/thread_bomb", "limits.processes"),
    "scratch": ("resources/disk_bytes", "limits.scratch"),
    "scratch_files": ("resources/disk_files", "limits.scratch"),
    "output_flood": ("resources/output_flood", "limits.output_flood"),
    "answer": ("resources/an_answer_too_long", "limits.answer"),
    "answer_values": ("resources/an_answer_of_many_values", "limits.answer_values"),
}
# What is told to the program or its caller, who may go on.
TOLD = {"open_files": "resources/descriptors", "output": "resources/output_is_cut"}
# Met by no program of the corpus, but below.
HERE = {"run_wall", "code"}

PROGRAMS = {program.name: program for program in load_programs()}


def meeting(limit: str) -> Program:
    """The program, with the verdict that is right on no backend but its own left open."""
    name, code = VERDICTS[limit]
    program = PROGRAMS[name]
    assert len(program.expect) == 1, f"{name}: one limit has one name"
    assert program.expect[0] not in ("ok", "error"), f"{name}: a verdict is no error"
    assert program.limit in (code, None), f"{name}: another limit"
    return program


def test_every_limit_is_met_by_a_program() -> None:
    assert VERDICTS.keys() | TOLD.keys() | HERE == fields_of(Limits).keys()


@pytest.mark.parametrize("limit", VERDICTS)
def test_a_limit_ends_in_its_named_verdict(escapes: Escapes, limit: str) -> None:
    program = meeting(limit)
    here = program.on(escapes.backend)
    outcome = escapes.run(here, program.languages[0])
    assert outcome.cell.status in here.expect, outcome.cell
    if here == program:
        assert outcome.cell.limit is not None, outcome.cell
        assert outcome.cell.limit.code == VERDICTS[limit][1], outcome.cell.limit


@pytest.mark.parametrize("limit", TOLD)
def test_a_limit_that_ends_nothing_is_told(escapes: Escapes, limit: str) -> None:
    program = PROGRAMS[TOLD[limit]]
    outcome = escapes.run(program, program.languages[0])
    assert outcome.cell.status in program.expect, outcome.cell
    assert program.says is not None
    assert program.says in repr(outcome.cell)


def test_the_time_of_a_run_ends_in_its_named_verdict(escapes: Escapes) -> None:
    async def sleep_over_cells() -> tuple[str, str | None]:
        async with escapes.runtime_with(run_wall_s=8.0, cell_wall_s=6.0) as runtime:
            async with runtime.session() as session:
                with contextlib.suppress(PolicyDenied):  # it is up between two cells
                    while (await session.execute("import time\ntime.sleep(1)")).status == "ok":
                        pass
            assert session.result is not None
            limit = session.result.limit
            return session.result.status, limit.code if limit else None

    assert escapes.drive(sleep_over_cells()) == ("timeout", "limits.run_wall")


def test_code_that_is_too_long_is_refused_before_it_runs(escapes: Escapes) -> None:
    async def much() -> None:
        async with escapes.runtime_with(code_bytes=1024) as runtime, runtime.session() as session:
            await session.execute(f"x = 1  # {'x' * 2000}")

    with pytest.raises(PolicyDenied) as caught:
        escapes.drive(much())
    assert (caught.value.code, caught.value.limit) == ("limits.code", 1024)
