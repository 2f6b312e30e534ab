"""From what a page shows to bytes and headers.

The templates are this folder's, and that of a run is the one of `audit.export`, with other blocks. What keeps a
stranger's text a text is told there, and holds here: every value is escaped, whatever template prints it.

The headers say what a browser may do with a page: load scripts, styles and pictures from here alone, ask nobody else,
run nothing that is written in the page, make no markup of a string, and stand in nobody's frame. Styles and scripts
have a digest in their address, so they are kept for long and never old.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files
from typing import Any, Final

import jinja2
import msgspec

from belljar.audit.export.html import ASSETS, environment
from belljar.audit.export.words import moment, money, took

__all__ = ["HEADERS", "NAMES", "STATIC", "Static", "page", "static"]

HEADERS: Final = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # `no-referrer` would take the Origin from our own forms, too.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
STATIC: Final = "/pages/static"
_PACKAGE: Final = "belljar.service.pages"
_KINDS: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}
_OWN: Final = {
    "pages.css": "pages.css",
    "pages.js": "pages.js",
    "verify.js": "verify.js",
    "icon.svg": "icon.svg",
    "uplot.css": "uplot/uPlot.min.css",
    "uplot.js": "uplot/uPlot.iife.min.js",
    "uplot.txt": "uplot/LICENSE",
}


class Static(msgspec.Struct, frozen=True):
    """A file that pages load. `mark` is the beginning of its SHA-256, in hex."""

    data: bytes
    kind: str
    mark: str


# Of all files that pages load.
NAMES: Final = (*ASSETS, *_OWN)


@functools.cache
def static(name: str) -> Static:
    """The file of this name, one of `NAMES`."""
    if name in ASSETS:
        data = files("belljar.audit.export").joinpath("templates", name).read_bytes()
    else:
        data = files(_PACKAGE).joinpath("static", *_OWN[name].split("/")).read_bytes()
    return Static(data, f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8", hashlib.sha256(data).hexdigest()[:16])


def page(template: str, **shown: Any) -> bytes:
    """A whole page. Of much, this takes long: do it in a thread."""
    return _environment().get_template(template).render(shown).encode()


@functools.cache
def _environment() -> jinja2.Environment:
    made = environment(jinja2.PackageLoader(_PACKAGE, "templates"))
    made.filters |= {
        "money": _money,
        "moment": moment,
        "number": _number,
        "share": _share,
        "size": _size,
        "took": took,
    }
    made.globals["asset"] = _address
    return made


def _address(name: str) -> str:
    return f"{STATIC}/{name}?{static(name).mark}"


def _money(nanousd: int | None) -> str:
    return "–" if nanousd is None else money(nanousd)


def _number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _share(part: float | None) -> str:
    """Rounded down: 100 % is all of it."""
    if part is None:
        return "–"
    return "<1 %" if 0 < part < 0.01 else f"{int(part * 100)} %"


def _size(count: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):,.1f} {unit}"
    return f"{count:,} bytes"
