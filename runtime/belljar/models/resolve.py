"""From a model's name to a model."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from belljar.errors import InvalidInput
from belljar.models.base import Model
from belljar.models.replay import ReplayModel, Tape
from belljar.models.scripted import ScriptedModel

__all__ = ["Registry"]

_POSSIBLE: Final = (
    "a model is claude-NAME, bedrock:NAME, vertex:NAME, foundry:NAME, openai:NAME, scripted:FILE, replay:RUN, or an "
    "object with name, scripted, complete and aclose"
)
_SHOWN_MAX: Final = 80
# How the names of each provider's models begin, and where its client is: that takes a second to load.
_CLIENTS: Final = {
    "claude-": "belljar.models.anthropic",
    "bedrock:": "belljar.models.clouds",
    "vertex:": "belljar.models.clouds",
    "foundry:": "belljar.models.clouds",
    "openai:": "belljar.models.openai",
}
# All that is looked up in the environment.
_VARIABLES: Final = (
    *("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    *("AWS_BEARER_TOKEN_BEDROCK", "AWS_REGION", "ANTHROPIC_BEDROCK_MANTLE_BASE_URL"),
    *("CLOUDSDK_AUTH_ACCESS_TOKEN", "ANTHROPIC_VERTEX_PROJECT_ID", "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_BASE_URL"),
    *("ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_RESOURCE", "ANTHROPIC_FOUNDRY_BASE_URL"),
)
# How the names of those end that are secret.
_SECRET: Final = ("_KEY", "_BEDROCK", "_TOKEN")


class Registry:
    """Makes models by name, once each, and closes those that it made. It keeps nothing of objects that a run brings.

    A name is trusted input: `scripted:FILE` opens a file. A name that a guest chose is checked against the policy's
    list of models before it comes here.

    Args:
        environ: where `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL` and the like are looked up. The process environment is
            not read.
        models: models that are found by their own name. Their maker closes them.
        recorded: reads a run by its id, for `replay:RUN`; None where there is no log.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        models: Iterable[Model] = (),
        recorded: Callable[[str], Tape] | None = None,
    ) -> None:
        self._environ = {name: environ.get(name, "").strip() for name in _VARIABLES}
        self._given: dict[str, Model] = {}
        self._scripts: dict[Path, ScriptedModel] = {}
        self._made: dict[str, Model] = {}
        self._recorded = recorded
        self._tapes: dict[str, Tape] = {}
        for model in models:
            self._give(model)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of all that was looked up nobody else may know."""
        return tuple(value for name, value in self._environ.items() if value and name.endswith(_SECRET))

    async def load(self, model: str | Model | None) -> None:
        """Load what `resolve` needs for this model, in a thread: the provider's client, which takes a second, or a run.

        Raises:
            InvalidInput: its client is not installed; the run cannot be replayed.
        """
        if not isinstance(model, str) or self._known(model) is not None:
            return
        if client := _client_of(model):
            await asyncio.to_thread(_load, client)
        kind, _, rest = model.partition(":")
        if kind == "replay" and rest:
            await asyncio.to_thread(self._tape, rest)

    def resolve(self, model: str | Model | None) -> Model:
        """The model of a name; an object stands for itself.

        Each `scripted:FILE` and `replay:RUN` is played from its first turn, so resolve it once for each run.

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
        if kind == "replay" and rest:
            return ReplayModel(self._tape(rest))
        if client := _client_of(model):
            _load(client)  # a caller with a loop has called `load` before
            self._made[model] = made = self._make(model)
            return made
        shown = ascii(model if len(model) <= _SHOWN_MAX else model[:_SHOWN_MAX] + "...")
        raise InvalidInput(f"there is no model {shown}: {_POSSIBLE}", code="model.unknown")

    def is_given(self, name: str) -> bool:
        """Whether it is the name of one of `models`."""
        return name in self._given

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

    def _tape(self, run: str) -> Tape:
        if self._recorded is None:
            raise InvalidInput("there is no log here to replay a run from: use scripted:FILE", code="model.replay")
        if run not in self._tapes:
            self._tapes[run] = self._recorded(run)
        return self._tapes[run]

    def _make(self, name: str) -> Model:
        match name.partition(":")[0]:
            case "openai":
                return self._openai(name)
            case "bedrock" | "vertex" | "foundry" as cloud:
                return self._cloud(cloud, name)
            case _:
                return self._anthropic(name)

    def _cloud(self, cloud: str, name: str) -> Model:
        from belljar.models.clouds import BedrockModel, FoundryModel, VertexModel

        given = self._environ
        match cloud:
            case "bedrock":
                key = self._need(name, "AWS_BEARER_TOKEN_BEDROCK")
                url = given["ANTHROPIC_BEDROCK_MANTLE_BASE_URL"]
                return BedrockModel(name, api_key=key, region=given["AWS_REGION"], base_url=url)
            case "vertex":
                token, url = self._need(name, "CLOUDSDK_AUTH_ACCESS_TOKEN"), given["ANTHROPIC_VERTEX_BASE_URL"]
                project, region = given["ANTHROPIC_VERTEX_PROJECT_ID"], given["CLOUD_ML_REGION"]
                return VertexModel(name, access_token=token, project=project, region=region, base_url=url)
            case _:
                key, url = self._need(name, "ANTHROPIC_FOUNDRY_API_KEY"), given["ANTHROPIC_FOUNDRY_BASE_URL"]
                return FoundryModel(name, api_key=key, resource=given["ANTHROPIC_FOUNDRY_RESOURCE"], base_url=url)

    def _anthropic(self, name: str) -> Model:
        key = self._need(name, "ANTHROPIC_API_KEY")
        from belljar.models.anthropic import ANTHROPIC_URL, AnthropicModel

        return AnthropicModel(name, api_key=key, base_url=self._environ["ANTHROPIC_BASE_URL"] or ANTHROPIC_URL)

    def _openai(self, name: str) -> Model:
        url = self._environ["OPENAI_BASE_URL"]
        if not url:  # a server of one's own needs no key
            self._need(name, "OPENAI_API_KEY")
        from belljar.models.openai import OPENAI_URL, OpenAIModel

        return OpenAIModel(name, api_key=self._environ["OPENAI_API_KEY"], base_url=url or OPENAI_URL)

    def _need(self, name: str, variable: str) -> str:
        if not self._environ[variable]:
            about = f"{name[:_SHOWN_MAX]!a} needs a key"
            raise InvalidInput(f"{about}: set {variable}, or use scripted:FILE, which needs none", code="model.key")
        return self._environ[variable]


def _client_of(name: str) -> str | None:
    return next((client for prefix, client in _CLIENTS.items() if name.startswith(prefix)), None)


def _load(client: str) -> None:
    """
    Raises:
        InvalidInput: `model.extra`: what it needs is not installed.
    """
    try:
        importlib.import_module(client)
    except ModuleNotFoundError as error:
        extra = client.rpartition(".")[2]
        if error.name != extra:
            raise
        raise InvalidInput(
            f"the client of {extra} is not installed: install belljar[{extra}]", code="model.extra"
        ) from None


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
