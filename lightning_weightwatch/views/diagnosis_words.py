"""The words and numbers that the sentences on learning curves share."""

import math

from lightning_weightwatch.losses.report import MILD_RISE, OVERFIT_RISE, SEVERE_RISE, LossReport
from lightning_weightwatch.losses.stopping import ROUNDING

#: What is printed as 0.0 % is nothing to tell.
LEAST_TOLD = 0.0005

_THRESHOLDS = [100 * share for share in (MILD_RISE, OVERFIT_RISE, SEVERE_RISE)]


def percent(share: float) -> str:
    """With one decimal, and more where rounding would put it at a threshold of the verdict.

    >>> percent(0.0712), percent(0.0399), percent(0.04), percent(0.0401), percent(123.4)
    ('7.1 %', '3.99 %', '4.0 %', '4.01 %', '12,340 %')
    """
    value = 100 * share
    if value >= 1000:
        return f"{value:,.0f} %"
    rounded = (f"{value:.{decimals}f}" for decimals in range(1, 8))
    return next(
        f"{text} %"
        for text in rounded
        if float(text) not in _THRESHOLDS or abs(value - float(text)) <= 100 * ROUNDING
    )


def above(share: float, threshold: float) -> bool:
    """Whether it is above a threshold of the verdict by more than rounding."""
    return share > threshold + ROUNDING


def training(report: LossReport) -> str:
    """What the training curve is to be called."""
    return "training loss" if report.train_mode == "min" else "training metric"


def training_improved(report: LossReport) -> str:
    """What the training curve does where it gets better."""
    return f"the {training(report)} {'fell' if report.train_mode == 'min' else 'rose'}"


def judgement(report: LossReport) -> str:
    """What getting worse while training gets better is called."""
    return f"{report.severity} overfitting" if report.overfitting else f"a {report.mild_word}"


def moves(name: str, before: float, after: float) -> str | None:
    """What became of a value; None where it is unknown."""
    if not (math.isfinite(before) and math.isfinite(after)):
        return None
    if not told_apart(before, after):
        return f"{name} stays at {after:.4g}"
    return f"{name} {'falls' if after < before else 'rises'} from {before:.4g} to {after:.4g}"


def told_apart(before: float, after: float) -> bool:
    """Whether two values are printed differently."""
    return f"{before:.4g}" != f"{after:.4g}"


def span(first: int, last: int) -> str:
    """0-based epochs as people count them."""
    return f"epoch {first + 1}" if first == last else f"epochs {first + 1}–{last + 1}"
