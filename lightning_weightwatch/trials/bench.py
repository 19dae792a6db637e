"""What trials are run on: how a model is evaluated, by which processes, for how long."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from lightning_weightwatch.trials.evaluation import Evaluate
from lightning_weightwatch.trials.plan import Limits, Plan

#: Given the metrics of the baseline, the one to compare by (or an empty name), and its mode.
ChooseMonitor = Callable[[Mapping[str, float]], tuple[str, Literal["min", "max"]]]


class Ranks(Protocol):
    """The processes that run the same trials together."""

    def all_agree(self, yes: bool) -> bool:
        """Whether every process says yes."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over them."""
        ...

    def least(self, values: Tensor) -> Tensor:
        """The least of each value of a tensor over them."""
        ...


class OneProcess:
    """No other process."""

    def all_agree(self, yes: bool) -> bool:
        """Its own answer."""
        return yes

    def sum(self, values: Tensor) -> Tensor:
        """Its own values."""
        return values

    def least(self, values: Tensor) -> Tensor:
        """Its own values."""
        return values


class Watcher:
    """Hears how far the trials are; this one does nothing about it."""

    def planned(self, plan: Plan) -> None:
        """All that is going to be tried, when the baseline is known."""

    def begins(self, name: str, done: int, planned: int) -> None:
        """An evaluation begins, after so many others of so many in all."""


@dataclass(frozen=True)
class Bench:
    """What trials are run on.

    Attributes:
        evaluate: Returns the metrics of the model it is given.
        choose_monitor: Which of them to compare by.
        limits: When to stop.
        per_layer: So many of the largest weights are compressed alone as well.
        tolerance: See `TrialReport`.
        ranks: The processes that run them together.
        watcher: Hears how far they are.
    """

    evaluate: Evaluate
    choose_monitor: ChooseMonitor
    limits: Limits = field(default_factory=Limits)
    per_layer: int = 0
    tolerance: float = 0.01
    ranks: Ranks = field(default_factory=OneProcess)
    watcher: Watcher = field(default_factory=Watcher)
