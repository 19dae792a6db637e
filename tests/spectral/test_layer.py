"""The metrics of a layer are those of their definitions, deficient and extreme layers included."""

import json
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.convention import CONVENTIONS, ConventionName
from lightning_weightwatch.spectral.layer import LayerSpectrum, layer_spectrum

Array = NDArray[np.float64]
NAMES: list[ConventionName] = ["weightwatcher", "plain"]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def layer(weight: NDArray[Any] | Tensor, **how: Any) -> LayerSpectrum:
    """The row of one weight."""
    how = {"min_evals": 1, "mp_fit": True, "randomize": True} | how
    report = analyze({"layer.weight": torch.as_tensor(weight)}, **how)
    assert report.skipped == ()
    (row,) = report.layers
    return row


def from_evals(evals: Any, convention: ConventionName = "weightwatcher") -> LayerSpectrum:
    values = np.sort(np.asarray(evals, dtype=float))[None]
    return layer_spectrum(
        values, name="layer", kind="linear", N=values.size, convention=CONVENTIONS[convention]
    )


def of_rank(rank: int) -> Callable[[int, int], Array]:
    def make(rows: int, columns: int) -> Array:
        return np.asarray(drawn(rows, rank) @ drawn(rank, columns, seed=1))

    return make


def duplicated_rows(rows: int, columns: int) -> Array:
    weight = drawn(rows, columns)
    weight[rows // 2 :] = weight[: rows - rows // 2]
    return weight


def dead_rows(rows: int, columns: int) -> Array:
    weight = drawn(rows, columns)
    weight[5:] = 0
    return weight


def dead_columns(rows: int, columns: int) -> Array:
    return dead_rows(columns, rows).T


def one_entry(rows: int, columns: int) -> Array:
    weight = np.zeros((rows, columns))
    weight[3, 7] = -0.2
    return weight


def graded(rows: int, columns: int) -> Array:
    """Singular values from 1 down to 1e-20, past what float64 can tell from 0."""
    side = min(rows, columns)
    left, right = (np.linalg.qr(drawn(n, side, seed=n))[0] for n in (rows, columns))
    return np.asarray(left * np.geomspace(1, 1e-20, side) @ right.T)


def barely_regular(rows: int, columns: int) -> Array:
    """Full rank, with a smallest singular value of 1e-9."""
    side = min(rows, columns)
    left, right = (np.linalg.qr(drawn(n, side, seed=n))[0] for n in (rows, columns))
    values = np.linspace(2, 1, side)
    values[-1] = 1e-9
    return np.asarray(left * values @ right.T)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        *[of_rank(1), of_rank(2), of_rank(13), duplicated_rows, dead_rows, dead_columns],
        *[one_entry, graded, barely_regular],
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("convention", NAMES)
def test_ranks_of_deficient_matrices_are_those_of_numpy(
    make: Callable[[int, int], Array],
    shape: tuple[int, int],
    dtype: type[np.floating[Any]],
    convention: ConventionName,
) -> None:
    weight = make(*shape).astype(dtype)
    row = layer(weight, convention=convention)
    rank = int(np.linalg.matrix_rank(weight.astype(float)))
    singular = np.linalg.svd(weight.astype(float), compute_uv=False)
    assert row.matrix_rank == rank
    assert row.rank_loss == min(shape) - rank
    assert row.sv_max == pytest.approx(singular[0], rel=1e-12)
    assert row.sv_min == pytest.approx(singular[-1], rel=1e-6, abs=1e-14 * singular[0])
    shares = singular**2 / (singular**2).sum()
    shares = shares[shares > 0] + (1e-10 if convention == "weightwatcher" else 0)
    expected = -(shares * np.log(shares)).sum() / math.log(rank) if rank > 1 else 0.0
    assert row.entropy == pytest.approx(expected, rel=1e-6)
    assert row.weak_rank_loss >= row.rank_loss


@pytest.mark.parametrize(
    ("convention", "scale", "least"), [("weightwatcher", 0.5, max), ("plain", 1, min)]
)
def test_a_dead_kernel_position_is_a_loss_of_rank(
    convention: ConventionName, scale: float, least: Callable[..., float]
) -> None:
    kernel = drawn(12, 8, 2, 3)
    kernel[:, :, 1, 2] = 0
    row = layer(kernel, convention=convention)
    singular = np.linalg.svd(kernel.transpose(2, 3, 0, 1).reshape(-1, 12, 8), compute_uv=False)
    assert (row.rank_loss, row.matrix_rank, row.rf, row.num_evals) == (8, 40, 6, 48)
    assert row.sv_max == pytest.approx(math.sqrt(scale) * singular.max(), rel=1e-12)
    smallest = least(values.min() for values in singular)
    assert row.sv_min == pytest.approx(math.sqrt(scale) * smallest, rel=1e-9)
    assert row.norm == pytest.approx(scale * (kernel**2).sum(), rel=1e-12)


@pytest.mark.parametrize("rank", [3, 20, 60])
def test_float32_tells_ranks_of_weights_that_are_well_conditioned(rank: int) -> None:
    assert layer(of_rank(rank)(200, 60).astype(np.float32), dtype=torch.float32).matrix_rank == rank


@pytest.mark.parametrize("convention", NAMES)
@pytest.mark.parametrize("scale", [1, 100])
def test_in_float32_the_rounding_of_a_deficient_layer_is_no_data(
    scale: float, convention: ConventionName
) -> None:
    weight = scale * of_rank(10)(100, 60).astype(np.float32)
    in_float64 = layer(weight, convention=convention)
    in_float32 = layer(weight, convention=convention, dtype=torch.float32)
    assert in_float32.num_pl_spikes == in_float64.num_pl_spikes
    assert in_float32.alpha == pytest.approx(in_float64.alpha, rel=1e-3)
    assert pytest.approx(in_float64.D, rel=1e-3) == in_float32.D


@pytest.mark.parametrize("convention", NAMES)
def test_a_layer_of_zeros_has_lost_all_of_its_rank(convention: ConventionName) -> None:
    row = layer(np.zeros((30, 20)), convention=convention)
    assert (row.rank_loss, row.weak_rank_loss, row.matrix_rank) == (20, 20, 0)
    assert (row.norm, row.sv_max, row.sv_min) == (0.0, 0.0, 0.0)
    unknown = (row.log_norm, row.log_spectral_norm, row.stable_rank, row.entropy, row.alpha)
    assert all(map(math.isnan, unknown))


def test_the_metrics_are_those_of_their_definitions() -> None:
    evals = np.sort(np.random.default_rng(1).lognormal(0, 2, 50))
    row = from_evals(evals)
    assert row.norm == pytest.approx(math.fsum(evals), rel=1e-14)
    assert row.log_norm == pytest.approx(math.log10(math.fsum(evals)), rel=1e-12)
    assert row.spectral_norm == row.lambda_max == row.xmax == evals[-1]
    assert row.log_spectral_norm == pytest.approx(math.log10(evals[-1]))
    assert row.stable_rank == pytest.approx(math.fsum(evals) / evals[-1], rel=1e-12)
    assert row.alpha_weighted == pytest.approx(row.alpha * math.log10(evals[-1]), rel=1e-12)
    expected = math.log10(math.fsum(evals**row.alpha))
    assert row.log_alpha_norm == pytest.approx(expected, rel=1e-12)
    assert row.num_pl_spikes == (evals >= row.xmin).sum()


def test_log_alpha_norm_does_not_overflow() -> None:
    row = from_evals([1e30] * 7 + [1.001e30])
    assert row.alpha > 1000
    exact = row.alpha * 30 + math.log10(7 + 1.001**row.alpha)
    assert row.log_alpha_norm == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("convention", NAMES)
def test_equal_eigenvalues_have_the_entropy_one(convention: ConventionName) -> None:
    assert from_evals([4.0] * 30, convention).entropy == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize(
    ("alpha", "warning"), [(1.5, "over-trained"), (3, ""), (7, "under-trained")]
)
def test_the_warning_is_that_of_the_exponent(alpha: float, warning: str) -> None:
    shares = (np.arange(200) + 0.5) / 200
    row = from_evals((1 - shares) ** (-1 / (alpha - 1)))
    assert row.alpha == pytest.approx(alpha, rel=0.01)
    assert row.warning == warning


@pytest.mark.parametrize("gain", [1.0, 0.3, 40.0])
@pytest.mark.parametrize("init", [nn.init.orthogonal_, nn.init.eye_])
@pytest.mark.parametrize("convention", NAMES)
def test_an_orthogonal_layer_has_no_tail_to_fit(
    init: Callable[[Tensor], Tensor], gain: float, convention: ConventionName
) -> None:
    row = layer(gain * init(torch.empty(64, 64)), convention=convention)
    assert row.status == "the eigenvalues are all equal"
    assert (row.warning, row.num_pl_spikes) == ("", 0)
    assert math.isnan(row.alpha)


def test_the_floor_of_weightwatcher_is_absolute_and_the_plain_one_is_relative() -> None:
    weight = 1e-5 * drawn(60, 40)
    assert layer(weight).status == "fewer than 2 eigenvalues above 1e-05"
    assert layer(weight).weak_rank_loss == 40
    plain = layer(weight, convention="plain")
    assert (plain.status, plain.weak_rank_loss) == ("success", 0)


@pytest.mark.parametrize("convention", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "weight",
    [
        np.ones((1, 1)), drawn(1, 1), drawn(1, 40), drawn(40, 1), drawn(8, 1, 3, 3),
        drawn(40, 30, 1, 1), drawn(1, 1, 3, 3), np.zeros((20, 20)), np.zeros((8, 8, 3, 3)),
        1e30 * drawn(20, 20), 1e-30 * drawn(20, 20), 1e100 * drawn(20, 20), 1e-100 * drawn(20, 20),
        np.geomspace(1e-60, 1e60, 40) * drawn(50, 40), np.diag(np.geomspace(1e-30, 1e30, 40)),
        np.full((30, 20), 1e-3), one_entry(30, 20), drawn(9000, 2), drawn(2, 9000),
    ],
)  # fmt: skip
def test_hostile_weights_have_a_row_of_plain_numbers(
    weight: Array, dtype: torch.dtype, convention: ConventionName
) -> None:
    row = layer(weight, dtype=dtype, convention=convention)
    record = row.record()
    assert {type(value) for value in record.values()} <= {str, int, float}
    assert json.loads(json.dumps(record)).keys() == record.keys()
    assert list(record) == [
        field.name for field in fields(row) if field.name not in ("slice_id", "evals")
    ]
    singular = np.linalg.svd(
        weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1), compute_uv=False
    )
    halved = 0.5 if convention == "weightwatcher" and weight.ndim == 4 else 1
    assert row.sv_max == pytest.approx(math.sqrt(halved) * singular.max(), rel=1e-4)
    assert row.norm == pytest.approx(halved * (singular**2).sum(), rel=1e-4)
    assert not any(math.isinf(value) for value in record.values() if isinstance(value, float))
    if row.status != "success":
        assert math.isnan(row.alpha)
        assert row.num_pl_spikes == 0
        assert row.warning == ""
    else:
        assert row.alpha > 1
        assert 0 <= row.D <= 1


