"""Layer by layer the metrics are WeightWatcher's, and every layer left out says why."""

import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.analysis import (
    LayerSpectrum,
    SpectralReport,
    analyze,
    candidates,
    layer_spectrum,
)
from lightning_weightwatch.spectral.eigenvalues import eigenvalues
from tests.data.golden_matrices import GOLDEN, build, tolerance

COLUMNS = [field.name for field in fields(LayerSpectrum) if field.name not in ("name", "kind")]
# Where this package departs from WeightWatcher on purpose; each has a test of its own below.
NO_FIT = {"edge_identity_64", "edge_zeros_50x50", "edge_ones_50x50"}
LEFT_OUT = {"edge_m7_100x7"}
SWAPPED = {"conv_evenk_32x64x2x2"}


def golden_model(name: str) -> nn.Module:
    """A model whose only layer has the golden matrix as its weight."""
    array = torch.from_numpy(build(name))
    layer = nn.Conv2d(1, 1, 1, bias=False) if array.ndim == 4 else nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(array)
    return nn.Sequential(layer)


def measured(name: str) -> LayerSpectrum:
    report = analyze(golden_model(name))
    assert report.skipped == ()
    (layer,) = report.layers
    return layer


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - NO_FIT - LEFT_OUT))
def test_every_column_is_that_of_weightwatcher(name: str) -> None:
    layer, golden = measured(name), GOLDEN[name]["default"]
    relative = tolerance(name, build(name))
    assert layer.kind == {"dense": "linear", "conv2d": "conv2d"}[golden["layer_type"]]
    for column in COLUMNS:
        if column in "NMQ" and name in SWAPPED:
            continue
        found, expected = getattr(layer, column), golden[column]
        if isinstance(expected, float):
            assert found == pytest.approx(expected, rel=relative, abs=0), column
        else:
            assert found == expected, column


def test_a_kernel_of_even_size_has_its_sides_in_order() -> None:
    # WeightWatcher swaps N and M once per kernel position, so that four positions undo the first.
    golden = GOLDEN["conv_evenk_32x64x2x2"]["default"]
    assert (golden["N"], golden["M"], golden["Q"]) == (32, 64, 0.5)
    layer = measured("conv_evenk_32x64x2x2")
    assert (layer.N, layer.M, layer.Q) == (64, 32, 2.0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("edge_zeros_50x50", "all values are zero"),
        ("edge_ones_50x50", "fewer than 2 eigenvalues above 1e-05"),
        ("edge_identity_64", "the eigenvalues are all equal"),
    ],
)
def test_a_failed_fit_is_nan_with_its_reason_where_weightwatcher_warns(
    name: str, reason: str
) -> None:
    golden, layer = GOLDEN[name]["default"], measured(name)
    assert golden["alpha"] in (-1, "inf")
    assert golden["warning"] in ("over-trained", "under-trained")
    assert layer.status == reason
    assert layer.warning == ""
    assert layer.num_pl_spikes == 0
    unknown = ("alpha", "xmin", "D", "sigma", "alpha_weighted", "log_alpha_norm")
    assert all(math.isnan(getattr(layer, column)) for column in unknown)
    for column in set(COLUMNS) - {*unknown, "xmax", "num_pl_spikes", "status", "warning"}:
        found, expected = getattr(layer, column), golden[column]
        if expected in ("-inf", "nan"):
            assert math.isnan(found), column
        else:
            assert found == pytest.approx(expected, rel=1e-9, abs=0), column


@pytest.mark.parametrize("name", sorted(NO_FIT))
def test_a_failed_fit_enters_no_mean(name: str) -> None:
    sound = measured("gauss_200x100")
    failed = replace(measured(name), log_norm=math.nan)
    both = SpectralReport((sound, failed), ())
    assert both.summary() == SpectralReport((sound,), ()).summary()
    assert SpectralReport((failed,), ()).summary() == {}


def test_a_log_norm_that_is_known_stays_in_its_mean_without_a_fit() -> None:
    ones, gauss = measured("edge_ones_50x50"), measured("gauss_200x100")
    log_norms = [GOLDEN[n]["default"]["log_norm"] for n in ("edge_ones_50x50", "gauss_200x100")]
    summary = SpectralReport((ones, gauss), ()).summary()
    assert summary["log_norm_mean"] == pytest.approx(statistics.fmean(log_norms), rel=1e-9)
    assert summary["alpha_mean"] == gauss.alpha


