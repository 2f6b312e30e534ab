"""How a container begins: under a list of calls no longer than needed, on a daemon that did as it was told, with
its own users whoever gives them, and with an account also where its groups cannot be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import docker
import msgspec
import pytest

from belljar import Runtime
from belljar.errors import BelljarError, BoxFault, LayerMissing
from belljar.host import Host, Terms
from belljar.policy import load
from belljar.sandbox import Backend, BoxSpec, Image, ensure_image
from belljar.sandbox.docker.account import Account
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.daemon import Daemon, Lane
from belljar.sandbox.numbers import NUMBERS
from belljar.sandbox.seccomp import Allowlist, Rule, load_allowlist
from tests.daemon import PROGRAMS, PrivateDaemon, Unavailable
from tests.integration.docker_boxes import (
    ABOUT,
    MIB,
    SPEC,
    Document,
    Name,
    Retelling,
    bare,
    boxed,
    group_file,
    status_of,
    talking_to,
)
from tests.integration.test_jail_lifecycle import Talk, Told
from tests.waiting import PATIENCE_S, in_time, until

T = TypeVar("T")
AT_ONCE = 3


@pytest.fixture(scope="module")
def image(images: Path) -> Image:
    return ensure_image(images)


@pytest.fixture
def client(docker_host: str) -> Iterator[docker.APIClient]:
    with contextlib.closing(talking_to(docker_host)) as client:
        yield client


def with_docker(
    daemon: Daemon,
    image: Image,
    body: Callable[[Docker], Coroutine[Any, Any, T]],
    *,
    name: Name = "docker",
    allowlist: Allowlist | None = None,
) -> T:
    """Run `body` with a backend of its own."""

    async def main() -> T:
        backend = await Docker.open(name, daemon, image, allowlist=allowlist)
        try:
            return await body(backend)
        finally:
            await backend.aclose()

    return asyncio.run(main())


async def run_in(backend: Docker, code: str, spec: BoxSpec = SPEC) -> Told:
    """One cell in one box. A box whose agent does not get ready tells how that ended."""
    box = await backend.start(spec)
    try:
        talk = Talk(cast("Any", box))
        begun = await talk.begin()
        return await talk.execute(code) if begun.status == "ready" else begun
    finally:
        await box.kill()


async def layers_of(backend: Docker, spec: BoxSpec = SPEC) -> tuple[str, ...]:
    box = await backend.start(spec)
    await box.kill()
    return box.layers


# ------------------------------------------------------------------------------------------- the calls of the beginning

# What a runc that no machine of ours has makes under this filter. By its source, and by those who met it with filters
# of their own: it stops with "unsafe procfs detected". Each only looks, as openat and newfstatat do, and the box's own
# filter takes it away again.
OF_NEWER_RUNC = {"openat2", "fstat", "statx"}
# Calls that the box has as well, here with more flags. Newer runtimes use some of them with every openat; and any makes
# one more thread when another is held up in the kernel: seldom at this moment, but then it must.
SELDOM_WITH_MORE = {"openat", "clone"}
# The first thread knows its own number only if it could ask for it.
WITNESS = """
import signal, threading
said = []
def signal_the_first():
    try: signal.pthread_kill(threading.main_thread().ident, 0)
    except OSError as error: said.append(str(error))
