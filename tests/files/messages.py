"""What a person is told about a file that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_weightwatch.files.checkpoint import BadFile, open_weights


def told_about(path: Path | str, *, trust: bool = False) -> str:
    """The message of the file's BadFile, which is one printable line of two sentences or more."""
    with pytest.raises(BadFile) as raised:
        open_weights(path, trust=trust)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message.replace(str(path), "")) < 450
    reason, _, advice = message.partition(". ")
    assert reason
    assert advice.endswith(".")
    return message