def test_what_weightwatcher_drops_in_silence_is_named() -> None:
    assert GOLDEN["edge_m7_100x7"]["default"] is None
    report = analyze(golden_model("edge_m7_100x7"))
    assert report.layers == ()
    assert report.skipped == (Skipped("0", "7 eigenvalues, fewer than 8"),)


@pytest.mark.parametrize("init", [nn.init.orthogonal_, nn.init.eye_])
@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_an_orthogonal_layer_has_no_tail_to_fit(
    init: Callable[[Tensor], Tensor], gain: float
) -> None:
    layer = nn.Linear(64, 64, bias=False)
    init(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(gain)
    (spectrum,) = analyze(layer).layers
    assert spectrum.status == "the eigenvalues are all equal"
    assert "alpha_mean" not in analyze(layer).summary()


def spectrum(alpha: float, num_evals: int = 64, **changes: Any) -> LayerSpectrum:
    """A layer of a chosen alpha, its other numbers plausible."""
    shape = (num_evals, num_evals)
    layer = layer_spectrum("layer", "linear", shape, torch.rand(num_evals).double() + 0.5)
    return replace(layer, alpha=alpha, **changes)


def test_the_summary_takes_layers_with_enough_eigenvalues_only() -> None:
    layers = (spectrum(3.0), spectrum(4.0, 32), spectrum(1.5, 31), spectrum(40.0, 8))
    summary = SpectralReport(layers, ()).summary()
    assert (summary["alpha_min"], summary["alpha_max"]) == (3.0, 4.0)
    everything = SpectralReport(layers, (), summary_min_evals=8).summary()
    assert (everything["alpha_min"], everything["alpha_max"]) == (1.5, 40.0)


def test_the_summary_is_that_of_numpy() -> None:
    alphas = [1.2, 1.9, 2.0, 3.3, 6.0, 6.1, 9.0]
    layers = tuple(spectrum(alpha, alpha_weighted=alpha * 0.7) for alpha in alphas)
    summary = SpectralReport(layers, ()).summary()
    expected = {
        "alpha_mean": np.mean(alphas),
        "alpha_median": np.median(alphas),
        "alpha_min": 1.2,
        "alpha_max": 9.0,
        "alpha_weighted_mean": np.mean(alphas) * 0.7,
        "overtrained_share": 2 / 7,
        "undertrained_share": 2 / 7,
        "alpha_distance": 0.0,
        "log_norm_mean": np.mean([layer.log_norm for layer in layers]),
    }
    assert summary == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "distance"), [(1.25, 0.75), (2.0, 0.0), (4.0, 0.0), (6.0, 0.0), (7.5, 1.5)]
)
def test_the_distance_from_the_healthy_band_rests_at_zero_within_it(
    alpha: float, distance: float
) -> None:
    assert SpectralReport((spectrum(alpha),), ()).summary()["alpha_distance"] == distance


def test_summaries_are_finite_and_rows_are_plain_python() -> None:
    report = analyze(nn.Sequential(golden_model("edge_zeros_50x50"), nn.Linear(40, 50)))
    assert all(map(math.isfinite, report.summary().values()))
    rows = report.records()
    assert [row["name"] for row in rows] == ["0.0", "1"]
    assert [list(row) for row in rows] == [[field.name for field in fields(LayerSpectrum)]] * 2
    assert {type(value) for row in rows for value in row.values()} == {str, int, float}


def test_log_alpha_norm_does_not_overflow() -> None:
    evals = torch.tensor([1e30] * 7 + [1.001e30], dtype=torch.float64)
    layer = layer_spectrum("layer", "linear", (8, 8), evals)
    exact = layer.alpha * 30 + math.log10(7 + 1.001**layer.alpha)
    assert layer.alpha > 1000
    assert layer.log_alpha_norm == pytest.approx(exact, rel=1e-9)


class BareParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(40, 40))
        self.norm = nn.LayerNorm(4)


