"""Whoever gives a bad tenant name is told so in one line, whichever public callable is asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import belljar
from belljar.audit.events import RunStarted
from belljar.errors import InvalidInput

BAD = ("", "../../etc", "a//b", "/a", "A", "a b", "a\0", "a" * 64, "\u202ea", "\ud800", None, 7, b"acme", ["acme"])
# What else is asked for; none of it is looked at before the tenant is.
WORDS = {"question": "x", "code": "x", "source": "x", "reference": "x", "model": "no-such-model", "period": "day"}
OF_ORDERS = {"by": "x", "policy": "standard", "backend": None, "language": None, "models": (), "references": ()}
NEEDED = {
    **WORDS,
    **OF_ORDERS,
    "started": RunStarted(tenant="x", contexts=[]),
    "refusal": InvalidInput("x"),
    "sha256": "0" * 64,
}


def takes_a_tenant(found: object) -> bool:
    return inspect.isfunction(found) and "tenant" in inspect.signature(found).parameters


def public_callables() -> Iterator[tuple[type[Any] | None, str]]:
    """All that are public and take a tenant: functions, and methods by their class."""
    for name in belljar.__all__:
        found = getattr(belljar, name)
        if takes_a_tenant(found):
            yield None, name
        elif inspect.isclass(found):
            methods = (method for method, value in inspect.getmembers(found, takes_a_tenant) if method[0] != "_")
            yield from ((found, method) for method in methods)


PUBLIC = list(public_callables())


def call(function: Callable[..., Any], tenant: Any) -> Any:
    parameters = inspect.signature(function).parameters.values()
    asked = [one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    needed = {name: NEEDED[name] for name in asked if name != "tenant"}
    return function(**needed, tenant=tenant)


async def ask(owner: type[Any], name: str, tenant: Any, state: Path) -> None:
    async with owner(state=state) as opened:
        made = call(getattr(opened, name), tenant)
        if isinstance(made, contextlib.AbstractAsyncContextManager):
            await made.__aenter__()
        elif inspect.isawaitable(made):
            await made
        elif inspect.isasyncgen(made):
            await anext(made)


def enter(function: Callable[..., Any], tenant: Any, state: Path) -> None:
    made = call(functools.partial(function, state=state), tenant)
    made.__enter__()


def use(owner: type[Any] | None, name: str, tenant: Any, state: Path) -> None:
    if owner is belljar.SyncQuotas:
        call(getattr(belljar.SyncQuotas(state=state), name), tenant)
    elif owner is not None:
        asyncio.run(ask(owner, name, tenant, state))
    else:
        enter(getattr(belljar, name), tenant, state)


def takes_none(owner: type[Any] | None, name: str) -> bool:
    """Whether no tenant means all of them."""
    return inspect.signature(getattr(owner or belljar, name)).parameters["tenant"].default is None


def refusal(owner: type[Any] | None, name: str, tenant: Any, state: Path) -> str:
    with pytest.raises(belljar.InvalidInput) as refused:
        use(owner, name, tenant, state)
    return str(refused.value)


def test_there_are_such_callables() -> None:
    found = {name if owner is None else f"{owner.__name__}.{name}" for owner, name in PUBLIC}
    assert {"run", "execute", "session", "Runtime.run", "Runtime.session", "Runtime.add_context"} <= found


@pytest.mark.parametrize(("owner", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_every_public_callable_refuses_a_bad_tenant_name(owner: type[Any] | None, name: str, tmp_path: Path) -> None:
    for tenant in BAD:
        if tenant is None and takes_none(owner, name):
            continue
        message = refusal(owner, name, tenant, tmp_path)
        assert message.isprintable()
        if isinstance(tenant, str):
            assert message.startswith(f"{tenant[:80]!a} is not a valid tenant name; use ")
        else:
            assert message.startswith("tenant must be ")
    assert not (tmp_path / "contexts").exists()
    assert not (tmp_path / "images").exists()
