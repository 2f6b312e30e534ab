"""What cannot begin says so in one line, with the exit code that fits, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from belljar.cli import cli
from belljar.policy import dump, load
from tests.integration.support import BELLJAR, SMALL, Jar, Outcome

PROGRAM = "print(len(context))"


def refused(outcome: Outcome, code: int, *words: str) -> None:
    """One line on stderr with all of `words`, nothing on stdout, and that exit code."""
    assert (outcome.code, outcome.stdout) == (code, ""), outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert outcome.complaint.startswith("belljar: ")
    for word in words:
        assert word in outcome.complaint


def nothing_began(jar: Jar) -> None:
    """The log has at most that the start was refused."""
    if jar.journal.exists():
        assert {record.event for record in jar.records()} <= {"run.started", "run.finished"}
        assert {record.data["status"] for record in jar.records("run.finished")} <= {"denied"}


# -------------------------------------------------------------------------------------------------------------- context


def test_a_context_that_is_missing(jar: Jar) -> None:
    refused(jar.exec(PROGRAM, "--context", "no/such.txt"), 2, "no/such.txt")
    nothing_began(jar)


@pytest.mark.parametrize(
    ("command", "readers"),
    [
        (("exec", "-", "--context", "-"), ("the program", "the context")),
        (("exec", "-", "--context", "log=-"), ("the program", "the context log")),
        (("exec", "program.py", "--context", "a=-", "--context", "b=-"), ("the context a", "the context b")),
        (("chat", "--model", "scripted:turns.toml", "--context", "-"), ("the questions", "the context")),
    ],
    ids=["program", "a named context", "two contexts", "chat"],
)
def test_stdin_cannot_be_two_things(jar: Jar, command: tuple[str, ...], readers: tuple[str, str]) -> None:
    jar.file("program.py", PROGRAM)
    jar.file("turns.toml", '[[turn]]\ntext = "```repl\\nFINAL(1)\\n```"\n')
    shell = ("sh", "-c", f'exec "$0" "$@" < {jar.file("piped", "print(1)")}')
    refused(jar(*command, before=shell), 2, f"stdin cannot be both {readers[0]} and {readers[1]}: write one of them")
    nothing_began(jar)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"text \x00 and more", "byte 5"),
        (b"caf\xe9 au lait\n", "--encoding"),
        ("wide".encode("utf-16") + b"!", "UTF-16"),
        (b"cut inside \xc3", "byte 11"),
    ],
    ids=["empty", "binary", "latin-1", "utf-16", "cut"],
)
def test_a_context_that_is_no_text(jar: Jar, content: bytes, word: str) -> None:
    refused(jar.exec(PROGRAM, "--context", jar.file("bad.txt", content)), 2, "bad.txt", word)
    nothing_began(jar)


def test_a_context_that_is_a_device_or_a_folder_without_files(jar: Jar) -> None:
    empty = jar.work / "empty"
    empty.mkdir()
    refused(jar.exec(PROGRAM, "--context", empty), 2, "empty")
    refused(jar.exec(PROGRAM, "--context", "/dev/zero"), 2, "/dev/zero")
    pipe = jar.work / "pipe"
    os.mkfifo(pipe)
    refused(jar.exec(PROGRAM, "--context", pipe), 2, "pipe")
    nothing_began(jar)


EMPTY = {
    "context": ("exec", "program.py", "--context", ""),
    "named": ("exec", "program.py", "--context", "rows="),
    "program": ("exec", ""),
    "trace": ("run", "Q", "--trace", ""),
    "state": ("exec", "program.py", "--state", ""),
    "configuration": ("exec", "program.py", "--config", ""),
    "registered": ("context", "add", ""),
    "begun": ("init", ""),
}


@pytest.mark.parametrize("words", EMPTY.values(), ids=EMPTY)
def test_an_empty_path_does_not_mean_the_current_folder(jar: Jar, words: tuple[str, ...]) -> None:
    jar.file("program.py", "print(1)")
    before = sorted(jar.work.rglob("*"))
    outcome = jar(*words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "is empty: name a file or a folder, '.' for the current one" in outcome.stderr
    assert sorted(jar.work.rglob("*")) == before


@pytest.mark.parametrize("name", ["", "x="])
def test_a_context_whose_name_no_file_can_have(jar: Jar, name: str) -> None:
    long = name + "a" * 300
    refused(jar.exec(PROGRAM, "--context", long), 2, "aaa")
    assert jar.exec("print(1)").code == 0
    outcome = jar("audit", "replay", "last", "--context", long)
    refused(outcome, 2, "had no context")


def test_a_program_that_cannot_be_read(jar: Jar) -> None:
    refused(jar("exec", "none.py"), 2, "none.py")
    refused(jar("exec", jar.file("latin.py", b"x = '\xe9'\n")), 2, "UTF-8", "byte 5")
    nothing_began(jar)


def test_a_program_over_the_policys_size(jar: Jar) -> None:
    policy = jar.policy('[limits]\ncode = "1 KiB"')
    outcome, result = jar.exec_json("x = 1\n" * 1000, "--policy", policy)
    assert (outcome.code, result["status"]) == (4, "denied")
    assert result["limit"] == {"code": "limits.code", "limit": 1024, "observed": 6000, "unit": "bytes"}


# --------------------------------------------------------------------------------------------------------------- policy


def test_a_policy_with_an_unknown_key_names_file_and_line(jar: Jar) -> None:
    policy = jar.policy("[limits]\ncpus = 4")
    line = SMALL.count("\n") + 2
    refused(jar.exec(PROGRAM, "--policy", policy), 3, f"small.toml:{line}", "cpus")
    refused(jar("policy", "check", policy), 3, f"small.toml:{line}", "cpus")
    nothing_began(jar)


@pytest.mark.parametrize("value", ['"5 parsecs"', '"5"', "5", '"-5 s"', "true", '"1e9 s"'])
def test_a_policy_with_a_wrong_value_names_file_and_line(jar: Jar, value: str) -> None:
    policy = jar.policy(f"[limits]\n# A comment in between.\ncell_wall = {value}")
    refused(jar.exec(PROGRAM, "--policy", policy), 3, f"small.toml:{SMALL.count(chr(10)) + 3}", "cell_wall")


def test_a_policy_may_only_tighten(jar: Jar) -> None:
    refused(jar.exec(PROGRAM, "--policy", jar.policy('[limits]\nmemory = "8 GiB"')), 3, "small.toml:", "memory")


def test_a_policy_that_is_not_there_or_no_toml(jar: Jar) -> None:
    refused(jar.exec(PROGRAM, "--policy", "standart"), 3, "standard")
    refused(jar.exec(PROGRAM, "--policy", "no/such.toml"), 3, "no/such.toml")
    refused(jar.exec(PROGRAM, "--policy", jar.file("broken.toml", "[limits\n")), 3, "broken.toml:1")


def test_presets_check_and_print_themselves(jar: Jar) -> None:
    for name in ("dev", "standard", "strict"):
        assert jar("policy", "check", name).code == 0
        shown = jar("policy", "show", name).stdout.replace(f'name = "{name}"', 'name = "mine"')
        mine = load(str(jar.file("shown.toml", shown)))
        assert dump(msgspec.structs.replace(mine, name=name)) == dump(load(name))


# --------------------------------------------------------------------------------------------------------------- models


def test_a_model_that_the_policy_does_not_allow(jar: Jar) -> None:
    policy = jar.policy('[models]\nallow = ["claude-haiku-*"]')
    outcome = jar.exec(PROGRAM, "--policy", policy, "--model", jar.script("x"))
    refused(outcome, 4, "does not allow the model scripted:script.toml", "claude-haiku-*")
    nothing_began(jar)


def test_a_model_that_does_not_exist(jar: Jar) -> None:
    refused(jar.exec(PROGRAM, "--model", "gpt-oss"), 2, "'gpt-oss'", "scripted:FILE")
    refused(jar.exec(PROGRAM, "--model", "\x1b[31mred"), 2, r"\x1b[31mred")
    refused(jar.exec(PROGRAM, "--model", "scripted:none.toml"), 2, "none.toml")
    refused(jar.exec(PROGRAM, "--model", f"scripted:{jar.file('bad.toml', 'turns = 1')}"), 2, "bad.toml:1", "turns")


def test_a_model_without_a_key_names_the_variable(jar: Jar) -> None:
    context = jar.file("context.txt", "text")
    refused(jar("run", "What?", "--context", context), 2, "ANTHROPIC_API_KEY", "scripted:FILE")
    nothing_began(jar)


# ------------------------------------------------------------------------------------------------- tenants and backends


@pytest.mark.parametrize(
    "tenant", ["", "Acme", "a b", "a//b", "../etc", "a/", "/".join("abcdefghi"), "x" * 64, "run:1"]
)
def test_a_tenant_that_is_no_tenant(jar: Jar, tenant: str) -> None:
    refused(jar.exec("print(1)", "--tenant", tenant), 2, "is not a valid tenant name; use")
    nothing_began(jar)


@pytest.mark.parametrize("backend", ["docker", "gvisor"])
def test_a_backend_that_is_not_there_is_refused_not_replaced(jar: Jar, backend: str) -> None:
    outcome = jar.exec("print(1)", "--backend", backend, env={"DOCKER_HOST": f"unix://{jar.work}/no.sock"})
    assert outcome.code == 1
    assert "no Docker daemon answers" in outcome.complaint
    assert "start it, or name another in DOCKER_HOST" in outcome.complaint
    nothing_began(jar)


def test_a_language_that_the_policy_does_not_allow(jar: Jar) -> None:
    refused(jar.exec("print(1)", "--policy", "strict", "--language", "python"), 4, "python", "restricted")


def test_a_refusal_in_json_is_one_document(jar: Jar) -> None:
    outcome = jar.exec("print(1)", "--tenant", "A", "--json")
    assert outcome.code == 2
    error = outcome.document["error"]
    assert (error["culprit"], error["type"], error["code"]) == ("refused", "InvalidInput", "tenant.invalid")
    assert outcome.complaint == f"belljar: refused: {error['message']}"


def test_a_usage_error_is_2(jar: Jar) -> None:
    assert jar("exec").code == 2
    assert jar("run", "--no-such-option").code == 2
    assert jar("no-such-command").code == 2


WRONG = {
    "option": ("exec", "program.py", "--contxt", "x"),
    "value": ("exec", "program.py", "--backend", "dokcer"),
    "argument": ("exec",),
    "more-arguments": ("exec", "program.py", "another.py"),
    "percentage": ("audit", "coverage", "last", "--require", "101%"),
    "command": ("no-such-command",),
    "subcommand": ("audit", "no-such"),
    "no-command": (),
    "no-subcommand": ("context",),
    "program": ("exec", "none.py"),
    "context": ("exec", "program.py", "--context", "none.txt"),
    "tokens": ("demo", "--tokens", "12"),
    "tenant": ("demo", "--tokens", "2048", "--quiet", "--tenant", "A B"),
    "policy": ("policy", "show", "none.toml"),
    "log": ("audit", "show", "last"),
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG.keys())
def test_whatever_is_wrong_is_one_document_with_json(jar: Jar, words: tuple[str, ...]) -> None:
    jar.file("program.py", "print(1)")
    outcome = jar(*words, "--json")
    assert outcome.stdout, outcome.stderr
    document = outcome.document
    assert outcome.code in (2, 3, 8)
    assert document["status"] in ("invalid", "host_fault")
    assert set(document["error"]) >= {"culprit", "message", "type"}
    assert outcome.stderr.count("\n") == 1
    assert "Traceback" not in outcome.stderr
    assert jar(*words).stdout == ""


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


def test_every_command_can_print_a_document() -> None:
    found = {
        " ".join(name): {option for each in command.params for option in each.opts} for name, command in commands(cli)
    }
    assert len(found) > 10
    # Stdout of `mcp` is a protocol's.
    assert [name for name, options in found.items() if "--json" not in options] == ["mcp"]


def test_every_command_is_told_with_its_own_words() -> None:
    context = click.Context(cli)
    listed = cli.get_help(context)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        first = command.get_short_help_str(1000).removesuffix(".")
        assert " ".join(listed.split()).find(first[:40]) > 0, name


def test_presets_are_listed_as_a_document(jar: Jar) -> None:
    listed = jar("policy", "ls", "--json").document["policies"]
    assert [policy["name"] for policy in listed] == ["dev", "standard", "strict"]
    assert listed[1]["digest"] == jar("policy", "check", "standard", "--json").document["digest"]
    assert "oneOf" in json.loads(jar("policy", "schema", "--json").stdout)


# ------------------------------------------------------------------------------------------------------- what we may do


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [("-n 20", "NOFILE", "20"), ("-n 200", "NOFILE", "200"), ("-c 0", "CORE", "0"), ("-s 1000", "STACK", "1024000")],
)
def test_a_limit_that_we_were_started_with_and_a_box_passes_is_named(
    jar: Jar, option: str, name: str, value: str
) -> None:
    program = jar.file("program.py", "print(1)")
    outcome = jar("exec", program, "--quiet", before=("sh", "-c", f'ulimit {option}; exec "$0" "$@"'))
    refused(outcome, 1, f"RLIMIT_{name} that belljar was started with is {value}", f"ulimit -H{option[1]}")


# ------------------------------------------------------------------------------------------------------- state folders


def test_a_state_folder_that_cannot_be_made(jar: Jar) -> None:
    regular = jar.file("regular", "")
    refused(jar.exec("print(1)", "--state", regular / "below"), 2, "regular/below", "is not a folder", "--state")
    refused(jar.exec("print(1)", "--state", regular), 2, "regular", "is not a folder", "--state")
    refused(jar.exec("print(1)", "--state", "/proc/1/below"), 8, "/proc/1/below", "cannot be created", "--state")


@pytest.mark.parametrize(
    "words",
    [("audit", "ls"), ("quota", "show"), ("key", "ls"), ("config", "show"), ("state", "check"), ("image", "ls")],
)
def test_a_state_folder_that_cannot_be_looked_into(jar: Jar, words: tuple[str, ...]) -> None:
    refused(jar(*words, "--state", f"{jar.work}/{'x' * 300}"), 8, "cannot be looked into (File name too long)")


def test_a_context_whose_name_is_longer_than_any_file_s(jar: Jar) -> None:
    program = jar.file("program.py", PROGRAM)
    refused(jar("exec", program, "--context", f"a={'x' * 300}"), 2, "File name too long")


def test_a_log_that_is_something_else_is_left_alone(jar: Jar) -> None:
    other = jar.work / "other"
    other.mkdir()
    (other / "images").symlink_to((jar.at / "images").resolve())
    (other / "audit.db").write_text("my diary\n" * 1000)
    refused(jar.exec("print(1)", "--state", other), 8, "audit.db")
    assert (other / "audit.db").read_text() == "my diary\n" * 1000


# Mounts are private to the process that makes them: `unshare -m`, and all is gone with it.
IN_MOUNTS = """
import os, subprocess, sys
belljar, state, images, program, how = sys.argv[1:]
def sh(*words): subprocess.run(words, check=True)
def run(): return subprocess.run([belljar, "exec", program, "--state", state, "--quiet"]).returncode
sh("mount", "-t", "tmpfs", "-o", "size=2M,mode=0700", "tmpfs", state)
os.symlink(images, state + "/images")
assert run() == 0
if how == "readonly":
    sh("mount", "-o", "remount,ro", state)
