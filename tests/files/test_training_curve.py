"""Which training curve stands beside the validations, and when none can."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_weightwatch.files.curves import read_curves
from tests.files.runs import Logging, csv_logger, curves_of, fitted, told_about

EPOCHS = 6
VAL = [0.9, 0.75, 0.5, 0.625, 0.75, 1.0]


def scalars(folder: Path, *curves: tuple[str, list[tuple[int, float]]]) -> None:
    """Event files of SummaryWriter: of each tag its steps and values."""
    with SummaryWriter(folder) as writer:
        for tag, points in curves:
            for step, value in points:
                writer.add_scalar(tag, value, step)


def test_a_final_summary_is_no_curve(tmp_path: Path) -> None:
    """The log_history of Hugging Face's Trainer, logged and evaluated each epoch."""
    rows = ["loss,learning_rate,epoch,step,eval_loss,train_runtime,train_loss"]
    for epoch, value in enumerate(VAL, start=1):
        rows += [f"{1 / epoch},1e-4,{epoch}.0,{100 * epoch},,,"]
        rows += [f",,{epoch}.0,{100 * epoch},{value},,"]
    rows += [f",,{EPOCHS}.0,{100 * EPOCHS},,60.0,0.45", ""]
    curves = curves_of(tmp_path, "\n".join(rows))
    assert (curves.monitor, curves.train) == ("eval_loss", "loss")
    assert curves.train_losses == tuple(1 / epoch for epoch in range(1, EPOCHS + 1))
    assert "train_loss has values in 17% of the epochs with a validation" in curves.notes[-1]
    named = curves_of(tmp_path, "\n".join(rows), train="train_loss")
    assert named.train == "train_loss"


def test_a_curve_that_is_nowhere_complete_stays_the_likeliest(tmp_path: Path) -> None:
    text = "epoch,val_loss,train_loss,loss,training_loss\n0,4,3,,a\n1,3,,2,b\n2,2,,,c\n"
    curves = curves_of(tmp_path, text)
    assert curves.train == "train_loss"
    assert curves.notes == ("No train_loss was logged for 2 of 3 validations.",)


@pytest.mark.parametrize(
    ("monitor", "train"),
    [
        ("Loss/val", "Loss/train"),
        ("Loss/valid", "Loss/train"),
        ("Loss/test", "Loss/train"),
        ("val_acc", "train_acc"),
        ("val_acc", "acc"),
        ("val_accuracy", "accuracy"),
        ("Accuracy/val", "Accuracy/train"),
        ("valid_f1", "train_f1"),
        ("val/box_loss", "train/box_loss"),
    ],
)
def test_usual_pairs_of_names_are_known(monitor: str, train: str, tmp_path: Path) -> None:
    other = "train/cls_loss,x" if train == "train/box_loss" else "x,y"
    text = f"epoch,{monitor},{train},{other}\n0,1,2,3,4\n1,2,3,4,5\n"
    asked = {"monitor": monitor} if monitor == "Accuracy/val" else {}
    curves = curves_of(tmp_path, text, **asked)
    assert (curves.monitor, curves.train) == (monitor, train)
    assert curves.train_losses == (2, 3)


def test_a_training_loss_comes_before_the_same_metric(tmp_path: Path) -> None:
    text = "epoch,val_acc,train_acc,train_loss\n0,1,2,3\n"
    assert curves_of(tmp_path, text).train == "train_loss"


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("batches", [2, 20])
def test_batches_beside_epochs_are_not_compared(batches: int, every: int, tmp_path: Path) -> None:
    train = [(step, 1 / (step + 1)) for step in range(0, batches * EPOCHS, every)]
    scalars(tmp_path, ("train/loss", train), ("val/loss", list(enumerate(VAL))))
    curves = read_curves(tmp_path)
    assert curves.val_values == pytest.approx(VAL)
    assert all(map(math.isnan, curves.train_losses))
    said = f"train/loss goes on to step {train[-1][0]} and val/loss ends at step {EPOCHS - 1}"
    assert said in curves.notes[-1]


@pytest.mark.parametrize("after", [0, 15])
def test_batches_of_both_are_compared_also_while_the_run_goes_on(
    after: int, tmp_path: Path
) -> None:
    train = [(step, 1.0) for step in range(20 * EPOCHS + after)]
    val = [(20 * epoch + 19, value) for epoch, value in enumerate(VAL)]
    scalars(tmp_path, ("train/loss", train), ("val/loss", val))
    assert read_curves(tmp_path).train_losses == (1.0,) * EPOCHS


@pytest.mark.parametrize("names", [("train", "validation"), ("training", "val")])
def test_the_two_folders_of_keras_are_one_run(names: tuple[str, str], tmp_path: Path) -> None:
    run = tmp_path / "logs" / "20260101-120000"
    train, validation = names
    rates = ("epoch_learning_rate", [(epoch, 0.1) for epoch in range(EPOCHS)])
    scalars(run / train, ("epoch_loss", [(epoch, 1 / 2**epoch) for epoch in range(EPOCHS)]), rates)
    scalars(run / validation, ("epoch_loss", list(enumerate(VAL))))
    for path in (run, tmp_path):
        curves = read_curves(path)
        assert (curves.monitor, curves.train) == (f"{validation}/epoch_loss", f"{train}/epoch_loss")
        assert curves.val_values == pytest.approx(VAL)
        assert curves.train_losses == tuple(1 / 2**epoch for epoch in range(EPOCHS))
        assert curves.learning_rates[f"{train}/epoch_learning_rate"] == pytest.approx((0.1,) * 6)
        assert curves.source == str(run)
    scalars(tmp_path / "logs" / "second", ("val_loss", [(0, 1.0)]))
    assert "2 runs" in told_about(tmp_path)


def test_two_runs_that_are_no_halves_of_one_stay_two(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("epoch,val_loss\n0,1\n")
    assert "2 runs" in told_about(tmp_path)


def test_means_within_an_epoch_are_called_so(tmp_path: Path) -> None:
    module = Logging(on_step=True, on_epoch=False)
    fitted(tmp_path, module, csv_logger(tmp_path), val_check_interval=0.5)
    assert read_curves(tmp_path).notes == (
        "train_loss is the mean of the 3 to 6 logged steps of the epoch up to each validation, "
        "which need not be all.",
    )


def test_a_log_without_a_training_curve_says_so(tmp_path: Path) -> None:
    curves = curves_of(tmp_path, "epoch,val_loss\n0,1\n1,2\n")
    assert curves.train is None
    assert curves.notes == ("The log has no training loss of a usual name. --train names another.",)
