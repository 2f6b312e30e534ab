"""The pages of a service in a browser: every page and flow, for who sees, who does not, and who means harm."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route

from belljar.audit import verify
from belljar.audit.events import (
    CellFinished,
    CellStarted,
    ContextData,
    ContextRead,
    QueryCompleted,
    QueryFailed,
    QueryRequested,
    RunFinished,
    RunStarted,
)
from belljar.errors import AuditUnavailable, ModelFailed
from belljar.glyphs import glyphs
from belljar.host import Host
from belljar.identity import RunId
from belljar.models import FREE, ModelReply, ModelRequest
from belljar.models.scripted import scripted_reply
from belljar.service.pages import Again, DemoModel, Waiting
from belljar.service.pages.rendering import STATIC
from belljar.service.pages.routes import FORM_BYTES_MAX, SESSION
from belljar.service.parts import parts
from belljar.testing import FakeModel
from tests.browser import PATIENCE_MS, Seen, Unavailable, chromium
from tests.integration.service.support import Serving
from tests.integration.service.support import serving as service_running
from tests.integration.support import Jar
from tests.pages import ADMIN, ALICE, AUDITOR, READER, Site, serving, site
from tests.unit.trajectories import HOSTILE
from tests.waiting import until

pytestmark = pytest.mark.slow
TEXT: Final = "\n".join(f"2026-11-{1 + at % 28:02} host {at % 13}: outage «{at}»" for at in range(4000))
HANGS: Final = "while True: pass"
LATER: Final = "20261128T000000-00000000000a"
PATHS: Final = (
    "/runs",
    "/runs/{run}",
    "/runs/{gone}",
    "/tenants?tenant=acme/alice",
    "/contexts?tenant=acme/alice",
    "/contexts/view?tenant=acme/alice&sha256={sha256}&start=100",
    "/playground",
    "/health",
    "/audit",
    "/runs?tenant=nobody",
    "/runs/20200101T000000-000000000000",
)
# What no text may become, wherever it stands.
FOREIGN: Final = (
    "iframe, object, embed, base, video, audio, img, [style]:not(.chart *), [onclick], [onerror], [onload], "
    "[onmouseover], [onfocus], main script, main style, main meta, main link, a[href*='javascript'], a[href^='http'], "
    "form:not([action^='/']):not([method=dialog]):not(.find)"
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


class Gate:
    """A root model whose second turn waits until it is let through."""

    scripted: Final = True
    name: Final = "scripted:gate"
    rates: Final = FREE

    def __init__(self) -> None:
        self.waits, self.open = threading.Event(), threading.Event()

    async def complete(self, request: ModelRequest) -> ModelReply:
        if not any(message.role == "assistant" for message in request.messages):
            return scripted_reply(f"```repl\nprint({HOSTILE[0]!r})\n```", request, self.name)
        self.waits.set()
        await asyncio.to_thread(self.open.wait, 120)
        return scripted_reply(f"```repl\nFINAL({HOSTILE[1]!r})\n```", request, self.name)

    async def aclose(self) -> None:
        self.open.set()


@contextlib.contextmanager
def closing_gate(gate: Gate) -> Iterator[None]:
    """However the block ends, nobody waits at the gate."""
    try:
        yield
    finally:
        gate.open.set()


class Served(Site):
    """A site with runs of two tenants, a context, and limits."""

    run: str
    failed: str
    gone: str
    other: str
    sha256: str

    async def fill(self, host: Host) -> None:
        how: dict[str, Any] = {"model": "scripted:demo", "context": TEXT}
        self.run = (await host.run("What happened?", tenant="acme/alice", **how)).run
        self.other = (await host.run("Whose is this?", tenant="beta", **how)).run
        self.gone = (await host.run("What is it?", tenant="acme/alice", model="scripted:demo", context="pasted")).run
        self.failed = (await host.execute("print(context[0:9])\n1/0", context=TEXT, tenant="acme/alice")).run
        self.sha256 = (await host.add_context(TEXT, name="outage.log", tenant="acme/alice")).sha256
        await host.quotas.set("acme/alice", "day", calls=100, cost_nanousd=10**9)

    def path(self, path: str) -> str:
        return self.url + path.format(run=self.run, gone=self.gone, sha256=self.sha256)

    def client(self, key: str = ADMIN) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, cookies={SESSION: f"session.{key}"}, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(Served(tmp_path_factory.mktemp("state"))) as made:
        made.do(made.fill(made.host))
        yield made


@contextlib.contextmanager
def window(
    browser: Browser, served: Site, key: str | None = ADMIN, *, width: int = 1280, **options: Any
) -> Iterator[tuple[Page, Seen]]:
    """A window of somebody who has logged in."""
    context: BrowserContext = browser.new_context(
        viewport={"width": width, "height": 900}, reduced_motion="reduce", **options
    )
    try:
        context.set_default_timeout(PATIENCE_MS)
        if key is not None:
            context.add_cookies([{"name": SESSION, "value": f"session.{key}", "url": served.url}])
        page = context.new_page()
        yield page, Seen(page)
    finally:
        context.close()


def go(page: Page, url: str) -> None:
    page.goto(url)
    ready(page)


def ready(page: Page) -> None:
    page.wait_for_selector("html[data-ready]", state="attached")


def is_own(seen: Seen, served: Site) -> bool:
    return all(url.startswith(served.url) for url in seen.requests)


@pytest.fixture
def place(tmp_path: Path, images: Path) -> Iterator[Jar]:
    """A state folder; the browser outlives it, so `Jar.check` would wait for that."""
    made = Jar(tmp_path, images)
    yield made
    report = verify(made.journal)
    assert (report.problems, report.unfinished) == ([], [])
    assert made.open_reservations() == made.open_reservations(of_boxes=True) == 0


@contextlib.contextmanager
def service_of(jar: Jar, *models: Any, **settings: Any) -> Iterator[Serving]:
    """A whole service, with its keys, its desk and its pages."""
    with service_running(jar, models=[DemoModel(), *models], options={"extras": parts()}, **settings) as running:
        yield running


@contextlib.contextmanager
def logged_in(browser: Browser, service: Serving) -> Iterator[tuple[Page, Seen]]:
    """A window of the service's admin."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        go(page, f"{service.url}/login")
        page.fill("input[name=key]", str(service.key))
        page.click("button.main")
        page.wait_for_url("**/runs")
        yield page, Seen(page)
    finally:
        context.close()


