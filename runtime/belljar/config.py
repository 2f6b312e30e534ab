"""The configuration file of a host, `belljar.toml`: where its state is, and what tenants may use.

Which file that is, and what counts where several say something, from the strongest::

    file      --config, belljar.toml in the folder of --state, $BELLJAR_CONFIG, belljar.toml in any other state folder
    folder    --state, $BELLJAR_HOME, state.folder of a file that was named, the default
    journal   --state with a URL, $BELLJAR_JOURNAL, state.journal or state.journal_env, the state folder

Whoever names a folder with --state means what is in it. So of the journal's places the two that come from the
environment do not count then: $BELLJAR_JOURNAL, and the journal of the file that $BELLJAR_CONFIG names.

A file is read as a whole or refused, with one line that names file, line and key: an unknown key, a limit without a
period, an environment variable that is not set. Nothing in it is ever passed over, since what was meant as a limit
would then be none.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn, TypeAlias, TypeVar

import msgspec

from belljar.bounds import DIMENSION_OF, PATTERN, parse_bound
from belljar.errors import InvalidInput
from belljar.fitting import Misfit, misfit
from belljar.glyphs import glyphs
from belljar.identity import ROLES, Language, Role, Tenant
from belljar.ledger import Changes, Limits, Period
from belljar.ledger.base import check_limits
from belljar.paths import whole
from belljar.policy import load, presets
from belljar.policy.locate import locate
from belljar.state import State, names_database
from belljar.units import parse_duration, parse_size

if TYPE_CHECKING:
    import ipaddress

    from belljar.access import AccessSettings
    from belljar.audit.witness import Address

__all__ = [
    "CONFIG_FILE",
    "Config",
    "Network",
    "ProfileTable",
    "ServiceTable",
    "Settings",
    "TelemetryTable",
    "host_name_of",
    "network_of",
    "read_config",
    "schema",
    "settings",
    "wrong_in_service",
]

CONFIG_FILE: Final = "belljar.toml"

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"
_Table = TypeVar("_Table", bound=msgspec.Struct)

# Ten thousand tenants with two limits each have 0.7 MiB. The bounds keep a file that is something else from costing
# much: nested or dotted keys take memory that grows with the square of a line.
_FILE_BYTES_MAX: Final = 2 * 2**20
_LINE_CHARS_MAX: Final = 1000
_SHOWN_CHARS_MAX: Final = 100
_KEY_DAYS_MAX: Final = 36_500
_PROFILES_MAX: Final = 100
_EXAMPLE: Final = 'write a limit such as "50 USD/day", or a list of them'

_Amount = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{PATTERN}$"})]
_Size = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[0-9]+ (B|KiB|MiB|GiB)$"})]
# Of an empty list nobody could say what it is meant to limit.
_Amounts = _Amount | Annotated[list[_Amount], msgspec.Meta(min_length=1)] | msgspec.UnsetType


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the state is. `journal` is the URL of a PostgreSQL database; `journal_env` names a variable that has it."""

    folder: str | None = None
    journal: str | None = None
    journal_env: str | None = None


class _Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets the checkpoints of the log: `file:PATH`, an http or https URL, `syslog:PATH` or `syslog:HOST:PORT`.

    `contents_max` is how much what is kept of all runs may take, such as "10 GiB"; the oldest make room.
    """

    witness: str | None = None
    contents_max: _Size | None = None


_ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_PROFILE: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ProfileName = Annotated[str, msgspec.Meta(pattern=f"^{_PROFILE}$")]


class ProfileTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a run goes that a program asks for as the model `rlm/NAME`.

    Attributes:
        model: the root model; `sub_model` answers its program's queries, the same model without one.
        policy: a preset's name.
        backend, language: of those that the policy allows; its first without one.
        tenants: those who are offered it, with all below them; everybody without any.
    """

    model: _ModelName
    sub_model: _ModelName | None = None
    policy: str = "standard"
    backend: str | None = None
    language: Language | None = None
    tenants: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)] | None = None


class ServiceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How `belljar serve` listens. `$BELLJAR_SERVICE_PORT` and so on come before what is here.

    Attributes:
        host, port: the address; 0 is any free port.
        tls_cert, tls_key: the files of a certificate with its chain, and of its key, in PEM.
        trusted_proxies: addresses or networks, such as "10.0.0.0/8", whose `X-Forwarded-*` headers are believed.
        allowed_hosts: names under which clients reach it, besides `localhost` and addresses.
        body: how long a request may be, such as "8 MiB". Uploads are bounded by `upload`.
        upload: how long a context may be that is uploaded.
        uploads: how long an upload may rest before it is removed, such as "24 h".
        queue, queue_per_tenant: how many runs may wait.
        running: how many runs there are at once.
        drain: how long runs may still take when the service is stopped.
        models: what the playground and the tools over MCP offer; the first is their default.
        hooks_private: whether webhooks may lead to a private network or this machine, and be asked by http.
        profiles: what the front door offers, by the name behind `rlm/`; with any of them nothing else but `models`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8765
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: Annotated[list[str], msgspec.Meta(max_length=64)] = []
    allowed_hosts: Annotated[list[str], msgspec.Meta(max_length=64)] = []
    body: str = "8 MiB"
    upload: str = "64 GiB"
    uploads: str = "24 h"
    queue: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    queue_per_tenant: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    running: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    drain: str = "30 s"
    models: Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(max_length=100)] = []
    hooks_private: bool = False
    profiles: Annotated[dict[_ProfileName, ProfileTable], msgspec.Meta(max_length=_PROFILES_MAX)] = {}


class TelemetryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a service sends spans of runs: `otlp` is a collector's URL. With `contents`, what was said is in them."""

    otlp: str | None = None
    contents: bool = False


class _Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one level of tenants may use; several periods as a list."""

    calls: _Amounts = msgspec.UNSET
    input_tokens: _Amounts = msgspec.UNSET
    output_tokens: _Amounts = msgspec.UNSET
    cost: _Amounts = msgspec.UNSET
    read: _Amounts = msgspec.UNSET
    calls_in_flight: _Amounts = msgspec.UNSET
    cpu: _Amounts = msgspec.UNSET
    wall: _Amounts = msgspec.UNSET
    memory_time: _Amounts = msgspec.UNSET
    boxes: _Amounts = msgspec.UNSET
    contexts: _Amounts = msgspec.UNSET
    depth: _Amounts = msgspec.UNSET


_Claim = str | Annotated[list[str], msgspec.Meta(min_length=1)]


class _Oidc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose tokens a service takes besides API keys, and what their claims mean.

    A claim is a name, or a list of the names on the way to it; `roles` has what the issuer calls each role.
    """

    issuer: str
    audience: str
    jwks_url: str
    roles: dict[str, Role]
    roles_claim: _Claim = "roles"
    tenant_claim: _Claim = "belljar_tenant"


class _Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may ask a service. `key_days_max` is for how many days an API key is made at most."""

    key_days_max: Annotated[int, msgspec.Meta(ge=1, le=_KEY_DAYS_MAX)] | None = None
    oidc: _Oidc | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration file of a Belljar host."""

    schema: Literal[1]
    state: _State = _State()
    tenants: dict[str, _Tenant] = {}
    audit: _Audit = _Audit()
    service: ServiceTable = ServiceTable()
    access: _Access = _Access()
    telemetry: TelemetryTable = TelemetryTable()


assert _Tenant.__struct_fields__ == tuple(DIMENSION_OF), "every limit of the ledger can be written in the file"


@dataclass(frozen=True)
class Config:
    """A file that was read. `tenants` has, for each level, period and dimension that it names, the bound."""

    file: Path
    folder: Path | None = None
    journal: str | None = None
    journal_env: str | None = None
    tenants: Mapping[Tenant, Changes] = field(default_factory=dict)
    witness: Address | None = None
    service: ServiceTable = field(default_factory=ServiceTable)
    access: AccessSettings | None = None
    telemetry: TelemetryTable = field(default_factory=TelemetryTable)
    contents_bytes_max: int | None = None