thread = threading.Thread(target=signal_the_first)
thread.start(); thread.join()
assert not said, said
"""


def beginning(allowlist: Allowlist) -> list[str]:
    return [name for rule in allowlist.boot for name in rule.names]


def outcomes(host: str, image: Image, names: list[str]) -> dict[str, str]:
    """How a box begins without each of these calls: `well`, or what is wrong with it."""
    turns = asyncio.Semaphore(AT_ONCE)
    allowlist = load_allowlist()

    async def one(name: str, whole: tuple[str, ...]) -> str:
        async with turns:
            backend = await Docker.open("docker", Daemon(host), image, allowlist=allowlist.without_boot(name))
            try:
                less = set(whole) - set(await layers_of(backend))
                told = await run_in(backend, WITNESS)
            except BelljarError as error:
                return str(error)
            finally:
                await backend.aclose()
        return f"without {sorted(less)}" if less else "well" if told.status == "ok" else f"{told.status}: {told.error}"

    async def main() -> dict[str, str]:
        backend = await Docker.open("docker", Daemon(host), image)
        try:
            whole = await layers_of(backend)
        finally:
            await backend.aclose()
        found = await asyncio.gather(*(one(name, whole) for name in names))
        return dict(zip(names, found, strict=True))

    return asyncio.run(main())


def test_no_call_of_the_beginning_is_unneeded(docker_host: str, image: Image) -> None:
    names = beginning(load_allowlist())
    assert len(names) == len(set(names))
    found = outcomes(docker_host, image, names)
    assert {name for name, how in found.items() if how == "well"} - OF_NEWER_RUNC - SELDOM_WITH_MORE == set()


def test_a_call_that_nobody_needs_is_found_out(docker_host: str, image: Image) -> None:
    """Taking out what is not in is taking out what is not needed."""
    assert outcomes(docker_host, image, ["sysinfo"]) == {"sysinfo": "well"}


def test_the_calls_of_the_beginning_are_gone_for_the_guest(docker_host: str, image: Image) -> None:
    """All but those that the box's own list has as well."""
    allowlist = load_allowlist()
    gone = sorted(set(beginning(allowlist)) - set(allowlist.names()))
    assert set(gone) >= OF_NEWER_RUNC | {"execve", "unshare", "mount", "prctl", "setresuid"}
    code = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in {[NUMBERS[name] for name in gone]}:
    ctypes.set_errno(0)
    assert libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0) == -1, number
    assert ctypes.get_errno() == errno.EPERM, (number, ctypes.get_errno())