def registered(service: Serving, text: str) -> dict[str, str]:
    """A context of the tenant acme, as an order names it."""
    add = service.host.add_context(text, name="a text", tenant="acme")
    document = asyncio.run_coroutine_threadsafe(add, service.loop).result(60)
    return {"kind": "registered", "ref": f"sha256:{document.sha256}"}


# -- who comes in ------------------------------------------------------------------------------------------------------


def test_a_key_opens_the_page_that_was_asked_for_and_a_wrong_one_none(browser: Browser, served: Served) -> None:
    with window(browser, served, None) as (page, seen):
        go(page, served.path("/runs?status=ok"))
        assert page.url.endswith("/login?next=%2Fruns%3Fstatus%3Dok")
        page.fill("input[name=key]", "bj_wrong")
        page.click("button.main")
        page.locator("[role=alert]", has_text="no such key").wait_for()
        page.fill("input[name=key]", ADMIN)
        page.click("button.main")
        page.wait_for_url("**/runs?status=ok")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
        page.click("text=Log out")
        page.wait_for_url("**/login")
        assert page.context.cookies() == []
        # The browser itself tells of the answer that said that the key was wrong.
        assert [one for one in seen.complaints if "401" not in one] == []


def test_nobody_is_sent_elsewhere_after_the_login(served: Served) -> None:
    with httpx2.Client(base_url=served.url) as client:
        for there in ("https://owned.example", "//owned.example", "/\\owned.example", "\\\\owned", "/a\r\nx: y"):
            answer = client.post("/login", data={"key": ADMIN, "next": there})
            assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
        answer = client.post("/login", data={"key": ADMIN, "next": "/audit?before=9"})
        assert answer.headers["location"] == "/audit?before=9"


def test_a_form_counts_only_from_our_own_pages(served: Served) -> None:
    form = {"tenant": "acme", "period": "day", "calls": "5"}
    good = {**form, "token": "word of key:admin"}
    with served.client() as client:

        def status(data: dict[str, str], **headers: str) -> int:
            return client.post("/tenants/limits", data=data, headers=headers).status_code

        assert status(form) == 403
        assert status({**form, "token": "word of key:alice"}) == 403
        assert status(good, Origin="https://owned.example") == 403
        assert status(good, **{"Sec-Fetch-Site": "cross-site"}) == 403
        assert status(good, **{"Sec-Fetch-Site": "same-site"}) == 403
        assert client.post("/tenants/limits", json=good).status_code == 415
        long = {
            "content": b"x" * (FORM_BYTES_MAX + 1),
            "headers": {"content-type": "application/x-www-form-urlencoded"},
        }
        assert client.post("/tenants/limits", **long).status_code == 413  # type: ignore[arg-type]
        assert not [one for one in served.do(served.host.quotas.show("acme")) if one.limits]
        assert status(good, Origin=served.url, **{"Sec-Fetch-Site": "same-origin"}) == 303
        served.do(served.host.quotas.clear("acme"))
        foreign = client.post("/login", data={"key": ADMIN}, headers={"Origin": "https://owned.example"})
        assert foreign.status_code == 403


def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere(served: Served) -> None:
    inline = re.compile(r"<script(?![^>]* src=|[^>]* type=\"application/json\")|<style|\son\w+=|\sstyle=")
    others = ("/login", "/", "/favicon.ico", f"{STATIC}/pages.js", "/runs/{run}/proof")
    with served.client() as client:
        for path in (*PATHS, *others):
            answer = client.get(served.path(path))
            policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
            assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == (
                "'none'",
                "'self'",
                "'self'",
            )
            assert (policy["frame-ancestors"], policy["require-trusted-types-for"]) == ("'none'", "'script'")
            assert answer.headers["x-content-type-options"] == "nosniff"
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert answer.headers["cache-control"] == "no-store"
                assert inline.search(answer.text) is None


