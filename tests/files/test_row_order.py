"""Tables whose rows or counts are in another order, and values that go missing only with a note."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lightning_weightwatch.files.curves import Curves, read_curves
from tests.files.runs import Logging, csv_logger, curves_of, fitted
from tests.files.test_curves import kept

VAL = [0.9, 0.8, 0.7, 0.75, 0.8, 0.85]


def lossless(curves: Curves) -> bool:
    """Whether all values are there, in the order of training."""
    return curves.val_values == tuple(VAL) and curves.epochs == tuple(range(len(VAL)))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("steps", [[0, 25, 50], [99]], ids=["several", "one"])
def test_a_step_within_the_epoch_orders_nothing(
    steps: list[int], first: int, tmp_path: Path
) -> None:
    rows = [
        f"{epoch + first},{step},{epoch + step / 100},{value if step == steps[-1] else ''}"
        for epoch, value in enumerate(VAL)
        for step in steps
    ]
    text = "\n".join(["epoch,step,train_loss,val_loss", *rows, ""])
    curves = curves_of(tmp_path, text)
    assert lossless(curves)
    mean = sum(steps) / len(steps) / 100
    assert curves.train_losses == pytest.approx([epoch + mean for epoch in range(len(VAL))])
    assert "step begins anew in each epoch: rows are counted." in curves.notes
    assert curves.steps == ()


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("columns", ["epoch", "epoch,step", "step"])
def test_rows_from_the_newest_on_are_turned_round(columns: str, first: int, tmp_path: Path) -> None:
    rows = []
    for epoch, value in enumerate(VAL):
        told = {"epoch": epoch + first, "step": 10 * epoch + 9}
        rows.append(f"{','.join(str(told[name]) for name in columns.split(','))},{epoch},{value}")
    text = "\n".join([f"{columns},train_loss,val_loss", *reversed(rows), ""])
    curves = curves_of(tmp_path, text)
    assert lossless(curves)
    assert curves.train_losses == tuple(range(len(VAL)))
    assert "sorted from the newest to the oldest" in curves.notes[0]


def test_values_that_a_second_fit_replaces_are_counted(tmp_path: Path) -> None:
    rows = [f"{epoch},{1 / (fit + 1)},{VAL[epoch] + fit}" for fit in (0, 1) for epoch in range(6)]
    curves = curves_of(tmp_path, "\n".join(["epoch,loss,val_loss", *rows, ""]))
    assert curves.val_values == tuple(value + 1 for value in VAL)
    (note,) = curves.notes
    assert "6 of 12 values of val_loss and 6 of 12 values of loss" in note
    back = "epoch,step,val_loss\n0,5,4\n1,11,3\n2,17,9\n1,11,2\n2,17,1\n"
    assert "2 of 5 values of val_loss." in curves_of(tmp_path, back).notes[0]


@pytest.mark.parametrize("per_epoch", [2, 6, 100])
@pytest.mark.parametrize("last", [0, -1], ids=["steps from 1", "steps from 0"])
@pytest.mark.parametrize("written", ["{}", "{}.0"])
def test_epochs_from_1_are_known_by_their_steps(
    written: str, last: int, per_epoch: int, tmp_path: Path
) -> None:
    rows = [
        f"{written.format(epoch + 1)},{(epoch + 1) * per_epoch + last},1,{value}"
        for epoch, value in enumerate(VAL)
    ]
    curves = curves_of(tmp_path, "\n".join(["epoch,step,loss,eval_loss", *rows, ""]))
    assert lossless(curves)
    assert curves.notes == ("Epochs are taken as counted from 1.",)


def test_where_steps_do_not_tell_how_epochs_are_counted_a_note_does(tmp_path: Path) -> None:
    curves = curves_of(tmp_path, "epoch,step,val_loss\n1,11,4\n")
    assert curves.epochs == (1,)
    assert "Epochs are taken as counted from 0, as the steps do not tell." in curves.notes


def test_a_log_that_begins_later_says_so(tmp_path: Path) -> None:
    fitted(tmp_path / "first", Logging(True, True), csv_logger(tmp_path / "first"), kept(tmp_path))
    fitted(
        tmp_path / "second",
        Logging(on_step=True, on_epoch=True),
        csv_logger(tmp_path / "second"),
        kept(tmp_path),
        checkpoint=tmp_path / "kept" / "epoch=1.ckpt",
        max_epochs=6,
    )
    curves = read_curves(tmp_path / "second")
    assert curves.epochs == (2, 3, 4, 5)
    assert "The log begins with epoch 3: earlier epochs are not in it" in curves.notes[-1]


def test_a_run_that_is_validated_seldom_begins_with_its_first_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "check_val_every_n_epoch": 2,
        "log_every_n_steps": 12,
        "max_epochs": 6,
    }
    fitted(tmp_path, Logging(on_step=True, on_epoch=False), csv_logger(tmp_path), **options)
    curves = read_curves(tmp_path)
    assert curves.epochs == (1, 3, 5)
    assert not any("begins with" in note for note in curves.notes)


@pytest.mark.parametrize("columns", ["epoch", "epoch,step", "step"])
def test_rows_in_no_order_are_sorted(columns: str, tmp_path: Path) -> None:
    rows = []
    for epoch, value in enumerate(VAL):
        told = {"epoch": epoch, "step": 10 * epoch + 9}
        rows.append(f"{','.join(str(told[name]) for name in columns.split(','))},{epoch},{value}")
    for order in ([2, 1, 3, 4, 5, 0], [5, 0, 4, 1, 3, 2]):
        text = "\n".join([f"{columns},loss,val_loss", *(rows[at] for at in order), ""])
        curves = curves_of(tmp_path, text)
        assert lossless(curves)
        assert curves.train_losses == tuple(range(len(VAL)))
        assert "The rows are in no order of training" in curves.notes[0]


def test_shuffled_steps_are_sorted_and_those_of_a_second_run_are_not(tmp_path: Path) -> None:
    rows = [f"{step // 4},{step},{step},{step if step % 4 == 3 else ''}" for step in range(24)]
    header = "epoch,step,train_loss,val_loss"
    ordered = curves_of(tmp_path, "\n".join([header, *rows, ""]))
    mixed = random.Random(0).sample(rows, len(rows))
    shuffled = curves_of(tmp_path, "\n".join([header, *mixed, ""]))
    assert ordered.val_values == (3.0, 7.0, 11.0, 15.0, 19.0, 23.0)
    assert shuffled.val_values == ordered.val_values
    assert shuffled.train_losses == ordered.train_losses
    other = "epoch,step,val_loss\n0,5,9\n1,11,9\n2,17,9\n0,7,3\n1,15,2\n2,23,1\n"
    assert curves_of(tmp_path, other).val_values == (9, 3, 2, 1)


@pytest.mark.parametrize("every", [2, 5, 10])
@pytest.mark.parametrize("first", [0, 1], ids=["from 0", "from 1"])
def test_epochs_at_intervals_tell_how_they_are_counted(
    first: int, every: int, tmp_path: Path
) -> None:
    epochs = [every * number - 1 + first for number in range(1, 6)]
    rows = "".join(f"{epoch},1,2\n" for epoch in epochs)
    curves = curves_of(tmp_path, f"epoch,loss,val_loss\n{rows}")
    assert curves.epochs == tuple(every * number - 1 for number in range(1, 6))
    assert curves.notes == (("Epochs are taken as counted from 1.",) if first else ())


def test_steps_that_count_epochs_from_0_tell_that_epochs_begin_with_1(tmp_path: Path) -> None:
    curves = curves_of(tmp_path, "epoch,step,loss,val_loss\n1,0,3,4\n2,1,2,3\n3,2,1,2\n")
    assert curves.epochs == (0, 1, 2)
    assert curves.notes == ("Epochs are taken as counted from 1.",)
