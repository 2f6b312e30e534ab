"""The image: a root file system made from the running interpreter, using only what is on this machine.

It holds CPython, its standard library, the shared objects these need, time zones, RestrictedPython and the guest agent;
no shell, no package manager, no set-id file, no site-packages, no path of the host. Layout::

    /usr/bin/python3              the interpreter
    /usr/lib/pythonX.Y/           the standard library, compiled (hash-based: the same input gives the same bytes)
    /usr/lib/*.so*                the shared objects, flat; /lib and /lib64 point here, which every loader searches
    /usr/share/zoneinfo/          time zones, from the package `tzdata` and not from this machine
    /usr/lib/belljar/             the guest package and RestrictedPython
    /dev /tmp                     mount points; /tmp is private: a container runtime copies its mode to what it mounts

An image's name is its digest: SHA-256 over the sorted list of (path, mode, content hash or link target). It is built in
a temporary folder, flushed to the disk and renamed into place under a lock: neither a crash nor a power cut leaves half
an image, and two processes do not build twice. `key` remembers which inputs gave which digest, so later starts find the
image in 3 ms; building it takes 2 s, and hashing it 0.14 s.

`python -m belljar.sandbox.image FOLDER` lays the same root out in an empty folder and prints its digest, for recipes
that belljar does not run (`sandbox_images/Dockerfile`). It needs this module, `assets`, `errors` and the sources that
go into the image; the only packages it needs are msgspec, RestrictedPython and tzdata.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec

from belljar import assets
from belljar.errors import BoxFault

__all__ = [
    "AGENT",
    "INTERPRETER",
    "PYTHON",
    "RECIPE",
    "ZYGOTE",
    "Image",
    "ensure_image",
    "image_in",
    "lay_out",
    "locked",
    "size_bytes",
    "stored_images",
]

PYTHON = "/usr/bin/python3"
# As with `-I`, no folder of a user or of the script is on the path. But it reads its environment, which has the hash
# seed and nothing else (`base.hash_environment`). No site-packages, no bytecode, UTF-8 whatever the locale.
INTERPRETER = (PYTHON, "-s", "-P", "-S", "-B", "-X", "utf8")
AGENT = "/usr/lib/belljar/guest/box/boot.py"
ZYGOTE = "/usr/lib/belljar/guest/box/zygote.py"

# These need a display, a terminal, a compiler, a network or a package index; or test CPython itself.
_LEFT_OUT_PACKAGES = frozenset(
    {
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "lib2to3",
        "distutils",
        "venv",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "curses",
        "dbm",
    }
)
_LEFT_OUT_FILES = re.compile(
    r"(_sysconfigdata.*\.py|turtle\.py|pydoc\.py|nturl2path\.py|sitecustomize\.py|.*\.pyc"
    r"|(_tkinter|_curses.*|readline|nis|_dbm|_gdbm|spwd|ossaudiodev|_test.*|_xxtestfuzz|xx.*|_ctypes_test)\..*\.so"
    r"|(_tkinter|_curses.*|readline|nis|_dbm|_gdbm|spwd|ossaudiodev|_test.*|_xxtestfuzz|xx.*|_ctypes_test)\.so)"
)
_LDD_LINE = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$")
_LDD_SECONDS_MAX = 60
_COMPILE_SECONDS_MAX = 300
_FLUSHES_MAX = 16
_DIGEST = re.compile("[0-9a-f]{64}")
_ZONES = "/usr/share/zoneinfo"
# How a time zone file begins; the package also has tables that nobody reads.
_ZONE_MAGIC = b"TZif"
# Changes with the recipe below, so that images of an older recipe are not taken for this one's.
RECIPE = 5


class Image(msgspec.Struct, frozen=True):
    """`digest` names the content; `root` is the folder to pivot into."""

    digest: str
    root: Path


class _Note(msgspec.Struct):
    """What some inputs gave."""

    digest: Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]


def ensure_image(folder: Path) -> Image:
    """The image of the running interpreter, built below `folder` if it does not exist yet (a few seconds, once).

    Raises:
        BoxFault: it could not be built; the message says why.
    """
    try:
        known = _note(folder)
        if (image := _known(folder, known)) is not None:
            return image
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder):
            return _known(folder, known) or _publish(folder, known)
    except (OSError, subprocess.SubprocessError) as error:
        raise BoxFault(f"the box image could not be built below {folder}: {_first(error)}") from error


def image_in(folder: Path) -> Image | None:
    """The image of the running interpreter that is below `folder`; None if it is still to be built there.

    Raises:
        OSError: the folder cannot be read.
    """
    return _known(folder, _note(folder))


def lay_out(root: Path) -> str:
    """Make the root file system in `root`, an empty or missing folder; return its digest.

    Raises:
        BoxFault: it could not be made; the message says why.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise BoxFault(f"{root} is not empty: name a folder that is, or that does not exist yet")
        _populate(root)
        return f"sha256:{_digest(root)}"
    except (OSError, subprocess.SubprocessError) as error:
        raise BoxFault(f"the root file system could not be made in {root}: {_first(error)}") from error


