"""Validations of the fit are all there, however close; those beside it are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_weightwatch.files.beside_fit import beside_the_fit
from lightning_weightwatch.files.curves import read_curves
from lightning_weightwatch.files.logged import Point
from tests.callbacks.fits import train_loader, trainer, val_loader
from tests.files.runs import LOGGERS, Logging, MakeLogger, Truth, curves_of, fitted


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
    assert [point.position for point in beside_the_fit(points, trained)] == expected
