"""The verdict on the learning curves in sentences, each borne by a number of the run."""

import math

from lightning_weightwatch.losses.noise import beyond_noise
from lightning_weightwatch.losses.report import MILD_RISE, MIN_POINTS, LossReport
from lightning_weightwatch.views.diagnosis_skipped import skipped_validations, validations
from lightning_weightwatch.views.diagnosis_words import (
    LEAST_TOLD,
    above,
    is_the_loss,
    judgement,
    percent,
    training_improved,
    trainings,
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
        most = beyond_noise(count - 1 - (report.best_index or 0))
        return (
            f"{worse}, no more than its noise makes it: {most:.1f} standard deviations are "
            f"{percent(most * report.noise)}, and there is no trend."
        )
    did = "fall" if report.train_mode == "min" else "rise"
    but = f"but the {report.training_word} did not {did} either"
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
    if not any(known):
        return f"No verdict on overfitting: no {report.training_word} is known."
    later = any(known[(report.best_index or 0) + 1 :])
    return (
        f"No verdict on overfitting: {sum(known)} of the {count} {trainings(report)} "
        f"{'is' if sum(known) == 1 else 'are'} finite, none "
        f"{'as early as' if later else 'later than'} the best validation."
    )


def about_percentages(report: LossReport) -> str | None:
    """What the percentages are of, where the best value has none."""
    if report.rise == 0 or report.best_value != 0:
        return None
    return (
        "The best is 0, of which there are no percentages: they are of the last value, "
        f"{report.val_values[-1]:.4g}."
    )


def gap_at_the_end(report: LossReport, monitor: str) -> str | None:
    """How far the two curves are apart, where by the metric's name both are the loss."""
    if not (math.isfinite(report.gap) and is_the_loss(report, monitor)):
        return None
    where = f"in epoch {report.epochs[-1] + 1}" if _ends_unknown(report) else "at the end"
    return f"Validation minus {report.training_word} {where}: {report.gap:.4g}."


def _ends_unknown(report: LossReport) -> bool:
    """Whether validations without a finite value come last."""
    return max(skipped_validations(report), default=-1) >= report.epochs[-1]
