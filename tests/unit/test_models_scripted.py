"""Models that say what a file says."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.errors import InvalidInput, ModelFailed
from belljar.models import (
    FREE,
    Message,
    Model,
    ModelReply,
    ModelRequest,
    NullModel,
    ScriptedModel,
    Usage,
    input_tokens_bound,
)

SCRIPT = """
default = "no idea"

[price]
input_usd_per_mtok = 2.0
output_usd_per_mtok = 0.25

[[turn]]
text = '''
print(len(context))
'''

[[turn]]
text = 'FINAL("done")'

[[reply]]
when = "(?i)city"
text = "Paris"

[[reply]]
when = "city of light"
text = "never reached"
"""


def ask(
    model: Model, text: str = "go on", *, purpose: Literal["root", "sub"] = "root", output_tokens_max: int = 1000
) -> ModelReply:
    request = ModelRequest("", (Message("user", text),), output_tokens_max, 1.0, purpose)
    return asyncio.run(model.complete(request))


def script(folder: Path, text: str) -> Path:
    path = folder / "demo.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    path = script(folder, text)
    with pytest.raises(InvalidInput) as caught:
        ScriptedModel.load(path)
    assert caught.value.code == "model.script"
    return str(caught.value).replace(str(path), "FILE")


def test_turns_are_played_in_order_and_replies_by_rule(tmp_path: Path) -> None:
    model = ScriptedModel.load(script(tmp_path, SCRIPT))
    assert (model.name, model.scripted) == ("scripted:demo.toml", True)
    assert model.rates.input_nanousd_per_token == 2000
    assert model.rates.output_nanousd_per_token == 250
    assert ask(model).text == "print(len(context))\n"
    assert ask(model, "Which City of light?", purpose="sub").text == "Paris"
    assert ask(model, "What else?", purpose="sub").text == "no idea"
    last = ask(model)
    assert (last.text, last.stop_reason, last.model) == ('FINAL("done")', "end_turn", "scripted:demo.toml")
    assert repr(model) == "ScriptedModel('scripted:demo.toml', 2 of 2 turns played)"


def test_a_turn_too_many_says_what_to_do(tmp_path: Path) -> None:
    model = ScriptedModel.load(script(tmp_path, "\n".join(f"[[turn]]\ntext = '{n}'" for n in range(3))))
    for _ in range(3):
        ask(model)
    for _ in range(2):
        with pytest.raises(ModelFailed) as caught:
            ask(model)
        assert str(caught.value) == (
            "scripted model demo.toml has 3 turns and a 4th was asked for: "
            "add a [[turn]] or end the last with FINAL(...)"
        )
        assert not caught.value.charged
        assert not caught.value.retryable


@pytest.mark.parametrize(
    ("turns", "said"), [(0, "0 turns and a 1st"), (1, "1 turn and a 2nd"), (10, "10 turns and a 11th")]
)
def test_the_count_is_said_in_words(turns: int, said: str) -> None:
    model = ScriptedModel(["x"] * turns)
    for _ in range(turns):
        ask(model)
    with pytest.raises(ModelFailed, match=said):
        ask(model)


def test_a_sub_query_without_a_rule_fails_without_repeating_it() -> None:
    model = ScriptedModel([], [("yes", "no")])
    with pytest.raises(ModelFailed, match=r"no \[\[reply\]\]") as caught:
        ask(model, "tenant text", purpose="sub")
    assert "tenant" not in str(caught.value)
    assert not caught.value.charged


def test_a_rewound_tape_starts_again_and_leaves_the_first_alone() -> None:
    model = ScriptedModel(["one", "two"], [("q", "a")], default="d")
    ask(model)
    again = model.rewound()
    assert ask(again).text == "one"
    assert ask(model).text == "two"
    assert ask(again, "q", purpose="sub").text == "a"
    assert ask(again, "?", purpose="sub").text == "d"


def test_an_answer_is_cut_at_a_character_and_says_so() -> None:
    reply = ask(ScriptedModel(["é" * 10]), output_tokens_max=1)
    assert (reply.text, reply.stop_reason, reply.usage.output_tokens) == ("éé", "max_tokens", 1)
    assert ask(ScriptedModel(["aéé"]), output_tokens_max=1).text == "aé"


@given(st.text(), st.text(), st.integers(min_value=1, max_value=20))
def test_usage_stays_within_what_is_reserved(turn: str, question: str, output_tokens_max: int) -> None:
    request = ModelRequest("be brief", (Message("user", question),), output_tokens_max, 1.0, "root")
    first = asyncio.run(ScriptedModel([turn]).complete(request))
    assert first == asyncio.run(ScriptedModel([turn]).complete(request))
    assert first.usage.output_tokens <= output_tokens_max
    assert first.usage.total_input_tokens <= input_tokens_bound(request)
    assert first.text == turn or (turn.startswith(first.text) and first.stop_reason == "max_tokens")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[turn]]\ntext = 'a'\n[[turn]]\ntxet = 'b'", "FILE:4: Object contains unknown field `txet`"),
        ("\n[[turns]]\ntext = 'a'", "FILE:2: Object contains unknown field `turns`"),
        ("[[turn]]\ntext = 'a'\n[[turn]]\n", "FILE:3: Object missing required field `text`"),
        ("[[turn]]\ntext = 5", "FILE:2: Expected `str`, got `int`"),
        ("[[reply]]\ntext = ''\nwhen = 5", "FILE:3: Expected `str`, got `int`"),
        ("\ndefault = 1", "FILE:2: Expected `str | null`, got `int`"),
        ("turn = 1", "FILE:1: Expected `array`, got `int`"),
        ("[price]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\ndiscount = 1", "FILE:4: Object contains unknown"),
        ("[price]\ninput_usd_per_mtok = -1\noutput_usd_per_mtok = 1", "FILE: a price is a number of at least 0"),
        ("[[turn]]\ntext = a", "FILE:2: is not TOML"),
        ("[[turn]]\ntext = '''a", "FILE: is not TOML"),
        # The text holds a line that looks like a header, so the line cannot be told.
        ("[[turn]]\ntext = '''\n[[turn]]\n'''\nmore = 1", "FILE: Object contains unknown field `more`"),
    ],
)
def test_a_wrong_script_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert refused(tmp_path, text).startswith(said)


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "is not valid: missing )" in refused(tmp_path, "[[reply]]\nwhen = '('\ntext = ''")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        ScriptedModel.load(tmp_path / "absent.toml")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        ScriptedModel.load(tmp_path)
    (tmp_path / "demo.toml").write_bytes(b"# \xff")
    with pytest.raises(InvalidInput, match="not UTF-8 at byte 2"):
        ScriptedModel.load(tmp_path / "demo.toml")


def test_a_file_without_a_price_is_free(tmp_path: Path) -> None:
    assert ScriptedModel.load(script(tmp_path, "")).rates == FREE
    assert FREE.bound(10, 10) == 0


def test_the_null_model_says_one_thing_for_nothing() -> None:
    assert ask(NullModel()) == ModelReply("ok", Usage(input_tokens=2, output_tokens=1), "null", "end_turn")
    assert ask(NullModel("yes"), purpose="sub").text == "yes"
    assert NullModel().rates.input_nanousd_per_token == Decimal(0)
