"""TensorBoard's HParams page has a row for each trial, whichever of its loaders reads them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lightning_weightwatch import PruningTrial, QuantizationTrial
from lightning_weightwatch.callbacks import hparams
from lightning_weightwatch.callbacks.trial import PostFitTrial
from lightning_weightwatch.trials.report import TrialReport, TrialRow
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader
from tests.tensorboard.server import TensorBoard, serving, wait_until

METRICS = ("value", "delta", "packed_bytes", "size_ratio")
GRID = {"granularity": "channel", "clip": "mse", "scheme": "symmetric", "range": "restricted"}
PRUNED = {"method": "magnitude", "scope": "global"}
OURS = {f"weightwatch-trial/{name}" for name in ("kind", "bits", "amount", *GRID, *PRUNED)}


@dataclass
class Schedule:
    warm_up: int = 3
    shape: str = "cosine"


class Saved(Perceptron):
    """Keeps hyperparameters of every kind, under names that trials have too."""

    def __init__(self, bits: int = 32, method: str = "sgd", **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


OPTIONS: dict[str, Any] = {
    "augment": True,
    "sizes": [40, 40],
    "nothing": None,
    "empty": [],
    "optimizer": {"lr": 0.05, "betas": {"first": 0.9}},
    "blocks": [{"width": 40}, {"width": 20}],
    "schedule": Schedule(),
    "parsed": Namespace(seed=1),
    "numpy": np.float32(0.25),
    "tensor": torch.tensor([2.5]),
    "layer": torch.nn.ReLU,
}


def session_start(folder: Path) -> Any:
    """The first that a run tells of its row: what TensorBoard shows."""
    events = EventAccumulator(str(folder))
    events.Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content)


def plain(values: Any) -> dict[str, Any]:
    """Protobuf's values as Python's."""
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def runs_of(folder: str | Path) -> set[str]:
    return {file.parent.relative_to(folder).as_posix() for file in Path(folder).rglob("events.*")}


class Logged:
    """A fit with two callbacks whose trials are shown."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.callbacks: list[PostFitTrial] = [
            QuantizationTrial(hparams=True, bits=(8, 3), verbose=False),
            PruningTrial(hparams=True, amounts=(0.5, 0.99), verbose=False),
        ]
        self.logger = TensorBoardLogger(root, name="fits")
        fit = trainer([*self.callbacks], root, logger=self.logger, max_epochs=2)
        fit.fit(Saved(**OPTIONS), train_loader(), val_loader())
        self.mine = hparams.user_hparams(fit)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    return Logged(tmp_path_factory.mktemp("hparams"))


@pytest.fixture(scope="module", params=["rust", "python"])
def board(request: pytest.FixtureRequest, logged: Logged) -> Iterator[TensorBoard]:
    if request.param == "rust":
        pytest.importorskip("tensorboard_data_server", reason="no loader in Rust on this system")
    with serving(logged.root, fast=request.param == "rust") as running:
        yield running


def sessions(board: TensorBoard) -> dict[str, dict[str, Any]]:
    """The rows of the page by their names, once all six of them are there."""
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 100,
    }

    def complete() -> dict[str, dict[str, Any]] | None:
        answer = board.get("plugin/hparams/session_groups", request)
        rows = {group["name"]: group for group in answer.get("sessionGroups", [])}
        return rows if len(rows) >= 6 else None

    return wait_until(complete, "six sessions", seconds=20)


def test_the_columns_are_those_of_all_trials_and_of_the_user(
    board: TensorBoard, logged: Logged
) -> None:
    sessions(board)
    page = board.get("plugin/hparams/experiment", {"experimentName": ""})
    columns = {info["name"]: info for info in page["hparamInfos"]}
    assert set(columns) == OURS | set(logged.mine)
    assert {name for name, info in columns.items() if info["differs"]} == OURS
    assert columns["weightwatch-trial/bits"]["displayName"] == "trial bits"
    assert columns["weightwatch-trial/bits"]["type"] == "DATA_TYPE_FLOAT64"
    assert columns["weightwatch-trial/kind"]["type"] == "DATA_TYPE_STRING"
    assert [(info["name"]["tag"], info["displayName"]) for info in page["metricInfos"]] == [
        ("weightwatch-trial/value", "monitored metric"),
        ("weightwatch-trial/delta", "delta"),
        ("weightwatch-trial/packed_bytes", "packed bytes"),
        ("weightwatch-trial/size_ratio", "size ratio"),
    ]


