"""Trajectories made by hand, with their texts on a shelf, for tests of what is made from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from belljar.audit.coverage import Document
from belljar.audit.trajectory import (
    Answer,
    AnswerText,
    Cell,
    Child,
    Limit,
    Query,
    Read,
    Refused,
    Run,
    Search,
    Shown,
    Spent,
    Step,
    Text,
    Turn,
)
from belljar.errors import InvalidInput
from belljar.spans import Spans

__all__ = ["HOSTILE", "MARK", "START", "Shelf", "documents", "story"]

SECOND = 10**9
START = 1_795_392_000 * SECOND
# Who finds this in a page's title, console or requests knows that a stranger's text was run.
MARK = "owned"
HOSTILE = (
    f"<script>document.title='{MARK}'</script>",
    f"</script><script>document.title='{MARK}'</script>",
    "<!--<script>",
    "--></style><style>*{display:none}</style>",
    f"<img src='https://{MARK}.example/x.png' onerror=\"document.title='{MARK}'\">",
    f"\"onmouseover=\"document.title='{MARK}'\" x=\"'onfocus='document.title=1' autofocus='",
    f"<svg/onload=document.title='{MARK}'><a href=\"javascript:document.title='{MARK}'\">go</a>",
    f"<iframe srcdoc='<script>parent.document.title=1</script>'></iframe><link rel=stylesheet href=https://{MARK}.example>",
    f"<meta http-equiv=refresh content='0;url=https://{MARK}.example'><base href=https://{MARK}.example>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} {# no #}",
    "</pre></details></main></body></html>",
    "safe \u202egnp.exe\u202c \u2066isolate\u2069 \u200bzero\u200bwidth \ufeffbom \u00adsoft",
    "\x00nul \x1b[31mred\x1b[0m \x08\x7f\x85 \r return \x0c feed",
    "line\u2028separator paragraph\u2029separator",
    "lone \ud800 and \udfff surrogates \U000e0001\U000e0041 tags",
    "e" + "\u0301" * 200,
    "fillers \u3164\u115f\u2800 and a text behind a letter: a\ufe00\U000e0148\U000e0159",
    "&lt;b&gt; &amp;amp; &#60;script&#62;",
)


class Shelf:
    """Where the texts are. `put` gives one of a run; None is one that was not kept."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def put(self, said: str | None, run: str = "r1") -> Text:
        data = ("" if said is None else said).encode("utf-8", "surrogatepass")
        name = hashlib.sha256(data).hexdigest()
        if said is not None:
            self._kept[name] = said
        return Text(run, name, len(data), None if said is None else name)

    def answer(self, said: str, run: str) -> AnswerText:
        """One that is a text."""
        put = self.put(json.dumps(said), run)
        return AnswerText(run, put.sha256, put.size_bytes, put.content)

    def erase(self) -> None:
        """From now on all texts are gone."""
        self._kept.clear()

    def text(self, run: str, name: str | None) -> str:
        if name not in self._kept:
            raise InvalidInput("it was erased", code="content.erased")
        return self._kept[name]

    def prompt(self, run: str, name: str | None) -> Any:
        raise NotImplementedError

    def output(self, run: str, name: str | None) -> Any:
        raise NotImplementedError


