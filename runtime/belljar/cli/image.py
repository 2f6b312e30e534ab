"""`belljar image build|ls`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.cli.output import emit, say, tell
from belljar.cli.progress import step
from belljar.errors import BoxFault
from belljar.identity import BACKENDS
from belljar.sandbox.image import Image, ensure_image, size_bytes, stored_images

# Loading the Docker SDK takes longer than looking up the jail's image, so it is loaded only to ask a daemon.
if TYPE_CHECKING:
    from belljar.sandbox.docker.image import LoadedImage

__all__ = ["BuiltImage", "image"]

# A list is not worth a long wait for a daemon that nobody may need.
_LIST_S: Final = 5.0
_CLOSED: Final = "nothing is left half done"


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `where` is the folder of the jail's image, or the daemon's image ID (which gVisor uses too)."""

    backend: str
    digest: str
    where: str
    size_bytes: int


@click.group()
def image() -> None:
    """Make and list the boxes' root file system, built from this Python and nothing else."""


@image.command()
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="jail", show_default=True, help="The backend that needs it."
)
@options.state
@options.as_json
def build(backend: str, state: Path | str | None, as_json: bool) -> None:
    """Make the image now instead of with the first run; for docker and gvisor, also load it into the daemon.

    DOCKER_HOST names the daemon. Nothing is pulled, and no Dockerfile is read.
    """
    place = options.place(state).state
    place.create()
    built, was_there = run_async(_build(backend, place.images), closed=_CLOSED)
    if as_json:
        emit({"image": built, "was_there": was_there})
    else:
        say(f"{_line(built)}{'  (it already existed)' if was_there else ''}")


@image.command()
@options.state
@options.as_json
def ls(state: Path | str | None, as_json: bool) -> None:
    """List the images in the state folder, and those in the Docker daemon if one answers."""
    from belljar.sandbox.docker.daemon import DEFAULT_HOST

    found = [_of_jail(each) for each in stored_images(options.place(state).state.images)]
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    loaded = run_async(_loaded(host), closed=_CLOSED)
    found += [_of_daemon("docker", each) for each in loaded or ()]
    if as_json:
        emit({"images": found, "daemon": None if loaded is None else host})
        return
    for each in found:
        say(_line(each))


async def _build(backend: str, folder: Path) -> tuple[BuiltImage, bool]:
    """The image, and whether it already existed."""
    before = {each.digest for each in stored_images(folder)}
    step("looking for the root file system, or making it")
    made = await asyncio.to_thread(ensure_image, folder)
    if backend == "jail":
        return _of_jail(made), made.digest in before
    from belljar.sandbox.docker.daemon import Daemon
    from belljar.sandbox.docker.image import ensure_loaded

    daemon = Daemon.at(os.environ)
    try:
        step("looking for it in the Docker daemon, or loading it")
        await daemon.negotiate()
        loaded = await ensure_loaded(daemon, made)
    finally:
        daemon.close()
    return _of_daemon(backend, loaded), not loaded.loaded_now


async def _loaded(host: str) -> list[LoadedImage] | None:
    """The daemon's images; None, with a message, where no daemon answers."""
    from belljar.sandbox.docker.daemon import Daemon
    from belljar.sandbox.docker.image import loaded_images

    try:
        daemon = Daemon(host, answer_s=_LIST_S)
        try:
            await daemon.negotiate()
            return await loaded_images(daemon)
        finally:
            daemon.close()
    except BoxFault as fault:
        tell(f"only the jail's images are listed: {fault}")
        return None


def _of_jail(image: Image) -> BuiltImage:
    return BuiltImage(backend="jail", digest=image.digest, where=str(image.root), size_bytes=size_bytes(image))


def _of_daemon(backend: str, image: LoadedImage) -> BuiltImage:
    return BuiltImage(backend=backend, digest=image.digest, where=image.id, size_bytes=image.size_bytes)


def _line(image: BuiltImage) -> str:
    return f"{image.digest}  {image.backend:<6}  {image.size_bytes / 1e6:6.1f} MB  {image.where}"
