"""A trial's rows are what the user's own evaluation says of the compressed weights."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.pruning import Pruning
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.snapshot import digest
from lightning_weightwatch.trials.trial import (
    Compression,
    Evaluate,
    TrialReport,
    TrialRow,
    run_trials,
)

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Dropout(), nn.Linear(20, 3)
    )


def evaluate(model: nn.Module) -> dict[str, float]:
    """The model's own error against a fixed target, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        output = model(INPUTS)
    return {"loss": float((output - INPUTS[:, :3]).square().mean()), "peak": float(output.max())}


def choose_loss(metrics: Mapping[str, float]) -> tuple[str, Literal["min", "max"]]:
    return "loss", "min"


def tried(
    model: nn.Module,
    compressions: Sequence[Compression],
    evaluation: Evaluate = evaluate,
) -> TrialReport:
    return run_trials(model, evaluation, compressions, choose_monitor=choose_loss)


def quantized_by_torch(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose matrices went through torch's own operator."""
    top = 2 ** (bits - 1) - 1
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.detach()
            scale = weight.abs().amax(1) / top
            zeros = torch.zeros(len(scale), dtype=torch.int32)
            module.weight.data = torch.fake_quantize_per_channel_affine(
                weight, scale, zeros, 0, -top, top
            )
    return other


def pruned_by_torch(model: nn.Module, amount: float) -> nn.Module:
    """A copy pruned by torch.nn.utils.prune."""
    other = copy.deepcopy(model)
    places: list[Any] = [(m, "weight") for m in other.modules() if isinstance(m, nn.Linear)]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=amount)
    return other


def test_each_row_is_the_evaluation_of_the_compressed_model() -> None:
    model = net()
    report = tried(model, [Quantization(3), Pruning(0.6), Quantization(8), Pruning(0.2)])
    expected = [
        ("baseline", copy.deepcopy(model)),
        ("int3", quantized_by_torch(model, 3)),
        ("pruned60", pruned_by_torch(model, 0.6)),
        ("int8", quantized_by_torch(model, 8)),
        ("pruned20", pruned_by_torch(model, 0.2)),
    ]
    assert [row.name for row in report.rows] == [name for name, _ in expected]
    for row, (_, reference) in zip(report.rows, expected, strict=True):
        assert row.metrics == pytest.approx(evaluate(reference), rel=1e-6)
        assert row.error == ""
    losses = {row.metrics["loss"] for row in report.rows}
    assert len(losses) == 5, "the comparison needs variants that differ"


def test_packed_bytes_are_those_of_the_whole_model() -> None:
    model = net()
    # Biases of 20 and 3, BatchNorm's four vectors of 20, all float32, and one int64 counter.
    rest = 4 * (20 + 3) + 4 * 4 * 20 + 8
    live = round(0.5 * 180)
    bitmaps = 120 // 8 + math.ceil(60 / 8)
    rows = tried(model, [Quantization(8), Quantization(4), Pruning(0.5)]).rows
    assert [row.packed_bytes for row in rows] == [
        4 * 180 + rest,
        180 + 4 * (20 + 3) + rest,
        90 + 4 * (20 + 3) + rest,
        4 * live + bitmaps + rest,
    ]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_bit_for_bit_and_in_its_mode(training: bool) -> None:
    model = net().train(training)
    model[0].eval()
    before, flags = digest(model), [module.training for module in model.modules()]
    values = {key: value.clone() for key, value in model.state_dict().items()}
    weight = model.get_parameter("0.weight")
    gradient = weight.grad = torch.ones_like(weight)

    def train_a_little(module: nn.Module) -> dict[str, float]:
        module.train()
        module(INPUTS)  # BatchNorm's statistics move
        return {"loss": 1.0}

    tried(model, [Quantization(2), Pruning(1.0)], train_a_little)
    assert digest(model) == before
    assert list(model.state_dict()) == list(values)
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert weight.grad is gradient
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_variant_starts_from_the_original_weights() -> None:
    model = net()
    seen: list[Tensor] = []

    def look(module: nn.Module) -> dict[str, float]:
        seen.append(model.get_parameter("0.weight").detach().clone())
        return {"loss": 0.0}

    tried(model, [Pruning(0.9), Pruning(0.0), Pruning(0.9)], look)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_every_variant_starts_from_the_original_buffers_and_mode() -> None:
    # Else a baseline that moves BatchNorm's statistics is compared with variants that start there.
    model = net().eval()
    seen: list[tuple[list[float], bool]] = []

    def look(module: nn.Module) -> dict[str, float]:
        seen.append((model.get_buffer("1.running_mean").tolist(), module.training))
        module.train()
        module(INPUTS)
        return {"loss": 0.0}

    tried(model, [Pruning(0.0), Pruning(0.0)], look)
    assert seen == [([0.0] * 20, False)] * 3


