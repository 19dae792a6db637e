"""The results of trials as files in the log folder: JSON lines and CSV."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.own_folder import file_name, folder_for_files
from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.views.records import csv_text


def write_files(trainer: Trainer, prefix: str, area: str, report: TrialReport) -> Path | None:
    """Write `<area>.jsonl`, `<area>.csv` and `<area>_layers.csv`, replacing older ones.

    In the folder `<prefix>` of the log folder: that of the first logger, or without one the
    Trainer's `default_root_dir`. On rank 0; every rank calls it.

    Returns:
        The folder; None where there is no log folder, as in a `fast_dev_run`.
    """
    place = folder_for_files(trainer, prefix)
    if place is None or not trainer.is_global_zero:
        return None
    place.mkdir(parents=True, exist_ok=True)
    records = report.records()
    name = file_name(area)
    _replace(place / f"{name}.jsonl", "".join(map(_json_line, records)))
    _replace(place / f"{name}.csv", csv_text([_flat(record) for record in records]))
    _replace(place / f"{name}_layers.csv", csv_text(report.records_by_layer()))
    return place


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """What is not finite is null: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric in a column of its own."""
    rest = {key: value for key, value in record.items() if key != "metrics"}
    return {**rest, **{f"metric/{name}": value for name, value in record["metrics"].items()}}


def _replace(path: Path, text: str) -> None:
    """Write beside, then move: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
