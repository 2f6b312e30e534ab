"""The page of a run in a browser: what a stranger's text can do there (nothing), and what its reader can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from belljar.audit.export.html import html
from belljar.audit.export.view import Badge
from belljar.glyphs import glyphs
from tests.browser import Unavailable, chromium, opened
from tests.unit.trajectories import HOSTILE, MARK, START, Shelf, story

BADGE = Badge(tone="good", word="The log verifies", detail=f"<script>document.title='{MARK}'</script>")
LONG = "x" * 1_000_000
# What no text may become, wherever it stands.
FOREIGN = (
    "img, iframe, object, embed, link, base, video, audio, form[action], [style], [onclick], [onerror], [onload], "
    "[onmouseover], [onfocus], [autofocus], a:not([href^='#']), main script, main style, main meta"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as found:
            yield found
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no browser: {error}")
        pytest.skip(f"no browser: {error}")


def made(file: Path, **how: Any) -> Path:
    shelf = Shelf()
    run = story(shelf, **how)
    file.write_bytes(b"".join(html(run, shelf, badge=BADGE, exported_ns=START, version="1")))
    return file


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("ordinary") / "page.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of the hostile texts stands in each place where a text can stand."""
    return made(tmp_path_factory.mktemp("hostile") / "page.html", said=(*HOSTILE, LONG), cells=len(HOSTILE) + 1)


def test_no_text_of_a_run_becomes_more_than_text(browser: Browser, hostile: Path) -> None:
    with opened(browser, hostile) as (page, seen):
        page.keyboard.press("e")
        page.mouse.move(600, 400)
        page.keyboard.press("Tab")
        assert page.title() == "Run r1: ok"
        assert page.locator(FOREIGN).count() == 0
        assert page.locator("script").count() == 2
        shown = page.evaluate("document.getElementById('main').textContent")
        assert seen.complaints == []
        assert seen.requests == [hostile.as_uri()]
    for text in HOSTILE:
        for line in text.split("\n"):
            assert glyphs(line) in shown


def test_what_gets_into_the_page_all_the_same_is_not_run(browser: Browser, ordinary: Path, tmp_path: Path) -> None:
    planted = (
        f"<script>document.title='{MARK}'</script>"
        f"<img src='https://{MARK}.example/x.png' onerror=\"document.title='{MARK}'\">"
        f"<p id=styled style='color:rgb(1,2,3)'>x</p><a id=bait href=\"javascript:document.title='{MARK}'\">x</a>"
    )
    page_of_both = tmp_path / "page.html"
    page_of_both.write_text(
        ordinary.read_text("utf-8").replace('<section id="summary">', planted + '<section id="summary">')
    )
    with opened(browser, page_of_both) as (page, seen):
        page.click("#bait")
        refused = page.evaluate("try { document.body.innerHTML = '<p>'; 'made' } catch { 'refused' }")
        assert refused == "refused"
        assert page.title() == "Run r1: ok"
        assert page.evaluate("getComputedStyle(document.getElementById('styled')).color") != "rgb(1, 2, 3)"
        assert seen.requests == [page_of_both.as_uri()]
        assert [one for one in seen.complaints if "Content Security Policy" in one] != []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "options"), [(1280, {}), (390, {"is_mobile": True, "has_touch": True})])
def test_no_text_makes_the_page_wider_than_the_screen(
    browser: Browser, hostile: Path, width: int, options: dict[str, Any], scheme: Any
) -> None:
    with opened(browser, hostile, width=width, color_scheme=scheme, **options) as (page, _):
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        # What is out of sight would not be laid out.
        page.evaluate("for (const one of document.querySelectorAll('.cell')) one.style.contentVisibility = 'visible'")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        covered = page.evaluate("document.querySelector('header.top').getBoundingClientRect().width")
        assert covered == width


def test_a_reader_moves_by_keys_and_finds_what_is_closed(browser: Browser, ordinary: Path) -> None:
    with opened(browser, ordinary) as (page, _):
        page.keyboard.press("j")
        first = page.evaluate("document.activeElement.parentElement.id")
        page.keyboard.press("j")
        second = page.evaluate("document.activeElement.parentElement.id")
        page.keyboard.press("k")
        assert (first, page.evaluate("document.activeElement.parentElement.id")) == ("r0c0", "r0c0")
        assert second == "r0c0t0"
        page.keyboard.press("o")
        assert page.locator("#r0c0").get_attribute("open") is None
        page.keyboard.press("/")
        page.keyboard.type("overloaded")
        page.locator("#found", has_text="places").wait_for()
        page.keyboard.press("Enter")
        assert page.locator("#r0c0").get_attribute("open") is not None
        assert page.evaluate("CSS.highlights.get('found').size") > 1
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()


def test_the_strip_says_who_read_and_when(browser: Browser, ordinary: Path) -> None:
    with opened(browser, ordinary) as (page, _):
        page.locator(".hit").first.hover()
        told = page.locator(".readout").inner_text()
        assert told.startswith("characters 0–")
        assert "read by cell 1 at +" in told
        last = page.locator(".hit").last
        last.hover()
        assert "never read" in page.locator(".readout").inner_text()


def test_without_javascript_all_of_it_can_be_read(browser: Browser, ordinary: Path) -> None:
    with opened(browser, ordinary, java_script_enabled=False) as (page, _):
        assert page.locator("#r0c0 > .in > .text pre").first.is_visible()
        assert not page.locator(".find").is_visible()
        page.locator("#r0c0q0 > summary").click()
        assert "Is there an outage in this?" in page.locator("#r0c0q0 pre").first.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_who_cannot_see_or_point_can_use_it(browser: Browser, ordinary: Path, width: int, scheme: Any) -> None:
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    with opened(browser, ordinary, width=width, color_scheme=scheme) as (page, _):
        page.evaluate(axe)
        found = page.evaluate("axe.run().then(all => all.violations.map(one => [one.id, one.nodes[0].html]))")
        assert found == []


def test_the_page_of_fifty_thousand_records_opens_and_lists_them(browser: Browser, tmp_path: Path) -> None:
    """Three cells of 6,000 queries, each with its read: their records are more than 50,000."""
    file = made(tmp_path / "page.html", queries=6000)
    assert file.stat().st_size < 5_000_000
    with opened(browser, file) as (page, seen):
        button = page.locator("#r0c0 .more button")
        assert button.inner_text() == "List 500 of 5702 more queries"
        button.click()
        assert page.locator("#r0c0 .row").count() == 500
        assert seen.complaints == []
        ready_ms = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        assert ready_ms < 20_000  # an idle machine needs 0.6 s
