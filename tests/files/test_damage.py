"""Damaged files: cut short anywhere, bytes changed anywhere: a file opens or says one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lightning_weightwatch.files.checkpoint import BadFile, open_weights
from tests.files.messages import told_about
from tests.files.test_pickles import Trap

FORMS = ["zip", "legacy", "safetensors"]
CHANGED_FILES = 1000


def intact(form: str, folder: Path, trap: Path | None = None) -> bytes:
    """The bytes of a small checkpoint with tied and sparse weights, with a trap or without."""
    path = folder / f"intact.{form}"
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    if form == "safetensors":
        save_file({"w": weight, "b": torch.ones(3, dtype=torch.bfloat16)}, path)
    else:
        state = {"w": weight, "tied": weight, "b": torch.ones(3), "s": torch.eye(3).to_sparse()}
        content = {"epoch": 3, "state_dict": state, **({"trap": Trap(trap)} if trap else {})}
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path.read_bytes()


def opens(path: Path) -> bool:
    """Whether a file opens and says all that it has; False where it is one line instead."""
    messages: list[str] = []
    opened = False
    with catch_bad_files(messages), open_weights(path) as weights:
        opened = True
        for name in weights.names():
            weights.info(name)
            weights.same_as(name)
            with catch_bad_files(messages):
                weights.read(name)
    assert all(message.isprintable() for message in messages)
    return opened


@contextmanager
def catch_bad_files(messages: list[str]) -> Iterator[None]:
    try:
        yield
    except BadFile as error:
        messages.append(str(error))


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_short_anywhere_is_one_line(form: str, tmp_path: Path) -> None:
    whole = intact(form, tmp_path)
    path = tmp_path / "cut"
    path.write_bytes(whole)
    assert opens(path)
    lengths = {*range(0, 64), *range(0, len(whole), 7), *range(len(whole) - 40, len(whole))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        assert "trust" not in told_about(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_changed_bytes_opens_or_is_one_line(form: str, tmp_path: Path) -> None:
    whole = intact(form, tmp_path)
    dice = random.Random(0)
    path = tmp_path / "changed"
    outcomes = set()
    for _ in range(CHANGED_FILES):
        changed = bytearray(whole)
        for _ in range(dice.choice([1, 2, 8])):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        path.write_bytes(changed)
        outcomes.add(opens(path))
    assert outcomes == {True, False}


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_no_damage_springs_a_trap(form: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    whole = intact(form, tmp_path, trap=marker)
    dice = random.Random(1)
    path = tmp_path / "changed"
    for _ in range(CHANGED_FILES):
        changed = bytearray(whole)
        changed[dice.randrange(len(changed))] = dice.randrange(256)
        path.write_bytes(changed)
        opens(path)
    assert not marker.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {f"intact.{form}", "changed"}
