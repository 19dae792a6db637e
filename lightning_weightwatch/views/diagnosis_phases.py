"""What the two curves do in a phase of the run, in a sentence."""

import numpy as np

from lightning_weightwatch.losses.noise import MIN_AFTER_BEST, beyond_noise, noise_of
from lightning_weightwatch.losses.phases import Phase
from lightning_weightwatch.losses.report import OVERFIT_RISE, LossReport, sign
from lightning_weightwatch.losses.stopping import ROUNDING
from lightning_weightwatch.views.diagnosis_verdict import no_overfitting
from lightning_weightwatch.views.diagnosis_words import (
    moves,
    percent,
    span,
    told_apart,
    training_improved,
)

#: What the phases of learning are to be called, in the middle of a sentence.
LEARNING = {
    "rapid": "rapid initial learning",
    "slower": "slower convergence",
    "steady": "steady learning",
    "plateau": "a plateau",
}


def seen(report: LossReport, phase: Phase, metric: str) -> str:
    """What the two curves do in a phase.

    Args:
        report: The curves.
        phase: One of the report's.
        metric: The name of the validation metric, escaped.
    """
    where = span(phase.first_epoch, phase.last_epoch)
    within = slice(phase.first, phase.last + 1)
    losses, values = report.train_losses[within], report.val_values[within]
    train = moves(f"the {report.training_word}", phase.train_from, phase.train_to, losses)
    validation = moves(metric, phase.val_from, phase.val_to, values)
    if phase.name in LEARNING:
        detour = _detour(report, phase)
        if detour:
            validation = f"{validation}, {detour}"
        elif phase.name == "plateau":
            low, high = min(values), max(values)
            apart = told_apart(low, high)
            there = f"between {low:.4g} and {high:.4g}" if apart else f"at {low:.4g}"
            validation = f"{metric} stays {there}"
        title = LEARNING[phase.name].removeprefix("a ").capitalize()
        return f"{title} ({where}): {'; '.join(filter(None, (train, validation)))}."
    title = phase.label
    worse = f"{validation}, {percent(report.rise)} worse than its best"
    if phase.name == "overfit":
        better = sign(report.train_mode) * (phase.train_from - phase.train_to) > 0
        told = train and better and told_apart(phase.train_from, phase.train_to)
        ending = f", while {train if told else training_improved(report)}: "
        ending += (
            f"{report.severity} overfitting"
            if report.overfitting
            else f"no overfitting, which begins above {100 * OVERFIT_RISE:.0f} %"
        )
    else:
        ending = f", and {train}" if train else ""
        ending += "" if report.severity == "unknown" else f": {no_overfitting(report)}"
    return f"{title.capitalize()} ({where}): {worse}{ending}."


def _detour(report: LossReport, phase: Phase) -> str | None:
    """The way of the metric, where its ends do not tell it: it got worse for a while.

    By more than 4 %, and more than noise.
    """
    start = max(phase.first - 1, 0)
    turned = sign(report.mode) * np.array(report.val_values[start : phase.last + 1])
    lowest = np.minimum.accumulate(turned)
    # Halves: the largest finite values have no finite difference.
    risen = turned / 2 - lowest / 2
    top = len(turned) - 1 - int(np.argmax(risen[::-1]))
    low = int(np.argmin(turned[: top + 1]))
    share = (OVERFIT_RISE + ROUNDING) * max(abs(float(turned[low])), abs(report.best_value))
    apart = 0.0
    if len(turned) > MIN_AFTER_BEST:
        # The lowest of noisy values is as far below their level as the highest is above it.
        apart = 2 * beyond_noise(len(turned)) * noise_of(turned)
    if 2 * float(risen[top]) <= max(share, apart):
        return None
    said = [
        f"{report.val_values[start + index]:.4g} in epoch {report.epochs[start + index] + 1}"
        for index in (low, top)
    ]
    if top == len(turned) - 1:
        return f"after {said[0]}" if low else None
    return f"with a {'hump' if report.mode == 'min' else 'dip'} from {said[0]} to {said[1]}"
