"""The words and numbers that the sentences and the figure of learning curves share."""

import math
import re
from collections.abc import Sequence

from lightning_weightwatch.losses.report import MILD_RISE, OVERFIT_RISE, SEVERE_RISE, LossReport
from lightning_weightwatch.losses.stopping import ROUNDING
from lightning_weightwatch.views.tables import one_line

#: What is printed as 0.0 % is nothing to tell.
LEAST_TOLD = 0.0005

# What a name says of where, when and how a loss was measured: that it is another loss it is not.
_MEASURED = {"val", "valid", "validation", "eval", "evaluation", "test", "dev", "epoch", "step"}
_OF_A_LOADER = re.compile(r"/dataloader_idx_\d+$")

_THRESHOLDS = [100 * share for share in (MILD_RISE, OVERFIT_RISE, SEVERE_RISE)]


def percent(share: float) -> str:
    """With one decimal, and more where rounding would put it at a threshold of the verdict.

    >>> percent(0.0712), percent(0.0399), percent(0.04), percent(0.0401), percent(123.4)
    ('7.1 %', '3.99 %', '4.0 %', '4.01 %', '12,340 %')
    >>> percent(1e30)
    '1e+32 %'
    """
    value = 100 * share
    if value >= 1e9:
        return f"{value:.3g} %"
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


def trainings(report: LossReport) -> str:
    """What the values of the training curve are to be called."""
    return "training losses" if report.train_mode == "min" else "values of the training metric"


def is_the_loss(report: LossReport, monitor: str) -> bool:
    """Whether the metric is by its name what the training curve is: the loss, and no other.

    `val_loss`, `Loss/val` and `valLoss` are; `val_mae` is another quantity, and so may be
    `val_box_loss` beside the sum that is trained on.
    """
    name = _OF_A_LOADER.sub("", monitor)
    words = re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z_/. -]+", name)
    left = [word for word in map(str.lower, words) if word not in _MEASURED]
    return report.mode == report.train_mode == "min" and left in (["loss"], ["losses"])


def training_improved(report: LossReport) -> str:
    """What the training curve does where it gets better."""
    return f"the {report.training_word} {'fell' if report.train_mode == 'min' else 'rose'}"


def judgement(report: LossReport) -> str:
    """What getting worse while training gets better is called."""
    return f"{report.severity} overfitting" if report.overfitting else f"a {report.mild_word}"


def moves(name: str, before: float, after: float, between: Sequence[float]) -> str | None:
    """What became of a value; None where it is unknown.

    Args:
        name: Of the value.
        before: At first.
        after: At last.
        between: Those on the way; the ones that are not finite are unknown.
    """
    if not (math.isfinite(before) and math.isfinite(after)):
        return None
    if told_apart(before, after):
        return f"{name} {'falls' if after < before else 'rises'} from {before:.4g} to {after:.4g}"
    if any(math.isfinite(value) and told_apart(value, after) for value in between):
        return f"{name} begins and ends at {after:.4g}"
    return f"{name} stays at {after:.4g}"


def told_apart(before: float, after: float) -> bool:
    """Whether two values are printed differently."""
    return f"{before:.4g}" != f"{after:.4g}"


def span(first: int, last: int) -> str:
    """0-based epochs as people count them."""
    return f"epoch {first + 1}" if first == last else f"epochs {first + 1}–{last + 1}"


def code(text: str) -> str:
    """Text as code, in which Markdown has no escapes: only a longer fence."""
    shown = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{fence}{shown}{fence}"