class Adapted(nn.Linear):
    """A linear layer with factors of its own beside the weight, as LoRA libraries write it."""

    def __init__(self) -> None:
        super().__init__(40, 40)
        self.lora_A = nn.Parameter(torch.randn(10, 40))
        self.lora_B = nn.Parameter(torch.randn(40, 10))


def nan_linear() -> nn.Module:
    layer = nn.Linear(40, 40)
    with torch.no_grad():
        layer.weight[3, 4] = math.nan
        layer.weight[5, 6] = -math.inf
    return layer


def wide_linear() -> nn.Module:
    layer = nn.Linear(1, 1)
    layer.weight = nn.Parameter(torch.zeros(1).expand(15_001, 15_001))
    return layer


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (lambda: nn.CrossEntropyLoss(), "0", "CrossEntropyLoss has weight=None"),
        (lambda: nn.BatchNorm1d(40, affine=False), "0", "BatchNorm1d has weight=None"),
        (lambda: nn.LayerNorm(40), "0", "LayerNorm: a 1-D weight has no spectrum"),
        (lambda: nn.Linear(40, 7), "0", "7 eigenvalues, fewer than 8"),
        (lambda: nn.Conv2d(1, 40, (1, 7)), "0", "7 eigenvalues, fewer than 8"),
        (
            lambda: nn.Conv1d(40, 40, 3),
            "0",
            "Conv1d: the spectrum of this kind is not measured yet",
        ),
        (
            lambda: nn.Conv3d(40, 40, 3),
            "0",
            "Conv3d: the spectrum of this kind is not measured yet",
        ),
        (
            lambda: nn.ConvTranspose2d(40, 40, 3),
            "0",
            "ConvTranspose2d: the spectrum of this kind is not measured yet",
        ),
        (lambda: nn.GRU(40, 40), "0", "GRU: the spectrum of this kind is not measured yet"),
        (
            lambda: BareParameter(),
            "0.table",
            "BareParameter: the spectrum of this kind is not measured yet",
        ),
        (
            lambda: nn.LazyLinear(40),
            "0",
            "lazy: it has no shape before the first forward pass",
        ),
        (
            lambda: nn.Linear(40, 40, device="meta"),
            "0",
            "on the meta device: it has no values",
        ),
        (
            lambda: nn.Linear(40, 40, dtype=torch.complex64),
            "0",
            "complex weights are not measured yet",
        ),
        (nan_linear, "0", "2 of 1600 values are NaN or infinite"),
        (wide_linear, "0", "its smaller side is 15001, above 15000"),
        (
            lambda: parametrizations.weight_norm(nn.Linear(40, 40)),
            "0",
            "parametrized: its effective weight is not measured yet",
        ),
    ],
)
def test_a_layer_that_cannot_be_measured_is_named_with_its_reason(
    make: Callable[[], nn.Module], name: str, reason: str
) -> None:
    report = analyze(nn.Sequential(make(), nn.Linear(40, 50)))
    assert [layer.name for layer in report.layers] == ["1"]
    assert Skipped(name, reason) in report.skipped
    assert len(set(report.skipped)) == len(report.skipped)


def test_an_empty_weight_is_named() -> None:
    model = nn.Linear(1, 1)
    model.weight = nn.Parameter(torch.zeros(0, 40))
    assert analyze(model).skipped == (Skipped("Linear", "empty: shape (0, 40)"),)


@pytest.mark.parametrize(
    "make",
    [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm],
    ids=["weight_norm", "spectral_norm"],
)
def test_the_old_reparametrizations_are_not_taken_for_weights(
    make: Callable[[nn.Module], nn.Module],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = make(nn.Linear(40, 40))
    report = analyze(nn.Sequential(layer))
    assert report.layers == ()
    assert "0" in {skip.name.split(".")[0] for skip in report.skipped}


def test_further_matrices_of_a_layer_do_not_share_its_name() -> None:
    adapted = Adapted()
    report = analyze(nn.Sequential(adapted))
    assert [layer.name for layer in report.layers] == ["0"]
    (layer,) = report.layers
    assert layer.norm == pytest.approx(float(adapted.weight.detach().double().square().sum()))
    assert {skip.name for skip in report.skipped} == {"0.lora_A", "0.lora_B"}


def test_a_tied_weight_is_measured_once_and_its_second_place_named() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(40, 16), "head": nn.Linear(16, 40, bias=False)})
    model["head"].weight = model["embed"].weight
    report = analyze(model)
    assert [(layer.name, layer.kind) for layer in report.layers] == [("embed", "embedding")]
    assert report.skipped == (Skipped("head.weight", "tied to embed.weight"),)


