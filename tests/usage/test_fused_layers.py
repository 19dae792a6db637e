"""Hooks beside fused layers see what hooks see, and the results stay those without any."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_weightwatch.usage.fused_layers import beside_fused_layers


def encoder(dropout: float = 0.1) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval()


def x() -> Tensor:
    return torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))


@contextmanager
def seen_by(module: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of one module."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        yield seen
    finally:
        handle.remove()


def state(model: nn.Module) -> list[Any]:
    """The hooks and attributes of all modules."""
    return [
        (dict(module._forward_hooks), dict(module._forward_pre_hooks), set(vars(module)))
        for module in model.modules()
    ]


def inner(model: nn.TransformerEncoder) -> nn.Module:
    return model.get_submodule("layers.1.linear2")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the fused encoder layers that are run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fused = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.fused += "_transformer_encoder_layer_fwd" in str(func)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_plain_hooks_take_a_layer_off_its_fused_path() -> None:
    """Otherwise there is nothing to be beside."""
    model = encoder()
    with Operations() as alone:
        model(x())
    with seen_by(inner(model)), Operations() as hooked:
        model(x())
    assert (alone.fused, hooked.fused) == (2, 1)


@torch.no_grad()
def test_the_results_are_those_without_hooks_and_the_hooks_see_the_inputs() -> None:
    model = encoder()
    alone = model(x())
    with seen_by(inner(model)) as by_hooks:
        model(x())
    with beside_fused_layers(model, seen_by(inner(model))) as seen:
        beside = model(x())
    assert torch.equal(beside, alone)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], by_hooks[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@torch.no_grad()
def test_padding_that_makes_nested_tensors_is_seen_too() -> None:
    model = encoder()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
    alone = model(x(), src_key_padding_mask=padding)
    with beside_fused_layers(model, seen_by(inner(model))) as seen:
        beside = model(x(), src_key_padding_mask=padding)
    assert torch.equal(beside, alone)
    assert len(seen) == 1


def test_in_training_a_layer_runs_once_and_its_gradients_are_those_without_hooks() -> None:
    model = encoder(dropout=0.0).train()
    weights = list(model.parameters())
    alone = torch.autograd.grad(model(x()).square().sum(), weights)
    with beside_fused_layers(model, seen_by(inner(model))) as seen:
        beside = torch.autograd.grad(model(x()).square().sum(), weights)
    assert all(map(torch.equal, beside, alone))
    assert len(seen) == 1


def test_random_numbers_are_drawn_once() -> None:
    model = encoder(dropout=0.5).train()
    torch.manual_seed(3)
    alone = model(x())
    torch.manual_seed(3)
    with beside_fused_layers(model, seen_by(inner(model))):
        beside = model(x())
    assert torch.equal(beside, alone)


def test_nothing_is_left_behind_even_after_an_exception() -> None:
    model = encoder()
    before = state(model)
    with (
        pytest.raises(AssertionError, match="embedding dimension of 16, but got 7"),
        beside_fused_layers(model, seen_by(inner(model))),
    ):
        model(torch.zeros(2, 5, 7))
    assert state(model) == before


@torch.no_grad()
def test_a_layer_that_users_hook_themselves_runs_once() -> None:
    """It is not fused anyway, and their hooks may count."""
    model = encoder()
    calls: list[int] = []
    handle = inner(model).register_forward_hook(lambda *_: calls.append(1))
    before = state(model)
    with beside_fused_layers(model, seen_by(inner(model))) as seen:
        model(x())
    assert len(calls) == len(seen) == 1
    assert state(model) == before
    handle.remove()


def test_other_models_are_hooked_as_ever() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with beside_fused_layers(model, seen_by(model[1])) as seen:
        model(torch.ones(2, 4))
    assert len(seen) == 1


@torch.no_grad()
def test_blocks_may_overlap_and_end_in_any_order() -> None:
    model = encoder()
    before, alone = state(model), model(x())
    first = beside_fused_layers(model, seen_by(inner(model)))
    second = beside_fused_layers(model, seen_by(inner(model)))
    seen_first, seen_second = first.__enter__(), second.__enter__()
    assert torch.equal(model(x()), alone)
    first.__exit__(None, None, None)
    assert torch.equal(model(x()), alone)
    second.__exit__(None, None, None)
    assert (len(seen_first), len(seen_second)) == (1, 2)
    assert state(model) == before
    assert torch.equal(model(x()), alone)


@torch.no_grad()
def test_dropout_that_stays_on_draws_once() -> None:
    model = encoder(dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    torch.manual_seed(3)
    alone, numbers = model(x()), torch.get_rng_state()
    torch.manual_seed(3)
    with beside_fused_layers(model, seen_by(inner(model))):
        assert torch.equal(model(x()), alone)
    assert torch.equal(torch.get_rng_state(), numbers)


class Counting(nn.TransformerEncoderLayer):
    """Counts its calls."""

    calls = 0

    def forward(self, src: Tensor, *masks: Any, **named: Any) -> Tensor:
        self.calls += 1
        return super().forward(src, *masks, **named)


@torch.no_grad()
def test_a_forward_of_its_own_runs_once() -> None:
    layer = Counting(16, 2, 32, batch_first=True).eval()
    alone = layer(x())
    with beside_fused_layers(layer, seen_by(layer.linear2)) as seen:
        assert torch.equal(layer(x()), alone)
    assert layer.calls == 2
    assert seen == []
    assert not layer.linear2._forward_pre_hooks


@torch.no_grad()
def test_a_copy_that_is_made_meanwhile_runs() -> None:
    model = encoder()
    alone = model(x())
    with beside_fused_layers(model, seen_by(inner(model))):
        made = copy.deepcopy(model)
    assert torch.equal(made(x()), alone)
