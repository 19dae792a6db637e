"""On two processes a trial is of the whole validation, and ends on both at the same place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.callbacks.test_ddp import fitted

Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Ranks:
    return fitted("ddp_trial", folder)


def rows(rank: dict[str, Any], trial: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rank["trials"][trial]["rows"]}


def expected(ranks: Ranks, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Losses and sizes of the batches of both ranks, and the share that is classified right."""
    parts = [rank["expected"] for rank in ranks]
    losses = np.concatenate([part[name]["losses"] for part in parts])
    sizes = np.concatenate([part["sizes"] for part in parts]).astype(np.float64)
    return losses, sizes, sum(part[name]["right"] for part in parts) / sizes.sum()


TRIED = [
    ("last", "baseline"),
    ("last", "int8_absmax"),
    ("last", "int4_absmax"),
    ("inputs", "baseline"),
    ("inputs", "int8_absmax_a4_minmax"),
    ("best", "baseline"),
    ("best", "pruned50"),
    ("best", "pruned50_wanda"),
]


def test_rows_are_equal_on_both_ranks(ranks: Ranks) -> None:
    first, second = ranks
    for trial in first["trials"]:
        assert rows(first, trial) == rows(second, trial)
        assert first["trials"][trial]["monitor"] == "val_loss"


def test_no_bit_of_the_model_differs_after_any_trial(ranks: Ranks) -> None:
    for rank in ranks:
        assert len(rank["digests"]) == 7
        assert len(set(rank["digests"])) == 1


@pytest.mark.parametrize(("trial", "name"), TRIED)
def test_metrics_are_those_of_the_batches_of_both_ranks(
    trial: str, name: str, ranks: Ranks
) -> None:
    losses, sizes, right = expected(ranks, f"{trial} {name}")
    metrics = rows(ranks[0], trial)[name]["metrics"]
    assert metrics["val_loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
    assert metrics["val_acc"] == pytest.approx(right, rel=1e-5)
    local = np.average(losses[:7], weights=sizes[:7])
    assert metrics["val_loss"] != pytest.approx(local, rel=1e-3), "else the test tells nothing"


@pytest.mark.parametrize(("trial", "name"), [pair for pair in TRIED if pair[1] != "baseline"])
def test_intervals_use_the_batches_of_both_ranks(trial: str, name: str, ranks: Ranks) -> None:
    """Batches are the sampling units: Cochran, Sampling Techniques, 3rd ed., 6.4."""
    baseline, sizes, _ = expected(ranks, f"{trial} baseline")
    losses, _, _ = expected(ranks, f"{trial} {name}")
    differences, count = losses - baseline, len(sizes)
    assert count == 14
    mean = np.average(differences, weights=sizes)
    residuals = sizes * (differences - mean)
    error = math.sqrt(count / (count - 1) * residuals @ residuals) / sizes.sum()
    interval = stats.t.interval(0.95, count - 1, loc=mean, scale=error)
    found = rows(ranks[0], trial)[name]["interval"]
    assert found == pytest.approx(interval, abs=1e-5 * np.abs(baseline).max())


def test_the_best_weights_are_tried_on_both_ranks(ranks: Ranks) -> None:
    values = [
        rows(ranks[1], trial)["baseline"]["metrics"]["val_loss"] for trial in ("best", "last")
    ]
    assert values[1] > 1.5 * values[0], "else the test tells nothing"


def test_wanda_goes_by_the_inputs_of_both_ranks(ranks: Ranks) -> None:
    """`test_metrics_are_those...` has the whole; with those of one rank other weights go."""
    found = rows(ranks[0], "best")["pruned50_wanda"]["metrics"]["val_loss"]
    losses, sizes, _ = expected(ranks, "best pruned50_wanda, of one rank")
    assert found != pytest.approx(np.average(losses, weights=sizes), rel=1e-4)


def test_activations_are_quantized_by_the_ranges_of_both_ranks(ranks: Ranks) -> None:
    """With those of one rank it would be another loss."""
    found = rows(ranks[0], "inputs")["int8_absmax_a4_minmax"]["metrics"]["val_loss"]
    losses, sizes, _ = expected(ranks, "inputs of one rank")
    assert found != pytest.approx(np.average(losses, weights=sizes), rel=1e-4)


def test_an_evaluation_that_raises_is_a_row_and_the_next_one_is_whole(ranks: Ranks) -> None:
    for rank in ranks:
        faulty, sound = rows(rank, "faulty"), rows(rank, "few")
        assert [row["error"] for row in faulty.values()] == ["", "ValueError: half-way", ""]
        assert faulty["int8"]["metrics"] == {}
        assert faulty["baseline"] == sound["baseline"]
        assert faulty["int6"] == sound["int6"]


def test_a_limit_of_evaluations_ends_both_at_the_same_row(ranks: Ranks) -> None:
    for rank in ranks:
        assert list(rows(rank, "few")) == ["baseline", "int8", "int6"]
        assert rank["trials"]["few"]["stopped"] == "max_evaluations=3"


def test_the_clock_of_one_rank_ends_both(ranks: Ranks) -> None:
    for rank in ranks:
        assert list(rows(rank, "hurried")) == ["baseline"]
    assert [rank["trials"]["hurried"]["stopped"] for rank in ranks] == [
        "another process has reached its limit",
        "max_seconds=1e-09",
    ]


def test_files_are_written_once_and_by_the_first_rank(ranks: Ranks, folder: Path) -> None:
    logs = folder / "lightning_logs" / "version_0"
    names = [
        f"{prefix}/{area}{ending}"
        for prefix, area in (
            ("weightwatch", "quantization"),
            ("weightwatch", "pruning"),
            ("inputs", "quantization"),
            ("few", "quantization"),
            ("hurried", "quantization"),
            ("faulty", "quantization"),
        )
        for ending in (".jsonl", ".csv", "_layers.csv")
    ]
    assert [path for path in ranks[0]["written"] if logs in Path(path).parents] == [
        str(logs / name) for name in names
    ]
    assert ranks[1]["written"] == []
    assert all((logs / name).is_file() for name in names)
