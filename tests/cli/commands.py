"""The command, run within the test or as the process of its own that a person starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_weightwatch.cli.main import main


def network() -> nn.Sequential:
    """Layers of several kinds; of its four weights one has too few eigenvalues, one is 1-D."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(48, 40), nn.LayerNorm(40), nn.Conv2d(8, 6, 3), nn.Linear(40, 3), nn.Linear(64, 40)
    )


def saved(folder: Path, name: str = "model.pt") -> str:
    """The path of a file with the state dict of `network`."""
    torch.save(network().state_dict(), folder / name)
    return str(folder / name)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a person is told: one line on stderr, exit code 2 and nothing on stdout."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return the_line(said.err)


def the_line(stderr: str) -> str:
    (line,) = stderr.splitlines()
    before, _, message = line.partition("lightning-weightwatch: error: ")
    assert before == ""
    assert message.isprintable()
    return message


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints; nothing of it on stderr."""
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process, its stdout and stderr two pipes."""
    return subprocess.run(
        [sys.executable, "-m", "lightning_weightwatch", *arguments],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def unread(*arguments: str) -> tuple[int, bytes]:
    """The exit code and the stderr of a process whose reader goes away at once."""
    command = [sys.executable, "-m", "lightning_weightwatch", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        said = running.stderr.read()
        return running.wait(), said


def with_a_full_disk(capsys: pytest.CaptureFixture[str], target: Path, *arguments: str) -> str:
    """What a command prints that fails to write over a file, which is as it was."""
    target.write_text("old")
    beside = sorted(target.parent.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", _full)
        assert main([*arguments, str(target)]) == 2
    said = capsys.readouterr()
    assert "No space left" in said.err
    assert target.read_text() == "old"
    assert sorted(target.parent.iterdir()) == beside
    return said.out


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def help_of(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The help of a command, which fits a terminal of 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    return text
