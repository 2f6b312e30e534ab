"""`belljar state` and `belljar config` as an operator uses them: beside hosts at work, and after they have died."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from belljar.audit import verify
from belljar.journal.schema import SCHEMA
from tests.integration.support import PATIENCE_S, Jar, until
from tests.postgres import Postgres

ASKS = "print(llm_query('how many?'))\nFINAL('done')"
HANGS = "import time\nprint(context[0:1])\ntime.sleep(300)"
OLDER = Path(__file__).parents[1] / "unit" / "older_files"

# Commits as fast as it can until its stdin ends; then says how often.
WRITES = """
import asyncio, sys, threading
from pathlib import Path
from belljar.quotas import open_quotas

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()

async def main():
    count = 0
    async with open_quotas(Path(sys.argv[1])) as quotas:
        while not over.is_set():
            count += 1
            await quotas.set(f"t{count % 50}", "day", calls=count)
            if count == 100:
                print("ready", flush=True)
    print(count)

asyncio.run(main())
"""


def state(jar: Jar, *arguments: str | Path) -> dict[str, Any]:
    outcome = jar("state", "check", *arguments, "--json")
    found: dict[str, Any] = outcome.document["state"]
    return found


def put_config(jar: Jar, text: str) -> Path:
    file = jar.at / "belljar.toml"
    file.write_text(f"schema = 1\n{text}")
    return file


# -- state -------------------------------------------------------------------------------------------------------------


def test_a_backup_is_made_beside_a_process_that_writes_and_is_a_state_for_whoever_reads(jar: Jar) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITES, str(jar.journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        seen = [100]
        for number in range(3):
            copy = jar.work / f"copy{number}"
            made = jar("state", "backup", copy, "--json")
            assert (made.code, made.stderr) == (0, "")
            report = verify(copy / "audit.db")
            assert (report.problems, report.head) == ([], made.document["backup"]["head"])
            seen.append(report.records)
        rest, _ = writer.communicate("", timeout=PATIENCE_S)
    assert writer.returncode == 0
    # The writer went on all the time, and each copy has all that was committed before it began.
    assert sorted({*seen, int(rest)}) == [*seen, int(rest)]

    assert f"{seen[1]} records of 0 runs" in jar("audit", "verify", "--state", jar.work / "copy0").stdout
    assert jar("quota", "check", "--state", jar.work / "copy0").code == 0
    assert len(json.loads(jar("quota", "show", "--state", jar.work / "copy0", "--json").stdout)["quotas"]) == 50
    again = jar("state", "backup", jar.work / "copy0")
    assert (again.code, again.stdout) == (2, "")
    assert "a backup never replaces a file: name another folder" in again.stderr


def test_a_host_at_work_and_a_dead_one_are_told_apart(jar: Jar) -> None:
    text = jar.file("text.txt", "abc")
    program = jar.file("hangs.py", HANGS)
    running = jar.start("exec", program, "--context", text, "--language", "python")
    until(lambda: jar.journal.exists() and jar.records("context.read"), what="the program runs")
    found = state(jar)
    assert [(one["alive"], one["open_runs"]) for one in found["owners"]] == [(True, 1)]
    assert found["journal"]["open_runs"] == 1

    running.signal(signal.SIGKILL)
    running.wait()
    found = state(jar)
    assert [(one["alive"], one["open_runs"]) for one in found["owners"]] == [(False, 1)]
    shown = jar("state", "check")
    assert shown.code == 0
    assert "dead, 1 open run" in shown.stdout
    assert "the log verifies, and the ledger adds up" in shown.stdout

    assert jar.exec("print('next')").code == 0
    found = state(jar)
    assert (found["owners"], found["journal"]["open_runs"]) == ([], 0)


def test_an_old_copy_in_the_place_of_a_log_is_told_with_9(jar: Jar) -> None:
    """Its records are as they were, and its ledger adds up: that there were more, only the keys folder knows."""
    assert jar.exec("print(1)").code == 0
    assert jar("state", "backup", jar.work / "copy").code == 0
    assert jar.exec("print(2)").code == 0
    assert jar("state", "check").code == 0
    shutil.copy(jar.work / "copy" / "audit.db", jar.journal)
    checked = jar("state", "check")
    assert checked.code == 9
    assert "what was signed last is of" in checked.complaint
    assert "the log verifies" not in checked.stdout
    assert jar("audit", "checkpoint", "--accept-restored").code == 0
    assert jar("state", "check").code == 0


def test_a_log_that_was_changed_is_told_with_9(jar: Jar) -> None:
    assert jar.exec("print(1)").code == 0
    copy = jar.work / "copy"
    assert jar("state", "backup", copy).code == 0
    (copy / "audit.db").write_bytes(
        (copy / "audit.db").read_bytes().replace(b'"tenant":"default"', b'"tenant":"changed"')
    )
    checked = jar("state", "check", "--state", copy)
    assert checked.code == 9
    assert "record 1: its bytes do not have the hash" in checked.stdout
    assert checked.complaint.startswith("belljar: our fault: ")
    as_json = jar("state", "check", "--state", copy, "--json")
    assert (as_json.code, as_json.document["ok"]) == (9, False)
    # A copy of it is made, and says so.
    second = jar("state", "backup", jar.work / "second", "--state", copy)
    assert second.code == 9
    assert (jar.work / "second" / "audit.db").exists()


def test_an_older_state_is_migrated_on_demand(jar: Jar) -> None:
    older = jar.work / "older"
    older.mkdir()
    for name in ("audit.db", "ledger.db"):
        shutil.copy(OLDER / name, older / name)
    checked = jar("state", "check", "--state", older)
    assert (checked.code, "`belljar state migrate` takes it over" in checked.stdout) == (0, True)
    dry = jar("state", "migrate", "--dry-run", "--state", older)
    assert (dry.code, dry.stdout) == (
        0,
        f"{older}/audit.db: would be brought from format 1 to {SCHEMA.version}\n"
        f"{older}/ledger.db: would be brought from format 2 to {SCHEMA.version}\n",
    )
    assert (older / "ledger.db").exists()
    done = jar("state", "migrate", "--state", older, "--json")
    assert [(one["before"], one["after"]) for one in done.document["steps"]] == [
        (1, SCHEMA.version),
        (2, SCHEMA.version),
    ]
    assert jar("state", "migrate", "--state", older).stdout == "everything has the latest format\n"
    assert jar("quota", "check", "--state", older).code == 0


def test_a_database_is_checked_and_copied_into_a_file(jar: Jar, postgres: Postgres) -> None:
    env = {"BELLJAR_JOURNAL": postgres.database()}
    program = jar.file("one.py", "FINAL(1)")
    assert jar("exec", program, "--quiet", env=env).code == 0
    checked = jar("state", "check", "--json", env=env)
    assert (checked.code, checked.document["ok"]) == (0, True)
    assert checked.document["state"]["journal"]["runs"] == 1
    copy = jar.work / "copy"
    assert jar("state", "backup", copy, env=env).code == 0
    postgres.drop()
    # The variable still names the database, which is gone.
    assert "of 1 run, head" in jar("audit", "verify", "--state", copy, env=env).stdout
    assert jar("quota", "check", "--state", copy, env=env).code == 0


# -- config ------------------------------------------------------------------------------------------------------------


def test_limits_follow_the_file_from_one_host_to_the_next(jar: Jar) -> None:
    script = jar.script(rest='default = "many"\n')
    asks = (ASKS, "--sub-model", script, "--tenant", "acme/research")
    file = put_config(jar, "[tenants.acme]\ncalls = '1/total'\n")
    pending = "limit     acme in total: nothing set  (pending: the file says calls 1)"
    assert pending in jar("config", "show").stdout
    assert [jar.exec(*asks).code for _ in range(2)] == [0, 5]
    put_config(jar, "[tenants.acme]\ncalls = '2/total'\n")
    assert "calls 1  (pending: the file says calls 2)" in jar("config", "show").stdout
    assert [jar.exec(*asks).code for _ in range(2)] == [0, 5]
    assert jar("quota", "set", "acme", "--cost", "5USD/day").code == 0
    shown = jar("config", "show").stdout.splitlines()
    assert shown == [
        f"config    {file}  (the state folder)",
        f"folder    {jar.at}  ($BELLJAR_HOME)",
        f"journal   {jar.journal}  (the state folder)",
        "limit     acme per day: cost 5.00 USD  (quota set)",
        "limit     acme in total: calls 2  (the file)",
    ]
    put_config(jar, "")
    shown = jar("config", "show").stdout.splitlines()
    assert shown[3:] == [
        "limit     acme per day: cost 5.00 USD  (quota set)",
        "limit     acme in total: calls 2  (another file)",
    ]
    by = [(record.data["by"], record.data.get("calls")) for record in jar.records("quota.changed")]
    assert by[:2] == [("config", 1), ("config", 2)]
    assert jar("audit", "verify").code == 0


def test_whoever_sets_what_the_file_sets_again_is_told(jar: Jar) -> None:
    """In an emergency somebody closes a tenant by hand, and the next host of anybody opens it again."""
    file = put_config(jar, "[tenants.acme]\ncalls = ['100/day', '9/hour']\ncost = '1 USD/day'\n")
    again = "the next host that opens with it sets that again\n"
    told = jar("quota", "set", "acme", "--calls", "0/day", "--cost", "1USD/day", "--json")
    assert told.stderr == f"belljar: {file} says calls 100 per day: {again}"
    assert json.loads(told.stdout)["changed"][0]["calls"] == 0
    assert jar("quota", "set", "acme", "--calls", "100/day", "--read", "1MiB/day").stderr == ""
    assert jar("quota", "set", "other", "--calls", "0/day").stderr == ""
    said = "calls 100 per day, cost 1.00 USD per day, calls 9 per hour"
    assert jar("quota", "clear", "acme").stderr == f"belljar: {file} says {said}: {again}"


@pytest.mark.parametrize(
    "command", [("exec", "program.py"), ("audit", "ls"), ("quota", "set", "a", "--calls", "1/day")]
)
def test_a_wrong_file_stops_every_command_before_it_does_anything(jar: Jar, command: tuple[str, ...]) -> None:
    jar.file("program.py", "print(1)")
    file = put_config(jar, "[tenants.acme]\ncost = '5 EUR/day'\n")
    outcome = jar(*command)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr == (
        f"belljar: refused: {file}:3: tenants.acme.cost: '5 EUR/day' is not a limit; use one such as 10USD/day, per "
        "minute, hour, day, month or total, or unlimited/day\n"
    )
    assert not jar.journal.exists()
    assert jar("config", "check").code == 2
    put_config(jar, "[tenants.acme]\ncost = '5 USD/day'\n")
    assert jar("config", "check").stdout == f"{file}: ok, limits of 1 tenant\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "variables", "complaint"),
    [
        ("[state]\njournal_env = 'NOPE_URL'\n", {}, "state.journal_env names $NOPE_URL, which is not set"),
        ("[service]\ntrusted_proxies = ['x']\n", {}, "service.trusted_proxies: 'x' is not an address or network"),
        ("[service]\nallowed_hosts = ['a b']\n", {}, "service.allowed_hosts: 'a b' is not a host's name"),
        ("[service]\nhost = '0.0.0.0'\n", {}, "0.0.0.0 is not an address of this machine alone"),
        ("[service]\ntls_cert = 'none.crt'\ntls_key = 'none.key'\n", {}, "there is no file"),
        ("", {"BELLJAR_SERVICE_DRAIN": "5"}, '$BELLJAR_SERVICE_DRAIN: "5" is not a valid duration'),
    ],
)
def test_what_serve_would_refuse_is_found_by_a_check(
    jar: Jar, text: str, variables: dict[str, str], complaint: str
) -> None:
    """And `serve` says the same."""
    file = jar.file("host.toml", f"schema = 1\n{text}")
    for command in (("config", "check", file), ("serve", "--config", file)):
        outcome = jar(*command, env=variables)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert complaint in outcome.complaint


def test_a_file_that_is_named_says_where_the_state_is(jar: Jar) -> None:
    folder = jar.work / "elsewhere"
    file = jar.file("host.toml", f"schema = 1\n[state]\nfolder = '{folder}'\n[tenants.acme]\ncalls = '5/day'\n")
    home = {"BELLJAR_HOME": ""}
    assert jar("quota", "set", "other", "--calls", "1/day", "--config", file, env=home).code == 0
    assert (folder / "audit.db").exists()
    assert jar("audit", "verify", env={**home, "BELLJAR_CONFIG": str(file)}).code == 0
    document = jar("config", "show", "--config", file, "--json", env=home).document
    assert document["folder"] == {"value": str(folder), "origin": f"{file}, state.folder"}
    assert [(one["tenant"], one["origin"]) for one in document["limits"]] == [
        ("acme", "pending"),
        ("other", "quota set"),
    ]
    missing = jar("audit", "verify", "--config", jar.work / "none.toml")
    assert (missing.code, "there is no configuration file" in missing.stderr) == (2, True)
    assert json.loads(jar("config", "schema").stdout)["$defs"]["_File"]["required"] == ["schema"]
