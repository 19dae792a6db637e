"""The pictures of the README: the demo in a real TensorBoard. `make screenshots` takes them.

python -m tests.tensorboard.screenshots LOG_FOLDER PICTURE_FOLDER
"""

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from rich.console import Console

from examples import digits
from tests.tensorboard.chromium import Window, find_chromium
from tests.tensorboard.server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Locator

RUN = "digits/noisy"
LAYER = "002_net.2.weight"
SCALE, COLOURS, MARGIN = 2, 64, 8


def time_series(window: Window, link: str) -> "Locator":
    """The dashboard that the link of the demo opens, without the panel of settings."""
    window.page.goto(f"{window.url}{link}")
    cards = window.page.locator("metrics-pinned-view card-view")
    for card in json.loads(parse_qs(urlsplit(link).query)["pinnedCards"][0]):
        shown = cards.filter(has_text=card["tag"]).first
        shown.wait_for()
        if card["plugin"] == "images":
            window.picture_width(shown)
    window.page.get_by_role("button", name="Settings").first.click()
    window.page.locator("metrics-dashboard-settings").wait_for(state="detached")
    return cards


def custom_scalars(window: Window, _: str) -> "Locator":
    """Alpha with its margin, and both losses of one run."""
    window.open("custom_scalars", runs=f"^{RUN}")
    kinds = ("tf-custom-scalar-margin-chart-card", "tf-custom-scalar-multi-line-chart-card")
    for kind in kinds:
        window.within(window.page.locator(kind).first, "vz-line-chart2 path.line, .main canvas")
    return window.page.locator(", ".join(kinds))


def histograms(window: Window, _: str) -> "Locator":
    """The weights of a layer, in both runs."""
    window.open("histograms", f"weightwatch-weights/{LAYER}$")
    cards = window.page.locator("tf-histogram-loader").filter(has_text=LAYER)
    for card in (cards.nth(0), cards.nth(1)):
        window.within(card, "svg path")
    return window.page.locator("tf-category-paginated-view").first.locator("tf-histogram-loader")


def images(window: Window, _: str) -> "Locator":
    """Four figures of one run."""
    window.open("images", "alpha_depth|loss_curve|weight_grid|esd/001", f"^{RUN}$")
    cards = window.page.locator("tf-category-paginated-view").first.locator("tf-image-loader")
    cards.first.wait_for()
    for index in range(cards.count()):
        window.picture_width(cards.nth(index))
    return cards


PICTURES: dict[str, tuple[Callable[[Window, str], "Locator"], int]] = {
    "time-series": (time_series, 1240),
    "custom-scalars": (custom_scalars, 1100),
    "histograms": (histograms, 1000),
    "images": (images, 1140),
}


def photograph(window: Window, cards: "Locator") -> Image.Image:
    """What the cards cover together, once the chart that is drawn last is."""
    window.page.evaluate("() => document.fonts.ready")
    window.page.wait_for_timeout(2000)  # canvas lines and their transitions: nothing to wait on
    boxes = [box for card in cards.all() if (box := card.bounding_box()) and box["width"]]
    left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
    right = max(box["x"] + box["width"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes)
    png = window.page.screenshot(
        clip={
            "x": left - MARGIN,
            "y": top - MARGIN,
            "width": right - left + 2 * MARGIN,
            "height": bottom - top + 2 * MARGIN,
        }
    )
    return Image.open(io.BytesIO(png)).convert("RGB")


@contextmanager
def window_on(folder: Path, chromium: str, width: int) -> Iterator[Window]:
    """A tall window on a log folder, light and sharp."""
    from playwright.sync_api import sync_playwright

    with serving(folder, fast=False) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        context = browser.new_context(
            viewport={"width": width, "height": 1600},
            device_scale_factor=SCALE,
            color_scheme="light",
        )
        yield Window(context, server.url)
        browser.close()


def main(log_folder: str, picture_folder: str) -> int:
    """Take every picture."""
    chromium = find_chromium()
    if chromium is None:
        print("No Chromium on this machine (Debian: apt-get install chromium).", file=sys.stderr)
        return 2
    console = Console(record=True)
    digits.main(["--log-dir", log_folder], console)
    (link,) = re.findall(r"http://localhost:6006/(\S+)", console.export_text())
    Path(picture_folder).mkdir(parents=True, exist_ok=True)
    for name, (show, width) in PICTURES.items():
        with window_on(Path(log_folder), chromium, width) as window:
            picture = photograph(window, show(window, link))
        file = Path(picture_folder, f"{name}.png")
        few = picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(file, optimize=True)
        print(f"{file}: {few.width} x {few.height}, {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
