"""Contents end to end: what a run says is kept with its records, and read back by whoever has the host's key."""

from __future__ import annotations

import asyncio
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import belljar
from belljar.audit import records
from belljar.audit.content import Contents, open_contents
from belljar.audit.events import AnswerGiven, CellFinished, CellStarted, ContextRead, QueryCompleted, QueryRequested
from belljar.audit.signing import signed_size
from belljar.errors import AuditUnavailable, ContentMissing
from belljar.keys import Keys
from belljar.models import ModelReply, ModelRequest, Usage
from belljar.policy import load
from tests.integration.support import Jar, until
from tests.waiting import PATIENCE_S

SECRET = "sk-ant-0123456789-very-secret"
CANARY = 'the blue "ibis" of Weymouth'
QUESTION = "what does the harbour say?"
PIECE = "The lighthouse keeper counts the herons."
ANSWER = "seventeen herons"
CODE = """\
piece = context[:40]
print("looking at", piece, "CANARY")
"""
LAST = """\
import sys
print("almost there", file=sys.stderr)
found = llm_query("how many? " + context[:40] + " SECRET")
FINAL(found)
"""


class Talker:
    """A root model of two cells, and a sub-model, which repeats the key that it was given."""

    name, scripted, rates = "scripted-talker", True, belljar.Rates(Decimal(0), Decimal(0))

    def __init__(self) -> None:
        self.asked = 0

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.asked += 1
        if request.purpose == "sub":
            return ModelReply(f"{ANSWER} {SECRET}", Usage(1, 1), "m", "end_turn")
        code = CODE.replace('"CANARY"', repr(CANARY)) if len(request.messages) == 1 else LAST.replace("SECRET", SECRET)
        return ModelReply(f"```repl\n{code}```", Usage(1, 1), "m", "end_turn")

    async def aclose(self) -> None:
        pass


def environment(jar: Jar) -> dict[str, str]:
    return {"BELLJAR_KEYS": str(jar.work / "keys"), "ANTHROPIC_API_KEY": SECRET}


def solve(jar: Jar, policy: Any, model: Talker) -> belljar.Result:
    async def main() -> belljar.Result:
        async with belljar.Runtime(policy, state=jar.at, environ=environment(jar), language="python") as runtime:
            return await runtime.run(QUESTION, context=f"{PIECE} " * 20, model=model)

    return asyncio.run(main())


def keeping(*kinds: str) -> Any:
    policy = load("standard")
    audit = msgspec.structs.replace(policy.audit, contents=kinds)
    models = msgspec.structs.replace(policy.models, canaries=(CANARY,))
    return msgspec.structs.replace(policy, name="of-a-test", audit=audit, models=models)


def every_byte_below(*folders: Path) -> bytes:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return b"\0".join(path.read_bytes() for path in files)


def test_what_was_said_is_kept_and_nothing_of_it_is_seen(jar: Jar) -> None:
    policy = keeping("code", "output", "prompts", "replies", "reads")
    result = solve(jar, policy, Talker())
    assert (result.status, result.answer) == ("ok", f"{ANSWER} {SECRET}")
    said: dict[str, list[Any]] = {}
    with open_contents(jar.state.journal, Keys(jar.work / "keys")) as contents:
        for record in records(jar.state.journal):
            said.setdefault(record.event, []).append(shown(contents, record.run, record.typed))
    mark = "[a secret was here]"
    assert said["run.started"] == [QUESTION]
    first = CODE.replace('"CANARY"', f"'{mark}'")
    assert said["cell.started"] == [first, LAST.replace("SECRET", mark)]
    assert said["cell.finished"] == [(f"looking at The lighthouse keeper counts the herons. {mark}\n", "", "")]
    assert said["answer.given"] == [(f'"{ANSWER} {mark}"', ("", "almost there\n", ""))]
    assert said["context.read"]
    assert all(text.startswith(PIECE) for text in said["context.read"])
    root, again, sub = said["query.requested"]
    assert (len(root.messages), len(again.messages), len(sub.messages)) == (1, 3, 1)
    assert again.messages[1].text == f"```repl\n{first}```"
    assert sub.messages[0].text == f"how many? {PIECE} {mark}"
    assert said["query.completed"][-1] == f"{ANSWER} {mark}"
    found = every_byte_below(jar.at, jar.work / "keys")
    for text in (QUESTION, "looking at", "how many?", ANSWER, SECRET, CANARY):
        assert text.encode() not in found, text


