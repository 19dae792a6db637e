"""What is shown of a fit fits what TensorBoard keeps: all of a short one, the ends of every one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_weightwatch.callbacks.schedule import Schedule

LIMITS = st.integers(2, 60)


def shown(limit: int, measurements: int, *, of: int | None) -> list[int]:
    """The measurements that are due, and the last one where it is behind, as a callback asks."""
    schedule = Schedule(limit)
    found = [
        index
        for index in range(measurements)
        if schedule.due(None if of is None else (index + 1) / of)
    ]
    return [*found, measurements - 1] if schedule.last() else found


@given(LIMITS, st.integers(1, 3000), st.booleans())
def test_no_fit_shows_more_than_the_limit_and_every_one_its_first_and_last(
    limit: int, measurements: int, known: bool
) -> None:
    found = shown(limit, measurements, of=measurements if known else None)
    assert found[0] == 0
    assert found[-1] == measurements - 1
    assert found == sorted(set(found))
    assert len(found) <= limit


@given(LIMITS, st.data())
def test_all_of_a_short_fit_are_shown(limit: int, data: st.DataObject) -> None:
    measurements = data.draw(st.integers(1, limit))
    assert shown(limit, measurements, of=measurements) == list(range(measurements))


@given(LIMITS, st.integers(1, 2000), st.data())
def test_a_fit_that_is_stopped_early_shows_its_last_too(
    limit: int, expected: int, data: st.DataObject
) -> None:
    done = data.draw(st.integers(1, expected))
    found = shown(limit, done, of=expected)
    assert found[-1] == done - 1
    assert len(found) <= limit


@pytest.mark.parametrize(("limit", "measurements"), [(10, 30), (10, 1000), (51, 100), (51, 5000)])
def test_a_long_fit_uses_what_it_may_and_looks_closer_at_its_beginning(
    limit: int, measurements: int
) -> None:
    found = shown(limit, measurements, of=measurements)
    assert len(found) == limit
    gaps = [right - left for left, right in itertools.pairwise(found)]
    assert gaps[0] < gaps[len(gaps) // 2] < gaps[-2]


@pytest.mark.parametrize("stop", [20, 50, 100])
def test_a_run_of_1000_epochs_that_ends_early_was_still_seen_closely(stop: int) -> None:
    assert len(shown(51, stop, of=1000)) >= min(stop // 2, 14)


def test_a_fit_without_an_end_is_shown_ever_more_seldom() -> None:
    found = shown(51, 100_000, of=None)
    assert 30 < len(found) <= 51
    assert found[-1] == 99_999


@given(st.integers(1, 200), st.data())
def test_a_resumed_schedule_goes_on_as_if_nothing_had_been(total: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, total))
    whole, first, second = Schedule(10), Schedule(10), Schedule(10)
    expected = [whole.due((index + 1) / total) for index in range(total)]
    found = [first.due((index + 1) / total) for index in range(cut)]
    second.restore(first.state())
    found += [second.due((index + 1) / total) for index in range(cut, total)]
    assert found == expected
    assert second.last() == whole.last()


def test_a_fit_that_goes_on_beyond_its_end_begins_anew() -> None:
    schedule = Schedule(10)
    first = [epoch for epoch in range(30) if schedule.due((epoch + 1) / 30)]
    resumed = Schedule(10)
    resumed.restore(schedule.state())
    second = [epoch for epoch in range(30, 60) if resumed.due((epoch + 1) / 60)]
    assert len(first) == 10
    assert second[0] == 30
    assert second[-1] == 59
    assert 5 <= len(second) <= 10


def test_what_is_not_affordable_is_made_up_for_later() -> None:
    schedule = Schedule(10)
    shown = [e for e in range(30) if schedule.due((e + 1) / 30, affordable=not 2 < e < 20)]
    assert shown[-1] == 29
    assert 20 in shown
    assert not [epoch for epoch in shown if 2 < epoch < 20]
