"""The account of a container: what is proved by a handle or by the daemon's word, and what is not claimed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from belljar.sandbox.base import Evidence
from belljar.sandbox.docker.account import Account, _scratch
from belljar.sandbox.docker.box import DockerBox
from belljar.sandbox.docker.daemon import Daemon
from belljar.sandbox.docker.fates import Fates
from belljar.sandbox.docker.stream import Outputs

MIB = 2**20


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One that is not there."""
    with contextlib.closing(Daemon("unix:///nowhere/docker.sock")) as daemon:
        yield daemon


def test_a_folder_of_another_size_is_not_the_scratch_folder() -> None:
    assert _scratch(os.getpid(), 4096) is None


def test_a_folder_of_the_right_size_is_looked_at_through_its_handle() -> None:
    at = os.statvfs("/tmp")
    handle = _scratch(os.getpid(), at.f_blocks * at.f_frsize)
    assert handle is not None
    assert os.fstat(handle).st_ino == os.stat("/tmp").st_ino
    os.close(handle)


def test_a_process_of_another_group_is_neither_asked_nor_killed(daemon: Daemon) -> None:
    """Its number may be that of any process here, as it is where the daemon is on another machine: of this one."""
    account = Account(daemon, "0123456789abcdef", os.getpid(), 4096)
    assert not account.nearby
    assert not account.scratch_full()
    account.kill()
    account.close()


def test_a_box_that_died_of_its_memory_had_all_of_it(daemon: Daemon) -> None:
    """By the last look at it, which may be of long before, it had little."""

    async def main() -> Evidence:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            account, fates = Account(daemon, "box", 0, 4096), Fates(daemon, "label")
            box = DockerBox(
                *(daemon, "box", ours, Outputs(), account, fates, ()),
                memory_bytes=256 * MIB,
                remove=lambda: None,
                background=asyncio.create_task,
            )
            fates.watch("box").memory_kills = 1
            return box._of_memory(Evidence(cpu_s=1.0, memory_peak_bytes=9 * MIB))

    assert asyncio.run(main()) == Evidence(cpu_s=1.0, memory_peak_bytes=256 * MIB, memory_kills=1)
