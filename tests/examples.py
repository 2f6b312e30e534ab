"""With how many examples a property is tried: all of them in `make test`, a quarter in `make quick`."""

from __future__ import annotations

import hypothesis

__all__ = ["examples"]

_WHOLE = 100


def examples(count: int) -> int:
    """So many, or the share of them that the profile in use has of the usual number."""
    return max(1, count * hypothesis.settings().max_examples // _WHOLE)
