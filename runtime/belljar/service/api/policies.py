"""`/v1/policies`: what runs may be allowed, to read and to check before it is used."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from belljar.errors import InvalidInput
from belljar.policy import Policy, digest, dump, load, parse, presets
from belljar.service.problems import Unfit
from belljar.service.routes import Asking, Nothing, Route, own

__all__ = ["ROUTES", "PolicyChecked", "PolicyList", "PolicyShown", "PolicySummary", "PolicyText"]

_TEXT_CHARS_MAX = 256 * 1024


class PolicySummary(msgspec.Struct, frozen=True):
    """A policy by its name."""

    name: str
    digest: str
    description: str


class PolicyList(msgspec.Struct, frozen=True):
    """The policies that runs may name."""

    policies: list[PolicySummary]


class PolicyShown(msgspec.Struct, frozen=True):
    """A policy with every `extends` applied: its fields, and the same as TOML."""

    name: str
    digest: str
    policy: dict[str, Any]
    toml: str


class PolicyText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy's file; what it `extends` is one of the list."""

    toml: Annotated[str, msgspec.Meta(min_length=1, max_length=_TEXT_CHARS_MAX)]


class PolicyChecked(msgspec.Struct, frozen=True):
    """A policy that is valid."""

    name: str
    digest: str


def _named(asking: Asking[Any, Any], name: str) -> Policy:
    """A preset, or one that the desk knows: never a file."""
    if (known := asking.desk.policies.get(name)) is not None:
        return known
    if name not in presets():
        raise InvalidInput(f"there is no policy {name[:80]!a}: GET /v1/policies lists them", code="policy.not_found")
    return load(name)


def _all(asking: Asking[Any, Any]) -> dict[str, Policy]:
    return {name: _named(asking, name) for name in sorted({*presets(), *asking.desk.policies})}


async def _ls(asking: Asking[Nothing, None]) -> PolicyList:
    found = await asyncio.to_thread(_all, asking)
    return PolicyList([PolicySummary(name, digest(one), one.description) for name, one in found.items()])


async def _show(asking: Asking[Nothing, None]) -> PolicyShown:
    name = asking.params["policy"]
    found = await asyncio.to_thread(_named, asking, name)
    return PolicyShown(name, digest(found), msgspec.to_builtins(found), dump(found))


async def _check(asking: Asking[Nothing, PolicyText]) -> PolicyChecked:
    def work() -> Policy:
        try:
            return parse(
                asking.body.toml,
                source="toml",
                base=lambda name: _named(asking, name),
                reserved={*presets(), *asking.desk.policies},
            )
        except InvalidInput as error:  # of what it extends
            raise Unfit(str(error), at="$.toml", code=error.code) from error

    found = await asyncio.to_thread(work)
    return PolicyChecked(found.name, digest(found))


ROUTES = (
    Route(
        method="GET",
        path="/v1/policies",
        summary="List the policies that runs may name",
        action="policy.read",
        owner=own,
        handler=_ls,
        answer=PolicyList,
    ),
    Route(
        method="GET",
        path="/v1/policies/{policy}",
        summary="Show a policy",
        action="policy.read",
        owner=own,
        handler=_show,
        answer=PolicyShown,
    ),
    Route(
        method="POST",
        path="/v1/policies/check",
        summary="Check the text of a policy",
        action="policy.read",
        owner=own,
        handler=_check,
        body=PolicyText,
        answer=PolicyChecked,
    ),
)
