"""The page on learning curves, section by section: what is seen, what follows, a caption."""

import math

import numpy as np

from lightning_weightwatch.losses.noise import MIN_AFTER_BEST, is_rough
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.diagnosis_phases import LEARNING, seen
from lightning_weightwatch.views.diagnosis_skipped import (
    left_out,
    skipped_validations,
    validations,
)
from lightning_weightwatch.views.diagnosis_verdict import (
    about_percentages,
    gap_at_the_end,
    nothing_said,
    verdict,
    why_unknown,
)
from lightning_weightwatch.views.diagnosis_words import (
    LEAST_TOLD,
    code,
    judgement,
    percent,
    span,
)
from lightning_weightwatch.views.tables import escape_markdown


def observations(report: LossReport, monitor: str) -> list[str]:
    """What can be seen in the curves, phase by phase."""
    metric = escape_markdown(monitor)
    skipped = list(map(escape_markdown, left_out(report)))
    if report.best_epoch is None:
        return [nothing_said(metric), *skipped]
    best = f"Validation best in epoch {report.best_epoch + 1} ({metric} {report.best_value:.4g})."
    found: list[str | None] = [seen(report, phase, metric) for phase in report.phases]
    if _ends_worse(report):
        found.insert(-1, best)
        found.append(why_unknown(report) if report.severity == "unknown" else None)
    else:
        found += [best, verdict(report)]
    from_best = np.array(report.val_values[report.best_index :])
    known = len(from_best) > MIN_AFTER_BEST and is_rough(from_best)
    if report.noise >= LEAST_TOLD and known:
        found.append(
            f"From its best on, {metric} has a noise of ±{percent(report.noise)} (standard "
            "deviation)."
        )
    found += [about_percentages(report), gap_at_the_end(report, monitor)]
    found += [
        f"The learning rate {escape_markdown(drop.name)} drops from {drop.before:.4g} to "
        f"{drop.after:.4g} by epoch {report.epochs[drop.index] + 1}."
        for drop in report.lr_drops
    ]
    return [*filter(None, found), *skipped]


def inferences(report: LossReport, monitor: str, checkpoint: str | None) -> list[str]:
    """Which weights to keep, where the run could have ended, and what the rapid start brought."""
    if report.best_epoch is None:
        return []
    metric, best = escape_markdown(monitor), report.best_epoch
    held = f"epoch {best + 1} (`epoch={best}` in the file names of ModelCheckpoint)"
    value = f"{metric} {report.best_value:.4g}"
    if checkpoint:
        found = [f"Best checkpoint: {escape_markdown(checkpoint)} holds {held}, {value}."]
    else:
        keeps = code(f"ModelCheckpoint(monitor={monitor!r}, mode={report.mode!r})")
        found = [f"Best checkpoint: no file is known to hold {held}, {value}; {keeps} keeps it."]
    count = len(report.val_values)
    after = count - 1 - (report.best_index or 0)
    candidate = f"Early stopping candidate: epoch {best + 1}"
    if after:
        are = "is" if after == 1 else "are"
        found.append(
            f"{candidate}; the {validations(report, after)} after the best {are} no better."
        )
    elif max(skipped_validations(report), default=-1) > best:
        found.append(f"{candidate}, the last with a finite {metric}.")
    elif count > 1:
        found.append(
            f"No early stopping candidate: the last of {validations(report, count)}, in epoch "
            f"{best + 1}, is the best."
        )
    share = _rapid_share(report)
    return found if share is None else [*found, share]


def caption_of(report: LossReport, metric: str, checkpoint: str | None) -> str | None:
    """A caption for the figure of the curves; None where there is none to draw."""
    if report.best_epoch is None:
        return None
    words = [
        f"{LEARNING[phase.name]} ({span(phase.first_epoch, phase.last_epoch)})"
        for phase in report.phases
        if phase.name in LEARNING
    ]
    known = any(map(math.isfinite, report.train_losses))
    curves = f"{report.training_word.capitalize()} and {metric}" if known else metric
    over = validations(report, len(report.val_values))
    parts = [f"{curves} over {over} ({span(report.epochs[0], report.epochs[-1])})."]
    if words:
        said = ", ".join(words)
        parts.append(f"{said[0].upper()}{said[1:]}.")
    best = f"The best {metric} is {report.best_value:.4g}, in epoch {report.best_epoch + 1}"
    if _ends_worse(report):
        best += f"; by epoch {report.epochs[-1] + 1} it is {percent(report.rise)} worse"
        if report.severity in ("mild", "moderate", "severe"):
            best += f" ({judgement(report)})"
    parts.append(f"{best}.")
    if checkpoint:
        parts.append(f"The checkpoint of that epoch is {escape_markdown(checkpoint)}.")
    return " ".join(parts)


def _ends_worse(report: LossReport) -> bool:
    return bool(report.phases) and report.phases[-1].name in ("overfit", "rise")


def _rapid_share(report: LossReport) -> str | None:
    """How much of what was learned was learned before the knee."""
    if not report.phases or report.phases[0].name != "rapid" or report.best_index is None:
        return None
    rapid = report.phases[0]
    gained = rapid.train_from - rapid.train_to
    whole = rapid.train_from - report.train_losses[report.best_index]
    if not (math.isfinite(gained) and math.isfinite(whole) and whole and 0 < gained / whole <= 1):
        return None
    way = "fall" if report.train_mode == "min" else "rise"
    return (
        f"Learning dynamics: {span(rapid.first_epoch, rapid.last_epoch)} brought "
        f"{100 * gained / whole:.0f} % of the {way} of the {report.training_word} until epoch "
        f"{report.epochs[report.best_index] + 1}."
    )
