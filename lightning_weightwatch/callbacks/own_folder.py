"""Where the files of a callback go."""

import re
from pathlib import Path

from lightning_weightwatch.callbacks._lightning import Trainer


def folder_for_files(trainer: Trainer, prefix: str) -> Path | None:
    """The folder `<prefix>` in the log folder; None where there is none, as in a `fast_dev_run`.

    The log folder is that of the first logger, or without one the Trainer's `default_root_dir`. A
    collective.
    """
    folder = trainer.log_dir
    if folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return Path(folder, *map(file_name, prefix.split("/")))


def file_name(part: str) -> str:
    """A name that is no path."""
    return re.sub(r"[^\w.-]", "_", part).lstrip(".") or "_"
