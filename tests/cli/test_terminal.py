"""What a person sees at a terminal, and what a pipe gets."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.commands import process

pytest.importorskip("termios", reason="no such terminals here")

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[3\dm")
LAYERS = [f"model.encoder.layers.{number}.self_attention.output" for number in range(50)]


def on_a_terminal(
    stream: str, width: int, *arguments: str, **environment: str
) -> tuple[str, str, int]:
    """Run the command with one of its two streams on a terminal of some width.

    Returns:
        What it sends there, what it sends to the pipe that is the other, and its exit code.
    """
    import fcntl
    import termios

    outside, inside = os.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    }
    other = "stderr" if stream == "stdout" else "stdout"
    with subprocess.Popen(
        [sys.executable, "-m", "lightning_weightwatch", *arguments],
        env={**variables, "TERM": "xterm-256color", **environment},
        **{stream: inside, other: subprocess.PIPE},  # type: ignore[call-overload]
    ) as running:
        os.close(inside)
        shown = b"".join(iter(lambda: _read(outside), b""))
        piped = running.communicate()[0 if other == "stdout" else 1]
    os.close(outside)
    return shown.decode().replace("\r\n", "\n"), piped.decode(), running.returncode


def _read(outside: int) -> bytes:
    try:
        return os.read(outside, 65536)
    except OSError:  # Linux: the other side has closed it
        return b""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("files") / "model.pt"
    torch.save({f"{name}.weight": torch.randn(48, 40) for name in LAYERS}, path)
    return str(path)


@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_is_filled_and_not_overrun(model: str, width: int) -> None:
    shown, piped, code = on_a_terminal("stdout", width, "analyze", model)
    lines = ESCAPE.sub("", shown).split("\n")
    assert (code, piped) == (0, "")
    assert max(map(len, lines)) <= width
    assert "".join(LAYERS) in "".join("".join(line.split()[:1]) for line in lines)
    assert "No room for: " in shown
    assert COLOUR.search(shown) or "\x1b[2m" in shown


def test_no_color_is_honoured(model: str) -> None:
    shown, _, _ = on_a_terminal("stdout", 200, "analyze", model, NO_COLOR="1")
    assert not COLOUR.search(shown)
    assert "No room for: " not in shown


def test_a_bar_is_drawn_on_stderr_where_that_is_a_terminal(model: str) -> None:
    bar, table, code = on_a_terminal("stderr", 80, "analyze", model)
    assert code == 0
    assert "Measuring" in bar
    assert "100%" in bar
    assert "alpha" not in bar
    assert "\x1b" not in table


def test_a_pipe_gets_a_line_for_each_layer_without_codes(tmp_path: Path) -> None:
    names = ["a" * 300, "b.c", "層"]
    torch.save({f"{name}.weight": torch.zeros(8, 8) for name in names}, tmp_path / "model.pt")
    done = process("analyze", str(tmp_path / "model.pt"), COLUMNS="40", FORCE_COLOR="1")
    lines = done.stdout.split("\n")
    assert done.stderr == ""
    assert not any(line.endswith(" ") for line in lines)
    for name in names:
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert line.split() == [name, "linear", "8×8", "8", "–", "–", "0", *line.split()[7:]]
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout


def test_ctrl_c_does_not_wait_for_a_large_matrix(tmp_path: Path) -> None:
    torch.save({"large.weight": torch.randn(6000, 6000)}, tmp_path / "large.pt")
    outside, inside = os.openpty()
    command = [sys.executable, "-m", "lightning_weightwatch", "analyze", str(tmp_path / "large.pt")]
    with subprocess.Popen(
        [*command, "--json", str(tmp_path / "out.json")],
        env={**os.environ, "TERM": "xterm-256color"},
        stdout=subprocess.PIPE,
        stderr=inside,
    ) as running:
        os.close(inside)
        shown = b""
        while b"Measuring" not in shown:
            shown += os.read(outside, 65536)
        time.sleep(0.5)  # into the decomposition, which takes a minute
        running.send_signal(signal.SIGINT)
        shown += b"".join(iter(lambda: _read(outside), b""))
        assert running.wait(timeout=20) == 130
    os.close(outside)
    assert b"Traceback" not in shown
    assert b"\x1b[?25h" in shown  # the cursor is back
    assert [path.name for path in tmp_path.iterdir()] == ["large.pt"]
