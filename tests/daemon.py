"""A Docker daemon of the tests' own: started for them, gone with them, and unknown to whatever else runs here.

Two processes and a pipe each way::

    the tests ──"start", "stop", end of file──> the keeper (root) ──> dockerd ──> containerd ──> shims ──> boxes
              <───────── dockerd's pid ────────

The keeper is this file, run as a script. Three properties of it make that nothing is left behind:

* It is the process that orphans below it are given to, so everything that the daemon ever starts stays below it and can
  be ended by its pid. To the tests it is a stranger, not a child: they look for processes that they left behind.
* It has a mount namespace of its own, with an empty /run. Overlays, network namespaces and sockets of the daemon exist
  nowhere else, and go with the last process.
* It reads a pipe that only the tests' process can write. However that process ends, SIGKILL included, the pipe ends,
  and then the keeper ends everything and removes the folder and the control groups.

dockerd needs root. The keeper runs by `sudo -n` where the tests do not run as root; the socket belongs to their group.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

import psutil

__all__ = ["CONTROL_GROUPS", "PROGRAMS", "PrivateDaemon", "Unavailable", "adopting_nobody", "answers"]

# A start takes about a second; a machine under load may need more.
START_S = 180.0
# dockerd gives a box that ignores SIGTERM 10 s, and itself 5 more.
STOP_S = 20.0
KILL_S = 30.0
ASK_S = 2.0
# Debian's dockerd is where an ordinary user does not look.
PROGRAMS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
CONTROL_GROUPS = Path("/sys/fs/cgroup")

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
CLONE_NEWNS = 0x20000
CLONE_NEWNET = 0x40000000
MS_REC_SLAVE = 0x4000 | 0x80000


class Unavailable(Exception):
    """There can be no private daemon here: says why, and the remedy."""


class PrivateDaemon:
    """A daemon with `runc` and, where it is installed, `runsc`; no bridge, no packet filter, nothing in it.

    Use it as a context manager. `host` is its address, `pid` dockerd's process, `folder` all that it has on disk.
    """

    def __init__(self, programs: str = PROGRAMS, *, network: bool = False) -> None:
        """Nothing is started yet.

        Args:
            programs: the folders in which dockerd and runsc are looked for.
            network: whether it has a network namespace of its own, in which it may make bridges; what it publishes is
                reached only there (`within`).

        Raises:
            Unavailable: dockerd is not installed, or this user may not start it.
        """
        self._programs = programs
        self._network = network
        self._sudo = _sudo(programs)
        # A socket's address has 107 bytes at most: the usual place for temporary files can be far down.
        self.folder = Path(tempfile.mkdtemp(prefix="belljar-", dir="/tmp"))
        self.host = f"unix://{self.folder}/docker.sock"
        self.pid = 0
        self._keeper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._keep()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start dockerd, with the data that it had if it ran before, and wait until it answers.

        Raises:
            Unavailable: it ended, or did not answer in time; says what it wrote last.
        """
        self.pid = self._order("start", seconds=START_S)
        deadline = time.monotonic() + START_S
        while not answers(self.host):
            if not psutil.pid_exists(self.pid) or time.monotonic() > deadline:
                raise Unavailable(f"dockerd does not start here: {self.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop dockerd as an administrator would, and all its containers with it. The data stays."""
        self.pid = self._order("stop", seconds=STOP_S + KILL_S + ASK_S)

    def close(self) -> None:
        """End everything at once, and remove all that it made."""
        keeper, self._keeper, self.pid = self._keeper, None, 0
        if keeper is not None:
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.close()
            # The keeper is done when its end of the other pipe closes.
            select.select([keeper.stdout], [], [], KILL_S * 2)
            keeper.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def within(self, *command: str) -> list[str]:
        """The words that run a command in the daemon's network."""
        return [*self._sudo, "nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    def log(self) -> str:
        """The end of what dockerd and the keeper wrote."""
        return (self.folder / "log").read_text("utf-8", "replace")[-2000:]

    def _keep(self) -> None:
        command = [*self._sudo, sys.executable, "-I", __file__, str(self.folder), str(os.getgid()), self._programs]
        command += ["network"] * self._network
        with adopting_nobody(), open(self.folder / "log", "w", encoding="utf-8") as log:
            self._keeper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
            self._keeper.wait(START_S)

    def _order(self, word: str, *, seconds: float) -> int:
        if self._keeper is None or self._keeper.stdin is None or self._keeper.stdout is None:
            raise Unavailable("the daemon is closed")
        with contextlib.suppress(BrokenPipeError):
            print(word, file=self._keeper.stdin, flush=True)
        if not select.select([self._keeper.stdout], [], [], seconds)[0]:
            raise Unavailable(f"the daemon's keeper did not {word} it within {seconds} s: {self.log()}")
        answer = self._keeper.stdout.readline()
        if not answer:
            raise Unavailable(f"the daemon's keeper has ended: {self.log()}")
        return int(answer)


def answers(host: str) -> bool:
    """Whether a daemon answers at a `unix://` address."""
    connection = http.client.HTTPConnection("localhost", timeout=ASK_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(ASK_S)
    with contextlib.closing(connection):
        try:
            connection.sock.connect(host.removeprefix("unix://"))
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def _sudo(programs: str) -> list[str]:
    """The words before a command that needs root."""
    if shutil.which("dockerd", path=programs) is None:
        raise Unavailable(
            "dockerd is not installed: `make unit` as root or with sudo installs it on Debian and Ubuntu; "
            "or name a daemon in DOCKER_HOST"
        )
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode:
        raise Unavailable("only root may start dockerd, and sudo would ask: name a daemon in DOCKER_HOST")
    return [sudo, "-n"]


@contextlib.contextmanager
def adopting_nobody() -> Iterator[None]:
    """While it lasts, orphans are not given to this process, whatever was agreed before."""
    libc, before = ctypes.CDLL(None), ctypes.c_int()
    assert libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) == 0
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


# ----------------------------------------------------------------------------------------------------------- the keeper


class _Keeper:
    """One folder, and below this process one dockerd or none."""

    def __init__(self, folder: Path, group: str, programs: str) -> None:
        self._folder = folder
        self._group = group
        self._programs = programs
        self._dockerd = 0

    def start(self) -> int:
        # A SIGKILLed dockerd leaves it, and the next one would believe in whatever process has that number by then.
        (self._folder / "pid").unlink(missing_ok=True)
        config = self._folder / "daemon.json"
        config.write_text(json.dumps(self._config()), "utf-8")
        dockerd = shutil.which("dockerd", path=self._programs)
        assert dockerd is not None
        self._dockerd = subprocess.Popen(
            [dockerd, "--config-file", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env={"PATH": self._programs},
            preexec_fn=_end_with_parent,
        ).pid
        return self._dockerd

    def stop(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._dockerd, signal.SIGTERM)
        _until(lambda: not _below(), STOP_S)
        self.kill()
        return 0

    def kill(self) -> None:
        """End whatever is below, as often as something new has come."""
        deadline = time.monotonic() + KILL_S
        while (below := _below()) and time.monotonic() < deadline:
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            _until(lambda: not _below(), 0.1)

    def remove(self) -> None:
        """Remove what is on disk and the control groups. No mount of the daemon's may be in view: it would be busy."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for top in (*CONTROL_GROUPS.glob(f"*/{self._folder.name}"), CONTROL_GROUPS / self._folder.name):
            for group, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(group)

    def _config(self) -> dict[str, object]:
        at = str(self._folder)
        config: dict[str, object] = {
            "hosts": [f"unix://{at}/docker.sock"],
            "data-root": f"{at}/data",
            "exec-root": f"{at}/exec",
            "pidfile": f"{at}/pid",
            "group": self._group,
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            # The same with and without systemd; and groups of its own can be told from those of another daemon.
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/{self._folder.name}",
        }
        if runsc := shutil.which("runsc", path=self._programs):
            # The oldest platform, and the only one that needs nothing of the host.
            config["runtimes"] = {"runsc": {"path": runsc, "runtimeArgs": ["--platform=ptrace", "--network=none"]}}
        return config


def _below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def _end_with_parent() -> None:
    """What of the daemon outlives a keeper that was killed itself: nothing but files."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _reap(_number: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(1)


def _keep(folder: Path, group: str, programs: str, network: str = "") -> None:
    """Leave the caller's family, then obey until its pipe ends."""
    if os.fork():
        os._exit(0)
    os.setsid()  # of sudo's session, if there was one, nothing may reach us
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    outside = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNS | (CLONE_NEWNET if network else 0)) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"none", b"/", None, MS_REC_SLAVE, None) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"belljar", b"/run", b"tmpfs", 0, None) == 0, os.strerror(ctypes.get_errno())
    if network:
        subprocess.run(["ip", "link", "set", "lo", "up"], env={"PATH": programs}, check=True)
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGTERM, _exit)
    keeper = _Keeper(folder, group, programs)
    orders = {"start": keeper.start, "stop": keeper.stop}
    try:
        for line in sys.stdin:
            print(orders[line.strip()](), flush=True)
    finally:
        keeper.kill()
        # Nobody is inside any more but us: the namespace ends here, with every mount that was made in it.
        libc.setns(outside, CLONE_NEWNS)
        keeper.remove()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), *sys.argv[2:])
