"""A model gets what its forward asks for, and running it leaves no trace."""

import random
from collections import UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_weightwatch.model.running import (
    CannotRun,
    has_forward,
    run_on_batch,
    to_device,
    without_a_trace,
)

X, Y = torch.arange(6.0).view(2, 3), torch.tensor([0, 1])


def model_of(forward: Callable[..., Any]) -> nn.Module:
    """A module with this forward, which has no `self`."""

    class Made(nn.Module):
        pass

    Made.forward = staticmethod(forward)
    return Made()


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@pytest.mark.parametrize(
    ("forward", "batch", "given"),
    [
        (lambda x: (x,), X, [X]),
        (lambda x: (x,), X.numpy(), [X]),
        (lambda x: (x,), (X, Y), [X]),
        (lambda x: (x,), [X, Y], [X]),
        (lambda x, mask=None: (x, mask), [X, Y], [X, None]),
        (lambda x, y: (x, y), (X, Y), [X, Y]),
        (lambda *both: both, (X, Y), [X]),
        (lambda batch: tuple(batch), (X, Y), [X, Y]),
        (lambda ids, mask=None: (ids, mask), {"ids": X, "mask": Y, "labels": Y}, [X, Y]),
        (lambda ids, mask=None: (ids, mask), UserDict({"mask": Y, "ids": X}), [X, Y]),
        (lambda ids: (ids,), ({"ids": X}, Y), [X]),
        (lambda **all_of_it: tuple(all_of_it.values()), {"a": X, "b": Y}, [X, Y]),
        (lambda x, *, y: (x, y), {"x": X, "y": Y}, [X, Y]),
        (lambda pair: tuple(pair), Pair(X, Y), [X, Y]),
    ],
)
def test_forward_gets_what_its_parameters_ask_for(
    forward: Callable[..., Any], batch: Any, given: list[Tensor | None]
) -> None:
    returned = run_on_batch(model_of(forward), batch)
    assert len(returned) == len(given)
    for got, wanted in zip(returned, given, strict=True):
        assert got is None if wanted is None else torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("forward", "batch", "message"),
    [
        (lambda x, y, z: x, (X, Y), "needs 3 arguments, the batch has 2; give a function run"),
        (lambda ids: ids, {"image": X}, r"\(ids\) is called like an entry of the batch \(image\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_what_to_do(
    forward: Callable[..., Any], batch: Any, message: str
) -> None:
    with pytest.raises(CannotRun, match=message):
        run_on_batch(model_of(forward), batch)


class Stepping(LightningModule):
    """Has no forward, logs, and asks for the index of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).sum()
        self.log("loss", loss)
        self.log_dict({"twice": 2 * loss})
        assert batch_idx == 0
        return loss


def test_a_module_without_forward_is_run_by_its_training_step() -> None:
    module = Stepping()
    before = set(vars(module))
    assert not has_forward(module)
    assert torch.equal(run_on_batch(module, (X, Y)), module.layer(X).sum())
    assert set(vars(module)) == before


def test_the_step_may_be_another_one() -> None:
    class Validated(LightningModule):
        def validation_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return batch + 1

    assert torch.equal(run_on_batch(Validated(), X), X + 1)


def test_a_module_with_nothing_to_run_says_what_it_lacks() -> None:
    with pytest.raises(CannotRun, match="ModuleList has no forward and none of training_step"):
        run_on_batch(nn.ModuleList(), X)


@pytest.mark.parametrize("module", [nn.Linear(3, 1), model_of(lambda x: x)])
def test_forward_is_known_where_it_is(module: nn.Module) -> None:
    assert has_forward(module)


def test_traced_and_exported_modules_have_a_forward() -> None:
    layer = nn.Sequential(nn.Linear(3, 1))
    with pytest.warns(DeprecationWarning, match="trace"):
        traced = torch.jit.trace(layer, X)  # type: ignore[no-untyped-call]
    exported = torch.export.export(layer, (X,)).module()
    for made in (torch.fx.symbolic_trace(layer), exported, traced):
        assert has_forward(made)
        assert torch.equal(run_on_batch(made, X), layer(X))


def test_arrays_become_tensors_and_integers_stay_integers() -> None:
    batch = to_device({"x": np.ones(3), "y": [np.arange(3)], "name": "a"}, torch.device("cpu"))
    assert batch["x"].dtype == torch.float32
    assert batch["y"][0].dtype == torch.int64
    assert batch["name"] == "a"


class Untidy(nn.Module):
    """Draws numbers, moves a buffer, replaces another and keeps its outputs."""

    moved: Tensor
    replaced: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("moved", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(1))
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.moved += 1
        self.replaced = torch.ones(1)
        random.random(), np.random.rand(), torch.rand(1)
        self.kept.append(x)
        if x.sum() < 0:
            raise RuntimeError("too small")
        result: Tensor = self.norm(x)
        return result


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_of_a_run(fails: bool) -> None:
    model = Untidy().train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    tensors = {
        name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()
    }
    torch.manual_seed(5)
    numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    if fails:
        with pytest.raises(RuntimeError, match="too small"), without_a_trace(model):
            model(-X)
        assert model.kept == []
    else:
        with without_a_trace(model):
            assert not model.training
            assert not model(X).requires_grad
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(tensors)
    for name, (tensor, before) in tensors.items():
        assert after[name] is tensor
        assert torch.equal(tensor, before)
    assert random.getstate() == numbers[0]
    assert np.random.get_state()[1].tolist() == numbers[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), numbers[2])
    assert torch.is_grad_enabled()


def test_a_training_step_that_would_train_is_refused() -> None:
    class Manual(Stepping):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(CannotRun, match="training_step of Manual would train"):
        run_on_batch(Manual(), (X, Y))


def test_a_step_that_can_be_run_comes_before_one_that_would_train() -> None:
    class Manual(Stepping):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer(batch[0]).sum() + 1  # type: ignore[no-any-return]

    module = Manual()
    assert torch.equal(run_on_batch(module, (X, Y)), module.layer(X).sum() + 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float32])
def test_arrays_of_floats_get_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = nn.Linear(3, 1).to(dtype)
    assert run_on_batch(model, np.ones((2, 3))).dtype == dtype


def test_embeddings_that_a_lookup_rescales_are_put_back() -> None:
    model = nn.Embedding(5, 3, max_norm=0.1)
    before = model.weight.detach().clone()
    with without_a_trace(model):
        model(torch.arange(5))
        assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight, before)


def test_a_lazy_model_is_not_given_its_shapes() -> None:
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(CannotRun, match=r"0\.weight is lazy"), without_a_trace(model):
        model(X)
