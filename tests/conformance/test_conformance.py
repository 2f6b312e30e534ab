"""The shipped checks and both corpora of programs, in real boxes of every backend.

`programs/` are programs of root models: the first line is `# expect: TEXT`, the last line that they print; they must
print it in the box in both languages. `refusals/` are rejected by the restricted language, with advice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from belljar import ModelReply, ModelRequest, Runtime
from belljar.engine import CellResult
from belljar.errors import ModelFailed
from belljar.identity import BackendName, Language
from belljar.models import FREE, Usage
from belljar.policy import Policy, load
from belljar.sandbox.conformance import POLICY, Check, Finding, checks, run_check
from tests.unit.test_restricted_language import CONTEXT, PROGRAMS, REFUSALS, PolicyDenied, World, first_comment

LANGUAGES: tuple[Language, ...] = ("python", "restricted")
BACKENDS: tuple[BackendName, ...] = ("jail", "docker", "gvisor")
# Starting a container takes longer than most programs run: some are kept ready.
POOLS = {"jail": 0, "docker": 2, "gvisor": 2}
# Layers that a backend has not got, whatever the machine; SECURITY.md says what stands for them.
NEVER: dict[BackendName, set[str]] = {"jail": set(), "docker": set(), "gvisor": {"landlock"}}
# Where the faked names of the unit tests say something else than the real ones.
EXPECT = {"probe_show_vars": "total: int", "query_budget_guard": "enough: 2000"}
# This model writes no code, so a child run uses up its turns; and a model has no way to say what a policy says.
DENIED = {"query_recursive": "QuotaExceeded", "query_denied_is_caught": "ModelError"}
# These say what else a run has in its box, or has spent. Of the others several are cells of one run: the start of a
# container takes longer than most programs.
ALONE = ("probe_show_vars", "query_budget_guard")
_AT_ONCE = 12
_others = [path for path in PROGRAMS if path.stem not in ALONE]
GROUPS = [
    *([path] for path in PROGRAMS if path.stem in ALONE),
    *(_others[first : first + _AT_ONCE] for first in range(0, len(_others), _AT_ONCE)),
]
T = TypeVar("T")


class Answering:
    """The sub-model of the programs: the rules that the faked one follows outside of a box."""

    scripted = True
    rates = FREE
    name = "scripted:rules"

    async def complete(self, request: ModelRequest) -> ModelReply:
        try:
            text = World()._query(request.messages[-1].text)
        except PolicyDenied as denied:
            raise ModelFailed(str(denied), charged=False) from denied
        return ModelReply(text, Usage(1, 1), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


class Boxes:
    """Runtimes of one backend for each language, in one loop: `runtimes` for checks, others for the corpora.

    A check meets limits, so they are small; but unless it meets its deadline, that is far away, as on a machine however
    busy it must come last. A program of the corpora should meet no limit.
    """

    def __init__(self, folder: Path, backend: BackendName, environ: Mapping[str, str]) -> None:
        self.backend = backend
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._model = Answering()
        small = load(str(POLICY))
        unhurried = msgspec.structs.replace(small.limits, run_wall_s=120.0, cell_wall_s=60.0)
        patient = msgspec.structs.replace(unhurried, cpu_s=30.0)

        def opened(policy: Policy, pool: int = POOLS[backend]) -> dict[Language, Runtime]:
            return {
                language: self.drive(
                    self._stack.enter_async_context(
                        Runtime(
                            policy,
                            state=folder,
                            backend=backend,
                            language=language,
                            pool=pool,
                            environ=environ,
                        )
                    )
                )
                for language in LANGUAGES
            }

        self._hurried = opened(small, pool=0)
        self.runtimes = opened(msgspec.structs.replace(small, limits=unhurried))
        self._patient = opened(msgspec.structs.replace(small, limits=patient), pool=0)
        self.layers = self.drive(self.runtimes["python"].execute("")).layers

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def check(self, language: Language, one: Check) -> list[Finding]:
        waits = "timeout" in one.expect or (len(one.cells) > 1 and "time.sleep(60)" in one.cells[0])
        return self.drive(run_check((self._hurried if waits else self.runtimes)[language], one))

    def run(self, language: Language, paths: Sequence[Path]) -> list[CellResult]:
        """Programs of the corpora, one after another in one box, or in the next one when an answer ended the run."""

        async def once() -> list[CellResult]:
            left, cells = list(paths), []
            while left:
                async with self._patient[language].session(context=CONTEXT, model=self._model) as session:
                    answered = False
                    while left and not answered:
                        cells.append(await session.execute(left.pop(0).read_text("utf-8")))
                        answered = cells[-1].answer is not None
            return cells

        return self.drive(once())

    def close(self) -> None:
        self.drive(self._stack.aclose())
        self._runner.close()


@pytest.fixture(scope="module", params=BACKENDS)
def boxes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Boxes]:
    # Whoever tests the jail alone needs no daemon.
    environ = {} if request.param == "jail" else {"DOCKER_HOST": request.getfixturevalue("docker_host")}
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "images").symlink_to(images)
    boxes = Boxes(folder, request.param, environ)
    yield boxes
    boxes.close()


CASES = [
    pytest.param(one, language, id=f"{one.name} [{language}]") for one in checks() for language in sorted(one.languages)
]


def test_every_check_has_a_name_of_its_own_and_says_what_it_expects() -> None:
    names = [one.name for one in checks()]
    assert len(set(names)) == len(names) >= 60
    for one in checks():
        assert (
            one.prints is not None or one.shows or one.answer or one.truncated or one.differs or one.expect != ("ok",)
        )


@pytest.mark.parametrize(("one", "language"), CASES)
def test_it_holds(boxes: Boxes, one: Check, language: Language) -> None:
    if one.layer in NEVER[boxes.backend]:
        assert one.layer not in boxes.layers
        return
    if one.layer is not None and one.layer not in boxes.layers:
        pytest.fail(f"this machine does not give {boxes.backend} its {one.layer} layer: the check cannot be made")
    assert boxes.check(language, one.under(boxes.layers)) == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("paths", GROUPS, ids=lambda paths: paths[0].stem)
def test_a_program_prints_in_the_box_what_it_prints_in_cpython(
    boxes: Boxes, paths: list[Path], language: Language
) -> None:
    for path, cell in zip(paths, boxes.run(language, paths), strict=True):
        if path.stem in DENIED:
            assert cell.status == "error", path
            assert cell.error is not None
            assert cell.error.type == DENIED[path.stem]
            continue
        expected = EXPECT.get(path.stem, first_comment(path, "expect"))
        lines = [line for line in cell.stdout.splitlines() if line.strip()]
        last = f"FINAL: {cell.answer}" if expected.startswith("FINAL: ") else lines[-1]
        assert (cell.status, last) == ("ok", expected), (path, cell)


def test_refusals_arrive_with_their_advice(boxes: Boxes) -> None:
    for path, cell in zip(REFUSALS, boxes.run("restricted", REFUSALS), strict=True):
        assert cell.status in ("rejected", "error"), path
        assert cell.error is not None
        assert first_comment(path, "advice") in cell.error.message, path
