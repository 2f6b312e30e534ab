"""Backends by name: the three built-in ones, and those that a program registers.

A backend is the wall, so only code can add one: a program that wants another calls `register_backend` before it opens a
runtime. No environment variable, folder or installed package is looked at, and nobody can take the name of a built-in
one: a registered name starts with an owner and a dot (`acme.microvm`). Registering a backend does not allow any run to
use it: the policy's list of backends must name it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final, Literal, TypeAlias

from belljar.errors import InvalidInput
from belljar.identity import OTHER_BACKEND
from belljar.sandbox.base import Backend, chosen_hash_seed
from belljar.sandbox.image import Image, ensure_image
from belljar.sandbox.jail import Jail
from belljar.tasks import to_the_end

__all__ = ["BackendSite", "OpenBackend", "open_backend", "register_backend"]

_SHOWN_MAX: Final = 80


class BackendSite:
    """What a backend needs to know about where it is opened. Policies are not part of it: limits come with `start`.

    Attributes:
        images: the folder for images, which are made once.
        environ: where daemons and the like are named (`DOCKER_HOST`): the process's own, or what the program gave.
        hash_seed: PYTHONHASHSEED of the boxes' interpreters: a replay's is that of the recorded run, any other host
            has a random one.
    """

    def __init__(self, images: Path, environ: Mapping[str, str], hash_seed: int | None = None) -> None:
        self.images: Final = images
        self.environ: Final = environ
        self.hash_seed: Final = chosen_hash_seed(hash_seed)

    async def image(self) -> Image:
        """The root file system made from this Python, with the agent in it; takes a few seconds, once per machine.

        Whoever is cancelled meanwhile waits for the end: no thread can be stopped, and the folder may be removed next.

        Raises:
            BoxFault: it could not be made.
        """
        return await to_the_end(asyncio.to_thread(ensure_image, self.images))


OpenBackend: TypeAlias = Callable[[BackendSite], Awaitable[Backend]]


async def _jail(site: BackendSite) -> Backend:
    return Jail(await site.image(), hash_seed=site.hash_seed)


def _containers(name: Literal["docker", "gvisor"]) -> OpenBackend:
    async def opened(site: BackendSite) -> Backend:
        image = await site.image()
        # The Docker SDK takes longer to load than a jail takes to start: load it only here, and off the event loop.
        await asyncio.to_thread(import_module, "belljar.sandbox.docker.backend")
        from belljar.sandbox.docker.backend import Docker
        from belljar.sandbox.docker.daemon import Daemon

        return await Docker.open(name, Daemon.at(site.environ), image, hash_seed=site.hash_seed)

    return opened


_BUILT_IN: Final[Mapping[str, OpenBackend]] = {
    "jail": _jail,
    "docker": _containers("docker"),
    "gvisor": _containers("gvisor"),
}
_registered: Final[dict[str, OpenBackend]] = {}


def register_backend(name: str, opener: OpenBackend) -> None:
    """Let policies and runtimes of this process name a third-party backend; registering it again does nothing.

    Args:
        name: `OWNER.NAME`, each of a-z 0-9 _ - and at most 32 characters.
        opener: makes the backend when a run first needs it; called in the event loop of the run. What it raises ends
            that run's start, as with `Backend.start`.

    Raises:
        InvalidInput: `backend.name`: the name is not valid; `backend.two`: it is registered with another opener.
    """
    if not OTHER_BACKEND.fullmatch(name):
        raise InvalidInput(
            f"{name[:_SHOWN_MAX]!a} is not a valid name for a backend; use OWNER.NAME, such as acme.microvm",
            code="backend.name",
        )
    if _registered.setdefault(name, opener) is not opener:
        raise InvalidInput(f"two backends are named {name}: give one another name", code="backend.two")


async def open_backend(name: str, site: BackendSite) -> Backend:
    """The backend of that name, open; the caller closes it (`aclose`).

    Raises:
        InvalidInput: `backend.unknown`: there is none of that name.
        LayerMissing: this host lacks what it needs.
        BoxFault: it could not be opened for another reason.
    """
    opener = _BUILT_IN.get(name) or _registered.get(name)
    if opener is None:
        known = ", ".join(sorted({*_BUILT_IN, *_registered}))
        raise InvalidInput(
            f"there is no backend {name[:_SHOWN_MAX]!a}; there are {known}: to add your own, call "
            "belljar.sandbox.register_backend first",
            code="backend.unknown",
        )
    return await opener(site)
