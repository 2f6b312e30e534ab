"""Models: what they are asked, what they answer and what that costs.

`AnthropicModel` is in `belljar.models.anthropic`, and not imported from here: its SDK takes a second to load.
"""

from __future__ import annotations

from belljar.models.base import (
    TOKENS_MAX,
    Counted,
    Message,
    Model,
    ModelReply,
    ModelRequest,
    Usage,
    input_tokens_bound,
    texts_digest,
)
from belljar.models.prices import FREE, Prices, Rates
from belljar.models.resolve import Registry
from belljar.models.scripted import NullModel, ScriptedModel
from belljar.models.tools import TOOL_PREFIX, HostTool, Tool, ToolError, host_tools

__all__ = [
    "FREE",
    "TOKENS_MAX",
    "TOOL_PREFIX",
    "Counted",
    "HostTool",
    "Message",
    "Model",
    "ModelReply",
    "ModelRequest",
    "NullModel",
    "Prices",
    "Rates",
    "Registry",
    "ScriptedModel",
    "Tool",
    "ToolError",
    "Usage",
    "host_tools",
    "input_tokens_bound",
    "texts_digest",
]
