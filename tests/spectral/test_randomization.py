"""Shuffled matrices: the definitions on the same shuffles, and WeightWatcher's on others."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.marchenko_pastur import fit_marchenko_pastur
from lightning_weightwatch.spectral.randomization import replicas, shuffled
from lightning_weightwatch.spectral.workers import run_all, run_one
from tests.data.golden_matrices import GOLDEN, build, spectrum

Array = NDArray[np.float64]
# Where WeightWatcher was run with five seeds; without what a shuffle leaves as it is, and without
# the kernel of which it swaps the sides.
COMPARED = sorted(
    GOLDEN.keys()
    - {name for name, golden in GOLDEN.items() if not golden["randomize_seeds"]}
    - {"edge_zeros_50x50", "edge_ones_50x50", "conv_evenk_32x64x2x2"}
)
BULK = ("sigma_mp", "mp_softrank", "W_scale", "bulk_max", "bulk_min")


def randomized(weight: Any, **how: Any) -> LayerSpectrum:
    (row,) = analyze({"layer.weight": torch.as_tensor(weight)}, randomize=True, **how).layers
    return row


def stack_of(array: NDArray[Any]) -> NDArray[Any]:
    """The matrices of a weight, [count, out, in]."""
    return np.moveaxis(array.reshape(*array.shape[:2], -1), -1, 0)


def mixed_spectrum(array: NDArray[Any], seed: int, replica: int) -> Array:
    """The spectrum of the matrices as they are shuffled for the layer, by LAPACK in float64."""
    mixed = run_one(shuffled(stack_of(array), seed=seed, name="layer", replica=replica))
    singular = np.linalg.svd(mixed.astype(float), compute_uv=False)
    return np.sort(singular, axis=None) ** 2 * (0.5 if array.ndim == 4 else 1)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("seed", [0, 7])
def test_the_columns_are_those_of_the_definitions_on_the_same_shuffles(
    name: str, seed: int
) -> None:
    array = build(name)
    row, evals = randomized(array, seed=seed), np.sort(spectrum(array))
    count = 5 if evals.size < 100 else 1
    pooled = np.concatenate([mixed_spectrum(array, seed, replica) for replica in range(count)])
    again = mixed_spectrum(array, seed, count)
    assert row.max_rand_eval == pytest.approx(pooled.max(), rel=1e-9)
    assert row.ww_softrank == pytest.approx(again.max() / evals.max(), rel=1e-9)
    assert row.ww_maxdist == pytest.approx(
        evals.max() - again.max(), rel=1e-6, abs=1e-9 * evals.max()
    )
    assert row.rand_distance == pytest.approx(jensenshannon(evals, again), rel=1e-6)
    sides = array.shape[:2]
    fit = fit_marchenko_pastur(pooled, N=max(sides), M=min(sides))
    assert row.num_traps == row.rand_num_spikes == fit.num_spikes
    for column in BULK:
        assert getattr(row, f"rand_{column}") == pytest.approx(getattr(fit, column), rel=1e-6)


@pytest.mark.parametrize("name", COMPARED)
def test_the_columns_are_near_those_of_weightwatcher(name: str) -> None:
    # Its five draws and our fifteen are of one distribution, so that their means differ by more
    # than five standard errors in one case of ten thousand.
    array, golden = build(name), GOLDEN[name]["randomize_seeds"]
    rows = [randomized(array, seed=seed) for seed in range(15)]
    for column, drawn in golden.items():
        ours = np.array([getattr(row, column) for row in rows], float)
        error = ours.std(ddof=1) * math.sqrt(1 / drawn["n"] + 1 / ours.size)
        least = 0.5 if column == "rand_num_spikes" else 1e-6 * abs(drawn["mean"])
        assert abs(ours.mean() - drawn["mean"]) <= 5 * error + least, (column, ours, drawn)


def test_the_scale_of_shuffled_weights_is_exactly_that_of_weightwatcher() -> None:
    # A shuffle keeps the squared norm, and W_scale follows from it alone.
    for name in COMPARED:
        expected = GOLDEN[name]["randomize"]["rand_W_scale"]
        assert randomized(build(name)).rand_W_scale == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("num_evals", "expected"), [(1, 5), (99, 5), (100, 1), (5000, 1)])
def test_layers_of_few_eigenvalues_are_shuffled_five_times(num_evals: int, expected: int) -> None:
    assert replicas(num_evals) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((120, 99), 6), ((120, 100), 2), ((12, 9, 3, 3), 6), ((12, 9, 4, 3), 2)],
    ids=str,
)
def test_it_is_the_eigenvalues_of_the_layer_that_count(
    shape: tuple[int, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(stack: Array, *, seed: int, name: str, replica: int) -> Any:
        seen.append(replica)
        return shuffled(stack, seed=seed, name=name, replica=replica)

    monkeypatch.setattr("lightning_weightwatch.spectral.measurement.shuffled", counted)
    randomized(torch.randn(shape))
    assert seen == list(range(expected))


def test_a_shuffle_keeps_the_entries_of_each_matrix_and_moves_them() -> None:
    stack = np.random.default_rng(0).standard_normal((3, 20, 30)).astype(np.float32)
    before = stack.copy()
    mixed = run_one(shuffled(stack.transpose(0, 2, 1), seed=0, name="layer", replica=0))
    assert mixed.shape == (3, 30, 20)
    np.testing.assert_array_equal(stack, before)
    for matrix, original in zip(mixed, stack.transpose(0, 2, 1), strict=True):
        np.testing.assert_array_equal(np.sort(matrix, axis=None), np.sort(original, axis=None))
        assert (matrix == original).mean() < 0.02


def shuffle(**change: Any) -> Array:
    how: dict[str, Any] = {"seed": 0, "name": "layer", "replica": 0} | change
    stack = np.tile(np.arange(600.0).reshape(20, 30), (2, 1, 1))
    return run_one(shuffled(stack, **how))


def test_shuffles_differ_by_seed_name_replica_and_matrix_and_by_nothing_else() -> None:
    first = shuffle()
    np.testing.assert_array_equal(first, shuffle())
    others = [shuffle(seed=1), shuffle(name="other"), shuffle(replica=1), first[::-1]]
    assert all((first != other).mean() > 0.9 for other in others)
    alone = shuffled(np.arange(600.0).reshape(1, 20, 30), seed=0, name="layer", replica=0)
    np.testing.assert_array_equal(run_one(alone)[0], first[0])


def test_shuffles_do_not_depend_on_threads_or_layout() -> None:
    stack = np.random.default_rng(0).standard_normal((7, 20, 30))
    fortran = np.asfortranarray(stack)

    def works(array: Array) -> Iterator[Any]:
        return (shuffled(array, seed=3, name=str(i), replica=0) for i in range(4))

    alone = run_all(works(stack), threads=1)
    np.testing.assert_array_equal(run_all(works(stack), threads=3), alone)
    np.testing.assert_array_equal(run_all(works(fortran), threads=3), alone)


def test_every_shuffle_is_as_likely_as_any_other() -> None:
    places = [
        int(run_one(shuffled(np.eye(1, 8)[None], seed=seed, name="layer", replica=0)).argmax())
        for seed in range(1600)
    ]
    # Of 1600 draws 200 each, give or take five standard deviations of a binomial.
    assert max(abs(np.bincount(places, minlength=8) - 200)) < 5 * math.sqrt(1600 / 8 * 7 / 8)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    weight = torch.from_numpy(build("spiked5_400x200"))
    first, second, other = (randomized(weight, seed=seed) for seed in (3, 3, 4))
    assert first == second
    assert first.rand_distance != other.rand_distance
    assert first.max_rand_eval != other.max_rand_eval
    assert (first.alpha, first.norm) == (other.alpha, other.norm)


def test_no_generator_of_the_process_is_touched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    weight = torch.from_numpy(build("gauss_200x100"))
    first = randomized(weight)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert repr(np.random.get_state(legacy=False)) == numpy_state
    torch.rand(3)
    np.random.default_rng(5)
    assert randomized(weight) == first


@pytest.mark.parametrize("shape", [(300, 200), (150, 150), (16, 16, 3, 3)], ids=str)
def test_a_huge_entry_is_a_trap_and_noise_has_none(shape: tuple[int, ...]) -> None:
    noise = 0.1 * np.random.default_rng(11).standard_normal(shape)
    assert randomized(noise).num_traps == 0
    noise[3, 5] = 10.0
    traps = randomized(noise).num_traps
    assert traps is not None
    assert traps >= 1


def test_correlations_are_no_traps_and_end_with_the_shuffle() -> None:
    array = build("spiked5_400x200")
    row = randomized(array, mp_fit=True)
    assert row.num_spikes == 5
    assert row.num_traps == 0
    assert row.ww_softrank is not None
    assert row.ww_softrank < 0.3
    noise = randomized(build("gauss_300x200"))
    assert noise.ww_softrank == pytest.approx(1, abs=0.1)
    assert noise.rand_distance is not None
    assert row.rand_distance is not None
    assert row.rand_distance > 5 * noise.rand_distance


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros((20, 20)),
        lambda: np.ones((20, 20)),
        lambda: np.eye(20),
        lambda: np.eye(1, 20),
    ],
    ids=["zeros", "ones", "identity", "one entry"],
)
def test_degenerate_matrices_have_columns_without_an_exception(make: Callable[[], Array]) -> None:
    row = randomized(make(), min_evals=1)
    assert row.num_traps is not None
    assert row.max_rand_eval is not None
    distance = row.rand_distance
    assert distance is not None
    assert math.isnan(distance) == (row.norm == 0)
    assert math.isnan(distance) or 0 <= distance <= math.sqrt(math.log(2)) + 1e-12
