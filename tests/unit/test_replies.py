"""Which blocks of a root model's reply are run: a meaning for each form that models write, found in linear time."""

from __future__ import annotations

import random
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.engine.blocks import Found, find_blocks
from belljar.heavy import SLICE_BYTES, whole
from tests.examples import examples

F = "```"


def codes(reply: str) -> list[str]:
    return [block.code for block in find_blocks(reply).blocks]


# Each is one block, `FINAL(42)`.
FORMS = {
    "repl": f"Text.\n{F}repl\nFINAL(42)\n{F}\n",
    "python": f"{F}python\nFINAL(42)\n{F}",
    "py": f"{F}py\nFINAL(42)\n{F}",
    "python3": f"{F}python3\nFINAL(42)\n{F}",
    "a version": f"{F}python3.11\nFINAL(42)\n{F}",
    "ipython": f"{F}ipython\nFINAL(42)\n{F}",
    "capitals": f"{F}Python\nFINAL(42)\n{F}",
    "all capitals": f"{F}REPL\nFINAL(42)\n{F}",
    "no label": f"{F}\nFINAL(42)\n{F}",
    "an attribute": f'{F}python title="x.py"\nFINAL(42)\n{F}',
    "an attribute without a blank": f"{F}python:x.py\nFINAL(42)\n{F}",
    "braces": f"{F}{{python}}\nFINAL(42)\n{F}",
    "braces with a dot": f"{F}{{.python .numberLines}}\nFINAL(42)\n{F}",
    "a blank before the label": f"{F} repl\nFINAL(42)\n{F}",
    "blanks behind": f"{F}repl \t\nFINAL(42)\n{F}  \n",
    "CRLF": f"Here:\r\n{F}repl\r\nFINAL(42)\r\n{F}\r\n",
    "CR": f"Here:\r{F}repl\rFINAL(42)\r{F}\r",
    "a byte order mark": f"\ufeff{F}repl\nFINAL(42)\n{F}",
    "in a list": f"1. Do:\n   {F}repl\n   FINAL(42)\n   {F}\n",
    "behind a list's mark": f"- {F}repl\n  FINAL(42)\n  {F}\n",
    "behind a number": f"12. {F}repl\n    FINAL(42)\n    {F}\n",
    "by a tab": f"\t{F}repl\n\tFINAL(42)\n\t{F}\n",
    "code indented alone": f"{F}repl\n    FINAL(42)\n{F}",
    "four backticks": f"{F}`repl\nFINAL(42)\n{F}`",
    "closed by more": f"{F}repl\nFINAL(42)\n{F}``",
    "tildes": "~~~repl\nFINAL(42)\n~~~",
    "closed on the line of code": f"{F}repl\nFINAL(42){F}",
    "text behind the closing fence": f"{F}repl\nFINAL(42)\n{F} done.",
    "not closed": f"{F}repl\nFINAL(42)\n",
    "not closed, without a line end": f"{F}repl\nFINAL(42)",
    "thinking with an unclosed draft": f"<think>\nLet me {F}python\nFINAL(1)\n</think>\n{F}repl\nFINAL(42)\n{F}",
    "thinking with a draft": f"\n<think>{F}python\nFINAL(1)\n{F}</think>\n{F}repl\nFINAL(42)\n{F}",
    "thinking in capitals": f"<THINKING>\n{F}python\nFINAL(1)\n{F}\n</THINKING>{F}repl\nFINAL(42)\n{F}",
    "only the end of thinking": f"Hm.\n{F}repl\nFINAL(1)\n{F}\n</think>\n\n{F}repl\nFINAL(42)\n{F}",
    "thinking by another name": f"<reasoning>\n{F}python\nFINAL(1)\n{F}\n</reasoning>\n{F}repl\nFINAL(42)\n{F}",
    "thinking in square brackets": f"[THINK]{F}python\nFINAL(1)\n{F}[/THINK]\n{F}repl\nFINAL(42)\n{F}",
    "thinking in triangles": f"◁think▷\n{F}python\nFINAL(1)\n{F}\n◁/think▷\n{F}repl\nFINAL(42)\n{F}",
    "only the end of thinking by another name": f"{F}repl\nFINAL(1)\n{F}\n[/THINK]\n{F}repl\nFINAL(42)\n{F}",
    "behind text": f"Here it is: {F}repl\nFINAL(42)\n{F}\nDone.",
    "behind bold text": f"**Step 1:** {F}python\nFINAL(42)\n{F}",
    "behind a letter": f"a) {F}repl\n   FINAL(42)\n   {F}",
    "behind a box": f"- [ ] {F}repl\n      FINAL(42)\n      {F}",
    "behind blanks that cannot be seen": f"Hi\n\u200b\ufeff\u00a0{F}repl\nFINAL(42)\n{F}",
    "named at the end of a line before": f"Blocks start with {F}repl\n{F}repl\nFINAL(42)\n{F}",
    "named where a line ends": f"I put code into {F}repl\nblocks, like this:\n\n{F}repl\nFINAL(42)\n{F}",
    "named in a list": f"I use {F}python, {F}py,\n{F}repl\nFINAL(42)\n{F}",
    "another language before": f"{F}bash\nls\n{F}\n{F}repl\nFINAL(42)\n{F}",
    "an empty block before": f"{F}repl\n\n{F}\n{F}repl\nFINAL(42)\n{F}",
    "a fence that closes nothing before": f"{F}\n{F}repl\nFINAL(42)\n{F}",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_block_is_found(form: str) -> None:
    assert [code.strip("\n") for code in codes(FORMS[form])] == ["FINAL(42)"]


# Each is one block, of just this code.
WITHIN = {
    "a fence in a string": f"x = '''\n{F}json\n{{}}\n{F}\n'''\nFINAL(x)\n",
    "a fence in a prompt": f'p = f"""Text:\n{F}\n{{context}}\n{F}\nAnswer."""\n',
    "a fence with a label to run": f'p = """\n{F}python\nx\n{F}\n"""\n',
    "backticks within a line's string": f"print('{F}')\nprint(\"{F}\")\n",
    "an escaped quote": f"x = '''\\'''\n{F}\n'''\n",
    "backslashes before the end": "x = '''a\\\\'''\ny = 1\n",
    "a string over two lines": f"x = 'a\\\n{F}'\n",
    "an apostrophe in a comment": "# it's\nx = 1\n",
    "backticks in a comment": f"# write {F}json here\nx = 1\n",
    "one quote in the other's string": f"x = \"it's\"\ny = '\"'\nz = '''\"'''\np = '''\n{F}\n'''\n",
    "an open quote on one line": "x = 'it\ny = 1\n",
    "a raw string": "x = r'\\'\ny = '''a'''\n",
    "blank lines": "\n\nx = 1\n\n",
    "deeper lines": "if 1:\n    x = 1\n",
}


@pytest.mark.parametrize("case", WITHIN)
@pytest.mark.parametrize("fence", [F, f"{F}`", "~~~"])
def test_what_stands_in_strings_and_comments_closes_no_block(case: str, fence: str) -> None:
    assert codes(f"Text.\n{fence}repl\n{WITHIN[case]}{fence}\nMore.\n{F}repl\ny = 2\n{F}") == [WITHIN[case], "y = 2\n"]


def test_a_shorter_fence_closes_nothing() -> None:
    assert codes(f"{F}`repl\nx = 1\n{F}\ny = 2\n{F}`\n") == [f"x = 1\n{F}\ny = 2\n"]
    assert codes(f"~~~repl\nx = ~~~1\ny = 2\n~~~~\n{F}repl\nz\n{F}") == ["x = ~~~1\ny = 2\n", "z\n"]


def test_code_below_a_fence_behind_text_keeps_its_indentation() -> None:
    assert codes(f"Here it is: {F}repl\nif x:\n    y = 1\n{F}") == ["if x:\n    y = 1\n"]


def test_a_string_that_ends_nowhere_does_not_swallow_the_blocks_behind() -> None:
    found = find_blocks(f"{F}repl\nx = '''abc\n{F}\nand\n{F}python\ny = 2\n{F}\n")
    assert [block.code for block in found.blocks] == ["x = '''abc\n", "y = 2\n"]


def test_a_block_that_was_not_closed_before_the_next_is_closed_there() -> None:
    assert codes(f"{F}repl\nx = 1\n{F}python\ny = 2\n{F}") == ["x = 1\n", "y = 2\n"]
    assert codes(f"{F}repl\nx = '''1\n{F}python title=z\ny = 2\n{F}") == ["x = '''1\n", "y = 2\n"]


def test_lines_less_indented_than_their_fence_keep_what_they_have() -> None:
    assert codes(f"   {F}repl\n   x = '''\n  a\n b'''\n     y\n   {F}") == ["x = '''\na\nb'''\n  y\n"]


@pytest.mark.parametrize("cut", [False, True])
def test_an_open_block_is_run_unless_the_reply_was_cut(cut: bool) -> None:
    found = find_blocks(f"{F}repl\nx = 1\n{F}\n{F}repl\ny = 2\n", cut=cut)
    assert [block.code for block in found.blocks] == (["x = 1\n"] if cut else ["x = 1\n", "y = 2\n"])
    assert (found.unfinished is not None) == cut
    assert found.blocks[-1].closed == cut


BEGUN = "def f(x):\n    y = '''\n"


@pytest.mark.parametrize(
    "before", ["", "I go on.\n\n", "<think>hm</think>\n", "With a block that starts with ```continue:\n"]
)
def test_a_block_that_was_cut_off_goes_on_in_the_first_block_of_the_next_reply(before: str) -> None:
    """As if it had been written in one: its strings and its indentation go on."""
    found = find_blocks(f"{before}{F}continue\n{F}\n    '''\n    return y\n{F}\n{F}repl\nf(1)\n{F}\n", begun=BEGUN)
    assert [block.code for block in found.blocks] == [f"{BEGUN}{F}\n    '''\n    return y\n", "f(1)\n"]
    assert found.left_out == ()
    assert "continue" in found.text
    assert "def f" not in found.text


@pytest.mark.parametrize("label", ["repl", "", "python"])
def test_a_block_that_is_written_anew_is_not_joined(label: str) -> None:
    found = find_blocks(f"{F}{label}\nx = 1\n{F}\n{F}continue\ny = 2\n{F}\n", begun=BEGUN)
    assert [block.code for block in found.blocks] == ["x = 1\n"]
    assert found.left_out == ("A block labelled `continue` was not run: only Python is, in blocks labelled `repl`.",)


def test_a_block_may_be_cut_off_again() -> None:
    found = find_blocks(f"{F}continue\n'''\n    return", cut=True, begun=BEGUN)
    assert found.blocks == ()
    assert found.unfinished is not None
    assert found.unfinished.code == f"{BEGUN}'''\n    return"


def test_a_block_that_ends_within_a_string_is_not_run() -> None:
    found = find_blocks(f"{F}repl\nx = '''abc\n")
    assert found.blocks == ()
    assert found.unfinished is not None
    assert found.unfinished.code == "x = '''abc\n"


def reasons(reply: str) -> list[str]:
    found = find_blocks(reply)
    assert found.blocks == ()
    return list(found.left_out)


def test_what_is_left_out_is_said() -> None:
    assert ["labelled `bash`" in one for one in reasons(f"{F}bash\nls\n{F}\n{F}bash\nls\n{F}")] == [True]
    assert ["labelled `json`" in one for one in reasons("~~~JSON x=1\n{}\n~~~")] == [True]
    assert ["without code" in one for one in reasons(f"{F}repl\n{F}")] == [True]
    assert ["on a single line" in one for one in reasons(f"{F}repl print(1) {F}")] == [True]
    assert ["in a quotation" in one for one in reasons(f"> {F}repl\n> x\n> {F}")] == [True]
    assert ["in a quotation" in one for one in reasons(f">> {F}repl\n>> x\n>> {F}")] == [True]
    for code in ("FINAL(1)", "x = 1", "import re", "from re import sub"):
        assert ["on the line of a fence" in one for one in reasons(f"{F}repl {code}\n{F}")] == [True]
    some = find_blocks(f"{F}repl import re\nprint(re)\n{F}")
    assert ([block.code for block in some.blocks], "on the line of a fence" in some.left_out[0]) == (
        ["print(re)\n"],
        True,
    )
    assert find_blocks(f"{F}python title=x if=y for\nprint(1)\n{F}").left_out == ()
    assert ["in your thinking" in one for one in reasons(f"<think>{F}repl\nx\n{F}</think>")] == [True]
    assert ["surrogate" in one for one in reasons("half of \ud83d")] == [True]
    assert reasons("FINAL(42)") == []


def test_many_blocks_are_looked_at_and_no_more() -> None:
    found = find_blocks(f"{F}repl\nx\n{F}\n" * 1000)
    assert len(found.blocks) == 64
    assert found.left_out == ("Only the first 64 blocks of a reply are looked at.",)


def test_of_a_reply_without_end_the_beginning_is_looked_at() -> None:
    found = find_blocks(f"{F}repl\nx\n{F}\n" + "y" * (1 << 20) + f"\n{F}repl\nz\n{F}")
    assert [block.code for block in found.blocks] == ["x\n"]
    assert "first 1,048,576 characters" in found.left_out[0]


@pytest.mark.parametrize("reply", ["", " \n", "\ufeff", "<think>hm</think>", "<think>hm", " <thinking>hm</thinking>\n"])
def test_what_holds_nothing_but_thinking_is_blank(reply: str) -> None:
    found = find_blocks(reply)
    assert found == Found((), (), None, blank=True, text=found.text, reply=reply.removeprefix("\ufeff"))
    assert found.text.strip() == ""


def test_a_text_about_thinking_is_an_ordinary_one() -> None:
    assert find_blocks("The mark </think> is in the text.").text == "The mark </think> is in the text."


def test_marks_of_thinking_in_a_prompt_are_part_of_it() -> None:
    code = "ask = f'''<reasoning>\nbriefly\n</reasoning>\n{text}'''\n"
    assert codes(f"{F}repl\n{code}{F}") == [code]
    assert codes(f"<think>\n</reasoning>\n{F}repl\nFINAL(1)\n{F}\n</think>\n{F}repl\n{code}{F}") == [code]


def test_halves_of_surrogate_pairs_are_joined_or_replaced() -> None:
    assert whole("a\ud83d\ude00b") == "a\U0001f600b"
    assert whole("\ud83d a \ude00") == "\ufffd a \ufffd"
    for before in range(SLICE_BYTES - 3, SLICE_BYTES + 3):
        for pair in ("\ud83d\ude00", "\ud83d", "\ude00"):
            text = "é" * before + pair
            assert whole(text) == "é" * before + ("\U0001f600" if len(pair) == 2 else "\ufffd")
            assert whole(text + "é" * SLICE_BYTES) == whole(text) + "é" * SLICE_BYTES


PIECES = [
    F,
    "~~~",
    f"{F}repl",
    f"\n{F}\n",
    f"\n{F}python\n",
    "'''",
    '"""',
    "'",
    '"',
    "\\",
    "#",
    "\n",
    " ",
    "x = 1\n",
    "- ",
]


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3)), st.booleans())
def test_any_reply_has_a_meaning(pieces: list[str], cut: bool) -> None:
    reply = "".join(pieces)
    found = find_blocks(reply, cut=cut)
    for block in found.blocks:
        assert block.code.strip()
        assert re.fullmatch("|repl|i?python[0-9]*|py[0-9]*", block.label)
    found.text.encode()


