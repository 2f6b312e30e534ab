"""A folder of files as a dict: relative path -> the file's text, sorted by path.

Only regular files below the folder itself go in. Symbolic links are not followed, wherever they lead: a folder that
somebody else made must not bring in what is outside it. Hidden files are files like others, but version control's own
folders (`.git` and the like) are left out: they are not text. Whatever is left out is reported, one by one, with the
reason.

A path may be longer than the system accepts, as it can be made from inside. It is refused, or left out with `skip`.

The folder is walked once for its names (memory grows with their number, not with the texts), and each file is opened
later. Meanwhile somebody may put another file, or a link, in its place: what is opened must be the very file
that was seen.

A file that does not decode, or is binary, is refused with its name; with `skip` it is left out, with `replace` its bad
bytes are replaced. Which files those are shows only when they are read, and the keys come first: so `skip` reads every
file twice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from belljar.context.document import DIRECTORY_FILE
from belljar.context.encodings import Errors, utf8
from belljar.context.files import is_too_long, opened, refuse_unless_regular, unreadable
from belljar.context.intake import Draft, Meter, OnProgress, Place, Writer, file_texts
from belljar.context.items import Directory, draft
from belljar.errors import InvalidInput

__all__ = ["Entry", "LeftOut", "Tree", "take_tree", "walk"]

_VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", ".jj", "CVS", "_darcs"}
# How much of a path that is too long is shown.
_TOLD_CHARS = 80


class LeftOut(msgspec.Struct, frozen=True):
    """Something in the folder that is not in the context."""

    path: str
    why: str


class Entry(msgspec.Struct, frozen=True):
    """A regular file as it was seen: what tells one state of it from another."""

    path: str
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str, seen: os.stat_result) -> Entry:
        return cls(path, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


class Tree(msgspec.Struct, frozen=True):
    """A folder as it was seen."""

    root: Path
    entries: list[Entry]
    left_out: list[LeftOut]


def walk(root: Path, errors: Errors) -> Tree:
    """See what is in a folder.

    Raises:
        InvalidInput: context.unreadable: a folder below cannot be listed, or a path is too long; context.encoding: a
            name is not text.
    """
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    for found, path in _below(root, errors, left_out):
        try:
            path.encode()
        except UnicodeEncodeError:
            _refuse_or_leave(path, errors, left_out)
            continue
        with _if_not_too_long(path, errors, left_out):
            entries.append(Entry.of(path, _seen(found, path)))
    entries.sort(key=lambda entry: entry.path)
    left_out.sort(key=lambda one: one.path)
    return Tree(root, entries, left_out)


def take_tree(
    place: Place, tree: Tree, declared: str | None, errors: Errors, on_progress: OnProgress | None
) -> tuple[Draft, list[LeftOut]]:
    """Take in the files of a tree as a dict, and return what else was left out.

    Raises:
        InvalidInput: context.unreadable, context.empty, context.binary, context.encoding, context.too_long.
    """
    left_out: list[LeftOut] = []
    entries = tree.entries
    if errors == "skip":
        entries = [entry for entry in entries if _is_text(tree.root, entry, declared, left_out)]
    meter = Meter(on_progress, sum(entry.size_bytes for entry in entries))
    done = 0
    with place.created(DIRECTORY_FILE) as records:
        with Writer(place, lines=False) as writer:
            directory = Directory(writer)
            directory.keys(entry.path for entry in entries)
            for entry in entries:
                label = _label(tree.root, entry)
                for text in _texts(tree.root, entry, declared, errors, meter, done):
                    writer.write(text, label, errors)
                records.write(directory.item("t", label))
                done += entry.size_bytes
        taken = draft("dict", writer, directory, repr(_shown(str(tree.root))))
    meter.end()
    return taken, left_out


def _below(root: Path, errors: Errors, left_out: list[LeftOut]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """The regular files below `root`, with their relative paths."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        listed: list[os.DirEntry[str]] = []
        with _if_not_too_long(inside, errors, left_out):
            listed = _listed(root / inside)
        for found in listed:
            path = f"{inside}/{found.name}" if inside else found.name
            if found.is_symlink():
                left_out.append(LeftOut(_shown(path), "a symbolic link"))
            elif found.is_dir(follow_symlinks=False):
                if found.name in _VERSION_CONTROL:
                    left_out.append(LeftOut(_shown(path), "version control"))
                else:
                    waiting.append(path)
            elif found.is_file(follow_symlinks=False):
                yield found, path
            else:
                left_out.append(LeftOut(_shown(path), "not a regular file"))


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise unreadable(repr(_shown(str(folder))), error) from error


def _seen(found: os.DirEntry[str], path: str) -> os.stat_result:
    try:
        return found.stat(follow_symlinks=False)
    except OSError as error:  # gone since it was listed
        raise unreadable(repr(path), error) from error


@contextlib.contextmanager
def _if_not_too_long(path: str, errors: Errors, left_out: list[LeftOut]) -> Iterator[None]:
    """Refuse, or leave out, what the system cannot open because of the length of its path."""
    try:
        yield
    except InvalidInput as error:
        if not is_too_long(error.__cause__):
            raise
        if errors != "skip":
            raise InvalidInput(
                f"the path of {_shown(path)[:_TOLD_CHARS]!r}... in the folder, {len(os.fsencode(path))} bytes, is too "
                "long for this system; shorten its names, or have such files left out (--errors skip)",
                code="context.unreadable",
            ) from error
        left_out.append(LeftOut(_shown(path), "its path is too long"))


def _refuse_or_leave(path: str, errors: Errors, left_out: list[LeftOut]) -> None:
    if errors == "strict":
        raise InvalidInput(
            f"the file name {_shown(path)!r} is not UTF-8; rename it, or have such files left out (--errors skip)",
            code="context.encoding",
        )
    left_out.append(LeftOut(_shown(path), "its name is not UTF-8"))


def _is_text(root: Path, entry: Entry, declared: str | None, left_out: list[LeftOut]) -> bool:
    label = _label(root, entry)
    try:
        for text in _texts(root, entry, declared, "strict", Meter(None, 0), 0):
            utf8(text, label)
    except InvalidInput as error:
        left_out.append(LeftOut(entry.path, _WHY.get(error.code, "it cannot be read")))
        return False
    return True


_WHY = {"context.encoding": "it does not decode", "context.binary": "it is binary"}


def _texts(root: Path, entry: Entry, declared: str | None, errors: Errors, meter: Meter, before: int) -> Iterator[str]:
    label = _label(root, entry)
    with opened(root / entry.path, label) as source:
        seen = os.fstat(source)
        refuse_unless_regular(seen.st_mode, label)
        if (seen.st_dev, seen.st_ino) != (entry.device, entry.inode):
            raise InvalidInput(
                f"{label} was replaced while the folder was read; add it when nobody is writing to it",
                code="context.unreadable",
            )
        yield from file_texts(source, label, declared, errors, lambda done: meter.at(before + done))


def _label(root: Path, entry: Entry) -> str:
    return repr(_shown(str(root / entry.path)))


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
