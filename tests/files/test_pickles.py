"""Pickles: no code of theirs runs without trust, and a refusal says what it refused."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_weightwatch.files.checkpoint import BadFile, open_weights
from tests.files.messages import told_about

STATE = {"w": torch.arange(6.0).reshape(2, 3)}
OLD_TORCHES = ["2.4.0", "2.5.1+cu121", "2.9.1+cpu", "2.10.0a0+git1234", "2.10.0rc1"]
FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class Settings:
    """The object of a user's own class that finds its way into a checkpoint."""

    layers = 3


def saved(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMS
def test_code_in_a_pickle_runs_with_trust_and_never_without(zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = saved(tmp_path / "model.pt", {"state_dict": STATE, "trap": Trap(marker)}, zipped)
    message = told_about(path)
    assert not marker.exists()
    assert f"'{os.mkdir.__module__}.mkdir'" in message
    assert "--trust" in message
    with open_weights(path, trust=True) as weights:
        assert weights.names() == ("w",)
    assert marker.exists()


def test_code_in_a_bare_pickle_never_runs_without_trust(tmp_path: Path) -> None:
    for protocol in range(6):
        (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap(tmp_path / "marker"), protocol))
        told_about(tmp_path / "model.pt")
        assert not (tmp_path / "marker").exists()


@FORMS
def test_a_file_that_weights_only_reads_runs_no_code_under_trust_either(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "model.pt", STATE, zipped)
    load = torch.load
    asked = []

    def spy(*args: Any, **options: Any) -> Any:
        asked.append(options["weights_only"])
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", spy)
    with open_weights(path, trust=True) as weights:
        assert torch.equal(weights.read("w"), STATE["w"])
    assert asked == [True]


@FORMS
@pytest.mark.parametrize("value", [Settings(), datetime(2026, 1, 1), nn.Linear(2, 2)])
def test_the_class_that_was_refused_is_named(value: Any, zipped: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"state_dict": STATE, "extra": value}, zipped)
    message = told_about(path)
    assert f"{type(value).__module__}.{type(value).__qualname__}'" in message
    assert "weights_only" not in message
    with pytest.raises(BadFile) as raised:
        open_weights(path)
    assert isinstance(raised.value.__cause__, pickle.UnpicklingError)
    with open_weights(path, trust=True) as weights:
        assert torch.equal(weights.read("w"), STATE["w"])


@FORMS
def test_a_whole_module_gives_its_state_dict_under_trust(zipped: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    path = saved(tmp_path / "model.pt", model, zipped)
    assert "'torch.nn.modules.container.Sequential'" in told_about(path)
    with open_weights(path, trust=True) as weights:
        assert weights.names() == tuple(model.state_dict())


def test_sharded_tensors_are_to_be_consolidated(tmp_path: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        shard = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (2,)), [Shard(0)])
        path = saved(tmp_path / "rank0.pt", {"w": shard})
    finally:
        dist.destroy_process_group()
    message = told_about(path)
    assert "a part of a weight" in message
    assert told_about(path, trust=True) == message
    code = f"""
from lightning_weightwatch.files.checkpoint import BadFile, open_weights
try:
    open_weights({str(path)!r})
except BadFile as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == f"{message}\n"


def test_code_that_is_not_installed_is_named_under_trust(tmp_path: Path) -> None:
    pickled = b"\x80\x02cnot_installed_here\nNetwork\n."
    path = saved(tmp_path / "model.pt", STATE)
    rezip(path, zipfile.ZIP_STORED, {"data.pkl": pickled})
    assert "'not_installed_here.Network'" in told_about(path)
    message = told_about(path, trust=True)
    assert "needs code that is not here (No module named 'not_installed_here')" in message


def test_a_refused_name_cannot_break_the_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)
    rezip(path, zipfile.ZIP_STORED, {"data.pkl": b"\x80\x02cm\x1b[2Jo\rd\n" + b"N" * 999 + b"\n."})
    assert r"m\x1b[2Jo\rd.NNN" in told_about(path)


@FORMS
@pytest.mark.parametrize("version", OLD_TORCHES)
def test_a_torch_with_known_holes_opens_a_pickle_only_with_trust(
    version: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "model.pt", STATE, zipped)
    monkeypatch.setattr(torch, "__version__", version)
    message = told_about(path)
    assert version in message
    assert re.search(r"Update torch to 2\.10 or newer.*safetensors.*--trust", message)
    with open_weights(path, trust=True) as weights:
        assert torch.equal(weights.read("w"), STATE["w"])


def test_safetensors_open_on_any_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "model.safetensors")
    monkeypatch.setattr(torch, "__version__", "2.4.0")
    with open_weights(tmp_path / "model.safetensors") as weights:
        assert torch.equal(weights.read("w"), STATE["w"])


def rezip(path: Path, compression: int, replaced: dict[str, bytes]) -> None:
    """Write the zip anew with other compression, and other bytes in some of its entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, replaced.get(name.rpartition("/")[2], data))


def test_a_checkpoint_that_was_zipped_anew_with_compression_has_the_same_values(
    tmp_path: Path,
) -> None:
    content = {"w": torch.arange(4096.0), "b": torch.ones(3000)}
    path = saved(tmp_path / "model.pt", content)
    size = path.stat().st_size
    rezip(path, zipfile.ZIP_DEFLATED, {})
    assert path.stat().st_size < size
    with open_weights(path) as weights:
        for name, tensor in content.items():
            assert torch.equal(weights.read(name), tensor)


def test_a_mapped_tensor_is_the_files_own_and_writing_to_it_leaves_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)
    with open_weights(path) as weights:
        tensor = weights.read("w")
        assert tensor.data_ptr() == weights.read("w").data_ptr()
        tensor.zero_()
    with open_weights(path) as weights:
        assert torch.equal(weights.read("w"), STATE["w"])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of mappings here")
def test_a_zip_is_mapped_while_it_is_open_and_no_longer(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)

    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    with open_weights(path) as weights:
        assert weights.read("w").shape == (2, 3)
        assert is_mapped()
    assert not is_mapped()


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("trust", [True, False])
def test_a_torchscript_archive_is_to_be_saved_as_a_state_dict(trust: bool, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.pt")
    message = told_about(tmp_path / "model.pt", trust=trust)
    assert "a TorchScript archive" in message
    assert "state_dict()" in message


@FORMS
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_newer_pickle_protocol_is_read_or_refused_without_a_warning(
    protocol: int, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    torch.save(STATE, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    try:
        open_weights(path).close()
    except BadFile:
        told_about(path)
    with open_weights(path, trust=True) as weights:
        assert torch.equal(weights.read("w"), STATE["w"])


def test_a_plain_pickle_is_no_checkpoint_of_torch(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"w": [1.0]}, protocol=2))
    assert "not of torch.save" in told_about(tmp_path / "model.pkl")
    assert "not of torch.save" in told_about(tmp_path / "model.pkl", trust=True)
