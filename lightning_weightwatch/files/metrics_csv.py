"""A table of metrics in CSV: of Lightning's CSVLogger, of Keras', or exported by hand."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from lightning_weightwatch.files.bad_file import BadFile, check_regular, reading
from lightning_weightwatch.files.logged import MAX_EPOCH, Log, Point, epoch_of_step
from lightning_weightwatch.files.printable import in_one_line, printable, quoted
from lightning_weightwatch.files.row_order import (
    counts_epochs_from_1,
    is_newest_first,
    is_step_of_epoch,
    is_unsorted,
    spaced_epochs_from_1,
)

_EXPECTED = "Give a CSV file with a header, or the folder of a run."
_EPOCHS = ("epoch", "epochs")
_STEPS = ("step", "steps", "global_step", "trainer/global_step", "iteration")
_ABSENT = {"", "none", "null", "na", "n/a", "<na>", "-", "no log"}
_DELIMITERS = ",;\t|"
_LARGEST = 2**30
# The cells of a column that hold something: the row, counted from 0, and the text.
_Cells = list[tuple[int, str]]


def open_csv(file: Path) -> Log:
    """The curves in a CSV file. Only the columns that are asked for need hold numbers.

    The delimiter may be a comma, semicolon, tab or bar; blank cells, `None`, `NA` and `No log` are
    absent, `nan` and `inf` values. Epochs are taken as counted from 1 where the steps say so, or a
    table without steps begins with epoch 1, or has every fifth from 5 on. A step that begins anew
    in each epoch is ignored, and rows in another order than that of training are sorted.

    Raises:
        BadFile: If it is no such table, or cannot be read.
    """
    header, rows, delimiter = _table(file)
    repeated = {name for name, often in Counter(header).items() if often > 1 and name}
    cells: dict[str, _Cells] = {name: [] for name in header if name}
    for number, row in enumerate(rows):
        for name, text in zip(header, row, strict=False):
            if name and text.strip().lower() not in _ABSENT:
                cells[name].append((number, text))
    column_of = {name.lower(): name for name in reversed(cells)}
    steps_in = next((column_of[name] for name in _STEPS if name in column_of), None)
    epochs_in = next((column_of[name] for name in _EPOCHS if name in column_of), None)

    @cache
    def numbers(name: str) -> dict[int, float]:
        if name in repeated:
            raise BadFile(f"{file}: has several columns {quoted(name)}. Rename all but one.")
        return {
            number: _number(file, name, number, text, delimiter) for number, text in cells[name]
        }

    said_epochs = numbers(epochs_in) if epochs_in else {}
    said_steps = _finite(numbers(steps_in)) if steps_in else {}
    notes: list[str] = []
    order: Sequence[int] = range(len(rows))
    if is_newest_first(_finite(said_epochs), said_steps):
        notes.append("The rows are sorted from the newest to the oldest: read from the last on.")
        order = order[::-1]
    elif is_unsorted(_finite(said_epochs), said_steps, len(rows)):
        notes.append("The rows are in no order of training: read by their epochs and steps.")
        order = sorted(order, key=lambda row: (said_epochs.get(row, 0), said_steps.get(row, 0)))
    has_steps = bool(said_steps)
    in_order = {row: said_steps[row] for row in order if row in said_steps}
    if is_step_of_epoch(_finite(said_epochs), in_order):
        notes.append(f"{printable(steps_in or '')} begins anew in each epoch: rows are counted.")
        has_steps = False
    position = (
        _filled(said_steps, order)
        if has_steps
        else {row: float(place) for place, row in enumerate(order)}
    )
    epochs = _epochs(file, said_epochs, position if has_steps else None, notes)
    nearest = epoch_of_step({position[row]: epochs[row] for row in order if row in epochs})

    def written(name: str) -> list[Point]:
        values = numbers(name)
        return [
            Point(position[row], epochs.get(row, nearest(position[row])), values[row], place)
            for place, row in enumerate(order)
            if row in values
        ]

    names = tuple(name for name in cells if name not in (steps_in, epochs_in))
    first = min(epochs.values(), default=None)
    return Log(str(file), names, written, has_steps, first, tuple(notes))


def _table(file: Path) -> tuple[list[str], list[list[str]], str]:
    """The header, the rows that hold anything, and the delimiter.

    Raises:
        BadFile: If it is no table.
    """
    text = _text(file)
    first = text.split("\n", 1)[0]
    try:
        delimiter = max(
            _DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark)))
        )
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [name.strip() for name in next(lines)]
        rows = [row for row in lines if any(row)]
    except csv.Error as error:
        raise BadFile(f"{file}: not a table ({in_one_line(error)}). {_EXPECTED}") from error
    if not any(header):
        raise BadFile(f"{file}: its first line names no columns. {_EXPECTED}")
    if all(_is_number(name) for name in header if name):
        raise BadFile(f"{file}: its first line holds numbers, not names of columns. {_EXPECTED}")
    if rows and len(rows[-1]) < len(header) and not text.endswith("\n"):
        del rows[-1]  # cut short: the run still writes, or died
    rows = [row for row in rows if [name.strip() for name in row] != header]  # logs put together
    if not rows:
        raise BadFile(
            f"{file}: has a header and no rows. If the run has just begun, wait for its first "
            "validation."
        )
    for number, row in enumerate(rows):
        if any(row[len(header) :]):
            raise BadFile(
                f"{file}: {_named(number)} has {len(row)} cells, the header {len(header)}. "
                "Mend the row, or quote names and texts that hold the delimiter."
            )
    return header, rows, delimiter


def _named(row: int) -> str:
    return f"row {row + 1} below the header"


def _text(file: Path) -> str:
    with reading(file):
        state = file.stat()
        check_regular(file, state.st_mode, _EXPECTED)
        if state.st_size > _LARGEST:
            raise BadFile(
                f"{file}: of {state.st_size / 2**30:.1f} GiB, more than any table of metrics. "
                f"{_EXPECTED}"
            )
        content = file.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    text = text.rstrip("\0").lstrip("\r\n")  # zeros: left at the end by a machine that went down
    if not text.strip():
        raise BadFile(f"{file}: it is empty. {_EXPECTED}")
    if "\0" in text:
        raise BadFile(f"{file}: not text, or damaged: it holds null bytes. {_EXPECTED}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _epochs(
    file: Path, found: dict[int, float], steps: Mapping[int, float] | None, notes: list[str]
) -> dict[int, int]:
    """The 0-based epoch of each row that tells one.

    Raises:
        BadFile: For what is no count of epochs.
    """
    epochs = {row: epoch for row, epoch in found.items() if not math.isnan(epoch)}
    for row, epoch in epochs.items():
        if not 0 <= epoch < MAX_EPOCH:
            raise BadFile(f"{file}: {_named(row)}: {epoch:g} is no epoch. Mend or drop the row.")
    if any(epoch % 1 for epoch in epochs.values()):
        notes.append("Epochs are fractions: taken as the passes through the data that were done.")
        return {row: max(math.ceil(epoch) - 1, 0) for row, epoch in epochs.items()}
    whole = {row: int(epoch) for row, epoch in epochs.items()}
    least = min(whole.values(), default=0)
    if not least:
        return whole
    spaced = spaced_epochs_from_1(whole.values())
    from_1: bool | None = least == 1 if spaced is None else spaced
    if steps is not None:
        ends: dict[int, float] = {}
        for row, number in whole.items():
            ends[number] = max(ends.get(number, steps[row]), steps[row])
        from_1 = counts_epochs_from_1(ends)
    if from_1 is not False:
        counted = "1" if from_1 else "0, as the steps do not tell"
        notes.append(f"Epochs are taken as counted from {counted}.")
    return {row: epoch - 1 for row, epoch in whole.items()} if from_1 else whole


def _finite(numbers: dict[int, float]) -> dict[int, float]:
    return {row: number for row, number in numbers.items() if math.isfinite(number)}


def _filled(found: dict[int, float], order: Sequence[int]) -> dict[int, float]:
    """A value for every row: that of the last row before it where it has none."""
    filled: dict[int, float] = {}
    value = -1.0
    for row in order:
        value = filled[row] = found.get(row, value)
    return filled


def _number(file: Path, name: str, row: int, text: str, delimiter: str) -> float:
    for form in (text, text.replace(",", ".") if delimiter != "," else text):
        try:
            return float(form)
        except ValueError:
            continue
    raise BadFile(
        f"{file}: {_named(row)}, column {quoted(name)}: {quoted(text, 40)} is no number. "
        "Mend it, or leave the cell blank."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
