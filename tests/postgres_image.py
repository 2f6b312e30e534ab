"""An image of PostgreSQL, made of this machine's own packages: what `deploy/compose.yaml` names, where no registry is.

It has what the file asks of the public image and no more: `POSTGRES_USER`, `POSTGRES_DB` and `POSTGRES_PASSWORD` at the
first start, the data in `/var/lib/postgresql/data`, a shell and `pg_isready` for the health check.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Final

__all__ = ["CHANGES", "pack"]

UID: Final = 999
DATA: Final = "/var/lib/postgresql/data"
CHANGES: Final = [
    'ENTRYPOINT ["/bin/sh", "/start"]',
    f"USER {UID}:{UID}",
    f"VOLUME {DATA}",
    "ENV PATH=/usr/lib/postgresql/bin:/bin",
]
_START: Final = f"""set -e
if [ ! -s {DATA}/PG_VERSION ]; then
    umask 077
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb --pgdata={DATA} --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --locale=C -E UTF8
    : > /tmp/password
    echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | postgres --single -D {DATA} postgres
    echo "host all all all scram-sha-256" >> {DATA}/pg_hba.conf
fi
exec postgres -D {DATA} -c listen_addresses='*'
"""
_LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")
_PROGRAMS: Final = ("initdb", "postgres", "pg_isready")


def pack(archive: Path, programs: Path) -> None:
    """Write the root file system. `programs`: the folder of one version, such as `/usr/lib/postgresql/15`."""
    version = programs.name
    share = Path("/usr/share/postgresql") / version
    with tarfile.open(archive, "w") as tar:
        for name in ("proc", "sys", "dev"):
            _folder(tar, name, 0o755, 0)
        _folder(tar, "tmp", 0o1777, 0)
        for name in ("var/lib/postgresql/data", "var/run/postgresql"):
            _folder(tar, name, 0o700, UID)
        # The programs look for what is theirs from where they are: both folders keep their places.
        tar.add(programs / "lib", arcname=str(programs / "lib").lstrip("/"), filter=_of_root)
        tar.add(share, arcname=str(share).lstrip("/"), filter=_of_root)
        found = [programs / "bin" / name for name in _PROGRAMS]
        for path in (*found, Path("/bin/sh"), Path("/usr/share/zoneinfo")):
            source = Path(os.path.realpath(path))
            tar.add(source, arcname=str(path).lstrip("/"), filter=_of_root)
        _link(tar, "usr/lib/postgresql/bin", str(programs / "bin"))
        for library in _libraries([*found, Path("/bin/sh"), *(programs / "lib").glob("*.so")]):
            tar.add(os.path.realpath(library), arcname=library.lstrip("/"), filter=_of_root)
        _file(tar, "start", _START)
        _file(tar, "etc/passwd", f"root:x:0:0::/:/bin/sh\npostgres:x:{UID}:{UID}::/tmp:/bin/sh\n")
        _file(tar, "etc/nsswitch.conf", "passwd: files\nhosts: files dns\n")


def _libraries(programs: list[Path]) -> list[str]:
    listed = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    return sorted(set(_LIBRARY.findall(listed)))


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _folder(tar: tarfile.TarFile, name: str, mode: int, owner: int) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, mode
    member.uid = member.gid = owner
    tar.addfile(member)


def _link(tar: tarfile.TarFile, name: str, there: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, there
    tar.addfile(member)


def _file(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    data = text.encode()
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
