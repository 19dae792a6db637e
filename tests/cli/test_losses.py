"""What `diagnose` reads, says, draws and writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.tensorboard import SummaryWriter

from lightning_weightwatch.cli import losses
from lightning_weightwatch.cli.main import main
from lightning_weightwatch.cli.metric_mode import is_to_rise
from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.views.diagnosis import diagnosis_sentences
from lightning_weightwatch.views.records import csv_text
from tests.cli.commands import (
    help_of,
    printed,
    process,
    refused,
    unread,
    with_a_full_disk,
)
from tests.cli.test_terminal import ESCAPE, on_a_terminal
from tests.files.runs import LOGGERS, Logging, MakeLogger, csv_logger, fitted

TRAIN = [1.5, 1.0, 0.75, 0.5, 0.25, 0.125, 0.0625]
VAL = [1.5, 1.125, 1.0, 0.875, 1.0, 1.125, 1.25]


def run(folder: Path, val: Sequence[Any] = VAL, monitor: str = "val_loss") -> str:
    """The path of a run's folder with metrics.csv of two curves; epochs are counted from 0."""
    rows = zip(range(len(val)), TRAIN, val, strict=False)
    lines = [f"{epoch},{train},{value}" for epoch, train, value in rows]
    file = folder / "version_0" / "metrics.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([f'epoch,train_loss,"{monitor}"', *lines, ""]))
    return str(file.parent)


def words(text: str) -> str:
    """A text whatever its line breaks."""
    return " ".join(text.split())


