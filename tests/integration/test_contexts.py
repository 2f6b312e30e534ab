"""Contexts of every kind in real boxes: what the program finds, what the caller is told, and whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from belljar import Result, Runtime
from belljar.context import ContextStores
from belljar.errors import InvalidInput, Refusal
from belljar.identity import BackendName, Language, Tenant
from belljar.models import NullModel, ScriptedModel
from belljar.policy import load
from belljar.sources import ContextSource
from tests.integration.support import Jar, Outcome, until
from tests.unit.searches import workers

LANGUAGES: tuple[Language, ...] = ("python", "restricted")
T = TypeVar("T")

VALUES: list[Any] = ["one", "zwei → ö", {"a": [1, None, True]}, 4.5, [], ""]
MAILS: dict[str, Any] = {"2024/a.txt": "first\nmail", "b": "zweite ö", "meta": {"n": [1, 2]}, "ö": "", "n": -3}


def block(code: str) -> str:
    return f"```repl\n{code}\n```\n"


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def opened(jar: Jar, **options: Any) -> Runtime:
    return Runtime(state=jar.at, **{"environ": {}, **options})


def execute(jar: Jar, code: str, language: Language = "python", **run: Any) -> Result:
    async def go() -> Result:
        async with opened(jar, language=language) as runtime:
            return await runtime.execute(code, **run)

    result = drive(go())
    assert result.status == "ok", result.error
    return result


def piping(text: str) -> tuple[str, ...]:
    """Before a command: it gets this text through a pipe."""
    return ("sh", "-c", 'text=$0; printf %s "$text" | "$@"', text)


def folder_of(jar: Jar, files: Mapping[str, str | bytes], name: str = "folder") -> Path:
    for path, content in files.items():
        place = jar.work / name / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return jar.work / name


# --------------------------------------------------------------------------------------------- kinds, in both languages

TEXT_PROGRAM = """
found = context.search("l[io]ne? [0-9]+", limit=3)
FINAL([len(context), context[:6], context.count("line"), [hit.text for hit in found], found.next is None,
       context.count_matches("(?m)^line"), context.lines(2, 4), isinstance(context, str),
       contexts["context"] == context])
"""
LIST_PROGRAM = """
FINAL([len(context), context[0], context[-2:], [item for item in context], context.index("zwei → ö"),
       isinstance(context, list), "one" in context])
"""
DICT_PROGRAM = """
FINAL([len(context), list(context), context["b"], context["meta"]["n"], context.get("none", 7), sorted(context)[0],
       [[key, value] for key, value in context.items()], isinstance(context, dict), "ö" in context])
"""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text(jar: Jar, language: Language) -> None:
    text = "".join(f"line {number}\n" for number in range(3000))
    assert execute(jar, TEXT_PROGRAM, language, context=text).answer == [
        *(len(text), "line 0", 3000, ["line 0", "line 1", "line 2"], False, 3000, ["line 2", "line 3"], True, True)
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_list_of_json_values(jar: Jar, language: Language) -> None:
    result = execute(jar, LIST_PROGRAM, language, context=VALUES)
    assert result.answer == [6, "one", [[], ""], VALUES, 1, True, True]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_dict_of_json_values(jar: Jar, language: Language) -> None:
    result = execute(jar, DICT_PROGRAM, language, context=MAILS)
    pairs = [[key, value] for key, value in MAILS.items()]
    assert result.answer == [5, list(MAILS), "zweite ö", [1, 2], 7, "2024/a.txt", pairs, True, True]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_folder(jar: Jar, language: Language) -> None:
    folder = folder_of(jar, {"b.txt": "zwei", "a/c.txt": "eins\n", ".hidden": "h", ".git/config": "no"})
    code = "FINAL([[path, text] for path, text in context.items()])"
    expected = [[".hidden", "h"], ["a/c.txt", "eins\n"], ["b.txt", "zwei"]]
    assert execute(jar, code, language, context=folder).answer == expected


SEARCH_PROGRAM = """
import re
hits = context.search(r"(?P<level>[a-z]+): (é+ )?(\\d+)", limit=2)
rest = context.search(r"(?P<level>[a-z]+): (é+ )?(\\d+)", start=hits.next)
refused = []
for pattern in (r"(?<=a)b", r"(a)\\1", r"\\C"):
    try:
        context.search(pattern)
    except re.error as error:
        told = any(word in str(error) for word in ("RE2 has no", "use . instead"))
        refused.append(told and isinstance(error, PolicyDenied))
