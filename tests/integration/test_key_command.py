"""`belljar key`: what it prints and where, and that a service which runs beside it feels what it did."""

from __future__ import annotations

import asyncio
import getpass
import json
import re
from typing import Any

from belljar.access import AccessSettings, ApiKeys
from belljar.access.reading import open_keys
from belljar.errors import AccessDenied
from belljar.identity import Tenant
from tests.integration.support import Jar
from tests.waiting import PATIENCE_S, in_time

KEY = re.compile(r"bj_([0-9a-f]{16})_[A-Za-z0-9_-]{43}\n")


def listed(jar: Jar, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(jar("key", "ls", "--json", *arguments).stdout)["keys"]
    return found


def test_a_key_is_printed_once_and_nothing_else_on_stdout(jar: Jar) -> None:
    assert jar("key", "ls").stdout == "there are no keys: `belljar key make` makes one\n"
    assert not jar.state.root.joinpath("audit.db").exists()  # whoever only reads makes nothing
    made = jar("key", "make", "acme", "--role", "runner", "--label", "nightly", "--days", "30")
    match = KEY.fullmatch(made.stdout)
    assert match is not None
    assert made.code == 0
    assert made.stderr.startswith(f"belljar: keep the key, nobody can print it again. Listed as: {match[1]}  active")
    assert made.stdout.strip() not in made.stderr
    (one,) = listed(jar)
    assert (one["id"], one["tenant"], one["role"], one["label"]) == (match[1], "acme", "runner", "nightly")
    assert one["state"] == "active"
    assert one["until"] is not None
    assert made.stdout.strip() not in jar("key", "ls").stdout

    document = json.loads(jar("key", "make", "--role", "admin", "--json").stdout)
    assert KEY.fullmatch(document["secret"] + "\n") is not None
    assert document["key"]["tenant"] is None
    assert {record.data["by"] for record in jar.records("access.changed")} == {f"user:{getpass.getuser()}"}


def test_whose_a_key_is_has_to_be_said(jar: Jar) -> None:
    assert (
        "name the TENANT of this runner, or every tenant with --host" in jar("key", "make", "--role", "runner").stderr
    )
    refused = jar("key", "make", "acme", "--role", "admin")
    assert (refused.code, refused.stdout) == (2, "")
    assert "admin is a role of the whole host" in refused.stderr
    assert jar("key", "make", "acme", "--host", "--role", "runner").code == 2
    assert jar("key", "make", "--host", "--role", "runner").code == 0
    assert jar("key", "make", "Acme", "--role", "runner").code == 2
    assert jar("key", "make", "acme", "--role", "root").code == 2
    assert [one["tenant"] for one in listed(jar)] == [None]


def test_a_key_lives_no_longer_than_the_configuration_says(jar: Jar) -> None:
    jar.at.joinpath("belljar.toml").write_text("schema = 1\n[access]\nkey_days_max = 7\n")
    refused = jar("key", "make", "acme", "--role", "runner", "--days", "8", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (2, "key.until")
    assert jar("key", "make", "acme", "--role", "runner").code == 0
    assert listed(jar)[0]["until"] is not None


def test_a_key_is_replaced_and_revoked(jar: Jar) -> None:
    first = jar("key", "make", "acme", "--role", "runner")
    key_id = first.stdout[3:19]
    new = jar("key", "rotate", key_id, "--overlap", "12h")
    assert KEY.fullmatch(new.stdout) is not None
    states = {one["id"]: (one["state"], one["ends_at"] is None) for one in listed(jar, "acme")}
    assert states == {key_id: ("active", False), new.stdout[3:19]: ("active", True)}
    assert jar("key", "rotate", key_id, "--overlap", "soon").code == 2
    gone = jar("key", "revoke", key_id)
    assert gone.stdout.startswith(f"{key_id}  ended")
    assert jar("key", "rotate", key_id).code == 2
    missing = jar("key", "revoke", "0123456789abcdef", "--json")
    assert (missing.code, missing.document["error"]["code"]) == (2, "key.missing")
    assert [record.data["what"] for record in jar.records("access.changed")] == ["made", "rotated", "revoked"]
    assert jar("audit", "verify").code == 0


def test_a_process_that_serves_feels_what_the_command_did(jar: Jar) -> None:
    async def go() -> None:
        async with open_keys(jar.state.journal, AccessSettings()) as keys:
            made = await asyncio.to_thread(jar, "key", "make", "acme", "--role", "auditor")
            text = made.stdout.strip()
            assert (await keys.check(text)).tenant == Tenant("acme")
            assert (await asyncio.to_thread(jar, "key", "revoke", text[3:19])).code == 0
            async with in_time(PATIENCE_S, "the key is refused"):
                while (code := await refused(keys, text)) is None:  # noqa: ASYNC110 (another process acts)
                    await asyncio.sleep(0.05)
            assert code == "access.revoked"

    async def refused(keys: ApiKeys, text: str) -> str | None:
        try:
            await keys.check(text)
        except AccessDenied as error:
            return error.code
        return None

    asyncio.run(go())
