"""The browser of this machine, and a window in it that remembers what went wrong."""

import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator

NAMES = ("chromium", "google-chrome", "chromium-browser")
SECONDS = 20.0


def find_chromium() -> str | None:
    """A Chromium or Chrome that starts: on some systems the name is a stub that asks for a snap."""
    for name in NAMES:
        path = shutil.which(name) or shutil.which(name, path="/usr/bin")
        if path is not None:
            said = subprocess.run([path, "--version"], capture_output=True, timeout=SECONDS)
            if said.returncode == 0:
                return path
    return None


class Window:
    """A page, and the errors of it and of its console."""

    def __init__(self, context: "BrowserContext", url: str) -> None:
        self.url = url
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type == "error" else None,
        )

    def open(self, tab: str, tag_filter: str = "", runs: str = "") -> None:
        """Show a tab: the tags that match stand first, in the group that is always open."""
        self.page.goto("about:blank")  # a change of what follows # alone loads nothing
        if tab == "timeseries":
            query = {"smoothing": "0", "tagFilter": tag_filter, "runFilter": runs}
            self.page.goto(f"{self.url}?{urlencode(query)}#timeseries")
        else:
            tags, only = quote(tag_filter, safe=""), quote(runs, safe="")
            self.page.goto(
                f"{self.url}#{tab}&tagFilter={tags}&regexInput={only}&_smoothingWeight=0"
            )

    def card(self, kind: str, words: str) -> "Locator":
        """The first card of a kind with these words, once it can be seen."""
        card = self.page.locator(kind).filter(has_text=words).first
        card.wait_for()
        return card

    def within(self, card: "Locator", drawing: str, words: str = "") -> None:
        """Wait until something, the first of its kind with these words, is drawn in a card."""
        card.locator(drawing).filter(has_text=words).first.wait_for()

    def picture_width(self, card: "Locator") -> int:
        """The pixels across the picture in a card, once it is loaded."""
        picture = card.locator("img").first
        picture.wait_for()
        self.page.wait_for_function("e => e.complete", arg=picture.element_handle())
        width: int = picture.evaluate("e => e.naturalWidth")
        return width