ADVERSARIAL = {
    "nothing": "no fence at all " * 70_000,
    "openings": f"{F}repl\n" * 130_000,
    "empty blocks": f"{F}repl\n{F}\n" * 80_000,
    "blanks": F + " \t" * 500_000 + "x",
    "almost fences": "\n``" * 300_000,
    "fences on one line": f"x {F} " * 170_000,
    "in code: openings": f"{F}`repl\n" + f"{F}repl\n" * 130_000,
    "in code: quotes": f"{F}repl\n" + "'''\n" * 250_001,
    "in code: strings that end nowhere": f"{F}repl\n'''\n{F}\n" * 64 + f'{F}repl\n"""\n' + "x\n" * 400_000,
    "in code: escapes": f"{F}repl\n'''" + "\\'''" * 250_000,
    "in code: backslashes": f"{F}repl\n'''" + "\\" * 1_000_000 + "'''",
    "in code: tildes": "~~~repl\n" + "~~~ " * 250_000,
    "in code: lines of tildes": "~~~repl\n" + "~~~ x\n" * 170_000,
    "in code: comments": f"{F}repl\n" + f"#{F}" * 250_000,
    "in code: indented": f"   {F}repl\n" + "    x\n" * 170_000,
    "in code: strings with fences": f"{F}repl\n" + f"'''\n{F}\n'''\n" * 80_000,
    "quotes of both kinds": f"{F}repl\n" + "'''\"\"\"'\"" * 120_000,
    "blanks before fences": f"{F}`repl\n" + (" " * 50 + F + "\n") * 20_000,
    "ends of thinking": "</think> " * 120_000,
    "another language": f"{F}json\n" + f"{F} x\n" * 170_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ADVERSARIAL)
