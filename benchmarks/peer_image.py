"""An image for the peers' containers, made from nothing but what is on this machine; no registry is asked.

The peers' own defaults are public images of Python, which have to be pulled. This one has what they use of those: the
running interpreter with its standard library and pip, a shell, a few programs, and the two packages that `rlms` would
install at every start if they were not there. Like those, it starts Python when it is told nothing else.

    /usr/local/{bin,lib}      the interpreter, and its packages in site-packages
    /bin/sh /usr/bin/...      programs of the host
    /usr/lib/*.so*            what all of these load; /lib and /lib64 point here, which every loader searches
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from belljar.sandbox.docker.daemon import Daemon
from benchmarks.measure import BenchmarkError

__all__ = ["peer_image"]

_REPOSITORY: Final = "belljar-benchmarks-peers"
# Most of what an interpreter's folder holds, and nothing that a peer imports.
_LEFT_OUT: Final = {"test", "tests", "site-packages", "idlelib", "tkinter", "turtledemo", "lib2to3"}
_PROGRAMS: Final = ("sh", "tail", "rm", "mkdir", "chown")
# Of which environments, the packages that containers have.
_PACKAGES: Final = {
    "rlms": ("requests", "urllib3", "idna", "certifi", "charset_normalizer", "pip"),
    "dill": ("dill",),
}
_LDD_LINE: Final = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_CHANGES: Final = ["ENV PATH=/usr/local/bin:/usr/bin:/bin", 'CMD ["python3"]']


@contextlib.contextmanager
def peer_image(daemon: Daemon, pythons: dict[str, Path], scratch: Path) -> Iterator[str]:
    """The image's name, while the block lasts.

    Args:
        pythons: the interpreters of the environments of `rlms` and `dill`.
        scratch: where to make it.

    Raises:
        BenchmarkError: it cannot be made.
    """
    name = f"{_REPOSITORY}:{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="image-", dir=scratch) as folder:
        root = Path(folder) / "root"
        try:
            _populate(root, pythons)
        except (OSError, subprocess.SubprocessError) as error:
            raise BenchmarkError(f"an image for the peers cannot be made: {error}") from None
        archive = Path(folder) / "root.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(root, arcname=".", filter=_of_root)
        daemon.ask_now(
            daemon.client.import_image, str(archive), repository=_REPOSITORY, tag=name.split(":")[1], changes=_CHANGES
        )
    try:
        yield name
    finally:
        daemon.ask_now(daemon.client.remove_image, name, force=True)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _populate(root: Path, pythons: dict[str, Path]) -> None:
    for name in ("usr/local/bin", "usr/local/lib", "usr/bin", "usr/lib", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    for name, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib")):
        (root / name).symlink_to(target)
    # There is no index to ask for a newer pip, and to find that out can take seconds.
    (root / "etc/pip.conf").write_text("[global]\ndisable-pip-version-check = true\n", encoding="ascii")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n", encoding="ascii")
    interpreter = Path(os.path.realpath(sys.executable))
    shutil.copy2(interpreter, root / "usr/local/bin/python3")
    (root / "usr/local/bin/python").symlink_to("python3")
    for name in _PROGRAMS:
        shutil.copy2(os.path.realpath(_found(name)), root / "usr/bin" / name)
    library = root / "usr/local/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=_left_out, symlinks=True)
    for name, packages in _PACKAGES.items():
        _copy_packages(pythons[name], packages, library / "site-packages")
    _start_pip(root / "usr/local/bin/pip")
    _copy_shared_objects(root, [*(root / "usr/local/bin").iterdir(), *(root / "usr/bin").iterdir()], interpreter)


def _found(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise BenchmarkError(f"an image for the peers cannot be made: this machine has no {program}")
    return found


def _left_out(_folder: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in _LEFT_OUT or name.startswith("config-")]


def _copy_packages(python: Path, packages: Iterable[str], target: Path) -> None:
    """With what pip knows about them, so that it finds them installed."""
    source = next((python.parent.parent / "lib").glob("python3*/site-packages"))
    for package in packages:
        for path in (source / package, *source.glob(f"{package}-*.dist-info")):
            shutil.copytree(path, target / path.name)


def _start_pip(path: Path) -> None:
    path.write_text("#!/usr/local/bin/python3\nfrom pip import main\nraise SystemExit(main())\n", encoding="ascii")
    path.chmod(0o755)


def _copy_shared_objects(root: Path, programs: Iterable[Path], interpreter: Path) -> None:
    objects = [interpreter, *programs, *(root / "usr/local/lib").rglob("*.so")]
    listed = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, timeout=60, check=False)
    for found in sorted(set(_LDD_LINE.findall(listed.stdout))):
        if not Path(found).is_relative_to(root):
            shutil.copy2(os.path.realpath(found), root / "usr/lib" / Path(found).name)