def test_what_a_page_loads_is_kept_and_never_old(served: Served) -> None:
    with served.client() as client:
        page = client.get("/runs").text
        for address in re.findall(rf'"({STATIC}/[^"]+)"', page):
            answer = client.get(address)
            assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)
            assert address.partition("?")[2] == hashlib.sha256(answer.content).hexdigest()[:16]
            again = client.get(address, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert client.get(f"{STATIC}/..%2fpages.js").status_code == 404
        assert client.get(f"{STATIC}/page.html.j2").status_code == 404


def test_the_chart_library_is_the_released_one_with_its_licence() -> None:
    folder = files("belljar.service.pages").joinpath("static", "uplot")
    known = {
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
        "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    }
    assert {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir()} == known
    assert "MIT License" in folder.joinpath("LICENSE").read_text("utf-8")
    assert "1.6.32" in folder.joinpath("uPlot.iife.min.js").read_text("utf-8")[:200]


# -- whose -------------------------------------------------------------------------------------------------------------


def test_a_tenant_sees_their_own_and_nothing_tells_what_others_have(served: Served) -> None:
    with served.client(ALICE) as client:
        runs = client.get("/runs").text
        assert served.run in runs
        assert served.other not in runs
        missing = client.get("/runs/20200101T000000-000000000000")
        for path in ("", "/proof"):
            answer = client.get(f"/runs/{served.other}{path}")
            assert (answer.status_code, answer.text) == (404, missing.text)
        assert client.get("/contexts?tenant=beta").status_code == 403
        assert client.get("/tenants?tenant=beta").status_code == 404
        assert "beta" not in client.get("/tenants").text
        assert client.get("/health").status_code == 403
        audit = client.get("/audit").text
        assert served.failed in audit
        assert served.other not in audit
        assert "host.quotas" not in audit
        token = {"token": "word of key:alice"}
        assert client.post(f"/runs/{served.other}/cancel", data=token).status_code == 404
        assert client.post(f"/runs/{served.other}/replay", data=token).status_code == 404
        assert client.post(f"/runs/{served.other}/cells", data={"code": "1", **token}).status_code == 404
        limits = {"tenant": "acme", "period": "day", "calls": "1", **token}
        assert client.post("/tenants/limits", data=limits).status_code == 403
        assert client.post("/playground", data={"tenant": "beta", "question": "?", **token}).status_code == 403
        assert client.post("/audit/verify", data=token).status_code == 403


def test_an_auditor_is_shown_nothing_to_change_and_can_change_nothing(browser: Browser, served: Served) -> None:
    with window(browser, served, AUDITOR) as (page, _):
        go(page, served.path("/tenants?tenant=acme/alice"))
        assert page.locator("form[action='/tenants/limits']").count() == 0
        assert page.locator("nav >> text=Playground").count() == 0
        go(page, served.path("/runs/{run}"))
        assert page.locator(".acts form").count() == 0
    token = {"token": "word of key:auditor"}
    with served.client(AUDITOR) as client:
        assert client.get("/playground").status_code == 403
        for path, form in (
            (f"/runs/{served.run}/fork", {"model": "scripted:demo"}),
            (f"/runs/{served.run}/replay", {}),
            (f"/runs/{served.run}/cells", {"code": "1"}),
            (f"/runs/{served.run}/cancel", {}),
            ("/tenants/limits", {"tenant": "acme", "period": "day", "calls": "1"}),
            ("/playground", {"tenant": "acme", "question": "?"}),
        ):
            assert client.post(path, data={**form, **token}).status_code == 403
    assert served.actions.ordered == []


def test_what_a_form_orders_and_what_is_refused_is_recorded_before_it_is_answered(served: Served) -> None:
    recorded = served.actions.recorded
    recorded.clear()
    with served.client(ALICE) as client:
        client.get("/runs")
        client.get(f"/runs/{served.other}")
        client.post(f"/runs/{served.run}/replay", data={"token": "word of key:alice"})
        client.post(f"/runs/{served.other}/cancel", data={"token": "word of key:alice"})
        client.post("/login", data={"key": "bj_wrong"})
    served.actions.ordered.clear()
    assert recorded == [
        ("key:alice", "GET /runs/{run}", 404, "pages.not_there"),
        ("key:alice", "POST /runs/{run}/replay", 303, None),
        ("key:alice", "POST /runs/{run}/cancel", 404, "pages.not_there"),
        ("", "POST /login", 401, "access.denied"),
    ]


# -- what everybody needs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "options"), [(1280, {}), (390, {"is_mobile": True, "has_touch": True})])
def test_every_page_fits_its_screen_and_who_cannot_see_or_point_can_use_it(
    browser: Browser, served: Served, width: int, options: dict[str, Any], scheme: Any
) -> None:
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    with window(browser, served, width=width, color_scheme=scheme, **options) as (page, seen):
        for path in (*PATHS, "/login"):
            go(page, served.path(path))
            assert page.evaluate("document.documentElement.scrollWidth") == width, path
            page.evaluate(axe)
            found = page.evaluate("axe.run().then(all => all.violations.map(one => [one.id, one.nodes[0].html]))")
            assert found == [], path
        assert is_own(seen, served)
        assert [one for one in seen.complaints if "404" not in one] == []


def follow(page: Page, link: str) -> None:
    """Click what leads to another page, and wait for that."""
    with page.expect_navigation():
        page.click(link)


def test_without_javascript_every_page_can_be_read_and_the_forms_work(browser: Browser, served: Served) -> None:
    with window(browser, served, None, java_script_enabled=False) as (page, _):
        page.goto(served.path("/runs/{run}"))
        page.fill("input[name=key]", ADMIN)
        follow(page, "button.main")
        assert page.locator("#r0c0 > .in > .text pre").first.is_visible()
        assert not page.locator("#proof").is_visible()
        page.goto(served.path("/runs"))
        page.fill("input[name=tenant]", "beta")
        follow(page, "text=Filter")
        assert page.locator("tbody tr").count() == 1
        assert page.locator(".spark path").count() == 2
        page.goto(served.path("/tenants?tenant=acme/alice"))
        assert page.locator(".gauge").count() == 2
        page.click("text=The last 30 days as a table")
        assert page.locator("#history tbody tr").count() == 30
        page.goto(served.path("/contexts?tenant=acme/alice"))
        follow(page, "text=outage.log")
        follow(page, "text=after >> nth=0")
        assert "characters 20,000–40,000" in page.locator("main").inner_text()
        page.goto(served.path("/audit"))
        page.locator(".record summary").first.click()
        assert page.locator(".record pre").first.is_visible()
        page.goto(served.path("/health"))
        assert page.locator(".card").count() >= 4


def test_a_reader_moves_by_keys(browser: Browser, served: Served) -> None:
    with window(browser, served) as (page, seen):
        go(page, served.path("/runs"))
        page.keyboard.press("j")
        first = page.evaluate("document.activeElement.textContent")
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.textContent") != first
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.textContent") == first
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "tenant"
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        page.keyboard.press("a")
        page.wait_for_url("**/audit")
        ready(page)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        assert page.locator(".record").first.get_attribute("open") is not None
        go(page, served.path("/runs"))
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/2*")
        ready(page)
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.parentElement.id") == "r0c0"
        assert seen.complaints == []


# -- runs --------------------------------------------------------------------------------------------------------------


def test_the_list_is_filtered_by_its_address_and_goes_on_where_it_ended(browser: Browser, served: Served) -> None:
    with window(browser, served) as (page, _):
        go(page, served.path("/runs"))
        page.select_option("select[name=status]", "error")
        page.click("text=Filter")
        page.wait_for_url("**/runs?*status=error*")
        row = page.locator("tbody tr")
        assert (row.count(), served.failed in row.inner_text()) == (1, True)
        go(page, served.path("/runs?model=scripted:demo&tenant=acme"))
        told = page.locator("tbody tr", has_text=served.run).inner_text()
        for part in ("acme/alice", " %", "ok"):
            assert part in told
        # Of one second, ids are in no order.
        go(page, served.path(f"/runs?before={min(served.run, served.other, served.gone, served.failed)}"))
        assert page.locator("tbody tr").count() == 0
        assert page.locator("text=newest").count() == 1


def test_what_runs_is_watched_until_it_ends_and_stays_open_where_the_reader_opened_it(
    browser: Browser, tmp_path: Path
) -> None:
    """What the run says is an attack: it may do no more in the parts that come later than in the first."""
    gate = Gate()
    with site(tmp_path, models=[gate]) as served, window(browser, served) as (page, seen), closing_gate(gate):
        served.models.append(gate.name)
        go(page, served.url + "/playground")
        page.fill("input[name=model]", gate.name)
        page.fill("textarea[name=text]", HOSTILE[4])
        page.fill("textarea[name=question]", HOSTILE[0])
        page.click("button.main")
        page.wait_for_url("**/runs/2*")
        ready(page)
        assert gate.waits.wait(60)
        page.locator("#r0c0t0 > summary").click()
        page.locator("#r0c0t0 > summary").focus()
        renewed = "Number(document.documentElement.dataset.renewed || '0')"
        before = page.evaluate(renewed)
        until(lambda: page.evaluate(renewed) > before, what="the page was renewed")
        assert page.locator("#r0c0t0").get_attribute("open") is not None
        assert page.locator(".acts .danger").count() == 1
        assert page.locator("#top .st").inner_text() == "running"
        gate.open.set()
        page.locator("#proof:not([hidden])").wait_for()
        assert page.locator("#top .st").inner_text() == "ok"
        assert page.locator("#r0c0t0").get_attribute("open") is not None
        assert page.evaluate("document.activeElement.parentElement.id") == "r0c0t0"
        assert page.locator(FOREIGN).count() == 0
        assert glyphs(HOSTILE[1]) in page.locator("main").inner_text()
        page.click("#proof button")
        page.wait_for_selector("#proof[data-verdict=good]")
        assert page.title().startswith("Run 2")
        assert is_own(seen, served)
        assert seen.complaints == []


def test_the_page_of_a_run_shows_the_quotas_that_it_touches_to_who_may_see_them(
    browser: Browser, served: Served
) -> None:
    with window(browser, served) as (page, _):
        go(page, served.path("/runs/{run}"))
        assert page.locator("#levels .gauge .label").all_inner_texts() == ["cost", "model calls"]
        assert "of 100" in page.locator("#levels").inner_text()
    with window(browser, served, READER) as (page, _):
        go(page, served.path("/runs/{run}"))
        assert page.locator("#levels").count() == 0


def test_a_run_is_cancelled_by_a_button(browser: Browser, served: Served) -> None:
    with window(browser, served) as (page, _):
        go(page, served.path("/playground"))
        page.fill("textarea[name=code]", "while True:\n    pass")
        page.click("button.main")
        page.wait_for_url("**/runs/2*")
        page.locator(".acts .danger").click()
        page.locator("#top .st", has_text="killed").wait_for()
        page.locator("#proof:not([hidden])").wait_for()
        assert page.locator(".acts .danger").count() == 0


def test_a_run_that_waits_has_a_page_that_becomes_its_own(browser: Browser, served: Served) -> None:
    waits = [Waiting(run=LATER, tenant="acme/alice", state="queued", place=3, since_ns=10**18)]

    class Queue:
        async def ls(self, tenant: Any, status: str, model: str = "", after: str = "") -> tuple[list[Waiting], str]:
            return (waits if status == "queued" else []), ""

        async def get(self, run: str) -> Waiting | None:
            return next((one for one in waits if one.run == run), None)

        async def find(self, run: str) -> Waiting | None:
            return await self.get(run)

        def compared(self, run: str) -> None:
            return None

        def takes_cells(self, run: str) -> bool:
            return False

    served.reader._queue = Queue()
    try:
        with window(browser, served) as (page, seen):
            go(page, served.path("/runs"))
            assert "queued" in page.locator("tbody tr").first.inner_text()
            go(page, f"{served.url}/runs/{LATER}")
            assert "3 before it" in page.locator("main").inner_text()
            served.do(_long_run(served.host, LATER, 1))
            page.locator("#r0c0").wait_for()
            assert seen.complaints == []
    finally:
        served.reader._queue = None


def test_a_fork_and_a_replay_are_ordered_as_the_page_offers_them(browser: Browser, served: Served) -> None:
    with window(browser, served, ALICE) as (page, _):
        go(page, served.path("/runs/{run}"))
        assert page.locator(".gone").count() == 0
        go(page, served.path("/runs/{gone}"))
        assert "is not registered" in page.locator(".gone").inner_text()
        page.fill(".acts input[name=from_turn]", "2")
        page.fill(".acts textarea", TEXT[:9])
        page.locator(".acts button", has_text="Fork").click()
        until(lambda: len(served.actions.ordered) == 1, what="the fork is ordered")
        go(page, served.path("/runs/{gone}"))
        page.select_option(".acts select", served.sha256)
        page.locator(".acts button", has_text="Replay").click()
        until(lambda: len(served.actions.ordered) == 2, what="the replay is ordered")
    fork, replay = served.actions.ordered
    served.actions.ordered.clear()
    assert fork == Again(run=served.gone, from_turn=2, model="scripted:demo", texts={"context": TEXT[:9]})
    assert replay == Again(run=served.gone, contexts={"context": served.sha256})


def test_a_run_is_forked_and_replayed_and_each_leads_to_its_origin(browser: Browser, place: Jar) -> None:
    """By the service's own desk; both over a registered context, by the demo's scripted model."""
    with service_of(place) as service, service.client() as api, logged_in(browser, service) as (page, seen):
        api.headers["prefer"] = "wait=60"
        contexts = {"context": registered(service, TEXT[:5000])}
        asked = {"question": "What happened?", "model": "scripted:demo", "contexts": contexts, "tenant": "acme"}
        run = api.post("/v1/runs", json=asked).json()["run"]
        go(page, f"{service.url}/runs/{run}")
        assert page.locator(".gone").count() == 0
        page.fill(".acts input[name=from_turn]", "3")
        page.locator(".acts button", has_text="Fork").click()
        page.wait_for_url(lambda url: "/runs/2" in url and run not in url)
        page.locator("#proof:not([hidden])").wait_for()
        fork = page.url.rpartition("/")[2]
        told = page.locator(".origin").inner_text()
        assert "before turn 3 was taken over" in told
        assert "written before" in told
        assert page.locator("#top .st").first.inner_text() == "ok"
        assert page.locator(".origin a").get_attribute("href") == f"/runs/{run}"
        state = api.get(f"/v1/runs/{fork}").json()
        assert (state["tenant"], state["by"]) == ("acme", api.get(f"/v1/runs/{run}").json()["by"])
        # What the first two turns and their queries were answered was paid for before.
        assert (state["result"]["turns"], state["result"]["cells"]) == (3, 3)

        go(page, f"{service.url}/runs/{run}")
        page.locator(".acts button", has_text="Replay").click()
        page.wait_for_url(lambda url: "/runs/2" in url and run not in url and fork not in url)
        page.locator("#compared").wait_for()
        assert "It did the same again" in page.locator("#compared").inner_text()
        assert "no model is asked" in page.locator(".origin").inner_text()
        assert page.locator("#top .st").first.inner_text() == "ok"
        assert page.locator(".acts form").count() == 0  # a replay is not replayed itself
        page.click(".origin a")
        page.wait_for_url(f"**/runs/{run}")
        assert seen.complaints == []


def test_a_run_whose_text_was_pasted_is_done_again_with_what_is_given_instead(browser: Browser, place: Jar) -> None:
    with service_of(place) as service, service.client() as api, logged_in(browser, service) as (page, seen):
        api.headers["prefer"] = "wait=60"
        asked = {"code": "print(context[0:3])", "contexts": {"context": {"kind": "text", "text": "abcdef"}}}
        run = api.post("/v1/runs", json={**asked, "tenant": "acme"}).json()["run"]
        registered(service, "another text")
        go(page, f"{service.url}/runs/{run}")
        assert "is not registered" in page.locator(".gone").inner_text()
        page.locator(".acts button", has_text="Replay").click()
        page.locator("[role=alert]", has_text="is not registered any more").wait_for()
        for choose, word in (
            (lambda: page.fill(".gone textarea", "abcdef"), "It did the same again"),
            (lambda: page.select_option(".gone select", index=1), "It did something else"),
        ):
            go(page, f"{service.url}/runs/{run}")
            choose()
            page.locator(".acts button", has_text="Replay").click()
            page.locator("#compared").wait_for()
            assert word in page.locator("#compared").inner_text()
        assert "first difference, recorded" in page.locator("#compared").inner_text()
        assert [one for one in seen.complaints if "400" not in one] == []


def test_the_playground_keeps_a_box_open_for_more_cells(browser: Browser, place: Jar) -> None:
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    with service_of(place) as service, logged_in(browser, service) as (page, seen):
        go(page, f"{service.url}/playground?tenant=acme")
        page.fill("textarea[name=code]", "x = 20")
        page.check("input[name=stays]")
        page.click("button.main")
        page.wait_for_url("**/runs/2*")
        ready(page)
        run = page.url
        page.evaluate(axe)
        assert page.evaluate("axe.run().then(all => all.violations.map(one => one.id))") == []
        page.fill(".next textarea", "print(x + 22)")
        page.click("text=Run the cell")
        page.locator("#r0c1 pre", has_text="42").wait_for()
        page.fill(".next textarea", HANGS)
        page.click("text=Run the cell")
        page.locator("#r0c2").wait_for()
        page.fill(".next textarea", "print(1)")
        page.click("text=Run the cell")
        page.locator("[role=alert]", has_text="at work").wait_for()
        go(page, run)
        page.click("text=End the session")
        page.locator("#top .st", has_text="killed").wait_for()
        go(page, run)
        assert page.locator(".next").count() == 0
        assert [one for one in seen.complaints if "409" not in one] == []


def test_an_order_that_never_began_says_so_on_its_page(browser: Browser, place: Jar) -> None:
    with service_of(place, running=1) as service, service.client() as api, logged_in(browser, service) as (page, _):
        first, second = (api.post("/v1/runs", json={"code": HANGS, "tenant": "acme"}).json()["run"] for _ in range(2))
        go(page, f"{service.url}/runs/{second}")
        page.locator("text=Cancel the run").click()
        page.locator(".none-yet", has_text="It did not begin").wait_for()
        assert page.locator(".acts form, form.acts").count() == 0
        api.delete(f"/v1/runs/{first}")


def test_orders_that_never_began_are_found_by_the_next_process_too(place: Jar) -> None:
    """A list by their state has them, and each has a page, as the API has it; other tenants' are not there."""
    with service_of(place, running=1, drain_s=0.1) as service, service.client() as api:
        ordered = [api.post("/v1/runs", json={"code": HANGS, "tenant": "acme"}).json()["run"] for _ in range(3)]
        api.delete(f"/v1/runs/{ordered[1]}")
        theirs = service.key_of("runner", "other")
    with service_of(place) as again:
        for key, sees in ((service.key, True), (theirs, False)):
            with again.nobody() as client:
                answer = client.post("/login", data={"key": key, "next": "/runs"}, headers={"origin": again.url})
                assert answer.status_code == 303
                for run, state in ((ordered[1], "cancelled"), (ordered[2], "interrupted")):
                    listed = client.get("/runs", params={"status": state}).text
                    assert (run in listed) is sees
                    shown = client.get(f"/runs/{run}")
                    assert shown.status_code == (200 if sees else 404)
                    assert (state in shown.text) is sees
                choices = client.get("/runs").text
                assert all(f"<option>{one}</option>" in choices for one in ("queued", "interrupted", "refused"))


def test_the_browser_checks_the_receipt_itself(browser: Browser, served: Served) -> None:
    with window(browser, served) as (page, seen):
        go(page, served.path("/runs/{run}"))
        page.click("#proof button")
        page.wait_for_selector("#proof[data-verdict=good]")
        assert page.locator("#proof li.good").count() == 3
        page.click("#proof button")
        page.locator("#proof li", has_text="that this browser knows").wait_for()
        assert seen.complaints == []


_OTHER_KEY: Final = "belljar/key/00+00000000+AZY02hn9YJMAKIHGTqGSZodOCR8VtbPlv4sKCoAzdsUZ"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"record": "e30="}, "another run"),
        ({"leaf": "00" * 32}, "does not have the hash"),
        ({"proof": []}, "too short"),
        ({"proof": ["00" * 32] * 40}, "too long"),
        ({"checkpoint": "a log\n"}, "not a signed note"),
        ({"key": _OTHER_KEY}, "not one of Ed25519"),
        ({"signature": "other"}, "not signed by"),
        ({"node": "other"}, "another root"),
    ],
)
def test_a_receipt_that_was_tampered_with_does_not_verify(
    browser: Browser, served: Served, change: dict[str, Any], told: str
) -> None:
    def tampered(route: Route) -> None:
        answer = route.fetch()
        proof = answer.json()
        if "signature" in change:
            head, _, last = proof["checkpoint"].rpartition(" ")
            proof["checkpoint"] = f"{head} {last[:30]}{'A' if last[30] != 'A' else 'B'}{last[31:]}"
        elif "node" in change:
            proof["proof"][0] = "00" * 32
        else:
            proof |= change
        route.fulfill(response=answer, body=json.dumps(proof))

    with window(browser, served) as (page, _):
        page.route("**/proof", tampered)
        go(page, served.path("/runs/{run}"))
        page.click("#proof button")
        page.wait_for_selector("#proof[data-verdict=bad]")
        assert told in page.locator("#proof li.bad").inner_text()


