"""What must hold of every matrix: invariances of the spectrum, and identities of its metrics."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.eigenvalues import eigenvalues
from lightning_weightwatch.spectral.layer import LayerSpectrum

Array = NDArray[np.float64]

settings.register_profile(
    "spectra", max_examples=40, deadline=None, derandomize=True, database=None
)
modest = settings(settings.get_profile("spectra"))

COUNTS = ("N", "M", "num_evals", "num_pl_spikes", "rank_loss", "matrix_rank", "warning")
NUMBERS = ("alpha", "D", "xmin", "sigma", "norm", "spectral_norm", "stable_rank", "log_alpha_norm")


@st.composite
def weights(draw: st.DrawFn, positions: int = 1) -> Array:
    """Matrices of noise, of heavy tails, with spikes, of low rank; a kernel where positions > 1."""
    rows, columns = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "heavy", "spiked", "low rank"]))
    weight = rng.standard_normal((positions, rows, columns))
    if kind == "heavy":
        weight *= rng.pareto(1.5, weight.shape) + 0.1
    elif kind == "spiked":
        weight += 5 * rng.standard_normal((rows, 1)) * rng.standard_normal(columns)
    elif kind == "low rank":
        # Of integers, whose products are exact, and not of a few rows: N · ε is above rounding.
        rows, rank = rows + 20, draw(st.integers(1, max(1, columns // 2)))
        left = rng.integers(-9, 10, (positions, rows, rank))
        weight = (left @ rng.integers(-9, 10, (rank, columns))).astype(float)
        weight[:, 0, 0] += weight[:, 0, 0] == 0  # not all of it is 0
    return weight[0] if positions == 1 else weight.transpose(1, 2, 0)[..., None]


def row_of(weight: Array, **how: Any) -> LayerSpectrum:
    report = analyze({"layer.weight": torch.from_numpy(weight)}, min_evals=1, **how)
    assert report.skipped == ()
    return report.layers[0]


def assert_same(found: LayerSpectrum, expected: LayerSpectrum) -> None:
    """Whether two spectra are one to rounding, the choice of the tail included."""
    assert (found.status == "success") == (expected.status == "success")
    for column in COUNTS:
        assert getattr(found, column) == getattr(expected, column), column
    for column in NUMBERS:
        value = pytest.approx(getattr(expected, column), rel=1e-6, abs=1e-9, nan_ok=True)
        assert getattr(found, column) == value, column


def rotation(side: int, seed: int) -> Array:
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).standard_normal((side, side)))[0])


@modest
@given(weights(), st.sampled_from(["weightwatcher", "plain"]))
def test_transposing_changes_nothing(weight: Array, convention: str) -> None:
    expected = row_of(weight, convention=convention)
    assert_same(row_of(weight.T, convention=convention), expected)
    assert_same(row_of(np.ascontiguousarray(weight.T), convention=convention), expected)


@modest
@given(weights(), st.integers(0, 1000))
def test_the_order_of_neurons_changes_nothing(weight: Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_same(row_of(rng.permutation(rng.permutation(weight, axis=1))), row_of(weight))


@modest
@given(weights(), st.integers(0, 1000))
def test_rotations_of_either_side_change_nothing(weight: Array, seed: int) -> None:
    rows, columns = weight.shape
    rotated = rotation(rows, seed) @ weight @ rotation(columns, seed + 1)
    # Of a deficient matrix the zeros turn into rounding, far below the floor and the rank.
    assert_same(row_of(rotated), row_of(weight))


@modest
@given(weights(), st.integers(0, 1000))
def test_signs_of_rows_and_columns_change_nothing(weight: Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = (rng.choice([-1.0, 1.0], side) for side in weight.shape)
    assert_same(row_of(weight * rows[:, None] * columns), row_of(weight))


@modest
@given(weights(), st.floats(-6, 6))
def test_in_the_plain_convention_the_scale_is_in_the_norms_alone(
    weight: Array, exponent: float
) -> None:
    plain = row_of(weight, convention="plain")
    scaled = row_of(10**exponent * weight, convention="plain")
    for column in (*COUNTS, "weak_rank_loss"):
        assert getattr(scaled, column) == getattr(plain, column), column
    for column in ("alpha", "D", "sigma", "stable_rank", "entropy"):
        value = pytest.approx(getattr(plain, column), rel=1e-6, abs=1e-9, nan_ok=True)
        assert getattr(scaled, column) == value, column
    shift = 2 * exponent
    for column in ("log_norm", "log_spectral_norm"):
        assert getattr(scaled, column) - getattr(plain, column) == pytest.approx(shift, abs=1e-9)
    assert scaled.sv_max == pytest.approx(10**exponent * plain.sv_max, rel=1e-9)


@modest
@given(weights(positions=4))
def test_only_weightwatchers_convention_halves_kernels(kernel: Array) -> None:
    plain = row_of(kernel, convention="plain")
    halved = row_of(kernel)
    assert halved.norm == pytest.approx(plain.norm / 2, rel=1e-12)
    assert halved.spectral_norm == pytest.approx(plain.spectral_norm / 2, rel=1e-12)
    assert halved.sv_max == pytest.approx(plain.sv_max / math.sqrt(2), rel=1e-12)
    assert halved.stable_rank == pytest.approx(plain.stable_rank, rel=1e-12)
    assert (halved.rank_loss, halved.matrix_rank) == (plain.rank_loss, plain.matrix_rank)
    assert plain.norm == pytest.approx((kernel**2).sum(), rel=1e-12)


@modest
@given(weights())
def test_a_linear_layer_has_the_norm_of_both_conventions(weight: Array) -> None:
    for convention in ("weightwatcher", "plain"):
        row = row_of(weight, convention=convention)
        assert row.norm == pytest.approx((weight**2).sum(), rel=1e-12)
        assert row.sv_max == pytest.approx(np.linalg.norm(weight, 2), rel=1e-10)


@modest
@given(weights())
def test_metrics_keep_within_their_bounds(weight: Array) -> None:
    row = row_of(weight, mp_fit=True, randomize=True, convention="plain")
    rank = int(np.linalg.matrix_rank(weight))
    assert row.matrix_rank == rank == row.num_evals - row.rank_loss
    assert 1 - 1e-9 <= row.stable_rank <= rank * (1 + 1e-9)
    assert -1e-9 <= row.entropy <= 1 + 1e-9
    assert 0 <= row.sv_min <= row.sv_max
    assert row.rank_loss <= row.weak_rank_loss <= row.num_evals
    assert row.log_norm >= row.log_spectral_norm - 1e-12
    if row.status == "success":
        assert row.alpha > 1
        assert 0 <= row.D <= 1
        assert 1 <= row.num_pl_spikes <= row.num_evals
        assert row.xmin <= row.xmax == row.spectral_norm
        # The largest term is within the sum, and all of them are at most the largest.
        excess = row.log_alpha_norm - row.alpha_weighted
        assert -1e-9 * row.alpha <= excess <= math.log10(row.num_evals) + 1e-9 * row.alpha
    assert row.max_rand_eval is not None
    assert row.max_rand_eval <= row.norm * (1 + 1e-12)  # a shuffle keeps the norm


@modest
@given(weights(), st.data())
def test_eigenvalues_interlace_when_a_column_is_dropped(weight: Array, data: st.DataObject) -> None:
    rows, columns = weight.shape
    if columns < 2 or rows < columns:
        return
    dropped = np.delete(weight, data.draw(st.integers(0, columns - 1)), axis=1)
    whole = eigenvalues(torch.from_numpy(weight)).numpy()
    fewer = eigenvalues(torch.from_numpy(dropped)).numpy()
    slack = 1e-12 * whole[-1]
    assert (whole[:-1] <= fewer + slack).all()
    assert (fewer <= whole[1:] + slack).all()


@modest
@given(weights())
def test_eigenvalues_sum_to_the_norm_and_their_squares_to_that_of_the_gram(weight: Array) -> None:
    values = eigenvalues(torch.from_numpy(weight)).numpy()
    assert values.sum() == pytest.approx((weight**2).sum(), rel=1e-12)
    assert (values**2).sum() == pytest.approx(((weight.T @ weight) ** 2).sum(), rel=1e-10)
