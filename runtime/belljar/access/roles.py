"""What each role may do, and to whom: one table and one rule, without any state.

A *principal* is somebody who proved who they are. Their role says what they may do, and their tenant to whom: to it and
to every tenant below it. A parent acts on its children; nobody acts on a parent or a sibling, and `acme` is no parent
of `acme2`.

The tenant None is the whole host: above all tenants. Whoever has it acts on each of them, and also on what belongs to
none (health, metrics, the log as a whole). `admin` and `operator` are roles of the host and always have it; any other
role has the tenant that its key or token names, or the whole host where that says so. So a platform that serves many
tenants needs no `admin` key to order their runs: a `runner` of the whole host does.

    admin          everything
    operator       runs the host: health, quotas, all runs (read, cancel), keys of every role but `admin`; orders none
    tenant-admin   everything in its own subtree; limits only of the tenants below it, as nobody sets their own
    runner         orders runs and manages contexts, reads both, sees its quotas
    auditor        reads everything, changes nothing

What a role may do in its subtree it may do nowhere else, so a route asks one question: `permits`. Giving a key away is
a second one, `grants`: nobody gives away more than they have, or outside their subtree. Only an `operator`, who sets
tenants up, gives keys that order runs without ordering any; the log has each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from belljar.errors import AccessForbidden, InvalidInput
from belljar.identity import Role, Tenant

__all__ = [
    "ACTIONS",
    "GRANTS",
    "HOST_ROLES",
    "MAY",
    "NOBODY",
    "Action",
    "Principal",
    "check_scope",
    "demand",
    "grants",
    "permits",
]

Action: TypeAlias = Literal[
    "run",
    "run.read",
    "run.cancel",
    "context.read",
    "context.write",
    "quota.read",
    "quota.set",
    "audit.read",
    "audit.verify",
    "audit.sign",
    "key.read",
    "key.write",
    "hook.read",
    "hook.write",
    "policy.read",
    "host.read",
    "metrics.read",
]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

# What the log calls whoever did not prove to be anybody.
NOBODY: Final = "nobody"


class Principal(msgspec.Struct, frozen=True):
    """Somebody who proved who they are.

    Attributes:
        name: what the log calls them: `key:ID` of an API key, `oidc:SUBJECT` of a token.
        tenant: they act on it and on all below it; None is the whole host.
        role: what they may do there.
    """

    name: str
    tenant: Tenant | None
    role: Role


_READ: Final[frozenset[Action]] = frozenset(action for action in ACTIONS if action.endswith(".read")) | {"audit.verify"}
_RUNNING: Final[frozenset[Action]] = frozenset(
    {"run", "run.read", "run.cancel", "context.read", "context.write", "quota.read", "policy.read"}
)
# The actions of each role.
MAY: Final[Mapping[Role, frozenset[Action]]] = {
    "admin": frozenset(ACTIONS),
    "operator": frozenset(
        {
            *("run.read", "run.cancel", "quota.read", "quota.set", "audit.verify", "audit.sign"),
            *("key.read", "key.write", "hook.read", "policy.read", "host.read", "metrics.read"),
        }
    ),
    "tenant-admin": frozenset(ACTIONS),
    "runner": _RUNNING,
    "auditor": _READ,
}
# The roles of the keys that each may make, replace and revoke.
GRANTS: Final[Mapping[Role, frozenset[Role]]] = {
    "admin": frozenset({"admin", "operator", "tenant-admin", "runner", "auditor"}),
    "operator": frozenset({"operator", "tenant-admin", "runner", "auditor"}),
    "tenant-admin": frozenset({"tenant-admin", "runner", "auditor"}),
    "runner": frozenset(),
    "auditor": frozenset(),
}
# They are nothing within a tenant.
HOST_ROLES: Final[frozenset[Role]] = frozenset({"admin", "operator"})


def permits(principal: Principal, action: Action, tenant: Tenant | None) -> bool:
    """Whether `principal` may do this to `tenant`.

    Args:
        tenant: whose it is that is read or changed. None for what belongs to no tenant, or tells of all of them; for
            what everybody has who may do it at all, such as the list of policies, the principal's own tenant.
    """
    if principal.role == "tenant-admin" and action == "quota.set" and tenant is not None and tenant == principal.tenant:
        return False
    return action in MAY[principal.role] and _within(principal.tenant, tenant)


def demand(principal: Principal, action: Action, tenant: Tenant | None) -> None:
    """Refuse what `permits` does not allow.

    Raises:
        AccessForbidden: `access.forbidden`.
    """
    if not permits(principal, action, tenant):
        raise AccessForbidden(
            f"the role {principal.role} of {principal.tenant or 'the host'} does not allow {action} of "
            f"{tenant or 'the host'}: ask with a key that allows it",
            code="access.forbidden",
        )


def grants(principal: Principal, role: Role, tenant: Tenant | None) -> bool:
    """Whether `principal` may make, replace and revoke keys of `role` for `tenant`."""
    return role in GRANTS[principal.role] and permits(principal, "key.write", tenant)


def check_scope(role: Role, tenant: Tenant | None) -> None:
    """Refuse a role that is nothing within a tenant.

    Raises:
        InvalidInput: `access.scope`.
    """
    if role in HOST_ROLES and tenant is not None:
        raise InvalidInput(
            f"{role} is a role of the whole host, not of the tenant {tenant}: leave the tenant out, or choose another "
            "role, such as tenant-admin",
            code="access.scope",
        )


def _within(above: Tenant | None, tenant: Tenant | None) -> bool:
    return above is None or (tenant is not None and above in tenant.levels)
