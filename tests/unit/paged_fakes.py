"""A list or a dict on the other side of the wall, as the store keeps it: one text and one directory."""

from __future__ import annotations

import json
from typing import Any

from guest.collection import RECORD_CHARS
from guest.paged import PagedText


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
