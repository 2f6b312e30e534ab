"""A root file system for the service, made from the Python that runs this and from nothing else: no registry, no index.

    python deploy/rootfs.py > root.tar

The archive is what an image consists of; `make service-image` hands it to a Docker daemon. The same Python and packages
give the same bytes::

    /usr/local/bin/python3       the interpreter; /usr/local/lib has its library and the shared objects of it and of all
    /usr/local/lib/pythonX.Y/    the standard library; in site-packages belljar and what it needs, no tool and no test
    /usr/local/bin/belljar       the command
    /usr/bin/ldd                 a script of ours, for the box image: asks the loader
    /etc/passwd, group, ssl      the user belljar (10001), and whom this machine trusts for TLS
    /var/lib/belljar             the state, the user's
    /tmp /run                    mount points for a read-only root

There is no shell, no package manager and no set-id file. The box image is made from the same interpreter when a run
first needs it, in the state folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
EXTRAS: Final = frozenset({"serve", "mcp", "openai", "postgres"})
VERSION: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"
UID: Final = 10001
STATE: Final = "/var/lib/belljar"
LEFT_OUT: Final = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages"),
    *("__pycache__", "*.pyc", "config-*", "_test*", "_xxtestfuzz*", "_tkinter*", "*.a"),
)
LDD: Final = """#!/usr/local/bin/python3 -IS
import os, subprocess, sys
for file in sys.argv[1:]:
    print(file + ":", flush=True)
    subprocess.run(["{loader}", "--list", file], check=False)
"""
COMMAND: Final = """#!/usr/local/bin/python3 -I
import sys
from belljar_command import main
sys.exit(main())
"""
# How `ldd` names a shared object, and how the loader itself.
LINE: Final = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$")


def main() -> None:
    if sys.stdout.isatty():
        raise SystemExit("the archive goes to stdout: redirect it to a file, or pipe it to `docker import`")
    with tempfile.TemporaryDirectory(prefix="belljar-rootfs-") as folder:
        root = Path(folder, "root")
        lay_out(root)
        pack(root)


def pack(root: Path) -> None:
    """Write the archive: in order, of no time, and root's but for the state folder."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        owner = UID if f"/{member.name}" == STATE else 0
        member.uid = member.gid = owner
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=plain)


def lay_out(folder: Path) -> None:
    for name in ("usr/bin", "usr/local/bin", "usr/lib", "etc/ssl/certs", "run", "proc", "sys", "dev"):
        (folder / name).mkdir(parents=True)
    for name in ("lib", "lib64"):
        (folder / name).symlink_to("usr/lib")
    library = folder / "usr/local/lib" / f"python{VERSION}"
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=LEFT_OUT, symlinks=True)
    _plain_copy(_interpreter(), folder / "usr/local/bin" / f"python{VERSION}", 0o755)
    for name in ("python3", "python"):
        (folder / "usr/local/bin" / name).symlink_to(f"python{VERSION}")
    _packages(library / "site-packages")
    loader = _shared_objects(folder)
    _script(folder / "usr/bin/ldd", LDD.format(loader=f"/lib64/{loader}"))
    _script(folder / "usr/local/bin/belljar", COMMAND)
    _system(folder)
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(folder), "-p", "/", "--invalidation-mode"]
    subprocess.run([*command, "unchecked-hash", str(library)], check=False)  # noqa: S603 - our own interpreter


def _interpreter() -> Path:
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


# ------------------------------------------------------------------------------------------------------------ packages


def _packages(site: Path) -> None:
    """Belljar, and what it needs with these extras, as it is installed here."""
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    install += ["--no-build-isolation", "--no-compile", "--target", str(site), str(ROOT)]
    subprocess.run([sys.executable, *install], check=True, stdout=sys.stderr)  # noqa: S603 - likewise
    shutil.rmtree(site / "bin", ignore_errors=True)
    (belljar,) = metadata.distributions(name="belljar", path=[str(site)])
    for distribution in _needed(belljar):
        for path in distribution.files or ():
            source = Path(str(path.locate()))
            # Scripts lie outside of the folder of packages; nobody calls them here.
            if ".." in path.parts or path.suffix == ".pyc" or not source.is_file():
                continue
            _plain_copy(source, site / path, 0o644)


def _needed(first: metadata.Distribution) -> list[metadata.Distribution]:
    """What a distribution needs with our extras, and what that needs, by name."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [*_requirements(first, EXTRAS)]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) not in seen:
            seen.add((name, extras))
            found[name] = _installed(name)
            waiting += _requirements(found[name], extras)
    return [found[name] for name in sorted(found)]


def _installed(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise SystemExit(f"{name} is not installed here: install belljar[{','.join(sorted(EXTRAS))}]") from None


def _requirements(of: metadata.Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """The names and extras that count here, of lines as `httpx[http2]>=1; extra == "x" and python_version < "3.12"`."""
    for line in of.requires or ():
        wish, _, marker = line.partition(";")
        match = re.match(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?", wish)
        assert match is not None, line
        if not marker or any(_holds(marker, extra) for extra in ("", *extras)):
            more = frozenset(part.strip() for part in (match[2] or "").split(",") if part.strip())
            yield re.sub(r"[-_.]+", "-", match[1]).lower(), more


def _holds(marker: str, extra: str) -> bool:
    from packaging.markers import Marker

    return Marker(marker).evaluate({"extra": extra})


# ------------------------------------------------------------------------------------------------------------ the rest


def _shared_objects(folder: Path) -> str:
    """All that the interpreter and the packages load, flat in /usr/lib. Returns the loader's name."""
    wanted = [_interpreter(), *sorted((folder / "usr/local").rglob("*.so*"))]
    files = [str(path) for path in wanted if not path.is_symlink()]
    listed = subprocess.run(  # noqa: S603 - files of this machine's own packages
        ["/usr/bin/ldd", *files], capture_output=True, text=True, check=False
    ).stdout
    loader = ""
    for line in listed.splitlines():
        # What a package brings along is found beside it.
        if (match := LINE.match(line)) and not match[1].startswith(str(folder)):
            found = Path(match[1])
            if not (target := folder / "usr/lib" / found.name).exists():
                _plain_copy(Path(os.path.realpath(found)), target, 0o755)
            loader = found.name if found.name.startswith("ld-") else loader
    if not loader:
        raise SystemExit(f"no loader was found for {_interpreter()}: a glibc interpreter is needed")
    return loader


def _system(folder: Path) -> None:
    (folder / "etc/passwd").write_text(
        f"root:x:0:0:root:/:/bin/false\nbelljar:x:{UID}:{UID}:belljar:/var/lib/belljar:/bin/false\n"
    )
    (folder / "etc/group").write_text(f"root:x:0:\nbelljar:x:{UID}:\n")
    (folder / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    for trusted in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
        if Path(trusted).is_file():
            _plain_copy(Path(trusted), folder / "etc/ssl/certs/ca-certificates.crt", 0o644)
            break
    (folder / "tmp").mkdir(mode=0o1777)
    (folder / "tmp").chmod(0o1777)
    (folder / "var/lib/belljar").mkdir(parents=True)
    (folder / "var/lib/belljar").chmod(0o700)


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _plain_copy(source: Path, target: Path, mode: int) -> None:
    """The content alone: no owner, no set-id bit."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


if __name__ == "__main__":
    main()
