"""What the pages are given: who visits, what can be read, what can be ordered; and what they show of it.

A method that is given a `Visitor` answers only what concerns their tenant and those below it. Of anything else it says
what it says of a thing that does not exist, so nobody learns what others have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from belljar.audit.export.view import Fact, Page, Tone
from belljar.identity import Tenant, is_within
from belljar.ledger import Quota, Used

__all__ = [
    "ORDER_STATES",
    "Actions",
    "Again",
    "Asked",
    "Checked",
    "CheckpointRow",
    "Compared",
    "ContextPage",
    "ContextRow",
    "Contexts",
    "GoneContext",
    "Health",
    "LayerRow",
    "Login",
    "Origin",
    "Part",
    "Proof",
    "Reader",
    "RecordRow",
    "RecordsPage",
    "RunFilter",
    "RunPage",
    "RunRow",
    "RunsPage",
    "Seal",
    "Section",
    "Table",
    "Visitor",
    "Waiting",
]

# What is known of a run's records: the log was checked with them; they are signed; not yet; not all are there yet.
Seal = Literal["verified", "signed", "unsigned", "open"]


class Visitor(msgspec.Struct, frozen=True):
    """Who asks.

    Attributes:
        name: what the log calls them.
        tenant: they see it and all below it; None is the whole host.
        role: for people to read.
        word: belongs to their session, and only our pages know it: each form carries it.
        may: whether they may do this (`run.cancel`) to a tenant; None is what belongs to no tenant.
    """

    name: str
    tenant: Tenant | None
    role: str
    word: str
    may: Callable[[str, Tenant | None], bool]

    def sees(self, tenant: str) -> bool:
        """Whether it is theirs or below."""
        return is_within(tenant, self.tenant)


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows."""


# -- runs --------------------------------------------------------------------------------------------------------------


# States of an order that are none of a run in the log, by which runs may be filtered, too.
ORDER_STATES: Final = ("queued", "interrupted", "cancelled", "refused")


class RunFilter(_View, frozen=True):
    """What a run has to be; empty is whatever. `before` is where the page begins: behind the run of that id."""

    tenant: str = ""
    status: str = ""
    model: str = ""
    before: str = ""


class RunRow(_View, frozen=True):
    """One run with all below it. What would take too long to find out for a list is None."""

    run: str
    tenant: str
    status: str
    tone: Tone
    model: str
    started_ns: int
    ended_ns: int | None
    is_live: bool
    seal: Seal
    cost_nanousd: int | None = None
    calls: int | None = None
    read_share: float | None = None


class Waiting(_View, frozen=True):
    """A run that was ordered: the log has nothing of it yet, or never will, or more than is told here.

    Attributes:
        place: how many are before it.
        is_open: it may still begin; `why` it did not, if it is not.
    """

    run: str
    tenant: str
    state: str
    model: str = ""
    since_ns: int = 0
    place: int | None = None
    is_open: bool = True
    why: str = ""


class RunsPage(_View, frozen=True):
    """The newest first. `older` is the `before` of the next page; empty at the end."""

    runs: list[RunRow]
    older: str


class Part(_View, frozen=True):
    """Some of a long run's records: the first and the last number of them."""

    number: int
    first: int
    last: int


class Origin(_View, frozen=True):
    """The run of which this one is a replay; or a fork, from a turn on."""

    run: str
    from_turn: int | None = None


class GoneContext(_View, frozen=True):
    """A context that a run had, and that is not registered: its text was sent along, or it was removed since."""

    name: str
    kind: str
    chars: int
    sha256: str


class Compared(_View, frozen=True):
    """What came of a replay, in words. `lines` are the first that differ, as recorded and now."""

    tone: Tone
    word: str
    facts: list[Fact]
    lines: tuple[str, str] | None = None


class RunPage(_View, frozen=True):
    """One part of a run, ready to be shown.

    Attributes:
        parts: all of them, if there are several.
        is_live: it is under way, here; `is_over`: it has ended.
        turns: how many turns of a root model it has: from each it can be forked.
        can_again: it can be replayed; `gone` are contexts of it that somebody has to give for that, or for a fork.
        origin: of a replay or a fork; `compared` is what came of a replay, as long as that is known.
        is_scripted: answers of its models were written before.
        takes_cells: it is a session that is open here.
    """

    page: Page
    tenant: str
    part: Part
    parts: list[Part]
    is_live: bool
    is_over: bool
    turns: int
    model: str
    can_again: bool = False
    gone: list[GoneContext] = []
    origin: Origin | None = None
    is_scripted: bool = False
    takes_cells: bool = False
    compared: Compared | None = None


class Proof(_View, frozen=True):
    """What a browser needs to check a run's receipt by itself: the last record, and that it is in the signed tree.

    Attributes:
        record: base64 of the bytes of the record number `seq`.
        leaf: hex of its leaf hash; `proof`: hex of the hashes from there to the root.
        checkpoint: the signed note.
        key: the public key in one line, as `belljar audit checkpoint` prints it.
    """

    run: str
    seq: int
    record: str
    leaf: str
    proof: list[str]
    checkpoint: str
    key: str


# -- the rest ----------------------------------------------------------------------------------------------------------


class ContextRow(_View, frozen=True):
    """A registered context. `uses`: how many of the tenant's latest runs had it; None where nobody counted."""

    sha256: str
    names: list[str]
    kind: str
    chars: int
    bytes: int
    lines: int
    items: int
    added_ns: int
    used_ns: int
    uses: int | None = None


class Contexts(_View, frozen=True):
    """The registered contexts of a tenant, the latest first. `uses` were counted in all runs, if `is_whole`."""

    rows: list[ContextRow]
    is_whole: bool = True


