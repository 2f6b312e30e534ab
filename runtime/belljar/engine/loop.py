"""The RLM loop: a root model writes code, the box runs it, what it printed goes back, until the code gives an answer.

    question, description of `context`  ->  root model  ->  ```repl blocks  ->  box  ->  output  ->  root model ...

The run ends by `FINAL` and its kin *in code*, on the box's own wire; prose is never searched for an answer. Output is
text from a hostile document, so it goes back between markers that carry a random word of this run, in a user turn.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Final as Const
from typing import Protocol

import msgspec

from belljar.broker import Calls, RunScope
from belljar.context import Document
from belljar.engine.box import Box
from belljar.engine.result import CellResult
from belljar.errors import QuotaExceeded
from belljar.heavy import off_loop, slices
from belljar.models import Message, Model, ModelRequest

__all__ = ["Progress", "Work", "solve"]

# What one cell's output may take of the root model's window.
_SHOWN_CHARS_MAX: Const = 20_000
# Of these the error's message is ours, and not the program's.
_OUR_WORDS: Const = frozenset({"timeout", "cpu"})
# A line that opens a block, or one that closes it, with as many blanks behind as anybody leaves there.
_FENCE: Const = re.compile(r"```(repl|python)?[ \t]{0,1000}$", re.MULTILINE)

_SYSTEM: Const = """\
You answer a question about a document that is far too long to be shown to you. It is in the variable `context` of a \
Python session, and you work on it by writing code. Put code in blocks that start with ```repl and end with ```; each \
block is run and you are shown what it printed. Variables live on from block to block.

In the session you have:
- `context`: the document, used like a str: len(context), context[a:b], context.splitlines(), context.split(sep), \
context.find(x), context.count(x), `x in context`, and the functions of `re`. It is read in pages as you touch it. \
`for line in context.lines():` goes through it at any length; context.lines(a, b) gives lines a to b. \
context.search(pattern, start=0, limit=100) finds a regular expression on the host, fast at any length: a list of hits \
with .start, .stop and .text; context.count_matches(pattern) counts. Patterns there have no look-around and no \
back-references; groups are had as hit[1] or hit["name"]. Where the document is a list or a dict of texts, `context` \
is used like one, its items like str; search, count_matches and lines() go through all items, hit.key says in which.
- `contexts`: all the documents by name, when there are several.
- `llm_query(prompt)`: asks a fresh model that sees only this prompt, and returns its answer as a str. It reads well \
up to several hundred thousand characters.
- `llm_query_batched(prompts)`: the same for a list, all at once, answers in order. Use it to read every part of the \
document with a model's understanding: split the document, put each part into a prompt with the question, and combine. \
One that fails raises after all are done, with every answer in the exception's `.answers`; with return_exceptions=True \
its place holds the exception instead. An answer that was cut short is a `CutAnswer`, a kind of str.
- `budget()`: what is left to spend. `SHOW_VARS()`: what you have defined.
- `FINAL(value)`: gives the final answer and ends the work; `FINAL_VAR("name")` gives a variable.

