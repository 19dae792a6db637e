"""Where the weights are found, and what is never taken for weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.files.checkpoint import BadFile, open_weights
from lightning_weightwatch.files.state_dict import KEYS, find_weights, info_of, ties_among
from tests.files.messages import told_about

STATE = {"w": torch.ones(2, 3), "b": torch.zeros(2)}


@pytest.mark.parametrize("key", KEYS)
def test_weights_are_found_under_every_usual_key(key: str) -> None:
    found = find_weights({"epoch": 3, "best": torch.tensor(0.5), key: STATE})
    assert found is not None
    assert found.where == key
    assert found.tensors == STATE


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (STATE, ""),
        ({"model": {"state_dict": STATE}}, "model.state_dict"),
        ({"model": {"module": {"net": STATE}}}, "model.module.net"),
        ({"ema": STATE, "model": {**STATE}}, "model"),
        ({"state_dict": {}, "model": STATE}, "model"),
        ({"state_dict": "a string", "model": STATE}, "model"),
        ({"params": torch.ones(3), "weights": torch.ones(2)}, ""),
        ({"scale": torch.tensor(2.0)}, ""),
        (nn.Linear(2, 2), ""),
        ({"model": nn.Linear(2, 2)}, "model"),
    ],
)
def test_the_surest_key_that_leads_to_tensors_wins(content: Any, where: str) -> None:
    found = find_weights(content)
    assert found is not None
    assert found.where == where


def adam_state() -> Any:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "content",
    [
        adam_state(),
        {"optimizer": adam_state()},
        {"state_dict": adam_state(), "epoch": 3},
        {"optimizer_states": [adam_state()], "loss": torch.tensor(0.5), "epoch": 3},
        {"model": {"model": {"model": {"model": STATE}}}},
        {},
        {"state_dict": {}},
        [torch.ones(3)],
        torch.ones(3),
        None,
    ],
)
def test_what_holds_no_weights_is_not_taken_for_them(content: Any, tmp_path: Path) -> None:
    assert find_weights(content) is None
    torch.save(content, tmp_path / "model.pt")
    assert "found no weights in it" in told_about(tmp_path / "model.pt")


def test_the_keys_that_a_file_has_are_listed_and_cannot_flood_the_line(tmp_path: Path) -> None:
    content: Any = {"epoch": 1, "a\nb": 2, "x" * 10_000: 3, 7: 4, **{f"k{i}": i for i in range(20)}}
    torch.save(content, tmp_path / "model.pt")
    message = told_about(tmp_path / "model.pt")
    assert r"'epoch', 'a\nb'" in message
    assert f"and {len(content) - 8} more" in message
    assert "'state_dict'" in message


def test_entries_that_are_no_tensors_are_remembered_with_what_they_are(tmp_path: Path) -> None:
    content = {"w": torch.ones(2), "_extra_state": None, "step": 3, (1, 2): torch.ones(2)}
    torch.save(content, tmp_path / "model.pt")
    with open_weights(tmp_path / "model.pt") as weights:
        assert weights.names() == ("w",)
        reasons = {entry.name: entry.reason for entry in weights.ignored}
    assert reasons["_extra_state"] == "NoneType, not a tensor"
    assert reasons["step"] == "int, not a tensor"
    assert "key" in reasons["<tuple>"]


def test_names_that_are_numbers_become_strings_and_never_replace_one() -> None:
    found = find_weights({0: torch.ones(2), 1: torch.ones(3), "0": torch.ones(4)})
    assert found is not None
    assert {name: len(tensor) for name, tensor in found.tensors.items()} == {"0": 2, "1": 3}
    assert [entry.name for entry in found.ignored] == ["0"]


class Marked(Tensor):
    """A tensor subclass, as quantization libraries make them."""


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning")
def test_unusual_tensors_have_shapes_and_dtypes(tmp_path: Path) -> None:
    content = {
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "meta": torch.empty(2, 3, device="meta"),
        "parameter": nn.Parameter(torch.ones(2)),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    }
    torch.save(content, tmp_path / "model.pt")
    with open_weights(tmp_path / "model.pt") as weights:
        assert weights.ignored == ()
        for name, tensor in content.items():
            info = weights.info(name)
            assert (info.shape, info.dtype) == (tuple(tensor.shape), tensor.dtype)
            assert weights.same_as(name) is None
            assert not weights.read(name).requires_grad


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
def test_a_nested_tensor_is_unreadable_alone(tmp_path: Path) -> None:
    nested = torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.strided)
    torch.save({"nested": nested, "w": torch.ones(2)}, tmp_path / "model.pt")
    with open_weights(tmp_path / "model.pt") as weights:
        assert weights.info("nested").shape == ()
        with pytest.raises(BadFile, match="no one shape"):
            weights.read("nested")
        assert weights.read("w").tolist() == [1, 1]


def test_tensors_of_a_subclass_or_without_memory_are_described_and_not_tied() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(2, 3)
    marked = torch.ones(2, 3).as_subclass(Marked)
    tensors = {"fake": fake, "marked": marked, "empty": torch.ones(0), "other": torch.ones(0)}
    assert [info_of(tensor).shape for tensor in tensors.values()] == [(2, 3), (2, 3), (0,), (0,)]
    assert ties_among(tensors) == {}
    assert ties_among({"a": marked, "b": marked}) == {"b": "a"}


def test_views_that_read_the_same_memory_in_another_way_are_not_tied() -> None:
    whole = torch.arange(12.0)
    views = {
        "whole": whole,
        "same": whole.view(12),
        "shape": whole.view(3, 4),
        "transposed": whole.view(4, 3).t(),
        "half": whole[:6],
        "later": whole[6:],
        "bits": whole.view(torch.int32),
    }
    assert ties_among(views) == {"same": "whole"}


def test_weights_are_not_given_up_for_an_average_beside_them() -> None:
    trained, average = torch.ones(3, 2), torch.zeros(3, 2)
    found = find_weights({"net.weight": trained, "ema": {"net.weight": average}})
    assert found is not None
    assert found.where == ""
    assert found.tensors["net.weight"] is trained
    assert [skip.name for skip in found.ignored] == ["ema"]


def test_tensors_beside_a_state_dict_are_named() -> None:
    weights = {"net.weight": torch.ones(3, 2)}
    found = find_weights({"state_dict": weights, "confusion": torch.ones(4, 4)})
    assert found is not None
    assert list(found.tensors) == ["net.weight"]
    assert [(skip.name, skip.reason) for skip in found.ignored] == [
        ("confusion", "it stands beside 'state_dict'")
    ]
