"""The summary is that of numpy over the layers with a fit; rows are plain and complete."""

import json
import math
import statistics
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.convention import CONVENTIONS
from lightning_weightwatch.spectral.layer import LayerSpectrum, layer_spectrum
from lightning_weightwatch.spectral.report import SpectralReport
from tests.data.golden_matrices import GOLDEN, build

NO_FIT = ["edge_identity_64", "edge_zeros_50x50", "edge_ones_50x50"]


def measured(name: str) -> LayerSpectrum:
    (layer,) = analyze({f"{name}.weight": torch.from_numpy(build(name))}).layers
    return layer


def spectrum(alpha: float, num_evals: int = 64, **changes: Any) -> LayerSpectrum:
    """A layer of a chosen alpha, its other numbers plausible."""
    evals = np.sort(np.random.default_rng(num_evals).random((1, num_evals)) + 0.5)
    layer = layer_spectrum(
        evals, name="layer", kind="linear", N=num_evals, convention=CONVENTIONS["weightwatcher"]
    )
    return replace(layer, alpha=alpha, **changes)


def test_the_summary_is_that_of_numpy() -> None:
    alphas = [1.2, 1.9, 2.0, 3.3, 6.0, 6.1, 9.0]
    layers = tuple(
        spectrum(alpha, alpha_weighted=alpha * 0.7, mp_softrank=alpha / 10) for alpha in alphas
    )
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
        "mp_softrank_mean": np.mean(alphas) / 10,
    }
    assert summary == pytest.approx(expected, rel=1e-12)
    without_bulk = SpectralReport(tuple(replace(row, mp_softrank=None) for row in layers), ())
    assert without_bulk.summary().keys() == expected.keys() - {"mp_softrank_mean"}


def test_the_summary_takes_layers_with_enough_eigenvalues_only() -> None:
    layers = (spectrum(3.0), spectrum(4.0, 32), spectrum(1.5, 31), spectrum(40.0, 8))
    summary = SpectralReport(layers, ()).summary()
    assert (summary["alpha_min"], summary["alpha_max"]) == (3.0, 4.0)
    log_norms = [layer.log_norm for layer in layers[:2]]
    assert summary["log_norm_mean"] == pytest.approx(np.mean(log_norms), rel=1e-12)
    everything = SpectralReport(layers, (), summary_min_evals=8).summary()
    assert (everything["alpha_min"], everything["alpha_max"]) == (1.5, 40.0)
    assert SpectralReport(layers, (), summary_min_evals=65).summary() == {}


@pytest.mark.parametrize(
    ("alpha", "distance"), [(1.25, 0.75), (2.0, 0.0), (4.0, 0.0), (6.0, 0.0), (7.5, 1.5)]
)
def test_the_distance_from_the_healthy_band_rests_at_zero_within_it(
    alpha: float, distance: float
) -> None:
    assert SpectralReport((spectrum(alpha),), ()).summary()["alpha_distance"] == distance


@pytest.mark.parametrize("name", NO_FIT)
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


def test_the_summary_of_the_golden_layers_is_the_mean_of_their_golden_numbers() -> None:
    names = ["trained_512x512", "gauss_300x200", "spiked5_400x200", "edge_m20_100x20"]
    weights = {f"{name}.weight": torch.from_numpy(build(name)) for name in (*names, *NO_FIT)}
    summary = analyze(weights, mp_fit=True).summary()
    large = [GOLDEN[name] for name in names[:3]]  # the fourth has 20 eigenvalues
    for column in ("alpha", "alpha_weighted"):
        mean = statistics.fmean(golden["default"][column] for golden in large)
        assert summary[f"{column}_mean"] == pytest.approx(mean, rel=1e-6)
    softranks = [GOLDEN[name]["mp_fit"]["mp_softrank"] for name in (*names[:3], NO_FIT[0])]
    assert summary["mp_softrank_mean"] == pytest.approx(statistics.fmean(softranks), rel=1e-6)


def test_a_model_without_spectra_has_an_empty_summary() -> None:
    report = analyze(nn.Sequential(nn.ReLU(), nn.LayerNorm(40)))
    assert (report.layers, report.records(), report.summary()) == ((), [], {})


def test_summaries_are_finite_and_rows_are_plain_python() -> None:
    zeros = nn.Linear(40, 40)
    nn.init.zeros_(zeros.weight)
    model = nn.Sequential(zeros, nn.Linear(40, 50), nn.Conv2d(9, 9, 3), nn.Bilinear(9, 9, 4))
    report = analyze(model, mp_fit=True, randomize=True)
    assert report.summary()
    assert all(type(value) is float for value in report.summary().values())
    assert all(map(math.isfinite, report.summary().values()))
    rows = report.records()
    assert [row["name"] for row in rows] == ["0", "1", "2", "3"]
    columns = [
        field.name for field in fields(LayerSpectrum) if field.name not in {"slice_id", "evals"}
    ]
    assert [list(row) for row in rows] == [columns] * 4
    assert {type(value) for row in rows for value in row.values()} == {str, int, float}
    assert len(json.loads(json.dumps(rows))) == 4
    by_position = analyze(model, pool=False).records()
    assert [row["slice_id"] for row in by_position] == [0, 0, *range(9), *range(4)]
    assert {type(row["slice_id"]) for row in by_position} == {int}