def test_a_column_that_was_not_asked_for_is_not_there() -> None:
    plain = layer(drawn(40, 30), mp_fit=False, randomize=False).record()
    bulk = layer(drawn(40, 30), randomize=False).record()
    both = layer(drawn(40, 30)).record()
    of_bulk = {
        "sigma_mp",
        "bulk_max",
        "bulk_min",
        "num_spikes",
        "mp_softrank",
        "W_scale",
        "mp_status",
    }
    assert bulk.keys() - plain.keys() == of_bulk
    of_random = {"rand_distance", "ww_softrank", "ww_maxdist", "max_rand_eval", "num_traps"}
    assert both.keys() - bulk.keys() == of_random | {f"rand_{column}" for column in of_bulk}
    assert layer(drawn(8, 9, 2, 1), pool=True).slice_id is None


def test_positions_by_themselves_are_rows_with_their_number() -> None:
    kernel = drawn(12, 8, 2, 3)
    report = analyze({"layer.weight": torch.from_numpy(kernel)}, pool=False)
    assert [(row.name, row.slice_id, row.num_evals, row.rf) for row in report.layers] == [
        ("layer", position, 8, 6) for position in range(6)
    ]
    norms = (kernel**2).sum((0, 1)).ravel() * 6 / 2  # WeightWatcher's factor: positions / 2
    assert [row.norm for row in report.layers] == pytest.approx(norms.tolist(), rel=1e-12)