@dataclass(frozen=True)
class Settings:
    """What is in force, and who says so.

    `origins` has a few words for `config`, `folder`, `journal`, `witness` and `contents`.
    """

    state: State
    config: Config | None
    origins: Mapping[str, str]
    witness: Address | None = None
    contents_bytes_max: int | None = None


def settings(state: str | Path | None, config: str | Path | None, environ: Mapping[str, str]) -> Settings:
    """Find the configuration, if there is one, and decide where the state is.

    Args:
        state: a folder, or the URL of a database for the journal.
        config: the file that the caller names.

    Raises:
        InvalidInput: `config.missing`, `config.unreadable`, `config.invalid`; `state.url`: the journal's is none.
    """
    folder = None if state is None or _is_url(state) else State.at(state, environ).root
    named, config_origin = config, "--config"
    if config is None and not (folder is not None and os.path.lexists(folder / CONFIG_FILE)):
        named, config_origin = environ.get("BELLJAR_CONFIG") or None, "$BELLJAR_CONFIG"
    found = None if named is None else read_config(whole(named))
    place, folder_origin = _folder(state, found, environ)
    beside = place.root / CONFIG_FILE
    if found is None and os.path.lexists(beside):
        found, config_origin = read_config(beside), "the state folder"
        if found.folder is not None:
            raise InvalidInput(
                f"{beside}: state.folder cannot be set in the file that was found in the state folder; remove it, or "
                "name the file with --config or $BELLJAR_CONFIG",
                code="config.invalid",
            )
    counts = found if folder is None or config_origin != "$BELLJAR_CONFIG" else None
    url, journal_origin = _journal(state, counts, environ)
    if url is not None and not names_database(url):
        # Not the text: what was mistyped can hold a password.
        raise InvalidInput(
            f"{journal_origin}: this is no URL of a journal; write postgresql://user@host/database", code="state.url"
        )
    origins = {"folder": folder_origin, "journal": journal_origin}
    if found is not None:
        origins["config"] = config_origin
    witness = None if counts is None else counts.witness
    if counts is not None and witness is not None:
        origins["witness"] = f"{counts.file}, audit.witness"
    contents = None if counts is None else counts.contents_bytes_max
    if counts is not None and contents is not None:
        origins["contents"] = f"{counts.file}, audit.contents_max"
    return Settings(State(place.root, url), found, origins, witness, contents)


def _is_url(state: str | Path | None) -> bool:
    return isinstance(state, str) and "://" in state


def _folder(state: str | Path | None, named: Config | None, environ: Mapping[str, str]) -> tuple[State, str]:
    if state is not None and not _is_url(state):
        return State.at(state, environ), "--state"
    if environ.get("BELLJAR_HOME"):
        return State.at(None, environ), "$BELLJAR_HOME"
    if named is not None and named.folder is not None:
        return State.at(named.folder, environ), f"{named.file}, state.folder"
    return State.at(None, environ), "$XDG_STATE_HOME" if environ.get("XDG_STATE_HOME") else "the default"


def _journal(state: str | Path | None, config: Config | None, environ: Mapping[str, str]) -> tuple[str | None, str]:
    if _is_url(state):
        return str(state), "--state"
    if state is None and (url := environ.get("BELLJAR_JOURNAL")):
        return url, "$BELLJAR_JOURNAL"
    if config is not None and config.journal is not None:
        return config.journal, f"{config.file}, state.journal"
    if config is None or (variable := config.journal_env) is None:
        return None, "the state folder"
    if not (url := environ.get(variable)):
        raise InvalidInput(
            f"{config.file}: state.journal_env names ${variable}, which is not set; set it to the journal's URL",
            code="config.invalid",
        )
    return url, f"{config.file}, state.journal_env (${variable})"


def schema() -> dict[str, Any]:
    """The file's format as JSON Schema."""
    return msgspec.json.schema(_File)


# -- the table [service] -----------------------------------------------------------------------------------------------


