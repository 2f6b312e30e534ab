"""A file that a command writes is there as a whole, or as it was before."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.cli.files import write_private
from belljar.errors import AuditUnavailable, InvalidInput


def failing(error: BaseException) -> Iterator[bytes]:
    yield b"the beginning"
    raise error


@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("error", [AuditUnavailable("gone"), KeyboardInterrupt(), OSError(28, "full")], ids=repr)
def test_what_fails_midway_leaves_what_was_there(tmp_path: Path, before: bytes | None, error: BaseException) -> None:
    file = tmp_path / "file"
    if before is not None:
        file.write_bytes(before)
    with pytest.raises(InvalidInput if isinstance(error, OSError) else type(error)):
        write_private(file, failing(error))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_file_that_is_replaced_is_private_and_a_link_to_it_stays(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"old")
    file.chmod(0o644)
    link.symlink_to(file.name)
    write_private(link, [b"new", b" one"])
    assert (link.is_symlink(), file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (True, b"new one", 0o600)