else:
    with open(state + "/ballast", "wb", buffering=0) as ballast:
        try:
            while True: ballast.write(bytes(4096))
        except OSError: pass
sys.exit(run())
"""


def in_mounts(jar: Jar, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), sys.executable, "-c", code]
    return subprocess.run(
        [*words, *arguments], capture_output=True, text=True, env=jar.environ(), timeout=60, check=False
    )


@pytest.mark.parametrize("how", ["readonly", "full"])
def test_a_state_folder_that_cannot_be_written_runs_nothing(jar: Jar, how: str) -> None:
    state, images = jar.work / "mounted", (jar.at / "images").resolve()
    state.mkdir()
    program = jar.file("program.py", "print('ran')")
    done = in_mounts(jar, IN_MOUNTS, BELLJAR, str(state), str(images), str(program), how)
    assert done.returncode == 8, done.stderr
    assert done.stdout == "ran\n"  # once, before the disk was full
    assert done.stderr.startswith("belljar: our fault: ")
    assert "audit" in done.stderr


# The disk fills up while a program asks one question after another. Each question is logged before it is sent, so the
# model is never asked more than the log knows of; then the run ends with the fault.
FILLS_UP = """
import asyncio, os, subprocess, sys
from pathlib import Path
import belljar
from belljar.audit import records, verify
from belljar.models import NullModel