"""
    told = with_docker(Daemon(docker_host), image, lambda backend: run_in(backend, code))
    assert told.status == "ok", told.error


# -------------------------------------------------------------------------------------- the daemon's filter, on its own

# Machine code: a system call by its number, and the return. By the way of 64 bits it is number 39, getpid.
NATIVE = "b827000000 0f05 c3"
# The same by the way of 32 bits, where it is number 20.
OF_32_BIT = "b814000000 cd80 c3"
RUN_CODE = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex({code!r}))
print(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))())
"""
CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
result = libc.syscall(*map(ctypes.c_long, {words!r}))
print('"made"' if result >= 0 else f'"{{errno.errorcode[ctypes.get_errno()]}}"')
"""
KILLED_BY_FILTER = 128 + 31


def allowing_code() -> Allowlist:
    """The list with memory that is writable and executable, for a program that brings code of its own."""
    allowlist = load_allowlist()
    return msgspec.structs.replace(allowlist, allow=[*allowlist.allow, Rule(names=["mmap"], why="for this test only")])


CLONE_NEWUSER, CLONE_NEWNS, SIGCHLD = 0x10000000, 0x00020000, 17


def test_calls_of_32_bit_kill_by_the_daemon_s_filter_alone(docker_host: str, image: Image) -> None:
    wider = allowing_code()
    assert bare("docker", docker_host, image, RUN_CODE.format(code=NATIVE), wider).said == 1
    refused = bare("docker", docker_host, image, RUN_CODE.format(code=OF_32_BIT), wider)
    assert (refused.code, refused.output) == (KILLED_BY_FILTER, "")


def test_numbers_of_x32_kill_by_the_daemon_s_filter_alone(docker_host: str, image: Image) -> None:
    refused = bare("docker", docker_host, image, CALL.format(words=[0x40000000 | 39]))
    assert (refused.code, refused.output) == (KILLED_BY_FILTER, "")


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ([272, CLONE_NEWUSER | CLONE_NEWNS], True),
        ([272, CLONE_NEWUSER | CLONE_NEWNS | 1 << 32], False),
        ([272, CLONE_NEWUSER], False),
        ([272, CLONE_NEWNS], False),
        ([56, CLONE_NEWUSER | SIGCHLD, 0], False),
        ([56, CLONE_NEWNS | SIGCHLD | 1 << 32, 0], False),
        ([72, 0, 1], True),
        ([72, 1, 4, 0x800], True),
        ([72, 1, 4, 0x4000], False),
        ([72, 1, 6, 0], False),
        ([202, 4096, 0x81, 1], True),
        ([202, 4096, 0, 1], False),
        ([202, 4096, 1, 1], False),
        ([202, 4096, 0x109, 1], False),
        ([9, 0, 4096, 7, 0x22, -1, 0], False),
        ([9, 0, 4096, 5, 0x22, -1, 0], False),
        ([9, 0, 4096, 3, 0x40022, -1, 0], False),
        ([53, 1, 2, 0, 0], False),
        ([257, -100, 0, 0x4000], False),
        ([16, 0, 0x5451], True),
        ([16, 0, 0x5412], False),
        ([41, 1, 1, 0], False),
    ],
    ids=lambda value: "-".join(map(hex, value)) if isinstance(value, list) else None,
)
def test_a_condition_holds_by_the_daemon_s_filter_alone(
    docker_host: str, image: Image, words: list[int], made: bool
) -> None:
    """One value, flags, the whole word, several conditions and several entries; and socket, which has no entry."""
    said = bare("docker", docker_host, image, CALL.format(words=words)).said
    assert said == "made" if made else said in ("ENOSYS", "EPERM")


# -------------------------------------------------------------------------------- daemons that do otherwise, or say so


def says(name: str, value: object) -> Callable[[Document], None]:
    return lambda document: document["HostConfig"].update({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("PidsLimit", None), ("SecurityOpt", None), ("CapAdd", ["NET_ADMIN"]), ("MemorySwap", -1), ("Binds", ["/:/h"])],
)
def test_a_daemon_that_ignores_an_option_gets_no_box(docker_host: str, image: Image, name: str, value: object) -> None:
    with pytest.raises(BoxFault, match=f"has not applied {name}: see the warnings"):
        with_docker(Retelling(docker_host, tell=says(name, value)), image, layers_of)


def unconfined(order: Document) -> None:
    order["host_config"]["SecurityOpt"] = ["no-new-privileges:true", "seccomp=unconfined"]


def raising(order: Document) -> None:
    order["host_config"]["SecurityOpt"] = ["seccomp=unconfined"]


def with_capabilities(order: Document) -> None:
    order["host_config"]["CapDrop"] = []


def as_somebody(order: Document) -> None:
    order["user"] = "1000:1000"
    scratch = re.sub(r"(uid|gid)=\d+", r"\1=1000", order["host_config"]["Tmpfs"]["/tmp"])
    order["host_config"]["Tmpfs"] = {**order["host_config"]["Tmpfs"], "/tmp": scratch}


def behind_an_init(order: Document) -> None:
    order["host_config"] |= {"Init": True, "SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (unconfined, "without what was ordered for it: seccomp"),
        (raising, "without what was ordered for it: no-new-privileges, seccomp"),
        (with_capabilities, "without what was ordered for it: capabilities"),
        (behind_an_init, "without what was ordered for it: pid, seccomp"),
        (as_somebody, "without what was ordered for it: user"),
    ],
)
def test_a_daemon_that_lies_is_found_out_from_inside(
    docker_host: str, image: Image, make: Callable[[Document], None], complaint: str
) -> None:
    """It does otherwise, and says what was ordered."""
    orders: list[Document] = []

    def make_otherwise(order: Document) -> None:
        orders.append({"HostConfig": {**order["host_config"]}, "Config": {"User": order["user"]}})
        make(order)

    def tell_as_ordered(document: Document) -> None:
        for part, ordered in orders[-1].items():
            document[part] |= ordered

    with pytest.raises(BoxFault, match=complaint):
        with_docker(Retelling(docker_host, make=make_otherwise, tell=tell_as_ordered), image, layers_of)


def test_nothing_is_left_of_a_refused_container(docker_host: str, image: Image, client: docker.APIClient) -> None:
    before = {each["Id"] for each in client.containers(all=True)}
    made: list[str] = []

    def tell(document: Document) -> None:
        made.append(document["Id"])
        says("Privileged", True)(document)

    with pytest.raises(BoxFault, match="Privileged"):
        with_docker(Retelling(docker_host, tell=tell), image, layers_of)
    assert made
    assert not set(made) & (before | {each["Id"] for each in client.containers(all=True)})


# -------------------------------------------------------------------------------------------------- users of its own


def without_unshare() -> Allowlist:
    return load_allowlist().without_boot("unshare")


def remapping(document: Document) -> None:
    document["SecurityOptions"] = [*(document["SecurityOptions"] or ()), "name=userns"]


def test_a_box_that_can_make_no_users_of_its_own_says_so(docker_host: str, image: Image) -> None:
    async def body(backend: Docker) -> tuple[tuple[str, ...], Told]:
        assert backend.about()["userns_remap"] == "no"
        with pytest.raises(LayerMissing, match="userns"):
            await backend.start(msgspec.structs.replace(SPEC, requires=("userns",)))
        # The host's other boxes are the same user: a limit for each user would be one for all of them.
        code = "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[0] > 1000)"
        return await layers_of(backend), await run_in(backend, code)

    found, told = with_docker(Daemon(docker_host), image, body, allowlist=without_unshare())
    assert {"caps", "no_new_privs", "rlimits", "seccomp", "cgroup.pids"} <= set(found)
    assert "userns" not in found
    assert (told.status, told.output) == ("ok", "True\n")


def test_users_that_the_daemon_maps_count_as_the_box_s_own(docker_host: str, image: Image) -> None:
    """By its word, also where the box itself can make none."""

    async def body(backend: Docker) -> tuple[str, ...]:
        assert backend.about()["userns_remap"] == "yes"
        return await layers_of(backend, msgspec.structs.replace(SPEC, requires=("userns",)))

    for allowlist in (None, without_unshare()):
        daemon = Retelling(docker_host, info=remapping)
        found = with_docker(daemon, image, body, allowlist=allowlist)
        assert found.count("userns") == 1


DOCKERD = """\
#!/bin/sh
set -e
chmod 711 "$(dirname "$2")"
mount --bind {ids} /etc/subuid
mount --bind {ids} /etc/subgid
exec {dockerd} "$@" --userns-remap 65534:65534 --init --default-ulimit nproc=4000:5000
"""


@pytest.fixture(scope="module")
def remapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon that maps users, puts a program of its own before every other, and gives everybody a limit.

    The mounts are in a namespace of its keeper's: this machine's files stay as they are.
    """
    folder = tmp_path_factory.mktemp("remapped")
    found = [Path(place) / "dockerd" for place in PROGRAMS.split(":")]
    dockerd = next((path for path in found if path.exists()), None)
    (folder / "ids").write_text("".join(f"{name}:200000:65536\n" for name in ("nobody", "nogroup", "65534")))
    (folder / "dockerd").write_text(DOCKERD.format(ids=folder / "ids", dockerd=dockerd))
    (folder / "dockerd").chmod(0o755)
    try:
        with PrivateDaemon(PROGRAMS if dockerd is None else f"{folder}:{PROGRAMS}") as daemon:
            yield daemon.host
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Docker daemon: {error}")
        pytest.skip(f"no Docker daemon: {error}")


