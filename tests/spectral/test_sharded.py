"""A model spread over processes has the spectra of the whole model, on every one of them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.spectral.sharded_analysis", str(folder)],
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("spread", ["fsdp", "parallel"])
def test_the_parameters_were_really_spread(ranks: list[Any], spread: str) -> None:
    assert all(sharded[spread] >= 2 for _, sharded in ranks)


@pytest.mark.parametrize("spread", ["fsdp", "parallel"])
def test_sharded_equals_whole(ranks: list[Any], spread: str) -> None:
    for found, _ in ranks:
        assert found[spread] == found["whole"]


def test_all_ranks_find_the_same(ranks: list[Any]) -> None:
    assert ranks[0][0] == ranks[1][0]


def test_every_kind_was_measured(ranks: list[Any]) -> None:
    records, skipped = ranks[0][0]["fsdp"]
    names = {row["name"] for row in records}
    assert {
        *("embedding", "up", "down", "convolution", "normed", "spectral", "table"),
        *(f"attention.in_proj_weight.{part}" for part in "qkv"),
        *(f"lstm.weight_{side}_l0.{gate}" for side in ("ih", "hh") for gate in "ifgo"),
    } <= names
    assert ["head.weight", "tied to embedding.weight"] in skipped
