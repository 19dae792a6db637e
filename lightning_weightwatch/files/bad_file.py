"""The one error of a file that cannot be read, for files of weights and logs alike."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_weightwatch.files.printable import in_one_line, printable


class BadFile(ValueError):
    """A file that cannot be read.

    Its message is one printable line: what was given, why it cannot be read, what to do. Paths and
    names out of a hostile file can hold line feeds and terminal codes: they are escaped here, where
    no message can miss it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class MissingFile(BadFile, FileNotFoundError):
    """There is no such file."""


def as_path(path: str | os.PathLike[str]) -> Path:
    """The path as given, bytes included."""
    return Path(os.fsdecode(path))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within this block what the system refuses is a `BadFile` that says so."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFile(f"{path}: no such file. Look for a typing error in the path.") from error
    except BadFile:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that holds a null byte
        reason = getattr(error, "strerror", None) or in_one_line(error)
        raise BadFile(
            f"{path}: cannot be opened ({reason}). Check the path and its permissions."
        ) from error


def check_regular(path: Path, mode: int, expected: str) -> None:
    """Refuse what is no file on a disk: reading a pipe or a device could wait for ever.

    Args:
        path: What was given.
        mode: Its `st_mode`.
        expected: What to give instead, a sentence.
    """
    if not stat.S_ISREG(mode):
        raise BadFile(f"{path}: a pipe or a device, not a regular file. {expected}")