state, images = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,mode=0700", "tmpfs", str(state)], check=True)
os.symlink(images, state / "images")

class Counting(NullModel):
    asked = 0
    async def complete(self, request):
        logged = sum(record.event == "query.requested" for record in records(state / "audit.db"))
        self.asked += 1
        assert logged >= self.asked, (logged, self.asked)
        return await super().complete(request)

async def main():
    model = Counting("yes", name="scripted:counting")
    policy = belljar.Runtime("standard", state=state).policy
    try:
        async with belljar.Runtime(policy, state=state, environ={}) as runtime:
            result = await runtime.execute("while True: llm_query('x' * 100)", model=model)
            print("ended", result.status, result.error)
    except (belljar.AuditUnavailable, belljar.LedgerUnavailable):  # whichever is full first
        assert model.asked > 10, model.asked
        report = verify(state / "audit.db")
        assert not report.problems, report.problems
        requested = sum(record.event == "query.requested" for record in records(state / "audit.db"))
        assert requested >= model.asked
        print("unavailable")

asyncio.run(main())
"""


def test_a_disk_that_fills_up_during_a_run_stops_it_before_anything_is_sent(jar: Jar) -> None:
    state, images = jar.work / "mounted", (jar.at / "images").resolve()
    state.mkdir()
    done = in_mounts(jar, FILLS_UP, str(state), str(images))
    assert (done.returncode, done.stdout) == (0, "unavailable\n"), done.stderr


# ------------------------------------------------------------------------------------------------ a host without layers

# A user namespace in which every uid of this host is mapped, and which may make no user namespaces of its own.
WITHOUT_USERNS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
ready, mapped = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert libc.unshare(0x10000000) == 0
    os.write(ready[1], b"!")
    os.read(mapped[0], 1)
    open("/proc/sys/user/max_user_namespaces", "w").write("0")
    os.execv(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for kind in ("uid_map", "gid_map"):
    open(f"/proc/{child}/{kind}", "w").write("0 0 65536")
os.write(mapped[1], b"!")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    "before",
    [
        pytest.param((sys.executable, "-c", WITHOUT_USERNS), id="all-users-mapped"),
        pytest.param(
            ("unshare", "-U", "-r", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" "$@"'),
            id="one-user-mapped",
        ),
    ],
)
def test_a_host_without_user_namespaces_refuses_and_says_the_remedy(jar: Jar, before: tuple[str, ...]) -> None:
    outcome = jar("exec", jar.file("program.py", "print('ran')"), "--quiet", before=before)
    refused(outcome, 4, "userns", "sysctl user.max_user_namespaces")
    (finished,) = jar.records("run.finished")
    assert finished.data["status"] == "denied"


def test_the_doctor_says_the_same(jar: Jar) -> None:
    outcome = jar("doctor", "--json", "--backend", "jail", before=(sys.executable, "-c", WITHOUT_USERNS))
    assert outcome.code == 4
    assert outcome.document["starts"] is False
    assert "sysctl user.max_user_namespaces" in outcome.document["reason"]
    healthy = jar("doctor", "--json", "--backend", "jail")
    assert (healthy.code, healthy.document["starts"]) == (0, True)
    assert all(finding["ok"] for finding in healthy.document["findings"] if finding["required"])


def test_paths_with_odd_characters_are_named_in_one_line(jar: Jar) -> None:
    odd = Path("new\nline\x1b[31m.txt")
    refused(jar.exec(PROGRAM, "--context", odd), 2, "line")
