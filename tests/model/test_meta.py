"""Copies on the meta device, of models and batches."""

from __future__ import annotations

import copy
from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lightning_weightwatch.model.meta import batch_copied, batch_on_meta, copied, on_meta
from lightning_weightwatch.model.running import CannotRun, run_on_batch


class Keeper(nn.Module):
    """Keeps tensors in every place where a module can keep some."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.layer.weight
        self.rnn = nn.LSTM(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.scale = torch.ones(3)
        self.held = {"list": [torch.ones(2, 3), nn.Parameter(torch.ones(2))]}
        self.computed = self.layer.weight * 2
        self.generator = torch.Generator()
        self.name = "keeper"


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, nn.Module):
        return tensors_in(vars(value))
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        return []
    return [tensor for part in parts for tensor in tensors_in(part)]


def test_every_tensor_that_a_model_keeps_is_on_meta_and_the_model_as_it_was() -> None:
    model = Keeper()
    before = copy.copy(vars(model)), {k: v.clone() for k, v in model.state_dict().items()}
    made = on_meta(model)
    assert len(tensors_in(made)) == len(tensors_in(model)) > 10
    assert all(tensor.is_meta for tensor in tensors_in(made))
    assert list(made.state_dict()) == list(model.state_dict())
    for old, new in zip(tensors_in(model), tensors_in(made), strict=True):
        assert not old.is_meta
        assert (old.shape, old.dtype, old.stride()) == (new.shape, new.dtype, new.stride())
        assert (old.requires_grad, type(old)) == (new.requires_grad, type(new))
    assert vars(model) == before[0]
    assert all(torch.equal(value, before[1][key]) for key, value in model.state_dict().items())


def test_tied_parameters_stay_tied() -> None:
    made = on_meta(Keeper())
    assert made.get_parameter("layer.weight") is made.get_parameter("tied.weight")
    rnn = made.get_submodule("rnn")
    assert isinstance(rnn, nn.LSTM)
    assert rnn._flat_weights[0] is rnn.weight_ih_l0


def test_a_copy_with_values_has_them_and_shares_nothing() -> None:
    model = Keeper()
    made = copied(model)
    for old, new in zip(tensors_in(model), tensors_in(made), strict=True):
        assert torch.equal(old, new)
        assert old.data_ptr() != new.data_ptr()
    generators = [vars(each)["generator"].get_state() for each in (model, made)]
    assert torch.equal(*generators)


def test_hooks_of_users_are_not_in_the_copy() -> None:
    model, seen = nn.Sequential(nn.Linear(2, 2)), []
    model.register_forward_hook(lambda *_: seen.append("root"))
    model[0].register_forward_pre_hook(lambda *_: seen.append("layer"))
    on_meta(model)(torch.ones(1, 2, device="meta"))
    assert seen == []
    model(torch.ones(1, 2))
    assert seen == ["layer", "root"]


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # type: ignore[no-untyped-call]
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
    ids=["pruned", "weight norm", "spectral norm"],
)
def test_weights_that_are_computed_are_there(change: Any) -> None:
    made = on_meta(change(nn.Linear(3, 4)))
    assert made(torch.ones(2, 3, device="meta")).shape == (2, 4)


def test_what_was_compiled_is_what_it_was_made_from() -> None:
    compiled: Any = torch.compile(nn.Linear(2, 3))
    model = nn.Sequential(compiled, nn.ReLU())
    assert type(on_meta(compiled)) is nn.Linear
    assert [name for name, _ in on_meta(model).named_parameters()] == ["0.weight", "0.bias"]


class Lit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def training_step(self, batch: Tensor) -> Tensor:
        extra = torch.zeros(len(batch), 2, device=self.device)
        total: Tensor = (self.layer(batch) + extra).sum()
        return total


def test_the_copy_of_a_lightning_module_has_no_trainer_and_is_on_meta() -> None:
    model = Lit()
    trainer = model.trainer = Trainer(
        logger=False, enable_checkpointing=False, accelerator="cpu", barebones=False
    )
    made = on_meta(model)
    assert isinstance(made, Lit)
    assert vars(made)["_trainer"] is None
    assert model.trainer is trainer
    assert made.device.type == "meta"
    assert model.device.type == "cpu"
    assert run_on_batch(made, torch.ones(3, 2, device="meta")).is_meta


def test_what_cannot_be_copied_says_why() -> None:
    with pytest.raises(CannotRun, match=r"layer.weight is lazy: .* Run the model on a batch first"):
        on_meta(nn.ModuleDict({"layer": nn.LazyLinear(2)}))
    model = nn.Linear(2, 2)
    model.lines = (line for line in "ab")  # type: ignore[assignment]
    with pytest.raises(CannotRun, match=r"Linear cannot be copied: TypeError: .*generator"):
        on_meta(model)


class Sharded(nn.Parameter):
    """What is asked of a DTensor."""

    def full_tensor(self) -> Tensor:
        raise AssertionError("a collective")


def test_a_sharded_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = Sharded(torch.ones(2, 2))
    with pytest.raises(CannotRun, match=r"0.weight is sharded \(DTensor\)"):
        on_meta(model)


Pair = namedtuple("Pair", ["image", "label"])


@dataclass(frozen=True)
class Sample:
    image: Tensor
    name: str


class Encoding(UserDict):  # type: ignore[type-arg]
    """Like the BatchEncoding of transformers."""


class Graphs:
    """Is changed by `to`, as a batch of PyTorch Geometric is."""

    def __init__(self) -> None:
        self.x = torch.ones(2)

    def to(self, device: torch.device) -> Graphs:
        self.x = self.x.to(device)
        return self


def test_tensors_in_any_container_go_to_meta_and_the_batch_stays_as_it_was() -> None:
    batch = {
        "tensor": torch.ones(2, 3, dtype=torch.int64),
        "list": [torch.ones(2), 7, "text", None],
        "pair": Pair(torch.ones(1), 3),
        "sample": Sample(torch.ones(4), "cat"),
        "encoding": Encoding(input_ids=torch.ones(5)),
        "graphs": Graphs(),
        "packed": pack_sequence([torch.ones(2, 3), torch.ones(1, 3)]),
        "array": np.ones((2, 4)),
        "counts": np.arange(3),
        "words": np.array(["a", "b"]),
    }
    made = batch_on_meta(batch)
    assert made["tensor"].is_meta
    assert made["tensor"].dtype == torch.int64
    assert made["list"][0].is_meta
    assert made["list"][1:] == [7, "text", None]
    assert isinstance(made["pair"], Pair)
    assert made["pair"].image.is_meta
    assert made["pair"].label == 3
    assert isinstance(made["sample"], Sample)
    assert made["sample"].image.is_meta
    assert isinstance(made["encoding"], Encoding)
    assert made["encoding"]["input_ids"].is_meta
    assert made["graphs"].x.is_meta
    assert isinstance(made["packed"], PackedSequence)
    assert made["packed"].data.is_meta
    assert not made["packed"].batch_sizes.is_meta
    assert made["array"].dtype == torch.get_default_dtype()
    assert made["counts"].dtype == torch.int64
    assert made["words"] is batch["words"]
    given: Any = batch
    kept = [given["tensor"], given["list"][0], given["pair"].image, given["sample"].image,
            given["encoding"]["input_ids"], given["graphs"].x, given["packed"].data]  # fmt: skip
    assert not any(tensor.is_meta for tensor in kept)


def test_a_tensor_that_stands_twice_in_a_batch_is_one_on_meta() -> None:
    x, array = torch.ones(3), np.ones(2)
    made = batch_on_meta({"q": x, "more": [x, Pair(x, array), array]})
    assert made["q"] is made["more"][0] is made["more"][1].image
    assert made["more"][1].label is made["more"][2]


def test_tensors_that_a_mapping_makes_as_it_is_asked_are_not_taken_for_each_other() -> None:
    class Lazy(dict[str, Any]):
        def items(self) -> Any:
            return ((str(size), torch.ones(size)) for size in range(50))

    assert [len(tensor) for tensor in batch_on_meta(Lazy()).values()] == list(range(50))


def test_a_copy_of_a_batch_has_its_values_and_shares_nothing() -> None:
    x = torch.ones(3, requires_grad=True)
    batch: Any = {"x": [x, x, 7], "array": np.ones(2), "sample": Sample(x * 2, "cat"),
                  "packed": pack_sequence([x])}  # fmt: skip
    made = batch_copied(batch)
    assert made["x"][0] is made["x"][1] is not x
    assert made["x"][0].requires_grad
    assert torch.equal(made["x"][0], x)
    made["array"][:] = 5
    with torch.no_grad():
        for tensor in (made["x"][0], made["sample"].image, made["packed"].data):
            tensor.fill_(5)
    assert batch["array"].tolist() == [1, 1]
    assert (x.tolist(), batch["sample"].image.tolist()) == ([1, 1, 1], [2, 2, 2])
    assert batch["packed"].data.tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_hooks_with_which_torch_computes_weights_are_in_the_copy() -> None:
    layer = nn.utils.weight_norm(nn.Linear(3, 2))
    layer.register_forward_hook(lambda *_: pytest.fail("not the hook of a user"))
    made: Any = copied(layer)
    with torch.no_grad():
        made.weight_g.mul_(2)
    x = torch.ones(1, 3)
    torch.testing.assert_close(made(x) - made.bias, 2 * F.linear(x, layer.weight))
    assert len(layer._forward_pre_hooks) == 1
