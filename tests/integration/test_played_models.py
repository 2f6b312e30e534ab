"""Root models of many styles, played: each a transcript, over a real box, to the right answer or the right end.

The question is always how many of 200 lines report an error; the answer is 40. A style is what models of a kind write,
turn by turn; the last reply is the answer that they would come to if nothing before it had been one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from belljar import ModelReply, ModelRequest, Result, Runtime, Usage
from belljar.models import FREE
from belljar.policy import load
from tests.integration.support import Jar
from tests.integration.test_root_replies import LANGUAGES, Language

F = "```"
CONTEXT = "".join(f"{n}: {'error' if n % 5 == 0 else 'fine'} on disk{n % 3}\n" for n in range(200))
RIGHT = 40
LONG = "I look at the lines, one by one. " * 200 + "\n"


def block(code: str, label: str = "repl") -> str:
    return f"{F}{label}\n{code}\n{F}"


class Style(msgspec.Struct, frozen=True):
    """What a model says, one reply after the other, and how that ends; `shown` must have been said to it, in order."""

    says: tuple[str, ...]
    shown: tuple[str, ...] = ()
    status: str = "ok"
    answer: Any = RIGHT
    turns: int | None = None
    partial: Any = None


END = block("FINAL(sum('error' in line for line in context.splitlines()))")
STYLES = {
    "plain": Style((END,), turns=1),
    "verbose": Style(
        (
            "# Plan\n\n1. **Look** at the text.\n2. Count.\n\n| step | state |\n|---|---|\n| 1 | now |\n\n"
            + block("print(len(context), context[:40])")
            + "\n\nI will wait for the output before I go on!",
            "## Next\nThe lines are as I thought, so I count them.\n\n"
            + block("count = sum(1 for line in context.splitlines() if ' error ' in line)\nprint(count)"),
            "Great! Now the answer.\n\n" + block("FINAL(count)"),
        ),
        turns=3,
    ),
    "lazy": Style(("The answer is 40.", "FINAL(40)", END), ("There was no block of code",), turns=3),
    "class-happy": Style(
        (
            block(
                "class Counter:\n    def __init__(self, text):\n        self.lines = text.splitlines()\n"
                "    def count(self, word):\n        return len([l for l in self.lines if word in l])\n"
                "class App:\n    def run(self):\n        return Counter(context).count('error')\n"
                "FINAL(App().run())"
            ),
        ),
        turns=1,
    ),
    "async-minded": Style(
        (
            block(
                "import asyncio\nasync def count(lines):\n    return sum('error' in line for line in lines)\n"
                "async def main():\n    return sum(await asyncio.gather(count(context.splitlines())))\n"
                "FINAL(asyncio.run(main()))"
            ),
            END,
        ),
    ),
    "notebook-like": Style(
        (
            block("!wc -l context.txt"),
            block(">>> len(context)"),
            block("lines = context.splitlines()\nlen(lines)"),
            block("sum('error' in line for line in lines)"),
            block("FINAL(_)\nFINAL(40)"),
            END,
        ),
        ("no shell commands", "without the prompt's signs", "200", "40"),
    ),
    "wrong fences": Style(
        (f"   ~~~Python title=count\n   n = context.count(' error ')\n   ~~~\n{F}{F}py\nFINAL(n)\n{F}{F}",), turns=1
    ),
    "unclosed fence": Style((f"Here:\n{F}python\nFINAL(context.count(' error '))",), turns=1),
    "windows line ends": Style((END.replace("\n", "\r\n"),), turns=1),
    "names from other libraries": Style(
        (
            block("final_answer(context.count(' error '))"),
            block("rlm.completion('count')"),
            block("import dspy"),
            block("SUBMIT(count=context.count(' error '))"),
        ),
        ("NameError", "NameError", "dspy"),
        answer={"count": RIGHT},
        turns=4,
    ),
    "imports what is given": Style((block("from belljar import llm_query, FINAL"), END), ("belljar",), turns=2),
    "stubborn after errors": Style(
        (*[block("print(context.lines_with('error'))")] * 3, END), ("AttributeError", "This is the same code"), turns=4
    ),
    "loops for ever in one block": Style(
        (block("n = 0\nwhile True:\n    n = n + 1"), block("FINAL(context.count(' error ') if n else 0)")),
        ("status timeout",),
        turns=2,
    ),
    "loops for ever in turns": Style(
        (block("best = 39\nprint('thinking')"),),
        ("This is the same code", "last turn"),
        status="quota",
        answer=None,
        turns=6,
        partial=39,
    ),
    "makes up the output": Style(
        (block("print(context.count('error'))") + "\nOutput: 17\n" + block("FINAL(17)"), END),
        ("block 1 printed something",),
        turns=2,
    ),
    "makes up tool calls": Style(
        ('<tool_call>{"name": "python", "arguments": {"code": "FINAL(1)"}}</tool_call>', END),
        ("There was no block of code",),
        turns=2,
    ),
    "answers in JSON": Style((block('{"answer": 41}', "json"), END), ("json",), turns=2),
    "thinks aloud": Style((f"<think>Maybe {block('FINAL(1)')} or not.</think>\n{END}",), turns=1),
    "asks sub-models": Style(
        (
            block(
                "lines = context.splitlines()\nparts = ['\\n'.join(lines[at:at + 50]) for at in range(0, 200, 50)]\n"
                "counts = llm_query_batched([f'How many lines report an error?\\n{part}' for part in parts])\n"
                "print(counts)"
            ),
            block("FINAL(sum(int(count) for count in counts))"),
        ),
        ("['10', '10', '10', '10']",),
        turns=2,
    ),
    "uses the answer dict": Style(
        (block("answer['content'] = context.count(' error ')\nanswer['ready'] = True"),), turns=1
    ),
    "names its answer in prose": Style(
        (block("total = context.count(' error ')") + "\nFINAL_VAR(total)", block("FINAL_VAR('total')")),
        ("printed nothing",),
        turns=2,
    ),
    "prints everything": Style(
        (block("print(context * 20)"), block("print(context[:200])"), END), ("characters not shown",), turns=3
    ),
    "overwrites the names": Style(
        (
            block("context = str(context).upper()\nFINAL_ = context.count(' ERROR ')"),
            block("print(len(context), my_context.count(' ERROR '))"),
            block("FINAL(FINAL_)"),
        ),
        ("your value is now `my_context`", "40"),
        turns=3,
    ),
    "asks the user": Style((block("n = input('Shall I go on? ')"), END), ("Error",), turns=2),
    "looks for a file": Style((block("text = open('/data/context.txt').read()"), END), ("Error",), turns=2),
    "wants pandas": Style((block("import pandas as pd\ndf = pd.read_csv(context)"), END), ("pandas",), turns=2),
    "writes a script": Style(
        (
            block(
                "import re\n\ndef main() -> None:\n    FINAL(len(re.findall(r'\\berror\\b', str(context))))\n\n"
                'if __name__ == "__main__":\n    main()'
            ),
        ),
        turns=1,
    ),
    "exits when done": Style((block("n = context.count(' error ')\nexit()"), block("FINAL(n)")), turns=2),
    "looks before it leaps": Style(
        (block("print(SHOW_VARS())\nprint(budget())"), block("n = context.count(' error ')\nprint(SHOW_VARS())"), END),
        ("no variables yet", "n: int"),
        turns=3,
    ),
    "says nothing": Style(("", " \n", ""), ("had no text",), status="model_failed", answer=None, turns=3),
    "swallows every error": Style(
        (
            block(
                "for name in ('nothing', 'context'):\n    try:\n        value = {'context': context}[name]\n"
                "    except Exception:\n        continue\n    FINAL(value.count(' error '))"
            ),
        ),
        turns=1,
    ),
}


class Played:
    """A root model of a style, and a sub-model that counts."""

    scripted = True
    rates = FREE
    name = "scripted:played"

    def __init__(self, style: Style) -> None:
        self._says = list(style.says)

    async def complete(self, request: ModelRequest) -> ModelReply:
        if request.purpose == "root":
            said = self._says.pop(0) if len(self._says) > 1 else self._says[0]
        else:
            said = str(request.messages[-1].text.count(" error "))
        return ModelReply(said, Usage(100, 10), "m", "end_turn")

    async def aclose(self) -> None:
        """Nothing to close."""


def play(jar: Jar, style: Style, language: Language) -> Result:
    standard = load("standard")
    policy = replace(
        standard,
        limits=replace(standard.limits, cell_wall_s=5.0),
        models=replace(standard.models, turns_max=6),
    )

    async def main() -> Result:
        async with Runtime(policy, state=jar.at, language=language) as runtime:
            return await runtime.run("How many lines report an error?", context=CONTEXT, model=Played(style))

    return asyncio.run(main())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", STYLES)
def test_a_style_of_root_model_comes_to_the_right_end(jar: Jar, name: str, language: Language) -> None:
    style = STYLES[name]
    result = play(jar, style, language)
    said = "\n".join(turn.shown for turn in result.turns_log)
    assert (result.status, result.answer, result.partial) == (style.status, style.answer, style.partial), said
    if style.turns is not None:
        assert result.turns == style.turns, said
    at = 0
    for words in style.shown:
        assert words in said[at:], said
        at = said.index(words, at) + len(words)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_variable_of_a_turn_that_was_left_out_is_still_an_answer(jar: Jar, language: Language) -> None:
    """What is too long for the conversation goes from it, the oldest first; nothing goes from the box."""

    class Remembering(Played):
        def __init__(self) -> None:
            many = tuple(LONG + block(f"print('{number}' * 15_000)") for number in range(8))
            count = LONG + block("found = sum(1 for line in context.splitlines() if 'error' in line)")
            super().__init__(Style(says=(count, *many, block("FINAL_VAR('found')"))))
            self.sent: list[str] = []

        async def complete(self, request: ModelRequest) -> ModelReply:
            self.sent.append("\n".join(message.text for message in request.messages))
            return await super().complete(request)

    standard = load("standard")
    policy = replace(standard, models=replace(standard.models, prompt_bytes_max=64 * 1024))
    model = Remembering()

    async def main() -> Result:
        async with Runtime(policy, state=jar.at, language=language) as runtime:
            return await runtime.run("How many lines report an error?", context=CONTEXT, model=model)

    result = asyncio.run(main())
    assert f"{F}repl\nfound = sum" in model.sent[1]
    assert f"{F}repl\nfound = sum" not in model.sent[-1]
    assert "was left out to save room" in model.sent[-1]
    assert (result.status, result.answer, result.turns) == ("ok", RIGHT, 10)
    assert "found = sum" in result.turns_log[0].reply
