"""The verdict on the learning curves in sentences, each borne by a number of the run."""

import math

from lightning_weightwatch.losses.noise import BEYOND_NOISE
from lightning_weightwatch.losses.report import MILD_RISE, MIN_POINTS, LossReport
from lightning_weightwatch.views.diagnosis_skipped import skipped_validations, validations
from lightning_weightwatch.views.diagnosis_words import (
    LEAST_TOLD,
    above,
    judgement,
    percent,
    training,
    training_improved,
)


def nothing_said(metric: str) -> str:
    """In place of all that is said of a run."""
    return f"There was no validation with a finite {metric}, so nothing can be said."


def verdict(report: LossReport) -> str:
    """Whether the model overfits, and how far the last validation is from the best."""
    last, count = report.epochs[-1] + 1, len(report.val_values)
    value = f"{report.val_values[-1]:.4g}"
    worse = f"By epoch {last} it is {percent(report.rise)} worse"
    if report.mode == "max":
        worse += f" ({value})"  # which may be a percentage itself
    told = report.rise >= LEAST_TOLD
    if report.severity == "unknown":
        return f"{worse}. {why_unknown(report)}" if told else why_unknown(report)
    if report.best_index == count - 1:
        return f"That was the last of {validations(report, count)}: no overfitting seen."
    end = "the last with a finite value" if _ends_unknown(report) else "the last"
    if report.rise == 0:
        return f"Epoch {last}, {end}, is as good as the best: no overfitting seen."
    if not told:
        return (
            f"Epoch {last}, {end}, is worse than the best by less than {percent(2 * LEAST_TOLD)}: "
            "no overfitting seen."
        )
    if report.severity != "none":
        changed = f"rose by {percent(report.rise)}"
        if report.mode == "max":
            changed = f"fell by {percent(report.rise)} to {value}"
        return f"Since then it {changed} while {training_improved(report)}: {judgement(report)}."
    if not above(report.rise, MILD_RISE):
        return f"{worse}, which is no more than {percent(MILD_RISE)}: no overfitting seen."
    if report.within_noise:
        return (
            f"{worse}, no more than its noise makes it: {BEYOND_NOISE:.0f} standard deviations are "
            f"{percent(BEYOND_NOISE * report.noise)}, and there is no trend."
        )
    did = "fall" if report.train_mode == "min" else "rise"
    but = f"but the {training(report)} did not {did} either"
    if not report.epochs_since_best:
        but = "all within the epoch of the best"
    return f"{worse}, {but}: {no_overfitting(report)}."


def no_overfitting(report: LossReport) -> str:
    """What a worsening beyond noise is called while training does not get better."""
    return "that is not overfitting" if report.epochs_since_best else "too early for a verdict"


def why_unknown(report: LossReport) -> str:
    """Why there is no verdict."""
    count = len(report.val_values)
    if count < MIN_POINTS:
        run = validations(report, count)
        return f"The run has {run}, and a verdict on overfitting takes {MIN_POINTS}."
    known = list(map(math.isfinite, report.train_losses))
    finite = f"{sum(known) or 'none'} of the {count} training losses {_is(sum(known))} finite"
    if any(known):
        later = any(known[(report.best_index or 0) + 1 :])
        finite += f", none {'as early as' if later else 'later than'} the best validation"
    return f"No verdict on overfitting: {finite}."


def about_percentages(report: LossReport) -> str | None:
    """What the percentages are of, where it is not the best value."""
    above_best = abs(report.val_values[-1] - report.best_value)
    if report.rise == 0 or math.isclose(
        above_best, report.rise * abs(report.best_value), rel_tol=1e-6
    ):
        return None
    return (
        f"The best, {report.best_value:.4g}, is too near to zero for percentages of it: they are "
        f"of {above_best / report.rise:.4g}."
    )


def gap_at_the_end(report: LossReport) -> str | None:
    """How far the two curves are apart, where that means something."""
    if not math.isfinite(report.gap):
        return None
    where = f"in epoch {report.epochs[-1] + 1}" if _ends_unknown(report) else "at the end"
    return f"Validation minus {training(report)} {where}: {report.gap:.4g}."


def _ends_unknown(report: LossReport) -> bool:
    """Whether validations without a finite value come last."""
    return max(skipped_validations(report), default=-1) >= report.epochs[-1]


def _is(count: int) -> str:
    return "are" if count > 1 else "is"
