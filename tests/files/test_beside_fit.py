"""Validations of the fit are all there, however close; those beside it are not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_weightwatch.files.beside_fit import beside_the_fit, without_returns
from lightning_weightwatch.files.curves import read_curves
from lightning_weightwatch.files.logged import Point, latest
from tests.callbacks.fits import train_loader, trainer, val_loader
from tests.files.runs import (
    LOGGERS,
    Logging,
    MakeLogger,
    Truth,
    csv_logger,
    curves_of,
    fitted,
)


@LOGGERS
@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 3, "val_check_interval": 0.5},
        {"accumulate_grad_batches": 4, "val_check_interval": 0.5},
        {"accumulate_grad_batches": 6},
        {"limit_train_batches": 2, "val_check_interval": 0.5},
        {"limit_train_batches": 2},
        {"check_val_every_n_epoch": None, "val_check_interval": 5, "accumulate_grad_batches": 3},
        {"accumulate_grad_batches": 3, "val_check_interval": 0.5, "max_steps": 3, "max_epochs": -1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_validation_of_a_fit_is_a_point(
    options: dict[str, Any], every: int, logger: MakeLogger, tmp_path: Path
) -> None:
    module = Logging(on_step=True, on_epoch=True)
    options = {"log_every_n_steps": every, **options}
    truth, _ = fitted(tmp_path, module, logger(tmp_path), **options)
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert curves.epochs == truth.epochs()
    assert not any("Left out" in note for note in curves.notes)


@LOGGERS
@pytest.mark.parametrize("options", [{"limit_train_batches": 2}, {"val_check_interval": 0.5}])
def test_validate_before_and_after_short_or_shared_epochs_is_no_point(
    options: dict[str, Any], logger: MakeLogger, tmp_path: Path
) -> None:
    module, truth = Logging(on_step=True, on_epoch=True), Truth()
    fit = trainer([truth], tmp_path, logger=logger(tmp_path), log_every_n_steps=1, **options)
    fit.validate(module, val_loader(), verbose=False)
    fit.fit(module, train_loader(), val_loader())
    fit.validate(module, val_loader(), verbose=False)
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert curves.epochs == truth.epochs()
    last = 3 * (2 if "limit_train_batches" in options else 6)
    said = f"Left out, as no training step led to it: the value at step 0, {last}."
    assert said in curves.notes


@pytest.mark.parametrize(
    "steps",
    [
        [0, 1, 2, 3, 4, 5, 10, 15],
        [0, 10, 20, 30],
        [0, 10, 20, 30, 31],
        [0],
        [0, 1],
        [0, 1, 10, 100, 1000],
    ],
)
def test_logs_of_others_lose_no_validation(steps: list[int], tmp_path: Path) -> None:
    rows = "".join(f"{1e9 + step},{step},{step + 0.5}\n" for step in steps)
    curves = curves_of(tmp_path, f"Wall time,Step,Value\n{rows}", monitor="Value")
    assert curves.val_values == tuple(step + 0.5 for step in steps)
    if steps[-1] != 31:
        rows = "".join(f"{epoch},{step},{step + 0.5}\n" for epoch, step in enumerate(steps))
        assert len(curves_of(tmp_path, f"epoch,step,val_loss\n{rows}").val_values) == len(steps)


@pytest.mark.parametrize(
    ("steps", "epochs", "trained", "expected"),
    [
        ([0, 5, 11, 17], [0, 0, 1, 2], None, [0]),
        ([0, 57, 113, 171], [0, 0, 1, 2], None, [0]),
        ([0, 57, 120, 171, 230], [0, 0, 1, 2, 3], None, [0]),  # no two epochs as long
        ([5, 11, 17, 18], [0, 1, 2, 3], 17, [18]),
        ([5, 11, 17, 18], [0, 1, 2, 3], 18, []),  # a step was trained
        ([5, 11, 17, 18], [0, 1, 2, 2], 17, []),  # the epoch goes on
        ([0, 3, 4], [0, 0, 1], None, []),  # accumulated, and cut short
        ([0, 3, 4, 7, 8, 11], [0, 0, 1, 1, 2, 2], None, []),
        ([0, 1, 3, 4, 6, 7], [0, 1, 2, 2, 3, 4], None, []),
    ],
)
def test_only_what_breaks_the_intervals_is_beside_the_fit(
    steps: list[int], epochs: list[int], trained: float | None, expected: list[int]
) -> None:
    points = [Point(step, epoch, 1.0) for step, epoch in zip(steps, epochs, strict=True)]
    training = [] if trained is None else [Point(trained, 2 + (trained > 17), 1.0)]
    assert [point.position for point in beside_the_fit(points, training)] == expected


def all_said(folder: Path) -> str:
    return " ".join(read_curves(folder).notes)


@LOGGERS
def test_a_checkpoint_that_a_new_trainer_validates_leaves_the_run(
    logger: MakeLogger, tmp_path: Path
) -> None:
    first = logger(tmp_path)
    truth, _ = fitted(tmp_path, Logging(on_step=True, on_epoch=True), first)
    # A new CSVLogger would delete the table.
    again = first if isinstance(first, CSVLogger) else logger(tmp_path)
    for _ in range(2):
        alone = trainer([], tmp_path, logger=again)
        alone.validate(Logging(on_step=True, on_epoch=True), val_loader(), verbose=False)
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert curves.epochs == truth.epochs()
    assert curves.train_losses == truth.epoch_means()
    assert "2 values written later for a step long past, with no training" in all_said(tmp_path)


def test_the_best_value_as_a_metric_of_hyperparameters_leaves_the_run(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version=0)
    truth, _ = fitted(tmp_path, Logging(on_step=True, on_epoch=False), logger)
    logger.log_hyperparams({"rate": 0.1}, {"val_loss": 0.5})
    logger.finalize("success")
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert curves.epochs == truth.epochs()
    assert "a value written later for a step long past" in all_said(tmp_path)


@LOGGERS
@pytest.mark.parametrize("style", [(True, False), (False, True)], ids=["per step", "per epoch"])
@pytest.mark.parametrize(
    "options",
    [
        {"check_val_every_n_epoch": 2, "max_epochs": 7},
        {"val_check_interval": 4, "max_epochs": 4},
        {"val_check_interval": 3, "limit_train_batches": 5, "max_epochs": 4},
        {"val_check_interval": 16, "check_val_every_n_epoch": None, "max_epochs": 7},
        {"max_steps": 22, "max_epochs": -1},
        {"val_check_interval": 4, "max_epochs": 1},
        {"max_epochs": 1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_validate_after_any_fit_is_no_point(
    options: dict[str, Any], style: tuple[bool, bool], logger: MakeLogger, tmp_path: Path
) -> None:
    module = Logging(*style)
    truth, fit = fitted(tmp_path, module, logger(tmp_path), **options)
    before = read_curves(tmp_path)
    fit.validate(module, val_loader(), verbose=False)
    curves = read_curves(tmp_path)
    assert before.val_values == curves.val_values == truth.values()
    assert curves.epochs == truth.epochs()
    assert "no training step led to it" in all_said(tmp_path)


@LOGGERS
@pytest.mark.parametrize("style", [(True, False), (False, True)], ids=["per step", "per epoch"])
def test_validate_between_two_fits_is_no_point(
    style: tuple[bool, bool], logger: MakeLogger, tmp_path: Path
) -> None:
    module = Logging(*style)
    truth, fit = fitted(tmp_path, module, logger(tmp_path))
    fit.validate(module, val_loader(), verbose=False)
    fit.fit_loop.max_epochs = 7
    fit.fit(module, train_loader(), val_loader())
    fit.validate(module, val_loader(), verbose=False)
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert curves.epochs == truth.epochs()
    assert curves.train_losses == truth.epoch_means()


@LOGGERS
@pytest.mark.parametrize("every", [7, 8, 9, 13, 18])
@pytest.mark.parametrize("seldom", [1, 2, 3])
def test_validations_between_seldom_logged_steps_are_points(
    seldom: int, every: int, logger: MakeLogger, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"check_val_every_n_epoch": seldom, "max_epochs": 6}
    module = Logging(on_step=True, on_epoch=False)
    truth, _ = fitted(tmp_path, module, logger(tmp_path), log_every_n_steps=every, **options)
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert "no training step" not in all_said(tmp_path)


@pytest.mark.parametrize(
    ("interval", "batches"), [(1, 2), (2, 2), (1, 5), (2, 5), (3, 5), (1, 6), (2, 6), (3, 6)]
)
def test_a_table_of_a_fit_that_still_runs_loses_no_validation(
    interval: int, batches: int, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"limit_train_batches": batches, "val_check_interval": interval}
    module = Logging(on_step=False, on_epoch=True)
    fitted(tmp_path, module, csv_logger(tmp_path), **options)
    lines = (tmp_path / "version_0" / "metrics.csv").read_text().splitlines()
    (tmp_path / "version_0" / "metrics.csv").unlink()
    place = lines[0].split(",").index("val_loss")
    for end in range(2, len(lines) + 1):
        count = sum(bool(line.split(",")[place]) for line in lines[1:end])
        if count:
            text = "\n".join([*lines[:end], ""])
            assert len(curves_of(tmp_path, text).val_values) == count


def test_validations_that_share_a_step_are_told_as_such(tmp_path: Path) -> None:
    rows = "0,0,4\n0,0,3\n1,1,2\n1,1,1\n"
    (note,) = curves_of(tmp_path, f"epoch,step,val_loss\n{rows}").notes[:1]
    assert note == (
        "Left out: 2 of 4 values of val_loss, at a step that another one has: the last of each "
        "counts."
    )


def test_what_goes_back_alone_is_told_from_a_run_that_is_resumed() -> None:
    def times(steps: list[int], first: int) -> list[Point]:
        return [Point(step, step // 6, 1.0, first + 2 * at) for at, step in enumerate(steps)]

    run, resumed = [5, 11, 17, 23], [11, 17, 23, 29]
    trained = [*times(run, 0), *times(resumed, 100)]
    for alone in ([0], [0, 0], [0, 0, 0]):
        points = [*times(run, 1), *times(alone, 50), *times(resumed, 101)]
        kept = without_returns(points, trained, has_steps=True)
        assert [point.position for point in kept] == [*run, *resumed]
        assert [point.position for point in latest(kept, has_steps=True)] == [5, 11, 17, 23, 29]
    seldom = [Point(40, 6, 1.0, 200.0)]
    points = [*times(run, 1), *times(resumed, 101)]
    assert without_returns(points, seldom, has_steps=True) == points


def test_a_lone_row_of_a_table_without_steps_leaves_the_run(tmp_path: Path) -> None:
    rows = "".join(f"{epoch},1,{5 - epoch}\n" for epoch in range(4))
    curves = curves_of(tmp_path, f"epoch,train_loss,val_loss\n{rows}0,,2.5\n")
    assert curves.val_values == (5.0, 4.0, 3.0, 2.0)
    assert "a value written later for an epoch long past" in curves.notes[0]


def test_values_that_tell_no_times_are_compared_in_seconds() -> None:
    points = [Point(100_000 - at, 0, 1.0) for at in range(100_000)]
    high = [Point(10**6 + at, 0, 1.0) for at in range(100_000)]
    start = time.perf_counter()
    assert len(without_returns(points, high, has_steps=True)) == 1
    assert time.perf_counter() - start < 5
