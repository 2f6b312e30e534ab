"""`belljar quota` as a user sees it: limits that hold for real runs, and what is told of them."""

from __future__ import annotations

import asyncio
import csv
import getpass
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from belljar.ledger import AT_ONCE, LIMITED
from belljar.quotas import open_quotas
from tests.integration.support import Jar

READS = "FINAL(len(context[:]))"
ASKS = "print(llm_query('how many?'))\nFINAL('done')"


@pytest.fixture
def context(jar: Jar) -> Path:
    return jar.file("notes.txt", "0123456789" * 400)


def shown(jar: Jar, *arguments: str) -> list[dict[str, Any]]:
    outcome = jar("quota", "show", *arguments, "--json")
    assert outcome.code == 0, outcome.stderr
    document = json.loads(outcome.stdout)
    assert document["schema_version"] == 1
    found: list[dict[str, Any]] = document["quotas"]
    return found


def test_a_limit_is_set_shown_met_explained_and_cleared(jar: Jar, context: Path) -> None:
    done = jar("quota", "set", "acme", "--read", "500B/day", "--cost", "0.50USD/day", "--calls", "10/minute")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == "acme per day: cost 0.50 USD, bytes read 500 B\nacme per minute: calls 10\n"

    outcome, result = jar.exec_json(READS, "--context", context, "--tenant", "acme/research")
    assert (outcome.code, result["limit"]["code"], result["limit"]["limit"]) == (5, "quota.tenant.read", None)
    (day,) = [one for one in shown(jar, "acme/research") if (one["tenant"], one["period"]) == ("acme", "day")]
    assert day["limits"]["read_bytes"] == 500
    assert day["left"]["read_bytes"] + day["used"]["read_bytes"] == 500
    assert day["held"]["read_bytes"] == 0

    text = jar("quota", "show", "acme").stdout
    assert "bytes read     [" in text
    assert "of 500 B used" in text
    assert "cost           [....................]  0.00 USD of 0.50 USD used, 0.50 USD left" in text

    told = jar("quota", "explain", "last")
    assert (told.code, told.stderr) == (0, "")
    by_name = jar("quota", "explain", result["run"]).stdout
    assert told.stdout.partition("now:")[:2] == by_name.partition("now:")[:2]  # the next minute may have begun
    assert "the limit of tenant acme per day on bytes read refused a read: it would have come to" in told.stdout
    (refusal,) = json.loads(jar("quota", "explain", result["run"], "--json").stdout)["refusals"]
    assert (refusal["scope"], refusal["period"], refusal["limit"]) == ("acme", "day", 500)

    cleared = jar("quota", "clear", "acme")
    assert (
        cleared.stdout
        == "acme per minute: cleared, was calls 10\nacme per day: cleared, was cost 0.50 USD, bytes read 500 B\n"
    )
    assert jar.exec(READS, "--context", context, "--tenant", "acme/research").code == 0

    by = {record.data["by"] for record in jar.records("quota.changed")}
    assert by == {f"user:{getpass.getuser()}"}
    assert jar("audit", "verify").code == 0


def test_the_largest_limit_of_each_kind_is_shown_and_cleared(jar: Jar) -> None:
    most = 10**18  # what the ledger takes, whoever sets it: a program says it in the ledger's own units

    async def go() -> None:
        async with open_quotas(jar.journal) as quotas:
            at_once = {name: most for name in LIMITED if name in AT_ONCE}
            of_days = {name: most for name in LIMITED if name not in AT_ONCE}
            await quotas.change("acme", {"day": of_days, "total": at_once})

    asyncio.run(go())
    (jar.at / "belljar.toml").write_text('schema = 1\n[tenants.acme]\nwall = "999999999999999 s/day"\n')
    for command in (("quota", "show"), ("quota", "show", "acme"), ("config", "show")):
        outcome = jar(*command)
        assert (outcome.code, outcome.stderr) == (0, ""), command
        assert "1000000000000000 s" in outcome.stdout
    done = jar("quota", "set", "acme", "--cpu", "999999999999999s/day")
    assert (done.code, done.stderr) == (0, "")
    assert "CPU time 999999999999999 s" in done.stdout
    assert jar("quota", "clear", "acme").code == 0


def test_a_depth_is_set_shown_and_logged(jar: Jar) -> None:
    done = jar("quota", "set", "acme", "--depth", "2")
    assert (done.code, done.stdout) == (0, "acme in total: depth 2\n")
    (total,) = shown(jar, "acme")
    assert (total["period"], total["limits"]["depth"]) == ("total", 2)
    assert jar("quota", "show", "acme").stdout == "acme\n  total\n    depth          at most 2\n"
    refused = jar("quota", "set", "acme", "--depth", "0")
    assert refused.code == 2
    assert "use a whole number from 1" in refused.stderr
    assert jar("quota", "set", "acme", "--depth", "unlimited").stdout == "acme in total: unlimited\n"
    assert [record.data.get("depth") for record in jar.records("quota.changed")] == [2, None]
    assert jar("audit", "verify").code == 0


