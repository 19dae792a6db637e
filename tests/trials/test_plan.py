"""How long a plan will take, and when it ends early."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from torch import nn

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.bench import Bench
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.plan import Limits, Plan, Step
from lightning_weightwatch.trials.trial import run_trials


@dataclass(frozen=True)
class Noting:
    """A compression that notes which weights it is given, and changes nothing."""

    name: str = "noting"
    given: list[list[str]] = field(default_factory=list, compare=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"bits": 8}

    def apply(self, weights: Sequence[Weight]) -> Iterator[CompressedLayer]:
        self.given.append([weight.name for weight in weights])
        for weight in weights:
            shape = tuple(weight.parameter.shape)
            yield CompressedLayer(weight.name, weight.kind, shape, 4, 1, 1.0, 0.1, 1)

    def left_out(self, weights: Sequence[Weight]) -> Sequence[Skipped]:
        return ()


def sampled(*shapes: tuple[int, int]) -> list[str]:
    """The weight on which the time of compressing is measured."""
    model = nn.Sequential(*(nn.Linear(*shape, bias=False) for shape in shapes))
    noting = Noting()
    bench = Bench(lambda _: {"loss": 1.0}, lambda _: ("loss", "min"))
    run_trials(model, bench, lambda _: [noting])
    measured = [names for names in noting.given if len(names) < len(shapes)]
    return measured[0] if measured else []


def test_time_is_measured_on_a_weight_that_is_neither_tiny_nor_huge() -> None:
    assert sampled((1024, 1024), (1024, 1)) == ["0.weight"]
    assert sampled((600, 600), (1500, 1500), (4, 2)) == ["0.weight"]
    assert sampled((2100, 2100), (2200, 2200)) == [], "a second to know what it takes"


def test_a_plan_takes_the_evaluation_and_the_compression_of_every_step() -> None:
    first, second = Noting("first"), Noting("second")
    plan = Plan((Step(first), Step(second)), 2.0, {"first": 1e-6, "second": 3e-6}, 1_000_000)
    assert plan.seconds_of(Step(first)) == pytest.approx(3.0)
    assert plan.seconds == pytest.approx(3.0 + 5.0)


def test_what_the_steps_really_took_corrects_the_estimate() -> None:
    noting = Noting()
    plan = Plan((Step(noting),) * 3, 2.0, {"noting": 1e-6}, 1_000_000)
    assert plan.seconds_of(Step(noting), []) == 2.0, "no estimate alone stops the first"
    assert plan.seconds_of(Step(noting), [0.1]) == pytest.approx(2.1)
    assert plan.seconds_of(Step(noting), [4.0, 6.0]) == pytest.approx(7.0)


def test_limits_say_what_they_stop_at() -> None:
    assert Limits().reached(10**6, 1e9, 1e9) == ""
    limits = Limits(max_seconds=10, max_evaluations=5)
    assert limits.reached(4, 7.0, 3.0) == ""
    assert limits.reached(5, 0.0, 0.0) == "max_evaluations=5"
    assert limits.reached(1, 7.0, 3.1) == "max_seconds=10"


@pytest.mark.parametrize("value", [0, -1, math.nan, True, "ten"])
def test_limits_are_positive_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="max_seconds must be a positive number"):
        Limits(max_seconds=value)
    with pytest.raises(ValueError, match="max_evaluations must be 1 or more"):
        Limits(max_evaluations=value)


@pytest.mark.parametrize("value", [1.5, math.inf])
def test_evaluations_are_counted_in_whole_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="max_evaluations must be 1 or more"):
        Limits(max_evaluations=value)
