"""A model's weights in one report: every parameter once, the total, and what has no values."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.values import blocks, measurement
from lightning_weightwatch.weights.description import describe_gradients, describe_weights


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LSTM(8, 4), nn.Linear(4, 2, dtype=torch.float64)
    )


def flat(model: nn.Module) -> NDArray[np.float64]:
    """Every value of every parameter."""
    return np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])


def test_every_parameter_has_its_own_statistics() -> None:
    model = net()
    report = describe_weights(model)
    expected = dict(model.named_parameters())
    assert [found.name for found in report.parameters] == list(expected)
    for found in report.parameters:
        values = expected[found.name].detach().double().numpy()
        assert found.shape == values.shape
        assert found.moments.mean == pytest.approx(float(values.mean()), abs=1e-15)
        assert found.moments.std == pytest.approx(float(values.std()), rel=1e-12)
        assert found.histogram is not None
        counts, _ = np.histogram(values, bins=np.array(found.histogram.edges))
        assert list(found.histogram.counts) == counts.tolist()
        assert (found.histogram.edges[0] <= values).all()
        assert (values <= found.histogram.edges[-1]).all()
    kinds = [found.kind for found in report.parameters]
    assert kinds == [
        "conv2d",
        "bias",
        "norm",
        "bias",
        "rnn",
        "rnn",
        "bias",
        "bias",
        "linear",
        "bias",
    ]


@pytest.mark.parametrize("block", [1 << 22, 10])
def test_the_total_is_that_of_all_values_together(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(measurement, "FEW", 0)
    monkeypatch.setattr(blocks, "BLOCK", block)
    model = net()
    report, values = describe_weights(model), flat(model)
    assert report.total.count == values.size
    assert report.total.mean == pytest.approx(float(values.mean()), rel=1e-12)
    assert report.total.std == pytest.approx(float(values.std()), rel=1e-12)
    assert report.total.norm == pytest.approx(float(np.linalg.norm(values)), rel=1e-12)
    assert report.total.zeros == np.count_nonzero(values == 0)
    assert report.histogram is not None
    counts, _ = np.histogram(values, bins=np.array(report.histogram.edges))
    assert list(report.histogram.counts) == counts.tolist()
    assert sum(report.histogram.counts) == values.size
    assert report.summary() == pytest.approx(
        {
            "weight_norm": float(np.linalg.norm(values)),
            "weight_std": float(values.std()),
            "nonfinite": 0.0,
        },
        rel=1e-12,
    )


def test_a_tied_parameter_counts_once() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    report = describe_weights(model)
    assert report.total.count == 15
    assert report.skipped == (Skipped("head.weight", "tied to embed.weight"),)


def test_nans_are_counted_and_left_out_of_the_rest() -> None:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[0, 0], model.weight[1, 1] = math.nan, math.inf
    report = describe_weights(model)
    values = flat(model)
    values = values[np.isfinite(values)]
    assert report.summary()["nonfinite"] == 2.0
    assert report.summary()["weight_norm"] == pytest.approx(float(np.linalg.norm(values)))
    row = report.records()[0]
    assert (row["count"], row["nonfinite"]) == (12, 2)
    assert report.parameters[0].histogram is not None
    assert sum(report.parameters[0].histogram.counts) == 10


def test_a_model_of_nans_has_no_histogram_and_no_invented_number() -> None:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    report = describe_weights(model)
    assert report.histogram is None
    assert [found.histogram for found in report.parameters] == [None, None]
    assert report.summary() == {"nonfinite": 15.0}


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: nn.LazyLinear(3), ["1.weight", "1.bias"]),
        (lambda: nn.Linear(2, 2, device="meta"), ["1.weight", "1.bias"]),
        (
            lambda: nn.ParameterList(
                [nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)]
            ),
            ["1.0"],
        ),
        (lambda: nn.ParameterList([torch.zeros(0, 3)]), ["1.0"]),
    ],
    ids=["lazy", "meta", "integer", "empty"],
)
def test_what_has_no_values_is_named_and_the_rest_described(
    make: Callable[[], nn.Module], names: list[str]
) -> None:
    model = nn.Sequential(nn.Linear(3, 2), make())
    report = describe_weights(model)
    assert [found.name for found in report.parameters] == ["0.weight", "0.bias"]
    assert [skip.name for skip in report.skipped] == names
    assert all(skip.reason for skip in report.skipped)
    assert report.total.count == 8


def test_a_model_without_weights_has_an_empty_report() -> None:
    report = describe_weights(nn.CrossEntropyLoss())
    assert (report.parameters, report.skipped, report.records()) == ((), (), [])
    assert report.histogram is None
    assert report.summary() == {}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["*.weight"], ["0.weight", "1.weight"]),
        (["0.*"], ["0.weight", "0.bias"]),
        (["1.bias"], ["1.bias"]),
        (["nothing"], []),
    ],
)
def test_parameters_are_chosen_by_name_or_pattern(names: list[str], expected: list[str]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    report = describe_weights(model, names=names)
    assert [found.name for found in report.parameters] == expected
    assert report.total.count == sum(model.get_parameter(name).numel() for name in expected)


def test_rows_are_plain_python() -> None:
    rows = describe_weights(net()).records()
    assert {type(value) for row in rows for value in row.values()} == {str, int, float}
    assert rows[0]["shape"] == "8x3x3x3"
    assert rows[0]["count"] == 216


class HalfOfIt(Tensor):
    """A tensor that holds one of two equal shards, as a DTensor would."""

    def full_tensor(self) -> Tensor:
        part = self.as_subclass(Tensor)
        return torch.cat([part, part])


def test_sharded_parameters_are_described_whole() -> None:
    part = torch.arange(6.0).view(2, 3)
    model = nn.ParameterList([nn.Parameter(part.as_subclass(HalfOfIt))])
    (found,) = describe_weights(model).parameters
    assert found.shape == (4, 3)
    assert found.moments.count == 12
    assert found.moments.total == 2 * float(part.sum())


def test_the_model_and_the_generator_are_left_as_they_were() -> None:
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    describe_weights(model)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def tree() -> nn.Module:
    """Modules in modules, with weights of very different sizes."""
    torch.manual_seed(0)
    block = nn.ModuleDict({"conv": nn.Conv1d(40, 60, 3), "norm": nn.BatchNorm1d(60)})
    return nn.ModuleDict({"encoder": nn.ModuleList([block]), "head": nn.Linear(60, 100)})


def test_every_module_and_kind_has_the_statistics_of_all_that_is_below_it() -> None:
    model = tree()
    report = describe_weights(model)
    assert [row["name"] for row in report.records_by_module()] == [
        "encoder", "encoder.0", "encoder.0.conv", "encoder.0.norm", "head",
    ]  # fmt: skip
    for row in report.records_by_module():
        below = model.get_submodule(row["name"])
        assert row["parameters"] == len(list(below.parameters()))
        assert_row_describes(row, flat(below))
    assert [row["name"] for row in report.records_by_kind()] == ["conv1d", "bias", "norm", "linear"]
    for row in report.records_by_kind():
        of_it = [found.name for found in report.parameters if found.kind == row["name"]]
        values = [model.get_parameter(name).detach().double().numpy().ravel() for name in of_it]
        assert_row_describes(row, np.concatenate(values))
    assert_row_describes(report.model_record(), flat(model))
    assert [found.layer for found in report.parameters[:2]] == ["encoder.0.conv"] * 2


def assert_row_describes(row: dict[str, Any], values: NDArray[np.float64]) -> None:
    mad = np.median(np.abs(values - np.median(values)))
    assert row["count"] == values.size
    assert row["mean"] == pytest.approx(float(values.mean()), rel=1e-10, abs=1e-15)
    assert row["std"] == pytest.approx(float(values.std()), rel=1e-10)
    assert (row["min"], row["max"]) == (values.min(), values.max())
    assert abs(row["mad"] - mad) <= row["mad_error"] + 1e-15
    assert row["norm"] == pytest.approx(float(np.linalg.norm(values)), rel=1e-12)
    assert row["zero_share"] == np.count_nonzero(values == 0) / values.size
    if values.std():
        expected = float(stats.kurtosis(values, fisher=False))
        assert row["kurtosis"] == pytest.approx(expected, rel=1e-8)


def test_parameters_of_the_model_itself_belong_to_no_module_below_it() -> None:
    report = describe_weights(nn.Linear(3, 2))
    assert report.records_by_module() == []
    assert report.model_record()["count"] == 8
    assert [found.layer for found in report.parameters] == ["Linear", "Linear"]


def test_rows_of_groups_are_plain_python() -> None:
    report = describe_weights(tree())
    rows = [*report.records_by_kind(), *report.records_by_module(), report.model_record()]
    assert {type(value) for row in rows for value in row.values()} == {str, int, float}


def test_a_group_of_nothing_but_nans_claims_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.fill_(math.nan)
    row = describe_weights(model).records_by_module()[0]
    assert (row["count"], row["nonfinite"], row["outliers"]) == (8, 8, 0)
    assert all(math.isnan(row[key]) for key in ("mean", "median", "mad", "mad_error", "kurtosis"))


def test_gradients_are_described_and_parameters_without_one_are_named() -> None:
    used, frozen = nn.Linear(6, 4), nn.Linear(4, 2).requires_grad_(False)
    embedding = nn.Embedding(5, 3, sparse=True)
    model = nn.Sequential(used, frozen, embedding)
    loss: Tensor = frozen(used(torch.ones(3, 6))).square().sum()
    rows: Tensor = embedding(torch.tensor([1, 2]))
    torch.autograd.backward(loss + rows.sum())
    report = describe_gradients(model)
    assert [found.name for found in report.parameters] == ["0.weight", "0.bias"]
    grad = model.get_parameter("0.weight").grad
    assert grad is not None
    assert report.parameters[0].moments.norm == pytest.approx(float(grad.double().norm()))
    assert report.skipped == (
        Skipped("1.weight", "no gradient"),
        Skipped("1.bias", "no gradient"),
        Skipped("2.weight", "sparse (torch.sparse_coo)"),
    )


def test_a_model_that_was_never_trained_has_no_gradients() -> None:
    report = describe_gradients(nn.Linear(3, 2))
    assert report.summary() == {}
    assert len(report.skipped) == 2


def large(*, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A tensor of several stretches and blocks, and small ones."""
    generator = torch.Generator().manual_seed(0)
    sizes = (1_500_001, 700, 40_000, 9_000)
    return nn.ParameterList(
        [nn.Parameter(torch.randn(size, generator=generator).pow(3).to(dtype)) for size in sizes]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_number_of_threads_changes_not_one_bit(dtype: torch.dtype) -> None:
    model, before = large(dtype=dtype), torch.get_num_threads()
    reports = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            reports.append(describe_weights(model))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert reports[0] == reports[1] == reports[2]
    assert reports[0].model == reports[1].model == reports[2].model


def test_deterministic_mode_and_inference_tensors_are_no_hindrance() -> None:
    expected = describe_weights(large())
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode():
            model = large()
            inside = describe_weights(model)
    finally:
        torch.use_deterministic_algorithms(False)
    assert inside == expected == describe_weights(model)


def test_expanded_and_transposed_weights_are_read_as_they_stand() -> None:
    shown = torch.randn(3, 700).expand(200, 3, 700).permute(2, 0, 1)
    whole = nn.Parameter(shown.detach(), requires_grad=False)
    assert not whole.is_contiguous()
    (found,) = describe_weights(nn.ParameterList([whole])).parameters
    values = shown.double().numpy()
    assert found.shape == (700, 200, 3)
    assert found.moments.count == values.size
    assert found.moments.std == pytest.approx(float(values.std()), rel=1e-12)
    assert found.histogram is not None
    counts, _ = np.histogram(values, bins=np.array(found.histogram.edges))
    assert list(found.histogram.counts) == counts.tolist()


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode_changes_nothing_and_leaves_nothing_behind(first: bool) -> None:
    def norms() -> list[float]:
        with ThreadPoolExecutor(1) as fresh:  # a thread without memory of its own yet
            return [fresh.submit(described, mode).result() for mode in (first, not first)]

    def described(inference: bool) -> float:
        with torch.inference_mode(inference):
            return describe_weights(large()).total.norm

    one, other = norms()
    assert one == other > 0