class ContextPage(_View, frozen=True):
    """Characters [start, stop) of a context. `line` is the number of the first line, from 1; 0 if there are none."""

    document: ContextRow
    start: int
    stop: int
    text: str


class LayerRow(_View, frozen=True):
    """One layer of a backend's wall: whether it holds, and what to do about it if not."""

    name: str
    holds: bool
    is_required: bool
    told: str


class Table(_View, frozen=True):
    """Rows of texts; the first `texts` columns are words, the others numbers."""

    heads: list[str]
    rows: list[list[str]]
    texts: int = 1


class Section(_View, frozen=True):
    """Facts below a heading."""

    title: str
    facts: list[Fact]
    layers: list[LayerRow] = []
    table: Table | None = None
    tone: Tone = "none"
    word: str = ""


class Health(_View, frozen=True):
    """`examined_ns` is when the walls were tried last; 0 if nobody has. `is_examining`: they are being tried now."""

    sections: list[Section]
    walls: list[Section]
    examined_ns: int = 0
    is_examining: bool = False


class CheckpointRow(_View, frozen=True):
    size: int
    root: str
    origin: str
    keys: list[str]


class Checked(_View, frozen=True):
    """The last check of the whole log, if there was one. `is_running`: one is under way."""

    at_ns: int = 0
    is_ok: bool = False
    records: int = 0
    signed: int = 0
    head: str = ""
    problems: list[str] = []
    is_running: bool = False


class RecordRow(_View, frozen=True):
    seq: int
    time_ns: int
    run: str
    event: str
    hash: str
    data: str
    is_cut: bool


class RecordsPage(_View, frozen=True):
    """The newest first; `older` is the `before` of the next page, 0 at the end."""

    records: list[RecordRow]
    older: int
    head: int


class Reader(Protocol):
    """What can be read. What blocks is done beside the event loop.

    Raises: `InvalidInput` with the code `pages.not_there` for what is not there or not the visitor's; a `HostFault`
        where log, ledger or a store cannot be read.
    """

    async def runs(self, visitor: Visitor, wanted: RunFilter, *, limit: int) -> RunsPage: ...
    async def run(self, visitor: Visitor, run: str, *, part: int) -> RunPage: ...
    async def waiting(self, visitor: Visitor, wanted: RunFilter) -> tuple[list[Waiting], str]: ...
    async def waits(self, visitor: Visitor, run: str) -> Waiting | None: ...
    async def tenant_of(self, visitor: Visitor, run: str) -> Tenant: ...
    async def proof(self, visitor: Visitor, run: str) -> Proof: ...
    async def tenants(self, visitor: Visitor) -> list[str]: ...
    async def quotas(self, visitor: Visitor, tenant: str | None) -> list[Quota]: ...
    async def history(self, visitor: Visitor, tenant: str | None) -> list[Used]: ...
    async def contexts(self, visitor: Visitor, tenant: Tenant, *, uses: bool = False) -> Contexts: ...
    async def context(
        self, visitor: Visitor, tenant: Tenant, sha256: str, *, start: int, line: int, chars: int
    ) -> ContextPage: ...
    async def health(self, visitor: Visitor) -> Health: ...
    async def examine(self) -> None: ...
    async def checkpoints(self, visitor: Visitor, *, limit: int) -> list[CheckpointRow]: ...
    async def records(self, visitor: Visitor, *, before: int, limit: int) -> RecordsPage: ...
    def checked(self) -> Checked: ...
    async def verify(self) -> None: ...


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the playground orders: a `question`, or `code` to run.

    Attributes:
        text: a context that was pasted; empty if there is none.
        contexts: registered ones, by their digests.
        stays: the box stays open after the code, for more cells.
    """

    tenant: Tenant
    question: str = ""
    code: str = ""
    stays: bool = False
    text: str = ""
    contexts: Sequence[str] = ()
    model: str = ""
    policy: str = "standard"
    language: str = ""


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """A run is to be done again: replayed; or forked from a turn on, by a `model`.

    Attributes:
        contexts: by name, registered ones in the place of those that are gone, by their digests.
        texts: likewise, texts that were pasted.
    """

    run: str
    from_turn: int | None = None
    model: str = ""
    contexts: Mapping[str, str] = {}
    texts: Mapping[str, str] = {}


class Login(msgspec.Struct, frozen=True):
    """A session that began: the value of its cookie, and how long a browser is to keep that, in seconds."""

    cookie: str
    for_s: int


class Actions(Protocol):
    """What a form orders. Each raises a `Refusal` that says why not."""

    async def login(self, secret: str, address: str) -> Login:
        """Begin a session of whoever has this key; `address` is the client's, for who tries too many."""
        ...

    def stranger(self, address: str) -> None:
        """Nobody known sent what no page of ours sends. Raises `AccessThrottled` where that happens too often."""
        ...

    async def record(self, visitor: Visitor | None, route: str, status: int, code: str | None, address: str) -> None:
        """Log that a form was answered so, or a page refused, before that answer leaves.

        Args:
            visitor: None where that is nobody known.
            route: `POST /runs/{run}/cancel`.
            code: of the refusal or fault.
            address: where the form came from.
        """
        ...

    async def cancel(self, visitor: Visitor, run: str) -> None: ...

    async def ask(self, visitor: Visitor, asked: Asked) -> str:
        """Order a run; its id."""
        ...

    async def cell(self, visitor: Visitor, run: str, code: str) -> None:
        """Begin a cell of a session that is open."""
        ...

    async def again(self, visitor: Visitor, again: Again) -> str:
        """Order a replay or a fork; its id."""
        ...

    async def set_limits(
        self, visitor: Visitor, tenant: Tenant, period: str, bounds: dict[str, int | None]
    ) -> None: ...
