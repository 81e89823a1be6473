"""A real Chromium that looks at our pages, notes whatever goes wrong in them, and checks what everybody must be able to use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

__all__ = ["PHONE", "accessibility_problems", "chromium", "opened"]

PHONE = {"width": 390, "height": 844}
_DESKTOP = {"width": 1280, "height": 900}
_PATIENCE_MS = 30_000
_CHROMIUM = os.environ.get("ONESCORE_CHROMIUM", "/usr/bin/chromium")
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
});
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium and end it."""
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Open a page in a profile of its own; at the end fail if anything went wrong in it.

    That is: a breach of its content security policy, an exception of a script, an error in the console, or a request to another origin.

    Args:
        browser: see chromium.
        url: of the page.
        options: of the browser's context, such as `color_scheme`.
    """
    settings = {"viewport": _DESKTOP, "timezone_id": "Asia/Kathmandu", "locale": "en-GB", **options}
    context = browser.new_context(**settings)
    wrong: list[str] = []
    origin = "/".join(url.split("/")[:3])
    context.on("request", lambda request: _note_foreign(request.url, origin, wrong))
    context.add_init_script(_NOTE_VIOLATIONS)
    page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    try:
        page.goto(url)
        yield page
        wrong += [f"content security policy: {one}" for one in page.evaluate("window.violations")]
        wrong = [one for one in wrong if not _is_expected(one)]
        assert not wrong, wrong
    finally:
        context.close()


def _note_foreign(url: str, origin: str, wrong: list[str]) -> None:
    if not url.startswith((origin, "blob:", "data:")):
        wrong.append(f"request to another origin: {url}")


def _is_expected(problem: str) -> bool:
    """A refused key, a refused file and a server that was ended on purpose are answers of tests, and the console tells of them."""
    return "Failed to load resource" in problem or "net::ERR" in problem


_CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")


def accessibility_problems(page: Page, *, is_touched: bool = False) -> list[str]:
    """Return what keeps somebody from using the page as it is now.

    Names, labels, headings, tables, ids, drawings, contrast (4.5, of large text 3), scrolling by keyboard, a page wider than its window.

    Args:
        page: all that is visible of it.
        is_touched: whether things must be large enough for a finger.
    """
    found: list[str] = page.evaluate(_CHECKS, is_touched)
    return found
