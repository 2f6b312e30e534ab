"""The benchmark of contexts: its texts have what is counted in them, its programs read all, and who has which goal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import io
from pathlib import Path

import pytest

from benchmarks.__main__ import _sizes
from benchmarks.context_peers import floor
from benchmarks.context_table import ContextsOfSize, rows_of
from benchmarks.context_texts import NEEDLE, SIZES, ContextText, Size, write_context
from benchmarks.contexts import START_SMALL
from benchmarks.measure import ContextPlan, Samples, times_printed
from benchmarks.programs import RANDOM, RANDOM_CHARS, RANDOM_COUNT, READS, SLICES, Text, reads, through
from benchmarks.rows import CONTEXT_GOALS, LABELS, Row

_PLAN = ContextPlan(rounds=1, starts=1)
_OURS = {"jail": "jail", "container": "docker"}


def written(folder: Path, size_bytes: int, *, only_ascii: bool = True) -> tuple[ContextText, bytes]:
    path = folder / "text.txt"
    return write_context(path, Size("test", "test", size_bytes, only_ascii)), path.read_bytes()


def printed(code: str, context: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"context": context})
    return said.getvalue()


# The block that is repeated has about a million bytes: less than one, one and a bit, several.
@pytest.mark.parametrize("size_bytes", [1_000, 50_000, 1_000_000, 1_234_567, 5_000_000])
@pytest.mark.parametrize("only_ascii", [True, False])
def test_a_text_fills_its_size_with_whole_lines_and_has_what_it_says(
    tmp_path: Path, size_bytes: int, only_ascii: bool
) -> None:
    told, data = written(tmp_path, size_bytes, only_ascii=only_ascii)
    text = data.decode()
    assert size_bytes - 200 < told.size_bytes == len(data) <= size_bytes
    assert text.endswith("\n")
    assert text.isascii() == only_ascii
    assert told.lines == text.count("\n") == len(text.splitlines())
    assert told.text.chars == len(text)
    assert told.text.line_chars == sum(map(len, text.splitlines()))
    assert told.needles == text.count(NEEDLE) == 3


@pytest.mark.slow
def test_needles_are_spread_over_a_large_text(tmp_path: Path) -> None:
    _, data = written(tmp_path, 9_000_000)
    places = [at / len(data) for at in range(len(data)) if data.startswith(NEEDLE.encode(), at)]
    assert places[0] > 0.3
    assert places[1] > 0.6
    assert places[2] > 0.99


def test_programs_print_what_they_are_checked_against(tmp_path: Path) -> None:
    told, data = written(tmp_path, 2_500_000, only_ascii=False)
    text = data.decode()
    assert printed(SLICES, text).strip() == str(told.text.chars)
    assert printed(through("context.splitlines()"), text).strip() == str(told.text.line_chars)
    assert printed(RANDOM, text).strip() == str(RANDOM_CHARS * RANDOM_COUNT)


class Noting(str):
    """A text that notes where slices of it begin."""

    places: list[int]

    def __getitem__(self, key: object) -> str:
        assert isinstance(key, slice)
        self.places.append(key.start)
        return str(self)[key]


def test_random_reads_go_everywhere_and_elsewhere_with_each_seed() -> None:
    notes = []
    for seed in (1, 2):
        text = Noting("x" * 1_000_000)
        text.places = []
        assert len(times_printed(printed(reads(seed), text), READS)) == READS
        assert {place * 10 // len(text) for place in text.places} == set(range(10))
        notes.append(text.places)
    assert not set(notes[0][:50]) & set(notes[1][:50])


def test_the_floor_takes_every_measure(tmp_path: Path) -> None:
    told, _ = written(tmp_path, 100_000)

    async def measured() -> Samples:
        subject = floor(tmp_path)
        await subject.prepare()
        samples = await subject.round_of_context(_PLAN, told, told)
        assert subject.reason == ""
        return samples

    samples = asyncio.run(measured())
    names = ("start", "lines", "slices", "random", "search", "memory")
    assert set(samples) == {f"context_{name}" for name in names}
    assert all(len(values) == 1 for values in samples.values())


def test_who_miscounts_has_a_reason_and_is_not_asked_again(tmp_path: Path) -> None:
    told, _ = written(tmp_path, 100_000)
    wrong = dataclasses.replace(told, text=dataclasses.replace(told.text, chars=told.text.chars + 1))

    async def reason() -> str:
        subject = floor(tmp_path)
        await subject.prepare()
        await subject.round_of_context(_PLAN, wrong, wrong)
        assert await subject.round_of_context(_PLAN, told, told) == {}
        return subject.reason

    assert f"not {told.text.chars + 1}" in asyncio.run(reason())


def rows(key: str, samples: dict[str, Samples]) -> dict[tuple[str, str], Row]:
    size = SIZES[key]
    text = ContextText(Text(Path("text.txt"), size.size_bytes, size.size_bytes), 1, size.size_bytes, 3)
    found = rows_of([ContextsOfSize(size, text, samples)], _OURS, lines="floor", search="grep")
    return {(row.measure, row.who): row for row in found}


def test_ratios_are_to_the_floor_of_the_same_size_and_only_ours() -> None:
    samples: dict[str, Samples] = {
        "jail": {
            "context_start": [0.011],
            START_SMALL: [0.010],
            "context_lines": [4.0],
            "context_search": [0.5],
        },
        "floor": {"context_lines": [1.0], "context_search": [0.1]},
        "grep": {"context_search": [0.4]},
        "peer": {"context_lines": [2.0]},
    }
    found = rows("1GB", samples)
    assert found["context_start_ratio", "jail"].value == pytest.approx(1.1)
    assert found["context_lines_ratio", "jail"].value == pytest.approx(0.25)
    assert found["context_lines_ratio", "jail"].met is False
    assert found["context_search_ratio", "jail"].value == pytest.approx(0.8)
    assert found["context_search_ratio", "jail"].met is True
    assert {who for measure, who in found if measure.endswith("_ratio")} == {"jail"}
    assert found["context_lines", "jail"].value == pytest.approx(250)
    assert found["context_lines", "peer"].goal is None


def test_without_a_floor_there_is_no_ratio_to_it() -> None:
    found = rows("1GB", {"jail": {"context_lines": [4.0], "context_search": [1.0]}})
    assert set(found) == {("context_lines", "jail"), ("context_search", "jail")}


def test_a_goal_begins_with_its_size_and_not_every_backend_has_it() -> None:
    samples: dict[str, Samples] = {
        "jail": {"context_slices": [1.0], "context_random": [2.0], "context_stall": [0.06]},
        "container": {"context_slices": [1.0], "context_random": [1.0], "context_stall": [0.01]},
        "Belljar": {"context_register": [4.0]},
    }
    large, middle, small = rows("1GB", samples), rows("50MB", samples), rows("1KB", samples)
    assert large["context_slices", "jail"].met is True
    assert large["context_slices", "container"].goal is None
    assert [large["context_random", who].met for who in _OURS] == [False, True]
    assert [large["context_stall", who].met for who in _OURS] == [False, True]
    assert middle["context_stall", "jail"].goal is None
    assert large["context_register", "Belljar"].met is False
    assert middle["context_register", "Belljar"].goal is not None
    assert set(small) == {(name, who) for who in _OURS for name in ("context_random", "context_stall")}


def test_memory_is_judged_on_the_largest_peak() -> None:
    row = rows("1MB", {"jail": {"context_memory": [2**20, 65 * 2**20, 2**20]}})["context_memory", "jail"]
    assert (row.value, row.met) == (65, False)


def test_a_row_says_at_which_size_it_was_taken() -> None:
    row = rows("50MB", {"jail": {"context_start": [0.01]}})["context_start", "jail"]
    assert row.label == "50 MB: request to first result"


def test_every_goal_of_contexts_has_a_row() -> None:
    assert set(CONTEXT_GOALS) <= set(LABELS)


def test_sizes_are_named_once_each_and_known() -> None:
    assert [size.key for size in _sizes("1MB,1KB,1MB")] == ["1MB", "1KB"]
    with pytest.raises(argparse.ArgumentTypeError, match="3GB"):
        _sizes("1KB,3GB")
