"""What a box has in the place of the kernel's randomness: bytes that follow the run's seed, so that a replay has them.

Nothing in a box needs the real thing. It holds no secret, it has no network to meet anybody in, and the host, the one
that it speaks to, knows what it does anyway. So `os.urandom`, and with it `uuid4`, `secrets` and a `random.Random`
without a seed, are a stream of this run. Each request gets the SHAKE-128 of

    "urandom"   since `random` begins with the same seed
    the seed    of the run
    a number    which it takes in one step of the interpreter, and shares nothing else with those of other threads

as many bytes as it asks for. A process that the program forks goes on with the stream of a number that was taken
before: not as its parent does, and in the same way in each replay. What asks the kernel by other ways (`/dev/urandom`,
OpenSSL) gets what the kernel has.

The functions are replaced once, in the zygote: that touches objects all over the interpreter, and in a fresh clone each
touch copies a page. Until a seed is known they are the kernel's.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import os
import posix
import random
from collections.abc import Callable
from operator import index

__all__ = ["Chance", "begin", "prepare"]

_NUMBER_BYTES = 8
_FRESH_BYTES = 32
# What getrandom(2) knows: do not block, /dev/random's pool, before there is enough of it.
_FLAGS = 1 | 2 | 4
_urandom, _getrandom = os.urandom, os.getrandom


class Chance:
    """Bytes that follow a seed; the functions behave as those of `os`, and are those until there is one."""

    def __init__(self) -> None:
        self._stream = b""
        self._numbers = itertools.count()
        self._fork = b""

    def follow(self, seed: str) -> None:
        self._stream = b"urandom\0" + seed.encode()

    def urandom(self, size: int, /) -> bytes:
        if not self._stream:
            return _urandom(size)
        size = index(size)
        if size < 0:
            raise ValueError("negative argument not allowed")
        return hashlib.shake_128(self._stream + self._number(), usedforsecurity=False).digest(size)

    def getrandom(self, size: int, flags: int = 0) -> bytes:
        if not self._stream:
            return _getrandom(size, flags)
        if index(size) < 0 or index(flags) & ~_FLAGS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self.urandom(size)

    def before_fork(self) -> None:
        if self._stream:
            self._fork = self._number()

    def in_child(self) -> None:
        if self._stream:
            self._stream += self._fork
            self._numbers = itertools.count()
            random.seed()

    def _number(self) -> bytes:
        return b"\0" + next(self._numbers).to_bytes(_NUMBER_BYTES, "big")


@functools.cache
def prepare() -> Chance:
    """Give this process's randomness a source that can follow a seed."""
    chance = Chance()
    os.urandom = posix.urandom = chance.urandom
    os.getrandom = posix.getrandom = chance.getrandom
    # `random` has a copy of its own, which `secrets` uses as well, and a C function that asks the kernel for a seed.
    random._urandom = chance.urandom  # type: ignore[attr-defined]
    random.Random.seed = _seeding(random.Random.seed, chance)  # type: ignore[method-assign]
    random.seed = random._inst.seed
    # Behind that of `random`, which seeds itself in a child.
    os.register_at_fork(before=chance.before_fork, after_in_child=chance.in_child)
    return chance


def begin(seed: str) -> None:
    """From now on all randomness of this process follows the seed. Once, in a box, before it runs the program."""
    prepare().follow(seed)
    random.seed(seed)


def _seeding(seed_with: Callable[..., None], chance: Chance) -> Callable[..., None]:
    def seed(self: random.Random, a: object = None, version: int = 2) -> None:
        """Initialize internal state from a seed."""
        fresh = int.from_bytes(chance.urandom(_FRESH_BYTES), "big") if a is None else a
        seed_with(self, fresh, version)

    return seed
