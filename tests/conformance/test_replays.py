"""Every program of the corpus, recorded in a jail, and replayed in a jail and in a container: each action the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from belljar import Host
from belljar.identity import LANGUAGES, BackendName, Language
from belljar.policy import Policy, load
from belljar.replay import Replay, Replays
from belljar.sandbox.conformance import POLICY
from belljar.state import State
from tests.conformance.test_conformance import Answering
from tests.unit.test_restricted_language import CONTEXT, PROGRAMS


def patient() -> Policy:
    """No program should meet a limit, on a machine however busy; and all that a replay needs is kept."""
    small = load(str(POLICY))
    replace = msgspec.structs.replace
    return replace(
        small,
        limits=replace(small.limits, run_wall_s=120.0, cell_wall_s=60.0, cpu_s=30.0),
        audit=replace(small.audit, contents=("code", "output", "prompts", "replies")),
    )


class Recorded:
    """The runs of all programs, by language and name, in one state folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.state = State(folder)
        self.environ = environ
        self.runs = {language: asyncio.run(self._record(language)) for language in LANGUAGES}

    async def _record(self, language: Language) -> dict[str, str]:
        found = {}
        async with Host(state=self.state.root, environ=self.environ) as host:
            context = await host.add_context(CONTEXT)
            for path in PROGRAMS:
                session = host.session(
                    context=context, sub_model=Answering(), policy=patient(), backend="jail", language=language
                )
                async with session as opened:
                    await opened.execute(path.read_text("utf-8"))
                assert opened.result is not None
                found[path.stem] = str(opened.result.run)
        return found

    async def replay(self, language: Language, backend: BackendName, environ: Mapping[str, str]) -> dict[str, Replay]:
        async with Replays(self.state, {**self.environ, **environ}) as replays:
            return {name: await replays.replay(run, backend=backend) for name, run in self.runs[language].items()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Recorded:
    folder = tmp_path_factory.mktemp("replays")
    (folder / "images").symlink_to(images)
    return Recorded(folder, {"BELLJAR_KEYS": str(folder / "keys")})


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("backend", ["jail", "docker"])
def test_every_program_does_the_same_again(
    recorded: Recorded, backend: BackendName, language: Language, request: pytest.FixtureRequest
) -> None:
    environ = {} if backend == "jail" else {"DOCKER_HOST": request.getfixturevalue("docker_host")}
    replays = asyncio.run(recorded.replay(language, backend, environ))
    assert len(replays) == len(PROGRAMS) > 100
    other = {name: (one.missing, one.first) for name, one in replays.items() if one.outcome != "equal"}
    assert other == {}
    assert ("backend" in next(iter(replays.values())).differs) is (backend == "docker")
