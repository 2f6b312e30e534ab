"""JSON Schemas of our types, for readers of other languages.

`msgspec` takes a pattern as Python has it, and writes it as it is. JSON Schema has the expressions of ECMA-262, where
`\\Z`, the end of a text, is a letter or an error, and `$`, which in Python also comes before a last line end, is just
that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

__all__ = ["components"]

_END: Final = r"\Z"


def components(kinds: Iterable[Any], ref_template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """As `msgspec.json.schema_components`, with patterns that end in `$`."""
    found, parts = msgspec.json.schema_components(kinds, ref_template=ref_template)
    return [_readable(one) for one in found], _readable(parts)


def _readable(value: Any) -> Any:
    if isinstance(value, list):
        return [_readable(one) for one in value]
    if not isinstance(value, dict):
        return value
    changed = {name: _readable(one) for name, one in value.items()}
    if isinstance(pattern := changed.get("pattern"), str) and pattern.endswith(_END):
        changed["pattern"] = pattern.removesuffix(_END) + "$"
    return changed
