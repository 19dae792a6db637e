"""`diagnose`: what the learning curves in the log of a run tell."""

import math
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from rich.text import Text

from lightning_weightwatch.cli.diagnosis_view import diagnosis_view
from lightning_weightwatch.cli.metric_mode import direction, is_to_rise
from lightning_weightwatch.cli.output import STDOUT, check_targets, publish, show
from lightning_weightwatch.cli.picture import check_picture, picture_bytes
from lightning_weightwatch.cli.refusal import Refusal
from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.curves import Curves, read_curves
from lightning_weightwatch.files.event_log import is_event_file
from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.diagnosis import diagnosis_markdown, diagnosis_sentences
from lightning_weightwatch.views.loss_curve import loss_figure
from lightning_weightwatch.views.records import csv_text, json_text
from lightning_weightwatch.views.tables import one_line


def run_diagnose(options: Namespace) -> None:
    """`lightning-weightwatch diagnose`.

    Raises:
        Refusal: For wrong arguments, and for files that cannot be read or written.
    """
    targets = {f"--{name}": options[name] for name in ("json", "csv", "markdown", "figure")}
    check_picture(options.figure)
    _check_events(targets)
    check_targets(options.log, targets)
    curves = _read(options)
    check_targets(curves.source, targets)  # metrics.csv in the folder that was given
    mode, notes = _mode(curves, options.mode)
    report = diagnose(
        curves.train_losses,
        curves.val_values,
        mode=mode,
        train_mode=direction(curves.train or ""),
        epochs=curves.epochs,
        learning_rates=curves.learning_rates,
    )
    checkpoint = _checkpoint_of_the_best(report, curves)
    sentences = diagnosis_sentences(report, curves.monitor, checkpoint)
    settings: dict[str, Any] = {
        "monitor": curves.monitor,
        "mode": mode,
        "train": curves.train,
        "checkpoint": checkpoint,
        "notes": notes,
    }
    publish(
        [
            (options.json, lambda: _json(report, curves.source, settings)),
            (options.csv, lambda: _csv(report)),
            (
                options.markdown,
                lambda: diagnosis_markdown(report, curves.monitor, checkpoint, notes),
            ),
            (options.figure, lambda: _picture(report, curves, options.figure)),
        ],
        lambda width: diagnosis_view(report, curves, sentences, notes, width),
    )
    if options.figure is not None and STDOUT not in targets.values():
        show(lambda _: Text(f"\nThe curves are in {one_line(options.figure)}.", overflow="fold"))


def _check_events(targets: dict[str, str | None]) -> None:
    """Refuse to write over a log in the folder that is read."""
    for option, target in targets.items():
        if target is not None and is_event_file(Path(target)):
            raise Refusal(f"{option} {target}: has the name of an event file of TensorBoard")


def _read(options: Namespace) -> Curves:
    """The curves in the log.

    Raises:
        Refusal: If it cannot be read.
    """
    try:
        return read_curves(options.log, monitor=options.monitor, train=options.train)
    except BadFile as error:
        raise Refusal(str(error)) from error
    except MemoryError as error:
        raise Refusal(f"{options.log}: it needs more memory than there is") from error


def _mode(
    curves: Curves, asked: Literal["min", "max"] | None
) -> tuple[Literal["min", "max"], list[str]]:
    """The direction of the metric, and the notes with what was made of its name."""
    notes = list(curves.notes)
    if asked is None and is_to_rise(curves.monitor):
        notes.append(f"{curves.monitor} is taken for a metric that is to rise (--mode max).")
        return "max", notes
    return asked or "min", notes


def _checkpoint_of_the_best(report: LossReport, curves: Curves) -> str | None:
    """The file with the weights of the best validation, where its name leaves no doubt of it.

    A name tells the epoch, and most tell how many steps were done: Lightning logs the last of them,
    counted from 0. Where the steps are not known on both sides, any of several validations in that
    epoch, or of several files, could be meant.
    """
    best = report.best_index
    if best is None:
        return None
    finite = [place for place, value in enumerate(curves.val_values) if math.isfinite(value)]
    done = curves.steps[finite[best]] + 1 if curves.steps else None
    several = Counter(curves.epochs)[report.epochs[best]] > 1
    source = Path(curves.source)
    run = source if source.is_dir() else source.parent
    named = re.compile(rf"epoch=0*{report.epochs[best]}(?!\d)(?:.*?step=(\d+))?.*\.ckpt")
    try:
        files = [
            file
            for file in (run / "checkpoints").iterdir()
            if (name := named.fullmatch(file.name))
            and (not several if done is None or not name[1] else int(name[1]) == done)
        ]
    except OSError:
        return None
    return str(files[0]) if len(files) == 1 else None


def _json(report: LossReport, source: str, settings: dict[str, Any]) -> str:
    """The report as JSON with the verdict and the advice under `diagnosis`; epochs are 0-based."""
    diagnosis = {
        "overfitting": report.overfitting,
        "severity": report.severity,
        "best_epoch": report.best_epoch,
        "best_value": report.best_value,
        "phases": [asdict(phase) for phase in report.phases],
        "patience": report.patience,
        "early_stop_epoch": report.early_stop_epoch,
        "lr_decay_window": report.lr_decay_window,
        "lr_drops": [
            {"epoch": report.epochs[drop.index], **asdict(drop)} for drop in report.lr_drops
        ],
        "noise": report.noise,
        "within_noise": report.within_noise,
    }
    return json_text(report, source, settings, "validations", {"diagnosis": diagnosis})


def _csv(report: LossReport) -> str:
    """A row per validation; without one the header alone."""
    header = csv_text(LossReport((0.0,), (0.0,), (0,)).records()).split("\n", 1)[0]
    return csv_text(report.records()) if report.val_values else f"{header}\n"


def _picture(report: LossReport, curves: Curves, target: str) -> bytes:
    """The figure in the format that the name of its file says.

    Raises:
        Refusal: If there is nothing to draw, or values of such a size that they cannot be.
    """
    if report.best_epoch is None:
        raise Refusal(f"--figure {target}: no finite value of {curves.monitor} to draw")
    try:
        return picture_bytes(loss_figure(report, curves.monitor), target)
    except (ValueError, OverflowError) as error:
        raise Refusal(f"--figure {target}: these values cannot be drawn: {error}") from error
