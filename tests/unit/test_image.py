"""The image of the boxes: what a host is told that cannot make it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from belljar.errors import BoxFault
from belljar.sandbox.image import PYTHON, ensure_image, lay_out


def test_a_full_disk_is_told_of_one_file_and_not_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> NoReturn:
        raise shutil.Error(
            [(f"a{number}", f"b{number}", "[Errno 28] No space left on device") for number in range(2000)]
        )

    monkeypatch.setattr("belljar.sandbox.image._populate", full)
    for make in (lay_out, ensure_image):
        with pytest.raises(BoxFault, match=r": \[Errno 28\] No space left on device$"):
            make(tmp_path / make.__name__)


def interpreter(root: Path) -> Path:
    return root / PYTHON.lstrip("/")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image that is made at once: of one file."""

    def populate(root: Path) -> None:
        interpreter(root).parent.mkdir(parents=True)
        interpreter(root).write_text("whole")

    monkeypatch.setattr("belljar.sandbox.image._populate", populate)
    ensure_image(tmp_path)
    return tmp_path


@pytest.mark.parametrize("left", ["", "{", "[]", "{}", '{"digest": 5}', '{"digest": "sha256:.."}', "\udcff"])
def test_a_note_that_a_power_cut_left_half_is_written_anew(made: Path, left: str) -> None:
    (note,) = made.glob("*.json")
    whole = note.read_text()
    note.write_bytes(left.encode(errors="surrogateescape"))
    assert interpreter(ensure_image(made).root).read_text() == "whole"
    assert note.read_text() == whole


def test_an_image_that_is_not_what_its_name_says_is_made_anew_where_its_note_is_gone(made: Path) -> None:
    (note,) = made.glob("*.json")
    root = ensure_image(made).root
    interpreter(root).write_text("half")
    note.unlink()
    image = ensure_image(made)
    assert image.root == root
    assert interpreter(root).read_text() == "whole"
    interpreter(root).write_text("")  # the note is still there
    assert interpreter(ensure_image(made).root).read_text() == "whole"
    shutil.rmtree(root)
    assert interpreter(ensure_image(made).root).read_text() == "whole"
    assert json.loads(note.read_text()) == {"digest": image.digest}


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("")
    with pytest.raises(BoxFault, match="could not be built below"):
        ensure_image(tmp_path / "images")
