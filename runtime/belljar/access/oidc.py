"""Bearer tokens of an identity provider: JSON Web Tokens that it signed for this service.

A token is taken if everything holds:

* it has three parts, of at most `TOKEN_BYTES_MAX` bytes together, and no extension that it calls critical;
* one of the issuer's keys signed it, with an algorithm that is asymmetric and that key's own (RSA of 2048 to 8192 bits,
  P-256, P-384, P-521, Ed25519, Ed448): a shared secret would make whoever checks a token able to make one;
* `iss` is the issuer, to the letter, and `aud` is or contains the audience;
* it has `exp`, `iat` and `sub`; it is neither expired nor of the future, and neither is `nbf`; clocks may differ by
  `LEEWAY_S` seconds;
* its claims give a role, and a tenant where the role has one.

**Claims.** The values of the claim of roles are looked up in the configuration; of several roles the first counts, in
the order `admin`, `operator`, `tenant-admin`, `runner`, `auditor`. A text has several with spaces between, as `scope`
does; nothing else divides it. The claim of the tenant is the tenant's path, or `*` for the whole host; `admin` and
`operator` need none. A token without a known role or a valid tenant is refused: nothing is assumed.

**Keys.** The issuer's keys are fetched from one pinned address by https (http only on this machine), without proxy or
redirect, when the first token comes, and again, beside whatever goes on, when they are older than `FRESH_S`. Where
nobody asked for as long as `LATE_S`, the next one waits for that: a key that the issuer has removed meanwhile counts no
more. Only while the provider is down its keys are used longer, for `STALE_S` at most; one that answers without any key
that can be used has taken them all back. A token whose key is not known waits for a fetch, if the last one is longer
ago than `COOLDOWN_S`: so strangers cause at most one in that time, and a new key of the issuer may be refused as long.
If nothing could be fetched, nobody knows whether the token is good: that is the host's fault (`AccessUnavailable`), not
a denial.

Nothing of a token is kept or logged but its subject.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import msgspec

from belljar.access.roles import HOST_ROLES, Principal
from belljar.errors import AccessDenied, AccessUnavailable, InvalidInput
from belljar.glyphs import blanked
from belljar.identity import ROLES, Role, Tenant

__all__ = [
    "COOLDOWN_S",
    "FRESH_S",
    "LATE_S",
    "LEEWAY_S",
    "STALE_S",
    "TOKEN_BYTES_MAX",
    "WHOLE_HOST",
    "Oidc",
    "OidcSettings",
]

TOKEN_BYTES_MAX: Final = 16_384
LEEWAY_S: Final = 30
FRESH_S: Final = 300.0
LATE_S: Final = 2 * FRESH_S
STALE_S: Final = 3600.0
COOLDOWN_S: Final = 30.0
WHOLE_HOST: Final = "*"
# After a fetch that failed.
_AGAIN_S: Final = 5.0
_FETCH_S: Final = 5.0
_SET_BYTES_MAX: Final = 256 * 1024
_SET_KEYS_MAX: Final = 100
# Each takes some 50 µs, also where it is a byte.
_PIECES_AT_ONCE: Final = 64
_RSA_BITS: Final = range(2048, 8192 + 1)
_SUBJECT_CHARS_MAX: Final = 255
_ROLES_MAX: Final = 1000
# Seconds since the epoch that a date can have.
_TIME_MAX: Final = 2**53
_ALGORITHMS: Final[Mapping[str, frozenset[str]]] = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
    "Ed25519": frozenset({"EdDSA"}),
    "Ed448": frozenset({"EdDSA"}),
}
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

_log = logging.getLogger("belljar")


class OidcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens are taken, and what their claims mean.

    Attributes:
        issuer: what `iss` says, to the letter.
        audience: what `aud` says or contains: this service, by the name that it has at the issuer.
        jwks_url: where the issuer has its keys.
        tenant_claim: the claim that has the tenant: a name, or the names on the way to it.
        roles_claim: likewise, of the roles.
        roles: what the issuer calls each role.
    """

    issuer: str
    audience: str
    jwks_url: str
    tenant_claim: tuple[str, ...] = ("belljar_tenant",)
    roles_claim: tuple[str, ...] = ("roles",)
    roles: Mapping[str, Role]

    def checked(self) -> Self:
        """The same, if it can be used.

        Raises:
            InvalidInput: `access.oidc`; its first word is the field.
        """
        for name in ("issuer", "jwks_url"):
            if (wrong := _wrong_url(getattr(self, name))) is not None:
                raise InvalidInput(f"{name} {wrong}", code="access.oidc")
        if not self.audience:
            raise InvalidInput("audience is empty; write what the issuer calls this service", code="access.oidc")
        for name in ("tenant_claim", "roles_claim"):
            if not getattr(self, name) or not all(getattr(self, name)):
                raise InvalidInput(f"{name} is empty; write the name of a claim", code="access.oidc")
        if not self.roles:
            raise InvalidInput(
                "roles is empty; write what the issuer calls a role, and which it is", code="access.oidc"
            )
        return self