class _Story:
    """Each step takes a tenth of a second and a record."""

    def __init__(self, shelf: Shelf, run: str, words: list[str]) -> None:
        self.shelf = shelf
        self.seq = 0
        self._run = run
        self._words = words

    def say(self, number: int) -> str:
        return self._words[number % len(self._words)]

    def now(self) -> dict[str, Any]:
        self.seq += 1
        return {"seq": self.seq, "at_ns": START + self.seq * SECOND // 10}

    def reading(self, at: int, start: int, length: int, counted: list[Document]) -> list[Step]:
        """A read, or a search, and what is asked about it."""
        here = [(start, start + length)]
        for one in counted:
            one.read.add(*here[0])
        search: dict[str, Any] = {
            "line": 3,
            "mode": "find",
            "start": 0,
            "stop": 10**5,
            "pattern_sha256": "c" * 64,
            "count": 1,
        }
        found: list[Step] = [
            Search(**self.now(), doc=0, spans=here, **search)
            if at % 5 == 4
            else Read(**self.now(), line=2, doc=0, reads=1, spans=here)
        ]
        found.append(self.query(self._run, f"Is there an outage in this?\n{self.say(at)}", f"No. {self.say(at + 1)}"))
        if at % 2 == 0:
            found.append(Shown(**self.now(), doc=0, spans=here, complete=True))
            counted[0].shown.add(*here[0])
        return found

    def failing(self) -> list[Step]:
        """A call that fails, one that is denied, and a request that is refused."""
        # Where there is a foreign text, it may be a code, too: that of somebody else's log.
        code = "quota.calls" if len(self._words) == 1 else f"quota.{self._words[-1][:500]}"
        refused = Limit(code=code, limit=100, observed=101, scope="acme", period="day", used=90, held=10)
        return [
            self.query(self._run, self.say(1), None, outcome="failed", error=f"overloaded: {self.say(2)}"),
            self.query(self._run, self.say(2), None, outcome="denied", denied=refused),
            Refused(**self.now(), asked=f"read of {self.say(3)}", why=Limit(code="read.out_of_range")),
        ]

    def turn(self, number: int, steps: list[Step]) -> Turn:
        code = f"lines = context.splitlines()\nfor part in parts({number}):\n    ask(part)\n# {self.say(number)}"
        cell = self.cell(self._run, number, code, f"{self.say(number)}\n" * 3, steps)
        how = {"purpose": "root", "model": "claude-opus-4-6"}
        prompt = f"You are the root model.\n{self.say(number)}"
        asked = self.query(self._run, prompt, f"I look.\n```repl\n{code}\n```", **how)
        asked.at_ns, asked.ended_ns = cell.started_ns - SECOND, cell.started_ns
        return Turn(number=number, queries=[asked], cells=[cell])

    def query(self, run: str, prompt: str | None, reply: str | None, **more: Any) -> Query:
        given = {"action": f"{run}.{self.seq}", "cell": 1, "attempt": 1, "model": "claude-haiku-4-5", "purpose": "sub"}
        query = Query(
            **self.now(),
            **{
                **given,
                "output_tokens_max": 4096,
                "prompt": self.shelf.put(prompt, run),
                "outcome": "completed",
                **more,
            },
        )
        if query.outcome == "completed":
            query.reply, query.stop_reason, query.answered_by = self.shelf.put(reply, run), "end_turn", query.model
            query.spent = Spent(calls=1, input_tokens=len(prompt or "") // 4, output_tokens=12, cost_nanousd=1_250_000)
        query.ended_ns = query.at_ns + SECOND * 3 // 2
        return query

    def cell(self, run: str, number: int, code: str | None, output: str | None, steps: list[Step], **more: Any) -> Cell:
        begun = self.now()
        ended = self.now()
        return Cell(
            number=number,
            seq=begun["seq"],
            started_ns=(steps[0].at_ns if steps else begun["at_ns"]) - SECOND // 20,
            code=self.shelf.put(code, run),
            ended_seq=ended["seq"],
            ended_ns=ended["at_ns"] + SECOND,
            output=self.shelf.put(output, run),
            steps=steps,
            **{"status": "ok", **more},
        )


def documents(name: str = "context", chars: int = 100_000, **more: Any) -> Document:
    fields = {"number": 0, "kind": "text", "sha256": "ab" * 32, "part": None, "of_items": False}
    return Document(name=name, chars=chars, read=Spans(), shown=Spans(), **{**fields, **more})


def story(
    shelf: Shelf,
    *,
    said: Iterable[str] = ("What does the log say about the outage?",),
    queries: int = 12,
    cells: int = 3,
    children: int = 2,
    run: str = "r1",
    depth: int = 0,
    whole: Document | None = None,
) -> Run:
    """A run that reads its context in pieces, asks about each, starts child runs, and answers."""
    words = list(said)
    tale = _Story(shelf, run, words)
    context = documents(tale.say(0)[:200] if len(words) > 1 else "context", part=(0, 50_000) if depth else None)
    found = _begun(run, depth, context, shelf.put(tale.say(0), run))
    piece = context.chars // 2 // max(cells * queries, 1)
    for number in range(1, cells + 1):
        steps: list[Step] = []
        for at in range(queries):
            steps += tale.reading(at, ((number - 1) * queries + at) * piece, piece - 7, [context, whole or context])
        if queries:
            steps += tale.failing()
        for place in range(children if number == 1 else 0):
            how: dict[str, Any] = {"said": words, "queries": min(queries, 3), "cells": 1, "children": 0}
            child = story(shelf, run=f"{run}.{place + 1:05}", depth=depth + 1, whole=context, **how)
            steps.append(Child(**tale.now(), run=child))
            _add(found.total, child.total)
        if number == cells:
            steps.append(Answer(**tale.now(), text=shelf.answer(tale.say(0), run), void=False, stays=False))
        found.turns.append(tale.turn(number, steps))
    asked = [one for turn in found.turns for one in turn.queries]
    for query in [*asked, *(one for one in found.steps() if isinstance(one, Query))]:
        _add(found.own, query.spent)
    _add(found.total, found.own)
    found.last_seq = tale.seq
    found.ended_ns = tale.now()["at_ns"] + 2 * SECOND
    return found


def _begun(run: str, depth: int, context: Document, question: Text) -> Run:
    return Run(
        run=run,
        depth=depth,
        tenant="acme/research",
        policy="standard",
        policy_digest="5f" * 32,
        backend="jail",
        facts={"image": "sha256:" + "0d" * 32},
        language="python",
        root_model="claude-opus-4-6",
        sub_model="claude-haiku-4-5",
        question=question,
        layers=["namespaces", "seccomp", "landlock", "cgroup"],
        documents=[context],
        started_ns=START,
        status="ok",
        records=1234,
        first_seq=1,
    )


def _add(into: Spent, more: Spent) -> None:
    for name in Spent.__struct_fields__:
        setattr(into, name, getattr(into, name) + getattr(more, name))
