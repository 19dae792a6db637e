"""The learning curves of a fit, which a resumed one carries on with."""

from typing import Any

from lightning_weightwatch.losses.growing import GrowingCurves
from lightning_weightwatch.losses.report import LossReport, Mode


class FitCurves:
    """Every validation of a fit, in the one direction that is right for its metric."""

    def __init__(self) -> None:
        self.mode: Mode = "min"
        self._points: list[tuple[int, float, float, dict[str, float], float]] = []
        self._curves = GrowingCurves()

    def __len__(self) -> int:
        return len(self._points)

    def add(
        self,
        mode: Mode,
        epoch: int,
        train: float,
        value: float,
        rates: dict[str, float],
        trained: float,
    ) -> None:
        """Take the values of a validation.

        Args:
            mode: `"min"` if the metric is to fall, `"max"` if it is to rise.
            epoch: Its epoch, 0-based.
            train: Training loss; NaN where unknown.
            value: The validation metric.
            rates: The learning rates in force by name.
            trained: Epochs trained until then; NaN where unknown.
        """
        if mode != self.mode:
            self._draw_anew(mode)
        self._points.append((epoch, train, value, rates, trained))
        self._curves.add(*self._points[-1])

    def report(self) -> LossReport:
        """What they say so far."""
        return self._curves.report()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"mode": self.mode, "points": [list(point) for point in self._points]}

    def restore(self, state: dict[str, Any]) -> None:
        """Carry on with a state."""
        self._points = [
            (int(epoch), float(train), float(value), dict(rates), float(trained))
            for epoch, train, value, rates, trained in state["points"]
        ]
        self._draw_anew(state["mode"])

    def _draw_anew(self, mode: Mode) -> None:
        self.mode, self._curves = mode, GrowingCurves(mode)
        for point in self._points:
            self._curves.add(*point)