def test_the_evaluation_is_given_the_model_itself() -> None:
    model = net()
    seen: list[int] = []

    def look(module: nn.Module) -> dict[str, float]:
        seen.extend([id(module), id(model.get_parameter("0.weight"))])
        return {"loss": 0.0}

    tried(model, [Quantization(8)], look)
    assert seen == [id(model), id(model.get_parameter("0.weight"))] * 2


class Broken:
    """A compression that fails when half of its work is done."""

    name = "broken"

    def compress(self, weights: Sequence[Weight]) -> Iterator[tuple[Weight, Tensor, int]]:
        yield weights[0], torch.zeros_like(weights[0].parameter), 1
        raise RuntimeError("no kernel")


def test_a_compression_that_fails_is_a_row_and_the_others_go_on() -> None:
    model = net()
    before = digest(model)
    report = tried(model, [Broken(), Quantization(8)])
    assert [(row.name, row.error) for row in report.rows] == [
        ("baseline", ""),
        ("broken", "RuntimeError: no kernel"),
        ("int8", ""),
    ]
    assert report.rows[1].metrics == {}
    assert math.isnan(report.delta(report.rows[1]))
    assert report.rows[2].metrics == pytest.approx(evaluate(quantized_by_torch(model, 8)))
    assert report.summary().keys() == {"int8_delta", "int8_bytes"}
    assert digest(model) == before


def fails_at(call: int, fault: BaseException) -> Evaluate:
    """An evaluation whose nth call raises, after it has spoilt what it could."""
    calls = 0

    def look(model: nn.Module) -> dict[str, float]:
        nonlocal calls
        calls += 1
        metrics = evaluate(model)
        if calls == call:
            model.train()
            model(INPUTS)
            raise fault
        return metrics

    return look


def test_an_evaluation_that_fails_is_a_row() -> None:
    model = net()
    before = digest(model)
    look = fails_at(2, ValueError("loss is nan"))
    report = tried(model, [Quantization(8), Quantization(4)], look)
    assert [row.error for row in report.rows] == ["", "ValueError: loss is nan", ""]
    assert report.rows[2].metrics == pytest.approx(evaluate(quantized_by_torch(model, 4)))
    assert report.summary().keys() == {"int4_delta", "int4_bytes"}
    assert digest(model) == before


def test_a_baseline_that_fails_leaves_nothing_to_compare_with() -> None:
    report = tried(net(), [Quantization(8)], fails_at(1, ValueError("no data")))
    assert report.rows[0].error == "ValueError: no data"
    assert report.rows[1].metrics.keys() == {"loss", "peak"}
    assert math.isnan(report.delta(report.rows[1]))
    assert "int8_delta" not in report.summary()


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("fault", [KeyboardInterrupt("stop"), SystemExit("stop")], ids=repr)
def test_an_interruption_passes_and_the_weights_come_back(call: int, fault: BaseException) -> None:
    model = net()
    before = digest(model)
    with pytest.raises(type(fault), match="stop"):
        tried(model, [Quantization(2), Pruning(0.9)], fails_at(call, fault))
    assert digest(model) == before
    assert model.training


def test_the_monitor_is_chosen_from_the_baselines_metrics() -> None:
    asked: list[dict[str, float]] = []

    def choose(metrics: Mapping[str, float]) -> tuple[str, Literal["min", "max"]]:
        asked.append(dict(metrics))
        return "peak", "max"

    model = net()
    report = run_trials(model, evaluate, [Quantization(2)], choose_monitor=choose)
    assert asked == [evaluate(copy.deepcopy(model))]
    assert (report.monitor, report.mode) == ("peak", "max")
    baseline, variant = report.rows
    assert report.delta(variant) == variant.metrics["peak"] - baseline.metrics["peak"]
    assert report.delta(baseline) == 0.0


