"""Which files open, which do not, and what is said of those that do not."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_weightwatch.files.checkpoint import BadFile, open_weights
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader
from tests.files.messages import told_about

WEIGHTS = {"net.weight": torch.arange(6.0).reshape(2, 3), "net.bias": torch.tensor([1.0, -2.0])}


def saved(path: Path, form: str, content: Any = None) -> Path:
    """Weights, or other content, in one of the three formats."""
    content = WEIGHTS if content is None else content
    if form == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def all_values(path: Path, *, trust: bool = False) -> dict[str, Tensor]:
    with open_weights(path, trust=trust) as weights:
        return {name: weights.read(name).clone() for name in weights.names()}


FORMS = pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
EXTENSIONS = ["ckpt", "pt", "pth", "bin", "safetensors", "txt", ""]


@FORMS
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_content_tells_the_format_and_the_extension_does_not(
    form: str, extension: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / f"model.{extension}", form)
    torch.testing.assert_close(all_values(path), WEIGHTS, rtol=0, atol=0)


@FORMS
@pytest.mark.parametrize("name", ["Übung 日本.pt", "line\nfeed.pt", "-.pt"])
def test_a_path_may_have_any_characters(form: str, name: str, tmp_path: Path) -> None:
    saved(tmp_path / "plain.pt", form).rename(tmp_path / name)
    assert set(all_values(tmp_path / name)) == set(WEIGHTS)


def test_a_path_that_is_not_unicode_is_read_or_to_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.pt"
    for form in ["zip", "legacy"]:
        saved(tmp_path / "plain.pt", form).rename(path)
        assert set(all_values(path)) == set(WEIGHTS)
    saved(tmp_path / "plain.pt", "safetensors").rename(path)
    assert "Rename it." in told_about(path)


@FORMS
def test_shapes_and_dtypes_are_known_without_a_value_read(form: str, tmp_path: Path) -> None:
    content = {
        "half": torch.zeros(3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "complex": torch.zeros(2, dtype=torch.complex64),
    }
    if form != "legacy":  # torch writes float8 into its old format and cannot read it back
        content["eighth"] = torch.zeros(2, 2, dtype=torch.float8_e4m3fn)
    with open_weights(saved(tmp_path / "model", form, content)) as weights:
        assert set(weights.names()) == set(content)
        for name, tensor in content.items():
            info = weights.info(name)
            assert (info.shape, info.dtype) == (tuple(tensor.shape), tensor.dtype)
            assert info.unreadable is None
            assert torch.equal(weights.read(name).to(tensor.dtype), tensor)


def test_the_weights_of_a_lightning_checkpoint_are_those_of_the_module(tmp_path: Path) -> None:
    model = Perceptron()
    fit = trainer([], tmp_path, max_epochs=1)
    fit.fit(model, train_loader(), val_loader())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    with open_weights(tmp_path / "last.ckpt") as weights:
        assert weights.where == "state_dict"
        assert weights.names() == tuple(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(weights.read(name), tensor)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tied_weights_are_known_by_the_first_name(form: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(3, 5))
    model[1].weight = model[0].weight
    path = saved(tmp_path / "tied.pt", form, model.state_dict())
    with open_weights(path) as weights:
        ties = {name: weights.same_as(name) for name in weights.names()}
    assert ties == {"0.weight": None, "1.weight": "0.weight", "2.weight": None, "2.bias": None}


@FORMS
def test_a_closed_file_gives_no_tensor(form: str, tmp_path: Path) -> None:
    with open_weights(saved(tmp_path / "model.pt", form)) as weights:
        kept = weights.read("net.weight")
    weights.close()
    assert torch.equal(kept, WEIGHTS["net.weight"])
    assert weights.info("net.weight").shape == (2, 3)
    with pytest.raises(ValueError, match="is closed"):
        weights.read("net.weight")


@FORMS
def test_a_name_that_is_not_there_is_a_key_error(form: str, tmp_path: Path) -> None:
    with open_weights(saved(tmp_path / "model.pt", form)) as weights:
        with pytest.raises(KeyError, match="nothing"):
            weights.info("nothing")
        with pytest.raises(KeyError, match="nothing"):
            weights.read("nothing")


@pytest.mark.parametrize(
    ("content", "likeness"),
    [
        (b"", "it is empty"),
        (b"epoch,loss\n0,1.5\n", "it is text"),
        (b'{"weight_map": {}}', "index of a sharded model"),
        (b"\n<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (b"\x1f\x8b\x08\x00", "unpack it"),
        (b"sys_info".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
        (b"\x80", "no known format"),
        (b"\x80\x7f\x00", "no known format"),
        (bytes(64), "no known format"),
        (struct.pack("<Q", 2**62) + b"{}", "no known format"),
    ],
)
def test_a_file_of_something_else_is_told_what_it_looks_like(
    content: bytes, likeness: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    message = told_about(path)
    assert "not a file of weights" in message
    assert likeness in message
    assert ".safetensors" in message


def test_a_folder_is_to_be_consolidated(tmp_path: Path) -> None:
    assert "consolidate" in told_about(tmp_path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    assert "no such file" in told_about(tmp_path / "nothing.ckpt")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing.ckpt")
    assert "no such file" in told_about(tmp_path / "dangling")


def test_a_path_that_no_file_can_have_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in [tmp_path / "loop", tmp_path / ("x" * 5000), tmp_path / "a\0b"]:
        with pytest.raises(BadFile, match="cannot be opened") as raised:
            open_weights(path)
        assert str(raised.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_file_without_permission_is_said_to_be_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", "zip")
    path.chmod(0)
    assert "permissions" in told_about(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "not a regular file" in told_about(tmp_path / "pipe.pt")
    assert "not a regular file" in told_about("/dev/zero")


def test_a_message_stays_one_line_whatever_the_path(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[31m\u202e.pt"
    path.write_text("no weights")
    with pytest.raises(BadFile) as raised:
        open_weights(path)
    assert str(raised.value).isprintable()
    assert r"a\nb\x1b[31m\u202e.pt" in str(raised.value)


def test_a_zip_of_something_else_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not of torch.save" in told_about(tmp_path / "model.pt")


def test_opening_a_pickle_does_not_load_safetensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", "zip")
    code = f"""
import sys
from lightning_weightwatch.files.checkpoint import open_weights
open_weights({str(path)!r}).close()
assert not {{"safetensors", "lightning", "matplotlib"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_file_is_an_error_of_both_kinds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_weights(tmp_path / "missing.ckpt")
    with pytest.raises(BadFile, match="no such file"):
        open_weights(tmp_path / "missing.ckpt")