@LOGGERS
def test_the_numbers_of_a_real_fit_are_judged(
    logger: MakeLogger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, _ = fitted(tmp_path, Logging(on_step=False, on_epoch=True), logger(tmp_path))
    capsys.readouterr()
    found = json.loads(printed(capsys, "diagnose", str(tmp_path), "--json", "-"))
    assert [row["val_value"] for row in found["validations"]] == list(truth.values())
    assert [row["train_loss"] for row in found["validations"]] == truth.epoch_means()
    assert [row["epoch"] for row in found["validations"]] == [0, 1, 2, 3]
    assert found["settings"]["monitor"] == "val_loss"
    assert found["settings"]["train"] == "train_loss"
    assert found["settings"]["notes"] == []
    assert Path(found["file"]).is_relative_to(tmp_path / "version_0")


def test_json_and_csv_hold_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = diagnose(TRAIN, VAL, learning_rates={})
    asked = ["--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]
    printed(capsys, "diagnose", run(tmp_path), *asked)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["summary"] == report.summary()
    assert found["validations"] == json.loads(json.dumps(report.records()))
    assert found["file"] == str(tmp_path / "version_0" / "metrics.csv")
    assert found["settings"]["mode"] == "min"
    assert (tmp_path / "a.csv").read_text() == csv_text(report.records())


def test_json_holds_the_verdict_and_the_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{i},{TRAIN[i]},{VAL[i]},{0.1 if i < 4 else 0.01}" for i in range(len(VAL))]
    file = tmp_path / "run.csv"
    file.write_text("\n".join(["epoch,train_loss,val_loss,lr-Adam", *rows, ""]))
    rates = [0.1] * 4 + [0.01] * 3
    report = diagnose(TRAIN, VAL, learning_rates={"lr-Adam": rates})
    found = json.loads(printed(capsys, "diagnose", str(file), "--json", "-"))["diagnosis"]
    assert report.patience
    assert found["overfitting"] is report.overfitting is True
    assert found["severity"] == report.severity
    assert (found["best_epoch"], found["best_value"]) == (3, 0.875)
    assert found["early_stop_epoch"] == 3
    assert found["patience"] == list(report.patience)
    window = report.lr_decay_window
    assert found["lr_decay_window"] == (None if window is None else list(window))
    assert found["noise"] == report.noise
    assert found["within_noise"] is False
    assert [phase["label"] for phase in found["phases"]] == [p.label for p in report.phases]
    assert found["phases"][-1]["last_epoch"] == 6
    (drop,) = found["lr_drops"]
    assert drop == {"epoch": 4, "name": "lr-Adam", "index": 4, "before": 0.1, "after": 0.01}


def test_without_a_finite_validation_json_is_strict_and_csv_has_its_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    folder = run(tmp_path, ["nan", "inf", "nan"])
    text = printed(capsys, "diagnose", folder, "--json", "-")
    found = json.loads(text, parse_constant=refuse)["diagnosis"]
    assert found["severity"] == "unknown"
    assert found["best_epoch"] is found["best_value"] is found["noise"] is None
    table = printed(capsys, "diagnose", folder, "--csv", "-")
    assert table == "epoch,train_loss,val_value\n"


@pytest.mark.parametrize(
    ("train", "header"), [("train_loss", "training loss"), ("train_acc", "training metric")]
)
def test_the_table_calls_the_training_curve_what_it_is(
    train: str, header: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = TRAIN if train == "train_loss" else [1 - loss / 2 for loss in TRAIN]
    rows = [f"{i},{curve[i]},{1 - VAL[i] / 2}" for i in range(len(VAL))]
    file = tmp_path / "run.csv"
    file.write_text("\n".join([f"epoch,{train},val_acc", *rows, ""]))
    text = printed(capsys, "diagnose", str(file))
    assert f"Training: {train}." in text
    assert "overfitting" in text
    (line,) = (line for line in text.splitlines() if line.startswith("phase "))
    assert header in line


@pytest.mark.parametrize("logged", ["nothing", "batches"])
def test_without_a_training_curve_there_is_no_column_and_no_verdict(
    logged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SummaryWriter(tmp_path) as writer:
        for epoch, value in enumerate(VAL):
            writer.add_scalar("val_loss", value, epoch)
        for batch in range(200 if logged == "batches" else 0):
            writer.add_scalar("train_loss", 1 / (batch + 1), batch)
    text = printed(capsys, "diagnose", str(tmp_path))
    (line,) = (line for line in text.splitlines() if line.startswith("phase "))
    assert line.split() == ["phase", "epochs", "validation"]
    assert "No verdict on overfitting" in text
    said = "has no training loss" if logged == "nothing" else "one seems to count batches"
    assert said in text
    found = json.loads(printed(capsys, "diagnose", str(tmp_path), "--json", "-"))
    assert found["diagnosis"]["severity"] == "unknown"
    assert found["diagnosis"]["overfitting"] is False


def test_the_terminal_says_the_verdict_and_shows_the_phases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "diagnose", run(tmp_path))
    report = diagnose(TRAIN, VAL, learning_rates={})
    assert "metrics.csv: 7 validations\n" in text
    assert "Validation: val_loss (mode min). Training: train_loss." in text
    for sentence in diagnosis_sentences(report, "val_loss", None):
        assert sentence in text
    assert report.phases
    for phase in report.phases:
        (row,) = (line for line in text.splitlines() if line.startswith(f"{phase.label} "))
        assert f"{phase.last_epoch + 1} " in row
        assert f"→ {phase.train_to:.4g}" in row
        assert row.endswith(f"→ {phase.val_to:.4g}")


@pytest.mark.parametrize(
    ("metric", "asked", "mode"),
    [
        ("val_loss", [], "min"),
        ("val_acc", [], "max"),
        ("val_acc", ["--mode", "min"], "min"),
        ("val_reward", ["--mode", "max"], "max"),
        ("val_reward", [], "min"),
    ],
)
def test_the_direction_is_asked_for_or_told_by_the_name(
    metric: str, asked: list[str], mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, monitor=metric)
    text = printed(capsys, "diagnose", folder, *asked)
    assert f"Validation: {metric} (mode {mode})." in text
    said = f"{metric} is taken for a metric that is to rise (--mode max)." in text
    assert said == (mode == "max" and not asked)


def test_names_of_metrics_are_judged_by_whole_words() -> None:
    rise = "val_accuracy valid/auroc val-mIoU mAP_50 val_r2 val/rougeL val_BLEU4 val_top1_acc f1"
    fall = "val_loss val_iou_loss val_mape val_accel val_recaller val_perplexity error_auc r"
    assert all(map(is_to_rise, rise.split()))
    assert not any(map(is_to_rise, fall.split()))


@pytest.mark.parametrize("extension", ["png", "PNG", "svg", "pdf"])
def test_the_figure_is_written_in_the_format_of_its_name(
    extension: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"curves.{extension}"
    text = printed(capsys, "diagnose", run(tmp_path), "--figure", str(target))
    assert text.endswith(f"The curves are in {target}.\n")
    content = target.read_bytes()
    if extension == "svg":
        assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert content.startswith(b"%PDF-" if extension == "pdf" else b"\x89PNG\r\n")


def test_markdown_goes_to_a_file_or_to_stdout_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = run(tmp_path, monitor="val_acc"), tmp_path / "run.md"
    printed(capsys, "diagnose", folder, "--markdown", str(target))
    text = printed(capsys, "diagnose", folder, "--markdown", "-")
    assert text == target.read_text()
    assert "val\\_acc" in text
    assert "is to rise" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["diagnose"], "required: LOG"),
        (["diagnose", "nothing"], "no such file"),
        (["diagnose", "."], "no log of a run"),
        (["diagnose", "version_0", "--mode", "up"], "'min', 'max'"),
        (["diagnose", "version_0", "--monitor", "val_acc"], "has no 'val_acc'"),
        (["diagnose", "version_0", "--train", "loss"], "'train_loss'"),
        (["diagnose", "version_0", "--figure", "a.gif"], "must end in .png, .svg, .pdf"),
        (["diagnose", "version_0", "--figure", "-"], "must end in .png, .svg, .pdf"),
        (["diagnose", "version_0", "--figure", "no/a.png"], "No such file"),
        (["diagnose", "version_0", "--csv", "version_0"], "it is a folder"),
        (["diagnose", "version_0", "--csv", "version_0/metrics.csv"], "the file that is read"),
        (["diagnose", "version_0", "--csv", "events.out.tfevents.1"], "name of an event file"),
        (["diagnose", "version_0", "--json", "a", "--markdown", "a"], "the same file"),
        (["diagnose", "version_0", "--layers", "a"], "--layers"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty" if "." in arguments else tmp_path)
    run(tmp_path)
    before = (tmp_path / "version_0" / "metrics.csv").read_text()
    assert told in refused(capsys, *arguments)
    assert (tmp_path / "version_0" / "metrics.csv").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "version_0"]


def test_a_curve_without_a_finite_value_is_told_and_not_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = run(tmp_path, ["nan"] * 5), tmp_path / "a.png"
    assert main(["diagnose", folder, "--figure", str(target)]) == 2
    said = capsys.readouterr()
    assert "5 validations were NaN or infinite: epochs 1–5." in said.out
    assert "no finite value of val_loss to draw" in said.err
    assert "The curves are in" not in said.out
    assert not target.exists()


def test_the_checkpoint_of_the_best_epoch_is_named_where_there_is_no_doubt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path)  # the best is epoch 3
    checkpoints = Path(folder) / "checkpoints"
    assert "epoch=" not in printed(capsys, "diagnose", folder)
    checkpoints.mkdir()
    for name in ["epoch=13-step=60.ckpt", "epoch=30.ckpt", "last.ckpt", "epoch=4-step=24.ckpt"]:
        (checkpoints / name).touch()
    assert "epoch=" not in printed(capsys, "diagnose", folder)
    (checkpoints / "epoch=3-step=24.ckpt").touch()
    named = str(checkpoints / "epoch=3-step=24.ckpt")
    assert named in printed(capsys, "diagnose", folder)
    assert named in printed(capsys, "diagnose", f"{folder}/metrics.csv")
    (checkpoints / "epoch=3-step=24-v1.ckpt").touch()
    assert "epoch=" not in printed(capsys, "diagnose", folder)


@LOGGERS
def test_the_checkpoint_that_lightning_keeps_beside_the_log_is_found(
    logger: MakeLogger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = ModelCheckpoint(monitor="val_loss")
    fitted(tmp_path, Logging(on_step=False, on_epoch=True), logger(tmp_path), best)
    capsys.readouterr()
    assert best.best_model_path in printed(capsys, "diagnose", str(tmp_path))


@LOGGERS
@pytest.mark.parametrize("every", [5, 6])
def test_a_checkpoint_within_the_best_epoch_is_not_that_of_its_validation(
    every: int, logger: MakeLogger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = ModelCheckpoint(every_n_train_steps=every, save_top_k=-1)
    module = Logging(on_step=False, on_epoch=True)
    truth, _ = fitted(tmp_path, module, logger(tmp_path), saved)
    best = truth.values().index(min(truth.values()))
    capsys.readouterr()
    text = printed(capsys, "diagnose", str(tmp_path))
    assert (f"epoch={best}-step={6 * (best + 1)}.ckpt" in text) == (every == 6)
    assert (".ckpt" in text) == (every == 6)


def test_of_several_validations_in_an_epoch_the_step_tells_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = ModelCheckpoint(monitor="val_loss", save_top_k=-1)
    module = Logging(on_step=False, on_epoch=True)
    fitted(tmp_path, module, csv_logger(tmp_path), best, val_check_interval=0.5)
    capsys.readouterr()
    assert best.best_model_path in printed(capsys, "diagnose", str(tmp_path))


def test_a_validation_that_was_not_finite_shifts_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{i},{10 * i + 9},{'nan' if i < 2 else VAL[i]}" for i in range(len(VAL))]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,step,val_loss", *rows, ""]))
    (tmp_path / "checkpoints").mkdir()
    for name in ("epoch=3-step=20.ckpt", "epoch=3-step=40.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    assert "kept in" in (text := printed(capsys, "diagnose", str(tmp_path)))
    assert "epoch=3-step=40.ckpt" in text


def test_help_fits_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of(capsys, "diagnose")
    assert "usage: lightning-weightwatch diagnose LOG [options]" in text
    for option in ("monitor", "train", "mode", "json", "csv", "markdown", "figure"):
        assert f"--{option}" in text


def test_a_terminal_is_not_overrun_and_a_pipe_gets_a_line_for_each_sentence(
    tmp_path: Path,
) -> None:
    folder = run(tmp_path, monitor="val_acc")
    shown, piped, code = on_a_terminal("stdout", 80, "diagnose", folder)
    assert (code, piped) == (0, "")
    assert max(map(len, ESCAPE.sub("", shown).split("\n"))) <= 80
    done = process("diagnose", folder, COLUMNS="40", FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout
    assert words(ESCAPE.sub("", shown)).replace(" ", "") == words(done.stdout).replace(" ", "")


LOADED = """
import sys
from lightning_weightwatch.cli.main import main
code = main({arguments!r})
heavy = ("torch", "lightning", "torchmetrics", "tensorflow", "tensorboard", "matplotlib")
print(code, *(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


@LOGGERS
@pytest.mark.parametrize("drawn", [False, True])
def test_a_diagnosis_loads_no_torch_and_what_draws_only_to_draw(
    drawn: bool, logger: MakeLogger, tmp_path: Path
) -> None:
    fitted(tmp_path, Logging(on_step=False, on_epoch=True), logger(tmp_path))
    figure = ["--figure", str(tmp_path / "a.png")] if drawn else []
    code = LOADED.format(arguments=["diagnose", str(tmp_path), *figure])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    events = any((tmp_path / "version_0").glob("events*"))
    expected = ["tensorboard"] * events + ["matplotlib"] * drawn
    assert done.stderr.split() == ["0", *expected]


@pytest.mark.parametrize(("fault", "code"), [(KeyboardInterrupt, 130), (MemoryError, 2)])
def test_ctrl_c_and_too_little_memory_end_without_a_traceback(
    fault: type[BaseException],
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(losses, "read_curves", interrupted)
    assert main(["diagnose", run(tmp_path), "--json", str(tmp_path / "a.json")]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == (code == 2)
    assert not (tmp_path / "a.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no closed pipes like this")
def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path) -> None:
    assert unread("diagnose", run(tmp_path)) == (141, b"")


def test_a_failed_write_keeps_the_old_file_and_shows_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = with_a_full_disk(capsys, tmp_path / "a.png", "diagnose", run(tmp_path), "--figure")
    assert "val_loss was best" in shown
    assert "The curves are in" not in shown


@pytest.mark.parametrize("output", ["table", "--json", "--csv", "--markdown"])
def test_hostile_names_do_no_harm_anywhere(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "=cmd\x1b[31m[red]<b>\u202e$\\alpha_|$"
    folder = run(tmp_path, monitor=name)
    asked = ["--monitor", name, "--figure", str(tmp_path / "a.png")]
    text = printed(
        capsys, "diagnose", folder, *asked, *([] if output == "table" else [output, "-"])
    )
    assert all(character.isprintable() or character == "\n" for character in text)
    assert (tmp_path / "a.png").stat().st_size > 0
    if output == "--json":
        assert json.loads(text)["settings"]["monitor"] == name
    if output == "--markdown":
        assert "<b>" not in re.sub("`[^`]*`", "", text)  # in code it is only text


def test_one_validation_is_no_verdict_and_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, VAL[:1])
    text = printed(capsys, "diagnose", folder, "--figure", str(tmp_path / "a.svg"))
    assert "1 validation\n" in text
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    found = json.loads(printed(capsys, "diagnose", folder, "--json=-"))
    assert [row["val_value"] for row in found["validations"]] == VAL[:1]
