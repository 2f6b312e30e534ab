"""Who asks a service for something, and what they may do.

`roles` has the table of what each role may do.
"""

from belljar.access.roles import (
    ACTIONS,
    NOBODY,
    Action,
    Principal,
    check_scope,
    demand,
    grants,
    permits,
)
from belljar.identity import ROLES, Role

__all__ = [
    "ACTIONS",
    "NOBODY",
    "ROLES",
    "Action",
    "Principal",
    "Role",
    "check_scope",
    "demand",
    "grants",
    "permits",
]
