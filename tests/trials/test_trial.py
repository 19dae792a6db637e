"""A trial's rows are what the user's own evaluation says of the compressed weights."""

import copy
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials import trial
from lightning_weightwatch.trials.bench import Bench, Watcher
from lightning_weightwatch.trials.compression import CompressedLayer, Compression
from lightning_weightwatch.trials.evaluation import Evaluate
from lightning_weightwatch.trials.plan import Limits, Plan
from lightning_weightwatch.trials.pruning import Pruning
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.trials.snapshot import digest
from lightning_weightwatch.trials.trial import run_trials

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
    **options: Any,
) -> TrialReport:
    bench = Bench(evaluation, choose_loss, **options)
    return run_trials(model, bench, lambda _: compressions)


def absmax(bits: int) -> Quantization:
    """What torch's own operator does."""
    return Quantization(bits, clip="absmax")


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
    report = tried(model, [absmax(3), Pruning(0.6), absmax(8), Pruning(0.2)])
    expected = [
        ("baseline", copy.deepcopy(model)),
        ("int3_absmax", quantized_by_torch(model, 3)),
        ("pruned60", pruned_by_torch(model, 0.6)),
        ("int8_absmax", quantized_by_torch(model, 8)),
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

    tried(model, [Quantization(2), Pruning(0.99)], train_a_little)
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

    tried(model, [Pruning(0.9), Pruning(0.001), Pruning(0.9)], look)
    assert torch.equal(seen[0], seen[2]), "of 180 weights none goes at 0.1 %"
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

    tried(model, [Pruning(0.001), Pruning(0.001)], look)
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
    settings: Mapping[str, Any] = {}

    @torch.no_grad()
    def apply(self, weights: Sequence[Weight]) -> Iterator[CompressedLayer]:
        first = weights[0]
        first.parameter.zero_()
        shape = tuple(first.parameter.shape)
        yield CompressedLayer(first.name, first.kind, shape, 1, 1, 1.0, 1.0, 0)
        raise RuntimeError("no kernel")

    def left_out(self, weights: Sequence[Weight]) -> Sequence[Skipped]:
        return ()


def test_a_compression_that_fails_is_a_row_and_the_others_go_on() -> None:
    model = net()
    before = digest(model)
    report = tried(model, [Broken(), absmax(8)])
    assert [(row.name, row.error) for row in report.rows] == [
        ("baseline", ""),
        ("broken", "RuntimeError: no kernel"),
        ("int8_absmax", ""),
    ]
    assert report.rows[1].metrics == {}
    assert math.isnan(report.delta(report.rows[1]))
    assert report.rows[2].metrics == pytest.approx(evaluate(quantized_by_torch(model, 8)))
    assert report.summary().keys() == {"int8_absmax_delta", "int8_absmax_bytes"}
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
    report = tried(model, [absmax(8), absmax(4)], look)
    assert [row.error for row in report.rows] == ["", "ValueError: loss is nan", ""]
    assert report.rows[2].metrics == pytest.approx(evaluate(quantized_by_torch(model, 4)))
    assert report.summary().keys() == {"int4_absmax_delta", "int4_absmax_bytes"}
    assert digest(model) == before


def test_a_baseline_that_fails_leaves_nothing_to_compare_with() -> None:
    report = tried(net(), [Quantization(8)], fails_at(1, ValueError("no data")))
    (baseline,) = report.rows
    assert baseline.error == "ValueError: no data"
    assert report.summary() == {}
    assert report.best is None


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
    report = run_trials(model, Bench(evaluate, choose), lambda _: [Quantization(2)])
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
    report = tried(model, [Pruning(0.9)], lambda _: {"loss": spoilt.weight[1, 1].item()})
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


def test_what_compresses_nothing_is_never_reported_as_done() -> None:
    report = tried(nn.BatchNorm1d(6), [Quantization(4), Pruning(0.5)], lambda _: {"loss": 1.0})
    assert report.rows[0].metrics == {"loss": 1.0}
    for row in report.rows[1:]:
        assert "leaves every weight as it is" in row.error
        assert row.metrics == {}
    assert [row.packed_bytes for row in report.rows] == [4 * 24 + 8, 0, 0]


@pytest.mark.parametrize(
    "compression", [Quantization(2), Pruning(0.5), Broken()], ids=["int2", "pruned50", "broken"]
)
def test_no_random_number_is_drawn(compression: Compression) -> None:
    model = net()
    state = torch.get_rng_state()
    tried(model, [compression])
    assert torch.equal(torch.get_rng_state(), state)


def make_evaluation(value: Any) -> Callable[[nn.Module], Any]:
    return lambda _: value


def test_an_evaluation_that_returns_nothing_is_a_row_with_its_error() -> None:
    report = tried(net(), [Quantization(8)], make_evaluation(None))
    assert all(row.error.startswith("TypeError") for row in report.rows)


def test_only_one_weight_is_changed_where_it_is_tried_alone_and_the_largest_come_first() -> None:
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen: list[list[str]] = []

    def look(module: nn.Module) -> dict[str, float]:
        seen.append([n for n, p in module.named_parameters() if not torch.equal(p, before[n])])
        return {"loss": 0.0}

    report = tried(model, [absmax(8), absmax(4), Quantization(4)], look, per_layer=2)
    assert seen == [[], *[["0.weight", "4.weight"]] * 3, *[["0.weight"]] * 2, *[["4.weight"]] * 2]
    assert [(row.name, row.layer) for row in report.alone] == [
        (name, layer)
        for layer in ("0.weight", "4.weight")
        for name in ("int8_absmax", "int4_absmax")
    ]
    rest = report.rows[0].packed_bytes - 4 * 120
    assert report.alone[0].packed_bytes == rest + 120 + 4 * 20


@pytest.mark.parametrize(
    ("most", "names"), [(1, []), (3, ["int8", "int6"]), (9, ["int8", "int6", "int4"])]
)
def test_it_ends_early_with_what_it_has(most: int, names: list[str]) -> None:
    model = net()
    before = digest(model)
    grid = [Quantization(bits) for bits in (8, 6, 4)]
    report = tried(model, grid, limits=Limits(max_evaluations=most))
    assert [row.name for row in report.rows] == ["baseline", *names]
    assert report.planned == 4
    assert report.stopped == ("" if most > 3 else f"max_evaluations={most}")
    assert digest(model) == before


def test_no_evaluation_begins_that_would_end_after_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def slow(model: nn.Module) -> dict[str, float]:
        nonlocal now
        now += 0.2
        return {"loss": 1.0}

    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=lambda: now))
    grid = [Quantization(bits) for bits in (8, 7, 6, 5, 4, 3)]
    report = tried(net(), grid, slow, limits=Limits(max_seconds=0.75))
    assert [row.name for row in report.rows] == ["baseline", "int8", "int7"]
    assert now == pytest.approx(0.6), "a fourth evaluation would end at 0.8"
    assert report.stopped == "max_seconds=0.75"