def test_no_text_of_a_run_or_context_becomes_more_than_text_on_any_page(browser: Browser, tmp_path: Path) -> None:
    said = "\n".join(one for one in HOSTILE if "\ud800" not in one and "\x00" not in one)
    with site(tmp_path) as served:

        async def fill() -> tuple[str, str]:
            code = f"print({said!r})\nllm_query({said!r})\nraise ValueError({said!r})"
            result = await served.host.execute(code, context=said, sub_model="scripted:demo")
            document = await served.host.add_context(said, name=said[:60])
            return result.run, document.sha256

        run, sha256 = served.do(fill())
        with window(browser, served) as (page, seen):
            for path in (
                "/runs",
                f"/runs/{run}",
                "/contexts",
                f"/contexts/view?sha256={sha256}",
                "/playground",
                "/audit",
                "/tenants",
                f"/runs?tenant={HOSTILE[0]}&model={HOSTILE[4]}",
            ):
                go(page, served.url + path)
                page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
                assert page.locator(FOREIGN).count() == 0, path
                assert page.title().endswith("belljar") or page.title().startswith("Run 2"), path
            assert is_own(seen, served)
            assert seen.complaints == []
            go(page, f"{served.url}/contexts/view?sha256={sha256}")
            shown = page.evaluate("document.getElementById('main').textContent")
            for line in said.split("\n"):
                assert glyphs(line) in shown


