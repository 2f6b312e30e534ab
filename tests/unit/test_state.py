"""The state folder: where it is, and that nobody but its user looks into it."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from belljar.errors import AuditUnavailable, InvalidInput
from belljar.state import State


def test_a_new_state_folder_is_its_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        State(tmp_path / "above" / "state").create()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "above" / "state").stat().st_mode) == 0o700


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    State(tmp_path).create()
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable, match="choose another with --state or BELLJAR_HOME"):
        State(Path("/proc/1/state")).create()


def test_a_file_in_the_folder_s_place_is_a_fault_of_whoever_named_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/state"):
        with pytest.raises(InvalidInput, match="is not a folder, or lies below a file: name a folder") as refused:
            State(tmp_path / place).create()
        assert refused.value.code == "state.folder"


def test_a_path_that_no_document_could_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'.*/state\\udcff', is not valid UTF-8") as refused:
        State.at(os.fsdecode(bytes(tmp_path) + b"/state\xff"), {})
    assert refused.value.code == "state.path"


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidInput, match="'state' is relative to a working folder that has been removed; change"):
        State.at("state", {})
    assert State.at("/state", {}).root == Path("/state")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/h"}, "/h/.local/state/belljar"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/belljar"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x", "BELLJAR_HOME": "/b"}, "/b"),
        ({"HOME": ""}, f"{pwd.getpwuid(os.getuid()).pw_dir}/.local/state/belljar"),
    ],
)
def test_where_it_is_without_a_word(environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert State.at(None, environ).root == Path(expected)
    assert State.at(Path("/said"), environ).root == Path("/said")
