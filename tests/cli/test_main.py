"""What the command says of itself, how it refuses, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import lightning_weightwatch
from lightning_weightwatch.cli import spectra
from lightning_weightwatch.cli.main import main
from tests.cli.commands import help_of, process, refused, saved, unread


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: COMMAND"),
        (["meditate"], "'analyze', 'describe'"),
        (["analyze"], "required: FILE"),
        (["analyze", "--layers", "net.0", "model.pt"], "FILE, before any --layers"),
        (["analyze", "model.pt", "--bogus"], "--bogus"),
        (["analyze", "model.pt", "--layer", "net"], "--layer"),
        (["analyze", "model.pt", "--layers"], "--layers: expected at least one"),
        (["analyze", "model.pt", "--min-evals", "many"], "integer of 1 or more, got 'many'"),
        (["analyze", "model.pt", "--min-evals", "0"], "integer of 1 or more, got '0'"),
        (["analyze", "model.pt", "--seed=-1"], "integer of 0 or more, got '-1'"),
        (["analyze", "model.pt", "--dtype", "float16"], "'float64', 'float32'"),
        (["analyze", "model.pt", "--convention", "mine"], "'weightwatcher', 'plain'"),
        (["analyze", "model.pt", "--kinds", "liner"], "linear, embedding"),
        (["analyze", "model.pt", "--device", "abacus"], "'abacus'"),
        (["describe", "model.pt", "--mp-fit"], "--mp-fit"),
        (["describe", "model.pt", "--kinds", "a\x1b[31m\nb"], "--kinds"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    arguments: Sequence[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path)
    assert told in refused(capsys, *arguments)


@pytest.mark.parametrize("command", ["analyze", "describe"])
def test_help_fits_a_terminal_of_80_columns_and_names_every_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(capsys, command)
    assert f"usage: lightning-weightwatch {command} FILE [options]" in text
    for option in ("--layers", "--kinds", "--min-evals", "--json", "--csv", "--trust"):
        assert option in text
    assert ("--mp-fit" in text) == (command == "analyze")
    assert "<" not in text  # the name of a Python function or type


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    expected = f"lightning-weightwatch {lightning_weightwatch.__version__}\n"
    assert capsys.readouterr().out == expected


HEAVY = ["lightning", "matplotlib", "tensorboard", "torchmetrics"]
LOADED = """
import sys
from lightning_weightwatch.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
print(*(name for name in {names!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("work", [False, True], ids=["--help", "analyze"])
def test_no_command_loads_what_it_does_not_need(work: bool, tmp_path: Path) -> None:
    arguments = ["analyze", saved(tmp_path)] if work else ["analyze", "--help"]
    code = LOADED.format(arguments=arguments, names=[*HEAVY, "torch"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == (["torch"] if work else [])


def test_ctrl_c_ends_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(spectra, "select", interrupt)
    output = tmp_path / "layers.json"
    assert main(["analyze", saved(tmp_path), "--layers", "0", "--json", str(output)]) == 130
    assert "".join(capsys.readouterr()) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]


def test_a_fault_of_ours_is_not_taken_for_one_of_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(spectra, "select", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["describe", saved(tmp_path), "--layers", "0"])


def test_too_little_memory_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(spectra, "select", exhausted)
    assert "more memory" in refused(capsys, "describe", saved(tmp_path), "--layers", "0")


@pytest.mark.skipif(sys.platform == "win32", reason="no closed pipes like this")
def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path) -> None:
    assert unread("describe", saved(tmp_path)) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_behind_stdout_is_told_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_weightwatch", "describe", saved(tmp_path)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_stdout_and_stderr_and_the_exit_code_of_a_process(tmp_path: Path) -> None:
    done = process("describe", saved(tmp_path), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "48×40" in done.stdout
    missing = process("describe", str(tmp_path / "nothing.pt"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "no such file" in missing.stderr