def test_a_run_of_a_hundred_thousand_records_opens_in_parts(browser: Browser, tmp_path: Path) -> None:
    count = 33_400  # each with a read, and three records
    run = "20261129T100000-0123456789ab"
    with site(tmp_path) as served:
        served.do(_long_run(served.host, run, count))
        with window(browser, served) as (page, seen):
            go(page, f"{served.url}/runs")
            assert run in page.locator("tbody tr").inner_text()
            go(page, f"{served.url}/runs/{run}")
            assert page.locator(".longrun li").count() == 6
            assert f"{count:,}" in page.locator(".stats").inner_text()
            assert "50 % read" in page.locator(".strip figcaption").inner_text()
            assert len(page.content()) < 5_000_000
            page.click(".longrun li:nth-child(3) a")
            page.wait_for_url("**part=3")
            ready(page)
            assert f"{count:,}" in page.locator(".stats").inner_text()
            assert page.locator(".longrun li:nth-child(3)").inner_text().endswith("from record 40001")
            assert page.locator("#r0c0q0 .name").first.inner_text() == "13334"
            assert page.locator("#r0c0 .more button").inner_text() == "List 500 of 6366 more queries"
            assert seen.complaints == []


async def _long_run(host: Host, run: str, count: int) -> None:
    """One cell that asks very often. What it asked was not kept."""
    _, audit = host._writers()

    async def write(*events: Any) -> None:
        entry = audit.entry(RunId(run), *events)
        await audit._journal.submit(entry, unavailable=AuditUnavailable)

    about: dict[str, Any] = {"text": 0, "directory": None, "items": 0, "lines": 1}
    context = ContextData(sha256="ab" * 32, name="book", kind="text", chars=count * 100, **about)
    await write(RunStarted(tenant="acme", contexts=[context], policy="standard", backend="jail", root_model="m"))
    await write(CellStarted(cell=1, code_sha256="cd" * 32, code_bytes=9))
    for first in range(0, count, 200):
        events: list[Any] = []
        for number in range(first, min(first + 200, count)):
            action = f"{run}.{number + 1}"
            asked: dict[str, Any] = {"prompt_sha256": "ab" * 32, "prompt_bytes": 10, "output_tokens_max": 10}
            events.append(ContextRead(cell=1, line=1, doc=0, start=number * 100, stop=number * 100 + 50))
            events.append(QueryRequested(cell=1, action=action, attempt=1, model="m", purpose="sub", **asked))
            spent: dict[str, Any] = {"calls": 1, "input_tokens": 3, "output_tokens": 2, "cost_nanousd": 5}
            reply: dict[str, Any] = {"reply_sha256": "ab" * 32, "reply_bytes": 4, "answered_by": "m"}
            events.append(QueryCompleted(action=action, stop_reason="end_turn", **spent, **reply))
        await write(*events)
    await write(CellFinished(cell=1, status="ok", output_bytes=0))
    await write(RunFinished(status="ok", calls=count))


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_a_tenants_limits_are_set_and_its_use_is_shown(browser: Browser, served: Served) -> None:
    with window(browser, served) as (page, seen):
        go(page, served.path("/tenants?tenant=acme/alice"))
        assert page.locator(".chart canvas").count() == 1
        assert page.locator(".gauge", has_text="model calls").inner_text().split()[-2:] == ["of", "100"]
        page.fill("input[name=calls]", "250")
        page.fill("input[name=cost_nanousd]", "2.50")
        page.click("text=Set the limits of acme/alice")
        page.locator("text=The limits are set").wait_for()
        found = served.do(served.host.quotas.show("acme/alice"))
        (limits,) = [one.limits for one in found if one.limits is not None and one.period == "day"]
        assert (limits.calls, limits.cost_nanousd) == (250, 2_500_000_000)
        page.fill("input[name=calls]", "none")
        page.fill("input[name=cost_nanousd]", "one dollar")
        page.click("text=Set the limits of acme/alice")
        page.locator("[role=alert]", has_text="one dollar").wait_for()
        assert [one for one in seen.complaints if "400" not in one] == []
    served.do(served.host.quotas.set("acme/alice", "day", calls=100, cost_nanousd=10**9))


