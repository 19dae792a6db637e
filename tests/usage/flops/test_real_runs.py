"""Where a model really ran, to be counted or timed, it and the batch are as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.usage.flops.count import count_flops


class Untidy(nn.Module):
    """Leaves something in every place; it asks for a value, and may be kept from being copied."""

    def __init__(self, copies: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.accuracy = MulticlassAccuracy(4)
        self.scale = nn.Parameter(torch.ones(4))
        self.last: Any = None
        self.calls, self.total, self.outputs = 0, torch.zeros(2), [torch.zeros(1)]
        if not copies:
            self.lines = (line for line in "ab")

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        made: Tensor = self.layer(x) * self.scale
        if made.sum().item() > 1e9:
            raise AssertionError
        self.accuracy.update(made, torch.zeros(len(x), dtype=torch.int64))
        self.last, self.calls, self.new = made, self.calls + 1, "new"
        self.outputs.append(made)
        self.total += 1
        made.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.scale.mul_(2)
        self.register_buffer("made", made.detach())
        return made


def content_of(model: Untidy) -> list[Any]:
    return [
        {name: value.clone() for name, value in model.state_dict().items()},
        [sorted(vars(module)) for module in model.modules()],
        (model.last, model.calls, model.total.tolist(), len(model.outputs)),
        (model.accuracy.update_called, model.accuracy._update_count),
        [tensor.tolist() for tensor in vars(model.accuracy).values() if isinstance(tensor, Tensor)],
        [
            None if parameter.grad is None else parameter.grad.tolist()
            for parameter in model.parameters()
        ],
        [id(parameter) for parameter in model.parameters()],
    ]


@pytest.mark.parametrize("profile", [False, True])
@pytest.mark.parametrize("copies", [False, True])
def test_nothing_is_left_of_a_real_run(copies: bool, profile: bool) -> None:
    model, batch = Untidy(copies), {"x": torch.ones(3, 4)}
    model.layer.weight.grad = torch.ones(4, 4)
    before, outputs = content_of(model), model.outputs
    report = count_flops(model, batch, profile=profile)
    assert report.fallback
    assert report.macs == 2 * 3 * 16  # with the gradient of the weight
    after = content_of(model)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert after[1:] == before[1:]
    assert model.outputs is outputs
    assert torch.equal(batch["x"], torch.ones(3, 4))


def test_a_model_that_needs_its_hooks_is_run_itself() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_forward_pre_hook(lambda _, given: (given[0].flatten(1),))
    report = count_flops(model, torch.ones(3, 2, 2))
    assert (report.device, report.macs) == ("cpu", 3 * 16)
    assert report.modules[1].forward == report.forward


def test_a_run_that_calls_another_model_than_it_is_given_is_counted_by_its_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    report = count_flops(model, torch.ones(3, 4), run=lambda _, x: model(x))
    assert (report.device, report.modules[1].forward) == ("cpu", 2 * 3 * 16)


class Force(nn.Module):
    """The slope of what a layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.layer(x).square().sum(), x)
        return slope


def test_models_that_differentiate_in_their_forward_have_times() -> None:
    report = count_flops(Force(), torch.ones(3, 4), profile=True)
    assert report.modules[0].seconds is not None
    assert report.modules[1].seconds is not None


def test_times_that_cannot_be_taken_have_a_reason() -> None:
    class OnMetaOnly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.is_meta, "no values, please"
            return x @ x.mT

    with pytest.raises(CannotRun, match=r"times .*no values, please"):
        count_flops(OnMetaOnly(), torch.ones(3, 4), profile=True)


def test_compiled_functions_of_users_stay_compiled() -> None:
    """A function that once ran where nothing can be compiled would never be compiled again."""
    compiled: list[int] = []

    def backend(graph: Any, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            compiled.append(1)
            return graph.forward(*args)

        return run

    @torch.compile(backend=backend, fullgraph=True)
    def activation(x: Tensor) -> Tensor:
        return F.gelu(x) * 2

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return activation(self.layer(x))

    model, batch = Model().requires_grad_(False), torch.ones(3, 4)
    assert count_flops(model, batch).macs == 3 * 16
    assert compiled == []
    for _ in range(3):
        model(batch)
    assert len(compiled) == 3
    count_flops(model, batch)
    model(batch)
    assert len(compiled) == 4


def test_models_that_were_traced_or_exported_are_counted() -> None:
    batch, model = torch.ones(2, 4), nn.Sequential(nn.Linear(4, 4))
    made: list[nn.Module] = [
        torch.fx.symbolic_trace(model),
        torch.export.export(model, (batch,)).module(),
    ]
    with pytest.warns(DeprecationWarning, match="trace"):
        made.append(torch.jit.trace(model, batch))  # type: ignore[no-untyped-call]
    for each in made:
        assert count_flops(each, batch).macs == 2 * 16
        assert count_flops(nn.Sequential(each, nn.ReLU()), batch).macs == 2 * 16
