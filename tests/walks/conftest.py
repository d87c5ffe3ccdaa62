"""The browser of the walks, and a window of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Response, sync_playwright

from server.web import ohif
from tests.conftest import absent
from tests.servers import Live
from tests.walks.screen import CHROMIUM, OPTIONS, WINDOW


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a screen, drawing WebGL in software."""
    if not CHROMIUM.exists():
        absent("Chromium (apt-get install chromium)")
    if not ohif.is_installed():
        absent("the OHIF viewer (make install)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, live: Live) -> Iterator[Page]:
    """A fresh window; the test fails if the page broke, asked another origin, or was refused anything."""
    complaints: list[str] = []

    def look_at(response: Response) -> None:
        if response.url.startswith(("http:", "https:")) and not response.url.startswith(live.base):
            complaints.append(f"asked another origin: {response.url}")
        if response.status >= 400:
            complaints.append(f"{response.status} {response.url}")

    context = browser.new_context(viewport=WINDOW)
    page = context.new_page()
    page.on("response", look_at)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None)
    page.add_init_script("localStorage?.setItem('investigationalUseDialog', '{\"expiryDate\": \"2999-01-01\"}')")
    yield page
    context.close()
    assert not complaints
