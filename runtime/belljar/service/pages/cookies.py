"""Two secrets of a browser: the session, sealed in a cookie, and a token that shows that a form is one of ours.

The session cookie has the API key that somebody logged in with, encrypted with a key of the service, and when it ends.
So processes that have that key know each other's sessions, nothing is kept here, and a key that is revoked is refused
from then on, as it is everywhere. No script reads it (`HttpOnly`), and no other site's form sends it (`SameSite=Lax`).

A form has a token: an HMAC over a random value in a second cookie, and over the session. Another site can neither read
nor guess it. What a browser says of the page that sends a form (`Sec-Fetch-Site`, `Origin`) is held against it, too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["COOKIE_BYTES_MAX", "CSRF", "SESSION", "Cookies"]

SESSION: Final = "belljar_session"
CSRF: Final = "belljar_form"
COOKIE_BYTES_MAX: Final = 4096
_SESSION_S: Final = 12 * 3600
_NONCE_BYTES: Final = 12
_TIME_BYTES: Final = 8


class Cookies:
    """Makes and reads both.

    Args:
        secret: at least 32 bytes, the same in all processes of a service.
        clock: the time in seconds since the epoch.
        session_s: how long a session lasts, in seconds.

    Raises:
        ValueError: the secret is too short.
    """

    def __init__(self, secret: bytes, *, clock: Callable[[], float] = time.time, session_s: int = _SESSION_S) -> None:
        if len(secret) < hashlib.sha256().digest_size:
            raise ValueError("a secret has at least 32 bytes")
        self._cipher = AESGCM(hmac.digest(secret, b"belljar session", "sha256"))
        self._forms = hmac.digest(secret, b"belljar form", "sha256")
        self._clock = clock
        self.session_s: Final = session_s

    def sealed(self, key: str) -> str:
        """The session of whoever has this API key."""
        until = (int(self._clock()) + self.session_s).to_bytes(_TIME_BYTES, "big")
        nonce = os.urandom(_NONCE_BYTES)
        return _text(nonce + self._cipher.encrypt(nonce, until + key.encode(), SESSION.encode()))

    def opened(self, cookies: Mapping[str, str]) -> str | None:
        """The API key of the session among these cookies; None if there is none, or it is over or not ours."""
        sealed = cookies.get(SESSION, "")
        if not sealed or len(sealed) > COOKIE_BYTES_MAX:
            return None
        try:
            data = _bytes(sealed)
            plain = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], SESSION.encode())
            until, key = int.from_bytes(plain[:_TIME_BYTES], "big"), plain[_TIME_BYTES:].decode()
        except (ValueError, InvalidTag):
            return None
        return key if self._clock() < until else None

    def form(self, cookies: Mapping[str, str]) -> tuple[str, str]:
        """The token for the forms of a page, and the value of its cookie: the browser's, or a new one."""
        value = cookies.get(CSRF, "")
        if not 0 < len(value) <= 64:
            value = _text(os.urandom(24))
        return self._token(value, cookies), value

    def is_ours(self, cookies: Mapping[str, str], token: str) -> bool:
        """Whether a form with this token is from one of our pages, of this session."""
        value = cookies.get(CSRF, "")
        return bool(value) and hmac.compare_digest(self._token(value, cookies).encode(), token.encode())

    def _token(self, value: str, cookies: Mapping[str, str]) -> str:
        about = f"{value}\n{cookies.get(SESSION, '')}".encode()
        return _text(hmac.digest(self._forms, about, "sha256"))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
