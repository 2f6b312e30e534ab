"""The bytes that a box has for randomness: they follow the run's seed, and come as those of `os` do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from guest.agent.chance import Chance

GUEST = Path(__file__).parents[2] / "sandbox_images"
SIZES = (0, 1, 16, 2500, 1 << 20)


def following(seed: str) -> Chance:
    chance = Chance()
    chance.follow(seed)
    return chance


def told(chance: Chance) -> list[bytes]:
    return [chance.urandom(size) for size in SIZES]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    assert told(following("a")) == told(following("a"))
    assert not set(told(following("a"))[1:]) & set(told(following("b"))[1:])
    assert [len(data) for data in told(following("a"))] == list(SIZES)


def test_no_two_requests_get_the_same_bytes() -> None:
    chance = following("a")
    found = [chance.urandom(16) for _ in range(1000)] + [chance.getrandom(16) for _ in range(1000)]
    assert len(set(found)) == 2000


def test_threads_get_what_one_thread_would_have_got_among_them() -> None:
    chance, alone, found = following("a"), following("a"), []
    threads = [threading.Thread(target=lambda: found.extend([chance.urandom(8) for _ in range(500)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(alone.urandom(8) for _ in range(2000))


def test_without_a_seed_they_are_the_kernel_s() -> None:
    assert Chance().urandom(16) != Chance().urandom(16) != Chance().getrandom(16, os.GRND_NONBLOCK)


def failure(ask: Callable[..., bytes], *arguments: object) -> tuple[object, ...]:
    with pytest.raises((ValueError, TypeError, OSError, MemoryError, OverflowError)) as caught:
        ask(*arguments)
    return caught.type, caught.value.args


@pytest.mark.parametrize("name", ["urandom", "getrandom"])
@pytest.mark.parametrize("size", [-1, 2**48, 2**70, 1.5, "1", None])
def test_a_size_that_cannot_be_fails_as_with_the_real_ones(name: str, size: object) -> None:
    theirs = failure(getattr(os, name), size)
    assert failure(getattr(following("a"), name), size)[0] is theirs[0]


def test_a_flag_that_the_kernel_does_not_know_is_refused_as_there() -> None:
    why = (OSError, (errno.EINVAL, "Invalid argument"))
    assert failure(following("a").getrandom, 1, 8) == failure(os.getrandom, 1, 8) == why
    assert len(following("a").getrandom(4, os.GRND_NONBLOCK)) == 4


BEGUN = """
import os, random, uuid
from guest.agent import chance
chance.begin("a seed")
print(os.urandom(4), uuid.uuid4(), random.Random().random(), random.SystemRandom().random(), random.random())
random.seed(3)
print(random.random() == random.Random(3).random() == 0.23796462709189137, flush=True)
for number in range(2):
    child = os.fork()
    print(os.urandom(4), random.random(), flush=True)
    if not child:
        break
    os.waitpid(child, 0)
"""


def test_all_of_a_process_follows_the_seed_once_it_has_begun() -> None:
    environment = {"PYTHONPATH": str(GUEST)}
    command = [sys.executable, "-c", BEGUN]
    one, two = (subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(2))
    lines = one.decode().splitlines()
    assert sorted(lines) == sorted(two.decode().splitlines())
    assert lines[1] == "True"
    assert len({*lines}) == len(lines) == 6