def _wrong_url(text: str) -> str | None:
    """What is wrong with an address; None if nothing is."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_plain = parts.username is None and not parts.fragment and parts.port != 0
        if is_plain and parts.hostname and re.fullmatch(r"[!-~]+", text):
            if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
                return None
            return "has to begin with https://; http is for this machine's own addresses"
    return "is no URL; write one such as https://HOST/PATH, without user and password"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Key(msgspec.Struct, frozen=True):
    """A public key of the issuer, and the algorithms that it may be used with."""

    key: Any
    algorithms: frozenset[str]


class Oidc:
    """Checks tokens of one issuer, in one event loop. Close it when nobody asks any more.

    Args:
        clock: seconds since the epoch; the hosts of one journal should have one.
        steady: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        settings: OidcSettings,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import jwt
        except ImportError as error:
            raise InvalidInput(
                "tokens of an identity provider need PyJWT: install belljar[serve]", code="access.extra"
            ) from error
        self._jwt = jwt
        self._settings = settings.checked()
        self._clock = clock
        self._steady = steady
        self._keys: dict[str | None, list[_Key]] = {}
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._next_fetch_at = -math.inf
        self._trouble: str | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None

    async def aclose(self) -> None:
        """Give up what is being fetched."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def check(self, token: str) -> Principal:
        """Who shows this token.

        Raises:
            AccessDenied: `access.token`: it is not a good one; `access.expired`; `access.claims`: it is, but gives no
                role or tenant.
            AccessUnavailable: the issuer's keys cannot be fetched.
        """
        return (await self.proven(token))[0]

    async def proven(self, token: str) -> tuple[Principal, int]:
        """As `check`, and until when the token says so, in seconds since the epoch."""
        if len(token) > TOKEN_BYTES_MAX or not _FORM.fullmatch(token):
            raise _denied("it is not a token")
        header = self._header(token)
        claims = self._verified(token, header, await self._key(header))
        until = self._check_times(claims)
        return self._principal(claims), until

    def check_over(self, token: str) -> None:
        """Of a token that was good a while ago: refuse it if its time is over, which takes no key of the issuer.

        Raises:
            AccessDenied: as `check`.
        """
        with self._hostile():
            claims: Mapping[str, Any] = self._jwt.decode(token, options={"verify_signature": False})
        self._check_times(claims)

    # -- a token -----------------------------------------------------------------------------------------------------

    def _header(self, token: str) -> Mapping[str, Any]:
        """What the token says of itself: nothing of that is believed, but which key to try."""
        with self._hostile():
            header: Mapping[str, Any] = self._jwt.get_unverified_header(token)
        if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
            raise _denied("its header is not one")
        if "crit" in header or "b64" in header:
            raise _denied("it needs an extension that is not known here")
        return header

    def _verified(self, token: str, header: Mapping[str, Any], key: _Key) -> Mapping[str, Any]:
        if header["alg"] not in key.algorithms:
            raise _denied("its algorithm is not that of its key")
        with self._hostile():
            claims: Mapping[str, Any] = self._jwt.decode(
                token,
                key.key,
                algorithms=sorted(key.algorithms),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                # Times are compared here, by the clock that we were given.
                options={
                    "require": ["exp", "iat", "aud", "iss", "sub"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> int:
        """Refuse what has expired or has not begun; until when it is good."""
        now = self._clock()
        times = {name: claims[name] for name in ("exp", "iat", "nbf") if name in claims}
        if not all(_is_time(value) for value in times.values()):
            raise _denied("its times are not times")
        if times["exp"] + LEEWAY_S <= now:
            raise AccessDenied("this token has expired: ask for another one", code="access.expired")
        if max(times["iat"], times.get("nbf", 0)) > now + LEEWAY_S:
            raise _denied("it is of the future; look at the clocks")
        return int(times["exp"])

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT_CHARS_MAX or not subject.isprintable():
            raise _denied("its subject is not a name")
        role = self._role(_at(claims, self._settings.roles_claim))
        tenant = None if role in HOST_ROLES else _tenant(_at(claims, self._settings.tenant_claim))
        return Principal(f"oidc:{subject}", tenant, role)

    def _role(self, found: object) -> Role:
        if isinstance(found, str):
            found = [word for word in found.split(" ") if word]
        words = found if isinstance(found, list) else []
        roles = {self._settings.roles[word] for word in words[:_ROLES_MAX] if _is_known(word, self._settings.roles)}
        for role in ROLES:
            if role in roles:
                return role
        raise AccessDenied("this token gives no role here: ask your administrator for one", code="access.claims")

    @contextlib.contextmanager
    def _hostile(self) -> Iterator[None]:
        """What reads a stranger's bytes: whatever is wrong with them is their fault."""
        try:
            yield
        except (self._jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise _denied(_WHY.get(type(error).__name__, "it is not a good token")) from None

    # -- keys --------------------------------------------------------------------------------------------------------

    async def _key(self, header: Mapping[str, Any]) -> _Key:
        found, is_fresh = self._known(header), self._steady() < self._fetched_at + FRESH_S
        fetching = None if found is not None and is_fresh else self._fetch_soon()
        if fetching is not None and (found is None or self._steady() >= self._tried_at + LATE_S):
            await asyncio.wait([fetching])  # whoever waits and is cancelled ends no fetch of others
            found = self._known(header)
        if found is not None:
            return found
        if self._steady() >= self._fetched_at + STALE_S or self._trouble is not None:
            raise AccessUnavailable(
                f"the keys of {self._settings.issuer} cannot be fetched ({self._trouble or 'not yet'}): look whether "
                f"{self._settings.jwks_url} answers"
            )
        raise _denied("none of its issuer's keys has signed it")

    def _known(self, header: Mapping[str, Any]) -> _Key | None:
        """Of several keys with the name that a token gives, the first with its algorithm."""
        keys = self._keys.get(header.get("kid"), []) if self._steady() < self._fetched_at + STALE_S else []
        return next((key for key in keys if header["alg"] in key.algorithms), keys[0] if keys else None)

    def _fetch_soon(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or a new one; None where it is too early for one."""
        if self._fetching is None and self._steady() >= self._next_fetch_at:
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        began = self._steady()
        self._next_fetch_at = began + _AGAIN_S
        try:
            async with asyncio.timeout(_FETCH_S):
                data = await self._fetched()
                self._keys = await asyncio.to_thread(self._read, data)
            if not self._keys:
                raise ValueError("it gives no key that can be used")
        except TimeoutError:
            self._failed(f"it took longer than {_FETCH_S:g} s")
        except (OSError, ValueError) as error:
            self._failed(blanked(str(error)[:200]) or type(error).__name__)
        else:
            self._fetched_at, self._trouble = self._steady(), None
            self._next_fetch_at = began + COOLDOWN_S
        finally:
            self._tried_at = self._steady()
            self._fetching = None

    def _failed(self, why: str) -> None:
        if self._trouble is None:
            _log.warning("belljar: the keys of %s cannot be fetched (%s)", self._settings.issuer, why)
        self._trouble = why

    async def _fetched(self) -> bytes:
        """Raises OSError if the issuer does not give its keys."""
        import httpx2  # here, since it takes long to load

        if self._tls is None:
            self._tls = await asyncio.to_thread(_tls_of, self._settings.jwks_url)
        found = bytearray()
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        client = httpx2.AsyncClient(
            verify=self._tls, follow_redirects=False, trust_env=False, timeout=None, headers=headers
        )
        try:
            async with client, client.stream("GET", self._settings.jwks_url) as response:
                if response.status_code != 200:
                    raise OSError(f"it answered {response.status_code}")
                pieces = 0
                async for piece in response.aiter_raw():
                    found += piece
                    pieces += 1
                    if len(found) > _SET_BYTES_MAX:
                        raise OSError(f"it gives more than {_SET_BYTES_MAX} bytes")
                    if pieces % _PIECES_AT_ONCE == 0:  # what has come is parsed without a pause, and others wait
                        await asyncio.sleep(0)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        return bytes(found)

    def _read(self, data: bytes) -> dict[str | None, list[_Key]]:
        """The keys by name that can be used; under None the only one, for tokens that name none.

        Raises:
            ValueError: it is no set.
        """
        try:
            found = msgspec.json.decode(data, type=_KeySet).keys
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError("what it gives is no set of keys") from None
        keys: dict[str | None, list[_Key]] = {}
        usable = [(one.get("kid"), key) for one in found[:_SET_KEYS_MAX] if (key := self._usable(one)) is not None]
        for name, key in usable:
            if isinstance(name, str):
                keys.setdefault(name, []).append(key)
        return {**keys, None: [usable[0][1]]} if len(usable) == 1 else keys

    def _usable(self, one: dict[str, Any]) -> _Key | None:
        """A key for signatures that is asymmetric and strong enough; None for any other."""
        kind = one.get("kty")
        form = kind if kind == "RSA" else one.get("crv")
        algorithms = _ALGORITHMS.get(form, frozenset()) if isinstance(form, str) else frozenset()
        if "alg" in one:
            algorithms &= {one["alg"]} if isinstance(one["alg"], str) else set()
        uses = one.get("key_ops", ["verify"])
        is_for_this = one.get("use", "sig") == "sig" and isinstance(uses, list) and "verify" in uses
        if kind not in ("RSA", "EC", "OKP") or not is_for_this or not algorithms:
            return None
        public = {name: value for name, value in one.items() if name in ("kty", "crv", "n", "e", "x", "y")}
        try:
            key = self._jwt.PyJWK(public, algorithm=min(algorithms)).key
        except (self._jwt.PyJWTError, ValueError, TypeError, OverflowError):
            return None  # one of a kind that is not known here must not spoil the others
        if kind == "RSA" and key.key_size not in _RSA_BITS:
            return None
        return _Key(key, algorithms)


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _tls_of(url: str) -> ssl.SSLContext:
    """Whom to believe to be an address's host; where that asks for no proof, nobody, which takes less to set up."""
    return ssl.create_default_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# What PyJWT calls what is wrong with a token, and what we do.
_WHY: Final = {
    "InvalidSignatureError": "its signature is not its issuer's",
    "InvalidAudienceError": "it is for somebody else",
    "InvalidIssuerError": "it is of another issuer",
    "MissingRequiredClaimError": "a claim is missing",
}


def _denied(why: str) -> AccessDenied:
    return AccessDenied(f"this token is not taken: {why}; ask for another one", code="access.token")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _TIME_MAX


def _is_known(word: object, roles: Mapping[str, Role]) -> bool:
    return isinstance(word, str) and word in roles


def _at(claims: Mapping[str, Any], path: Sequence[str]) -> object:
    found: object = claims
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _tenant(found: object) -> Tenant | None:
    if found == WHOLE_HOST:
        return None
    if isinstance(found, str):
        with contextlib.suppress(InvalidInput):
            return Tenant(found)
    raise AccessDenied("this token names no tenant: ask your administrator for one", code="access.claims")
