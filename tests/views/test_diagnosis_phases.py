"""What is said of a phase holds for all of its values, not only for its ends."""

import math
import re

import numpy as np
import pytest

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.diagnosis_phases import seen
from tests.views.diagnosis_curves import NAN

DESCENT = [1 / (1 + i / 5) for i in range(200)]


def said_of(report: LossReport, name: str) -> str:
    (phase,) = (phase for phase in report.phases if phase.name == name)
    return seen(report, phase, "val_loss")


def with_a_hump(height: float, noise: float = 0.0) -> list[float]:
    """A double descent: worse around the 61st epoch."""
    chance = np.random.default_rng(0).standard_normal(200)
    hump = [height * math.exp(-(((i - 60) / 20) ** 2)) for i in range(200)]
    return [sum(parts) for parts in zip(DESCENT, hump, (noise * chance).tolist(), strict=True)]


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_a_hump_between_the_ends_of_a_phase_is_told_with_its_epochs(noise: float) -> None:
    val = with_a_hump(0.5, noise)
    said = said_of(diagnose(DESCENT, val), "slower")
    found = re.search(r", with a hump from (\S+) in epoch (\d+) to (\S+) in epoch (\d+)\.$", said)
    assert found is not None
    top = max(range(40, 80), key=lambda i: val[i])
    low = min(range(top), key=lambda i: val[i])
    assert found.groups() == (f"{val[low]:.4g}", f"{low + 1}", f"{val[top]:.4g}", f"{top + 1}")


def test_of_a_metric_to_rise_it_is_a_dip() -> None:
    val = [1 - value for value in with_a_hump(0.5)]
    report = diagnose(DESCENT, val, mode="max", train_mode="min")
    said = " ".join(seen(report, phase, "val_acc") for phase in report.phases)
    assert re.search(r"with a dip from 0\.8\d* in epoch 2\d to 0\.4\d* in epoch 61\.", said)


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.01, 0.05])
def test_neither_a_descent_nor_its_noise_is_a_hump(noise: float) -> None:
    report = diagnose(DESCENT, with_a_hump(0.0, noise))
    for phase in report.phases:
        assert "hump" not in seen(report, phase, "val_loss")


def test_a_rise_of_four_percent_is_no_hump_yet() -> None:
    said = [
        said_of(diagnose([0.5] * 6, [2.0, 1.0, 1.0 + rise, 0.9, 0.8, 0.7]), "steady")
        for rise in (0.04, 0.041)
    ]
    assert said[0].endswith("val_loss falls from 2 to 0.7.")
    assert said[1].endswith("to 0.7, with a hump from 1 in epoch 2 to 1.041 in epoch 3.")


def test_a_phase_that_ends_above_its_lowest_value_says_so() -> None:
    report = diagnose([1, 0.8, 0.6, 0.5, 0.4, 0.3], [1, 0.5, 0.8, 0.5, 0.45, 0.4])
    assert said_of(report, "rapid").endswith("val_loss falls from 1 to 0.8, after 0.5 in epoch 2.")


@pytest.mark.parametrize("spike", [0.6, 5.0])
def test_a_plateau_with_a_spike_stays_nowhere(spike: float) -> None:
    val = [1.0, 0.8, 0.6, *[0.5] * 6, spike, *[0.5] * 6, 0.499]
    said = said_of(diagnose([1 - i / 40 for i in range(17)], val), "plateau")
    assert "stays" not in said.split("; ")[1]
    assert f"with a hump from 0.5 in epoch 4 to {spike:.4g} in epoch 10" in said


@pytest.mark.parametrize("noise", [0.0, 1e-4, 3e-3, 0.02])
def test_a_plateau_stays_between_the_least_and_the_most_of_its_values(noise: float) -> None:
    chance = np.random.default_rng(1).standard_normal(60)
    val = [0.5 + math.exp(-i) + noise * chance[i] for i in range(60)]
    report = diagnose([1 - i / 80 for i in range(60)], val)
    (phase,) = (phase for phase in report.phases if phase.name == "plateau")
    within = report.val_values[phase.first : phase.last + 1]
    said = seen(report, phase, "val_loss")
    assert f"val_loss stays between {min(within):.4g} and {max(within):.4g}." in said


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (0.5, "the training loss stays at 0.5"),
        (0.7, "the training loss begins and ends at 0.5"),
        (NAN, "the training loss stays at 0.5"),
    ],
)
def test_only_what_never_changes_stays(between: float, said: str) -> None:
    report = diagnose([0.5, between, 0.5, 0.5], [4.0, 3.0, 2.0, 1.0])
    assert f": {said}; " in said_of(report, "steady")
