"""Where the log of a run is: the file that is given, or what the folder of a run holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lightning_weightwatch.files.bad_file import BadFile, reading
from lightning_weightwatch.files.event_log import is_event_file, open_events
from lightning_weightwatch.files.logged import Log
from lightning_weightwatch.files.metrics_csv import open_csv
from lightning_weightwatch.files.printable import quoted
from lightning_weightwatch.files.split_run import joined, open_split

_METRICS = "metrics.csv"
_EXPECTED = (
    "Give a folder that holds metrics.csv or events of TensorBoard (lightning_logs/version_0), "
    "or a CSV file."
)
_DEPTH = 4
_MOST_FOLDERS = 10_000
_LISTED = 8


def logs_at(path: Path) -> list[Callable[[], Log]]:
    """What opens the logs of the one run at a path, the most exact first.

    `metrics.csv` holds every digit, event files 32-bit floats. A folder that holds a log is a run;
    what lies below it (`train` and `val` of `OverfittingMonitor`) is no run of its own. Without
    one, folders `train` and `validation` beside each other are one run.

    Raises:
        MissingFile: If there is nothing at the path.
        BadFile: If no run is there, or several are.
    """
    with reading(path):
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    if not is_folder:
        opener = (
            partial(open_events, path, [path]) if is_event_file(path) else partial(open_csv, path)
        )
        return [opener]
    found = joined(dict(_runs(path)))
    if not found:
        raise BadFile(f"{path}: no log of a run in this folder. {_EXPECTED}")
    if len(found) > 1:
        raise BadFile(f"{path}: holds {_listed(path, found)}. Give the folder of one of them.")
    ((run, files),) = found.items()
    if all(file.parent != run for file in files):
        return [partial(open_split, run, files)]
    events = [file for file in files if is_event_file(file)]
    exact = [partial(open_csv, file) for file in files if file.name == _METRICS]
    return [*exact, *([partial(open_events, run, events)] if events else [])]


def _runs(top: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The folders that hold logs, with their logs, none of them within another."""

    def refuse(error: OSError) -> None:
        if Path(os.fsdecode(error.filename)) == top:
            raise error

    with reading(top):
        for count, (folder, below, names) in enumerate(os.walk(top, onerror=refuse)):
            here = Path(folder)
            logs = [here / name for name in names if name == _METRICS or is_event_file(Path(name))]
            if logs:
                yield here, sorted(logs)
            deep = len(here.relative_to(top).parts) >= _DEPTH
            if logs or deep or count >= _MOST_FOLDERS:
                below.clear()
            below[:] = sorted(name for name in below if not name.startswith("."))


def _listed(top: Path, found: dict[Path, list[Path]]) -> str:
    """How many runs there are, and the newest of them, the newest last."""

    def written(run: Path) -> float:
        return max(file.stat().st_mtime for file in found[run])

    with reading(top):
        runs = sorted(found, key=written)
    shown = [quoted(str(run.relative_to(top))) for run in runs[-_LISTED:]]
    first = "the newest last" if len(runs) <= _LISTED else f"the last {_LISTED}, the newest last"
    return f"{len(runs)} runs ({first}): {', '.join(shown)}"
