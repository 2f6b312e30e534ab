"""Guest programs that try to get out, to outlast their limits, to lie, or to stay; `harness` says how one is judged."""

from __future__ import annotations

import pytest

from tests.escape.harness import Escapes, Language, Program, load_programs
from tests.unit.test_restricted_language import ESCAPES

PROGRAMS = load_programs()
CASES = [
    pytest.param(program, language, id=f"{program.name}-{language}")
    for program in PROGRAMS
    for language in program.languages
]

# So many known ways out of the language are tried in one box.
_AT_ONCE = 20


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(PROGRAMS) >= 250
    assert len({program.name.partition("/")[0] for program in PROGRAMS}) >= 10


@pytest.mark.parametrize(("program", "language"), CASES)
def test_it_does_not_get_out(escapes: Escapes, program: Program, language: Language) -> None:
    program = program.on(escapes.backend)
    outcome = escapes.run(program, language)
    cell = outcome.cell
    about = (cell, outcome.result.limit)
    assert cell.status in program.expect, about
    if program.says is not None:
        assert program.says in f"{cell.stdout}\n{cell.stderr}\n{cell!r}", about
    if program.limit is not None:
        assert cell.limit is not None, about
        assert cell.limit.code == program.limit, about
        # A box is told that memory is out a little before it is.
        share = 0.7 if program.limit == "limits.memory" else 1
        assert (cell.limit.observed or 0) >= (cell.limit.limit or 0) * share, about
    if program.refused is not None:
        refusals = [record for record in outcome.records if record.event in ("request.refused", "query.denied")]
        refused = [record.data["code"] for record in refusals]
        assert program.refused in refused, refused
    # An answer is in the log before the caller has it.
    given = [record for record in outcome.records if record.event == "answer.given"]
    assert cell.answer is None or len(given) == 1


@pytest.mark.parametrize("first", range(0, len(ESCAPES), _AT_ONCE))
def test_known_ways_out_of_the_language_are_closed_in_the_box_too(escapes: Escapes, first: int) -> None:
    """Several in one box: none of them gets so far that it could change it for the next one."""
    names = list(ESCAPES)[first : first + _AT_ONCE]
    sources = [f"def leak(what):\n    print('ESC' + 'APED')\n{ESCAPES[name]}" for name in names]
    outcome = escapes.run(Program(name="language", cells=sources, languages=["restricted"], expect=[]), "restricted")
    ended = {name: cell.status for name, cell in zip(names, outcome.cells, strict=True)}
    assert set(ended.values()) <= {"error", "rejected"}, ended
    assert "ESCAPED" not in repr(outcome.cells)
