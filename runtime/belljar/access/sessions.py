"""Sessions of pages: a cookie's value that stands for a key or token which was checked once.

The value is a small document and its HMAC-SHA256, both in base64: who it is, until when, and a random word. It holds no
secret, and the service keeps nothing of it::

    key or token ──checked──▶ begin ──▶ value ──cookie──▶ check ──▶ the principal, as long as the key is in force

**Its end.** A session lasts `SESSION_S` at most, and no longer than its token says. One of a key ends with the key: it
is looked up each time (`ApiKeys.check_id`), so a key that was revoked or has expired ends its sessions as fast as
itself. One of a token is good only where tokens are taken on the very terms on which it began: who has another issuer,
or gives its roles another meaning, does not go on with what the old ones gave. Logging out removes the cookie; a copy
of the value would go on until then.

**The secret** of the HMAC is a file of the keys folder (`SECRET_FILE`), made when it is first needed. Processes that
share this folder take each other's sessions, whatever journal they have. Hosts with a folder each do not: a value of
another host is no session, and its owner logs in again. So copy that file to all hosts behind one address, or let the
proxy send a browser always to the same one. Removing the file ends all sessions at the next start.

**Forms** of a page carry a word that belongs to the session (`csrf`): another site can make a browser send the cookie,
but cannot know the word.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from belljar.access.apikeys import ApiKeys
from belljar.access.roles import Principal
from belljar.errors import AccessDenied
from belljar.identity import Role, Tenant
from belljar.keys import Keys

__all__ = ["SECRET_FILE", "SESSION_S", "Session", "Sessions"]

SESSION_S: Final = 8 * 3600
SECRET_FILE: Final = "sessions.key"  # noqa: S105 (a name)
# More than the longest subject and tenant take.
_VALUE_CHARS_MAX: Final = 3072
_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})")
_OF_KEY: Final = "key:"


class Session(msgspec.Struct, frozen=True):
    """Somebody who has logged in.

    Attributes:
        value: the cookie's. It is as good as a key while it lasts: mark it HttpOnly, Secure and SameSite.
        until: when it ends, in seconds since the epoch.
        csrf: the word that each form carries.
    """

    principal: Principal
    value: str
    until: int
    csrf: str


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    name: str
    tenant: str
    role: Role
    until: int
    word: str


class Sessions:
    """Begins and checks sessions.

    Args:
        keys: looks up the keys that sessions belong to.
        folder: where the secret is.
        clock: seconds since the epoch.
        terms: on which tokens are taken, in bytes; None where none are.

    Raises:
        AuditUnavailable: the keys folder cannot be used.
    """

    def __init__(self, keys: ApiKeys, folder: Keys, *, clock: Callable[[], float], terms: bytes | None = None) -> None:
        self._keys = keys
        self._clock = clock
        secret = folder.secret(SECRET_FILE)
        self._of_keys = hmac.digest(secret, b"belljar session value", "sha256")
        self._of_tokens = None if terms is None else hmac.digest(self._of_keys, terms, "sha256")
        self._of_forms = hmac.digest(secret, b"belljar session form", "sha256")

    def begin(self, principal: Principal, until: int | None = None) -> Session:
        """A session of somebody whose key or token was checked just now; it ends at `until` at the latest."""
        latest = int(self._clock()) + SESSION_S
        end = latest if until is None else min(until, latest)
        body = _Body(1, principal.name, str(principal.tenant or ""), principal.role, end, secrets.token_urlsafe(16))
        head = _text(msgspec.json.encode(body))
        signs = self._of_keys if principal.name.startswith(_OF_KEY) else self._of_tokens
        assert signs is not None, "tokens are taken"
        return self._session(principal, f"{head}.{_mac(signs, head)}", end)

    async def check(self, value: str) -> Session:
        """The session that a cookie stands for.

        Raises:
            AccessDenied: `access.session`: it is none, or has ended; as `ApiKeys.check_id`, of its key.
            AuditUnavailable: the journal cannot be read.
        """
        body = self._body(value)
        if body is None or body.until <= self._clock():
            raise AccessDenied("this session has ended: log in again", code="access.session")
        principal = Principal(body.name, Tenant(body.tenant) if body.tenant else None, body.role)
        if body.name.startswith(_OF_KEY):
            principal = await self._keys.check_id(body.name.removeprefix(_OF_KEY))
        return self._session(principal, value, body.until)

    def _body(self, value: str) -> _Body | None:
        match = _FORM.fullmatch(value) if len(value) <= _VALUE_CHARS_MAX else None
        signing = [one for one in (self._of_keys, self._of_tokens) if one is not None]
        if match is None or not any(hmac.compare_digest(_mac(one, match[1]), match[2]) for one in signing):
            return None
        try:  # we made it, but perhaps another version of us
            return msgspec.json.decode(base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)), type=_Body)
        except (msgspec.DecodeError, binascii.Error):
            return None

    def _session(self, principal: Principal, value: str, until: int) -> Session:
        return Session(principal, value, until, _text(hmac.digest(self._of_forms, value.encode(), "sha256")))


def _mac(secret: bytes, head: str) -> str:
    return _text(hmac.digest(secret, head.encode(), "sha256"))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