def test_a_context_is_read_a_page_at_a_time_from_any_place(browser: Browser, served: Served) -> None:
    with window(browser, served, ALICE) as (page, seen):
        go(page, served.path("/contexts"))
        assert "4,000" in page.locator("tbody tr").inner_text()
        uses = page.locator("tbody tr td").nth(6)
        before = int(uses.inner_text())
        assert before >= 2
        served.do(served.host.execute("print(1)", context=TEXT, tenant="acme/alice"))
        served.do(served.host.execute("print(1)", context="another", tenant="acme/alice"))
        served.do(served.host.execute("print(1)", context=TEXT, tenant="acme"))
        go(page, served.path("/contexts"))
        assert int(uses.inner_text()) == before + 1  # the tenant's own runs with it alone
        page.click("tbody a")
        text = page.locator(".viewer")
        text.wait_for()
        assert text.evaluate("one => one.textContent") == TEXT[:20_000]
        page.fill("input[name=line]", "3001")
        page.click("text=Go")
        page.locator(".viewer", has_text="«3000»").wait_for()
        start = len("\n".join(TEXT.split("\n")[:3000])) + 1
        assert text.evaluate("one => one.textContent") == TEXT[start : start + 20_000]
        page.click("text=last >> nth=0")
        page.wait_for_url(f"**start={len(TEXT) - 20_000}*")
        assert text.evaluate("one => one.textContent") == TEXT[-20_000:]
        assert seen.complaints == []


