"""Who asks a service for something, and what they may do.

`roles` has the table of what each role may do. `apikeys` and `oidc` know two kinds of proof, `sessions` begins with one
and lasts longer, `throttle` bounds what guessing costs us, and `authenticator` is all of that at once.
"""

from belljar.access.apikeys import BELIEVED_S, ApiKeys, KeyInfo
from belljar.access.authenticator import Authenticator
from belljar.access.oidc import Oidc, OidcSettings
from belljar.access.roles import (
    ACTIONS,
    NOBODY,
    Action,
    Principal,
    demand,
    grants,
    permits,
)
from belljar.access.sessions import Session, Sessions
from belljar.access.settings import AccessSettings
from belljar.access.throttle import Throttle, place_of
from belljar.identity import ROLES, Role

__all__ = [
    "ACTIONS",
    "BELIEVED_S",
    "NOBODY",
    "ROLES",
    "AccessSettings",
    "Action",
    "ApiKeys",
    "Authenticator",
    "KeyInfo",
    "Oidc",
    "OidcSettings",
    "Principal",
    "Role",
    "Session",
    "Sessions",
    "Throttle",
    "demand",
    "grants",
    "permits",
    "place_of",
]