def test_the_plan_and_every_step_are_told() -> None:
    told: list[Any] = []

    class Listening(Watcher):
        def planned(self, plan: Plan) -> None:
            told.append((len(plan.steps), plan.seconds >= 3 * plan.evaluation_seconds > 0))

        def begins(self, name: str, done: int, planned: int) -> None:
            told.append((name, done, planned))

    tried(net(), [Quantization(8), Pruning(0.5)], per_layer=1, watcher=Listening())
    assert told == [
        (4, True),
        ("int8", 1, 5),
        ("pruned50", 2, 5),
        ("int8 of 0.weight", 3, 5),
        ("pruned50 of 0.weight", 4, 5),
    ]


def test_every_evaluation_begins_with_the_same_random_numbers() -> None:
    def noisy(model: nn.Module) -> dict[str, float]:
        return {"loss": float(torch.rand(())) + random.random() + float(np.random.rand())}

    model = net()
    states = torch.get_rng_state(), random.getstate()
    report = tried(model, [Quantization(8), Quantization(2)], noisy)
    assert [report.delta(row) for row in report.rows] == [0.0, 0.0, 0.0]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_weights_that_the_evaluation_does_not_use_are_noticed() -> None:
    model = net()
    average = copy.deepcopy(model)
    assert tried(model, [Quantization(2)], lambda _: evaluate(average)).unmoved
    assert not tried(model, [Quantization(2)]).unmoved


def test_an_evaluation_that_changes_the_weights_itself_is_told_of() -> None:
    model = net()
    before = digest(model)

    def careless(module: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            module.get_parameter("4.bias").add_(1.0)
            module.get_parameter("0.weight").data.mul_(2.0)
        return {"loss": 0.0}

    report = tried(model, [Quantization(2)], careless)
    assert report.changed_by_evaluation == ("0.weight", "4.bias")
    assert digest(model) == before


def test_frozen_weights_stay_as_they_are_unless_all_are_frozen() -> None:
    model = net()
    model[0].requires_grad_(False)
    report = tried(model, [Quantization(4)])
    assert [layer.name for layer in report.rows[1].layers] == ["4.weight"]
    assert report.skipped == (Skipped("0.weight", "frozen, while others are trained"),)
    model.requires_grad_(False)
    assert len(tried(model, [Quantization(4)]).rows[1].layers) == 2


def test_the_errors_of_each_weight_are_in_the_report() -> None:
    model = net()
    report = tried(model, [absmax(4)])
    other = quantized_by_torch(model, 4)
    records = report.records_by_layer()
    assert [row["name"] for row in records] == ["0.weight", "4.weight"]
    for row in records:
        before = model.get_parameter(row["name"]).detach().double()
        noise = before - other.get_parameter(row["name"]).detach().double()
        assert row["mse"] == pytest.approx(float(noise.square().mean()), rel=1e-6)
        sqnr = 10 * math.log10(float(before.square().sum() / noise.square().sum()))
        assert row["sqnr"] == pytest.approx(sqnr, rel=1e-6)


MEMORY = """
import ctypes, sys
from pathlib import Path
import torch
from torch import nn
from lightning_weightwatch import try_pruning, try_quantization

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

torch.set_num_threads(2)
model = nn.Sequential(*[nn.Linear(2048, 2048, bias=False) for _ in range(4)])

def tried(model, inputs):
    def evaluate(model):
        with torch.no_grad():
            return {"loss": float(model(inputs).mean())}
    if sys.argv[1] == "quantization":
        try_quantization(model, evaluate, bits=(4,), granularity=("channel", "tensor", "group"))
    else:
        try_pruning(model, evaluate, amounts=(0.5, "2:4"), method=("magnitude", "wanda"))

tried(nn.Linear(600, 600), torch.ones(1, 600))  # what is loaded on first use
ctypes.CDLL("libc.so.6").malloc_trim(0)
before = status("RssAnon")
Path("/proc/self/clear_refs").write_text("5")
tried(model, torch.ones(1, 2048))
print(status("VmHWM") - status("VmRSS") + status("RssAnon") - before)
"""
# Else what is given back stays in the heap of the process, for as long as anything lies behind it.
OWN_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("kind", ["quantization", "pruning"])
def test_a_fifth_more_memory_is_taken_at_most_than_the_touched_weights_have(kind: str) -> None:
    command = [sys.executable, "-c", MEMORY, kind]
    environment = {**os.environ, **OWN_PAGES}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    touched = 4 * 2048 * 2048 * 4
    assert 0.9 * touched < float(done.stdout) < 1.2 * touched
