"""A real TensorBoard on this machine: started, asked over HTTP, ended."""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from tensorboard.backend.event_processing import plugin_event_accumulator

#: What both loaders serve of these in full: tag by tag, step by step.
PLUGINS = ("scalars", "histograms", "images", "text")
#: run, plugin, tag: the steps.
Steps = dict[str, dict[str, dict[str, list[int]]]]

SECONDS = 60.0
_PROXIES_ARE_NOT_FOR_LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_T = TypeVar("_T")


def wait_until(found: Callable[[], _T | None], what: str, seconds: float = SECONDS) -> _T:
    """Poll until there is something.

    Raises:
        TimeoutError: If there is not, in so many seconds.
    """
    end = time.monotonic() + seconds
    while (result := found()) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s there is still not {what}")
        time.sleep(0.1)
    return result


@dataclass(frozen=True)
class TensorBoard:
    """A client of one server. `url` ends in a slash."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def read(self, route: str, body: Any = None, **query: Any) -> bytes:
        """What stands behind `data/<route>`; with a body, by POST."""
        self.check_alive()
        request = urllib.request.Request(f"{self.url}data/{route}?{urlencode(query)}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with _PROXIES_ARE_NOT_FOR_LOOPBACK.open(request, timeout=SECONDS) as response:
            content: bytes = response.read()
        return content

    def get(self, route: str, body: Any = None, **query: Any) -> Any:
        """The same, out of JSON."""
        return json.loads(self.read(route, body, **query))

    def check_alive(self) -> None:
        """A server that has ended says why, at once."""
        if self.process.poll() is not None:
            said = self.log.read_text(errors="replace")
            raise RuntimeError(f"TensorBoard ended with {self.process.returncode}:\n{said}")

    def points(self, plugin: str, run: str, tag: str) -> list[Any]:
        """The retained points of a tag, as the plugin's own tab gets them."""
        found: list[Any] = self.get(f"plugin/{plugin}/{plugin}", run=run, tag=tag)
        return found

    def tags(self, plugin: str) -> dict[str, dict[str, Any]]:
        """run, tag: what is said of it (of texts nothing is)."""
        found = self.get(f"plugin/{plugin}/tags")
        return {
            run: tags if isinstance(tags, dict) else {tag: {} for tag in tags}
            for run, tags in found.items()
        }

    def steps(self, place: tuple[str, str, str]) -> list[int]:
        """The steps of the points of a plugin, run and tag."""
        return [p["step"] if isinstance(p, dict) else p[1] for p in self.points(*place)]

    def served(self) -> Steps:
        """Everything that it has now."""
        tags = {plugin: self.tags(plugin) for plugin in PLUGINS}
        found: Steps = {run: {plugin: {} for plugin in PLUGINS} for run in self.get("runs")}
        places = [(p, run, tag) for p, runs in tags.items() for run in runs for tag in runs[run]]
        # The loader in Rust takes 45 ms for each, nearly all of them idle.
        with ThreadPoolExecutor(16) as threads:
            for (plugin, run, tag), steps in zip(
                places, threads.map(self.steps, places), strict=True
            ):
                found[run][plugin][tag] = steps
        return found

    def has_read(self, expected: Steps) -> bool:
        """Whether the last point of every tag is there: a loader serves half-read runs too."""
        now = self.served()
        return all(
            now.get(run, {}).get(plugin, {}).get(tag, [])[-1:] == steps[-1:]
            for run, kinds in expected.items()
            for plugin, tags in kinds.items()
            for tag, steps in tags.items()
        )


def written(folder: Path) -> Steps:
    """What stands in the event files of a log folder."""
    steps: Steps = {}
    for run in sorted({file.parent for file in folder.rglob("events.*")}):
        events = plugin_event_accumulator.EventAccumulator(str(run), {"tensors": 0})
        events.Reload()
        kinds: dict[str, dict[str, list[int]]] = {plugin: {} for plugin in PLUGINS}
        for tag in events.Tags()["tensors"]:
            plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
            if plugin in kinds:
                kinds[plugin][tag] = [event.step for event in events.Tensors(tag)]
        steps[run.relative_to(folder).as_posix()] = kinds
    return steps


@contextmanager
def serving(folder: Path, *, fast: bool) -> Iterator[TensorBoard]:
    """Serve a finished log folder, and go on when all of it is read.

    Args:
        folder: The log folder.
        fast: With the loader written in Rust, or else with the one in Python.
    """
    expected = written(folder)
    with tempfile.TemporaryDirectory() as place, Path(place, "log").open("wb") as log:
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder.resolve())]
        command += ["--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]
        command += [f"--load_fast={'true' if fast else 'false'}"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        silent = TensorBoard("", process, Path(place, "log"))

        def banner() -> str | None:
            silent.check_alive()
            said = silent.log.read_text(errors="replace")
            found = re.search(r"http://127\.0\.0\.1:\d+/", said)
            return found and found[0]

        try:
            board = TensorBoard(wait_until(banner, "a banner"), process, silent.log)
            wait_until(lambda: board.has_read(expected) or None, f"all of {folder}")
            yield board
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