def test_a_large_reply_takes_linear_time(case: str) -> None:
    """What grows with the square takes minutes for these."""
    started = time.thread_time()
    find_blocks(ADVERSARIAL[case][: 1 << 20])
    assert time.thread_time() - started < 5


@pytest.mark.parametrize("seed", range(5))
def test_a_large_reply_of_anything_takes_linear_time(seed: int) -> None:
    reply = "".join(random.Random(seed).choices(PIECES, k=300_000))
    started = time.thread_time()
    find_blocks(f"{F}`repl\n{reply}")
    assert time.thread_time() - started < 5


@pytest.mark.parametrize("reply", ["no fence at all " * 400_000, "\n``" * 2_000_000, "```repl" + " " * 4_000_000])
def test_no_reply_is_looked_through_in_one_call(reply: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices others have the interpreter; each is short, as is the work behind the last one."""
    turns = [time.thread_time()]
    monkeypatch.setattr("belljar.engine.blocks.give_way", lambda: turns.append(time.thread_time()))
    longest_s = float("inf")
    for _ in range(5):
        turns[:] = [time.thread_time()]
        find_blocks(reply)
        turns.append(time.thread_time())
        longest_s = min(longest_s, max(after - before for before, after in pairwise(turns)))
    assert longest_s < 0.02
