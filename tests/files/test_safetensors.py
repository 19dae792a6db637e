"""Safetensors files: one tensor at a time, and every fault of a header in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lightning_weightwatch.files.checkpoint import BadFile, open_weights
from tests.files.messages import told_about


def tensor(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def written(path: Path, header: dict[str, Any] | bytes, data: bytes) -> Path:
    """A file written byte by byte, so that it can be wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_tensor_is_a_view_of_the_file_whose_bytes_nobody_changes(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4)}, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with open_weights(tmp_path / "model.safetensors") as weights:
        first, again = weights.read("w"), weights.read("w")
        assert torch.equal(first, torch.ones(4))
        assert first.data_ptr() == again.data_ptr()
        first.zero_()
    assert torch.equal(again, torch.zeros(4)), "still there when the file is closed"
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_names_come_in_their_natural_order_whatever_that_of_the_bytes(tmp_path: Path) -> None:
    names = ["a", "layers.2.w", "layers.10.bias", "layers.10.w", "layers.x", "z9", "z10", "٣"]
    stored = [*names[::-2], *names[-2::-2]]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}, "empty": tensor("F32", [0], 0, 0)}
    header |= {name: tensor("U8", [1], at, at + 1) for at, name in enumerate(stored)}
    with open_weights(written(tmp_path / "model", header, bytes(len(names)))) as weights:
        assert set(weights.names()) == {*names, "empty"}
        assert [name for name in weights.names() if name in names[:-1]] == names[:-1]
        assert weights.ignored == ()
        assert weights.where == ""


@pytest.mark.parametrize(("dtype", "size"), [("F6_E2M3", 3), ("F6_E3M2", 3), ("F4", 2)])
def test_a_dtype_that_torch_cannot_compute_with_fails_its_tensor_alone(
    dtype: str, size: int, tmp_path: Path
) -> None:
    header = {"odd": tensor(dtype, [4], 0, size), "w": tensor("U8", [2], size, size + 2)}
    with open_weights(written(tmp_path / "model", header, bytes([9] * (size + 2)))) as weights:
        info = weights.info("odd")
        assert (info.shape, info.dtype) == ((4,), None)
        assert dtype in str(info.unreadable)
        with pytest.raises(BadFile, match=f"'odd' cannot be read: .*{dtype}.*Leave it out"):
            weights.read("odd")
        assert weights.read("w").tolist() == [9, 9]


def test_a_shape_beyond_what_torch_can_hold_fails_its_tensor_alone(tmp_path: Path) -> None:
    header = {"huge": tensor("F32", [2**63, 0], 0, 0), "w": tensor("U8", [1], 0, 1)}
    with open_weights(written(tmp_path / "model", header, b"\7")) as weights:
        assert weights.info("huge").shape == (2**63, 0)
        with pytest.raises(BadFile, match="'huge' cannot be read"):
            weights.read("huge")
        assert weights.read("w").tolist() == [7]


def test_a_name_keeps_its_control_characters_and_a_message_escapes_them(tmp_path: Path) -> None:
    name = "a\nb\x1b[31m"
    with open_weights(written(tmp_path / "m", {name: tensor("F4", [2], 0, 1)}, b"\0")) as weights:
        assert weights.names() == (name,)
        with pytest.raises(BadFile) as raised:
            weights.read(name)
    assert str(raised.value).isprintable()
    assert r"'a\nb\x1b[31m'" in str(raised.value)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, bytes(6)),
        ({"a": tensor("U8", [4], 0, 4)}, bytes(9)),
        ({"a": tensor("U8", [4], 0, 4)}, bytes(3)),
        ({"a": tensor("F32", [4], 0, 4)}, bytes(4)),
        ({"a": tensor("U8", [2**62, 2**62], 0, 4)}, bytes(4)),
        ({"a": tensor("U8", [-4], 0, 4)}, bytes(4)),
        ({"a": tensor("NEWEST", [4], 0, 4)}, bytes(4)),
        ({"a\n\x1b": tensor("U8", [4], 4, 0)}, bytes(4)),
        ({"a": 1}, b""),
        (b'{"a\nb":', b""),
        (b'{"\xff": 1}', b""),
        (b"{" * 5000, b""),
    ],
)
def test_a_header_that_lies_is_one_line(
    header: dict[str, Any] | bytes, data: bytes, tmp_path: Path
) -> None:
    message = told_about(written(tmp_path / "model.safetensors", header, data))
    assert "damaged or unfinished safetensors file" in message


def test_a_header_longer_than_the_file_is_not_waited_for(tmp_path: Path) -> None:
    for length in (3, 10**6, 99 * 10**6, 2**32 - 1):
        (tmp_path / "model").write_bytes(struct.pack("<Q", length) + b"{}")
        assert "damaged or unfinished" in told_about(tmp_path / "model")


def test_a_file_without_tensors_is_no_file_of_weights(tmp_path: Path) -> None:
    assert "without tensors" in told_about(written(tmp_path / "model", {}, b""))
