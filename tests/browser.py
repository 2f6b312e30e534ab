"""A browser for tests of pages: Debian's Chromium, driven by Playwright, on files of this machine only."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, Route, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

__all__ = ["PATIENCE_MS", "Seen", "Unavailable", "chromium", "opened"]

PATIENCE_MS: Final = 60_000


class Unavailable(Exception):
    """There can be no browser here: says why, and the remedy."""


class Seen:
    """What a page did besides being shown: what it asked for, and what the browser complained of."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        # What the page's policy refuses never gets here.
        page.route("**/*", self._send)
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("popup", lambda _: self.complaints.append("a window was opened"))

    def _send(self, route: Route) -> None:
        self.requests.append(route.request.url)
        route.continue_()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that finds no other machine.

    Raises:
        Unavailable: it is not installed.
    """
    program = shutil.which("chromium")
    if program is None:
        raise Unavailable("run `make browser`, which installs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
            timeout=PATIENCE_MS,
        )
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, file: Path, *, width: int = 1280, **options: Any) -> Iterator[tuple[Page, Seen]]:
    """A file in a window of its own, when it is there with all that its script does at first."""
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce", **options)
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        seen = Seen(page)
        page.goto(file.as_uri())
        if options.get("java_script_enabled", True):
            try:
                page.wait_for_selector("html[data-ready]", state="attached")
            except PlaywrightTimeout:
                raise AssertionError("the script of the page has not come to its end") from None
        yield page, seen
    finally:
        context.close()
