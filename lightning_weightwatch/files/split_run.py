"""A run in two folders, `train` and `validation`, with the same curves in each, as of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lightning_weightwatch.files.event_log import is_event_file, open_events
from lightning_weightwatch.files.logged import Log, Point

_TRAINING = ("train", "training")
_VALIDATION = ("validation", "val", "valid")


def joined(runs: Mapping[Path, list[Path]]) -> dict[Path, list[Path]]:
    """The logs of each run; two folders of training and validation become the one they are in."""
    found = dict(runs)
    for folder in runs:
        pair = [folder.with_name(name) for name in _VALIDATION if folder.with_name(name) in runs]
        if folder.name in _TRAINING and len(pair) == 1:
            logs = [*runs[folder], *runs[pair[0]]]
            if all(map(is_event_file, logs)):
                del found[folder], found[pair[0]]
                found[folder.parent] = logs
    return found


def open_split(run: Path, files: list[Path]) -> Log:
    """The scalars of both folders, each under the name of its own: `validation/epoch_loss`.

    Raises:
        BadFile: If one of them cannot be read, or has no scalar.
    """
    folders = dict.fromkeys(file.parent for file in files)
    logs = {
        folder.name: open_events(folder, [file for file in files if file.parent == folder])
        for folder in folders
    }
    curves: dict[str, Callable[[], list[Point]]] = {
        f"{folder}/{name}": partial(log.written, name)
        for folder, log in logs.items()
        for name in log.names
    }
    epochs = [log.first_epoch for log in logs.values()]
    return Log(
        str(run),
        tuple(curves),
        lambda name: curves[name](),
        has_steps=True,
        first_epoch=None if None in epochs else min(epoch for epoch in epochs if epoch is not None),
    )
