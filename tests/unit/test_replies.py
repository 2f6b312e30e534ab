"""Which blocks of a root model's reply are run: found line by line, in linear time."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.engine.loop import _blocks
from belljar.heavy import SLICE_BYTES

# What a block is, said in one expression. To search by it takes time that grows with the square of the reply.
BLOCK = re.compile(r"^```(?:repl|python)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
LINES = ["```", "```repl", "```python", "```repl \t", "``` ", "```json", "````", " ```", "x = 1", "", "\r", "```repl x"]


@given(st.lists(st.sampled_from(LINES) | st.text("`repl \n\t", max_size=8)), st.sampled_from(["", "\n"]))
def test_blocks_are_what_stands_between_fences(lines: list[str], end: str) -> None:
    reply = "\n".join(lines) + end
    assert _blocks(reply) == BLOCK.findall(reply)


def test_each_block_has_its_code() -> None:
    reply = "First:\n```repl\nx = 1\n```\nand\n```python \ny = 2\nz\n``` \n```json\n{}\n```\n```repl\nunclosed"
    assert _blocks(reply) == ["x = 1\n", "y = 2\nz\n"]


def test_a_fence_is_found_wherever_a_slice_ends() -> None:
    for before in range(SLICE_BYTES - 12, SLICE_BYTES + 2):
        reply = "x" * before + "\n```repl\ncode\n```\n" + "x" * SLICE_BYTES
        assert _blocks(reply) == ["code\n"]


@pytest.mark.parametrize("reply", ["no fence at all " * 400_000, "\n``" * 2_000_000, "```repl" + " " * 4_000_000])
def test_no_reply_is_looked_through_in_one_call(reply: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices others have the interpreter; each is short, as is the work behind the last one."""
    turns = [time.thread_time()]
    monkeypatch.setattr("belljar.heavy.give_way", lambda: turns.append(time.thread_time()))
    longest_s = float("inf")
    for _ in range(5):
        turns[:] = [time.thread_time()]
        _blocks(reply)
        turns.append(time.thread_time())
        longest_s = min(longest_s, max(after - before for before, after in pairwise(turns)))
    assert longest_s < 0.01


@pytest.mark.parametrize("reply", ["```repl\n" * 4_000, "```" + " \t" * 500_000 + "x", "```repl\n```\n" * 80_000])
def test_a_large_reply_takes_linear_time(reply: str) -> None:
    started = time.thread_time()
    _blocks(reply)
    assert time.thread_time() - started < 1
