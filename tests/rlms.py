"""The reference RLM library's types, without the library: that would load a client of each provider. `make rlms`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["iteration_of", "types_of_rlms"]

_TYPES = Path(sys.prefix, "rlms", "rlm", "core", "types.py")


def types_of_rlms() -> ModuleType | None:
    """None where it is not installed."""
    if not _TYPES.is_file():
        return None
    spec = importlib.util.spec_from_file_location("rlms_types", _TYPES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def iteration_of(types: ModuleType, fields: dict[str, Any]) -> Any:
    """An iteration by the library's own types; each of them refuses a key that is missing or too many."""
    blocks = []
    for block in fields["code_blocks"]:
        result = dict(block["result"])
        result["rlm_calls"] = [types.RLMChatCompletion.from_dict(call) for call in result["rlm_calls"]]
        blocks.append(types.CodeBlock(block["code"], types.REPLResult(**result)))
    return types.RLMIteration(**{**fields, "code_blocks": blocks})
