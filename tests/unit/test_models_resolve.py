"""From a name to a model."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from belljar.errors import InvalidInput
from belljar.models import Message, ModelRequest, NullModel, Registry, ScriptedModel
from belljar.models.anthropic import AnthropicModel

REQUEST = ModelRequest("", (Message("user", "x"),), 100, 1.0, "root")


def test_a_script_is_played_from_its_start_each_time_it_is_resolved(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text("[[turn]]\ntext = 'one'")
    registry = Registry({})

    async def first_turn() -> str:
        return (await registry.resolve(f"scripted:{path}").complete(REQUEST)).text

    assert asyncio.run(first_turn()) == asyncio.run(first_turn()) == "one"
    path.unlink()  # read once
    assert asyncio.run(first_turn()) == "one"


def test_a_claude_model_is_made_once_with_the_key_and_url_given() -> None:
    async def main() -> None:
        registry = Registry({"ANTHROPIC_API_KEY": "sk-secret\n", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9/api"})
        model = registry.resolve("claude-sonnet-5-5")
        assert isinstance(model, AnthropicModel)
        assert repr(model) == "AnthropicModel('claude-sonnet-5-5', host='127.0.0.1:9')"
        assert registry.resolve("claude-sonnet-5-5") is model
        assert registry.resolve("claude-haiku-5-5") is not model
        assert not model.scripted
        await registry.aclose()
        await registry.aclose()

    asyncio.run(main())


def test_without_a_base_url_it_is_the_public_one_whatever_the_process_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://elsewhere.test")

    async def main() -> None:
        registry = Registry({"ANTHROPIC_API_KEY": "sk-secret", "ANTHROPIC_BASE_URL": ""})
        assert "host='api.anthropic.com'" in repr(registry.resolve("claude-sonnet-5-5"))
        await registry.aclose()

    asyncio.run(main())


def test_without_a_key_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-process")
    for environ in ({}, {"ANTHROPIC_API_KEY": " "}):
        with pytest.raises(InvalidInput, match="set ANTHROPIC_API_KEY, or use scripted:FILE") as caught:
            Registry(environ).resolve("claude-sonnet-5-5")
        assert caught.value.code == "model.key"


@pytest.mark.parametrize("name", ["", "gpt-4o", "scripted:", "openai", "Claude-x", "claude", "\x1b[2J", "x" * 9999])
def test_an_unknown_name_says_what_is_possible(name: str) -> None:
    with pytest.raises(InvalidInput, match="claude-NAME, bedrock:NAME") as caught:
        Registry({"ANTHROPIC_API_KEY": "sk-secret"}).resolve(name)
    assert caught.value.code == "model.unknown"
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_an_openai_model_is_made_once_with_the_key_and_url_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.test")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-process")

    async def main() -> None:
        registry = Registry({"OPENAI_API_KEY": "sk-secret"})
        assert repr(registry.resolve("openai:gpt-5")) == "OpenAIModel('openai:gpt-5', host='api.openai.com')"
        await registry.aclose()
        registry = Registry({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})  # a server of one's own needs no key
        await registry.load("openai:llama")
        model = registry.resolve("openai:llama")
        assert repr(model) == "OpenAIModel('openai:llama', host='127.0.0.1:9')"
        assert registry.resolve("openai:llama") is model
        assert "sk-of-the-process" not in str(vars(model))
        await registry.aclose()

    asyncio.run(main())
    with pytest.raises(InvalidInput, match="set OPENAI_API_KEY"):
        Registry({}).resolve("openai:gpt-5")


def test_a_client_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "belljar.models.openai", raising=False)
    registry = Registry({"OPENAI_API_KEY": "sk-secret"})
    for load in (lambda: asyncio.run(registry.load("openai:gpt-5")), lambda: registry.resolve("openai:gpt-5")):
        with pytest.raises(InvalidInput, match=r"install belljar\[openai\]") as caught:
            load()
        assert caught.value.code == "model.extra"


def test_replay_needs_a_log() -> None:
    with pytest.raises(InvalidInput, match="no log here") as caught:
        Registry({}).resolve("replay:run-1")
    assert caught.value.code == "model.replay"


def test_an_object_is_itself_and_one_of_the_runtime_is_found_by_its_name() -> None:
    mine, other = NullModel(), ScriptedModel(["x"], name="scripted:mine")
    registry = Registry({}, models=[mine])
    assert registry.resolve(mine) is mine
    assert registry.resolve("null") is mine
    assert registry.resolve(other) is other
    with pytest.raises(InvalidInput):  # a run's own object is nobody else's
        registry.resolve("scripted:mine")
    another = NullModel()
    assert registry.resolve(another) is another
    assert registry.resolve("null") is mine
    with pytest.raises(InvalidInput, match="two models are named 'null'"):
        Registry({}, models=[mine, another])


@pytest.mark.parametrize("thing", [None, 5, object(), ScriptedModel, b"claude-sonnet-5-5"])
def test_what_is_no_model_is_told_in_one_line(thing: Any) -> None:
    with pytest.raises(InvalidInput, match="is not a model: a model is claude-NAME, bedrock:NAME") as caught:
        Registry({}).resolve(thing)
    assert "\n" not in str(caught.value)
