"""A list or a dict on the other side of the wall, as the store keeps it: one text and one directory."""

from __future__ import annotations

import json
import re
from typing import Any

from guest.context.collection import RECORD_CHARS
from guest.context.paged import PagedText
from guest.context.pushdown import Hit


class Stored:
    """A list or a dict as the other side has it, and what was read of it."""

    def __init__(self, value: list[Any] | dict[str, Any]) -> None:
        keys = list(value) if isinstance(value, dict) else [""] * len(value)
        values = list(value.values()) if isinstance(value, dict) else value
        self.text = "".join(keys)
        self.directory = ""
        self.read: list[tuple[str, int, int]] = []
        at = 0
        for key, one in zip(keys, values, strict=True):
            said = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False, separators=(",", ":"))
            form = "t" if isinstance(one, str) else "j"
            self.directory += f"{at:012x}{len(key):06x}{len(self.text):012x}{len(said):010x}{form}\n"
            self.text += said
            at += len(key)
        assert len(self.directory) == len(values) * RECORD_CHARS

    def paged(self, which: str, **more: Any) -> PagedText:
        whole: str = getattr(self, which)

        def fetch(start: int, stop: int) -> str:
            self.read.append((which, start, stop))
            return whole[start:stop]

        return PagedText(len(whole), fetch, **more)


class Items:
    """The other side's search through the items, with `re`, that gives up after each `patience` matches."""

    def __init__(self, stored: Stored, patience: int) -> None:
        self._text = stored.text
        self._patience = patience
        lines = [stored.directory[at : at + RECORD_CHARS] for at in range(0, len(stored.directory), RECORD_CHARS)]
        self._places = [(int(line[18:30], 16), int(line[30:40], 16)) for line in lines]

    def find_items(
        self, pattern: str, start: int, stop: int, limit: int
    ) -> tuple[list[tuple[Hit, int, int]], int | None]:
        found: list[tuple[Hit, int, int]] = []
        for item, (at, chars) in enumerate(self._places):
            said = self._text[at : at + chars]
            for match in re.compile(pattern).finditer(said, max(0, start - at)) if start < at + chars <= stop else ():
                if len(found) == min(limit, self._patience):
                    last, _, char = found[-1]
                    return found, min(max(last.stop, last.start + 1), at + chars if char == at else at)
                whole, *groups = [
                    None if match[n] is None else (*[at + one for one in match.span(n)], match[n])
                    for n in range(match.re.groups + 1)
                ]
                found.append((Hit.of(whole, tuple(groups), dict(match.re.groupindex)), item, at))  # type: ignore[arg-type]
        return found, None

    def count_items(self, pattern: str, start: int, stop: int) -> tuple[int, int | None]:
        found, after = self.find_items(pattern, start, stop, self._patience)
        return len(found), after