def test_the_playground_runs_code_and_refuses_what_is_a_file_of_the_host(served: Served) -> None:
    form = {"tenant": "acme", "policy": "standard", "token": "word of key:admin"}
    with served.client() as client:

        def answer(**more: str) -> tuple[int, str]:
            found = client.post("/playground", data={**form, **more})
            return found.status_code, found.headers.get("location", "")

        for model in ("scripted:/etc/passwd", f"replay:{served.other}", ""):
            assert answer(question="?", model=model) == (400, "")
        assert answer(question="?", model="scripted:demo", policy="/etc/passwd") == (400, "")
        assert answer(question="?", code="1", model="scripted:demo") == (400, "")
        assert answer(model="scripted:demo") == (400, "")
        status, there = answer(code="print(len(context))", text="abc\r\ndef", model="scripted:demo")
        assert status == 303
        until(lambda: re.search(r"<pre[^>]*>7\n?</pre>", client.get(there).text), what="it printed 7")


def test_the_log_is_verified_by_a_button_and_read_by_its_cursor(browser: Browser, served: Served) -> None:
    with window(browser, served) as (page, seen):
        go(page, served.path("/audit"))
        newest = page.locator(".record summary .num").first.inner_text()
        page.click("text=Verify now")
        page.locator("text=The log verifies").wait_for()
        page.click("text=older records")
        page.wait_for_url("**before=*")
        assert page.locator(".record summary .num").first.inner_text() != newest
        page.fill("input[name=before]", "2")
        page.click("text=Go")
        page.wait_for_url("**before=2")
        assert page.locator(".record").count() == 1
        page.locator(".record summary").click()
        assert '"tenant"' in page.locator(".record pre").inner_text()
        assert page.locator("text=older records").count() == 0
        go(page, served.path("/runs?model=scripted:demo"))
        assert page.locator("tbody tr", has_text=served.run).locator(".seal").inner_text() == "verified"
        go(page, served.path("/runs/{run}"))
        assert page.locator(".badge .word").inner_text() == "The log verifies"
        assert seen.complaints == []