def network_of(text: str) -> Network:
    """An address or network, such as 10.0.0.0/8.

    Raises:
        InvalidInput: it is none.
    """
    import ipaddress  # here: few files name one, and every command waits for this module

    try:
        return ipaddress.ip_network(text.strip())
    except ValueError:
        raise InvalidInput(
            f"{text[:80]!a} is not an address or network; write one such as 10.0.0.0/8", code="config.invalid"
        ) from None


def host_name_of(text: str) -> str:
    """A host's name, in lower case and without the dot at its end.

    Raises:
        InvalidInput: it is none.
    """
    if _HOST_NAME.fullmatch(name := text.strip()) is None:
        raise InvalidInput(
            f"{text[:80]!a} is not a host's name; write one such as belljar.example.com", code="config.invalid"
        )
    return name.lower().rstrip(".")


def wrong_in_service(key: str, value: object) -> str | None:
    """What is wrong with a value of the table, whoever says it, and what to write instead; None if nothing is."""
    try:
        read = getattr(msgspec.convert({key: value}, ServiceTable), key)
        if (parse := _PARSED.get(key)) is not None:
            for text in [read] if isinstance(read, str) else read:
                parse(text)
    except msgspec.ValidationError as error:
        return _in_words(misfit(error, ServiceTable, table="a table"))
    except InvalidInput as error:
        return str(error)
    return None


_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?")
# What is read from a text, or from each of a list.
_PARSED: Final[Mapping[str, Callable[[str], object]]] = {
    "body": parse_size,
    "upload": parse_size,
    "uploads": parse_duration,
    "drain": parse_duration,
    "trusted_proxies": network_of,
    "allowed_hosts": host_name_of,
}


# -- reading -----------------------------------------------------------------------------------------------------------


def read_config(file: Path) -> Config:
    """Read a configuration file.

    Raises:
        InvalidInput: `config.missing`, `config.unreadable`; `config.invalid`: `FILE:LINE: KEY: what is wrong`.
    """
    return _Reader(file).config()


