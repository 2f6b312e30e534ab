"""Models: what they are asked, what they answer and what that costs.

`AnthropicModel` is in `belljar.models.anthropic`, and not imported from here: its SDK takes a second to load.
"""

from __future__ import annotations

from belljar.models.base import Counted, Message, Model, ModelReply, ModelRequest, Usage, input_tokens_bound
from belljar.models.prices import FREE, Prices, Rates
from belljar.models.resolve import Registry
from belljar.models.scripted import NullModel, ScriptedModel

__all__ = [
    "FREE",
    "Counted",
    "Message",
    "Model",
    "ModelReply",
    "ModelRequest",
    "NullModel",
    "Prices",
    "Rates",
    "Registry",
    "ScriptedModel",
    "Usage",
    "input_tokens_bound",
]