def test_stored_contexts_are_limited_shown_and_refused(jar: Jar, context: Path) -> None:
    done = jar("quota", "set", "acme", "--contexts", "6KiB/now")
    assert (done.code, done.stdout) == (0, "acme in total: contexts 6 KiB\n")
    assert jar("context", "add", context, "--tenant", "acme/research").code == 0
    (size,) = [one["context_bytes"] for one in shown(jar, "acme/research") if one["tenant"] == "acme/research"]
    assert 4000 <= size < 6144

    other = jar.file("more.txt", "abcdefghij" * 400)
    refused = jar("context", "add", other, "--tenant", "acme")
    assert (refused.code, refused.stdout) == (5, "")
    assert f"tenant acme has {6144 - size} of 6144 bytes left for stored contexts on this host" in refused.stderr
    outcome = jar.exec(READS, "--context", other, "--tenant", "acme/sales", "--json")
    assert (outcome.code, outcome.document["status"]) == (5, "quota")
    assert [record.data["code"] for record in jar.records("run.finished")] == ["context.stored"]
    assert jar.exec(READS, "--context", "@notes.txt", "--tenant", "acme/research").code == 0
    assert jar.exec(READS, "--context", other, "--tenant", "acme2").code == 0

    (total,) = [one for one in shown(jar, "acme") if one["tenant"] == "acme" and one["period"] == "total"]
    assert (total["limits"]["context_bytes"], total["context_bytes"]) == (6144, size)
    assert total["context_bytes_left"] == 6144 - size
    text = jar("quota", "show", "acme").stdout
    assert "contexts       [##" in text
    assert "of 6 KiB stored here, " in text
    assert jar("context", "rm", "notes.txt", "--tenant", "acme/research").code == 0
    assert jar.exec(READS, "--context", other, "--tenant", "acme/sales").code == 0
    assert jar("audit", "verify").code == jar("quota", "check").code == 0


def test_a_model_call_beyond_a_rate_is_refused_and_the_books_agree_with_the_log(jar: Jar) -> None:
    script = jar.script(rest='default = "many"\n')
    assert jar("quota", "set", "acme", "--calls", "1/total").code == 0
    asks = (ASKS, "--sub-model", script, "--tenant", "acme")
    assert jar.exec(*asks).code == 0
    outcome, result = jar.exec_json(*asks)
    assert outcome.code == 5
    assert result["limit"]["code"] == "quota.tenant.calls"
    told = jar("quota", "explain", result["run"]).stdout
    assert (
        "the limit of tenant acme in total on calls refused a query: it would have come to 2 of 1 (1 used, 0 held)"
        in told
    )
    checked = jar("quota", "check")
    assert (checked.code, checked.stdout) == (0, "the ledger adds up, and the log says the same\n")


def test_the_history_is_a_table_and_csv(jar: Jar, context: Path) -> None:
    for tenant in ("acme", "acme-2"):
        assert jar.exec(READS, "--context", context, "--tenant", tenant).code == 0
    lines = jar("quota", "history").stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["acme", "acme-2"]
    assert all("bytes read 4000 B" in line for line in lines)
    (row,) = csv.DictReader(io.StringIO(jar("quota", "history", "acme", "--by", "month", "--csv").stdout))
    assert (row["tenant"], row["read_bytes"], row["cost_nanousd"]) == ("acme", "4000", "0")
    document = json.loads(jar("quota", "history", "--json").stdout)
    assert [one["tenant"] for one in document["history"]] == ["acme", "acme-2"]


def change_total(jar: Jar, size: int) -> None:
    with closing(sqlite3.connect(jar.journal)) as db, db:
        db.execute("UPDATE balances SET used_read_bytes = ? WHERE account = 'acme' AND key = 'total'", (size,))


def test_a_ledger_that_does_not_add_up_is_told_with_9(jar: Jar, context: Path) -> None:
    assert jar.exec(READS, "--context", context, "--tenant", "acme").code == 0
    assert jar("quota", "check").code == 0
    change_total(jar, 1)
    checked = jar("quota", "check")
    assert checked.code == 9
    assert checked.stdout == "acme total: used read_bytes is 1, its reservations say 4000\n"
    document = jar("quota", "check", "--json")
    assert (document.code, json.loads(document.stdout)["ok"]) == (9, False)
    change_total(jar, 4000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["set", "acme"], "name a limit, such as --cost 50USD/day"),
        (["set", "acme", "--calls", "10"], "'10' is not a limit; use one such as 10/day"),
        (["set", "acme", "--calls", "1.5/day"], "'1.5/day' is not a limit"),
        (["set", "acme", "--calls", "5/week"], "per minute, hour, day, month or total, or unlimited/day"),
        (["set", "acme", "--cost", "5EUR/day"], "use one such as 10USD/day"),
        (["set", "acme", "--read", "5/day"], "use one such as 10GiB/day"),
        (["set", "acme", "--calls", "5/day", "--calls", "6/day"], "there are two limits of calls for day; keep one"),
        (["set", "Acme", "--calls", "5/day"], "'Acme' is not a valid tenant name"),
        (["show", "a//b"], "'a//b' is not a valid tenant name"),
        (["show"], "there is no ledger in"),
        (["explain", "r1"], "the log has no run r1"),
    ],
)
def test_what_makes_no_sense_is_told_with_2_and_changes_nothing(jar: Jar, arguments: list[str], words: str) -> None:
    outcome = jar("quota", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert words in outcome.stderr
    assert not jar.journal.exists() or jar.records("quota.changed") == []