@pytest.mark.parametrize("name", ["docker", "gvisor"])
def test_a_daemon_that_maps_users(remapped: str, image: Image, name: Name) -> None:
    with boxed(name, remapped, image) as box:
        assert box.backend.about()["userns_remap"] == "yes"
        assert "userns" in box.box.layers
        assert {"landlock", "gvisor"} & set(box.box.layers)
        assert box.inside("import os; print(os.getpid() + os.getuid())") == 1 + 65534
        assert box.inside("open('/tmp/x', 'w').write('text'); print(len(open('/tmp/x').read()))") == 4
        if name == "docker":
            assert set(box.status()["Uid"].split()) == {str(200000 + 65534)}


def test_a_daemon_that_maps_users_where_the_box_can_make_none(remapped: str, image: Image) -> None:
    found = with_docker(Daemon(remapped), image, layers_of, allowlist=without_unshare())
    assert found.count("userns") == 1
    # Nothing covers what the daemon puts into the root: Landlock closes it, or the root is not what it should be.
    assert ("rootfs" in found) == ("landlock" in found)
    open_root = with_docker(
        Daemon(remapped), image, layers_of, allowlist=without_unshare().without_boot("landlock_create_ruleset")
    )
    assert not {"rootfs", "landlock"} & set(open_root)


def users_of(pid: int) -> str:
    return status_of(Path(f"/proc/{pid}/status").read_text())["Uid"]


@pytest.mark.skipif("os.geteuid() != 0", reason="only root has users to give")
def test_two_boxes_are_two_users_of_the_host_and_neither_is_nobody(
    docker_host: str, image: Image, client: docker.APIClient
) -> None:
    async def body(backend: Docker) -> list[str]:
        boxes = [await backend.start(SPEC) for _ in range(2)]
        try:
            assert all("own_uid" in box.layers for box in boxes)
            pids = [client.inspect_container(box.container)["State"]["Pid"] for box in boxes]
            return list(map(users_of, pids))
        finally:
            for box in boxes:
                await box.kill()

    users = [set(text.split()) for text in with_docker(Daemon(docker_host), image, body)]
    assert [len(each) for each in users] == [1, 1]
    assert len(set.union(*users)) == 2
    assert "65534" not in set.union(*users)


