"""The demo's log folder, a TensorBoard on it with each loader, and a browser."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_weightwatch import PruningTrial, QuantizationTrial, WeightHistogram
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader
from tests.examples.test_digits import Demo, tell
from tests.tensorboard.chromium import Window, find_chromium
from tests.tensorboard.server import Steps, TensorBoard, serving, written

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

#: More than the ten pictures of a tag that TensorBoard keeps.
EPOCHS = 12


@pytest.fixture(scope="session")
def shown_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo: the runs `digits/clean` and `digits/noisy`."""
    return tell(tmp_path_factory.mktemp("demo_log"), "--epochs", str(EPOCHS))


@pytest.fixture(scope="session")
def demo_link(shown_demo: Demo) -> str:
    """The link that it prints, without the server."""
    (link,) = re.findall(r"http://localhost:6006/(\S+)", shown_demo.text)
    return str(link)


@pytest.fixture(scope="session")
def demo_log(shown_demo: Demo) -> Path:
    """The log folder of the demo, with `options/opted_in` beside its runs."""
    folder = shown_demo.folder
    fit = trainer(
        [
            WeightHistogram(gradients=True),
            QuantizationTrial(hparams=True, verbose=False),
            PruningTrial(hparams=True, verbose=False),
        ],
        folder / "options",
        logger=TensorBoardLogger(folder, name="options", version="opted_in"),
    )
    fit.fit(Perceptron(), train_loader(), val_loader())
    return folder


@pytest.fixture(scope="session")
def logged(demo_log: Path) -> Steps:
    """What stands in its event files."""
    return written(demo_log)


@pytest.fixture(scope="session", params=["rust", "python"])
def server(request: pytest.FixtureRequest, demo_log: Path) -> Iterator[TensorBoard]:
    """A TensorBoard that has read all of it, with either loader."""
    if request.param == "rust":
        pytest.importorskip("tensorboard_data_server", reason="no loader in Rust on this system")
    with serving(demo_log, fast=request.param == "rust") as board:
        yield board


@pytest.fixture(scope="session")
def served(server: TensorBoard) -> Steps:
    """What that TensorBoard has."""
    return server.served()


@pytest.fixture(scope="module")  # not longer: its event loop is the thread's, and tests have theirs
def browser() -> Iterator["BrowserContext"]:
    """A headless Chromium, which reads TensorBoard's 6 MB of JavaScript once."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path)
        yield chromium.new_context(viewport={"width": 1440, "height": 1000})
        chromium.close()


@pytest.fixture
def window(
    browser: "BrowserContext", server: TensorBoard, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Window]:
    """A window on that TensorBoard. WEIGHTWATCH_SCREENSHOTS=folder keeps what was seen last."""
    window = Window(browser, server.url)
    yield window
    folder = Path(os.environ.get("WEIGHTWATCH_SCREENSHOTS") or tmp_path)
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    window.page.screenshot(path=folder / f"{name}.png")
    window.page.close()
