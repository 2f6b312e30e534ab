"""Who a run belongs to and which run it is: names that are checked once, where they enter.

`Tenant` and `RunId` are texts with types of their own: a value of the type is a valid name, because there is no other
way to make one, and the type checker keeps it apart from unchecked text. They compare, hash, sort and are written (to
the log, SQLite, a label) as plain text; a slice of one is a plain `str`. `msgspec` does not write subclasses of `str`:
give it `str(name)`.

A tenant is a path, `acme/research/alice`, and each level of it is a tenant. A run's id is a path too, in which each run
started the next::

    20261128T120000-5f0c1d9a7b3e                   a root: when it began (UTC), and 48 random bits
    20261128T120000-5f0c1d9a7b3e.00002            the second run that this one started
    20261128T120000-5f0c1d9a7b3e.00002.00001      and the first that that one started

So an id gives its parent and depth, and sorted ids list the tree in the order in which it grew. All that is below a
run or a tenant lies between two texts, with nothing else, so that an index finds it: `runs_below`, `tenants_below`.

A run may also be part of what its caller does: a `TraceParent` names the span of the caller's that it is below.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime
from itertools import accumulate
from typing import Final, Literal, NamedTuple, Self, TypeAlias, get_args

from belljar.errors import InvalidInput

__all__ = [
    "BACKENDS",
    "DEFAULT_TENANT",
    "LANGUAGES",
    "OTHER_BACKEND",
    "ROLES",
    "BackendName",
    "Language",
    "Role",
    "RunId",
    "Tenant",
    "TraceParent",
    "is_within",
    "runs_below",
    "tenants_below",
]

BackendName: TypeAlias = Literal["jail", "docker", "gvisor"]
Language: TypeAlias = Literal["restricted", "python"]
# What somebody may do who asks a service; `access.roles` says what that is.
Role: TypeAlias = Literal["admin", "operator", "tenant-admin", "runner", "auditor"]
BACKENDS: Final[tuple[BackendName, ...]] = get_args(BackendName)
# A backend that a program registers: its owner, a dot, its name.
OTHER_BACKEND: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}\.[a-z][a-z0-9_-]{0,31}")
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
ROLES: Final[tuple[Role, ...]] = get_args(Role)

_LEVELS_MAX: Final = 8
_LEVEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# No longer than the log, the ledger and a container's name accept.
_RUN_CHARS_MAX: Final = 128
# Sixteen levels of children fit, as many as a policy can allow (`models.depth`).
_CHILD_DIGITS: Final = 5
_RUN: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]*(\.[0-9]{{{_CHILD_DIGITS}}})*")
_SHOWN_CHARS_MAX: Final = 80
# Version 00 of W3C Trace Context; ids of zeros alone are none.
_TRACE_PARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


class Tenant(str):
    """A tenant's path: 1 to 8 levels joined by '/', each at most 63 characters of a-z 0-9 . _ -

    Raises:
        InvalidInput: `tenant.invalid`.
    """

    __slots__ = ()

    def __new__(cls, path: str) -> Self:
        levels = path.split("/", _LEVELS_MAX)
        if len(levels) > _LEVELS_MAX or not all(_LEVEL.fullmatch(level) for level in levels):
            raise InvalidInput(
                f"{path[:_SHOWN_CHARS_MAX]!a} is not a valid tenant name; use 1 to {_LEVELS_MAX} names joined by '/', "
                "each at most 63 characters of a-z 0-9 . _ - and beginning with a letter or digit",
                code="tenant.invalid",
            )
        return super().__new__(cls, path)

    @property
    def parent(self) -> Tenant | None:
        """The level above; None for the first."""
        above = self.rpartition("/")[0]
        return str.__new__(Tenant, above) if above else None

    @property
    def levels(self) -> tuple[Tenant, ...]:
        """`acme/research` -> `("acme", "acme/research")`, the first level first."""
        return _levels(self)


@functools.lru_cache(maxsize=1024)  # each call asks for those of its run
def _levels(tenant: Tenant) -> tuple[Tenant, ...]:
    return tuple(str.__new__(Tenant, level) for level in accumulate(tenant.split("/"), "{}/{}".format))


DEFAULT_TENANT: Final = Tenant("default")


class RunId(str):
    """A run's id: at most 128 characters of A-Z a-z 0-9 _ - then `.` and five digits for each level below.

    Raises:
        InvalidInput: `run.invalid`.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if len(text) > _RUN_CHARS_MAX or not _RUN.fullmatch(text):
            raise InvalidInput(
                f"{text[:_SHOWN_CHARS_MAX]!a} is not a valid run id; use at most {_RUN_CHARS_MAX} letters, digits, '_' "
                f"and '-', then '.' and {_CHILD_DIGITS} digits for each level of child runs",
                code="run.invalid",
            )
        return super().__new__(cls, text)

    @classmethod
    def root(cls, began: datetime, word: str) -> Self:
        """The id of a run without a parent. `word`, random hex, tells it apart from others of the same second."""
        return cls(f"{began.astimezone(UTC):%Y%m%dT%H%M%S}-{word}")

    def child(self, number: int) -> RunId:
        """The id of the run's child number `number`, counted from 1.

        Raises:
            InvalidInput: `run.invalid`: the tree is too deep, or the parent has too many children.
        """
        return RunId(f"{self}.{number:0{_CHILD_DIGITS}d}")

    @property
    def parent(self) -> RunId | None:
        """The run that started it; None for a root."""
        above = self.rpartition(".")[0]
        return str.__new__(RunId, above) if above else None

    @property
    def depth(self) -> int:
        """How many runs are above it: 0 for a root."""
        return self.count(".")


def is_within(tenant: str, above: str | None) -> bool:
    """Whether a tenant is `above` or below it; every tenant is below the whole host, which is None."""
    return above is None or tenant == above or tenant.startswith(f"{above}/")


def tenants_below(tenant: str) -> tuple[str, str]:
    """Between these two, in the order of characters, are the tenants below `tenant`: '0' comes right behind '/'."""
    return f"{tenant}/", f"{tenant}0"


def runs_below(run: str) -> tuple[str, str]:
    """Between these two, in the order of characters, are the ids of the runs below `run`: '/' comes behind '.'."""
    return f"{run}.", f"{run}/"


class TraceParent(NamedTuple):
    """A span of somebody else's, of 16 lower-case hexadecimal digits, and the trace that it is in, of 32."""

    trace: str
    span: str

    @classmethod
    def read(cls, *texts: str) -> Self | None:
        """What a `traceparent` of W3C Trace Context names; None for whatever is none, to the letter, or for several."""
        match = _TRACE_PARENT.fullmatch(texts[0]) if len(texts) == 1 else None
        return None if match is None else cls(match[1], match[2])
