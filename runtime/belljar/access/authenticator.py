"""Whoever asks shows one text, a key or a token, or comes with the cookie of a session: who is it?

    a key that was good here before ───────────────────────────────────────────────▶ ApiKeys ──▶ principal
    another key ──▶ have too many failed from there? a few at a time ──▶ ApiKeys ──▶ principal, or counted
    a token ──▶ Oidc ──▶ principal, or counted; from an address of too many failures it is told just that

What works is not held up by others behind the same address, a proxy's for example: neither a key that was seen before,
nor a token, which costs no question to the journal. Other keys are looked up a few at a time, each after it was asked
whether its address may still try: so many at once cost no more than one after the other.

Only what nobody could have shown who once had a key or token counts as a failure of its address: a program that goes on
with an expired key locks nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, Self

import msgspec

from belljar.access.apikeys import PREFIX, ApiKeys
from belljar.access.oidc import Oidc
from belljar.access.roles import Principal
from belljar.access.sessions import Session, Sessions
from belljar.access.settings import AccessSettings
from belljar.access.throttle import Throttle
from belljar.audit import AuditLog
from belljar.errors import AccessDenied, AccessUnavailable
from belljar.journal import Journal
from belljar.keys import Keys

__all__ = ["Authenticator"]

# Of keys that were not seen before, at a time.
_LOOKED_UP_MAX: Final = 8
_COUNTED: Final = ("access.unknown", "access.token")


class Authenticator:
    """Says who asks, in one event loop.

    Args:
        keys, sessions: are attributes, too, for what is done with them besides.
        oidc: None where no issuer is trusted.
    """

    def __init__(
        self, keys: ApiKeys, sessions: Sessions, oidc: Oidc | None = None, throttle: Throttle | None = None
    ) -> None:
        self.keys = keys
        self.sessions = sessions
        self.oidc = oidc
        self._throttle = Throttle() if throttle is None else throttle
        self._looking = asyncio.Semaphore(_LOOKED_UP_MAX)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, journal: Journal, audit: AuditLog, folder: Keys, settings: AccessSettings
    ) -> AsyncIterator[Self]:
        """What a host's configuration asks for, until the end of a block.

        Raises:
            InvalidInput: `access.extra`: its identity provider needs what is not installed.
            AuditUnavailable: the keys folder or the journal cannot be used.
        """
        keys = ApiKeys(journal, audit, age_max=settings.key_age_max)
        await keys.recall()
        terms = None if settings.oidc is None else msgspec.json.encode(settings.oidc, order="sorted")
        sessions = await asyncio.to_thread(Sessions, keys, folder, clock=journal.now, terms=terms)
        if settings.oidc is None:
            yield cls(keys, sessions)
            return
        async with contextlib.aclosing(Oidc(settings.oidc, clock=journal.now)) as oidc:
            yield cls(keys, sessions, oidc)

    async def check(self, text: str, *, address: str | None) -> Principal:
        """Who shows this key or token.

        Args:
            address: where it comes from, as far as the service knows. None where it was good a while ago, when
                something began that still lasts: then nobody guesses, so no place is held up, and none counts it.

        Raises:
            AccessThrottled: `access.throttled`.
            AccessDenied: as `ApiKeys.check` and `Oidc.check`.
            HostFault: it cannot be found out: the journal or the issuer does not answer.
        """
        return (await self._proven(text, address))[0]

    async def log_in(self, text: str, *, address: str) -> Session:
        """Begin a session for a page. Raises as `check`."""
        return self.sessions.begin(*await self._proven(text, address))

    async def _proven(self, text: str, address: str | None) -> tuple[Principal, int | None]:
        if self.oidc is not None and not text.startswith(PREFIX):
            try:
                return await self.oidc.proven(text)
            except AccessUnavailable:
                if address is None:
                    self.oidc.check_over(text)
                raise
            except AccessDenied as error:
                if address is not None:
                    self._throttle.check(address)
                    self._count(error, address)
                raise
        if address is None or self.keys.knows(text):
            return await self.keys.check(text), None
        async with self._looking:
            self._throttle.check(address)
            try:
                return await self.keys.check(text), None
            except AccessDenied as error:
                self._count(error, address)
                raise

    def _count(self, error: AccessDenied, address: str) -> None:
        if error.code in _COUNTED:
            self._throttle.failed(address)
