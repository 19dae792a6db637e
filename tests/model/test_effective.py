"""What is read is what the layers multiply with, and reading it leaves no trace."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_weightwatch.report import Skipped
from tests.model.reading import holds, skipped, value, weights
from tests.model.zoo import (
    ALL,
    SPECTRAL_NORM,
    WEIGHT_NORM,
    Animal,
    Bare,
    Symmetric,
    custom,
    numbers,
    old,
    pruned,
)


def traces(model: nn.Module) -> list[Any]:
    """All that looking at a model could change in it, or in the generators."""
    bits = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [(name, id(p), p._version, p.requires_grad) for name, p in named(model)]
    modules = [
        (
            name,
            type(m),
            m.training,
            sorted(vars(m)),
            len(m._forward_hooks),
            list(m._forward_pre_hooks),
        )
        for name, m in model.named_modules()
    ]
    return [list(bits), parameters, modules, torch.get_rng_state().tolist(), bits]


def named(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


@pytest.mark.parametrize("animal", ALL.values(), ids=ALL)
def test_reading_every_weight_changes_nothing(animal: Animal) -> None:
    model = animal.model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    grads = [parameter.grad for parameter in model.parameters()]
    *before, bits_before = traces(model)
    read = [weight.read() for weight in weights(model).values()]
    assert all(not values.requires_grad and values.grad_fn is None for values in read)
    *after, bits_after = traces(model)
    assert after == before
    assert all(torch.equal(bits_after[key], bits_before[key]) for key in bits_before)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: parametrizations.spectral_norm(nn.Linear(9, 12)),
        lambda: old(SPECTRAL_NORM, nn.Linear(9, 12)),
    ],
    ids=["parametrization", "hook"],
)
def test_a_power_method_is_never_iterated(make: Callable[[], nn.Module]) -> None:
    model = make().train()
    first = value(model, "weight")
    assert all(np.array_equal(value(model, "weight"), first) for _ in range(3))
    u_v = [buffer.clone() for buffer in model.buffers()]
    model(torch.ones(9))  # in train mode it is iterated: the check can fail
    assert not all(torch.equal(a, b) for a, b in zip(model.buffers(), u_v, strict=True))


def test_the_weights_follow_an_optimizer_without_a_forward_pass() -> None:
    layer = pruned(nn.Linear(9, 12), "l1")
    with torch.no_grad():
        layer.get_parameter("weight_orig").add_(1.0)
    stale = numbers(layer.weight)  # type: ignore[arg-type]
    mask = numbers(layer.get_buffer("weight_mask"))
    assert not holds(stale, value(layer, "weight"))
    assert holds(value(layer, "weight"), numbers(layer.get_parameter("weight_orig")) * mask)


@pytest.mark.parametrize("way", [WEIGHT_NORM, SPECTRAL_NORM], ids=["weight_norm", "spectral_norm"])
def test_a_factor_that_is_pruned_itself_is_no_weight_of_its_own(way: Any) -> None:
    layer = old(way, nn.Linear(9, 12))
    pruned(layer, "l1", name="weight_v" if way is WEIGHT_NORM else "weight_orig")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    found = value(layer, "weight")
    assert list(weights(layer)) == ["weight"]
    layer.eval()(torch.ones(9))
    assert holds(found, numbers(layer.weight))  # type: ignore[arg-type]


def test_several_parametrizations_are_applied_one_after_another() -> None:
    layer = custom(parametrizations.spectral_norm(nn.Linear(9, 9)), Symmetric())
    found = value(layer, "weight")
    layer.eval()
    assert holds(found, numbers(layer.weight))  # type: ignore[arg-type]


def test_the_modules_within_a_parametrization_are_no_layers() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = pruned(nn.Linear(9, 9, bias=False), "l1")
            self.normed = parametrizations.weight_norm(nn.Linear(9, 9, bias=False))

        def forward(self, values: Tensor) -> Tensor:
            mixed: Tensor = self.normed(self.mix(values))
            return mixed

    model = nn.Sequential(custom(nn.Linear(9, 12), Mixed()), nn.Linear(9, 9))
    assert list(weights(model)) == ["0.weight", "1.weight"]
    assert skipped(model) == []


def test_a_parametrization_may_draw_random_numbers_of_its_own() -> None:
    class Noisy(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values + torch.randn(values.shape)

    layer = custom(nn.Linear(9, 9), Noisy())
    before = torch.get_rng_state()
    weights(layer)["weight"].read()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_parametrization_that_fails_is_named_with_what_it_said() -> None:
    class Failing(nn.Module):
        broken = False

        def forward(self, values: Tensor) -> Tensor:
            if self.broken:
                raise RuntimeError("out of order")
            return values

    way = Failing()
    model = nn.Sequential(custom(nn.Linear(9, 9), way), nn.Linear(9, 9))
    way.broken = True
    assert list(weights(model)) == ["1.weight"]
    reason = "its effective weight cannot be computed: out of order"
    assert skipped(model) == [Skipped("0", reason)]


def test_a_hook_whose_factors_are_gone_is_named() -> None:
    layer = old(WEIGHT_NORM, nn.Linear(9, 9))
    del layer.weight_g
    (skip,) = skipped(nn.Sequential(layer))
    assert skip.name == "0"
    assert "weight_g" in skip.reason


def test_parametrized_vectors_and_buffers_are_no_weights_and_tables_are() -> None:
    layer = nn.BatchNorm1d(9)
    parametrize.register_parametrization(layer, "running_mean", nn.Softplus())
    parametrize.register_parametrization(layer, "bias", nn.Softplus())
    assert list(weights(layer)) == ["weight"]
    table = Bare()
    parametrize.register_parametrization(table, "relative_bias", nn.Softplus())
    assert weights(table)["relative_bias"].kind == "other"


def test_a_parametrized_factor_beside_a_weight_has_no_kind_of_its_own() -> None:
    layer = nn.Linear(9, 12)
    layer.lora_A = nn.Parameter(torch.ones(10, 9))
    parametrize.register_parametrization(layer, "lora_A", nn.Softplus())
    assert {name: item.kind for name, item in weights(layer).items()} == {
        "lora_A": "other",
        "weight": "linear",
    }


class Tied(nn.Module):
    """Two layers with one parameter, one of which makes something else of it."""

    def __init__(self, *, plain_first: bool, way: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        plain, other = nn.Linear(9, 9, bias=False), nn.Linear(9, 9, bias=False)
        other.weight = plain.weight
        changed = way(other)
        self.first: nn.Module = plain if plain_first else changed
        self.second: nn.Module = changed if plain_first else plain


@pytest.mark.parametrize("plain_first", [True, False])
@pytest.mark.parametrize(
    "way", [lambda m: custom(m, Symmetric()), lambda m: pruned(m, "l1")], ids=["custom", "pruned"]
)
def test_a_parameter_that_another_layer_computes_with_is_not_tied(
    plain_first: bool, way: Callable[[nn.Module], nn.Module]
) -> None:
    model = Tied(plain_first=plain_first, way=way)
    assert list(weights(model)) == ["first.weight", "second.weight"]
    assert skipped(model) == []
    plain = "first" if plain_first else "second"
    for name, layer in model.named_children():
        assert holds(value(model, f"{name}.weight"), numbers(layer.weight))  # type: ignore[arg-type]
        assert (weights(model)[f"{name}.weight"].parameter is None) == (name != plain)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(9, 9),
        lambda: parametrizations.weight_norm(nn.Linear(9, 9, bias=False)),
        lambda: pruned(nn.Linear(9, 9, bias=False), "l1"),
    ],
    ids=["plain", "parametrized", "pruned"],
)
def test_a_shared_module_is_measured_once_and_its_second_place_named(
    make: Callable[[], nn.Module],
) -> None:
    layer = make()
    model = nn.ModuleDict({"a": layer, "b": layer})
    assert list(weights(model)) == ["a.weight"]
    assert skipped(model) == [Skipped("b", "the same module as a")]


def test_views_of_one_storage_are_weights_by_themselves() -> None:
    storage = torch.randn(24, 9)
    model = nn.ParameterList([storage[:12], storage[12:], storage.t()])
    found = weights(model)
    assert list(found) == ["0", "1", "2"]
    assert holds(value(model, "1"), numbers(storage[12:]))
    assert holds(value(model, "2"), numbers(storage).T)


@pytest.mark.parametrize(
    "way", [None, parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_parameters_made_in_inference_mode_are_read(way: Any) -> None:
    with torch.inference_mode():
        layer = nn.Linear(9, 12)
        if way is not None:
            layer = way(layer)
        expected = numbers(layer.eval().weight)
    assert holds(value(layer, "weight"), expected)


def test_layers_are_numbered_as_named_modules_counts_them() -> None:
    animals = {str(place): animal.model() for place, animal in enumerate(ALL.values())}
    model = nn.ModuleDict(animals)
    for weight in weights(model).values():
        path, module = list(model.named_modules())[weight.layer_id]
        assert path == weight.layer
        assert module is model.get_submodule(weight.layer)
    order = [weight.layer_id for weight in weights(model).values()]
    assert order == sorted(order)


def test_the_model_itself_is_layer_0_by_the_name_of_its_class() -> None:
    for layer in (nn.Linear(9, 9), parametrizations.weight_norm(nn.Linear(9, 9))):
        (weight,) = weights(layer).values()
        assert (weight.layer, weight.layer_id, weight.name) == ("Linear", 0, "weight")


def test_a_compiled_model_has_the_names_of_the_plain_one() -> None:
    model = ALL["weight_norm"].model()
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    assert isinstance(compiled, nn.Module)
    assert list(weights(compiled)) == list(weights(model))


def test_a_scripted_model_is_read_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Linear(9, 12), nn.LSTM(9, 9)))
    assert weights(scripted)["0.weight"].shape == (12, 9)
    assert not math.isnan(value(scripted, "0.weight").sum())
