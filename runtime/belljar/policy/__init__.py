"""What may pass between the three levels of trust, as one frozen value.

A policy is a TOML file; unknown is wrong, silence is not consent, and `extends` may only tighten. `parse`, `dump`,
`digest` and `schema` are pure; `load` reads files. Reading order: `model`, `kinds`, `expressions`, `parse`,
`canonical`, `locate`, `files`, `pin`.
"""

from __future__ import annotations

from belljar.policy.canonical import digest, dump, schema
from belljar.policy.expressions import Expression, any_of, any_text, forms_of
from belljar.policy.files import load, named_apart, presets
from belljar.policy.kinds import Unit
from belljar.policy.model import (
    LAYERS,
    PERIODS,
    SCHEMA_VERSION,
    Audit,
    Box,
    ContentKind,
    Context,
    Layer,
    Limits,
    Models,
    PeriodName,
    Policy,
    Quota,
    Quotas,
    RunQuota,
    Spending,
    Wire,
)
from belljar.policy.parse import parse, unit_of
from belljar.policy.pin import check_pin

__all__ = [
    "LAYERS",
    "PERIODS",
    "SCHEMA_VERSION",
    "Audit",
    "Box",
    "ContentKind",
    "Context",
    "Expression",
    "Layer",
    "Limits",
    "Models",
    "PeriodName",
    "Policy",
    "Quota",
    "Quotas",
    "RunQuota",
    "Spending",
    "Unit",
    "Wire",
    "any_of",
    "any_text",
    "check_pin",
    "digest",
    "dump",
    "forms_of",
    "load",
    "named_apart",
    "parse",
    "presets",
    "schema",
    "unit_of",
]