@pytest.mark.skipif("os.geteuid() != 0", reason="only root has users to give")
def test_a_user_is_free_again_when_its_box_is_gone_and_not_before(docker_host: str, image: Image) -> None:
    class Forgetful(Daemon):
        """Removes nothing until it is told to."""

        removes = False
        refused = 0

        async def ask(self, call: Callable[..., T], *arguments: Any, lane: Lane = "ask", **options: Any) -> T:
            if call == self.client.remove_container and not self.removes:
                self.refused += 1
                raise BoxFault("not now")
            return await super().ask(call, *arguments, lane=lane, **options)

    async def body(backend: Docker) -> None:
        assert backend._uids is not None
        whole = len(backend._uids._free)
        await (await backend.start(SPEC)).kill()
        await asyncio.to_thread(until, lambda: daemon.refused > 1, what="it could not be removed, and was tried again")
        assert len(backend._uids._free) == whole - 1
        daemon.removes = True
        free = backend._uids._free
        await asyncio.to_thread(until, lambda: len(free) == whole, what="it is free")

    daemon = Forgetful(docker_host)
    with_docker(daemon, image, body)


def test_a_backend_is_closed_when_its_containers_are_gone_though_they_were_not_removed_at_once(
    docker_host: str, image: Image, client: docker.APIClient
) -> None:
    class Busy(Daemon):
        """Fails to remove what it is asked to, a few times."""

        failures = 3

        async def ask(self, call: Callable[..., T], *arguments: Any, lane: Lane = "ask", **options: Any) -> T:
            if call == self.client.remove_container and self.failures:
                self.failures -= 1
                raise BoxFault("it could not be killed")
            return await super().ask(call, *arguments, lane=lane, **options)

    async def body(backend: Docker) -> str:
        await (await backend.start(SPEC)).kill()
        return backend._ours

    daemon = Busy(docker_host)
    ours = with_docker(daemon, image, body)
    assert daemon.failures == 0
    assert client.containers(all=True, filters={"label": ours}) == []


# ----------------------------------------------------------------------------------------------------------------- swap


def uncounted(document: Document) -> None:
    document["SwapLimit"] = False


def without_a_limit(swappiness: int | None, *, pid: int | None = None) -> Callable[[Document], None]:
    """How a daemon describes a container whose swap it cannot limit."""

    def tell(document: Document) -> None:
        document["HostConfig"] |= {"MemorySwap": -1, "MemorySwappiness": swappiness}
        if pid is not None:
            document["State"]["Pid"] = pid

    return tell


@pytest.mark.parametrize(
    ("name", "swappiness", "far", "claimed"),
    [
        ("docker", 0, False, True),
        ("docker", 0, True, True),
        ("docker", None, True, False),
        # runsc passes no swappiness on, whatever the daemon says.
        ("gvisor", 0, True, False),
    ],
)
def test_memory_is_a_layer_only_where_swap_is_no_way_out(
    docker_host: str, image: Image, name: Name, swappiness: int | None, far: bool, claimed: bool
) -> None:
    daemon = Retelling(docker_host, info=uncounted, tell=without_a_limit(swappiness, pid=0 if far else None))
    found = with_docker(daemon, image, layers_of, name=name)
    assert ("cgroup.memory" in found) is claimed
    assert {"cgroup.cpu", "cgroup.pids"} <= set(found)


@pytest.mark.parametrize("name", ["docker", "gvisor"])
def test_where_there_is_no_swap_no_limit_on_it_is_needed(docker_host: str, image: Image, name: Name) -> None:
    daemon = Retelling(docker_host, info=uncounted, tell=without_a_limit(None))
    found = with_docker(daemon, image, layers_of, name=name)
    assert ("cgroup.memory" in found) == (len(Path("/proc/swaps").read_text().splitlines()) == 1)


# -------------------------------------------------------------------------------------------------------- few processes