def printed(contents: Contents, run: str, name: str | None) -> tuple[str, str, str]:
    said = contents.output(run, name)
    return said.stdout, said.stderr, said.traceback


def shown(contents: Contents, run: str, event: Any) -> Any:
    """What a record's content is, as the test compares it."""
    match event:
        case QueryRequested():
            return contents.prompt(run, event.content)
        case CellFinished():
            return printed(contents, run, event.content)
        case AnswerGiven():
            return contents.text(run, event.content), printed(contents, run, event.output)
        case CellStarted() | ContextRead() | QueryCompleted():
            return contents.text(run, event.content)
        case _:
            name = getattr(event, "question", None)
            return name and contents.text(run, name)


def test_a_host_keeps_no_more_than_its_configuration_says_and_prune_does_so_at_once(jar: Jar) -> None:
    runs = [solve(jar, keeping("code"), Talker()).run]
    until(lambda: time.strftime("%Y%m%dT%H%M%S", time.gmtime()) > str(runs[0])[:15], what="runs are told by the second")
    runs.append(solve(jar, keeping("code"), Talker()).run)
    file = jar.at / "belljar.toml"
    file.write_text("schema = 1\n[audit]\ncontents_max = '1 GiB'\n")
    assert jar("config", "check").code == 0
    assert f"contents  at most 1 GiB  ({file}, audit.contents_max)" in jar("config", "show").stdout
    assert jar("audit", "prune", env=environment(jar)).stdout == ""
    with open_contents(jar.state.journal, Keys(jar.work / "keys")) as contents:
        ((size,),) = contents._ask("SELECT sum(length(body)) FROM contents")
    file.write_text(f"schema = 1\n[audit]\ncontents_max = '{size - 1} B'\n")

    async def open_host() -> None:
        async with belljar.Runtime("standard", state=jar.at, environ=environment(jar)), asyncio.timeout(PATIENCE_S):
            while not jar.records("content.erased"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(open_host())
    assert [record.data for record in jar.records("content.erased")] == [{"of": runs[0], "by": "host", "why": "size"}]
    file.write_text("schema = 1\n[audit]\ncontents_max = '1 B'\n")
    assert jar("audit", "prune", env=environment(jar)).stdout.split() == [runs[1]]


SEARCHING = """\
print([hit.text for hit in context.search("(The) (?P<who>light[a-z]+)", limit=2)], context.count_matches("herons"))
print(context.lines(0, 1), context.search("no such thing"))
FINAL("no number")
"""


class Searching(Talker):
    """Its first answer is not of the type that was asked for."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.asked += 1
        return ModelReply(f"```repl\n{SEARCHING if self.asked == 1 else 'FINAL(17)'}```", Usage(1, 1), "m", "end_turn")


def searched(jar: Jar, *kinds: str) -> tuple[str, list[Any]]:
    """A run that searches and gives a void answer: its id, and its records of that."""

    async def main() -> belljar.Result:
        policy = keeping(*kinds)
        async with belljar.Runtime(policy, state=jar.at, environ=environment(jar), language="python") as runtime:
            return await runtime.run(QUESTION, context=f"{PIECE} " * 20, model=Searching(), answer_type=int)

    result = asyncio.run(main())
    assert (result.status, result.answer) == ("ok", 17)
    return result.run, [
        record.typed
        for record in records(jar.state.journal, result.run)
        if record.event in ("context.searched", "answer.void")
    ]


def test_what_searches_found_and_answers_that_do_not_count_are_kept_and_shown(jar: Jar) -> None:
    run, found = searched(jar, "output", "reads")
    texts = ["The lighthouse" * 2, None, f"{PIECE} " * 20, None, '"no number"']
    with open_contents(jar.state.journal, Keys(jar.work / "keys")) as contents:
        assert [event.content and contents.text(run, event.content) for event in found] == texts
    env = environment(jar)
    shown = jar("audit", "show", run, "--full", env=env).stdout
    assert "found\n          | The lighthouse\n          | The lighthouse\n" in shown
    assert "answer, 9 bytes  void, it does not count" in shown
    assert '| "no number"' in shown
    for form in ("atif", "html", "jsonl"):
        text = jar("audit", "export", run, "--format", form, "--content", env=env).stdout
        for word in ("The lighthouse\\nThe lighthouse", "The lighthouse\nThe lighthouse", "The lighthouse" * 2):
            text = text.replace(word, "FOUND")
        assert "FOUND" in text, form
        assert "no number" in text, form
    jar("audit", "erase", run, "--yes", env=env)
    shown = jar("audit", "show", run, "--full", env=env).stdout
    assert f"found  the contents of {run} are gone: they were erased" in shown


def test_searches_and_void_answers_are_kept_as_the_policy_says_of_their_kinds(jar: Jar) -> None:
    _, found = searched(jar, "reads")
    assert [event.content is not None for event in found] == [True, False, True, False, False]
    _, found = searched(jar, "output")
    assert [event.content is not None for event in found] == [False, False, False, False, True]


def test_a_policy_that_keeps_metadata_keeps_nothing_else(jar: Jar) -> None:
    assert solve(jar, keeping(), Talker()).status == "ok"
    names = [
        name
        for record in records(jar.state.journal)
        for key in ("content", "question", "output", "reply")
        if (name := record.data.get(key)) is not None
    ]
    assert names == []
    assert not (jar.work / "keys" / "contents.key").exists()
    with open_contents(jar.state.journal, Keys(jar.work / "keys")) as contents, pytest.raises(ContentMissing):
        contents.get("r1", None)


def test_where_contents_cannot_be_stored_nothing_is_sent(jar: Jar) -> None:
    """Another may read the folder of keys: no run with contents begins, and no model is asked."""
    keys = jar.work / "keys"
    keys.mkdir(mode=0o755)
    os.chmod(keys, 0o755)
    model = Talker()
    with pytest.raises(AuditUnavailable, match="others can read it"):
        solve(jar, keeping("code"), model)
    assert model.asked == 0
    assert solve(jar, keeping(), model).status == "ok"


def test_what_was_erased_is_gone_everywhere_and_the_log_says_so(jar: Jar) -> None:
    assert solve(jar, keeping("code", "output", "prompts", "replies"), Talker()).status == "ok"
    (run,) = {record.run for record in records(jar.state.journal)}
    code = next(r.typed.content for r in records(jar.state.journal) if isinstance(r.typed, CellStarted))
    assert code is not None
    extra = {"BELLJAR_KEYS": str(jar.work / "keys")}
    shown_code = jar("audit", "content", run, code, env=extra)
    assert (shown_code.code, "looking at" in shown_code.stdout) == (0, True)
    assert jar("audit", "content", run, code, "--json", env=extra).document["text"] == shown_code.stdout
    closed = jar("audit", "content", run, code, env=extra, before=("sh", "-c", 'exec "$0" "$@" >&-'))
    assert (closed.code, closed.stderr) == (0, "")
    for wrong in (code[:-1], "0" * 64):
        answer = jar("audit", "content", run, wrong, env=extra)
        assert (answer.code, "no record of" in answer.stderr) == (2, True)
    asked = jar("audit", "erase", run, env=extra)
    assert (asked.code, "say --yes" in asked.stderr) == (2, True)
    erased = jar("audit", "erase", run, "--yes", env=extra)
    assert (erased.code, erased.stdout.split()) == (0, [run])
    gone = jar("audit", "content", run, code, env=extra)
    assert (gone.code, gone.stdout) == (2, "")
    assert f"the contents of {run} are gone: they were erased" in gone.stderr
    (told,) = [record for record in records(jar.state.journal) if record.event == "content.erased"]
    assert (told.run, told.data["of"], told.data["why"]) == ("host.contents", run, "erased")
    assert jar("audit", "verify").code == 0
    # Or its record could be cut off again, and nothing would show it.
    assert signed_size(jar.journal) >= told.seq
    for wrong in (run[:-1], "last"):  # nobody should believe that it was erased
        refused = jar("audit", "erase", wrong, "--yes", env=extra)
        assert (refused.code, "the log has no run" in refused.stderr) == (2, True)
    again = jar("audit", "erase", "--tenant", "default", "--yes", "--json", env=extra)
    assert again.document["erased"] == []
