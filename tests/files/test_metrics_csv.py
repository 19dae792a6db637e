"""Tables of metrics that no Lightning wrote, and files that are no tables."""

from __future__ import annotations

import codecs
import math
import os
import random
import time
from pathlib import Path

import pytest

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.curves import Curves, read_curves
from tests.files.runs import curves_of, told_about

KERAS = """epoch,accuracy,loss,lr,val_accuracy,val_loss
0,0.5,1.5,0.01,0.4,1.6
1,0.75,0.875,0.01,0.6,1.25
2,0.9,0.5,0.001,0.7,1.125
"""


def points(curves: Curves) -> list[tuple[int, float, float]]:
    return list(zip(curves.epochs, curves.train_losses, curves.val_values, strict=True))


def told(folder: Path, content: str | bytes, **asked: str) -> str:
    """What is said of a table that cannot be read."""
    file = folder / "table.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return told_about(file, **asked)


def test_the_table_of_keras_is_read_row_by_row(tmp_path: Path) -> None:
    curves = curves_of(tmp_path, KERAS)
    assert points(curves) == [(0, 1.5, 1.6), (1, 0.875, 1.25), (2, 0.5, 1.125)]
    assert (curves.monitor, curves.train) == ("val_loss", "loss")
    assert curves.learning_rates == {"lr": (0.01, 0.01, 0.001)}
    assert curves.notes == ()
    accuracy = curves_of(tmp_path, KERAS, monitor="val_accuracy")
    assert accuracy.val_values == (0.4, 0.6, 0.7)
    assert accuracy.train_losses == curves.train_losses
    assert curves_of(tmp_path, KERAS, train="accuracy").train_losses == (0.5, 0.75, 0.9)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE], ids=repr)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_newline_and_encoding_do_not_matter(
    delimiter: str, mark: bytes, newline: str, tmp_path: Path
) -> None:
    text = KERAS.replace(",", delimiter).replace("\n", newline)
    encoded = text.encode("utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-8")
    assert points(curves_of(tmp_path, mark + encoded)) == points(curves_of(tmp_path, KERAS))


def test_commas_are_decimal_where_they_do_not_divide(tmp_path: Path) -> None:
    curves = curves_of(tmp_path, "epoch;train_loss;val_loss\n0;1,5;2,25\n1;1,25;2\n")
    assert points(curves) == [(0, 1.5, 2.25), (1, 1.25, 2.0)]


def test_epochs_counted_from_1_or_in_fractions_are_0_based_inside(tmp_path: Path) -> None:
    from_1 = curves_of(tmp_path, "Epoch,Train Loss,Val Loss\n1,3,4\n2,2,3\n4,1,2\n")
    assert points(from_1) == [(0, 3, 4), (1, 2, 3), (3, 1, 2)]
    assert from_1.notes == ("Epochs are taken as counted from 1.",)
    halves = curves_of(tmp_path, "epoch,loss,eval_loss\n0.5,3,4\n1.0,2,3\n1.5,1,2\n")
    assert points(halves) == [(0, 3, 4), (0, 2, 3), (1, 1, 2)]
    assert "fractions" in halves.notes[0]
    lightning = curves_of(tmp_path, "epoch,step,train_loss,val_loss\n1,11,,4\n2,17,,3\n")
    assert lightning.epochs == (1, 2)


def test_a_table_without_epochs_counts_validations(tmp_path: Path) -> None:
    rows = curves_of(tmp_path, "train_loss,val_loss\n3,4\n2,3\n")
    assert points(rows) == [(0, 3, 4), (1, 2, 3)]
    assert "validations are counted as epochs" in rows.notes[0]
    text = "step,train_loss,val_loss\n1,9,\n3,7,\n4,,5\n6,3,\n9,2,\n9,,1\n"
    assert points(curves_of(tmp_path, text)) == [(0, 8, 5), (1, 2.5, 1)]