FINAL([[[hit.key, hit["level"], hit[2], hit.groups()[2]] for hit in [*hits, *rest]],
       all(context[hit.key][hit.start:hit.stop] == hit.text for hit in hits), rest.next,
       context.count_matches(r"^[a-z]+:"), refused, [line for line in context.lines()],
       context[hits[0].key].search(r"(\\d)\\d")[0][1], isinstance(context[hits[0].key], str)])
"""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_search_through_a_list_or_dict(jar: Jar, language: Language) -> None:
    logs: dict[str, Any] = {"ö": "warn: 17\n\nerror: éé 4", "n": {"warn": "info: 5"}, "z": "", "last": "info: 6\n"}
    lines = ["warn: 17", "", "error: éé 4", '{"warn":"info: 5"}', "info: 6"]
    for value, keys in ((logs, [*logs]), ([*logs.values()], [0, 1, 2, 3])):
        found = [
            *([keys[0], "warn", None, "17"], [keys[0], "error", "éé ", "4"]),
            *([keys[1], "info", None, "5"], [keys[3], "info", None, "6"]),
        ]
        result = execute(jar, SEARCH_PROGRAM, language, context=value)
        assert result.answer == [found, True, None, 2, [True, True, True], lines, "1", True]


PART_PROGRAM = """
part = context.part(100_000, 200_000)
rows, mails = contexts["rows"].part(1, 4), contexts["mails"].part(-3)
FINAL([len(part), part[:4], part[-2:], part.search(r"\\Aline")[0].start, part.count_matches("(?m)^line"),
       part.part(5, 50).part(0, 5)[:], context[:7], isinstance(part, str), [row for row in rows], rows[-1:],
       [hit.key for hit in rows.search("e")], list(mails), mails["meta"], [hit.key for hit in mails.search("[0-9]")]])
"""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_part_of_each_kind(jar: Jar, language: Language) -> None:
    text = "".join(f"line {number:04}\n" for number in range(30_000))
    contexts: dict[str, ContextSource] = {"rows": VALUES, "mails": MAILS}
    result = execute(jar, PART_PROGRAM, language, context=text, contexts=contexts)
    part = text[100_000:200_000]
    assert result.answer == [
        *(len(part), part[:4], part[-2:], 0, part.count("line"), part[5:10], text[:7], True),
        *(VALUES[1:4], VALUES[3:4], [0, 1], ["meta", "ö", "n"], MAILS["meta"], ["meta", "meta", "n"]),
    ]


def test_what_is_read_of_a_part_is_charged_and_covers_the_document(jar: Jar) -> None:
    text = "x" * 200_000
    result = execute(
        jar, "part = context.part(100_000, 180_000)\nFINAL(len(part[:]) + len(part.part(10, 20)[:]))", context=text
    )
    assert result.answer == 80_010
    reads = [record.data for record in jar.records("context.read")]
    assert (reads[0]["doc"], reads[0]["start"], reads[0]["stop"]) == (0, 100_000, 180_000)
    assert result.read_bytes == sum(read["stop"] - read["start"] for read in reads) < 120_000
    assert 80_000 <= result.coverage.read_chars <= 120_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_several_by_name(jar: Jar, language: Language) -> None:
    contexts: dict[str, ContextSource] = {"contract": "the contract", "mails": MAILS, "rows.v2": VALUES}
    code = (
        "FINAL([list(contexts), context[:3], contexts['contract'][4:], contexts['mails']['n'], contexts['rows.v2'][0]])"
    )
    result = execute(jar, code, language, context="abcdef", contexts=contexts)
    assert result.answer == [["context", *contexts], "abc", "contract", -3, "one"]
    without = execute(jar, "FINAL([list(contexts), context[:3]])", language, contexts=contexts)
    assert without.answer == [[*contexts], "the"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_file_in_another_encoding(jar: Jar, encoding: str) -> None:
    path = jar.file("text.txt", "zwölf Ärzte →\n\U0001f600".encode(encoding))
    assert execute(jar, "FINAL([str(context), len(context)])", context=path).answer == ["zwölf Ärzte →\n\U0001f600", 15]


@pytest.mark.parametrize("backend", ["docker", "gvisor"])
def test_in_a_container_too(jar: Jar, docker_host: str, backend: BackendName) -> None:
    async def go() -> list[Any]:
        async with opened(jar, backend=backend, language="python", environ={"DOCKER_HOST": docker_host}) as runtime:
            code = """
