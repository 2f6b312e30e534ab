"""From a model's name to a model."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from belljar.errors import InvalidInput
from belljar.models.base import Model
from belljar.models.scripted import ScriptedModel

__all__ = ["Registry"]

_POSSIBLE: Final = "a model is claude-NAME, scripted:FILE, or an object with name, scripted, complete and aclose"
_SHOWN_MAX: Final = 80
# How the provider's model names begin, and where its client is: that takes a second to load.
_PROVIDERS: Final = "claude-"
_CLIENT: Final = "belljar.models.anthropic"


class Registry:
    """Makes models by name, once each, and closes those that it made. It keeps nothing of objects that a run brings.

    A name is trusted input: `scripted:FILE` opens a file. A name that a guest chose is checked against the policy's
    list of models before it comes here.

    Args:
        environ: where `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL` are looked up. The process environment is not read.
        models: models that are found by their own name. Their maker closes them.
    """

    def __init__(self, environ: Mapping[str, str], *, models: Iterable[Model] = ()) -> None:
        self._api_key = environ.get("ANTHROPIC_API_KEY", "")
        self._base_url = environ.get("ANTHROPIC_BASE_URL", "")
        self._given: dict[str, Model] = {}
        self._scripts: dict[Path, ScriptedModel] = {}
        self._made: dict[str, Model] = {}
        for model in models:
            self._give(model)

    async def load(self, model: str | Model | None) -> None:
        """Load what `resolve` needs for this model, in a thread: the provider's client takes a second."""
        if isinstance(model, str) and model.startswith(_PROVIDERS) and self._known(model) is None:
            await asyncio.to_thread(importlib.import_module, _CLIENT)

    def resolve(self, model: str | Model | None) -> Model:
        """The model of a name; an object stands for itself.

        Each `scripted:FILE` is played from its first turn, so resolve it once for each run.

        Raises:
            InvalidInput: no model has that name, its file is wrong, a key is missing, or it is not a model.
        """
        if not isinstance(model, str):
            return _checked(model)
        if (known := self._known(model)) is not None:
            return known
        kind, _, rest = model.partition(":")
        if kind == "scripted" and rest:
            return self._scripted(Path(rest))
        if kind == "replay":
            raise InvalidInput(
                "replaying a run as a model is not available yet: use scripted:FILE", code="model.replay"
            )
        if model.startswith(_PROVIDERS):
            return self._anthropic(model)
        shown = ascii(model if len(model) <= _SHOWN_MAX else model[:_SHOWN_MAX] + "...")
        raise InvalidInput(f"there is no model {shown}: {_POSSIBLE}", code="model.unknown")

    async def aclose(self) -> None:
        """Close the models made here."""
        while self._made:
            _, model = self._made.popitem()
            await model.aclose()

    def _known(self, name: str) -> Model | None:
        return self._given.get(name) or self._made.get(name)

    def _give(self, model: Model) -> Model:
        if self._given.setdefault(_checked(model).name, model) is not model:
            raise InvalidInput(f"two models are named {model.name!r}: give one another name", code="model.two")
        return model

    def _scripted(self, path: Path) -> Model:
        if path not in self._scripts:
            self._scripts[path] = ScriptedModel.load(path)
        return self._scripts[path].rewound()

    def _anthropic(self, name: str) -> Model:
        if not self._api_key.strip():
            raise InvalidInput(
                f"{name} needs a key: set ANTHROPIC_API_KEY, or use scripted:FILE, which needs none", code="model.key"
            )
        # Imported here, because most commands ask no model; a caller with a loop has called `load` before.
        from belljar.models.anthropic import ANTHROPIC_URL, AnthropicModel

        model = AnthropicModel(name, api_key=self._api_key, base_url=self._base_url or ANTHROPIC_URL)
        self._made[name] = model
        return model


def _checked(model: Model | None) -> Model:
    name: object = getattr(model, "name", None)
    if model is None or not isinstance(name, str) or not name or not callable(getattr(model, "complete", None)):
        what = type(model).__name__.removesuffix("Type")
        raise InvalidInput(f"an object of type {what} is not a model: {_POSSIBLE}", code="model.unknown")
    if not isinstance(getattr(model, "scripted", None), bool):
        raise InvalidInput(
            f"the model {name[:_SHOWN_MAX]!a} does not say whether it is scripted: give it the attribute `scripted`, "
            "False for a real model",
            code="model.unknown",
        )
    return model
