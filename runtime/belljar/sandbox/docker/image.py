"""The box image in a Docker daemon: the same root file system as the jail's, as an image made from nothing.

No registry, no Dockerfile and no base: the daemon gets an archive (as `docker save` writes it) with one layer, the
image's folder, and our own configuration. Both depend only on the folder, byte for byte, so the same root file system
gives the same image everywhere, and which image it is can be checked afterwards::

    manifest.json       the tag belljar:DIGEST (its first 16 digits), and the names of the two below
    CONFIG.json         nobody as its user, the agent as its entry point, labels, and the layer's `diff id`
    layer.tar           the files, sorted; owned by root, except /tmp; no times

Anybody who can use the daemon may move a tag. So what it stands for is compared with what we would have made, by the
layer's diff id (SHA-256 of layer.tar) and by every setting of the configuration that matters when a box starts; never
by the image's ID, which one kind of daemon derives from the configuration and another does not. If it is not ours, ours
is loaded again and takes over the tag; if it still is not, no box starts. Boxes are made from the ID.

Loading is streamed, happens completely or not at all, and two processes that do it at once end with the same image. The
diff id is remembered beside the image (`DIGEST.layer.json`), so that a second start need not read and hash 65 MiB,
which takes 0.23 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import platform
import stat
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import docker
import msgspec

from belljar.errors import BoxFault
from belljar.sandbox.docker.daemon import Daemon, NotThere
from belljar.sandbox.docker.options import ENTRYPOINT, USER
from belljar.sandbox.image import RECIPE, Image, locked

__all__ = ["LoadedImage", "ensure_loaded", "layer_bytes", "loaded_images"]

_DIGEST: Final = "belljar.digest"
_AGENT: Final = "belljar.agent"
_RECIPE: Final = "belljar.recipe"

_NOBODY: Final = int(USER.partition(":")[0])
_SCRATCH: Final = "tmp"
_EPOCH: Final = "1970-01-01T00:00:00Z"
# Docker's names. Others are as the kernel has them.
_ARCHITECTURES: Final = {"x86_64": "amd64"}
# The settings that affect how a container starts; other keys are a daemon's own notes.
_MEANINGFUL: Final = (
    *("User", "Entrypoint", "Cmd", "WorkingDir", "Env", "Labels"),
    *("Volumes", "ExposedPorts", "Healthcheck", "OnBuild", "Shell", "StopSignal", "NetworkDisabled"),
)

# 66 MB take less than a second; a disk under load may need a hundred times that. It bounds each read and each write.
_LOAD_S: Final = 60.0
_PIECE_BYTES: Final = 2**20
# Changes whenever the same files give other bytes.
_LAYER_FORMAT: Final = 1


class LoadedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the daemon.

    Boxes are made from `id`. `digest` is that of the root file system, `agent` the version of belljar that made it.
    `loaded_now`: it was not there before.
    """

    id: str
    digest: str
    agent: str
    tags: tuple[str, ...]
    size_bytes: int
    loaded_now: bool = False


