"""A journal on a server as a platform has it: over TCP, with TLS, and with a password."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from belljar.audit import verify
from tests.certificates import certified
from tests.integration.support import Jar
from tests.postgres import Postgres, Unavailable, sql

PASSWORD = "correct-horse-battery"
RULES = "local all all trust\nhostssl all alice 127.0.0.0/8 scram-sha-256\n"
ASKS = "FINAL(llm_query('how many?'))"


class Guarded:
    """A server that lets `alice` in over TLS alone, and with her password. It has an address of its own for that."""

    def __init__(self, server: Postgres, folder: Path) -> None:
        self.address = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
        self.certificate, key = certified(folder, self.address)
        self.stranger, _ = certified(folder, self.address, stem="stranger")
        owner = server.folder.stat()
        for name, content in (
            ("server.crt", self.certificate.read_bytes()),
            ("server.key", key.read_bytes()),
            ("rules", RULES.encode()),
        ):
            place = server.folder / name
            place.write_bytes(content)
            place.chmod(0o600)
            os.chown(place, owner.st_uid, owner.st_gid)
        sql(server.url(), f"CREATE ROLE alice LOGIN PASSWORD '{PASSWORD}'")
        sql(server.url(), "CREATE DATABASE journal OWNER alice")
        for name, value in {
            "listen_addresses": self.address,
            "ssl": "on",
            "ssl_cert_file": f"{server.folder}/server.crt",
            "ssl_key_file": f"{server.folder}/server.key",
            "hba_file": f"{server.folder}/rules",
        }.items():
            sql(server.url(), f"ALTER SYSTEM SET {name} = '{value}'")
        server.stop()
        server.start()

    def url(self, mode: str, *, password: str = PASSWORD, root: Path | None = None) -> str:
        root = self.certificate if root is None else root
        return f"postgresql://alice:{password}@{self.address}/journal?sslmode={mode}&sslrootcert={quote(str(root))}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    try:
        with Postgres() as server:
            yield Guarded(server, tmp_path_factory.mktemp("certificates"))
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no PostgreSQL: {error}")
        pytest.skip(f"no PostgreSQL: {error}")


def test_runs_are_logged_and_charged_over_tls(jar: Jar, guarded: Guarded) -> None:
    url = guarded.url("verify-full")
    home = {"BELLJAR_JOURNAL": url}
    model = jar.script(rest='[[reply]]\nwhen = "how many"\ntext = "three"\n')
    program = jar.file("ask.py", ASKS)
    done = jar("exec", str(program), "--sub-model", model, "--language", "python", "--json", env=home)
    assert (done.code, done.result["answer"]) == (0, "three"), done.stderr
    for command in (("audit", "verify"), ("quota", "check"), ("state", "check")):
        told = jar(*command, env=home)
        assert told.code == 0, told.stderr
        assert PASSWORD not in told.stdout + told.stderr
    assert verify(url).problems == []


@pytest.mark.parametrize(
    ("mode", "password", "is_strange", "words"),
    [
        ("disable", PASSWORD, False, "no encryption"),
        ("verify-full", PASSWORD, True, "certificate verify failed"),
        ("verify-full", "guessed", False, "password authentication failed"),
    ],
)
def test_who_does_not_fit_is_refused_in_one_line_without_the_password(
    jar: Jar, guarded: Guarded, mode: str, password: str, is_strange: bool, words: str
) -> None:
    url = guarded.url(mode, password=password, root=guarded.stranger if is_strange else None)
    program = jar.file("one.py", "FINAL(1)")
    done = jar("exec", str(program), env={"BELLJAR_JOURNAL": url})
    assert done.code == 8
    (line,) = done.stderr.splitlines()
    assert words in line
    assert password not in line