hits = context.search("b+")
FINAL([contexts["mails"]["b"], contexts["rows"][1], [hit.start for hit in hits], context.lines(1, 2)])
"""
            result = await runtime.execute(code, context="abb\nb", contexts={"mails": MAILS, "rows": VALUES})
            assert result.status == "ok", result.error
            answer = result.answer
            assert isinstance(answer, list)
            return answer

    assert drive(go()) == ["zweite ö", "zwei → ö", [1, 4], ["b"]]


def test_sixty_documents_are_all_read_shown_and_counted(jar: Jar) -> None:
    contexts = {
        f"n{number}": "".join(f"{number} → {line * 7919 + number:09}.\n" for line in range(5)) for number in range(60)
    }
    code = "FINAL(len(llm_query_batched(['Read: ' + str(text) for text in contexts.values()])))"

    async def go() -> Result:
        async with opened(jar) as runtime:
            return await runtime.execute(code, contexts=contexts, model=NullModel("x", name="scripted:x"))

    result = drive(go())
    assert (result.answer, result.coverage.read_share, result.coverage.shown_share) == (60, 1.0, 1.0)


# ------------------------------------------------------------------------------------------------------ command line


def answer(outcome: Outcome) -> Any:
    assert outcome.code == 0, outcome.stderr
    return outcome.result["answer"]


def test_contexts_of_the_command_line(jar: Jar) -> None:
    text = jar.file("a text.txt", "some text")
    equals = jar.file("x=y", "equals")
    folder = folder_of(jar, {"one.json": '{"a": 1}', "rows.csv": "a,b\n1,2\n"})
    code = "FINAL({name: str(one) if isinstance(one, str) else dict(one) for name, one in contexts.items()})"
    files = {"one.json": '{"a": 1}', "rows.csv": "a,b\n1,2\n"}
    assert answer(jar.exec(code, "--json", "--context", text)) == {"context": "some text"}
    assert answer(jar.exec(code, "--json", "--context", equals.name)) == {"context": "equals"}
    both = jar.exec(code, "--json", "--context", f"files={folder}", "--context", text)
    assert answer(both) == {"context": "some text", "files": files}
    digest = hashlib.sha256(b"some text").hexdigest()
    assert jar("context", "add", folder, "--name", "mine").code == 0
    assert jar("context", "add", text).code == 0
    known = jar.exec(code, "--json", "--context", f"t=sha256:{digest}", "--context", "@mine", "--context", "m=@mine")
    assert answer(known) == {"context": files, "t": "some text", "m": files}


def test_what_a_run_brings_along_is_in_no_file_afterwards(jar: Jar) -> None:
    private = "a private word"

    async def go() -> None:
        async with opened(jar) as runtime:
            result = await runtime.execute(
                "FINAL([len(context), len(contexts['more'])])", context=private, contexts={"more": [private, private]}
            )
            assert result.answer == [len(private), 2]

    drive(go())
    assert answer(jar.exec("FINAL(len(context))", "--json", "--context", jar.file("private.txt", private))) == 14
    kept = [path for path in jar.state.root.rglob("*") if path.is_file() and private.encode() in path.read_bytes()]
    assert kept == []
    listed = jar("context", "ls")
    assert (listed.code, listed.stdout) == (0, "")


def test_a_run_that_is_cancelled_while_it_takes_its_context_in_leaves_none(jar: Jar) -> None:
    async def go() -> None:
        async with opened(jar) as runtime:
            await runtime.prepare()
            for _ in range(8):
                running = asyncio.create_task(runtime.execute("FINAL(1)", context="x" * 3_000_000))
                await asyncio.sleep(0)
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    drive(go())
    # A thread that was taking it in then gives it back; `Jar.check` looks.
    until(lambda: not list(jar.state.contexts.glob("*/lent/*")), what="the text is removed")


def test_other_forms_on_the_command_line(jar: Jar) -> None:
    rows = jar.file("rows.jsonl", '{"id": 1}\n{"id": 2}\n')
    code = "FINAL(list(context) if isinstance(context, list) else str(context))"
    assert answer(jar.exec(code, "--json", "--jsonl", "--context", rows)) == [{"id": 1}, {"id": 2}]
    latin = jar.file("latin.txt", b"caf\xe9")
    assert answer(jar.exec(code, "--json", "--context", latin, "--encoding", "latin-1")) == "café"
    assert answer(jar.exec(code, "--json", "--context", latin, "--errors", "replace")) == "caf\ufffd"
    packed = jar.file("log.gz", gzip.compress(b"packed"))
    assert answer(jar.exec(code, "--json", "--context", packed)) == "packed"
    program = jar.file("program.py", code)
    assert answer(jar("exec", program, "--json", "--context", "-", before=piping("piped"))) == "piped"
    assert jar("context", "add", "-", "--name", "p", "--jsonl", before=piping('{"id": 3}')).code == 0
    assert answer(jar.exec(code, "--json", "--context", "@p")) == [{"id": 3}]


def test_a_folder_with_a_binary_file_names_the_remedy_and_takes_it(jar: Jar) -> None:
    folder = folder_of(jar, {"good.txt": "good", "photo.png": b"\x89PNG\0"})
    refused = jar.exec("FINAL(1)", "--context", folder)
    assert refused.code == 2
    assert "--errors skip" in refused.complaint
    assert answer(jar.exec("FINAL(list(context))", "--json", "--context", folder, "--errors", "skip")) == ["good.txt"]


def test_removing_a_name_keeps_the_text_of_others(jar: Jar) -> None:
    rows = jar.file("rows.csv", "a,b")
    for name in ("one", "two"):
        assert jar("context", "add", rows, "--name", name).code == 0
    removed = jar("context", "rm", "one")
    assert "the text stays, as two" in removed.stdout
    assert answer(jar.exec("FINAL(str(context))", "--json", "--context", "@two")) == "a,b"
    assert jar("context", "rm", "two", "--json").code == 0
    assert jar("context", "ls").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["missing.txt"], "missing.txt"),
        (["@unknown"], "there is no context 'unknown'"),
        (["sha256:" + "0" * 64], "there is no context"),
        (["bad name=here.txt"], "is not a valid name for a context"),
        (["=here.txt"], "is not a valid name for a context"),
        (["here.txt", "here.txt"], "two contexts are called context"),
        (["a=here.txt", "a=here.txt"], "two contexts are called a"),
        (["binary"], "nul.bin"),
        (["."], "nul.bin"),
    ],
)
def test_what_is_no_context_is_refused_before_the_run(jar: Jar, arguments: list[str], complaint: str) -> None:
    jar.file("here.txt", "text")
    folder_of(jar, {"good.txt": "good", "nul.bin": b"a\0b"}, "binary")
    outcome = jar.exec("FINAL(1)", *(word for argument in arguments for word in ("--context", argument)))
    assert (outcome.code, outcome.stdout) == (2, ""), outcome.stderr
    assert complaint in outcome.complaint
    assert not jar.journal.exists() or jar.records("box.started") == []


def test_a_value_that_is_no_json_and_a_name_that_is_taken(jar: Jar) -> None:
    async def go() -> list[str]:
        codes = []
        async with opened(jar) as runtime:
            wrong: list[dict[str, Any]] = [
                *({"context": [object()]}, {"context": {1: "x"}}, {"context": 5}, {"context": [float("nan")]}),
                *({"contexts": {"context": "x"}}, {"contexts": {"a/b": "x"}}, {"contexts": {"": "x"}}),
            ]
            for arguments in wrong:
                with pytest.raises(InvalidInput) as caught:
                    await runtime.execute("FINAL(1)", **arguments)
                codes.append(caught.value.code)
        return codes

    assert drive(go()) == ["context.not_json"] * 4 + ["context.name"] * 3


def test_as_many_contexts_as_fit_one_sentence_and_no_more(jar: Jar) -> None:
    async def go() -> tuple[object, InvalidInput]:
        async with opened(jar) as runtime:
            # Long names, of which each character takes as many bytes as one may.
            many = {f"{number:064}": [f"text {number}"] for number in range(63)}
            documents = {
                name: await runtime.add_context(text, name="\N{CUNEIFORM SIGN A}" * 200 + name)
                for name, text in many.items()
            }
            result = await runtime.execute("FINAL(len(contexts))", context="one", contexts=documents)
            with pytest.raises(InvalidInput) as caught:
                await runtime.execute("FINAL(1)", context="one", contexts={**documents, "another": "text"})
            return result.answer, caught.value

    answer, refused = drive(go())
    assert answer == 64
    assert (refused.code, refused.limit, refused.observed) == ("context.too_many", 64, 65)


def test_what_of_a_folder_is_left_out_is_told(jar: Jar) -> None:
    folder = folder_of(jar, {"one.txt": "text"})
    (folder / "link").symlink_to("/etc/hostname")
    outcome = jar.exec("FINAL(list(context))", "--json", "--context", folder)
    assert answer(outcome) == ["one.txt"]
    assert outcome.stderr == "belljar: not in the context: 'link': a symbolic link\n"


# ---------------------------------------------------------------------------------------------------- whose they are


def test_two_tenants_with_the_same_text_share_nothing(jar: Jar) -> None:
    text = "the same words " * 1000

    async def go() -> None:
        async with opened(jar) as runtime:
            ours = await runtime.add_context(text, name="plan", tenant="acme/research")
            for tenant in ("rival", "acme", "acme/research/alice"):
                for reference in ("plan", f"sha256:{ours.sha256}", ours.sha256[:16]):
                    with pytest.raises(InvalidInput) as caught:
                        runtime.registered(reference, tenant=tenant)
                    assert caught.value.code == "context.unknown"
                with pytest.raises(InvalidInput):
                    await runtime.execute("FINAL(str(context))", context=ours, tenant=tenant)
            theirs = await runtime.add_context(text, tenant="rival")
            assert theirs.sha256 == ours.sha256
            assert (await runtime.execute("FINAL(len(context))", context=theirs, tenant="rival")).answer == len(text)
            ContextStores(jar.state.contexts).of(Tenant("rival")).rm(ours.sha256)
            kept = await runtime.execute("FINAL(len(context))", context=ours, tenant="acme/research")
            assert kept.answer == len(text)

    drive(go())
    jar("context", "add", jar.file("again.txt", text), "--tenant", "rival")
    copies = [path for path in jar.state.contexts.rglob("text") if path.read_text() == text]
    assert len({path.stat().st_ino for path in copies}) == len(copies) == 2
    assert all(path.stat().st_nlink == 1 for path in copies)
    refused = jar.exec("FINAL(1)", "--context", "@plan", "--tenant", "rival")
    assert (refused.code, "there is no context 'plan'" in refused.stderr) == (2, True)


def test_what_a_run_has_open_is_neither_removed_nor_swept(jar: Jar) -> None:
    async def go() -> None:
        store = ContextStores(jar.state.contexts).of()
        async with opened(jar) as runtime:
            document = await runtime.add_context("in use " * 9)
            async with runtime.session(context=document) as session:
                with pytest.raises(Refusal) as caught:
                    store.rm(document.sha256)
                assert caught.value.code == "context.in_use"
                swept = await asyncio.to_thread(store.gc, 0, now_ns=time.time_ns() + 10**9)
                assert (swept.removed, swept.in_use) == ([], 1)
                assert (await session.execute("print(context.count('use'))")).stdout == "9\n"
            assert [one.sha256 for one in store.gc(0, now_ns=time.time_ns() + 10**9).removed] == [document.sha256]

    drive(go())


# ---------------------------------------------------------------------------------------------------------- coverage

READ_ALL = """
parts = [context[at:at + 1000] for at in range({start}, len(context), 1000)]
replies = llm_query_batched(["Summarise this part.\\n\\n" + part for part in parts])
FINAL(len(replies))
"""


def coverage_run(jar: Jar, start: int, text: str) -> Result:
    root = ScriptedModel([block(READ_ALL.format(start=start))])

    async def go() -> Result:
        async with opened(jar) as runtime:
            sub = NullModel("a summary", name="scripted:sub")
            return await runtime.run("What?", context=text, model=root, sub_model=sub)

    result = drive(go())
    assert (result.status, result.answer) == ("ok", (len(text) - start + 999) // 1000), result.error
    return result


def test_a_run_that_shows_all_is_found_to_have_shown_all(jar: Jar) -> None:
    text = "".join(f"entry {number}: {number * 7919 % 10007} of the ledger → checked\n" for number in range(1500))
    result = coverage_run(jar, 0, text)
    assert (result.coverage.read_share, result.coverage.shown_share) == (1.0, 1.0)
    for what in ("read", "shown"):
        outcome = jar("audit", "coverage", result.run, "--require", "100%", "--what", what)
        assert outcome.code == 0, outcome.stdout + outcome.stderr


def test_a_run_that_leaves_a_part_out_is_found_out(jar: Jar) -> None:
    text = "".join(f"entry {number}: {number * 7919 % 10007} of the ledger → checked\n" for number in range(1500))
    result = coverage_run(jar, 3000, text)
    assert 0.9 < result.coverage.shown_share < 1
    outcome = jar("audit", "coverage", result.run, "--require", "100%", "--what", "shown", "--json")
    assert outcome.code == 9
    document = json.loads(outcome.stdout)["coverage"]["documents"][0]
    # White space beside what was shown counts with it.
    ((start, stop),) = document["never_shown"]["first"]
    assert (start, document["chars"] - document["shown_chars"]) == (0, stop)
    assert 2998 <= stop <= 3000


# ------------------------------------------------------------------------------------------------- one beside another

# So spread that hardly a page is there already.
SAMPLES = """
import random
for _ in range(100):
    at = random.randrange(len(context) - 200)
    assert len(context[at:at + 200]) == 200
"""


def test_a_search_of_one_run_does_not_hold_up_the_reads_of_another(jar: Jar) -> None:
    """The process that searches is stopped meanwhile: the search goes on as long as the reads take."""
    text = "a line of a text that is gone through from end to end\n" * (10 << 20 >> 6)
    policy = load("standard")
    policy = msgspec.structs.replace(policy, context=msgspec.structs.replace(policy.context, search_wall_s=600.0))

    async def go() -> list[str]:
        async with opened(jar, language="python", policy=policy) as runtime:
            large = await runtime.add_context(text)
            async with runtime.session(context=large) as searching, runtime.session(context=large) as reading:
                await searching.execute("context.count_matches('x')")
                (worker,) = workers()
                worker.suspend()
                search = asyncio.create_task(searching.execute("print(context.count_matches('[x-z]{3}[a-q]'))"))
                cells = [await reading.execute(SAMPLES) for _ in range(3)]
                assert not search.done()
                worker.resume()
                return [cell.status for cell in (*cells, await search)]

    assert drive(go()) == ["ok"] * 4
