"""A page in a headless Chromium, with the network off: what it asked for, and what went wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Programs that are looked for; the variable CHROMIUM names another."""

# No name but this machine's is resolved, so whatever a page asks for elsewhere is not answered.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
LOOPBACK = ("127.0.0.1", "localhost")


def program() -> str:
    """Return the path of Chromium, which is never downloaded.

    Raises `FileNotFoundError` where there is none, with the command that installs it.
    """
    asked = os.environ.get("CHROMIUM")
    found = shutil.which(asked) if asked else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise FileNotFoundError(
            f"no Chromium ({asked or ', '.join(NAMES)}) for the tests of pages; "
            "apt-get install chromium, or name one with the variable CHROMIUM"
        )
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium; it ends with the block."""
    # Root, as in a container, has no sandbox, and /dev/shm may be small there.
    options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", OFFLINE]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=options)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """A page that is open.

    Attributes:
        page: Playwright's page.
        requests: URLs that it asked for, other than data: and blob:.
        errors: Errors of its scripts, and what its console calls an error: such as what a content
            security policy forbids.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def asked_elsewhere(self) -> list[str]:
        """URLs that are neither files nor of this machine."""
        return [
            url
            for url in self.requests
            if (parts := urlsplit(url)).scheme != "file" and parts.hostname not in LOOPBACK
        ]


@contextmanager
def tab(
    browser: Browser,
    *,
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
    offline: bool = True,
) -> Iterator[Tab]:
    """Open an empty page with a profile of its own, and close it with the block.

    Args:
        browser: The browser of `chromium`.
        width: Width of the window in CSS pixels; 390 is a phone's.
        height: Its height.
        dark: Prefer dark colours.
        offline: Answer no request at all but of files; False for a server on this machine, which
            is all that is reached then.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        # What scrolls smoothly may have moved on when a click arrives.
        reduced_motion="reduce",
        offline=offline,
    )
    context.set_default_timeout(10_000)
    try:
        one = Tab(context.new_page())
        one.page.on(
            "request",
            lambda request: (
                None
                if urlsplit(request.url).scheme in ("data", "blob")
                else one.requests.append(request.url)
            ),
        )
        one.page.on("pageerror", lambda error: one.errors.append(str(error)))
        one.page.on(
            "console",
            lambda said: one.errors.append(said.text) if said.type == "error" else None,
        )
        yield one
    finally:
        context.close()


def overflow(page: Page) -> int:
    """Return by how many CSS pixels a page is wider than its window; 0 where it fits."""
    wider: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return max(0, wider)