BOMB = """
import threading
over, threads = threading.Event(), []
try:
    while True:
        threads.append(threading.Thread(target=over.wait, daemon=True)); threads[-1].start()
finally: print(len(threads))
"""


def threads_of(pid: int) -> int:
    return int(status_of(Path(f"/proc/{pid}/status").read_text())["Threads"])


@pytest.mark.parametrize("processes", [4, 8, 15, 16])
def test_few_processes_are_exactly_so_many(docker_host: str, image: Image, processes: int) -> None:
    spec = msgspec.structs.replace(SPEC, processes=processes)

    async def body(backend: Docker) -> tuple[int, Document, int]:
        box = await backend.start(spec)
        try:
            talk = Talk(cast("Any", box))
            assert (await talk.begin()).status == "ready"
            with contextlib.closing(talking_to(docker_host)) as client:
                found = client.inspect_container(box.container)
            ours = threads_of(found["State"]["Pid"])
            told = await talk.execute(BOMB)
            assert told.status == "error", told
            # The last one of its threads was refused.
            return ours + int(told.output) - 1, found["HostConfig"], (await box.evidence()).tasks_refused or 0
        finally:
            await box.kill()

    tasks, config, refused = with_docker(Daemon(docker_host), image, body)
    assert tasks == processes
    assert refused >= 1
    assert config["PidsLimit"] == processes
    assert (config["Memory"], config["NanoCpus"]) == (SPEC.memory_bytes, 10**9)


def test_the_other_limits_stay_when_processes_become_fewer(docker_host: str, image: Image) -> None:
    """By the kernel's own word."""
    few = msgspec.structs.replace(SPEC, processes=4)

    async def body(backend: Docker) -> list[str]:
        box = await backend.start(few)
        with contextlib.closing(talking_to(docker_host)) as client:
            pid = client.inspect_container(box.container)["State"]["Pid"]
        try:
            return [group_file(pid, *names) for names in FILES]
        finally:
            await box.kill()

    pids, memory, quota = with_docker(Daemon(docker_host), image, body)
    assert (pids, memory, quota.split()[0]) == ("4", str(SPEC.memory_bytes), "100000")


FILES = [("pids.max",), ("memory.limit_in_bytes", "memory.max"), ("cpu.cfs_quota_us", "cpu.max")]


# ----------------------------------------------------------------------------------------- an account from far away


def far_away(document: Document) -> None:
    """What a daemon on another machine says: the number of a process that is not one of ours."""
    document["State"]["Pid"] = 0


class FarHost(Host):
    """A host whose daemon is elsewhere."""

    def __init__(self, docker_host: str, state: Path) -> None:
        super().__init__(state=state)
        self._docker_host = docker_host

    async def _open_backend(self, terms: Terms) -> Backend:
        image = await asyncio.to_thread(ensure_image, self.state.images)
        return await Docker.open("docker", Retelling(self._docker_host, tell=far_away), image)


class FarRuntime(Runtime):
    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(**options)
        self._host = FarHost(host, self.state.root)


POLICY = """
schema = 1
name = "small"
description = "The standard policy with limits that a test meets soon."
extends = "standard"
[limits]
"""


@pytest.fixture
def state(tmp_path: Path, images: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "images").symlink_to(images)
    return folder


def policy(folder: Path, text: str) -> Any:
    path = folder / "small.toml"
    path.write_text(f"{POLICY}{text}\n")
    return load(str(path))


def test_an_account_without_a_view_of_the_groups_asks_the_daemon(docker_host: str, image: Image) -> None:
    async def body(backend: Docker) -> None:
        daemon = Daemon(docker_host)
        box = await backend.start(SPEC)
        try:
            talk = Talk(cast("Any", box))
            assert (await talk.begin()).status == "ready"
            far, near = Account(daemon, box.container, 0, SPEC.scratch_bytes), box
            await far.begin()
            # What the start took is not counted.
            busy = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
            await talk.execute(f"kept = b'x' * {64 * MIB}\n{busy}")
            # The daemon counts once a second, and is not waited for.
            async with in_time(PATIENCE_S, "the daemon has counted"):
                while ((seen := await far.evidence()).cpu_s or 0.0) < 0.4:
                    pass
            truth = await near.evidence()
            assert seen.cpu_s == pytest.approx(truth.cpu_s or 0.0, abs=0.2)
            assert (seen.cpu_s or 0.0) > 0.4
            assert 64 * MIB < (seen.memory_peak_bytes or 0) < SPEC.memory_bytes
            # Nothing is claimed that the daemon does not count.
            assert (seen.memory_kills, seen.tasks_refused, far.scratch_full()) == (None, None, False)
            await box.kill()
            # Of a container that has ended nothing more can be asked: the last account stays.
            assert (await far.evidence()).cpu_s == seen.cpu_s
            far.close()
        finally:
            await box.kill()
            daemon.close()

    with_docker(Daemon(docker_host), image, body)