def _first(error: Exception) -> object:
    """What a copy of a tree says of each of its files, such as that the disk is full, of one of them."""
    return error.args[0][0][2] if isinstance(error, shutil.Error) and isinstance(error.args[0], list) else error


def stored_images(folder: Path) -> list[Image]:
    """The images below `folder`, of this interpreter and of others, sorted by digest."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [_image(folder, f"sha256:{name}") for name in names if _DIGEST.fullmatch(name)]


def size_bytes(image: Image) -> int:
    """The total size of the image's files."""
    return sum(about.st_size for path in image.root.rglob("*") if stat.S_ISREG((about := path.lstat()).st_mode))


def _image(folder: Path, digest: str) -> Image:
    return Image(digest=digest, root=folder / digest.removeprefix("sha256:"))


def _note(folder: Path) -> Path:
    """Where it stands which image the running interpreter has. Its name is a digest of all sources."""
    return folder / f"{_key()}.json"


def _known(folder: Path, known: Path) -> Image | None:
    """What was made before; None also where somebody has left only a part of it."""
    try:
        note = msgspec.json.decode(known.read_bytes(), type=_Note)
        image = _image(folder, note.digest)
        return image if (image.root / PYTHON.lstrip("/")).stat().st_size else None
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _publish(folder: Path, known: Path) -> Image:
    _sweep(folder)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        _populate(building)
        digest = _digest(building)
        _flush(building)
        target = folder / digest
        if target.exists() and _digest(target) == digest:
            shutil.rmtree(building)
        else:
            shutil.rmtree(target, ignore_errors=True)  # of an image that is damaged
            os.rename(building, target)
        partial = known.with_suffix(".partial")
        note = _Note(f"sha256:{digest}")
        partial.write_bytes(msgspec.json.encode(note))
        os.rename(partial, known)
        return _image(folder, note.digest)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _flush(root: Path) -> None:
    """Wait until all of a tree is on the disk. At once, because then the disk needs a tenth of the time.

    Raises:
        OSError: it could not be written.
    """
    paths = [root, *(path for path in root.rglob("*") if not path.is_symlink())]
    with ThreadPoolExecutor(_FLUSHES_MAX) as threads:
        for _ in threads.map(_flush_one, paths):
            pass


