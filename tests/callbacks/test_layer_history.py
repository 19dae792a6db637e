"""A bounded memory of every layer: the first and the last column are always there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_weightwatch.callbacks.layer_history import MOST_COLUMNS, LayerHistory


def filled(measurements: int) -> LayerHistory:
    history = LayerHistory()
    for epoch in range(measurements):
        history.add(epoch, {"a": float(epoch), "b": -float(epoch)}, {"a"} if epoch % 3 else {"b"})
    return history


@pytest.mark.parametrize("measurements", [1, 2, 63, 64, 65, 66, 129, 1000])
def test_the_columns_stand_evenly_from_the_first_to_the_last(measurements: int) -> None:
    history = filled(measurements)
    epochs = history.epochs
    assert epochs[0] == 0
    assert epochs[-1] == measurements - 1
    assert len(epochs) <= MOST_COLUMNS
    assert len(epochs) >= min(measurements, MOST_COLUMNS // 2)
    assert len(set(np.diff(epochs[:-1]))) <= 1
    np.testing.assert_array_equal(history.values(), [epochs, [-epoch for epoch in epochs]])
    trusted = [[epoch % 3 > 0 for epoch in epochs], [epoch % 3 == 0 for epoch in epochs]]
    np.testing.assert_array_equal(history.trusted(), trusted)


def test_a_layer_that_comes_late_or_drops_out_has_gaps() -> None:
    history = LayerHistory()
    history.add(0, {"a": 1.0}, {"a"})
    history.add(1, {"a": 2.0, "b": 3.0}, {"a", "b"})
    history.add(2, {"b": 4.0}, {"b"})
    assert history.names == ["a", "b"]
    assert history.first() == {"a": 1.0}
    np.testing.assert_array_equal(history.values(), [[1, 2, math.nan], [math.nan, 3, 4]])


def test_nothing_measured_is_an_empty_table() -> None:
    assert LayerHistory().values().shape == (0, 0)
    assert LayerHistory().first() == {}


@pytest.mark.parametrize("measurements", [1, 64, 65, 100])
def test_it_goes_on_from_a_checkpoint(measurements: int, tmp_path: object) -> None:
    whole, part, resumed = filled(200), filled(measurements), LayerHistory()
    resumed.restore(part.state())
    for epoch in range(measurements, 200):
        values = {"a": float(epoch), "b": -float(epoch)}
        resumed.add(epoch, values, {"a"} if epoch % 3 else {"b"})
    assert resumed.epochs == whole.epochs
    np.testing.assert_array_equal(resumed.values(), whole.values())
    np.testing.assert_array_equal(resumed.trusted(), whole.trusted())


def test_its_state_is_bounded_and_loads_without_running_code(tmp_path: object) -> None:
    path = f"{tmp_path}/state.pt"
    torch.save(filled(1000).state(), path)
    state = torch.load(path, weights_only=True)
    assert state["values"].shape[1] <= MOST_COLUMNS
