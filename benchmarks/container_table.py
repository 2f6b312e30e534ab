"""The third table: boxes in containers, containers by hand, and peers. Who takes part, and what comes of it.

As in the second, whoever does not work here is named with the reason, and the others go on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from belljar.errors import BelljarError
from benchmarks.box_table import Absent, admit
from benchmarks.by_hand import IMPORTS, PRINT, ByHand, RawSdk
from benchmarks.containers import BACKENDS, Bench, Containers, Texts
from benchmarks.measure import BenchmarkError, BoxPlan, BoxSubject, Samples, measure
from benchmarks.peer_image import peer_image
from benchmarks.peers import Driven, peer_python
from benchmarks.programs import write_text
from benchmarks.report import BoxTable
from benchmarks.rows import CONTAINER_GOALS, LABELS, Row, ratio_row, speed_row, timed_rows
from benchmarks.wiring import LANGUAGES

__all__ = ["measure_containers", "rows_of"]

_HERE = Path(__file__).parent
_SMALL_CHARS: Final = 1_000
_LARGE_CHARS: Final = 50_000_000
# To see that it works, and to warm up. Without starts: one of the peers needs ten seconds to end a box.
_TRIAL: Final = BoxPlan(rounds=1, starts=0, quiet=0, cells=1, queries=1, sustained_s=0, idle_boxes=0)

# Distribution, name in the table, isolation.
_PEERS: Final = (
    (
        "rlms",
        "rlms DockerREPL",
        "a container of Docker's defaults: root inside, the network on, Docker's own capabilities and filter, no "
        "limits, a folder of the host to write in; the model's proxy listens on every interface of the host",
    ),
    (
        "llm-sandbox",
        "llm-sandbox docker",
        "a container of Docker's defaults: root inside, the network on, Docker's own capabilities and filter, no "
        "limits",
    ),
)

_NOTES: Final = (
    "A fresh box is timed from the order to build it (`Docker.start`) to the result of its first cell: create, attach, "
    "start, close in, check, and run. `docker run` by hand has the same options, taken from the same place and checked "
    "in the same way, and the same image; *print* is `python3 -I -S -B -c 'print(6 * 7)'`, timed from the start of the "
    "command line program to the line that it prints, and *imports* first imports the box's entry point, with all that "
    "it imports. Neither sets limits from inside, loads a filter or Landlock, is described and checked, or waits for "
    "an order, as a box of ours does. The goal is for the first. SDK is what the daemon alone takes, in the calls that "
    "a box makes, with the first program and no check. The ratios are of the medians of this run, each to the same "
    "runtime.",
    "A box made ahead is taken from a pool of two. Its replacement is begun a hundredth of a second later, after the "
    "sample, and the next is taken only when it should be ready. The log and the ledger are in memory, but for the row "
    "that says otherwise. A query is timed by the guest, with a model that answers at once.",
    "Teardown is first what a caller waits who closes a box and wants to know how it ended, and then the time, from "
    "the same beginning, until the daemon has removed the container, which goes on behind the caller's back. Nothing "
    "else is timed before that. For `docker run` it is in *to the end*; for the SDK, one call.",
    "Starts with a context begin with its file, which has been registered before and is recognised while it is "
    "unchanged. The text is ASCII. rlms reads the file, writes it into a folder that is mounted into the container, "
    "and loads and saves it whole with each cell.",
    "The peers' image is made here from the running interpreter, since nothing can be pulled. rlms finds in it the "
    "packages that it would install, and asks pip for them nevertheless, at every start. llm-sandbox is told not to "
    "make a virtual environment and ask for a newer pip at every start, which makes it faster. Loading the peers' "
    "modules, once a process, is not counted. Their teardown is what they do themselves to end a session. No peer "
    "writes a query to a log or a ledger first.",
)


async def measure_containers(
    plan: BoxPlan, host: str, images: Path, scratch: Path, *, peers: bool, progress: Callable[[str], None]
) -> BoxTable:
    """Measure all of it.

    Args:
        host: the daemon's address.
        images: the folder of box images.
        scratch: where texts, contexts and durable books are kept, and peers work.
    """
    absent: Absent = {}
    texts = Texts(
        await asyncio.to_thread(write_text, scratch / "small.txt", _SMALL_CHARS),
        await asyncio.to_thread(write_text, scratch / "large.txt", _LARGE_CHARS),
    )
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(Bench(host, images, scratch, texts))
        absent |= {f"Belljar {name}": reason for name, reason in bench.absent.items()}
        ours = [Containers(bench, name, language) for name in bench.present for language in LANGUAGES]
        floors = await _floors(stack, bench, scratch, absent)
        others = await _others(stack, bench, scratch, absent, progress) if peers else []
        subjects: list[BoxSubject] = [*ours, *floors, *others]
        if not subjects:
            raise BenchmarkError(f"nothing of it works on the daemon at {host}: {'; '.join(absent.values())}")
        samples = await measure(
            subjects,
            plan.rounds,
            lambda subject: subject.round_of_boxes(plan),
            progress,
            warm_up=lambda subject: subject.round_of_boxes(_TRIAL),
        )
    return BoxTable(
        title="Boxes in containers",
        about="The wall and the wire alone.",
        plan=plan,
        rows=rows_of(samples, {one.title: one.backend for one in ours}, _hands(floors), texts.large.chars),
        isolation={subject.title: subject.isolation for subject in subjects},
        absent=absent,
        notes=_NOTES,
    )


def rows_of(
    samples: Mapping[str, Samples],
    ours: Mapping[str, str],
    by_hand: Mapping[tuple[str, str], str],
    read_bytes: int,
) -> list[Row]:
    """All rows, sorted.

    Args:
        ours: the backends of those that are ours, by title.
        by_hand: the titles of containers by hand, by backend and program.
        read_bytes: what `read` read, each time.
    """
    goals = {title: CONTAINER_GOALS[backend] for title, backend in ours.items()}
    times = {who: {name: seconds for name, seconds in one.items() if name != "read"} for who, one in samples.items()}
    rows = timed_rows(times, goals)
    found = {(row.measure, row.who): row for row in rows}
    for title, backend in ours.items():
        pairs = (
            ("ratio_print", "cold", ("cold", by_hand.get((backend, "print")))),
            ("ratio_imports", "cold", ("cold", by_hand.get((backend, "imports")))),
            ("ratio_context", "start_large", ("start_small", title)),
        )
        for name, over, base in pairs:
            if (over, title) in found and base in found:
                rows.append(ratio_row(name, found[over, title], found[base], goals[title].get(name)))
        if seconds := samples[title].get("read"):
            rows.append(speed_row("read", title, read_bytes, seconds, goals[title].get("read")))
    order = list(LABELS)
    return sorted(rows, key=lambda row: order.index(row.measure))


def _hands(floors: Sequence[ByHand | RawSdk]) -> dict[tuple[str, str], str]:
    return {(one.backend, one.what): one.title for one in floors if isinstance(one, ByHand)}


async def _floors(stack: AsyncExitStack, bench: Bench, scratch: Path, absent: Absent) -> list[ByHand | RawSdk]:
    docker = shutil.which("docker")
    found: list[ByHand | RawSdk] = []
    for backend in BACKENDS:
        if backend not in bench.present:
            continue
        found.append(await stack.enter_async_context(RawSdk(bench, backend)))
        if docker is None:
            absent["docker run by hand"] = "there is no docker on the path: install Docker's command line program"
            continue
        for what, program in (("print", PRINT), ("imports", IMPORTS)):
            subject = ByHand(bench, backend, docker=docker, what=what, program=program, scratch=scratch)
            if await admit(stack, subject, subject.title, absent):
                found.append(subject)
    return found


async def _others(
    stack: AsyncExitStack, bench: Bench, scratch: Path, absent: Absent, progress: Callable[[str], None]
) -> list[BoxSubject]:
    pythons: dict[str, Path] = {}
    try:
        for distribution in ("dill", *(distribution for distribution, _, _ in _PEERS)):
            pythons[distribution] = await asyncio.to_thread(peer_python, distribution, progress)
        progress("making an image for the peers")
        image = await asyncio.to_thread(stack.enter_context, peer_image(bench.daemon, pythons, scratch))
    except (BenchmarkError, BelljarError) as error:
        absent.update({name: str(error) for _, name, _ in _PEERS})
        return []
    texts = [str(bench.texts.small.path), str(bench.texts.large.path)]
    environ = {
        "DOCKER_HOST": bench.daemon.host,
        "PATH": os.environ.get("PATH", os.defpath),
        "DOCKER_CONFIG": str(scratch),
    }
    found = []
    for distribution, name, isolation in _PEERS:
        command = [str(pythons[distribution]), "-I", str(_HERE / "peer_containers.py"), distribution, image, *texts]
        peer = Driven(name, command, scratch, isolation=isolation, starts=1, environ=environ)
        found.append(await admit(stack, peer, name, absent, _TRIAL))
        absent |= {f"{name}, {measure}": reason for measure, reason in peer.without.items()}
    return [subject for subject in found if subject is not None]
