"""The files that a command writes are whole, or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.cli.commands import printed, refused, saved, with_a_full_disk


def test_a_file_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("measured in vain")

    monkeypatch.setattr("lightning_weightwatch.cli.spectra.analyze", measured)
    file = saved(tmp_path)
    for target, reason in [
        (tmp_path, "folder"),
        (tmp_path / "nowhere" / "a", "No such file"),
        (file, "the file that is read"),
        (f"{file}/a", "Not a directory"),
    ]:
        told = refused(capsys, "analyze", file, "--json", str(target))
        assert "--json" in told
        assert reason in told
    same = [str(tmp_path / "a"), str(tmp_path / "b" / ".." / "a")]
    assert "same file" in refused(capsys, "analyze", file, "--json", same[0], "--csv", same[1])
    assert "same file" in refused(capsys, "analyze", file, "--json", "-", "--csv", "-")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_failed_write_keeps_the_old_file_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "layers.csv"
    assert "48×40" in with_a_full_disk(capsys, target, "describe", saved(tmp_path), "--csv")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_the_file_behind_a_link_is_written_and_the_link_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a.csv")
    printed(capsys, "describe", saved(tmp_path), "--csv", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "a.csv").read_text().startswith("layer_id,")


@pytest.mark.skipif(os.name != "posix", reason="no such modes here")
def test_a_file_that_is_replaced_keeps_its_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "layers.csv"
    target.touch(mode=0o600)
    printed(capsys, "describe", saved(tmp_path), "--csv", str(target))
    assert target.read_text().startswith("layer_id,")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_with_a_name_is_written_to_and_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    printed(capsys, "describe", saved(tmp_path), "--json", str(pipe))
    assert os.read(reader, 65536).startswith(b"{")
    os.close(reader)
    assert pipe.is_fifo()
