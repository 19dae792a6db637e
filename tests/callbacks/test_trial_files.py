"""The rows of trials are in the log folder, for whichever logger, and for none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_weightwatch import PruningTrial, QuantizationTrial
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader


@pytest.mark.parametrize("kind", ["tensorboard", "csv", "none"])
def test_rows_are_json_lines_and_csv_in_the_log_folder(kind: str, tmp_path: Path) -> None:
    loggers: dict[str, Any] = {
        "tensorboard": TensorBoardLogger(tmp_path / "logs"),
        "csv": CSVLogger(tmp_path / "logs"),
        "none": False,
    }
    logger = loggers[kind]
    trials = [
        QuantizationTrial(bits=(8, 4), verbose=False),
        PruningTrial(amounts=(0.5,), verbose=False),
    ]
    fit = trainer([*trials], tmp_path, logger=logger, max_epochs=1)
    fit.fit(Perceptron(), train_loader(), val_loader())
    folder = Path(logger.log_dir if logger else tmp_path) / "weightwatch"
    assert {path.name for path in folder.iterdir()} == {
        "quantization.jsonl", "quantization.csv", "quantization_layers.csv",
        "pruning.jsonl", "pruning.csv", "pruning_layers.csv",
    }  # fmt: skip
    report = trials[0].report
    assert report is not None
    lines = (folder / "quantization.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["trial"] for row in rows] == ["baseline", "int8", "int4"]
    assert rows[2]["packed_bytes"] == report.rows[2].packed_bytes
    assert rows[2]["metrics"]["val_loss"] == report.rows[2].metrics["val_loss"]
    with (folder / "quantization.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["bits"] for row in table] == ["", "8", "4"]
    assert float(table[2]["metric/val_loss"]) == report.rows[2].metrics["val_loss"]
    with (folder / "quantization_layers.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert [(row["trial"], row["name"]) for row in layers[:2]] == [
        ("int8", "net.0.weight"),
        ("int8", "net.2.weight"),
    ]
    assert float(layers[0]["sqnr"]) == pytest.approx(report.rows[1].layers[0].sqnr)


def test_a_second_trial_of_a_kind_has_files_of_its_own(tmp_path: Path) -> None:
    trials = [
        QuantizationTrial(bits=(8,), verbose=False),
        QuantizationTrial(bits=(4,), granularity="group", verbose=False),
    ]
    fit = trainer([*trials], tmp_path, max_epochs=1)
    fit.fit(Perceptron(), train_loader(), val_loader())
    for name, variant in (("quantization", "int8"), ("quantization_2", "int4_group32")):
        lines = (tmp_path / "weightwatch" / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["trial"] for line in lines] == ["baseline", variant]


def test_a_prefix_is_a_folder_and_never_a_way_out(tmp_path: Path) -> None:
    trial = PruningTrial(amounts=(0.5,), verbose=False, prefix="../a b/c")
    fit = trainer([trial], tmp_path / "inside", max_epochs=1)
    fit.fit(Perceptron(), train_loader(), val_loader())
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("pruning.csv")]
    assert files == ["inside/_/a_b/c/pruning.csv"]


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "weightwatch").write_text("a file stands where the folder would")
    trial = PruningTrial(amounts=(0.5,), verbose=False)
    fit = trainer([trial], tmp_path, max_epochs=1)
    with pytest.warns(UserWarning, match="PruningTrial could not write its files"):
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert trial.report is not None


def test_a_run_for_development_writes_nothing(tmp_path: Path) -> None:
    trial = PruningTrial(amounts=(0.5,), verbose=False)
    fit = trainer([trial], tmp_path, fast_dev_run=True, logger=True)
    fit.fit(Perceptron(), train_loader(), val_loader())
    assert trial.report is not None
    assert list(tmp_path.rglob("*.csv")) == []