def test_weights_that_stay_as_they_are_are_named() -> None:
    spoilt = nn.Linear(4, 4)
    with torch.no_grad():
        spoilt.weight[0, 0] = math.inf
    model = nn.Sequential(nn.Linear(4, 4), spoilt)
    report = tried(model, [Pruning(1.0)], lambda _: {"loss": spoilt.weight[1, 1].item()})
    assert report.skipped == (Skipped("1.weight", "1 of 16 values are NaN or infinite"),)
    assert report.rows[1].metrics == report.rows[0].metrics


def test_a_tied_weight_is_compressed_once_for_both_its_users() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["embed"].weight

    def zeros(_: nn.Module) -> dict[str, float]:
        return {"loss": float(model.get_parameter("head.weight").eq(0).sum())}

    report = tried(model, [Pruning(0.5)], zeros)
    assert [row.metrics["loss"] for row in report.rows] == [0.0, 16.0]
    assert report.rows[0].packed_bytes == 128


def test_a_model_without_a_matrix_is_evaluated_all_the_same() -> None:
    report = tried(nn.BatchNorm1d(6), [Quantization(4), Pruning(0.5)], lambda _: {"loss": 1.0})
    assert [row.metrics for row in report.rows] == [{"loss": 1.0}] * 3
    assert {row.packed_bytes for row in report.rows} == {4 * 24 + 8}


ROWS = (
    TrialRow("baseline", {"loss": 0.5, "other": 1.0}, 1000, 0.1),
    TrialRow("int8", {"loss": 0.75}, 250, 0.2),
    TrialRow("int4", {}, 0, 0.3, "ValueError: x"),
    TrialRow("int2", {"loss": math.nan}, 100, 0.4),
)


def test_summaries_hold_finite_numbers_of_variants_with_a_result() -> None:
    assert TrialReport(ROWS, "loss", "min").summary() == {
        "int8_delta": 0.25,
        "int8_bytes": 250.0,
        "int2_bytes": 100.0,
    }


def test_rows_hold_deltas_and_ratios() -> None:
    records = TrialReport(ROWS, "loss", "min").records()
    assert [record["trial"] for record in records] == ["baseline", "int8", "int4", "int2"]
    assert records[1] == {
        "trial": "int8",
        "monitor": "loss",
        "value": 0.75,
        "delta": 0.25,
        "packed_bytes": 250,
        "size_ratio": 0.25,
        "seconds": 0.2,
        "error": "",
        "metrics": {"loss": 0.75},
    }
    assert records[2]["error"] == "ValueError: x"
    assert math.isnan(records[2]["value"])


@pytest.mark.parametrize("monitor", ["", "accuracy"])
def test_an_unknown_monitor_has_no_deltas(monitor: str) -> None:
    report = TrialReport(ROWS, monitor, "min")
    assert all(math.isnan(report.delta(row)) for row in ROWS)
    assert not any(key.endswith("_delta") for key in report.summary())


def test_a_report_without_rows_is_empty() -> None:
    report = TrialReport((), "loss", "min")
    assert math.isnan(report.delta(ROWS[1]))
    assert (report.summary(), report.records()) == ({}, [])


@pytest.mark.parametrize(
    "compression", [Quantization(2), Pruning(0.5), Broken()], ids=["int2", "pruned50", "broken"]
)
def test_no_random_number_is_drawn(compression: Compression) -> None:
    model = net()
    state = torch.get_rng_state()
    tried(model, [compression])
    assert torch.equal(torch.get_rng_state(), state)


def test_seconds_are_those_of_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    rows = tried(net(), [Quantization(8)], lambda _: {"loss": 0.0}).rows
    assert [row.seconds for row in rows] == [2.5, 1.0]


def make_evaluation(value: Any) -> Callable[[nn.Module], Any]:
    return lambda _: value


def test_an_evaluation_that_returns_nothing_is_a_row_with_its_error() -> None:
    report = tried(net(), [Quantization(8)], make_evaluation(None))
    assert all(row.error.startswith("TypeError") for row in report.rows)
