"""The peers: their environments, and those that are a session (`Rlms`) or only boxes (`Driven`).

An environment is made on first use, one for each peer, from its line in `requirements-peers.txt`, and kept. A file in
it holds the line that it was made from; it is written last, so an environment that was half made is made anew.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from benchmarks.driver import Driver
from benchmarks.measure import BenchmarkError, BoxPlan, Cell, Plan, Samples, after_quiet, measure_sandbox, measure_small
from benchmarks.programs import Text

__all__ = ["Driven", "Rlms", "peer_python"]

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements-peers.txt"
_VENVS = _HERE / ".peers-venv"


def peer_python(name: str, progress: Callable[[str], None]) -> Path:
    """The interpreter of the peer's environment, which is made if need be (some 10 to 20 s, and the network).

    Args:
        name: of the peer's distribution.

    Raises:
        BenchmarkError: it cannot be made.
    """
    folder = _VENVS / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = _requirement(name)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    progress(f"installing the peer {wanted} into {folder}")
    install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", wanted]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(f"the peer {wanted} cannot be installed ({error})") from None
    # Whoever looks through the checkout (git, ruff) passes over it.
    (_VENVS / ".gitignore").write_text("*\n", encoding="utf-8")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _requirement(name: str) -> str:
    lines = _REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return next(line.strip() for line in lines if re.split(r"==|\[", line)[0] == name)


class RlmsBox:
    def __init__(self, peer: Rlms, open_s: float) -> None:
        self._peer = peer
        self.open_s = open_s

    async def execute(self, code: str) -> Cell:
        answer = await self._peer.driver.ask({"do": "execute", "code": code})
        # The peer reports a program's exception as a line on stderr, and nothing else.
        if answer["stderr"]:
            raise BenchmarkError(f"{self._peer.title}: a cell failed: {answer['stderr'].strip()[:500]}")
        return Cell(answer["seconds"], answer["stdout"])


class Rlms:
    """`rlms`, local environment, in a process of its own. Use as a context manager.

    Args:
        python: the interpreter of the peer's environment.
        scratch: where it keeps its temporary files.
    """

    isolation = "none: guest code is `exec` in the host's own process"

    def __init__(self, python: Path, scratch: Path) -> None:
        self.driver = Driver("rlms local", [str(python), "-I", str(_HERE / "peer_rlms.py")], scratch)
        self.version = ""
        self.title = "rlms local"

    async def __aenter__(self) -> Self:
        await self.driver.__aenter__()
        self.version = self.driver.hello["version"]
        self.title = f"rlms {self.version} local (no isolation at all)"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.driver.__aexit__()

    async def round(self, plan: Plan, text: Text) -> Samples:
        return await measure_sandbox(self, plan, text)

    async def round_of_boxes(self, plan: BoxPlan) -> Samples:
        samples = await measure_small(self, cells=plan.cells, queries=plan.queries)
        return {"cold": samples["first"], "cell": samples["cell"], "query": samples["query"]}

    @contextlib.asynccontextmanager
    async def open(self, context: Path | None) -> AsyncIterator[RlmsBox]:
        opened = await self.driver.ask({"do": "open", "context": None if context is None else str(context)})
        # After an error there is no next box: the end of the process closes this one.
        yield RlmsBox(self, opened["seconds"])
        await self.driver.ask({"do": "close"})


class Driven:
    """A subject of the second table in a process of its own, whose program takes measures by name.

    The program says which measures it has: {"version", "measures"}, and may say which it has not here and why
    (`without`). Then {"do": MEASURE, "count": N} is answered by
    {"seconds": [...]}. Use as a context manager.

    Args:
        name: what it is called in the table, without its version.
        command: the program and its arguments.
        isolation: what stands between guest code and the host, in words.
        starts: how many boxes to start in a round; the slow ones get fewer.
        environ: what the program's environment has besides.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        scratch: Path,
        *,
        isolation: str,
        starts: int = 5,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._driver = Driver(name, command, scratch, environ)
        self._starts = starts
        self.isolation = isolation
        self.title = name
        self.without: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self._driver.__aenter__()
        version = self._driver.hello["version"]
        self.without = self._driver.hello.get("without", {})
        first, _, rest = self._name.partition(" ")
        self.title = " ".join(filter(None, (first, version, rest)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._driver.__aexit__()

    async def round_of_boxes(self, plan: BoxPlan) -> Samples:
        counts = {"cell": plan.cells, "query": plan.queries}
        samples: Samples = {}
        for measure in self._driver.hello["measures"]:
            count = counts.get(measure, min(self._starts, plan.starts))
            samples[measure] = await self._take(measure, count)
        samples["quiet"] = await after_quiet(plan.quiet, self._one_cold)
        return samples

    async def _one_cold(self) -> float:
        return (await self._take("cold", 1))[0]

    async def _take(self, measure: str, count: int) -> list[float]:
        seconds: list[float] = (await self._driver.ask({"do": measure, "count": count}))["seconds"]
        return seconds
