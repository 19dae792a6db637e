"""The rules that go with a run: Prechelt's, written out, and the alarm of the running median."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_weightwatch.losses.stopping import RunningMedian, StoppingRules, rise_of

HISTORIES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "short_histories.json").read_text(encoding="utf-8")
)["histories"]


@pytest.mark.parametrize("history", HISTORIES[::10], ids=lambda history: history["id"])
def test_prechelts_criteria_are_his_formulas(history: dict[str, Any]) -> None:
    train, val = np.array(history["train"]), np.array(history["val"])
    rules, up = StoppingRules(), 0
    for t in range(len(val)):
        found = rules.add(train[t], val[t])
        gl = 100 * (val[t] / val[: t + 1].min() - 1)
        assert found.gl == pytest.approx(gl, rel=1e-9, abs=1e-9)
        if t >= 4:
            strip = train[t - 4 : t + 1]
            progress = 1000 * (strip.sum() / (5 * strip.min()) - 1)
            assert found.pq == pytest.approx(gl / progress, rel=1e-6, abs=1e-9)
        else:
            assert math.isnan(found.pq)
        if t % 5 == 4 and t > 4:
            up = up + 1 if val[t] > val[t - 5] else 0
        assert found.up == up


@pytest.mark.parametrize("history", HISTORIES[::10], ids=lambda history: history["id"])
def test_the_alarm_is_its_rule_written_out(history: dict[str, Any]) -> None:
    train, val = np.array(history["train"]), np.array(history["val"])
    rules = StoppingRules()
    medians: list[float] = []
    trained: list[float] = []
    for t in range(len(val)):
        width = min(max(3, math.ceil(math.sqrt(t + 1))), t + 1)
        medians.append(float(np.median(val[t + 1 - width : t + 1])))
        trained.append(float(np.median(train[t + 1 - width : t + 1])))
        best = int(np.argmin(medians))
        rise = medians[-1] / medians[best] - 1 > 0.05
        alarm = rise and t - best >= max(3, width) and trained[-1] < trained[best]
        assert rules.add(train[t], val[t]).alarm == alarm


def test_short_runs_that_are_stopped_by_it_have_seen_their_best_epoch() -> None:
    kept = 0
    for history in HISTORIES:
        rules, val = StoppingRules(), history["val"]
        end = len(val)
        for t, (train, value) in enumerate(zip(history["train"], val, strict=True)):
            if rules.add(train, value).alarm:
                end = t + 1
                break
        kept += min(val[:end]) == min(val)
    assert kept >= 0.94 * len(HISTORIES)


def test_a_metric_to_rise_is_followed_in_its_own_direction() -> None:
    falling, rising = StoppingRules(), StoppingRules(sign=-1)
    for step in range(40):
        value = abs(step - 15) - 100.0
        assert falling.add(-step, value) == rising.add(-step, -value)


def test_an_unknown_training_loss_raises_no_alarm() -> None:
    rules = StoppingRules()
    found = [rules.add(math.nan, value) for value in [1.0, 0.5, 0.4, *[2.0] * 20]]
    assert not any(criteria.alarm for criteria in found)
    assert all(math.isnan(criteria.pq) for criteria in found)


@pytest.mark.parametrize("widest", [1, 3, 40])
def test_the_running_median_is_that_of_the_last_known_values(widest: int) -> None:
    rng = np.random.default_rng(2)
    values = np.round(rng.normal(size=500), 1)  # with ties, and zeros of both signs
    values[rng.random(500) < 0.3] = math.nan
    values[rng.random(500) < 0.05] = math.inf
    values[:3] = math.nan
    median = RunningMedian()
    for t in range(len(values)):
        width = min(widest, 1 + t // 10)
        last = values[max(t + 1 - width, 0) : t + 1].tolist()
        known = [value for value in last if math.isfinite(value)]
        found = median.add(float(values[t]), width)
        assert found == statistics.median(known) if known else math.isnan(found)


def test_a_median_of_the_largest_values_is_finite() -> None:
    median = RunningMedian()
    assert [median.add(value, 2) for value in (1.7e308, 1.7e308, -1.7e308)] == [1.7e308, 1.7e308, 0]


@pytest.mark.parametrize("best", [2.0, 1e-4, 0.0, -0.01, -3.0, -1e308])
def test_a_rise_on_the_way_is_the_rise_of_the_report(best: float) -> None:
    for last in (best, best + 1e-5, 1.0, 1e308):
        rules = StoppingRules()
        rules.add(1.0, 5.0)
        rules.add(0.5, best)
        assert rules.add(0.2, last).gl == 100 * rise_of(last, best)