def test_a_busy_program_far_away_meets_its_limit(docker_host: str, state: Path, tmp_path: Path) -> None:
    async def main() -> Any:
        small = policy(tmp_path, 'cpu = "1 s"')
        async with FarRuntime(docker_host, policy=small, state=state, language="python", environ={}) as runtime:
            return await runtime.execute(f"kept = b'x' * {64 * MIB}\nwhile True: pass")

    result = asyncio.run(main())
    assert result.status == "cpu", result
    assert (result.limit.code, result.limit.limit) == ("limits.cpu", 1000)
    # The daemon counts once a second, and answers when it gets to it.
    assert 1.0 <= result.cpu_s < 60
    assert result.max_rss_bytes > 64 * MIB


@pytest.mark.parametrize("language", ["python", "restricted"])
@pytest.mark.parametrize("name", ["docker", "gvisor"])
def test_memory_is_told_from_the_least_that_a_policy_may_say(
    docker_host: str, state: Path, tmp_path: Path, name: Any, language: Any
) -> None:
    async def main() -> Any:
        small = policy(tmp_path, 'memory = "64 MiB"\nscratch = "16 MiB"')
        environ = {"DOCKER_HOST": docker_host}
        async with Runtime(small, state=state, backend=name, language=language, environ=environ) as runtime:
            return await runtime.execute("kept = []\nwhile True:\n    kept.append('y' * 1_000_000)")

    result = asyncio.run(main())
    assert result.status == "memory", result
    assert (result.limit.code, result.limit.limit) == ("limits.memory", 64 * MIB)
    assert result.limit.observed >= 32 * MIB
    assert result.max_rss_bytes >= 32 * MIB


def test_a_bomb_of_threads_under_a_small_policy(docker_host: str, state: Path, tmp_path: Path) -> None:
    async def main() -> Any:
        small = policy(tmp_path, "processes = 8")
        environ = {"DOCKER_HOST": docker_host}
        async with Runtime(small, state=state, backend="docker", language="python", environ=environ) as runtime:
            return await runtime.execute(BOMB)

    result = asyncio.run(main())
    assert result.status == "processes", result
    assert result.limit.limit == 8


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["docker", "gvisor"])
def test_a_box_from_the_pool_gets_its_run_s_name(
    docker_host: str, image: Image, client: docker.APIClient, name: Name
) -> None:
    """Labels cannot be changed: it carries its creator from birth, and its name tells the run."""

    about = {**ABOUT, "run": f"{ABOUT['run']}-{name}"}

    async def body(backend: Docker) -> None:
        await backend.warm(SPEC, 1)
        box = await backend.start(SPEC, about)

        def inspected() -> Document:
            found: Document = client.inspect_container(box.container)
            return found

        def named() -> bool:
            return bool(inspected()["Name"] == f"/belljar-{about['run']}")

        try:
            labels = inspected()["Config"]["Labels"]
            assert labels["belljar.creator"].split("/")[-1].startswith(f"{os.getpid()}-")
            assert not {"belljar.run", "belljar.tenant"} & labels.keys()
            await asyncio.to_thread(until, named, what="it has its run's name")
        finally:
            await box.kill()

    with_docker(Daemon(docker_host), image, body, name=name)


def test_a_cold_box_carries_its_run_and_tenant(docker_host: str, image: Image, client: docker.APIClient) -> None:
    async def body(backend: Docker) -> None:
        box = await backend.start(SPEC, {"run": "cold", "tenant": "acme/research/alice/and/more"})
        try:
            wanted = ["belljar.run=cold", "belljar.tenant=acme/research/alice/and/more"]
            (found,) = client.containers(filters={"label": wanted})
            assert found["Id"] == box.container
        finally:
            await box.kill()

    with_docker(Daemon(docker_host), image, body)