def test_blank_cells_are_absent_and_nan_and_infinite_ones_are_values(tmp_path: Path) -> None:
    text = "epoch,loss,val_loss\n0,,1\n1,None,nan\n2,3,inf\n3, ,-Infinity\n4,NaN, 5 \n5,1,NA\n"
    curves = curves_of(tmp_path, text)
    assert curves.epochs == (0, 1, 2, 3, 4)
    assert str(curves.val_values) == "(1.0, nan, inf, -inf, 5.0)"
    assert str(curves.train_losses) == "(nan, nan, 3.0, nan, nan)"


def test_epochs_and_steps_stand_for_the_rows_below_that_leave_them_blank(tmp_path: Path) -> None:
    text = "epoch,loss,val_loss\n0,4,\n,2,\n,,9\n1,1,\n,,8\n"
    assert points(curves_of(tmp_path, text)) == [(0, 3, 9), (1, 1, 8)]


def test_tables_put_together_are_a_resumed_run(tmp_path: Path) -> None:
    header = KERAS.split("\n")[0]
    resumed = f"{header}\n1,1,0.25,0,1,1.0\n2,1,0.125,0,1,0.5\n3,1,0.0625,0,1,0.25\n"
    curves = curves_of(tmp_path, KERAS + resumed)
    assert curves.epochs == (0, 1, 2, 3)
    assert curves.val_values == (1.6, 1.0, 0.5, 0.25)
    assert curves.train_losses == (1.5, 0.25, 0.125, 0.0625)
    steps = "epoch,step,val_loss\n0,5,4\n1,11,3\n2,17,9\n1,11,2\n2,17,1\n"
    assert curves_of(tmp_path, steps).val_values == (4, 2, 1)
    onwards = "epoch,step,loss,val_loss\n0,5,9,9\n1,11,8,8\n2,17,7,7\n0,23,3,4\n1,29,2,3\n"
    assert points(curves_of(tmp_path, onwards)) == [(0, 3, 4), (1, 2, 3)]


def test_a_table_cut_short_is_read_up_to_its_last_whole_row(tmp_path: Path) -> None:
    assert len(curves_of(tmp_path, KERAS[:-12]).epochs) == 2
    assert len(curves_of(tmp_path, KERAS[:-1]).epochs) == 3
    assert len(curves_of(tmp_path, KERAS + "\0" * 4096).epochs) == 3
    assert len(curves_of(tmp_path, f"\n\n{KERAS}\n\n").epochs) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        ("epoch,val_loss", "no rows"),
        ("epoch,val_loss\n", "no rows"),
        ("epoch,val_loss\n\n,\n", "no rows"),
        ("epoch,val_loss\nepoch,val_loss\n", "no rows"),
        ("0,1.5,2.5\n1,1.25,2\n", "holds numbers, not names"),
        (",,\n1,2,3\n", "names no columns"),
        ("epoch,val_loss\n0,1\n1,2,3,4\n", "row 2 below the header has 4 cells, the header 2"),
        ("epoch,val_loss\n0,\n", "holds no value of val_loss yet"),
        ("epoch,step,val_loss\n0,5,\n", "holds no value of val_loss yet"),
        ("epoch,val_loss\n0,abc\n", "row 1 below the header, column 'val_loss': 'abc' is no"),
        ("epoch,val_loss\n0,1,5\n".replace(",", ";", 1), "no number"),
        ("epoch,val_loss\nfirst,1\n", "column 'epoch': 'first' is no number"),
        ("epoch,val_loss\n-1,1\n", "-1 is no epoch"),
        ("epoch,val_loss\ninf,1\n", "inf is no epoch"),
        ("epoch,val_loss\n1e300,1\n", "1e+300 is no epoch"),
        ("epoch,val_loss,val_loss\n0,1,2\n", "several columns 'val_loss'"),
        ("epoch,epoch,val_loss\n0,0,1\n", "several columns 'epoch'"),
        ("epoch,accuracy\n0,1\n", "no validation metric"),
        ("epoch,val_acc,val_f1\n0,1,2\n", "several validation metrics"),
        (f'epoch,val_loss\n0,"{"x" * 200_000}"\n', "not a table"),
        ('epoch,val_loss\n0,"1\n1,2\n', "no number"),
        (b"epoch,val_loss\n0,\x001\n", "null bytes"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "null bytes"),
        (b"\xff\xfeabc", "no rows"),
        (random.Random(0).randbytes(4096), ""),
    ],
)
def test_what_is_no_table_is_one_line(content: str | bytes, reason: str, tmp_path: Path) -> None:
    assert reason in told(tmp_path, content)


