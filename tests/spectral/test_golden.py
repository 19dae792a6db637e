"""Through `analyze`, every column is WeightWatcher's; where it is not, a test here says why."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.layer import LayerSpectrum
from tests.data.golden_matrices import GOLDEN, build, spectrum, tolerance

# Where this package departs from WeightWatcher on purpose; each has a test of its own below.
LEFT_OUT = {"edge_m7_100x7"}
SWAPPED = {"conv_evenk_32x64x2x2"}
NO_FIT = {
    "edge_zeros_50x50": "all values are zero",
    "edge_ones_50x50": "fewer than 2 eigenvalues above 1e-05",
    "edge_identity_64": "the eigenvalues are all equal",
}
FITTED = sorted(GOLDEN.keys() - NO_FIT.keys() - LEFT_OUT)
# Their SVDs take seconds.
LARGE = {"gauss_1024x256", "spiked20_1024x512", "trained_512x512", "trained_1024x768"}
SIDES = ("N", "M", "Q")
# Found by a search that ends within 1e-4 of its minimum, in the last bits of which LAPACKs differ.
OF_SIGMA = ("sigma_mp", "bulk_max", "bulk_min", "mp_softrank")
OF_THE_FIT = ("alpha", "xmin", "xmax", "D", "sigma", "alpha_weighted", "log_alpha_norm")


def golden_layer(name: str) -> nn.Module:
    """A layer with the golden matrix as its weight."""
    array = torch.from_numpy(build(name))
    layer = nn.Conv2d(1, 1, 1, bias=False) if array.ndim == 4 else nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(array)
    return layer


def rows_of(name: str, **how: Any) -> tuple[LayerSpectrum, ...]:
    report = analyze(nn.Sequential(golden_layer(name)), **how)
    assert report.skipped == ()
    return report.layers


def row_of(name: str, **how: Any) -> LayerSpectrum:
    (row,) = rows_of(name, **how)
    return row


def assert_golden(
    row: LayerSpectrum, golden: Mapping[str, Any], relative: float, leave_out: tuple[str, ...] = ()
) -> None:
    """Whether every column that WeightWatcher has is there, with its number."""
    for column in golden.keys() - {"layer_type", *leave_out}:
        found, expected = getattr(row, column), golden[column]
        if isinstance(expected, float):
            close = max(relative, 1e-6) if column in OF_SIGMA else relative
            assert found == pytest.approx(expected, rel=close, abs=0), column
        else:
            assert found == expected, column


@pytest.mark.parametrize("name", FITTED)
def test_every_default_column_is_that_of_weightwatcher(name: str) -> None:
    row, golden = row_of(name), GOLDEN[name]["default"]
    assert row.kind == {"dense": "linear", "conv2d": "conv2d"}[golden["layer_type"]]
    assert_golden(row, golden, tolerance(name, build(name)), SIDES if name in SWAPPED else ())


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - LEFT_OUT - LARGE))
def test_ranks_and_singular_values_are_those_of_the_matrices(name: str) -> None:
    array, row = build(name).astype(float), row_of(name)
    rows, columns, *kernel = array.shape
    stack = np.moveaxis(array.reshape(rows, columns, -1), -1, 0)
    singular = np.linalg.svd(stack, compute_uv=False) * math.sqrt(0.5 if kernel else 1)
    largest = singular.max()
    assert row.sv_max == pytest.approx(largest, rel=1e-9)
    smallest = singular[:, -1].max()  # of several matrices WeightWatcher takes the largest
    assert row.sv_min == pytest.approx(smallest, rel=1e-5, abs=1e-12 * largest)
    N = max(rows, columns)
    # numpy's tolerance is WeightWatcher's: N · ε of the largest.
    assert row.rank_loss == singular.size - np.linalg.matrix_rank(stack).sum()
    assert row.weak_rank_loss == (singular**2 < 1e-6).sum()
    rank = int((singular > largest * N * np.finfo(float).eps).sum())
    assert row.matrix_rank == rank
    if rank > 1:
        shares = singular.ravel() ** 2 / (singular**2).sum() + 1e-10
        expected = -math.fsum(shares * np.log(shares)) / math.log(rank + 1e-10)
        assert row.entropy == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(FITTED) - SWAPPED))
def test_every_column_of_the_bulk_is_that_of_weightwatcher(name: str) -> None:
    assert_golden(row_of(name, mp_fit=True), GOLDEN[name]["mp_fit"], tolerance(name, build(name)))


@pytest.mark.parametrize("name", sorted(name for name in FITTED if GOLDEN[name].get("nopool")))
def test_every_kernel_position_by_itself_is_that_of_weightwatcher(name: str) -> None:
    rows, golden = rows_of(name, pool=False, min_evals=1), GOLDEN[name]["nopool"]
    by_position = {row.slice_id: row for row in rows}
    assert list(by_position) == list(range(len(rows)))
    assert len(rows) == rows[0].rf
    compared = 0
    for expected in golden:
        if expected["status"] == "success":
            leave_out = SIDES if name in SWAPPED else ()
            found = by_position[expected["slice_id"]]
            assert_golden(found, expected, tolerance(name, build(name)), leave_out)
            compared += 1
    assert compared > 0


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - LEFT_OUT))
def test_the_same_columns_come_from_a_state_dict(name: str) -> None:
    (from_state,) = analyze({"0.weight": torch.from_numpy(build(name))}).layers
    expected = row_of(name)
    assert repr(replace(from_state, layer_id=expected.layer_id)) == repr(expected)


def test_a_kernel_of_even_size_has_its_sides_in_order_and_no_spikes_of_noise() -> None:
    # WeightWatcher swaps N and M once per kernel position, so that four positions undo the first.
    golden = GOLDEN["conv_evenk_32x64x2x2"]
    assert [golden["default"][side] for side in SIDES] == [32, 64, 0.5]
    assert golden["mp_fit"]["num_spikes"] == 3
    assert golden["randomize"]["num_traps"] == 4
    row = row_of("conv_evenk_32x64x2x2", mp_fit=True, randomize=True)
    assert [getattr(row, side) for side in SIDES] == [64, 32, 2.0]
    assert (row.num_spikes, row.num_traps) == (0, 0)


@pytest.mark.parametrize("name", sorted(NO_FIT))
def test_a_failed_fit_is_nan_with_its_reason_where_weightwatcher_warns(name: str) -> None:
    golden, row = GOLDEN[name]["default"], row_of(name)
    assert golden["alpha"] in (-1, "inf")
    assert golden["warning"] in ("over-trained", "under-trained")
    assert (row.status, row.warning, row.num_pl_spikes) == (NO_FIT[name], "", 0)
    assert all(math.isnan(getattr(row, column)) for column in set(OF_THE_FIT) - {"xmax"})
    known = golden.keys() - {*OF_THE_FIT, "layer_type", "num_pl_spikes", "status", "warning"}
    if golden["matrix_rank"] == 1:  # the test of the entropy of rank one, below
        known -= {"entropy"}
    for column in known:
        found, expected = getattr(row, column), golden[column]
        if expected in ("-inf", "nan"):
            assert math.isnan(found), column
        else:
            assert found == pytest.approx(expected, rel=1e-9, abs=0), column


@pytest.mark.parametrize("name", ["edge_zeros_50x50", "edge_ones_50x50"])
def test_a_failed_bulk_is_nan_without_spikes(name: str) -> None:
    row = row_of(name, mp_fit=True)
    assert all(math.isnan(getattr(row, column)) for column in (*OF_SIGMA, "W_scale"))
    assert row.num_spikes == 0


def test_the_entropy_of_rank_one_is_zero_where_weightwatcher_divides_by_next_to_nothing() -> None:
    evals = spectrum(build("edge_ones_50x50"))
    shares = evals / evals.sum() + 1e-10
    weightwatcher = -(shares * np.log(shares)).sum() / math.log(1 + 1e-10)
    assert weightwatcher > 1000
    assert GOLDEN["edge_ones_50x50"]["default"]["entropy"] > 1000
    row = row_of("edge_ones_50x50")
    assert (row.matrix_rank, row.rank_loss, row.entropy) == (1, 49, 0.0)


def test_what_weightwatcher_drops_in_silence_is_named() -> None:
    assert GOLDEN["edge_m7_100x7"]["default"] is None
    report = analyze(nn.Sequential(golden_layer("edge_m7_100x7")))
    assert report.layers == ()
    assert report.skipped == (Skipped("0", "7 eigenvalues, fewer than 8"),)


@pytest.mark.parametrize("name", FITTED)
def test_float32_moves_alpha_by_less_than_a_thousandth(name: str) -> None:
    row, golden = row_of(name, dtype=torch.float32), GOLDEN[name]["default"]
    assert row.alpha == pytest.approx(golden["alpha"], rel=1e-3)
    assert row.log_norm == pytest.approx(golden["log_norm"], abs=1e-5)
    assert row.log_spectral_norm == pytest.approx(golden["log_spectral_norm"], abs=1e-5)


@pytest.mark.parametrize("threads", [2, 4])
def test_the_numbers_do_not_depend_on_the_threads(threads: int) -> None:
    model = nn.Sequential(*map(golden_layer, sorted(set(FITTED) - LARGE)))
    alone = analyze(model, mp_fit=True, pool=False)
    torch.set_num_threads(threads)
    try:
        together = analyze(model, mp_fit=True, pool=False)
    finally:
        torch.set_num_threads(1)
    assert repr(together) == repr(alone)


def rotation(side: int, seed: int) -> NDArray[np.float64]:
    gaussian = np.random.default_rng(seed).standard_normal((side, side))
    return np.asarray(np.linalg.qr(gaussian)[0])


@pytest.mark.parametrize("alpha", [1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("rotated", [False, True])
def test_the_exponent_of_a_known_spectrum_is_recovered(alpha: float, rotated: bool) -> None:
    rows, columns = 300, 200
    shares = (np.arange(columns) + 0.5) / columns
    evals = 0.1 * (1 - shares) ** (-1 / (alpha - 1))
    weight = np.zeros((rows, columns))
    np.fill_diagonal(weight, np.sqrt(np.random.default_rng(3).permutation(evals)))
    if rotated:
        weight = rotation(rows, 1) @ weight @ rotation(columns, 2)
    (row,) = analyze({"layer.weight": torch.from_numpy(weight)}).layers
    # Mid-quantiles are a law seen through a grid: WeightWatcher finds 2.004, 3.009 and 6.021 too.
    assert row.alpha == pytest.approx(alpha, rel=5e-3)
    assert row.D < 4e-3
    assert row.norm == pytest.approx(evals.sum(), rel=1e-12)
    assert row.spectral_norm == pytest.approx(evals.max(), rel=1e-12)


@pytest.mark.parametrize(("N", "M"), [(600, 150), (400, 200), (300, 300)])
def test_the_edges_of_noise_are_where_marchenko_and_pastur_put_them(N: int, M: int) -> None:
    for seed in range(3):
        noise = 0.05 * np.random.default_rng(seed).standard_normal((M, N))
        (row,) = analyze({"layer.weight": torch.from_numpy(noise)}, mp_fit=True).layers
        assert row.bulk_max == pytest.approx(0.05**2 * (math.sqrt(N) + math.sqrt(M)) ** 2, rel=0.05)
        edge = 0.05**2 * (math.sqrt(N) - math.sqrt(M)) ** 2
        assert row.bulk_min == pytest.approx(edge, rel=0.05, abs=1e-12)
        assert row.num_spikes == 0
        assert row.sigma_mp == pytest.approx(1, abs=0.03)
