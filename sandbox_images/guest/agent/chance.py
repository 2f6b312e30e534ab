"""What a box has in the place of the kernel's randomness: bytes that follow the run's seed, so that a replay has them.

Nothing in a box needs the real thing. It holds no secret, it has no network to meet anybody in, and the host, the one
that it speaks to, knows what it does anyway. So `os.urandom`, and with it `uuid4`, `secrets` and a `random.Random`
without a seed, are a stream of this run:

    key      SHA-256 of the run's seed, and of a word: `random` begins with the same seed
    request  SHAKE-128 of the key and the request's number, as many bytes as it asks for

A request takes its number in one step of the interpreter, and shares nothing else with those of other threads. A
process that the program forks takes a number before, and makes its own key of it: parent and child go on differently,
and the same way in each replay. What asks the kernel by other ways (`/dev/urandom`, OpenSSL) gets what the kernel has.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import posix
import random
from collections.abc import Callable
from operator import index

__all__ = ["Chance", "begin"]

_NUMBER_BYTES = 8
_FRESH_BYTES = 32
# What getrandom(2) knows: do not block, /dev/random's pool, before there is enough of it.
_FLAGS = 1 | 2 | 4


class Chance:
    """Bytes that follow a seed; the functions behave as those of `os`."""

    def __init__(self, seed: str) -> None:
        self._key = hashlib.sha256(b"urandom\0" + seed.encode()).digest()
        self._numbers = itertools.count()
        self._fork = b""

    def urandom(self, size: int, /) -> bytes:
        size = index(size)
        if size < 0:
            raise ValueError("negative argument not allowed")
        return hashlib.shake_128(self._key + self._number(), usedforsecurity=False).digest(size)

    def getrandom(self, size: int, flags: int = 0) -> bytes:
        if index(size) < 0 or index(flags) & ~_FLAGS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self.urandom(size)

    def before_fork(self) -> None:
        self._fork = self._number()

    def in_child(self) -> None:
        self._key = hashlib.sha256(self._key + self._fork).digest()
        self._numbers = itertools.count()

    def _number(self) -> bytes:
        return next(self._numbers).to_bytes(_NUMBER_BYTES, "big")


def begin(seed: str) -> None:
    """From now on all randomness of this process follows the seed. Once, in a box, before it runs the program."""
    chance = Chance(seed)
    os.urandom = posix.urandom = chance.urandom
    os.getrandom = posix.getrandom = chance.getrandom
    # `random` has a copy of its own, which `secrets` uses as well, and a C function that asks the kernel for a seed.
    random._urandom = chance.urandom  # type: ignore[attr-defined]
    random.Random.seed = _seeding(random.Random.seed, chance)  # type: ignore[method-assign]
    random.seed = random._inst.seed
    random.seed(seed)
    # Behind that of `random`, which seeds itself in a child.
    os.register_at_fork(before=chance.before_fork, after_in_child=lambda: _fork(chance))


def _seeding(seed_with: Callable[..., None], chance: Chance) -> Callable[..., None]:
    def seed(self: random.Random, a: object = None, version: int = 2) -> None:
        """Initialize internal state from a seed."""
        fresh = int.from_bytes(chance.urandom(_FRESH_BYTES), "big") if a is None else a
        seed_with(self, fresh, version)

    return seed


def _fork(chance: Chance) -> None:
    chance.in_child()
    random.seed()
