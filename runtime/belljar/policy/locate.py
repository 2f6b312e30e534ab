"""The line of each key in a TOML text.

`tomllib` reads TOML and forgets where things stood. This scanner does the opposite: it walks a text that `tomllib` has
already accepted, understands only where keys and list items begin, and returns `{path: line}`. A path is the keys from
the top, with the index for an item of a list: `("box", "requires", 2)`. Headers, dotted keys and inline tables also
give their line to each prefix of their path, unless it has an earlier one.

Never give it other text: for text that is not TOML the answer means nothing and may never come.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final, TypeAlias

__all__ = ["Path", "locate"]

Path: TypeAlias = tuple[str | int, ...]

_BLANK: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*+")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^,\]}\n#]*")


def locate(text: str) -> dict[Path, int]:
    """The line, counted from 1, of each key and list item of a valid TOML text."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.counted = (0, 1)
        self.lines: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self.skip(_GAP)
        while self.at < len(self.text):
            if self.peek() == "[":
                self.skip_signs("[")
                table = self.key(())
                self.skip_signs("]")
            else:
                self.pair(table)
            self.skip(_GAP)

    def pair(self, table: Path) -> None:
        path = self.key(table)
        self.skip_signs("=")
        self.value(path)

    def key(self, table: Path) -> Path:
        """`a . "b".c` below `table`; notes the line of each new prefix."""
        path = table
        while True:
            self.skip(_BLANK)
            path = (*path, self.key_part())
            self.lines.setdefault(path, self.line())
            self.skip(_BLANK)
            if self.peek() != ".":
                return path
            self.at += 1

    def key_part(self) -> str:
        if self.peek() in ('"', "'"):
            literal = self.skip(_STRING)
            return str(tomllib.loads(f"key = {literal}")["key"])
        return self.skip(_BARE_KEY)

    def value(self, path: Path) -> None:
        self.skip(_BLANK)
        match self.peek():
            case '"' | "'":
                self.skip(_STRING)
            case "[":
                self.items(path)
            case "{":
                self.inline_table(path)
            case _:
                self.skip(_SCALAR)

    def items(self, path: Path) -> None:
        self.at += 1
        index = 0
        while self.more("]"):
            here: Path = (*path, index)
            self.lines.setdefault(here, self.line())
            self.value(here)
            index += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        while self.more("}"):
            self.pair(path)

    def more(self, end: str) -> bool:
        """Step over gaps and one comma; false at `end`, which is consumed."""
        self.skip(_GAP)
        if self.peek() == ",":
            self.at += 1
            self.skip(_GAP)
        if self.peek() in (end, ""):
            self.at += 1
            return False
        return True

    def line(self) -> int:
        """The line at which we are; what was counted before is not counted again."""
        at, line = self.counted
        self.counted = (self.at, line + self.text.count("\n", at, self.at))
        return self.counted[1]

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def skip_signs(self, sign: str) -> None:
        self.skip(_BLANK)
        while self.peek() == sign:
            self.at += 1
        self.skip(_BLANK)