def test_a_table_with_changed_bytes_is_read_or_one_line(tmp_path: Path) -> None:
    whole = KERAS.replace("lr", "step").replace("0.01", "5").encode()
    pieces = [b",", b"\n", b'"', b"nan", b"inf", b"-1", b"1e999", b";", b"\r", b"\0", b"val_loss"]
    dice = random.Random(0)
    outcomes = set()
    for _ in range(1000):
        changed = bytearray(whole)
        for _ in range(dice.choice([1, 2, 8])):
            place = dice.randrange(len(changed))
            changed[place : place + dice.choice([0, 1, 20])] = dice.choice(pieces)
        try:
            curves = curves_of(tmp_path, bytes(changed))
        except BadFile as error:
            outcomes.add(str(error).isprintable())
            continue
        outcomes.add(len(points(curves)) > 0)
        assert min(curves.epochs) >= 0
    assert outcomes == {True}


def test_names_that_a_terminal_or_spreadsheet_would_run_are_only_names(tmp_path: Path) -> None:
    name = "=cmd|' /C calc'!A0 \x1b[31m"
    text = f'epoch,"{name}",train_loss,"a,b\n"\n0,2,1,x\n'
    curves = curves_of(tmp_path, text, monitor=name)
    assert points(curves) == [(0, 1, 2)]
    assert curves.monitor == name
    assert r"\x1b[31m" in told(tmp_path, text, monitor="val_loss")


def test_only_the_columns_that_are_needed_must_hold_numbers(tmp_path: Path) -> None:
    text = "date,epoch,val_loss,comment,lr-Adam\nMonday,0,1,good,fast\nTuesday,1,2,bad,slow\n"
    curves = curves_of(tmp_path, text)
    assert curves.val_values == (1.0, 2.0)
    assert not list(curves.learning_rates)
    assert any(note.startswith("lr-Adam is left out: ") for note in curves.notes)


def test_momentum_is_no_learning_rate(tmp_path: Path) -> None:
    text = "epoch,val_loss,lr-SGD,lr-SGD-momentum,lr-SGD-weight_decay\n0,1,0.1,0.9,0\n"
    assert curves_of(tmp_path, text).learning_rates == {"lr-SGD": (0.1,)}


def test_training_columns_are_preferred_by_how_much_they_tell(tmp_path: Path) -> None:
    names = ["weightwatch/train_loss", "train_loss_epoch", "train/loss", "loss", "train_loss_step"]
    for place, name in enumerate(names):
        rest = names[place:][::-1]
        text = f"epoch,val_loss,{','.join(rest)}\n0,1{',2' * len(rest)}\n"
        assert curves_of(tmp_path, text).train == name
    assert curves_of(tmp_path, "val_nll,train_nll_loss\n1,2\n").train == "train_nll_loss"
    assert curves_of(tmp_path, "val_nll,train_a_loss,train_b_loss\n1,2,3\n").train is None


def test_what_our_monitor_followed_serves_where_several_metrics_could(tmp_path: Path) -> None:
    text = "epoch,val_acc,val_f1,weightwatch/val_metric\n0,1,2,2\n"
    assert curves_of(tmp_path, text).monitor == "weightwatch/val_metric"
    of_test = "epoch,test_acc,weightwatch/val_metric\n0,1,2\n"
    assert curves_of(tmp_path, of_test).monitor == "weightwatch/val_metric"


