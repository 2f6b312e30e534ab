"""How the service listens: what `[service]` of the configuration says, the environment, and the command's options.

The strongest is an option, then the environment (`$BELLJAR_SERVICE_PORT` for `port`, and so on; lists with commas),
then the file. Everything is read before anything is opened, and whatever is wrong is refused in one line.

Anybody who reaches a port that is open to a network could try keys on it, and read what others send. So an address that
is not of this machine alone is refused unless there is TLS, or a proxy that is trusted to have it in front
(`check_bind`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from belljar.config import Network, ProfileTable, ServiceTable, host_name_of, network_of, wrong_in_service
from belljar.errors import InvalidInput
from belljar.identity import Language, Tenant
from belljar.paths import whole
from belljar.units import parse_duration, parse_size

__all__ = ["DEMO", "Profile", "ServiceSettings", "check_bind", "is_loopback", "read_settings"]

# The model that needs no key, which is offered besides those of the settings wherever a host has it.
DEMO: Final = "scripted:demo"
_PREFIX: Final = "BELLJAR_SERVICE_"
_LISTS: Final = ("trusted_proxies", "allowed_hosts", "models")
_FILES: Final = ("tls_cert", "tls_key")
_NUMBERS: Final = ("port", "queue", "queue_per_tenant", "running")


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """How a run goes that is asked for by one name. Its fields are those of `jobs.Asked`.

    Attributes:
        tenants: those who are offered it, with all below them; None is everybody.
    """

    model: str
    sub_model: str | None = None
    policy: str = "standard"
    backend: str | None = None
    language: Language | None = None
    tenants: tuple[Tenant, ...] | None = None

    def is_for(self, tenant: Tenant) -> bool:
        return self.tenants is None or any(one in tenant.levels for one in self.tenants)


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force. Times are in seconds, lengths in bytes.

    Attributes:
        models: what the playground and the tools over MCP offer; the first is their default.
        profiles: what the front door offers besides, by name.
        hooks_private: whether a webhook may be on a private network or this machine.
        header_s: how long a client may take for the head of a request.
        body_s: how long it may take for a body, or for each part of an upload.
        write_s: how long it may let an answer wait: after that the connection is cut.
        heartbeat_s: how often a stream of events says that it is still there.
        connections: how many there may be at once.
        header_bytes: how long the head of a request may be.
        bodies_bytes: how long the bodies of all requests that are under way may be together; half of it for a tenant.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    tls_cert: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[Network, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    body_bytes: int = 8 * 2**20
    upload_bytes: int = 64 * 2**30
    uploads_s: float = 24 * 3600
    queue: int | None = None
    queue_per_tenant: int | None = None
    running: int | None = None
    drain_s: float = 30
    models: tuple[str, ...] = ()
    profiles: Mapping[str, Profile] = {}
    hooks_private: bool = False
    header_s: float = 10
    body_s: float = 30
    write_s: float = 30
    heartbeat_s: float = 15
    connections: int = 4000
    header_bytes: int = 32 * 2**10
    bodies_bytes: int = 256 * 2**20

    @property
    def is_secure(self) -> bool:
        return self.tls_cert is not None


def read_settings(
    table: ServiceTable, environ: Mapping[str, str], folder: Path, **options: str | int | None
) -> ServiceSettings:
    """Put together what the file, the environment and the command say.

    Args:
        folder: what the file's paths are relative to; others are relative to the folder in which the command is.
        options: what the command says, by field; None is nothing.

    Raises:
        InvalidInput: `config.invalid`.
    """
    told: dict[str, Any] = msgspec.structs.asdict(table)
    del told["profiles"]  # only the file has them
    told |= {key: whole(told[key], folder) for key in _FILES if told[key] is not None}
    for key in list(told):
        if (text := environ.get(variable := f"{_PREFIX}{key.upper()}")) not in (None, ""):
            told[key] = _said(f"${variable}", key, _read(key, text))
        if (value := options.get(key)) is not None:
            told[key] = _said(f"--{key.replace('_', '-')}", key, value)
    return ServiceSettings(
        host=told["host"],
        port=told["port"],
        tls_cert=told["tls_cert"],
        tls_key=told["tls_key"],
        trusted_proxies=tuple(map(network_of, told["trusted_proxies"])),
        allowed_hosts=tuple(map(host_name_of, told["allowed_hosts"])),
        body_bytes=parse_size(told["body"]),
        upload_bytes=parse_size(told["upload"]),
        uploads_s=parse_duration(told["uploads"]),
        queue=told["queue"],
        queue_per_tenant=told["queue_per_tenant"],
        running=told["running"],
        drain_s=parse_duration(told["drain"]),
        models=tuple(name.strip() for name in told["models"]),
        profiles={name: _profile(one) for name, one in table.profiles.items()},
        hooks_private=told["hooks_private"],
    )


def _said(origin: str, key: str, value: object) -> object:
    """A value that the file does not say; a path starts where the command does."""
    if (wrong := wrong_in_service(key, value)) is not None:
        raise InvalidInput(f"{origin}: {wrong}", code="config.invalid")
    return whole(str(value)) if key in _FILES else value


def _profile(table: ProfileTable) -> Profile:
    tenants = None if table.tenants is None else tuple(map(Tenant, table.tenants))
    return Profile(**{**msgspec.structs.asdict(table), "tenants": tenants})


def check_bind(settings: ServiceSettings) -> None:
    """Refuse an address that a network reaches where nothing keeps what is sent from being read.

    Raises:
        InvalidInput: `service.exposed`; `service.tls`: the files of TLS cannot be read, are not a certificate and its
            key in PEM, or there is one of two.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidInput("tls_cert and tls_key go together; name both files, or neither", code="service.tls")
    for file in (settings.tls_cert, settings.tls_key):
        if file is not None and not file.is_file():
            raise InvalidInput(f"there is no file {file}; name the certificate and its key", code="service.tls")
    if settings.tls_cert is not None and settings.tls_key is not None:
        _check_pair(settings.tls_cert, settings.tls_key)
    if is_loopback(settings.host) or settings.is_secure or settings.trusted_proxies:
        return
    raise InvalidInput(
        f"{settings.host} is not an address of this machine alone: set tls_cert and tls_key, or name the proxy in "
        "front that has TLS as trusted_proxies, in [service] of belljar.toml; or listen on 127.0.0.1",
        code="service.exposed",
    )


def _check_pair(cert: Path, key: Path) -> None:
    """Load them as the server will, which would fail where nobody can be told in one line."""
    import ssl  # here: takes as long to load as the rest of this module, and most services have no TLS of their own

    for file in (cert, key):
        try:
            file.open("rb").close()
        except OSError as error:
            raise InvalidInput(
                f"{file} cannot be read ({error.strerror}); let the service's user read it", code="service.tls"
            ) from error
    try:
        # With a password, even a wrong one, nobody is asked for it at a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or type(error).__name__
        raise InvalidInput(
            f"{cert} and {key} are not a certificate and its key ({why}); name two files in PEM that belong together, "
            "the key without a password",
            code="service.tls",
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. Of names only `localhost` is known to be such."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(field: str, text: str) -> object:
    if field in _LISTS:
        return text.split(",")
    if field == "hooks_private" and text in ("true", "false"):
        return text == "true"
    return int(text) if _is_number(field, text) else text


def _is_number(field: str, text: str) -> bool:
    return field in _NUMBERS and re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is not None
