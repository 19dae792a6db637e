"""A pair of learning curves, as people have them, becomes a report."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import SupportsFloat

from lightning_weightwatch.losses.growing import GrowingCurves
from lightning_weightwatch.losses.report import LossReport, Mode
from lightning_weightwatch.losses.stopping import is_lower
from lightning_weightwatch.report import Skipped

Values = Iterable[SupportsFloat | None]


def diagnose(
    train_losses: Values,
    val_losses: Values,
    *,
    mode: Mode = "min",
    epochs: Sequence[int] | None = None,
    train_mode: Mode | None = None,
    learning_rates: Mapping[str, Values] | None = None,
) -> LossReport:
    """Judge a pair of learning curves: is it overfitting, since when, what next.

    Of one curve that is longer than the other by a single value, the last is left out: the run was
    cut between the two.

    Args:
        train_losses: Mean training loss, one per validation; NaN or None where unknown.
        val_losses: The validation metric, one per validation. NaN and infinite ones are left out.
        mode: `"min"` if the metric is to fall, `"max"` if it is to rise.
        epochs: Epoch of each validation, 0-based, never falling; 0, 1, 2, ... when not given.
        train_mode: The same of the training curve. None: `"min"`; but beside a metric to rise
            `"max"` where the training curve rose on the whole, as an accuracy does.
        learning_rates: Those at each validation by name.

    Returns:
        The report. Its epochs are 0-based.

    Raises:
        ValueError: For lengths that do not fit together, epochs that fall, or another mode.

    Example:
        >>> report = diagnose([0.9, 0.5, 0.4, 0.3, 0.2], [0.9, 0.6, 0.5, 0.55, 0.6])
        >>> report.overfitting, report.severity, report.best_epoch, f"{report.rise:.0%}"
        (True, 'severe', 2, '20%')
    """
    for name, given in (("mode", mode), ("train_mode", train_mode or mode)):
        if given not in ("min", "max"):
            raise ValueError(
                f"{name} must be 'min' (it is to fall) or 'max' (to rise), got {given!r}"
            )
    train, val = _numbers(train_losses, "train_losses"), _numbers(val_losses, "val_losses")
    skipped = []
    if epochs is None and abs(len(train) - len(val)) == 1:
        longer = "training loss" if len(train) > len(val) else "validation"
        common = min(len(train), len(val))
        train, val = train[:common], val[:common]
        skipped.append(Skipped(f"epoch {common}", f"a {longer} without its counterpart"))
    places = list(range(len(val))) if epochs is None else _whole(epochs)
    if not len(train) == len(val) == len(places):
        raise ValueError(
            "train_losses, val_losses and epochs must have one entry per validation, got "
            f"{len(train)}, {len(val)} and {len(places)}"
        )
    rates = {
        name: _numbers(values, f"learning_rates[{name!r}]")
        for name, values in (learning_rates or {}).items()
    }
    for name, values in rates.items():
        if len(values) != len(val):
            raise ValueError(
                f"learning_rates[{name!r}] must have one entry per validation, {len(val)}, got "
                f"{len(values)}"
            )
    finite = [loss for loss, value in zip(train, val, strict=True) if math.isfinite(value)]
    curves = GrowingCurves(mode, train_mode or _train_mode(finite, mode))
    for index, epoch in enumerate(places):
        now = {name: rate[index] for name, rate in rates.items()}
        curves.add(epoch, train[index], val[index], now)
    report = curves.report()
    return replace(report, skipped=(*skipped, *report.skipped))


def _numbers(values: Values, name: str) -> list[float]:
    expected = f"{name} must be a sequence of numbers, one per validation"
    if isinstance(values, str | bytes | Mapping | Set):
        raise ValueError(f"{expected}, got a {type(values).__name__}")
    try:
        return [math.nan if value is None else float(_detached(value)) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(expected) from error


def _detached(value: SupportsFloat) -> SupportsFloat:
    """The same; of a tensor without its gradient, which it is no number with."""
    found: SupportsFloat = value.detach() if hasattr(value, "detach") else value
    return found


def _whole(epochs: Sequence[int]) -> list[int]:
    """The epochs as integers, in an order that fits."""
    found: list[int] = []
    for epoch in epochs:
        before = found[-1] if found else 0
        try:
            found.append(int(epoch))
        except (TypeError, ValueError, OverflowError):
            found.append(-1)
        if found[-1] != epoch or found[-1] < before:
            raise ValueError(
                f"epochs must be integers from 0 on that never fall, got {epoch!r} after {before!r}"
            )
    return found


def _train_mode(train: Sequence[float], mode: Mode) -> Mode:
    """The way in which a training curve goes while it is trained on."""
    known = [value for value in train if math.isfinite(value)]
    half = len(known) // 2
    if mode == "min" or not half:
        return "min"
    before, after = statistics.median(known[:half]), statistics.median(known[half:])
    return "max" if is_lower(before, after) else "min"