def test_a_hundred_thousand_rows_take_seconds_at_most(tmp_path: Path) -> None:
    rows = (
        f"{step // 100},{step},{1 / (step + 1)},{2.0 if step % 100 == 99 else ''},0.1"
        for step in range(100_000)
    )
    text = "\n".join(["epoch,step,train_loss,val_loss,lr-Adam", *rows])
    start = time.perf_counter()
    curves = curves_of(tmp_path, text)
    assert time.perf_counter() - start < 10
    assert len(curves.epochs) == 1000
    assert curves.train_losses[0] == pytest.approx(math.fsum(1 / n for n in range(1, 101)) / 100)


def test_what_is_no_file_or_folder_of_a_log_is_said(tmp_path: Path) -> None:
    assert "no log of a run in this folder" in told_about(tmp_path)
    assert "no such file" in told_about(tmp_path / "nothing")
    for path in [tmp_path / ("x" * 5000), tmp_path / "a\0b"]:
        with pytest.raises(BadFile, match="cannot be opened"):
            read_curves(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_curves(tmp_path / "nothing")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "events.out.tfevents.1")
    assert "not a regular file" in told_about(tmp_path / "pipe.csv")
    assert "not a regular file" in told_about(tmp_path / "events.out.tfevents.1")
    assert "not a regular file" in told_about(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_no_permission_is_said_to_be_so(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text(KERAS)
    file.chmod(0)
    assert "permissions" in told_about(file)
    file.chmod(0o600)
    tmp_path.chmod(0)
    assert "permissions" in told_about(tmp_path)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["value_loss", "valence_mse", "values", "Evaluator"])
def test_only_whole_words_name_a_validation_metric(name: str, tmp_path: Path) -> None:
    assert "no validation metric by its name" in told(tmp_path, f"epoch,{name}\n0,1\n")
    both = curves_of(tmp_path, f"epoch,{name},evaluation_loss\n0,1,2\n")
    assert both.monitor == "evaluation_loss"


@pytest.mark.parametrize(
    ("train", "monitor"),
    [
        ("trainLoss", "valLoss"),
        ("loss_train", "loss_val"),
        ("train-loss", "val-loss"),
        ("train.loss", "val.loss"),
        ("Training Loss", "Validation Loss"),
        ("train_loss", "dev_loss"),
        ("train_loss", "test_loss"),
        ("trainAcc", "valAcc"),
    ],
)
def test_names_are_known_however_they_are_spelled(train: str, monitor: str, tmp_path: Path) -> None:
    curves = curves_of(tmp_path, f"epoch,{train},{monitor}\n0,2,3\n1,1,2\n")
    assert (curves.train, curves.monitor) == (train, monitor)


def test_a_validation_metric_comes_before_one_of_test_data(tmp_path: Path) -> None:
    assert curves_of(tmp_path, "epoch,test_f1,val_f1\n0,2,3\n").monitor == "val_f1"


def test_no_log_is_an_absent_value(tmp_path: Path) -> None:
    text = "Training Loss,Epoch,Step,Validation Loss\nNo log,1.0,100,3\n1.5,2.0,200,2\n"
    curves = curves_of(tmp_path, text)
    assert math.isnan(curves.train_losses[0])
    assert curves.train_losses[1] == 1.5
    assert curves.val_values == (3, 2)


@pytest.mark.parametrize("steps", [True, False])
def test_rows_that_all_go_back_are_read_in_seconds(steps: bool, tmp_path: Path) -> None:
    epochs = [number + 1 - 2 * (number % 2) for number in range(100_000)]
    falling = [*range(50_000), *range(50_000, 0, -1)]
    for column in (epochs, falling):
        rows = (f"{epoch},{row},1,2" for row, epoch in enumerate(column))
        text = "\n".join(
            ["epoch,step,loss,val_loss" if steps else "epoch,row,loss,val_loss", *rows]
        )
        start = time.perf_counter()
        curves_of(tmp_path, text)
        assert time.perf_counter() - start < 10
