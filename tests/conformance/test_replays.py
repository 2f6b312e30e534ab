"""The programs of the corpus, recorded in a jail and replayed there, some also in a container: each action the same."""

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
        """Of all programs; in containers of some, since starting one takes longer than most of them."""
        names = list(self.runs[language])[:: 1 if backend == "jail" else 4]
        async with Replays(self.state, {**self.environ, **environ}) as replays:
            return {name: await replays.replay(self.runs[language][name], backend=backend) for name in names}


# Where programs get chance from. Python also has the functions of `os`, those that copied them, and processes.
CHANCES: dict[Language, str] = {
    "restricted": """
import random, uuid
print({str(number) for number in range(40)}, hash("text"))
print(uuid.uuid4(), random.Random().random(), random.SystemRandom().random(), random.random())
random.seed()
print(random.random())
""",
    "python": """
import os, posix, random, secrets, tempfile, uuid
print({str(number) for number in range(40)}, hash("text"), hash(b"bytes"))
print(os.urandom(8), os.getrandom(8), posix.urandom(8), secrets.token_hex(8), secrets.choice(range(10**9)))
print(uuid.uuid4(), random.Random().random(), random.SystemRandom().random(), tempfile.mktemp())
reading, writing = os.pipe()
child = os.fork()
if not child:
    os.write(writing, f"{os.urandom(8)} {random.random()}".encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reading, 1000), os.urandom(8), random.random())
random.seed()
print(random.random())
""",
}


# Where programs get the time from.
TIMES: dict[Language, str] = {
    "restricted": """
import datetime, time
from datetime import date, datetime as moment
print(time.time(), time.time_ns(), time.monotonic(), time.monotonic_ns(), time.perf_counter(), time.perf_counter_ns())
print(time.process_time(), time.thread_time())
print(moment.now(), moment.now(datetime.UTC), moment.utcnow(), moment.today(), date.today(), time.ctime())
began = time.perf_counter()
while time.perf_counter() - began < 0.02:
    time.sleep(0.001)
print(time.perf_counter() - began)
""",
    "python": """
import asyncio, datetime, logging, os, queue, sys, time, timeit, uuid
print(time.time(), time.monotonic(), time.perf_counter(), time.process_time(), time.thread_time_ns())
print(time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_BOOTTIME))
print(datetime.datetime.now(), datetime.datetime.now(datetime.timezone.utc), datetime.datetime.today())
print(timeit.timeit("1 + 1", number=9))
print(os.times(), uuid.uuid1(), uuid.uuid1())
logging.basicConfig(format="%(asctime)s.%(msecs)d %(created)f", stream=sys.stdout)
logging.error("an entry")
try:
    queue.Queue().get(timeout=0.02)
except queue.Empty:
    print(time.time())
async def wait():
    began = asyncio.get_running_loop().time()
    await asyncio.gather(asyncio.sleep(0.01), asyncio.sleep(0.02))
    print(asyncio.get_running_loop().time() - began)
asyncio.run(wait())
for _ in range(3000):
    time.time()
""",
}


async def record(
    folder: Path, environ: Mapping[str, str], backend: BackendName, language: Language, code: str
) -> tuple[str, str]:
    """One cell, of a host of its own: the run's id, and what it printed."""
    async with Host(state=folder, environ=environ) as host:
        result = await host.execute(code, policy=patient(), backend=backend, language=language)
    assert result.status == "ok", result.stderr
    return str(result.run), result.stdout


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
    assert len(replays) == len(PROGRAMS) if backend == "jail" else len(replays) > 40
    other = {name: (one.missing, one.first) for name, one in replays.items() if one.outcome != "equal"}
    assert other == {}
    assert ("backend" in next(iter(replays.values())).differs) is (backend == "docker")


@pytest.mark.slow
@pytest.mark.parametrize("code", [CHANCES, TIMES], ids=["chance", "time"])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("backend", ["jail", "docker"])
def test_a_replay_has_the_same_chances_and_times_and_no_other_run_has(
    tmp_path: Path,
    images: Path,
    backend: BackendName,
    language: Language,
    code: dict[Language, str],
    request: pytest.FixtureRequest,
) -> None:
    environ = {"BELLJAR_KEYS": str(tmp_path / "keys")}
    if backend != "jail":
        environ["DOCKER_HOST"] = request.getfixturevalue("docker_host")
    (tmp_path / "images").symlink_to(images)

    async def twice_and_again() -> tuple[list[str], list[Replay]]:
        told = [await record(tmp_path, environ, backend, language, code[language]) for _ in range(2)]
        async with Replays(State(tmp_path), environ) as replays:
            found = [await replays.replay(run) for run, _ in told]
            # Where other modules are loaded before the program is.
            found.append(await replays.replay(told[0][0], backend="jail"))
        return [printed for _, printed in told], found

    (one, other), replays = asyncio.run(twice_and_again())
    assert [(found.outcome, found.lines) for found in replays] == [("equal", None)] * 3
    # Not a line, and so no source of either, is the same in two runs; two hosts have two orders of a set.
    assert not set(one.splitlines()) & set(other.splitlines())
    assert len(one.splitlines()) == code[language].count("print") + code[language].count("logging.error")
