"""`belljar.toml`: read as a whole or refused in one line, and what it says of tenants set when a host is opened."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import belljar
from belljar.access import AccessSettings, OidcSettings
from belljar.audit import records, verify
from belljar.audit.events import QuotaChanged
from belljar.bounds import DIMENSION_OF, Bound, parse_bound
from belljar.config import ProfileTable, read_config, schema, settings
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.identity import Tenant
from belljar.journal import Job
from belljar.ledger import LIMITED, Changes, Limits, Quota
from belljar.quotas import Quotas, apply_limits, differing, open_quotas
from belljar.service.settings import Profile, read_settings

WHOLE = """
schema = 1

[state]
folder = "kept"
journal_env = "DATABASE_URL"

[tenants.acme]
cost = ["50 USD/day", "1000USD/month"]
calls = "unlimited/day"

[tenants."acme/research"]
calls = "10/minute"
read = "1 GiB/total"
"""

OIDC = """schema = 1
[access.oidc]
issuer = 'https://x'
audience = 'belljar'
jwks_url = 'https://x/k'
roles = { ops = 'operator' }
"""
SERVICE = "schema = 1\n[service]\n"
PROFILE = "schema = 1\n[service.profiles.careful]\nmodel = 'x'\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "belljar.toml"


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_a_file_says_where_the_state_is_and_what_tenants_may_use(file: Path) -> None:
    found = read_config(written(file, WHOLE))
    assert (found.folder, found.journal, found.journal_env) == (file.parent / "kept", None, "DATABASE_URL")
    assert found.tenants == {
        "acme": {"day": {"cost_nanousd": 50 * 10**9, "calls": None}, "month": {"cost_nanousd": 1000 * 10**9}},
        "acme/research": {"minute": {"calls": 10}, "total": {"read_bytes": 2**30}},
    }


def test_a_file_says_whose_tokens_are_taken_and_how_long_keys_live(file: Path) -> None:
    assert read_config(written(file, "schema = 1\n")).access is None
    found = read_config(written(file, "schema = 1\n[access]\nkey_days_max = 90\n")).access
    assert found == AccessSettings(key_age_max=timedelta(days=90))
    more = "roles_claim = ['realm_access', 'roles']\ntenant_claim = 'https://x/tenant'\n"
    found = read_config(written(file, OIDC + more)).access
    assert found is not None
    assert found.oidc == OidcSettings(
        issuer="https://x",
        audience="belljar",
        jwks_url="https://x/k",
        roles={"ops": "operator"},
        roles_claim=("realm_access", "roles"),
        tenant_claim=("https://x/tenant",),
    )


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "schema is missing; write schema = 1 above the first table"),
        ("schema = 2\n", 1, "schema: invalid enum value 2; write schema = 1"),
        ("schema = 1\n[stat]\n", 2, "stat: there is no such key; write one of schema, state, tenants"),
        ("schema = 1\n[state]\nurl = 'x'\n", 3, "state.url: there is no such key; write one of folder, journal,"),
        ("schema = 1\n[state]\nfolder = 1\n", 3, "state.folder: expected str"),
        ("schema = 1\n[state]\njournal = 'here'\n", 3, "state.journal: this is no URL of a journal; write postg"),
        ("schema = 1\n[state]\njournal = 'mysql://h/x'\n", 3, "state.journal: this is no URL of a journal; write"),
        ('schema = 1\n[state]\nfolder = ""\n', 3, "state.folder: the path is empty; name a file or a folder"),
        ("schema = 1\n[state]\nfolder = '~nobody-here/x'\n", 3, "state.folder: the path '~nobody-here/x' begins with"),
        ('schema = 1\n[state]\nfolder = "a\\u0000"\n', 3, "state.folder: the path 'a\\x00' has a null character; name"),
        ("schema = 1\n[state]\njournal = 'a://b'\njournal_env = 'C'\n", 4, "state.journal_env: there is a journal too"),
        ("schema = 1\n[audit]\ncontents_max = 5\n", 3, "audit.contents_max: expected str"),
        ("schema = 1\n[audit]\ncontents_max = '5GB'\n", 3, 'audit.contents_max: "5GB" is not a valid size; use'),
        ("schema = 1\n[audit]\ncontents = '5 B'\n", 3, "audit.contents: there is no such key; write one of witness,"),
        ("schema = 1\ntenants = 1\n", 2, "tenants: write each tenant as a table"),
        ("schema = 1\n[tenants]\nacme = 1\n", 3, "tenants.acme: expected object, got int"),
        ("schema = 1\n\n[tenants.Acme]\ncalls = '1/day'\n", 3, "tenants.Acme: 'Acme' is not a valid tenant name"),
        ("schema = 1\n[tenants.'a/b']\ncots = '1/day'\n", 3, 'tenants."a/b".cots: there is no such key; write one of'),
        ("schema = 1\n[tenants.'a/b']\ncost = '1/day'\n", 3, "tenants.\"a/b\".cost: '1/day' is not a limit; use one"),
        ("schema = 1\n[tenants.a]\ncalls = ['1/day', '2/day']\n", 3, "tenants.a.calls: there are two limits for day"),
        ("schema = 1\n[tenants.a]\ncalls = []\n", 3, "tenants.a.calls: expected array of length >= 1"),
        ("schema = 1\n[tenants.a]\ncalls = 5\n", 3, "tenants.a.calls: expected"),
        ("schema = 1\n[tenants.a]\ncalls = ['1/day', 5]\n", 3, "tenants.a.calls: expected str, got int"),
        ("schema = 1\n[tenants.a]\ncalls = '9999999999999999999/day'\n", 3, "tenants.a.calls: calls 99999999999999999"),
        ("schema = 1\n[tenants.a\n", None, "this is not valid TOML"),
        (
            "schema = 1\n[access]\nkey_days_max = 0\n",
            3,
            "access.key_days_max: expected int >= 1; write a number of days",
        ),
        ("schema = 1\n[access]\nkey_days = 9\n", 3, "access.key_days: there is no such key; write one of key_days_max"),
        ("schema = 1\n[access.oidc]\nissuer = 'https://x'\n", 2, "access.oidc: audience is missing; write it, too"),
        (f"{OIDC}roles_claim = []\n", 7, "access.oidc.roles_claim: expected array of length >= 1; write the name of"),
        (f"{OIDC}secret = 'x'\n", 7, "access.oidc.secret: there is no such key; write one of issuer, audience,"),
        (OIDC.replace("operator", "root"), 6, "access.oidc.roles: invalid enum value 'root'; write what the issuer"),
        (OIDC.replace("ops = 'operator'", ""), 6, "access.oidc.roles: this is empty; write what the issuer calls"),
        (OIDC.replace("https://x/k", "http://x/k"), 5, "access.oidc.jwks_url: this has to begin with https://"),
        ("schema = 1\n[service]\nprofiles = 1\n", 3, "service.profiles: write each profile as a table, such as"),
        (PROFILE.replace("careful", "'a b'"), 2, 'service.profiles."a b": a profile\'s name has letters, digits, dots'),
        (PROFILE.replace("model", "sub_model"), 2, "service.profiles.careful: model is missing; write it, too"),
        (f"{PROFILE}modle = 'x'\n", 4, "service.profiles.careful.modle: there is no such key; write one of model, sub"),
        (f"{PROFILE}policy = 'x'\n", 4, "service.profiles.careful.policy: there is no such preset; write one of dev,"),
        (f"{PROFILE}policy = 'strict'\nlanguage = 'python'\n", 5, "service.profiles.careful.language: strict does not"),
        (f"{PROFILE}backend = 'x'\n", 4, "service.profiles.careful.backend: standard does not allow it; write one of"),
        (f"{PROFILE}tenants = ['A']\n", 4, "service.profiles.careful.tenants: 'A' is not a valid tenant name"),
        (f"{PROFILE}tenants = []\n", 4, "service.profiles.careful.tenants: expected array of length >= 1; write a"),
        (f"{SERVICE}port = 70000\n", 3, "service.port: expected int <= 65535; write a number from 0 to 65535"),
        (f"{SERVICE}running = 'x'\n", 3, "service.running: expected int | null, got str; write a number from 1 to 100"),
        (f"{SERVICE}host = 5\n", 3, "service.host: expected str, got int; write a text"),
        (f"{SERVICE}models = 'x'\n", 3, "service.models: expected array, got str; write a list of at most 100 texts"),
        (f"{SERVICE}hooks_private = 'no'\n", 3, "service.hooks_private: expected bool, got str; write true or false"),
        (f"{SERVICE}trusted_proxies = ['x']\n", 3, "service.trusted_proxies: 'x' is not an address or network; write"),
        (f"{SERVICE}allowed_hosts = ['a b']\n", 3, "service.allowed_hosts: 'a b' is not a host's name; write one such"),
        (f"{SERVICE}drain = '5'\n", 3, 'service.drain: "5" is not a valid duration'),
        (f"{PROFILE}language = 'ruby'\n", 4, "service.profiles.careful.language: invalid enum value 'ruby'; write one"),
        ("schema = 1\nservice = 5\n", 2, "service: expected object, got int; write a table"),
        ("x" * 2000, None, "a line is too long"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_its_place(file: Path, text: str, line: int | None, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_config(written(file, text))
    assert refused.value.code == "config.invalid"
    assert str(refused.value).startswith(f"{file}{'' if line is None else f':{line}'}: {words}")
    assert "\n" not in str(refused.value)


def test_a_byte_order_mark_is_not_part_of_the_file(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    assert read_config(file).tenants == read_config(written(file, WHOLE)).tenants


@pytest.mark.parametrize("variable", ["BELLJAR_CONFIG", "BELLJAR_HOME", "XDG_STATE_HOME", "HOME"])
def test_the_home_folder_of_nobody_is_told(variable: str) -> None:
    with pytest.raises(InvalidInput, match="begins with the home folder of a user that there is not") as refused:
        settings(None, None, {variable: "~nobody-here/x"})
    assert refused.value.code == "path.invalid"


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no configuration file"):
        read_config(tmp_path)
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_config(tmp_path / "file")


def test_every_dimension_of_the_ledger_can_be_written() -> None:
    assert tuple(DIMENSION_OF.values()) == LIMITED
    tenant = schema()["$defs"]["_Tenant"]
    assert list(tenant["properties"]) == list(DIMENSION_OF)
    assert tenant["additionalProperties"] is False


@pytest.mark.parametrize(
    ("word", "text", "bound"),
    [
        ("cost", "0.50 USD/day", Bound("day", "cost_nanousd", 5 * 10**8)),
        ("read", "500B/total", Bound("total", "read_bytes", 500)),
        ("calls", "1000/month", Bound("month", "calls", 1000)),
        ("cpu", "999999999999999s/day", Bound("day", "cpu_ms", 999_999_999_999_999_000)),
        ("cost", "unlimited/hour", Bound("hour", "cost_nanousd", None)),
        ("depth", "2", Bound("total", "depth", 2)),
        ("depth", "2/now", Bound("total", "depth", 2)),
        ("depth", "unlimited", Bound("total", "depth", None)),
    ],
)
def test_a_limit_is_read_with_and_without_a_space(word: str, text: str, bound: Bound) -> None:
    assert parse_bound(word, text) == bound


@pytest.mark.parametrize(
    ("word", "text"), [("depth", "2/day"), ("depth", "2 levels"), ("depth", "1.5"), ("calls", "10"), ("boxes", "4")]
)
def test_only_a_depth_is_for_no_period_and_without_saying_so(word: str, text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a limit; use one such as"):
        parse_bound(word, text)


def test_a_profile_says_how_a_run_goes_and_to_whom_it_is_offered(file: Path) -> None:
    careful = "sub_model = 'y'\npolicy = 'strict'\ntenants = ['acme', 'other/a']\n"
    text = f"{PROFILE}{careful}[service.profiles.quick]\nmodel = 'z'\n"
    service = read_config(written(file, text)).service
    assert service.profiles == {
        "careful": ProfileTable(model="x", sub_model="y", policy="strict", tenants=["acme", "other/a"]),
        "quick": ProfileTable(model="z"),
    }
    found = read_settings(service, {"BELLJAR_SERVICE_PROFILES": "nonsense"}, file.parent).profiles
    assert found["quick"] == Profile(model="z")
    levels = [Tenant(name) for name in ("acme", "acme/b", "acme2", "other", "other/a")]
    assert [str(one) for one in levels if found["careful"].is_for(one)] == ["acme", "acme/b", "other/a"]
    assert all(found["quick"].is_for(one) for one in levels)


# -- what counts -------------------------------------------------------------------------------------------------------

URL = "postgresql://a/b"
NAMED = "schema = 1\n[state]\nfolder = 'there'\njournal = 'postgresql://u:p@there/x'\n"


@pytest.mark.parametrize(
    ("state", "environ", "folder", "journal", "origins"),
    [
        (None, {}, "there", "postgresql://u:p@there/x", ("FILE, state.folder", "FILE, state.journal")),
        (
            None,
            {"BELLJAR_HOME": "/home"},
            "/home",
            "postgresql://u:p@there/x",
            ("$BELLJAR_HOME", "FILE, state.journal"),
        ),
        (None, {"BELLJAR_JOURNAL": URL}, "there", URL, ("FILE, state.folder", "$BELLJAR_JOURNAL")),
        ("postgres://c/d", {"BELLJAR_JOURNAL": URL}, "there", "postgres://c/d", ("FILE, state.folder", "--state")),
    ],
)
@pytest.mark.parametrize("by_variable", [False, True])
def test_the_stronger_word_counts_and_is_told(
    tmp_path: Path,
    state: str | None,
    environ: dict[str, str],
    folder: str,
    journal: str,
    origins: tuple[str, str],
    by_variable: bool,
) -> None:
    file = written(tmp_path / "host.toml", NAMED)
    environ = {"HOME": str(tmp_path), **environ, **({"BELLJAR_CONFIG": str(file)} if by_variable else {})}
    found = settings(state, None if by_variable else file, environ)
    assert (found.state.root, found.state.url) == (tmp_path / folder, journal)
    said = (found.origins["folder"], found.origins["journal"])
    assert said == tuple(words.replace("FILE", str(file)) for words in origins)
    assert found.origins["config"] == ("$BELLJAR_CONFIG" if by_variable else "--config")


@pytest.mark.parametrize(
    ("state", "environ", "who"),
    [
        ("mysql://u:s3cret@h/x", {}, "--state"),
        ("POSTGRESQL://u:s3cret@h/x", {}, "--state"),
        ("postgresql://u:s3cret@[::1/x", {}, "--state"),
        (None, {"BELLJAR_JOURNAL": "u:s3cret@h/x"}, "$BELLJAR_JOURNAL"),
    ],
)
def test_what_is_no_url_of_a_journal_is_the_fault_of_who_said_it(
    state: str | None, environ: dict[str, str], who: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings(state, None, {"HOME": "/h", **environ})
    assert (caught.value.code, caught.value.exit_code) == ("state.url", 2)
    assert str(caught.value) == f"{who}: this is no URL of a journal; write postgresql://user@host/database"


def test_who_names_a_folder_means_what_is_in_it(tmp_path: Path) -> None:
    """No variable leads its log and ledger elsewhere; a file that is named beside it does, and so does its own."""
    named = written(tmp_path / "host.toml", NAMED)
    folder = tmp_path / "folder"
    folder.mkdir()
    environ = {"HOME": str(tmp_path), "BELLJAR_JOURNAL": "postgresql://a/b", "BELLJAR_CONFIG": str(named)}

    def told(config: Path | None = None) -> tuple[str | None, str, str]:
        for state in (folder, str(folder)):
            found = settings(state, config, environ)
            assert (found.state.root, found.origins["folder"]) == (folder, "--state")
        return found.state.url, found.origins["journal"], found.origins["config"]

    assert told() == (None, "the state folder", "$BELLJAR_CONFIG")
    assert settings(folder, None, environ).state.journal == folder / "audit.db"
    assert told(named) == ("postgresql://u:p@there/x", f"{named}, state.journal", "--config")
    own = written(folder / "belljar.toml", "schema = 1\n[state]\njournal = 'postgresql://c/d'\n")
    assert told() == ("postgresql://c/d", f"{own}, state.journal", "the state folder")


def test_without_a_file_all_is_as_ever(tmp_path: Path) -> None:
    found = settings(None, None, {"HOME": str(tmp_path)})
    assert (found.config, found.state.url, "config" in found.origins) == (None, None, False)
    assert found.state.root == tmp_path / ".local/state/belljar"


def test_how_much_may_be_kept_counts_where_the_file_does(file: Path) -> None:
    written(file, "schema = 1\n[audit]\ncontents_max = '3 MiB'\n")
    found = settings(file.parent, None, {})
    assert (found.contents_bytes_max, found.origins["contents"]) == (3 * 2**20, f"{file}, audit.contents_max")
    elsewhere = settings(file.parent / "other", None, {"BELLJAR_CONFIG": str(file)})
    assert (elsewhere.contents_bytes_max, elsewhere.origins.get("contents")) == (None, None)


def test_a_file_in_the_state_folder_is_found_there_and_cannot_lead_elsewhere(file: Path) -> None:
    written(file, "schema = 1\n[state]\njournal = 'postgresql://a/b'\n")
    found = settings(file.parent, None, {})
    assert (found.state.url, found.origins["config"]) == ("postgresql://a/b", "the state folder")
    written(file, "schema = 1\n[state]\nfolder = 'elsewhere'\n")
    with pytest.raises(InvalidInput, match=r"state\.folder cannot be set in the file that was found"):
        settings(file.parent, None, {})


def test_a_variable_that_is_not_set_is_refused_and_never_means_the_folder(file: Path) -> None:
    written(file, "schema = 1\n[state]\njournal_env = 'DATABASE_URL'\n")
    assert settings(file.parent, None, {"DATABASE_URL": "postgresql://a/b"}).state.url == "postgresql://a/b"
    for environ in ({}, {"DATABASE_URL": ""}):
        with pytest.raises(InvalidInput, match=r"\$DATABASE_URL, which is not set"):
            settings(file.parent, None, environ)


# -- what is set -------------------------------------------------------------------------------------------------------


def opened(folder: Path, **given: Any) -> None:
    """A host is opened and closed."""

    async def main() -> None:
        async with belljar.Runtime(state=folder, environ={}, **given):
            pass

    asyncio.run(main())


def limits(folder: Path) -> dict[tuple[str, str], Quota]:
    found = asyncio.run(Quotas(folder / "audit.db", None).show())
    return {(one.tenant, one.period): one for one in found}


def changes(folder: Path) -> list[dict[str, Any]]:
    return [record.data for record in records(folder / "audit.db", "host.quotas")]


def test_limits_are_set_at_the_opening_where_they_differ_with_a_record_of_each(file: Path) -> None:
    folder = file.parent
    written(
        file,
        "schema = 1\n[tenants.acme]\ncalls = ['5/day', '50/month']\n[tenants.'acme/research']\ncost = '1 USD/day'\n",
    )
    opened(folder)
    assert changes(folder) == [
        {"tenant": "acme", "period": "day", "by": "config", "calls": 5},
        {"tenant": "acme", "period": "month", "by": "config", "calls": 50},
        {"tenant": "acme/research", "period": "day", "by": "config", "cost_nanousd": 10**9},
    ]
    opened(folder)
    assert len(changes(folder)) == 3, "nothing differs"

    async def by_hand() -> None:
        async with open_quotas(folder / "audit.db") as quotas:
            await quotas.change("acme", {"day": {"calls": 7, "read_bytes": 9}}, by="user:alice")
            await quotas.set("other", "day", calls=1)

    asyncio.run(by_hand())
    opened(folder)
    assert changes(folder)[-1] == {"tenant": "acme", "period": "day", "by": "config", "calls": 5, "read_bytes": 9}
    assert len(changes(folder)) == 6
    stands = limits(folder)
    assert stands["other", "day"].limits is not None, "what the file does not name is left alone"
    written(file, "schema = 1\n")
    opened(folder)
    assert limits(folder).keys() == stands.keys(), "what the file no longer names, too"
    assert verify(folder / "audit.db").problems == []


def test_what_the_file_calls_unlimited_is_so(file: Path) -> None:
    written(file, "schema = 1\n[tenants.acme]\ncalls = '5/day'\n")
    opened(file.parent)
    written(file, "schema = 1\n[tenants.acme]\ncalls = 'unlimited/day'\n")
    opened(file.parent)
    opened(file.parent)
    assert changes(file.parent)[1:] == [{"tenant": "acme", "period": "day", "by": "config"}]


def test_all_limits_of_a_file_are_set_in_one_transaction_or_none(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    wanted: dict[Tenant, Changes] = {Tenant("acme"): {"day": {"calls": 5}}, Tenant("other"): {"day": {"calls": 6}}}

    async def main() -> None:
        async with open_quotas(path) as quotas:
            ledger, audit = quotas._writing()

            def beside(tenant: Tenant, _: Limits) -> Job[object]:
                if tenant == "other":
                    raise AuditUnavailable("it is full")
                return audit.host_entry(QuotaChanged(tenant=str(tenant), period="day", by="test"))

            with pytest.raises(AuditUnavailable, match="it is full"):
                await ledger.apply_limits(wanted, beside=beside)
            assert (await quotas.show(), changes(tmp_path)) == ([], [])
            assert await apply_limits(ledger, audit, wanted, by="config") == 2
            assert [one.limits.calls for one in await quotas.show() if one.limits is not None] == [5, 6]

    asyncio.run(main())


def test_limits_that_stand_already_are_seen_while_somebody_else_writes(tmp_path: Path) -> None:
    """Each command that has the file looks. Of ten thousand tenants, under the lock, that held up everybody."""
    path = tmp_path / "audit.db"
    wanted: dict[Tenant, Changes] = {
        Tenant(f"t{number:04}"): {"day": {"calls": number}, "month": {"cost_nanousd": None}} for number in range(1200)
    }
    changed = {Tenant("t0007"), Tenant("t1100"), Tenant("t1101")}

    async def main() -> None:
        async with open_quotas(path) as quotas:
            ledger, audit = quotas._writing()
            assert differing(path, wanted) == wanted
            assert await apply_limits(ledger, audit, wanted, by="config") == 2 * len(wanted)
            assert differing(path, wanted) == {}
            await quotas.set("t0007", "day", calls=5, by="test")
            await quotas.set("t1100", "month", cost_nanousd=1, by="test")
            await quotas.clear("t1101", by="test")
            await quotas.set("t0008", "day", read_bytes=1, by="test")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                assert differing(path, wanted) == {tenant: wanted[tenant] for tenant in changed}
            assert await apply_limits(ledger, audit, differing(path, wanted), by="config") == 4

    asyncio.run(main())


def test_a_host_with_a_wrong_file_is_not_opened(file: Path) -> None:
    written(file, "schema = 1\n[tenants.acme]\ncots = '1 USD/day'\n")
    with pytest.raises(InvalidInput, match=r"tenants\.acme\.cots: there is no such key"):
        belljar.Runtime(state=file.parent)
    with pytest.raises(InvalidInput, match="config must be the path of a configuration file"):
        belljar.Runtime(state=file.parent, config=5)  # type: ignore[arg-type]
    assert not (file.parent / "audit.db").exists()