def _flush_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Under the lock, whatever is still named `.building-` belongs to nobody."""
    for left in folder.glob(".building-*"):
        shutil.rmtree(left)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While the block lasts, no other process changes the folder of images."""
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _interpreter() -> Path:
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def _key() -> str:
    """A cheap key of the image's inputs: the interpreter's identity, our sources, the recipe."""
    about = _interpreter().stat()
    facts = [RECIPE, sys.version, str(_interpreter()), about.st_size, about.st_mtime_ns]
    facts += [metadata.version("RestrictedPython"), metadata.version("tzdata")]
    guest = assets.guest_dir()
    for source in sorted(guest.rglob("*.py")):
        facts.append([source.relative_to(guest).as_posix(), hashlib.sha256(source.read_bytes()).hexdigest()])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _populate(root: Path) -> None:
    root.chmod(0o755)
    for name in ("usr/bin", "usr/lib/belljar", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("lib", "lib64"):
        (root / name).symlink_to("usr/lib")
    for device in ("null", "zero", "urandom"):
        (root / "dev" / device).touch()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    _copy_file(_interpreter(), root / "usr/bin/python3", 0o755)
    library = root / "usr/lib" / version
    _copy_tree(Path(sysconfig.get_path("stdlib")), library)
    platform = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    if platform.is_dir() and not (library / "lib-dynload").exists():
        _copy_tree(platform, library / "lib-dynload")
    _write_build_facts(library)
    _copy_tree(assets.guest_dir(), root / "usr/lib/belljar/guest")
    _copy_tree(_package("RestrictedPython"), root / "usr/lib/belljar/RestrictedPython")
    _copy_zones(root)
    _copy_shared_objects(root)
    _compile(root)
    _settle_modes(root)


def _settle_modes(root: Path) -> None:
    """Some modes so far depend on this process's umask; the guest, who is nobody, must be able to read everything."""
    for path in root.rglob("*"):
        if path.is_symlink():
            continue
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    (root / "tmp").chmod(0o700)


def _write_build_facts(library: Path) -> None:
    """`sysconfig` and `zoneinfo` ask how the interpreter was built; the real answer reveals this host's paths."""
    name = f"_sysconfigdata_{sys.abiflags}_{sys.platform}_{getattr(sys.implementation, '_multiarch', '')}"
    (library / f"{name}.py").write_text(f'build_time_vars = {{"TZPATH": "{_ZONES}"}}\n')


def _copy_zones(root: Path) -> None:
    source = _package("tzdata") / "zoneinfo"
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.read_bytes().startswith(_ZONE_MAGIC):
            target = root / _ZONES.lstrip("/") / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_file(path, target, 0o644)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise BoxFault(f"{name} is not installed: reinstall belljar")
    return Path(spec.origin).parent


def _copy_tree(source: Path, target: Path) -> None:
    def left_out(_folder: str, names: list[str]) -> list[str]:
        return [
            name
            for name in names
            if name in _LEFT_OUT_PACKAGES or name.startswith("config-") or _LEFT_OUT_FILES.fullmatch(name)
        ]

    shutil.copytree(source, target, ignore=left_out, copy_function=_copy_plain)
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)  # noqa: S103 - the guest is nobody and must be able to read it


def _copy_plain(source: str, target: str) -> None:
    _copy_file(Path(source), Path(target), 0o644)


def _copy_file(source: Path, target: Path, mode: int) -> None:
    """Copy only the content: no owner, no set-id bit, no attribute."""
    shutil.copyfile(source, target)
    target.chmod(mode)


def _copy_shared_objects(root: Path) -> None:
    wanted = [_interpreter(), *sorted((root / "usr/lib").rglob("*.so"))]
    for found in sorted(_closure(wanted)):
        target = root / "usr/lib" / found.name
        if not target.exists():
            _copy_file(Path(os.path.realpath(found)), target, 0o755)


def _closure(files: list[Path]) -> set[Path]:
    """The shared objects that `files` load, with the loader itself, as the host's loader finds them.

    `ldd` only runs files of this machine's own interpreter, never anything a guest made.
    """
    found: set[Path] = set()
    # One call for all: ldd prints a heading for each file, which the pattern skips.
    result = subprocess.run(  # noqa: S603
        ["/usr/bin/ldd", *map(str, files)], capture_output=True, text=True, timeout=_LDD_SECONDS_MAX, check=False
    )
    for line in result.stdout.splitlines():
        if match := _LDD_LINE.match(line):
            found.add(Path(match[1]))
        elif "=> not found" in line:
            raise BoxFault(f"a shared object of the interpreter is missing: {line.strip()}")
    if not found:
        raise BoxFault(f"ldd found no shared objects for {files[0]}: a statically linked interpreter is not supported")
    return found


def _compile(root: Path) -> None:
    """Compile to the same bytes everywhere: in a separate process, file after file.

    The compiler's output also depends on which strings the rest of the process holds, and so on what happens to have
    been imported.
    """
    command = [str(_interpreter()), "-I", "-S", "-X", "utf8", "-m", "compileall", "-q", "-r", "20"]
    command += ["-s", str(root), "-p", "/", "--invalidation-mode", "unchecked-hash", str(root / "usr/lib")]
    result = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=_COMPILE_SECONDS_MAX, check=False
    )
    if result.returncode:
        # Deliberately broken files (as in lib2to3) are left out, so whatever fails to compile here is a real error.
        said = " ".join(f"{result.stdout} {result.stderr}".split())[:500]
        raise BoxFault(f"a module of the standard library does not compile: {said}")


def _digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        if stat.S_ISLNK(about.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(about.st_mode):
            with path.open("rb") as handle:
                content = hashlib.file_digest(handle, "sha256").hexdigest()
        else:
            content = ""
        total.update(f"{path.relative_to(root)}\0{about.st_mode:o}\0{content}\n".encode())
    return total.hexdigest()


if __name__ == "__main__":
    print(lay_out(Path(sys.argv[1])))
