"""Learning curves that grow, a validation at a time."""

import math

from lightning_weightwatch.losses.report import LossReport, Mode, sign
from lightning_weightwatch.losses.stopping import Criteria, StoppingRules
from lightning_weightwatch.report import Skipped


class GrowingCurves:
    """Collects a pair of learning curves, and has a report on them at any time.

    Args:
        mode: `"min"` if the metric is to fall, `"max"` if it is to rise.
        train_mode: The same of the training curve.
    """

    def __init__(self, mode: Mode = "min", train_mode: Mode = "min") -> None:
        self._mode: Mode = mode
        self._train_mode: Mode = train_mode
        self._train: list[float] = []
        self._val: list[float] = []
        self._epochs: list[int] = []
        self._trained: list[float] = []
        self._report: LossReport | None = None
        self._rates: dict[str, list[float]] = {}
        self._skipped: list[Skipped] = []
        self._rules = StoppingRules(sign(mode), sign(train_mode))
        self._criteria = Criteria()

    def add(
        self,
        epoch: int,
        train: float,
        value: float,
        rates: dict[str, float] | None = None,
        trained: float = math.nan,
    ) -> None:
        """Take the values of a validation; one that is not finite is named and left out.

        Args:
            epoch: Its epoch, 0-based.
            train: Training loss; NaN where unknown.
            value: The validation metric.
            rates: The learning rates in force by name.
            trained: Epochs trained until then; NaN where unknown.
        """
        self._report = None
        if not math.isfinite(value):
            self._skipped.append(Skipped(f"epoch {epoch}", f"the validation metric is {value}"))
            return
        if not math.isfinite(train):
            self._skipped.append(Skipped(f"training loss of epoch {epoch}", f"it is {train}"))
        for name in {**self._rates, **(rates or {})}:
            known = self._rates.setdefault(name, [math.nan] * len(self._val))
            known.append((rates or {}).get(name, math.nan))
        self._train.append(train)
        self._val.append(value)
        self._epochs.append(epoch)
        self._trained.append(trained)
        self._criteria = self._rules.add(train, value)

    def report(self) -> LossReport:
        """What the curves say so far, the same report until the next validation."""
        if self._report is None:
            self._report = self._drawn()
        return self._report

    def _drawn(self) -> LossReport:
        return LossReport(
            train_losses=tuple(self._train),
            val_values=tuple(self._val),
            epochs=tuple(self._epochs),
            mode=self._mode,
            train_mode=self._train_mode,
            learning_rates={name: tuple(values) for name, values in self._rates.items()},
            trained=() if math.isnan(sum(self._trained)) else tuple(self._trained),
            criteria=self._criteria,
            skipped=tuple(self._skipped),
        )