class _Layer(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    diff_id: str
    size_bytes: int


async def ensure_loaded(daemon: Daemon, image: Image) -> LoadedImage:
    """`image` in the daemon, loaded if it is not there yet (a few seconds, once).

    Raises:
        BoxFault: the daemon refused it, is not there or does not answer; or the image under our tag is still not ours.
    """
    layer = await asyncio.to_thread(_layer, image)
    config, tag = _config(image, layer), f"belljar:{image.digest.removeprefix('sha256:')[:16]}"
    found = await _inspect(daemon, tag)
    loaded_now = found is None or _differences(found, config) != []
    if loaded_now:
        await _load(daemon, image, layer, config, tag)
        found = await _inspect(daemon, tag)
    if found is None:
        raise BoxFault(f"the Docker daemon at {daemon.host} took the image {tag} but does not have it: try again")
    if wrong := _differences(found, config):
        raise BoxFault(
            f"the image {tag} of the Docker daemon at {daemon.host} is not the one that was loaded (different: "
            f"{', '.join(wrong)}): find out who else tags images as belljar, remove it, and try again"
        )
    return _described(found["Id"], found["Config"]["Labels"], found, loaded_now=loaded_now)


async def loaded_images(daemon: Daemon) -> list[LoadedImage]:
    """The images in the daemon that claim to be ours, sorted by digest. Only `ensure_loaded` checks whether one is.

    Raises:
        BoxFault: the daemon refused, is not there, or does not answer.
    """
    found = await daemon.ask(daemon.client.images, filters={"label": _DIGEST})
    listed = [_described(each["Id"], each["Labels"], each, loaded_now=False) for each in found]
    return sorted(listed, key=lambda image: (image.digest, image.id))


def _described(id_: str, labels: Mapping[str, str], about: Mapping[str, Any], *, loaded_now: bool) -> LoadedImage:
    tags = tuple(tag for tag in about["RepoTags"] or () if tag != "<none>:<none>")
    return LoadedImage(
        id=id_,
        digest=labels[_DIGEST],
        agent=labels.get(_AGENT, ""),
        tags=tags,
        size_bytes=about["Size"],
        loaded_now=loaded_now,
    )


# ------------------------------------------------------------------------------------------------------ what ours is


def _config(image: Image, layer: _Layer) -> dict[str, Any]:
    machine = platform.machine()
    return {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": _EPOCH,
        "config": {
            "User": USER,
            "Entrypoint": list(ENTRYPOINT),
            "WorkingDir": f"/{_SCRATCH}",
            "Env": [],
            "Labels": {_DIGEST: image.digest, _AGENT: metadata.version("belljar"), _RECIPE: str(RECIPE)},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": _EPOCH, "created_by": "belljar image build"}],
    }


async def _inspect(daemon: Daemon, tag: str) -> dict[str, Any] | None:
    try:
        return dict(await daemon.ask(daemon.client.inspect_image, tag))
    except NotThere:
        return None


def _differences(found: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The settings in which an image of the daemon differs from `config`."""
    wrong = [] if found["RootFS"].get("Layers") == config["rootfs"]["diff_ids"] else ["RootFS"]
    wrong += [name for name in ("Architecture", "Os") if found[name] != config[name.lower()]]
    theirs, ours = found["Config"] or {}, config["config"]
    # Empty and absent mean the same, and which of them is written changes from version to version.
    return wrong + [key for key in _MEANINGFUL if (theirs.get(key) or None) != (ours.get(key) or None)]


# ------------------------------------------------------------------------------------------------------------ loading


async def _load(daemon: Daemon, image: Image, layer: _Layer, config: Mapping[str, Any], tag: str) -> None:
    given_up = threading.Event()
    loading = daemon.beside(answer_s=_LOAD_S)
    try:
        said = await loading.ask(_load_now, loading.client, _archive(image, layer, config, tag), given_up)
    finally:
        # If the caller was cancelled, the thread stops sending, and the daemon throws away what it has.
        given_up.set()
        loading.close()
    if said:
        raise BoxFault(f"the Docker daemon at {daemon.host} did not load the image {tag}: {said}")


def _load_now(client: docker.APIClient, archive: Iterator[bytes], given_up: threading.Event) -> str:
    """Load it; returns the daemon's error, if any."""

    def pieces() -> Iterator[bytes]:
        for piece in archive:
            if given_up.is_set():
                raise BoxFault("the image was not completely loaded: nobody waits for it any more")
            yield piece

    # A refusal comes as a further line of the answer, or as the only one. The SDK sends any iterable.
    answer = client.load_image(pieces(), quiet=True)  # type: ignore[no-untyped-call]
    lines = [line for line in answer if isinstance(line, dict)]
    said = [str(line.get("error") or line.get("message") or "") for line in lines]
    return " ".join(" ".join(said).split())[:500]


def _archive(image: Image, layer: _Layer, config: Mapping[str, Any], tag: str) -> Iterator[bytes]:
    described = json.dumps(config, sort_keys=True).encode()
    name = f"{hashlib.sha256(described).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()

    def parts() -> Iterator[bytes]:
        for member, content in (("manifest.json", manifest), (name, described)):
            yield from _member(_file(member, len(content)), [content])
        yield from _member(_file("layer.tar", layer.size_bytes), layer_bytes(image.root))
        yield _TAR_END

    return _in_pieces(parts())


# ---------------------------------------------------------------------------------------------------------- the layer


def _layer(image: Image) -> _Layer:
    name = image.digest.removeprefix("sha256:")
    known = image.root.parent / f"{name}.layer.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        remembered = msgspec.json.decode(known.read_bytes(), type=_Layer)
        if remembered.format == _LAYER_FORMAT:
            return remembered
    total, size_bytes = hashlib.sha256(), 0
    for piece in layer_bytes(image.root):
        total.update(piece)
        size_bytes += len(piece)
    layer = _Layer(format=_LAYER_FORMAT, diff_id=f"sha256:{total.hexdigest()}", size_bytes=size_bytes)
    # Where the folder is read-only, this is computed again the next time.
    with contextlib.suppress(OSError), locked(image.root.parent):
        partial = known.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(layer))
        os.rename(partial, known)
    return layer


def layer_bytes(root: Path) -> Iterator[bytes]:
    """The layer of a root file system: the same files give the same bytes, no matter where and by whom they were made.

    Raises:
        BoxFault: it cannot be read, or changes meanwhile.
    """
    return _in_pieces(_entries(root))


def _entries(root: Path) -> Iterator[bytes]:
    try:
        for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
            entry = _entry(path, path.relative_to(root).as_posix())
            yield from _member(entry, _content(path) if entry.isreg() else [])
    except OSError as error:
        raise BoxFault(f"the box image in {root} cannot be read: {error}: remove that folder, and try again") from error
    yield _TAR_END


def _entry(path: Path, name: str) -> tarfile.TarInfo:
    about = path.lstat()
    entry = tarfile.TarInfo(name)
    entry.mode = stat.S_IMODE(about.st_mode)
    if stat.S_ISREG(about.st_mode):
        entry.size = about.st_size
    elif stat.S_ISLNK(about.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISDIR(about.st_mode):
        entry.type = tarfile.DIRTYPE
    if entry.mode & ~0o777 or (entry.isreg() and not stat.S_ISREG(about.st_mode)):
        raise BoxFault(f"{path} of the box image is a device or has a set-id bit: remove that image, and try again")
    if name == _SCRATCH:
        entry.uid = entry.gid = _NOBODY
    return entry


def _file(name: str, size_bytes: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size_bytes
    return entry


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


_TAR_END: Final = bytes(2 * tarfile.BLOCKSIZE)


def _member(entry: tarfile.TarInfo, content: Iterable[bytes]) -> Iterator[bytes]:
    """One member of an archive: its heading, its content, and zeros up to a whole block."""
    yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    size = 0
    for piece in content:
        size += len(piece)
        yield piece
    if size != entry.size:
        raise BoxFault(
            f"{entry.name} of the box image has changed since it was built: remove that image, and try again"
        )
    yield bytes(-size % tarfile.BLOCKSIZE)


def _in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of a good size to hash and to send."""
    waiting = bytearray()
    for part in parts:
        waiting += part
        if len(waiting) >= _PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
