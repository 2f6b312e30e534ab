"""A policy written out: as its one canonical text, as a digest of that, and the format itself as JSON Schema.

The canonical text has every field, in the order of the format, with no comment and no `extends`: the rules of a run,
not how somebody wrote them. Two files that amount to the same rules have the same digest.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from belljar.policy.kinds import Kind
from belljar.policy.model import Policy
from belljar.policy.parse import fields_of, is_optional

__all__ = ["digest", "dump", "schema"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@functools.lru_cache(maxsize=64)  # each run says what its policy is
def dump(policy: Policy) -> str:
    """The canonical TOML. For any policy that came from `parse`, parsing it gives an equal policy.

    Raises:
        InvalidInput: the policy was built by hand and a value cannot be written (a negative size).
    """
    return "\n".join(_table_lines(policy, "")) + "\n"


@functools.lru_cache(maxsize=64)
def digest(policy: Policy) -> str:
    """SHA-256 of the canonical text, 64 hexadecimal digits."""
    return hashlib.sha256(dump(policy).encode()).hexdigest()


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file format, for editors and checks in other languages.

    It covers structure, spelling and the ranges of plain counts. It cannot express ranges of quantities with units,
    limits that must fit into each other, or "only tighter": `parse` has the last word.
    """
    root = _table_schema(Policy, complete=True)
    extending = _table_schema(Policy, complete=False)
    extending["properties"]["extends"] = {"type": "string", "minLength": 1}
    extending["required"] = ["schema", "name", "extends"]
    return {"$schema": _DIALECT, "title": "Belljar policy", "oneOf": [root, extending]}


def _table_lines(table: msgspec.Struct, name: str) -> Iterator[str]:
    fields = fields_of(type(table)).items()
    kinds = [(key, attribute, kind) for key, (attribute, kind) in fields if isinstance(kind, Kind)]
    if name and kinds:
        yield f"\n[{name}]"
    for key, attribute, kind in kinds:
        yield f"{key} = {kind.write(getattr(table, attribute))}"
    for key, (attribute, sub) in fields:
        if not isinstance(sub, Kind):
            yield from _table_lines(getattr(table, attribute), f"{name}.{key}" if name else key)


def _table_schema(table: type[msgspec.Struct], *, complete: bool) -> dict[str, Any]:
    fields = fields_of(table)
    properties = {
        key: kind.schema() if isinstance(kind, Kind) else _table_schema(kind, complete=complete)
        for key, (_, kind) in fields.items()
    }
    wanted = [key for key, (_, kind) in fields.items() if not is_optional(kind)]
    required = {"required": wanted} if complete else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **required}