def test_the_rows_are_the_fit_the_baseline_and_every_trial(
    board: TensorBoard, logged: Logged
) -> None:
    rows, log_dir = sessions(board), logged.logger.log_dir
    trials: dict[str, dict[str, Any]] = {
        "baseline": {"kind": "none"},
        "int8": {"kind": "quantization", "bits": 8, **GRID},
        "int3": {"kind": "quantization", "bits": 3, **GRID},
        "pruned50": {"kind": "pruning", "amount": 0.5, **PRUNED},
        "pruned99": {"kind": "pruning", "amount": 0.99, **PRUNED},
    }
    assert set(rows) == {"fits/version_0", *(f"{name} [{log_dir}]" for name in trials)}
    assert rows["fits/version_0"]["hparams"] == logged.mine
    for name, ours in trials.items():
        row = rows[f"{name} [{log_dir}]"]
        shown = {f"weightwatch-trial/{key}": value for key, value in ours.items()}
        assert row["hparams"] == {**logged.mine, **shown}
        (session,) = row["sessions"]
        assert session["name"] == f"fits/version_0/trials/{name}"
        assert session["status"] == "STATUS_SUCCESS"
        assert session["endTimeSecs"] > session["startTimeSecs"]


def test_the_numbers_are_those_of_the_reports(board: TensorBoard, logged: Logged) -> None:
    rows = sessions(board)
    for callback in logged.callbacks:
        assert callback.report is not None
        for record in callback.report.records():
            row = rows[f"{record['trial']} [{logged.logger.log_dir}]"]
            shown = {
                value["name"]["tag"]: (value["value"], value["trainingStep"])
                for value in row["metricValues"]
            }
            assert shown == {
                f"weightwatch-trial/{name}": (pytest.approx(record[name], rel=1e-6), 11)
                for name in METRICS
            }


def test_the_users_hyperparameters_are_shown_as_lightning_shows_them(logged: Logged) -> None:
    lightnings = plain(session_start(Path(logged.logger.log_dir)).hparams)
    assert logged.mine == lightnings
    assert lightnings["optimizer/betas/first"] == 0.9
    baseline = plain(session_start(Path(logged.logger.log_dir, "trials/baseline")).hparams)
    assert baseline == {**lightnings, "weightwatch-trial/kind": "none"}


