"""What is going to be tried, how long that will take, and when to stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.report import BASELINE


@dataclass(frozen=True)
class Limits:
    """When trials stop, with the results so far.

    Attributes:
        max_seconds: None for no limit. No evaluation begins that would probably end after it; the
            one of the baseline is always made.
        max_evaluations: The same of their number, the baseline included.

    Raises:
        ValueError: For what is no positive number.
    """

    max_seconds: float | None = None
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        seconds, count = self.max_seconds, self.max_evaluations
        if seconds is not None and (_no_number(seconds) or not seconds > 0):
            raise ValueError(
                f"max_seconds must be a positive number of seconds or None, got {seconds!r}"
            )
        if count is not None and (_no_number(count) or not count >= 1 or count % 1):
            raise ValueError(
                f"max_evaluations must be 1 or more, the baseline included, or None, got {count!r}"
            )

    def __str__(self) -> str:
        """Those that there are, in words; empty where there is none."""
        found = []
        if self.max_seconds is not None:
            found.append(f"max_seconds={self.max_seconds:g}")
        if self.max_evaluations is not None:
            found.append(f"max_evaluations={self.max_evaluations}")
        return " or ".join(found)

    def reached(self, done: int, elapsed: float, expected: float) -> str:
        """Why no further evaluation begins, or an empty string.

        Args:
            done: Evaluations so far.
            elapsed: Seconds so far.
            expected: Seconds that the next one will take.
        """
        if self.max_evaluations is not None and done >= self.max_evaluations:
            return f"max_evaluations={self.max_evaluations}"
        if self.max_seconds is not None and elapsed + expected > self.max_seconds:
            return f"max_seconds={self.max_seconds:g}"
        return ""


@dataclass(frozen=True)
class Step:
    """One evaluation.

    Attributes:
        compression: None for the model as it is.
        weight: The one that is compressed; None for all.
    """

    compression: Compression | None
    weight: Weight | None = None

    @property
    def name(self) -> str:
        """As its row is called, and the weight."""
        name = self.compression.name if self.compression else BASELINE
        return f"{name} of {self.weight.name}" if self.weight else name


@dataclass(frozen=True)
class Plan:
    """All steps after the baseline.

    Attributes:
        steps: In their order.
        evaluation_seconds: Of the baseline.
        paces: Seconds to compress a value, by the name of the compression; measured on one weight.
        values: Of all weights together.
    """

    steps: tuple[Step, ...]
    evaluation_seconds: float
    paces: Mapping[str, float] = field(default_factory=dict)
    values: int = 0

    def seconds_of(self, step: Step, taken: Sequence[float] | None = None) -> float:
        """That a step will probably take.

        Args:
            step: One of the plan.
            taken: Seconds that compressing took in the steps until then, which correct the
                estimate; it counts for nothing where there are none.
        """
        factor = 1.0
        if taken is not None:
            expected = sum(map(self._compressing, self.steps[: len(taken)]))
            factor = sum(taken) / expected if expected > 0 else 0.0
        return self.evaluation_seconds + factor * self._compressing(step)

    def _compressing(self, step: Step) -> float:
        values = step.weight.parameter.numel() if step.weight else self.values
        return self.paces.get(step.compression.name, 0.0) * values if step.compression else 0.0

    @property
    def seconds(self) -> float:
        """That all will probably take."""
        return sum(map(self.seconds_of, self.steps))


def _no_number(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float)
