"""`xml.etree.ElementTree`, for restricted programs, read-only.

The library's elements can be changed, hand out their own dict of attributes, and look up paths with Python code that
caches the result for everybody. So an element here is a view of a library element, made when it is asked for; it shows
what that one has, and cannot be changed. Only text of a program reaches the parser.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

from guest.context.paged import plain
from guest.exact import exact, exact_text
from guest.language import guards

__all__ = ["Element", "members"]


class Element:
    """An element: its tag, its attributes, its text, and its children in order."""

    __slots__ = ("_real",)

    def __init__(self, real: ElementTree.Element) -> None:
        if type(real) is not ElementTree.Element:
            raise TypeError("elements come from fromstring(text): to write XML, write its text with html.escape()")
        self._real = real

    @property
    def tag(self) -> Any:
        return self._real.tag if type(self._real.tag) is str else None  # a comment's tag is a function

    @property
    def text(self) -> str | None:
        return self._real.text

    @property
    def tail(self) -> str | None:
        return self._real.tail

    @property
    def attrib(self) -> dict[str, str]:
        return dict(self._real.attrib)

    def get(self, key: Any, default: Any = None) -> Any:
        return self._real.attrib.get(exact_text(key), default)

    def keys(self) -> list[str]:
        return [*self._real.attrib]

    def items(self) -> list[tuple[str, str]]:
        return [*self._real.attrib.items()]

    def find(self, path: Any, namespaces: Any = None) -> Element | None:
        found = self._real.find(_path(path), _names(namespaces))
        return None if found is None else Element(found)

    def findall(self, path: Any, namespaces: Any = None) -> list[Element]:
        return [Element(one) for one in self._real.findall(_path(path), _names(namespaces))]

    def iterfind(self, path: Any, namespaces: Any = None) -> Iterator[Element]:
        return iter(self.findall(path, namespaces))

    def findtext(self, path: Any, default: Any = None, namespaces: Any = None) -> Any:
        found = self._real.find(_path(path), _names(namespaces))
        return default if found is None else found.text or ""

    def iter(self, tag: Any = None) -> Iterator[Element]:
        return (Element(one) for one in self._real.iter(None if tag is None else _path(tag)))

    def itertext(self) -> Iterator[str]:
        return self._real.itertext()

    def getroot(self) -> Element:
        """So that it is a tree as well."""
        return self

    def __len__(self) -> int:
        return len(self._real)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Element]:
        return iter([Element(one) for one in self._real])

    def __getitem__(self, index: Any) -> Any:
        found = self._real[index]
        return [Element(one) for one in found] if type(found) is list else Element(found)

    def __eq__(self, other: object) -> bool:
        return type(other) is Element and other._real is self._real

    def __hash__(self) -> int:
        return hash(self._real)

    def __repr__(self) -> str:
        return f"<Element {self.tag!r}>"


def _path(path: Any) -> str:
    text = exact_text(path)
    if type(text) is not str:
        raise TypeError(f"a path must be a str, not {type(path).__name__}")
    return text


def _names(namespaces: Any) -> dict[str, str] | None:
    if namespaces is None:
        return None
    return {_path(key): _path(value) for key, value in dict(exact(namespaces)).items()}


def _fromstring(text: Any) -> Element:
    """An element from a text. Raises ParseError."""
    given = plain(text)
    if type(given) not in (str, bytes):
        raise TypeError(f"fromstring() needs a str, not {type(text).__name__}")
    return Element(ElementTree.fromstring(given))  # noqa: S314 - in the box, within its memory


def _tostring(element: Any, encoding: Any = None) -> str | bytes:
    """The text of an element; a str with encoding="unicode"."""
    if type(element) is not Element:
        raise TypeError("tostring() needs an element")
    wanted = exact_text(encoding)
    return ElementTree.tostring(element._real, encoding=wanted if type(wanted) is str else None)


def members() -> dict[str, object]:
    """What the module offers."""
    own = {"Element": guards.show_type(Element), "fromstring": _fromstring, "XML": _fromstring, "tostring": _tostring}
    return {**own, "ParseError": ElementTree.ParseError}