def test_those_of_a_datamodule_are_shown_too(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        def __init__(self, fold: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return train_loader()

        def val_dataloader(self) -> Any:
            return val_loader()

    logger = TensorBoardLogger(tmp_path)
    fit = trainer(
        [PruningTrial(hparams=True, amounts=(0.5,), verbose=False)],
        tmp_path,
        logger=logger,
        max_epochs=1,
    )
    fit.fit(Saved(), datamodule=Data())
    shown = plain(session_start(Path(logger.log_dir)).hparams)
    assert shown == {"bits": 32, "method": "sgd", "fold": 2}
    assert hparams.user_hparams(fit) == shown


def test_without_saved_hyperparameters_the_trials_are_shown_alone(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit = trainer(
        [PruningTrial(hparams=True, amounts=(0.5,), verbose=False)],
        tmp_path,
        logger=logger,
        max_epochs=1,
    )
    fit.fit(Perceptron(), train_loader(), val_loader())
    assert runs_of(logger.log_dir) == {".", "trials/baseline", "trials/pruned50"}
    assert plain(session_start(Path(logger.log_dir, "trials/pruned50")).hparams) == {
        "weightwatch-trial/kind": "pruning",
        "weightwatch-trial/amount": 0.5,
        **{f"weightwatch-trial/{name}": value for name, value in PRUNED.items()},
    }


def test_ten_trials_have_runs_at_most_shared_between_the_callbacks(tmp_path: Path) -> None:
    many = PruningTrial(hparams=True, amounts=[i / 20 for i in range(1, 13)], verbose=False)
    few = QuantizationTrial(hparams=True, bits=(2, 3, 4, 5, 6, 7, 8), verbose=False)
    logger = TensorBoardLogger(tmp_path)
    fit = trainer([many, few], tmp_path, logger=logger, max_epochs=1)
    fit.fit(Perceptron(), train_loader(), val_loader())
    names = {Path(run).name for run in runs_of(Path(logger.log_dir, "trials"))}
    for callback in (many, few):
        assert callback.report is not None
        tried = {row.name: callback.report.delta(row) for row in callback.report.rows[1:]}
        kept = sorted(delta for name, delta in tried.items() if name in names)
        assert kept == sorted(tried.values())[:5]
    assert len(names) == 11


@pytest.mark.parametrize(("mode", "best"), [("min", ["b", "c"]), ("max", ["a", "c"])])
def test_the_best_do_least_harm_and_are_small(mode: Any, best: list[str]) -> None:
    values = {"a": (0.9, 5), "b": (0.1, 5), "d": (0.5, 9), "c": (0.5, 5)}
    rows = [TrialRow("baseline", {"m": 0.4}, 20, 0.0)]
    rows += [TrialRow(name, {"m": value}, size, 0.0) for name, (value, size) in values.items()]
    rows += [TrialRow("failed", {}, 1, 0.0, "RuntimeError: x"), TrialRow("other", {"n": 0.0}, 1, 0)]
    report = TrialReport(tuple(rows), "m", mode)
    assert [row.name for row in hparams.best_rows(report, 2)] == best
    assert {row.name for row in hparams.best_rows(report, 99)} == {*values, "other"}


def test_callbacks_with_prefixes_of_their_own_have_runs_of_their_own(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    callbacks: list[Callback] = [
        QuantizationTrial(hparams=True, bits=(8,), verbose=False),
        QuantizationTrial(hparams=True, bits=(8,), verbose=False, prefix="second"),
    ]
    trainer(callbacks, tmp_path, logger=logger, max_epochs=1).fit(
        Perceptron(), train_loader(), val_loader()
    )
    assert runs_of(Path(logger.log_dir, "trials")) == {"baseline", "int8", "second/int8"}


def test_a_callback_without_a_result_leaves_the_baseline_to_the_next(tmp_path: Path) -> None:
    class Fails(QuantizationTrial):
        def _tried(self, *_: Any) -> TrialReport:
            raise RuntimeError("no memory")

    logger = TensorBoardLogger(tmp_path)
    callbacks: list[Callback] = [
        Fails(hparams=True, verbose=False),
        PruningTrial(hparams=True, amounts=(0.5,), verbose=False),
    ]
    with pytest.warns(UserWarning, match="no memory"):
        trainer(callbacks, tmp_path, logger=logger, max_epochs=1).fit(
            Perceptron(), train_loader(), val_loader()
        )
    assert runs_of(Path(logger.log_dir, "trials")) == {"baseline", "pruned50"}


def test_trials_are_not_shown_unasked(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    callbacks: list[Callback] = [PruningTrial(verbose=False), QuantizationTrial(verbose=False)]
    trainer(callbacks, tmp_path, logger=logger, max_epochs=1).fit(
        Saved(), train_loader(), val_loader()
    )
    assert not Path(logger.log_dir, "trials").exists()


def test_a_second_fit_into_the_same_folder_shows_its_own_numbers(tmp_path: Path) -> None:
    logger, shown = (
        TensorBoardLogger(tmp_path),
        PruningTrial(hparams=True, amounts=(0.5,), verbose=False),
    )
    for epochs in (1, 2):
        fit = trainer([shown], tmp_path, logger=logger, max_epochs=epochs)
        fit.fit(Saved(), train_loader(), val_loader())
    assert shown.report is not None
    events = EventAccumulator(str(Path(logger.log_dir, "trials", "pruned50")))
    events.Reload()
    # Files of the same second are read in the order of a counter as text: 10 before 9.
    points = sorted(events.Scalars("weightwatch-trial/delta"), key=lambda point: point.step)
    assert [point.step for point in points] == [5, 11]
    assert points[-1].value == pytest.approx(shown.report.delta(shown.report.rows[1]), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"fast_dev_run": True}, {"csv": True}])
def test_without_tensorboard_nothing_is_written(options: dict[str, Any], tmp_path: Path) -> None:
    if options.pop("csv", False):
        options = {"logger": CSVLogger(tmp_path)}
    shown = PruningTrial(hparams=True, amounts=(0.5,), verbose=False)
    trainer([shown], tmp_path, max_epochs=1, **options).fit(
        Perceptron(), train_loader(), val_loader()
    )
    assert shown.report is not None
    assert not list(tmp_path.rglob("trials"))
