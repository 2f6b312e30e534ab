"""What a host's configuration says of access."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from belljar.access.oidc import OidcSettings

__all__ = ["AccessSettings"]


class AccessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[access]` of the configuration.

    Attributes:
        key_age_max: how long an API key may live; None is for ever.
        oidc: whose tokens are taken besides; None is nobody's.
    """

    key_age_max: timedelta | None = None
    oidc: OidcSettings | None = None
