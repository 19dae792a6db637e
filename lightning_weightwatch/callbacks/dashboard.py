"""What TensorBoard shows first: the charts of Custom Scalars, and a link that opens a dashboard."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.loggers import loggers_of
from lightning_weightwatch.callbacks.loggers.tensorboard import events_of, log_dir_of, tag_prefix
from lightning_weightwatch.callbacks.publish import Publisher

#: A card of the dashboard: the plugin that shows it, and its name without prefix.
Pin = tuple[Literal["scalars", "images", "histograms"], str]

#: A chart of Custom Scalars: lines over each other, or a line with a margin (line, lower, upper).
Chart = tuple[Literal["Multiline", "Margin"], Sequence[str]]


class Shown(Protocol):
    """What is asked of a callback that is on the dashboard: `KeyedCallback` has it."""

    @property
    def CUSTOM_CHARTS(self) -> Mapping[str, Chart]:
        """Its charts of Custom Scalars, by their titles."""
        ...

    @property
    def RUNS_BESIDE(self) -> tuple[str, ...]:
        """Its runs below that of the logger."""
        ...

    @property
    def prefix(self) -> str:
        """What its keys begin with."""
        ...

    @property
    def publisher(self) -> Publisher:
        """What writes for it."""
        ...

    def key(self, name: str) -> str:
        """The full name of a key."""
        ...

    def pins(self) -> list[Pin]:
        """Its cards."""
        ...


# Where TensorBoard serves when it is not told otherwise.
_SERVER = "http://localhost:6006"


def write_layout(trainer: Trainer, callbacks: Sequence[Shown]) -> None:
    """Write the charts of Custom Scalars, once for all callbacks.

    Of two layouts in one run the later wins, those of several runs are merged: in a run beside,
    ours does not take the place of the user's.
    """
    if not any(callback.CUSTOM_CHARTS for callback in callbacks):
        return
    aside = next((callback for callback in callbacks if callback.RUNS_BESIDE), None)
    if aside is not None:
        targets = aside.publisher.runs_beside(trainer, aside.RUNS_BESIDE[0])
    else:
        targets = [
            (tag_prefix(logger), events_of(getattr(logger, "experiment", None)))
            for logger in loggers_of(trainer)
        ]
    for prefix, events in targets:
        if events is not None:
            from torch.utils.tensorboard.summary import custom_scalars

            layout = _layout(callbacks, prefix)
            events.add_summary(custom_scalars(layout))  # type: ignore[no-untyped-call]


def _layout(callbacks: Sequence[Shown], prefix: str) -> dict[str, dict[str, list[Any]]]:
    """The charts of each callback under its own prefix, in the form that torch takes.

    The tags of lines are regular expressions, those of margins are not.
    """
    layout: dict[str, dict[str, list[Any]]] = {}
    for callback in callbacks:
        for title, (form, names) in callback.CUSTOM_CHARTS.items():
            tags = [f"{prefix}{callback.key(name)}" for name in names]
            if form == "Multiline":
                tags = [f"^{re.escape(tag)}$" for tag in tags]
            layout.setdefault(callback.prefix, {})[title] = [form, tags]
    return layout


def dashboard(trainer: Trainer, callbacks: Iterable[Shown]) -> tuple[str, str] | None:
    """How to look at what was written.

    Returns:
        The command that starts TensorBoard, and the link that then opens our cards, those of this
        run alone, without smoothing. None where nothing was written for TensorBoard.
    """
    folders = [
        (logger, folder)
        for logger in loggers_of(trainer)
        if (folder := log_dir_of(getattr(logger, "experiment", None))) is not None
    ]
    pins = pins_of(callbacks)
    if folders:
        pins = [(plugin, f"{tag_prefix(folders[0][0])}{tag}") for plugin, tag in pins]
    if not folders or not pins:
        return None
    logger, folder = folders[0]
    root, run = _root_and_run(folder, getattr(logger, "root_dir", None))
    return f"tensorboard --logdir {shlex.quote(root)}", dashboard_link(run, pins)


def pins_of(callbacks: Iterable[Shown]) -> list[tuple[str, str]]:
    """The cards of a dashboard, plugin and tag, of those that have been written: curves first."""
    pins = [
        (plugin, callback.key(name))
        for callback in callbacks
        for plugin, name in callback.pins()
        if callback.publisher.has_written(callback.key(name))
    ]
    return sorted(pins, key=lambda pin: ("scalars", "images", "histograms").index(pin[0]))


def dashboard_link(run: str, pins: Iterable[tuple[str, str]], server: str = _SERVER) -> str:
    """The link to the Time Series tab with cards pinned, for one run and the runs below it.

    Args:
        run: Its name in TensorBoard: its folder below that of `--logdir`.
        pins: The cards: plugin and tag. An image or a histogram needs the run besides.
        server: Where TensorBoard serves.
    """
    cards: list[dict[str, Any]] = []
    for plugin, tag in pins:
        card: dict[str, Any] = {"plugin": plugin, "tag": tag}
        if plugin != "scalars":
            card["runId"] = f"defaultExperimentId/{run}"
        if plugin == "images":
            card["sample"] = 0
        cards.append(card)
    pinned = quote(json.dumps(cards, separators=(",", ":")), safe="/,:")
    runs = quote(f"^{re.escape(run)}($|/)", safe="/")
    return f"{server}/?smoothing=0&runFilter={runs}&pinnedCards={pinned}#timeseries"


def _root_and_run(folder: str, root_dir: str | None) -> tuple[str, str]:
    """The folder for `--logdir`, and the name that a run then has.

    Args:
        folder: Of the run.
        root_dir: Of the logger, with all its versions; the folder above where it is none.
    """
    if "://" in folder:
        root, _, run = folder.rstrip("/").rpartition("/")
        return root, run
    path = Path(folder).resolve()
    above = Path(root_dir or folder).resolve()
    above = above if above in path.parents else path.parent
    here = Path.cwd()
    shown = above.relative_to(here) if above.is_relative_to(here) else above
    return str(shown), path.relative_to(above).as_posix()