def test_a_pruned_layer_is_measured_as_its_forward_pass_sees_it() -> None:
    layer = nn.Linear(40, 50)
    prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    (found,) = analyze(layer).layers
    evals = np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False) ** 2
    assert found.norm == pytest.approx(evals.sum(), rel=1e-9)
    assert found.spectral_norm == pytest.approx(evals.max(), rel=1e-9)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, ["encoder.0", "encoder.1", "head"]),
        (["head"], ["head"]),
        (["encoder.*"], ["encoder.0", "encoder.1"]),
        (["*.1", "head"], ["encoder.1", "head"]),
        (["nothing"], []),
        ([], []),
    ],
)
def test_layers_are_chosen_by_name_or_pattern(
    layers: list[str] | None, expected: list[str]
) -> None:
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)),
            "loss": nn.CrossEntropyLoss(),
            "head": nn.Linear(16, 16),
        }
    )
    report = analyze(model, layers=layers)
    assert [layer.name for layer in report.layers] == expected
    assert [skip.name for skip in report.skipped] == (["loss"] if layers is None else [])


@pytest.mark.parametrize(
    ("module", "kind", "sides"),
    [
        (nn.Linear(20, 50), "linear", (50, 20, 1, 20)),
        (nn.Linear(50, 20), "linear", (50, 20, 1, 20)),
        (nn.Linear(50, 8), "linear", (50, 8, 1, 8)),
        (nn.Embedding(70, 20), "embedding", (70, 20, 1, 20)),
        (nn.EmbeddingBag(70, 20), "embedding", (70, 20, 1, 20)),
        (nn.Conv2d(6, 16, (3, 5)), "conv2d", (16, 6, 15, 90)),
        (nn.Conv2d(16, 16, 3, groups=16), "conv2d", (16, 1, 9, 9)),
        (nn.Linear(20, 50, dtype=torch.bfloat16), "linear", (50, 20, 1, 20)),
    ],
    ids=["wide", "tall", "the least", "embedding", "bag", "conv", "depthwise", "bf16"],
)
def test_sizes_are_those_of_the_weight(
    module: nn.Module, kind: str, sides: tuple[int, int, int, int]
) -> None:
    (layer,) = analyze(nn.Sequential(module)).layers
    larger, smaller, positions, count = sides
    assert (layer.kind, layer.N, layer.M) == (kind, larger, smaller)
    assert (layer.Q, layer.rf, layer.num_evals) == (larger / smaller, positions, count)
    weight = module.get_parameter("weight")
    assert layer.num_evals == len(eigenvalues(weight))
    halved = 2 if weight.ndim == 4 else 1
    squares = float(weight.detach().double().square().sum())
    assert layer.norm == pytest.approx(squares / halved, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_weights_do_not_end_the_analysis(dtype: torch.dtype) -> None:
    layer = nn.Linear(40, 40, bias=False)
    layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    report = analyze(nn.Sequential(layer, nn.Linear(40, 40)))
    named = [layer.name for layer in report.layers] + [skip.name for skip in report.skipped]
    assert "1" in [layer.name for layer in report.layers]
    assert "0" in named


def test_the_model_and_the_generators_are_left_as_they_were() -> None:
    last = nn.Linear(16, 16)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16).eval(), nn.Dropout(), last)
    last.weight.grad = torch.ones(16, 16)
    flags = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    analyze(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(last.weight.grad, torch.ones(16, 16))
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert repr(np.random.get_state(legacy=False)) == numpy_state


def test_candidates_are_judged_without_reading_a_value() -> None:
    model = nn.Sequential(nan_linear(), nn.Linear(40, 7), nn.Linear(40, 40))
    found = list(candidates(model))
    reasons = [item for item in found if isinstance(item, Skipped)]
    weights = [item.name for item in found if isinstance(item, Weight)]
    assert weights == ["0.weight", "2.weight"]
    assert reasons == [Skipped("1", "7 eigenvalues, fewer than 8")]
