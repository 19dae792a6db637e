"""An evaluation that ends half-way leaves modules with what they kept before it."""

from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.model.own_data import own_data_kept


class Collecting(nn.Module):
    """Counts, and collects what it has seen, as many validation steps do."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.name = 3, "first"
        self.outputs: list[Tensor] = [torch.ones(1)]
        self.by_name: dict[str, list[int]] = {"a": [1]}
        self.seen: set[int] = {1}
        self.recent: deque[int] = deque([1, 2], maxlen=2)
        self.ring: list[Any] = []
        self.ring.append(self.ring)


def change(model: Collecting, fault: BaseException | None = None) -> None:
    with own_data_kept(model):
        model.count, model.name = 4, "second"
        model.outputs.append(torch.zeros(1))
        model.by_name["a"].append(2)
        model.by_name["b"] = []
        model.seen.add(2)
        model.recent.append(3)
        model.outputs = []
        if fault is not None:
            raise fault


@pytest.mark.parametrize("fault", [ValueError("within"), KeyboardInterrupt("within")], ids=repr)
def test_what_a_module_keeps_beside_its_tensors_comes_back(fault: BaseException) -> None:
    model = Collecting()
    kept = (model.outputs, model.by_name, model.by_name["a"], model.seen, model.recent)
    with pytest.raises(type(fault), match="within"):
        change(model, fault)
    assert (model.count, model.name) == (4, "second"), "what has happened"
    now = (model.outputs, model.by_name, model.by_name["a"], model.seen, model.recent)
    assert [id(each) for each in now] == [id(each) for each in kept]
    assert model.outputs == [torch.ones(1)]
    assert (model.by_name, model.seen, list(model.recent)) == ({"a": [1]}, {1}, [1, 2])
    assert model.ring[0] is model.ring


def test_one_that_ends_well_keeps_what_it_has_done() -> None:
    model = Collecting()
    change(model)
    assert (model.count, model.name, model.outputs) == (4, "second", [])
    assert model.by_name == {"a": [1, 2], "b": []}
