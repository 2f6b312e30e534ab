"""The toy backend is no box, and nobody gets it by accident."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

import belljar
from belljar.doctor import examine
from belljar.errors import LayerMissing, PolicyDenied
from belljar.identity import BACKENDS
from belljar.policy import LAYERS, dump, load
from belljar.sandbox import Backend, BackendSite, BoxSpec, Sandbox, register_backend
from belljar.testing import TOY, ToyBackend, register_toy, toy_policy


class Forgetful(ToyBackend):
    """Looks at no requirement."""

    async def start(self, spec: BoxSpec, about: Mapping[str, str] | None = None) -> Sandbox:  # type: ignore[override]
        return await super().start(msgspec.structs.replace(spec, requires=()), about)


async def forgetful(site: BackendSite) -> Backend:
    del site
    return Forgetful()


register_backend("tests.forgetful", forgetful)


def requiring(layer: str, backend: str = TOY) -> belljar.Policy:
    policy = toy_policy()
    box = msgspec.structs.replace(policy.box, backends=(backend,), requires=(layer,))
    return msgspec.structs.replace(policy, box=box)


def executed(policy: belljar.Policy, folder: Path) -> belljar.Result:
    async def run() -> belljar.Result:
        async with belljar.Runtime(policy, state=folder) as runtime:
            return await runtime.execute("print(6 * 7)")

    return asyncio.run(run())


@pytest.mark.parametrize("name", ["dev", "standard", "strict"])
def test_no_policy_that_comes_with_belljar_names_it(name: str) -> None:
    assert set(load(name).box.backends) <= set(BACKENDS)
    with pytest.raises(PolicyDenied) as denied:
        belljar.Runtime(name, backend=TOY)
    assert denied.value.code == "backend.denied"


def test_no_policy_of_another_s_can_be_widened_to_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'schema = 1\nname = "mine"\nextends = "dev"\n[box]\nbackends = ["{TOY}"]\n')
    with pytest.raises(belljar.InvalidPolicy):
        load(str(path))


def test_it_has_to_be_registered_in_the_program_s_own_code(tmp_path: Path) -> None:
    code = (
        "import belljar, belljar.testing, sys\n"
        "belljar.execute('print(6 * 7)', policy=belljar.testing.toy_policy(), state=sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1].startswith("belljar.errors.InvalidInput: there is no backend")


@pytest.mark.parametrize("layer", LAYERS)
def test_it_has_none_of_the_layers(layer: str) -> None:
    async def start() -> None:
        toy = ToyBackend()
        try:
            await toy.start(msgspec.structs.replace(_SPEC, requires=(layer,)))
        finally:
            await toy.aclose()

    with pytest.raises(LayerMissing):
        asyncio.run(start())


_SPEC = BoxSpec(
    cpu_s=5, memory_bytes=2**28, processes=8, scratch_bytes=2**20, scratch_files=16, open_files=64, requires=()
)


@pytest.mark.parametrize("layer", ["seccomp", "netns"])
def test_a_policy_that_requires_a_layer_refuses_it(tmp_path: Path, layer: str) -> None:
    register_toy()
    with pytest.raises(LayerMissing):
        executed(requiring(layer), tmp_path)


def test_a_backend_that_does_not_look_is_refused_by_the_run(tmp_path: Path) -> None:
    with pytest.raises(LayerMissing, match="the policy requires seccomp"):
        executed(requiring("seccomp", "tests.forgetful"), tmp_path)


def test_it_runs_what_a_policy_for_tests_lets_it_and_says_loudly_what_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_toy()
    with caplog.at_level(logging.WARNING, "belljar"):
        result = executed(toy_policy(), tmp_path)
    assert (result.status, result.stdout, result.layers) == ("ok", "42\n", ())
    assert f"the backend {TOY} isolates NOTHING" in caplog.text


def test_a_policy_that_pins_an_image_takes_no_backend_without_one(tmp_path: Path) -> None:
    register_toy()
    policy = toy_policy()
    box = msgspec.structs.replace(policy.box, image="sha256:" + "0" * 64)
    with pytest.raises(PolicyDenied) as denied:
        executed(msgspec.structs.replace(policy, box=box), tmp_path)
    assert denied.value.code == "image.pinned"


def test_an_unknown_name_without_an_owner_is_a_typing_mistake(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(dump(load("dev")).replace('"jail"', '"jial"').replace('name = "dev"', 'name = "mine"'))
    with pytest.raises(belljar.InvalidPolicy, match="jial"):
        load(str(path))


def test_doctor_has_nothing_to_say_of_it() -> None:
    with pytest.raises(PolicyDenied, match="test yours with"):
        asyncio.run(examine(toy_policy()))
