"""What each role may do, to whom: every role, every action, and each way that two tenants can be related."""

from __future__ import annotations

import itertools

import pytest

from belljar.access import ACTIONS, ROLES, Action, Principal, Role, demand, grants, permits
from belljar.access.roles import check_scope
from belljar.errors import AccessForbidden, InvalidInput
from belljar.identity import Tenant

ACME = Tenant("acme/research")
# How the tenant of what is asked for is related to `acme/research`, and whether it is within it.
RELATIONS = {
    "own": (ACME, True),
    "child": (Tenant("acme/research/alice"), True),
    "grandchild": (Tenant("acme/research/alice/x"), True),
    "parent": (Tenant("acme"), False),
    "sibling": (Tenant("acme/sales"), False),
    "stranger": (Tenant("other"), False),
    "same beginning": (Tenant("acme/research2"), False),
    "same end": (Tenant("other/acme/research"), False),
    "the host": (None, False),
}
# Written out, and not read from the table that it checks: each line is a promise.
ALLOWED: dict[Role, str] = {
    "admin": "run run.read run.cancel context.read context.write quota.read quota.set audit.read audit.verify "
    "audit.sign key.read key.write hook.read hook.write policy.read host.read metrics.read",
    "operator": "run.read run.cancel quota.read quota.set audit.verify audit.sign key.read key.write hook.read "
    "policy.read host.read metrics.read",
    "tenant-admin": "run run.read run.cancel context.read context.write quota.read quota.set audit.read audit.verify "
    "audit.sign key.read key.write hook.read hook.write policy.read host.read metrics.read",
    "runner": "run run.read run.cancel context.read context.write quota.read policy.read",
    "auditor": "run.read context.read quota.read audit.read audit.verify key.read hook.read policy.read host.read "
    "metrics.read",
}
CHANGES = {"run", "run.cancel", "context.write", "quota.set", "audit.sign", "key.write", "hook.write"}
# The roles of the keys that each may give and take.
GIVEN: dict[Role, set[Role]] = {
    "admin": {"admin", "operator", "tenant-admin", "runner", "auditor"},
    "operator": {"operator", "tenant-admin", "runner", "auditor"},
    "tenant-admin": {"tenant-admin", "runner", "auditor"},
    "runner": set(),
    "auditor": set(),
}


def somebody(role: Role, tenant: Tenant | None) -> Principal:
    return Principal("key:0", tenant, role)


@pytest.mark.parametrize(("role", "action"), [*itertools.product(ROLES, ACTIONS)])
def test_a_role_acts_within_its_subtree_and_nowhere_else(role: Role, action: Action) -> None:
    is_allowed = action in ALLOWED[role].split()
    for relation, (tenant, is_within) in RELATIONS.items():
        who = somebody(role, ACME)
        own_limit = (role, action, relation) == ("tenant-admin", "quota.set", "own")  # nobody sets their own
        assert permits(who, action, tenant) == (is_allowed and is_within and not own_limit), relation


@pytest.mark.parametrize(("role", "action"), [*itertools.product(ROLES, ACTIONS)])
def test_whoever_has_the_whole_host_acts_on_all_of_it(role: Role, action: Action) -> None:
    for tenant, _ in RELATIONS.values():
        assert permits(somebody(role, None), action, tenant) == (action in ALLOWED[role].split())


def test_an_auditor_changes_nothing() -> None:
    assert not CHANGES & set(ALLOWED["auditor"].split())
    assert {action for action in ACTIONS if action not in CHANGES} == set(ALLOWED["auditor"].split())


@pytest.mark.parametrize(("role", "given"), [*itertools.product(ROLES, ROLES)])
def test_nobody_gives_more_than_they_have(role: Role, given: Role) -> None:
    for relation, (tenant, is_within) in RELATIONS.items():
        assert grants(somebody(role, ACME), given, tenant) == (given in GIVEN[role] and is_within), relation
        assert grants(somebody(role, None), given, tenant) == (given in GIVEN[role]), relation


def test_what_a_key_may_be_given_for_it_may_do_no_more_than_its_giver_but_for_an_operators() -> None:
    for role, others in GIVEN.items():
        for other in others:
            more = set(ALLOWED[other].split()) - set(ALLOWED[role].split())
            assert not more or role == "operator", (role, other)


def test_a_refusal_says_who_may_not_do_what() -> None:
    demand(somebody("runner", ACME), "run", ACME)
    with pytest.raises(AccessForbidden, match=r"runner of acme/research does not allow quota\.set of acme") as caught:
        demand(somebody("runner", ACME), "quota.set", Tenant("acme"))
    assert caught.value.code == "access.forbidden"
    with pytest.raises(AccessForbidden, match="of the host"):
        demand(somebody("auditor", ACME), "host.read", None)


@pytest.mark.parametrize("role", ROLES)
def test_roles_of_the_host_have_no_tenant(role: Role) -> None:
    check_scope(role, None)
    if role in ("admin", "operator"):
        with pytest.raises(InvalidInput, match="a role of the whole host") as caught:
            check_scope(role, ACME)
        assert caught.value.code == "access.scope"
    else:
        check_scope(role, ACME)
