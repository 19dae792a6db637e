"""On two processes every rank reports the same numbers, those of the whole."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def fitted(script: str, root: Path, *arguments: str) -> list[dict[str, Any]]:
    """What each of two ranks of a fit saw."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tests.callbacks.{script}", str(root), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return fitted("ddp_fit", tmp_path_factory.mktemp("ddp"))


def test_two_processes_ran_and_hold_the_same_weights(ranks: list[dict[str, Any]]) -> None:
    first, second = ranks
    assert first["world_size"] == second["world_size"] == 2
    assert first["weights"] == second["weights"]


def test_our_values_are_equal_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    ours = [
        {key: value for key, value in rank["metrics"].items() if key.startswith("weightwatch/")}
        for rank in ranks
    ]
    assert ours[0] == ours[1]
    assert ours[0]["weightwatch/train_loss"] > 0
    assert ours[0]["weightwatch/alpha_mean"] > 1


def test_the_ranks_differ_where_nobody_reduces(ranks: list[dict[str, Any]]) -> None:
    """So that the equality above is the work of a reduction."""
    assert ranks[0]["metrics"]["train_loss"] != ranks[1]["metrics"]["train_loss"]
    assert ranks[0]["metrics"]["val_loss"] != ranks[1]["metrics"]["val_loss"]


def test_the_validation_value_is_the_mean_over_the_ranks(ranks: list[dict[str, Any]]) -> None:
    local = [rank["metrics"]["val_loss"] for rank in ranks]
    assert ranks[0]["metrics"]["weightwatch/val_metric"] == pytest.approx(sum(local) / 2)


def test_the_norm_is_that_of_the_whole_model(ranks: list[dict[str, Any]]) -> None:
    norm = math.sqrt(sum(ranks[0]["weights"]))
    assert ranks[0]["history"][0][-1]["weight_norm"] == pytest.approx(norm, rel=1e-6)


def test_usage_is_that_of_the_batches_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    expected = ranks[0]["usage_of_all"]
    assert len(expected) == 6
    for rank in ranks:
        for name, value in expected.items():
            assert rank["usage"][name] == pytest.approx(value, rel=1e-5), name


def test_operations_are_those_of_both_processes(ranks: list[dict[str, Any]]) -> None:
    convolutions, head = 36 * 9 * 12 * (1 + 36), 36 * 12 * 4  # of 3 x 4 pixels
    forward, epochs = 2 * (convolutions + head), 2
    assert ranks[0]["usage"]["run_flops"] == forward * epochs * (3 * 48 + 32)


def test_trials_report_the_mean_over_the_ranks(ranks: list[dict[str, Any]]) -> None:
    local = [rank["metrics"]["val_loss"] for rank in ranks]
    assert ranks[0]["errors"] == ["", "", "", ""]
    assert ranks[0]["rows"] == ranks[1]["rows"]
    assert ranks[0]["rows"][0][0]["val_loss"] == pytest.approx(sum(local) / 2)


@pytest.mark.soak
def test_with_fsdp2_the_numbers_are_those_of_the_whole_weights(tmp_path: Path) -> None:
    first, second = fitted("fsdp2_fit", tmp_path)
    assert first["history"] == second["history"]
    assert first["local_sizes"] == [800, 800], "each rank holds half of the 40 x 40 weight"
    assert first["counts"] == [480, 40, 1600, 40, 160, 4]
    assert first["names"] == ["net.0", "net.2"]
    norm = first["history"][0][-1]["weight_norm"]
    assert norm == pytest.approx(math.sqrt(first["squares"]), rel=1e-6)
    assert first["refused"], "without a validation nothing is tried"


@pytest.mark.soak
def test_a_metric_that_rank_0_alone_logs_hangs_nobody(tmp_path: Path) -> None:
    first, second = fitted("ddp_fit", tmp_path, "rank zero")
    assert first["weights"] == second["weights"]
    assert "val_loss" in first["metrics"]
    assert "val_loss" not in second["metrics"]
    assert "weightwatch/val_metric" not in first["metrics"]