class _Reader:
    """One file being read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._text = _text(file)

    def config(self) -> Config:
        raw = self._toml()
        tenants = raw.pop("tenants", {})
        if not isinstance(tenants, dict):
            self._refuse(("tenants",), 'write each tenant as a table, such as [tenants."acme/research"]')
        profiles = self._profiles(raw)
        read = self._convert(raw, _File, ())
        state = read.state
        if state.journal is not None and state.journal_env is not None:
            self._refuse(("state", "journal_env"), "there is a journal too; keep one of the two")
        if state.journal is not None and not names_database(state.journal):
            self._refuse(("state", "journal"), "this is no URL of a journal; write postgresql://user@host/database")
        return Config(
            file=self._file,
            folder=self._folder(state.folder),
            journal=state.journal,
            journal_env=state.journal_env,
            tenants={self._name(name): self._limits(name, table) for name, table in tenants.items()},
            witness=self._witness(read.audit.witness),
            service=self._service(msgspec.structs.replace(read.service, profiles=profiles)),
            access=self._access(read.access),
            telemetry=self._telemetry(read.telemetry),
            contents_bytes_max=self._size(read.audit.contents_max, ("audit", "contents_max")),
        )

    def _folder(self, text: str | None) -> Path | None:
        try:
            return None if text is None else whole(text, self._file.parent)
        except InvalidInput as error:
            self._refuse(("state", "folder"), str(error))

    def _service(self, table: ServiceTable) -> ServiceTable:
        for key in _PARSED:
            if (wrong := wrong_in_service(key, getattr(table, key))) is not None:
                self._refuse(("service", key), wrong)
        if (table.tls_cert is None) != (table.tls_key is None):
            self._refuse(("service",), "tls_cert and tls_key go together; name both files, or neither")
        return table

    def _profiles(self, raw: dict[str, Any]) -> dict[str, ProfileTable]:
        """Taken out of the file and read one by one, so that what is wrong is told with its name."""
        service = raw.get("service")
        tables = service.pop("profiles", {}) if isinstance(service, dict) else {}
        if not isinstance(tables, dict) or len(tables) > _PROFILES_MAX:
            self._refuse(
                ("service", "profiles"),
                f"write each profile as a table, such as [service.profiles.careful]; at most {_PROFILES_MAX}",
            )
        return {name: self._profile(name, table) for name, table in tables.items()}

    def _profile(self, name: str, raw: object) -> ProfileTable:
        path = ("service", "profiles", name)
        if not re.fullmatch(_PROFILE, name):
            self._refuse(path, "a profile's name has letters, digits, dots, dashes and underscores, 64 at most")
        table = self._convert(raw, ProfileTable, path)
        if table.policy not in (known := presets()):
            self._refuse((*path, "policy"), f"there is no such preset; write one of {', '.join(sorted(known))}")
        box = load(table.policy).box
        for key, allowed in (("backend", box.backends), ("language", box.languages)):
            if (given := getattr(table, key)) is not None and given not in allowed:
                self._refuse((*path, key), f"{table.policy} does not allow it; write one of {', '.join(allowed)}")
        for tenant in table.tenants or ():
            try:
                Tenant(tenant)
            except InvalidInput as error:
                self._refuse((*path, "tenants"), str(error))
        return table

    def _size(self, text: str | None, path: tuple[str, ...]) -> int | None:
        try:
            return None if text is None else parse_size(text)
        except InvalidInput as error:
            self._refuse(path, str(error))

    def _witness(self, text: str | None) -> Address | None:
        if text is None:
            return None
        from belljar.audit.witness import Address  # here: few files name one, and every command waits for this module

        try:
            return Address.read(text, self._file.parent)
        except InvalidInput as error:
            self._refuse(("audit", "witness"), str(error))

    def _access(self, read: _Access) -> AccessSettings | None:
        if read == _Access():
            return None
        from belljar.access import AccessSettings, OidcSettings  # here, as the witness

        age_max = None if read.key_days_max is None else timedelta(days=read.key_days_max)
        if (given := read.oidc) is None:
            return AccessSettings(key_age_max=age_max)
        oidc = OidcSettings(
            issuer=given.issuer,
            audience=given.audience,
            jwks_url=given.jwks_url,
            roles=given.roles,
            roles_claim=_path(given.roles_claim),
            tenant_claim=_path(given.tenant_claim),
        )
        try:
            return AccessSettings(key_age_max=age_max, oidc=oidc.checked())
        except InvalidInput as error:
            key, _, what = str(error).partition(" ")
            self._refuse(("access", "oidc", key), f"this {what}")

    def _telemetry(self, table: TelemetryTable) -> TelemetryTable:
        if table.otlp is not None:
            from belljar.audit.export.otel import check_endpoint  # here: as above

            try:
                check_endpoint(table.otlp)
            except InvalidInput as error:
                self._refuse(("telemetry", "otlp"), str(error))
        return table

    def _name(self, name: str) -> Tenant:
        try:
            return Tenant(name)
        except InvalidInput as error:
            self._refuse(("tenants", name), str(error))

    def _limits(self, tenant: str, raw: object) -> Changes:
        table = self._convert(raw, _Tenant, ("tenants", tenant))
        found: dict[Period, dict[str, int | None]] = {}
        for word in DIMENSION_OF:
            given = getattr(table, word)
            if given is not msgspec.UNSET:
                for text in [given] if isinstance(given, str) else given:
                    self._add(found, text, ("tenants", tenant, word))
        return found

    def _add(self, found: dict[Period, dict[str, int | None]], text: str, path: tuple[str, ...]) -> None:
        try:
            period, dimension, bound = parse_bound(path[-1], text)
            check_limits(Limits(period, **(_NOTHING | {dimension: bound})))
        except InvalidInput as error:
            self._refuse(path, str(error))
        if dimension in found.setdefault(period, {}):
            self._refuse(path, f"there are two limits for {period}; keep one of them")
        found[period][dimension] = bound

    def _toml(self) -> dict[str, Any]:
        if max(map(len, self._text.split("\n"))) > _LINE_CHARS_MAX:
            self._refuse((), f"a line is too long; use at most {_LINE_CHARS_MAX} characters")
        try:
            return tomllib.loads(self._text)
        except (ValueError, RecursionError) as error:  # ValueError: also of int() with thousands of digits
            self._refuse((), f"this is not valid TOML ({glyphs(str(error))}); correct it")

    def _convert(self, raw: object, kind: type[_Table], path: tuple[str, ...]) -> _Table:
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            wrong = misfit(error, kind, table="a table")
            here = (*path, *wrong.steps)
            key = _UNKNOWN.search(wrong.what)
            if key is not None:
                names = (_KEYS_OF.get(here[:2]) or _KEYS_OF.get(here[:1], _File)).__struct_fields__
                self._refuse((*here, key[1]), f"there is no such key; write one of {', '.join(names)}")
            if wrong.missing is not None and here:
                self._refuse(here, f"{wrong.missing} is missing; write it, too")
            if wrong.missing is not None:
                self._refuse((), "schema is missing; write schema = 1 above the first table")
            advice = _EXAMPLE if path[:1] == ("tenants",) else _ADVICE.get(here)
            self._refuse(here, _in_words(wrong, advice))

    def _refuse(self, path: tuple[str, ...], what: str) -> NoReturn:
        line = self._line(path) if path else None
        dotted = ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)
        place = f"{self._file}{f':{line}' if line else ''}: {f'{dotted[:_SHOWN_CHARS_MAX]}: ' if path else ''}"
        raise InvalidInput(f"{glyphs(place)}{what}", code="config.invalid")

    def _line(self, path: tuple[str, ...]) -> int | None:
        """The line of `path`, or else of the nearest table around it that has one."""
        lines = locate(self._text)
        return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), None)


_NOTHING: Final[dict[str, int | None]] = dict.fromkeys(DIMENSION_OF.values())
_ADVICE: Final[dict[tuple[str, ...], str]] = {
    ("schema",): "write schema = 1",
    ("access", "key_days_max"): f"write a number of days from 1 to {_KEY_DAYS_MAX}",
    ("access", "oidc", "roles"): f'write what the issuer calls each role, such as "ops" = "operator"; the roles are '
    f"{', '.join(ROLES)}",
    **dict.fromkeys(
        (("access", "oidc", "roles_claim"), ("access", "oidc", "tenant_claim")),
        "write the name of a claim, or a list of the names on the way to it",
    ),
}
_UNKNOWN: Final = re.compile(r"unknown field (.*)", re.DOTALL)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_KEYS_OF: Final[dict[tuple[str, ...], type[msgspec.Struct]]] = {
    ("state",): _State,
    ("tenants",): _Tenant,
    ("audit",): _Audit,
    ("service",): ServiceTable,
    ("service", "profiles"): ProfileTable,
    ("access",): _Access,
    ("access", "oidc"): _Oidc,
    ("telemetry",): TelemetryTable,
}


def _in_words(wrong: Misfit, advice: str | None = None) -> str:
    advice = advice or (f"write {wrong.fits}" if wrong.fits is not None else "correct it")
    return f"{wrong.what[:1].lower()}{wrong.what[1:]}; {advice}"


def _path(claim: str | list[str]) -> tuple[str, ...]:
    return (claim,) if isinstance(claim, str) else tuple(claim)


def _text(file: Path) -> str:
    try:
        # A pipe or a device could give bytes for ever, or never.
        if not file.is_file():
            raise InvalidInput(f"there is no configuration file {file}; name another", code="config.missing")
        with file.open("rb") as opened:
            data = opened.read(_FILE_BYTES_MAX + 1)
        if len(data) > _FILE_BYTES_MAX:
            raise InvalidInput(f"{file} is too large for a configuration; name the right file", code="config.invalid")
        return data.decode("utf-8-sig")  # some editors write a byte order mark
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null character in the path
        raise InvalidInput(
            f"{glyphs(str(file))} cannot be read ({type(error).__name__}); name a readable UTF-8 file",
            code="config.unreadable",
        ) from error
