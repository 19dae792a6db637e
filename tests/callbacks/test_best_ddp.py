"""On two processes the best weights are those of the mean over the ranks, on both or on none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.callbacks.best_ddp_fit import BEST, VALUES, digest
from tests.callbacks.fits import Perceptron
from tests.callbacks.test_ddp import fitted

Ranks = list[dict[str, Any]]
KEEPS = "OverfittingMonitor keeps the last weights, not those of its best epoch, 3: "


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("best_ddp")


@pytest.fixture(scope="module")
def fits(root: Path) -> Ranks:
    return fitted("best_ddp_fit", root)


@pytest.fixture(scope="module")
def ranks(fits: Ranks) -> Ranks:
    """Of the fit that overfits."""
    return [rank["overfitting"] for rank in fits]


def test_each_rank_alone_would_take_another_epoch_for_the_best(ranks: Ranks) -> None:
    """So that the agreement below is the work of a reduction."""
    means = [sum(pair) / 2 for pair in zip(*VALUES, strict=True)]
    assert [curve.index(min(curve)) for curve in (*VALUES, means)] == [BEST - 1, BEST + 1, BEST]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    assert [entry["val_metric"] for entry in ranks[0]["history"]] == means[: ranks[0]["epochs"]]


@pytest.mark.parametrize(
    "seen", ["report", "history", "best_epoch", "best_checkpoint", "diagnosis", "warnings"]
)
def test_the_ranks_see_the_same(seen: str, ranks: Ranks) -> None:
    assert ranks[0][seen] == ranks[1][seen]


def test_the_best_epoch_is_that_of_the_mean_and_its_checkpoint_is_found(
    root: Path, ranks: Ranks
) -> None:
    assert ranks[1]["best_epoch"] == BEST
    best = root / "overfitting" / "kept" / f"epoch={BEST}.ckpt"
    assert ranks[1]["best_checkpoint"] == str(best)
    assert f"kept in {best.name}." in ranks[1]["diagnosis"]
    assert digest(torch.load(best, weights_only=True)["state_dict"]) == ranks[1]["of_epoch"][BEST]


def test_the_alarm_ends_the_fit_in_the_same_epoch_on_both_ranks(ranks: Ranks) -> None:
    """Rank 1 alone would sound it an epoch later."""
    for rank in ranks:
        assert [entry["overfit_alarm"] for entry in rank["history"]] == [0, 0, 0, 0, 0, 1]
        assert rank["stopped"] == 5
        assert rank["epochs"] == 6 < len(VALUES[0])


def test_the_best_weights_are_back_on_both_ranks(ranks: Ranks) -> None:
    first, second = ranks
    assert first["of_epoch"] == second["of_epoch"]
    assert len(set(first["of_epoch"])) == 6
    assert first["weights"] == second["weights"] == first["of_epoch"][BEST]


def test_rank_0_alone_writes_best_pt_at_each_new_best(root: Path, ranks: Ranks) -> None:
    file = root / "overfitting" / "weightwatch" / "best.pt"
    assert [rank["written"] for rank in ranks] == [BEST + 1, 0]
    assert list(file.parent.iterdir()) == [file]
    saved = torch.load(file, weights_only=True)
    Perceptron().load_state_dict(saved)
    assert digest(saved) == ranks[0]["of_epoch"][BEST]


@pytest.mark.parametrize(
    ("fit", "where", "warned"),
    [
        ("disk full", "best", "OverfittingMonitor could not write best.pt: OSError: the disk"),
        ("resumed", "best", ""),
        ("unreadable on rank 0", "last", f"{KEEPS}OSError: the disk is gone"),
        ("unreadable on rank 1", "last", f"{KEEPS}BadFile: another process could not load"),
        ("no memory on rank 0", "last", f"{KEEPS}MemoryError: no memory"),
        ("no memory on rank 1", "last", f"{KEEPS}BadFile: another process could not load"),
        ("deleted", "last", f"{KEEPS}BadFile: they are not in memory"),
    ],
)
def test_the_best_weights_come_back_on_both_ranks_or_on_none(
    fit: str, where: str, warned: str, fits: Ranks
) -> None:
    first, second = (rank[fit] for rank in fits)
    assert first["best"] == second["best"] != first["last"] == second["last"]
    assert first["weights"] == second["weights"] == first[where]
    assert first["best_epoch"] == second["best_epoch"] == BEST
    assert first["best_checkpoint"] == second["best_checkpoint"]
    assert len(first["warnings"]) == bool(warned)
    assert "".join(first["warnings"]).startswith(warned)
    assert second["warnings"] == [], "rank 0 speaks for all"


@pytest.fixture(scope="module")
def sharded_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("best_fsdp2")


@pytest.fixture(scope="module")
def sharded(sharded_root: Path) -> Ranks:
    return fitted("best_fsdp2_fit", sharded_root)


@pytest.mark.soak
@pytest.mark.parametrize("fit", ["sharded", "gathered"])
def test_with_fsdp2_the_best_weights_are_kept_whole_and_put_back(
    fit: str, sharded_root: Path, sharded: Ranks
) -> None:
    """Also where a validation leaves the weights gathered, whose shards then have to change."""
    first, second = (rank[fit] for rank in sharded)
    assert any(first["gathered"]) == (fit == "gathered")
    assert first["of_epoch"] == second["of_epoch"]
    assert first["weights"] == second["weights"] == first["of_epoch"][BEST]
    assert first["weights"] != first["of_epoch"][-1]
    assert first["warnings"] == second["warnings"] == []
    (file,) = (sharded_root / fit / "weightwatch").iterdir()
    saved = torch.load(file, weights_only=True)
    Perceptron().load_state_dict(saved)
    assert digest(saved) == first["of_epoch"][BEST]


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["folders", "files"])
def test_with_fsdp2_a_resumed_fit_reads_the_best_weights_from_a_file(
    kind: str, sharded_root: Path, sharded: Ranks
) -> None:
    """A folder of shards is not read; that is said, and the last weights stay."""
    first, second = (rank[kind] for rank in sharded)
    best = sharded_root / kind / f"epoch={BEST}.ckpt"
    assert best.is_dir() == (kind == "folders")
    for seen in (first, second, first["first"], second["first"]):
        assert seen["best_checkpoint"] == str(best)
        assert best.exists()
    kept = "last" if kind == "folders" else "best"
    assert first["last"] != first["best"]
    assert first["weights"] == second["weights"] == first[kept]
    assert [warned.startswith(KEEPS) for warned in first["warnings"]] == [True] * (kept == "last")
    assert second["warnings"] == []
