"""What a run is given to read: the caller's sources become documents in the tenant's store while the run lasts."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from belljar.arguments import warn_of_a_path
from belljar.context import ContextStore, Document, FileSource, LeftOut, Loan
from belljar.errors import HostFault, InvalidInput
from belljar.tasks import to_the_end

__all__ = ["ContextSource", "Loans", "Verbatim", "named", "register"]

# A file or folder of this host, an open binary file, a text, a list or dict of JSON values, or what was registered.
ContextSource = Path | FileSource | BinaryIO | str | Sequence[Any] | Mapping[str, Any] | Document

# The name of the first context where it has no other.
_CONTEXT: Final = "context"
# Their names and places must fit into one header of the wire.
_CONTEXTS_MAX: Final = 64
_CONTEXT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_log = logging.getLogger("belljar")


class Verbatim(str):
    """A text by which nobody means a file of this host, such as one that came over a network."""

    __slots__ = ()


class Loans:
    """The contexts that a run brings along, given back when it ends."""

    def __init__(self) -> None:
        self._taken: list[Loan] = []
        self._over = False
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
        if self._taken:
            await to_the_end(asyncio.to_thread(self._give_back))

    async def take(self, store: ContextStore, source: ContextSource) -> Document:
        """The document of a source, ours until the block ends; a registered one stays anyway."""
        if isinstance(source, Document):
            return source
        if isinstance(source, str) and not isinstance(source, Verbatim):
            warn_of_a_path(source)
        return await asyncio.to_thread(self._take, store, source)

    def _take(self, store: ContextStore, source: Any) -> Document:
        loan = store.lend(source, now_ns=time.time_ns(), on_left_out=_tell_left_out)
        with self._lock:
            self._taken.append(loan)
            over = self._over
        if over:  # the run was cancelled meanwhile
            self._give_back()
        return loan.document

    def _give_back(self) -> None:
        while self._taken:
            try:
                self._taken.pop().close()
            except HostFault as fault:  # the result is there, and must not be lost because of this
                _log.warning("belljar: a run's context stays on the disk until the next start: %s", fault)


def named(context: ContextSource | None, contexts: Mapping[str, ContextSource] | None) -> dict[str, ContextSource]:
    """The sources of a run by name, `context` first.

    Raises:
        InvalidInput: `context.name`, `context.too_many`.
    """
    sources = {} if context is None else {_CONTEXT: context}
    sources |= {_context_name(name): source for name, source in (contexts or {}).items()}
    if len(sources) > _CONTEXTS_MAX:
        raise InvalidInput(
            f"a run has at most {_CONTEXTS_MAX} contexts, not {len(sources)}: put files into a folder, texts into "
            "a list or dict, which is one context",
            code="context.too_many",
            limit=_CONTEXTS_MAX,
            observed=len(sources),
        )
    return sources


async def register(store: ContextStore, source: ContextSource, name: str | None) -> Document:
    """Take a source into a tenant's store, to stay.

    Raises:
        InvalidInput: it cannot be read, or cannot be a context.
    """
    if isinstance(source, Document):
        return source
    if isinstance(source, str):
        warn_of_a_path(source)
    return await asyncio.to_thread(store.add, source, name=name, now_ns=time.time_ns(), on_left_out=_tell_left_out)


def _tell_left_out(one: LeftOut) -> None:
    _log.warning("belljar: not in the context: %r: %s", one.path, one.why)


def _context_name(name: str) -> str:
    """A name of a context, as the program writes it in `contexts["..."]`."""
    if not _CONTEXT_NAME.fullmatch(name) or name == _CONTEXT:
        raise InvalidInput(
            f"{name[:80]!a} is not a valid name for a context; use up to 64 letters, digits, '_', '-', '.', but not "
            "'context' itself",
            code="context.name",
        )
    return name