def test_half_a_surrogate_pair_in_a_record_is_shown_as_six_characters(served: Served) -> None:
    said = QueryFailed(action="r.1", calls=0, input_tokens=0, output_tokens=0, cost_nanousd=0, error="half \ud83d é")
    run = RunId("20200101T000000-000000000000")

    async def write() -> int:
        await served.host.audit.append(run, RunStarted(tenant="acme/alice", contexts=[]))
        return await served.host.audit.append(run, said)

    seq = served.do(write())
    with served.client() as client:
        answer = client.get(f"/audit?before={seq + 1}")
    assert answer.status_code == 200
    assert "half \\ud83d é" in answer.text


def test_the_walls_are_tried_by_a_button(browser: Browser, served: Served) -> None:
    with window(browser, served) as (page, seen):
        go(page, served.path("/health"))
        assert "works" in page.locator(".card", has_text="Log").first.inner_text()
        page.click("text=Try the walls now")
        jail = page.locator(".wall", has=page.locator("h3", has_text="jail"))
        jail.locator("table").wait_for()
        assert "seccomp" in jail.inner_text()
        assert seen.complaints == []


def test_health_tells_what_waits_for_whom_and_which_models_fail(browser: Browser, place: Jar) -> None:
    async def fail(_: ModelRequest) -> str:
        raise ModelFailed("the provider answered 529 (overloaded)")

    flaky = FakeModel(fail, "scripted:flaky")
    with (
        service_of(place, flaky, running=1) as service,
        service.client() as api,
        logged_in(browser, service) as (page, seen),
    ):
        asked = {"code": "llm_query('x')", "sub_model": flaky.name, "tenant": "acme"}
        api.post("/v1/runs", json=asked, headers={"prefer": "wait=60"})
        runs = [api.post("/v1/runs", json={"code": HANGS, "tenant": f"acme/{n}"}).json()["run"] for n in range(3)]
        until(lambda: api.get(f"/v1/runs/{runs[0]}").json()["state"] == "running", what="the first runs")
        go(page, f"{service.url}/health")
        cards = page.locator(".card")
        queue = cards.filter(has=page.locator("h2", has_text="Queue"))
        assert "2 of 5,000" in queue.inner_text()
        assert "1 of 1" in queue.inner_text()
        assert queue.locator("tbody tr").all_inner_texts() == ["acme\t2\t1"]
        errors = cards.filter(has=page.locator("h2", has_text="Provider errors"))
        model, code, last_hour, in_all = errors.locator("tbody td").all_inner_texts()
        assert (model, code, last_hour) == (flaky.name, "529", in_all)
        assert int(in_all) >= 1
        assert "in the last hour" in errors.locator(".st").inner_text()
        assert "jail" in cards.filter(has=page.locator("h2", has_text="Boxes")).inner_text()
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert seen.complaints == []
        for run in reversed(runs):
            api.delete(f"/v1/runs/{run}")


def test_who_reads_what_was_said_stands_in_the_log_once_in_a_while(served: Served) -> None:
    def readings() -> list[Any]:
        found = [record.data for record in served.do(served.host.records()) if record.event == "log.read"]
        return [data for data in found if data["by"] == "key:alice" and served.failed in data["of"]]

    with served.client(ALICE) as client:
        for _ in range(3):
            assert client.get(f"/runs/{served.failed}").status_code == 200
    assert [one["command"] for one in readings()] == ["page"]
