"""What is measured together gives the numbers that each weight has alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.model.effective import effective_weights
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral import measurement
from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.eigenvalues import NotFinite, eigenvalues_on_device
from lightning_weightwatch.spectral.measurement import Planned, Settings, batches, measure
from lightning_weightwatch.spectral.selection import select
from lightning_weightwatch.spectral.workers import run_one

CPU, GPU = Settings(), Settings(device=torch.device("cuda"))


def planned(model: nn.Module) -> list[Planned]:
    return list(select(effective_weights(model), min_evals=1).weights)


def names(batch: list[Planned]) -> list[str]:
    return [part.name for _, parts in batch for part in parts]


def linears(*shapes: tuple[int, int]) -> nn.Module:
    return nn.Sequential(*(nn.Linear(*shape, bias=False) for shape in shapes))


def mixed() -> nn.Module:
    return nn.Sequential(
        linears((16, 12), (12, 16), (30, 8)),
        nn.Conv2d(12, 16, 3),
        nn.MultiheadAttention(16, 2),
        nn.LSTM(16, 12),
        nn.Linear(70, 60),
    )


def sizes_of(batch: list[Planned]) -> set[tuple[int, int]]:
    return {(part.N, part.M) for _, parts in batch for part in parts}


@pytest.mark.parametrize("settings", [CPU, GPU], ids=["cpu", "gpu"])
def test_every_weight_is_in_one_batch_in_order_and_a_batch_has_one_size(settings: Settings) -> None:
    plans = planned(mixed())
    found = list(batches(plans, settings))
    assert [item for batch in found for item in batch] == plans
    assert all(len(sizes_of(batch)) == 1 for batch in found)


def test_neighbours_of_one_size_are_together_on_a_gpu() -> None:
    model = linears((16, 12), (12, 16), (16, 12), (16, 11), (16, 12), (30, 8), (30, 8))
    found = [names(batch) for batch in batches(planned(model), GPU)]
    assert found == [["0", "1", "2"], ["3"], ["4"], ["5", "6"]]


def test_a_batch_on_a_gpu_keeps_within_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(linears(*[(16, 12)] * 5), nn.Conv2d(12, 16, 2), linears((16, 12)))
    monkeypatch.setattr(measurement, "_BATCH_BYTES", 2 * 8 * 12**2)
    found = [names(batch) for batch in batches(planned(model), GPU)]
    assert found == [["0.0", "0.1"], ["0.2", "0.3"], ["0.4"], ["1"], ["2.0"]]


def test_no_weights_are_no_batches() -> None:
    assert list(batches([], CPU)) == list(batches([], GPU)) == []
    assert run_one(measure([], CPU)) == []


@pytest.mark.parametrize(
    "how",
    [{}, {"mp_fit": True, "randomize": True}, {"pool": False}, {"dtype": torch.float32}],
    ids=str,
)
def test_a_weight_in_a_batch_has_the_numbers_that_it_has_alone(how: dict[str, Any]) -> None:
    settings, plans = Settings(**how), planned(mixed())
    alone = [run_one(measure([plan], settings))[0] for plan in plans]
    together = [
        rows for batch in batches(plans, settings) for rows in run_one(measure(batch, settings))
    ]
    assert repr(together) == repr(alone)


def test_rows_come_in_the_order_of_the_model_and_not_of_their_cost() -> None:
    model = linears((8, 9), (90, 80), (20, 30), (90, 80), (8, 9))
    assert [row.name for row in analyze(model).layers] == ["0", "1", "2", "3", "4"]


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    analyze(mixed(), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    assert len(seen) > 1
    analyze(nn.ReLU(), progress=seen.append)


def not_finite(weight: Tensor) -> None:
    weight[3, 4] = float("nan")


def too_large(weight: Tensor) -> None:
    weight.fill_(1e200)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (not_finite, "1 of 192 values are NaN or infinite"),
        (too_large, "failed: the squares of its values exceed the range of float64"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"randomize": True, "mp_fit": True}, {"pool": False}], ids=str)
def test_a_weight_that_fails_is_named_and_its_neighbours_are_measured(
    spoil: Callable[[Tensor], None], reason: str, how: dict[str, Any]
) -> None:
    model = linears(*[(16, 12)] * 4).double()
    whole = analyze(model, **how)
    spoil(model.get_parameter("2.weight").data)
    report = analyze(model, **how)
    assert report.skipped == (Skipped("2", reason),)
    assert repr(report.layers) == repr((*whole.layers[:2], whole.layers[3]))


@pytest.mark.parametrize("step", ["array_of", "shuffled", "layer_spectrum", "compare"])
def test_whatever_breaks_a_measurement_is_a_reason_and_not_the_end(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any, **how: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr(measurement, step, breaks)
    report = analyze(linears((16, 12), (16, 13)), randomize=True)
    assert report.layers == ()
    assert report.skipped == (Skipped("0", "failed: no memory"), Skipped("1", "failed: no memory"))


def test_parts_of_a_weight_that_is_not_finite_are_judged_by_themselves() -> None:
    model = nn.MultiheadAttention(16, 2)
    with torch.no_grad():
        model.in_proj_weight[20, 3] = torch.inf  # a row of k
    report = analyze(model)
    assert [row.name for row in report.layers] == [
        "in_proj_weight.q",
        "in_proj_weight.v",
        "out_proj",
    ]
    reason = "1 of 256 values are NaN or infinite"
    assert Skipped("in_proj_weight.k", reason) in report.skipped


def test_stacks_in_one_batch_on_a_device_are_those_of_the_cpu() -> None:
    # What a GPU is given, on the CPU: matrices of one size, upright or not, in one batch.
    model = linears((16, 12), (12, 16), (16, 12)).double()
    stacks = [weight.detach()[None] for weight in model.parameters()]
    for values, row in zip(eigenvalues_on_device(stacks), analyze(model).layers, strict=True):
        assert row.norm == pytest.approx(values.sum(), rel=1e-12)
        assert row.sv_min == pytest.approx(np.sqrt(values.min()), rel=1e-9)
    with pytest.raises(NotFinite):
        eigenvalues_on_device([*stacks, torch.full((1, 16, 12), torch.nan).double()])


def test_a_stack_of_matrices_is_a_row_each_without_pooling() -> None:
    model = nn.Bilinear(10, 12, 3, bias=False).double()
    rows = analyze(model, pool=False).layers
    for position, row in enumerate(rows):
        squares = np.linalg.svd(model.weight.detach().numpy()[position], compute_uv=False) ** 2
        assert (row.slice_id, row.rf, row.num_evals) == (position, 3, 10)
        assert row.norm == pytest.approx(squares.sum(), rel=1e-12)
    (pooled,) = analyze(model).layers
    assert pooled.norm == pytest.approx(sum(row.norm for row in rows), rel=1e-12)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_no_thread_count_changes_a_number(threads: int) -> None:
    model = mixed()
    alone = analyze(model, min_evals=1, mp_fit=True, randomize=True)
    torch.set_num_threads(threads)
    try:
        together = analyze(model, min_evals=1, mp_fit=True, randomize=True)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert repr(together) == repr(alone)
    assert alone.skipped == ()
