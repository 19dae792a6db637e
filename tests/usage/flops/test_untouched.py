"""A model that was counted is as it was, wherever it ran; where it cannot run, both reasons."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.usage.flops.count import count_flops


class Model(nn.Module):
    """Changes in training, draws random numbers and keeps lists; may ask for values, and fail."""

    def __init__(self, asks: bool = False, fails: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.frozen = nn.Linear(4, 2).requires_grad_(False).eval()
        self.asks, self.fails, self.seen = asks, fails, [torch.ones(2)]

    def forward(self, x: Tensor) -> Any:
        noise = torch.randn(4) + random.random() + np.random.rand()
        x = self.body(x + noise)
        if self.asks and x.sum().item() > 1e9:
            return None
        x = self.frozen(x)
        if self.fails:
            raise RuntimeError("no use")
        return x


def state_of(model: nn.Module) -> list[Any]:
    """Everything that could have been changed, as plain values."""
    random_numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()
    return [
        [(name, value.numpy().tobytes()) for name, value in model.state_dict().items()],
        [(id(p), p.requires_grad, p.grad) for p in model.parameters()],
        [(module.training, list(vars(module))) for module in model.modules()],
        [
            {key: list(hooks) for key, hooks in vars(module).items() if key.endswith("hooks")}
            for module in model.modules()
        ],
        repr(random_numbers),
        torch.is_grad_enabled(),
    ]


@pytest.mark.parametrize("profile", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_the_model_is_as_it_was(asks: bool, fails: bool, profile: bool) -> None:
    model = Model(asks, fails).train()
    model.frozen.eval()
    handle = model.body.register_forward_hook(lambda *_: None)
    before, seen = state_of(model), [*model.seen]
    if fails:
        with pytest.raises(CannotRun, match="Model cannot be run on cpu: RuntimeError: no use"):
            count_flops(model, torch.ones(3, 4), profile=profile)
    else:
        report = count_flops(model, torch.ones(3, 4), profile=profile)
        assert report.device == ("cpu" if asks else "meta")
        assert report.macs == 3 * (4 * 4 + 4 * 2)
        assert "item" in report.fallback if asks else report.fallback == ""
    assert state_of(model) == before
    assert model.seen[0] is seen[0]
    assert len(model.seen) == 1
    handle.remove()


def test_on_meta_no_hook_of_a_user_runs_and_no_value_is_looked_at() -> None:
    model, seen = Model(), []
    model.register_forward_hook(lambda *_: seen.append("ran"))
    model.get_parameter("body.0.weight").data.fill_(float("nan"))
    count_flops(model, torch.ones(3, 4))
    assert seen == []


def test_it_may_be_called_without_gradients_and_within_inference() -> None:
    model, asking = Model(), Model(asks=True)
    expected = count_flops(model, torch.ones(3, 4))
    for way in (torch.no_grad, torch.inference_mode):
        with way():
            assert count_flops(model, torch.ones(3, 4)) == expected
            really = count_flops(asking, torch.ones(3, 4))
            assert really.device == "cpu"
            assert (really.macs, really.backward) == (expected.macs, expected.backward)


def test_a_model_is_counted_without_a_copy_of_its_values() -> None:
    """Four terabytes, which in this model are one value over and over, would fit nowhere."""
    model = nn.Linear(1, 1, bias=False)
    model.weight = nn.Parameter(torch.zeros(1).expand(1_000_000, 1_000_000))
    report = count_flops(model, torch.ones(2, 1_000_000))
    assert (report.parameters, report.macs) == (10**12, 2 * 10**12)
    assert report.parameter_bytes == 4 * 10**12
    assert report.fallback == ""


class Steps(nn.Module):
    def __init__(self, steps: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.steps = nn.Linear(4, 4), steps

    def forward(self, x: Tensor) -> Any:
        self.steps(x)
        return self.layer(x)


def test_where_meta_will_not_do_the_reason_is_given() -> None:
    for step in (
        lambda x: x.sum().item(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: [row for row in x if row.sum() > 1],
    ):
        report = count_flops(Steps(step), torch.ones(3, 4))
        assert (report.device, report.macs) == ("cpu", 3 * 16)
        assert "Error" in report.fallback
        assert "\n" not in report.fallback


def test_tensors_made_on_the_way_are_no_reason() -> None:
    """Used beside the batch they are on meta, and where their values are read they are not."""
    for step in (
        lambda x: x + torch.arange(4),
        lambda x: [rate.item() for rate in torch.linspace(0, 1, 3)],
    ):
        assert count_flops(Steps(step), torch.ones(3, 4)).fallback == ""


def test_a_model_on_meta_has_no_other_way() -> None:
    with torch.device("meta"):
        model = Steps(lambda x: x.sum().item())
    with pytest.raises(CannotRun, match=r"cannot be run on meta: .*item"):
        count_flops(model, torch.ones(3, 4))
    with pytest.raises(CannotRun, match="Linear is on meta: give a model with values"):
        count_flops(nn.Linear(4, 4, device="meta"), torch.ones(3, 4), profile=True)


def test_both_reasons_are_given_where_neither_way_goes() -> None:
    model = Steps(lambda x: x.numpy()[7])
    with pytest.raises(CannotRun, match=r"on cpu: IndexError: .*It does not run on meta: .*numpy"):
        count_flops(model, torch.ones(3, 4))


def test_a_model_without_shapes_is_refused() -> None:
    with pytest.raises(CannotRun, match=r"cannot be counted: weight is lazy"):
        count_flops(nn.LazyLinear(3), torch.ones(2, 2))


def test_compiled_and_wrapped_models_are_counted_as_what_they_are_made_from() -> None:
    expected = count_flops(Model(), torch.ones(3, 4))
    compiled: Any = torch.compile(Model())
    assert count_flops(compiled, torch.ones(3, 4)) == expected
    assert count_flops(nn.DataParallel(Model()), torch.ones(3, 4)) == expected
    inner: Any = torch.compile(nn.Linear(4, 4))
    for around in (nn.Sequential(inner), Steps(lambda x: x.sum().item())):
        if isinstance(around, Steps):
            around.layer = inner
        report = count_flops(around, torch.ones(3, 4))
        assert report.macs == 3 * 16
        assert report.modules[1].name in ("0", "layer")
        assert report.modules[1].forward == report.forward


def test_a_scripted_part_costs_the_module_that_calls_it() -> None:
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 8)))
    report = count_flops(nn.Sequential(nn.Linear(4, 4), scripted), torch.ones(3, 4))
    assert report.macs == 3 * (4 * 4 + 4 * 8)
    assert report.modules[0].own_forward == 2 * 3 * 4 * 8
    assert {skipped.name for skipped in report.skipped} == {"1", "1.0"}


def test_packed_sequences_cost_what_is_in_them() -> None:
    packed = pack_sequence([torch.ones(3, 8), torch.ones(2, 8)])
    report = count_flops(nn.LSTM(8, 16), packed)
    assert (report.device, report.macs) == ("meta", 5 * 4 * 16 * (8 + 16))


def without_last(model: nn.Module, x: Tensor) -> Any:
    for layer in list(model.children())[:-1]:
        x = layer(x)
    return x


def test_times_are_those_of_real_passes_with_all_that_a_module_calls() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64)), nn.ReLU())
    model.append(nn.ModuleList([nn.Linear(1, 1)]))
    report = count_flops(model, torch.ones(8, 64), profile=True, run=without_last)
    seconds = {module.name: module.seconds for module in report.modules}
    whole, outer, inner = (seconds[name] for name in ("Sequential", "1", "1.0"))
    assert whole is not None
    assert outer is not None
    assert inner is not None
    assert whole >= outer >= inner > 0
    assert seconds["3.0"] is None
    assert report.summary()["seconds"] == whole
    assert all(m.seconds is None for m in count_flops(nn.Linear(2, 2), torch.ones(1, 2)).modules)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model must be an nn\.Module, got NoneType"):
        count_flops(None, torch.ones(1))  # type: ignore[arg-type]
