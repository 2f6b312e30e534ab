"""Makes the objects that a program finds, `context` and `contexts`, from what `Start` says about the run's contexts.

A `_Remote` is one document on the other side of the wall: it turns a range of characters into `Read`, and a search into
`Search`. `paged` and `collection` make of it what the program sees; all of them share one cache of pages.
"""

from __future__ import annotations

import json
import struct
import sys
import types
from itertools import islice
from typing import Any

from guest.agent.names import raise_failure
from guest.agent.wire import Channel
from guest.context.collection import PagedDict, PagedList
from guest.context.paged import PagedText
from guest.context.pages import PageCache
from guest.context.pushdown import HIT_CHARS, Group, Hit

__all__ = ["make_contexts", "unpacked"]

_SPAN = struct.Struct("<QQ")
# Stands twice in the place of a group that did not take part.
_NO_GROUP = 2**64 - 1
# The largest number of matches that one request may ask for.
_LIMIT_MAX = 100_000


class _Remote:
    """One document: fetches ranges, and asks for searches (`paged.Pushdown`)."""

    def __init__(self, channel: Channel, doc: int, info: dict[str, Any], read_bytes_max: int) -> None:
        self._channel = channel
        self.doc = doc
        self._spans = info["spans"]
        # Limits are in bytes; a character outside ASCII may take four of them.
        self._step = read_bytes_max // (1 if info["bytes"] == info["chars"] else 4)

    def fetch(self, first: int, last: int) -> str:
        """Characters [first, last). What does not belong to this run is filled up: pages know nothing of parts."""
        if self._spans is None:
            return self._fetched(first, last)
        parts, at = [], first
        for start, stop in self._spans:
            start, stop = max(start, at), min(stop, last)
            if start < stop:
                parts += ["\0" * (start - at), self._fetched(start, stop)]
                at = stop
        return "".join([*parts, "\0" * (last - at)])

    def _fetched(self, first: int, last: int) -> str:
        line = _calling_line()
        parts = []
        for at in range(first, last, self._step):
            fields = {"doc": self.doc, "start": at, "stop": min(last, at + self._step), "line": line}
            header, body = self._channel.request("read", fields)
            raise_failure(header)
            parts.append(body.decode("utf-8"))
        return "".join(parts)

    def find(self, pattern: str, start: int, stop: int, limit: int, *, first: int = 0) -> tuple[list[Hit], int | None]:
        header, body = self._ask("find", pattern, start, stop, min(limit, _LIMIT_MAX), first)
        return [hit for hit, _, _ in unpacked(header, body)], header["next"]

    def count(self, pattern: str, start: int, stop: int, *, first: int = 0) -> tuple[int, int | None]:
        header, _ = self._ask("count", pattern, start, stop, 1, first)
        return header["count"], header["next"]

    def find_items(
        self, pattern: str, start: int, stop: int, limit: int
    ) -> tuple[list[tuple[Hit, int, int]], int | None]:
        header, body = self._ask("find_items", pattern, start, stop, min(limit, _LIMIT_MAX))
        return unpacked(header, body, of_items=True), header["next"]

    def count_items(self, pattern: str, start: int, stop: int) -> tuple[int, int | None]:
        header, _ = self._ask("count_items", pattern, start, stop, 1)
        return header["count"], header["next"]

    def lines(self, first: int, last: int) -> tuple[str, int | None]:
        header, body = self._ask("lines", "", first, last, 1)
        return body.decode("utf-8"), header["next"]

    def _ask(
        self, mode: str, pattern: str, start: int, stop: int, limit: int, first: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        fields = {"doc": self.doc, "mode": mode, "start": start, "stop": stop, "limit": limit, "line": _calling_line()}
        if first:
            fields["first"] = first
        header, body = self._channel.request("search", fields, pattern.encode("utf-8", "replace"))
        raise_failure(header)
        return header, body


def unpacked(header: dict[str, Any], body: bytes, *, of_items: bool = False) -> list[tuple[Hit, int, int]]:
    """The matches in the body of `Found`, each with its item and the item's first character, or 0 and 0."""
    names = json.loads(body[: header["names"]] or "{}")
    pairs = 1 + of_items + header["groups"]
    at = header["names"] + _SPAN.size * pairs * header["count"]
    spans = _SPAN.iter_unpack(body[header["names"] : at])
    texts, at = body[at:].decode("utf-8"), 0
    found = []
    for first, last in spans:
        whole = (first, last, texts[at : at + min(last - first, HIT_CHARS)])
        at += len(whole[2])
        item, char = next(spans) if of_items else (0, 0)
        groups: list[Group | None] = []
        for start, stop in islice(spans, header["groups"]):
            if start == _NO_GROUP:
                groups.append(None)
            elif stop <= first + len(whole[2]):
                groups.append((start, stop, whole[2][start - first : min(stop, start + HIT_CHARS) - first]))
            else:
                size = min(stop - start, HIT_CHARS)
                groups.append((start, stop, texts[at : at + size]))
                at += size
        found.append((Hit.of(whole, tuple(groups), names), item, char))
    return found


def make_contexts(channel: Channel, start: dict[str, Any]) -> dict[str, Any]:
    """The contexts by name, in the order of `Start`."""
    cache = PageCache()
    return {info["name"]: _context(channel, info, start, cache) for info in start["contexts"]}


def _context(channel: Channel, info: dict[str, Any], start: dict[str, Any], cache: PageCache) -> Any:
    # The name in messages is what the program calls it; the first context also has the name `context`.
    name = "context" if info is start["contexts"][0] else f'contexts["{info["name"]}"]'
    text = _text(channel, info["text"], start, cache, name, lines=info["lines"])
    part = info["part"]
    if info["kind"] == "text":
        return text if part is None else text._part(part[0], part[1], name)
    directory = _text(channel, info["directory"], start, cache, name, lines=None)
    look_alike = PagedList if info["kind"] == "list" else PagedDict
    whole = look_alike(text, directory, info["items"], name=name)
    return whole if part is None else whole._part(part[0], part[1], name)


def _text(
    channel: Channel, doc: int, start: dict[str, Any], cache: PageCache, name: str, *, lines: int | None
) -> PagedText:
    info = start["documents"][doc]
    remote = _Remote(channel, doc, info, start["read_bytes_max"])
    limit = start["materialise_bytes_max"]
    # Bytes as stored; with more than one for some characters, the whole may fit where a part of it might not.
    ascii_only = info["bytes"] == info["chars"]
    chars_max = limit if ascii_only else max(limit // 4, info["chars"] if info["bytes"] <= limit else 0)
    return PagedText(
        info["chars"],
        remote.fetch,
        pushdown=remote,
        line_count=lines,
        name=name,
        cache=cache,
        materialise_chars_max=chars_max,
    )


def _calling_line() -> int:
    """The line of the running cell that led here, 0 if none did."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<cell "):
            return frame.f_lineno
        frame = frame.f_back
    return 0
