"""A run as one page of HTML that loads nothing, runs nothing of the run's, and can be read without JavaScript.

Everything in a trajectory may have been written by an attacker. What keeps it text:

* Each value that the template prints goes through `visible` (text) or `plain` (attributes), which escape it and show
  what has no glyph. That is not the template's doing: autoescaping is on, and `_finalized` meets every value. Markup
  comes from this folder alone.
* The first thing in the page is a Content Security Policy that lets run and style only what has the digests of our own
  script and style: no inline handler, no style of an element, no request to anywhere. Nor may our script make markup
  of a string (`require-trusted-types-for`).
* What the script lists on demand is JSON in which nothing can end the element (`tojson`).

The page is a function of the trajectory and of what it was told; so whoever serves one renders the same.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator
from importlib.resources import files

import jinja2
from markupsafe import Markup

from belljar.audit.export.texts import highlighted, plain, visible
from belljar.audit.export.view import Badge, Page, Row
from belljar.audit.export.viewing import page_of
from belljar.audit.trajectory import Contents, Run

__all__ = ["ASSETS", "OPEN_MAX", "environment", "html", "rendered", "rows_of"]

# What a page needs besides its markup, by name: style and script.
ASSETS = ("page.css", "page.js")
# So many cells of a run are open at first.
OPEN_MAX = 6
_BUFFERED = 64


def html(
    run: Run, contents: Contents | None = None, *, badge: Badge, exported_ns: int, version: str
) -> Iterator[bytes]:
    """The page, in pieces.

    Args:
        contents: where the texts are; without it the page says that they were not read.
        badge: what is known of the log that the trajectory is from.
        exported_ns: the time that the page says it was made, since the epoch.
    """
    return rendered(page_of(run, contents, badge, exported_ns=exported_ns, version=version))


def rendered(page: Page) -> Iterator[bytes]:
    """The page of a view."""
    style, script = map(_asset, ASSETS)
    stream = _template().stream(
        page=page,
        rows=rows_of(page),
        policy=_policy(style, script),
        style=_ours(style),
        script=_ours(script),
        open_max=OPEN_MAX,
    )
    stream.enable_buffering(_BUFFERED)
    return (piece.encode() for piece in stream)


def rows_of(page: Page) -> dict[str, list[Row]]:
    """What the script lists on demand, by the cell that it is of."""
    return {cell.anchor: cell.more for run in page.runs for cell in run.cells if cell.more}


def environment(loader: jinja2.BaseLoader | None = None) -> jinja2.Environment:
    """Templates whose every value is text. They are those of `loader` first, and this folder's."""
    own = jinja2.FunctionLoader(_asset)
    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalized,
        loader=own if loader is None else jinja2.ChoiceLoader([loader, own]),
    )
    made.filters |= {"code": highlighted, "plain": plain}
    return made


def _ours(asset: str) -> Markup:
    """Markup, since it is a file of this folder."""
    return Markup(asset)  # noqa: S704


def _policy(style: str, script: str) -> str:
    """What a browser lets the page do. The digests are of the very bytes between the tags."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _finalized(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _asset(name: str) -> str:
    return files("belljar.audit.export").joinpath("templates", name).read_text("utf-8")


@functools.cache
def _template() -> jinja2.Template:
    return environment().get_template("page.html.j2")