Way of working: look at the shape of the document first (its length, its first and last lines). Use code for what code \
can decide and sub-models for what takes reading, as often as the question needs. Check that every part was covered. \
End by calling FINAL in a block; an answer in prose does not count."""

_NUDGE: Const = (
    "There was no ```repl block in your answer, so nothing was run. Write the next step as code in a ```repl block; "
    "when you know the answer, call FINAL(...) in one."
)


class Progress(msgspec.Struct, frozen=True):
    """Where a run stands, for whoever watches."""

    turns: int
    cells: int
    reads: int
    read_bytes: int
    queries: int
    calls: int
    cost_nanousd: int


class Work(Protocol):
    """The run that the loop drives."""

    turns: int

    @property
    def scope(self) -> RunScope: ...

    @property
    def calls(self) -> Calls: ...

    @property
    def box(self) -> Box: ...

    @property
    def documents(self) -> Mapping[str, Document]: ...

    async def execute(self, code: str, *, spare_cpu: bool = False) -> CellResult: ...


async def solve(run: Work, model: Model, question: str) -> None:
    """Run the loop until the answer is given or the box has ended.

    Raises:
        QuotaExceeded: `models.turns`: the root model never finished; or what a call was refused for.
        PolicyDenied: `run_wall_ms`: the run's time was up while the root model thought.
        ModelFailed: the root model gave no answer.
    """
    policy = run.scope.policy
    word = secrets.token_hex(6)
    messages = [Message("user", _opening(question, run.documents))]
    for _ in range(policy.models.turns_max):
        request = ModelRequest(
            system=_SYSTEM,
            messages=tuple(messages),
            output_tokens_max=policy.models.output_tokens_max,
            deadline_s=policy.models.call_wall_s,
            purpose="root",
        )
        run.turns += 1
        text = await _think(run, model, request)
        if text is None:
            return
        shown: list[str] = []
        for code in await off_loop(len(text), _blocks, text):
            cell = await run.execute(code, spare_cpu=True)
            if run.box.finished:
                return
            shown.append(_show(cell, word))
        messages += [Message("assistant", text or "(no text)"), Message("user", "\n\n".join(shown) or _NUDGE)]
    raise QuotaExceeded(
        f"the root model did not finish in {policy.models.turns_max} turns: allow more turns or ask a smaller question",
        code="models.turns",
        limit=policy.models.turns_max,
        observed=policy.models.turns_max,
    )


async def _think(run: Work, model: Model, request: ModelRequest) -> str | None:
    """The root model's answer; None where the box has ended meanwhile.

    What a program left running may meet a limit, and the run's time passes: that is then how the run ended.
    """
    reply = await run.calls.ask(model, request, cell=run.box.broker.cells)
    return None if run.box.finished else reply.text


def _blocks(text: str) -> list[str]:
    """The code in the reply's blocks. One that is not closed is none."""
    blocks: list[str] = []
    start: int | None = None
    for fence in _fences(text):
        if start is None:
            start = fence.end() + 1 if fence[1] else None
        elif not fence[1]:
            blocks.append(text[start : fence.start()])
            start = None
    return blocks


def _fences(text: str) -> Iterator[re.Match[str]]:
    """In slices: a search through all of it would be one call, and keep the interpreter to itself."""
    if (first := _FENCE.match(text)) is not None:
        yield first
    for at, stop in slices(len(text)):
        while (at := text.find("\n```", at, stop + len("```")) + 1) > 0:
            if (fence := _FENCE.match(text, at)) is not None:
                yield fence


def _opening(question: str, documents: Mapping[str, Document]) -> str:
    if not documents:
        return f"There is no document.\nQuestion: {question}"
    lines = [f"`context` is {_about(next(iter(documents.values())))}."]
    if len(documents) > 1:
        lines += [f'`contexts["{name}"]` is {_about(document)}.' for name, document in documents.items()]
    return "\n".join([*lines, f"Question: {question}"])


def _about(document: Document) -> str:
    if document.kind == "text":
        return f"a text (characters: {document.chars}, lines: {document.lines})"
    return f"a {document.kind} (items: {document.items}, characters in all: {document.chars - document.key_chars})"


def _show(cell: CellResult, word: str) -> str:
    """What the root model sees of a cell: data between markers, then our own words about how it ended."""
    output = _cut(cell.stdout + (f"\n[stderr]\n{cell.stderr}" if cell.stderr else ""))
    lines = [f"<output {word}>", output.rstrip("\n") or "(nothing was printed)", f"</output {word}>"]
    if cell.truncated:
        lines.append("The output was longer than what is kept; print less.")
    if cell.status != "ok":
        why = f": {cell.error.message}" if cell.error and cell.status in _OUR_WORDS else ""
        lines.append(f"The block ended with status {cell.status}{why}.")
    if cell.error is not None:
        trace = _cut(cell.error.traceback or cell.error.message)
        lines.append(f"<error {word}>\n{trace.rstrip()}\n</error {word}>")
    return "\n".join(lines)


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARS_MAX:
        return text
    half = _SHOWN_CHARS_MAX // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters not shown ...]\n{text[-half:]}"
