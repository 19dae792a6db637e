"""What to do in the next run, after a look at the learning curves."""

import math

import numpy as np

from lightning_weightwatch.losses.advice import patience_of
from lightning_weightwatch.losses.report import LossReport, sign
from lightning_weightwatch.views.diagnosis_skipped import skipped_validations
from lightning_weightwatch.views.diagnosis_words import code, percent, span


def recommendations(report: LossReport, monitor: str) -> list[str]:
    """What to do in the next run."""
    found = [_early_stopping(report, monitor), _decay(report)]
    if report.overfitting and report.best_epoch is not None:
        found.append(
            f"Against the {percent(report.rise)} lost after epoch {report.best_epoch + 1}: use "
            "the weights of that epoch, and in the next run more data or more regularisation "
            "(weight decay, dropout)."
        )
    return [*filter(None, found)]


def _early_stopping(report: LossReport, monitor: str) -> str | None:
    """An EarlyStopping that would have kept the best epoch of this run."""
    if not report.patience or report.best_epoch is None or not report.best_index:
        return None
    before = [epoch for epoch in skipped_validations(report) if epoch <= report.best_epoch]
    patience = _patience_among(report, before) if before else report.patience
    if patience is None:
        return None
    least, most = patience
    mode = ", mode='max'" if report.mode == "max" else ""
    # By default it stops at the first value that is not finite.
    finite = ", check_finite=False" if before else ""
    stopping = code(f"EarlyStopping(monitor={monitor!r}{mode}, patience={least}{finite})")
    return (
        f"{stopping}, a patience of {least}–{most} validations, would not have stopped this run "
        f"before its best: until epoch {report.best_epoch + 1} the next new best was never more "
        f"than {least} validations away."
    )


def _patience_among(report: LossReport, odd: list[int]) -> tuple[int, int] | None:
    """The patience where validations without a finite value are waited through, too.

    Args:
        report: The curves.
        odd: The epochs of those validations, up to the best.

    Returns:
        None where there is none: an infinity better than all was the best for EarlyStopping, and in
        an epoch of several validations nobody knows which one was not finite.
    """
    unbeaten = skipped_validations(report, "-inf" if report.mode == "min" else "inf")
    if not set(odd).isdisjoint([*unbeaten, *report.epochs]):
        return None
    count = (report.best_index or 0) + 1
    values = sign(report.mode) * np.array(report.val_values[:count])
    known = list(zip(report.epochs[:count], values.tolist(), strict=True))
    run = sorted([*known, *((epoch, math.inf) for epoch in odd)])
    # Waiting begins with the run, as if after a new best.
    return patience_of(np.array([math.inf, *(value for _, value in run)]))


def _decay(report: LossReport) -> str | None:
    """Where to lower the learning rate, unless it was lowered there."""
    window = report.lr_decay_window
    if window is None:
        return None
    first, last = window
    if any(first <= report.epochs[drop.index] <= last for drop in report.lr_drops):
        return None
    rapid = any(phase.name == "rapid" for phase in report.phases)
    where = "where learning stops being rapid" if rapid else "where the curve bends"
    return (
        f"A suggestion without proof: let the learning rate decay around {span(first, last)}, "
        f"{where}."
    )
