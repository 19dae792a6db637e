"""Inputs of layers are rounded as torch rounds them, for one evaluation, and nothing stays."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch import try_quantization
from lightning_weightwatch.trials.activation_quantization import quantized_values
from lightning_weightwatch.trials.snapshot import digest
from lightning_weightwatch.trials.targets import find_targets
from lightning_weightwatch.usage.input_ranges import InputRanges
from lightning_weightwatch.views.trials import trial_markdown
from tests.trials.layers import normal

INPUTS = normal(64, 6, seed=1)


def by_torch(values: Tensor, low: float, high: float, bits: int) -> Tensor:
    """torch's own operator over a range that holds 0."""
    least, most = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    half = 2 ** (bits - 1)
    scale = np.float32(most - least) / np.float32(2 * half - 1)
    zero_point = int(np.clip(-half - np.round(least / scale), -half, half - 1))
    return torch.fake_quantize_per_tensor_affine(values, float(scale), zero_point, -half, half - 1)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(
    ("low", "high"), [(-2.0, 3.0), (0.0, 5.0), (-0.3, 0.0), (1.0, 2.0), (-4.0, -1.0)]
)
def test_values_are_rounded_as_torch_rounds_them(bits: int, low: float, high: float) -> None:
    values = normal(500) * 3
    assert quantized_values(values, low, high, bits).equal(by_torch(values, low, high, bits))


def test_values_keep_their_width_and_a_range_of_nothing_gives_zeros() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        found = quantized_values(normal(50).to(dtype), -1.0, 1.0, 8)
        assert found.dtype == dtype
        assert (found - normal(50).to(dtype).clamp(-1, 1)).abs().max() < 1 / 120
    assert quantized_values(normal(5), 0.0, 0.0, 8).abs().max() < 1e-30


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))


def evaluate(model: nn.Module) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        return {"loss": float((model(INPUTS) - INPUTS[:, :3]).square().mean())}


def inputs_of(model: nn.Module, *args: Any) -> dict[str, Tensor]:
    """What goes into each linear layer, by hooks of the test's own."""
    found: dict[str, Tensor] = {}
    with torch.no_grad(), watching(model, lambda name, x: found.update({name: x})):
        model.eval()(*args)
    return found


@contextmanager
def watching(model: nn.Module, see: Callable[[str, Tensor], Any]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def seen(_: nn.Module, args: tuple[Any, ...]) -> None:
            see(name, args[0])

        return seen

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_is_the_model_with_weights_and_inputs_through_torchs_operators(bits: int) -> None:
    model = net()
    report = try_quantization(
        model, evaluate, bits=8, clip="absmax", activation_bits=bits, activation_clip="minmax"
    )
    other = copy.deepcopy(model).eval()
    known = inputs_of(other, INPUTS)
    for name, module in other.named_modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.detach()
            zeros = torch.zeros(len(weight), dtype=torch.int32)
            scale = weight.abs().amax(1) / 127
            module.weight.data = torch.fake_quantize_per_channel_affine(
                weight, scale, zeros, 0, -127, 127
            )
            low, high = float(known[name].min()), float(known[name].max())

            def hook(
                _: nn.Module, args: tuple[Tensor], low: float = low, high: float = high
            ) -> Tensor:
                return by_torch(args[0], low, high, bits)

            module.register_forward_pre_hook(hook)
    names = [row.name for row in report.rows]
    assert names == ["baseline", "int8_absmax", f"int8_absmax_a{bits}_minmax"]
    assert report.rows[2].metrics == evaluate(other)
    assert report.rows[2].metrics != report.rows[1].metrics


def test_a_percentile_clips_what_a_thousandth_of_the_values_exceed() -> None:
    x = normal(100_000, 1)
    x[0] = 1000
    layer = nn.Linear(1, 1)
    weights = find_targets(layer).weights
    with torch.no_grad(), InputRanges(weights) as ranges:
        layer(x)
    expected = np.quantile(x.abs().double().numpy(), 0.999)
    assert ranges.of(weights[0], "minmax") == (x.min().item(), 1000)
    clipped = ranges.of(weights[0], "percentile")
    assert clipped == pytest.approx((-expected, expected), rel=1 / 64)
    with torch.no_grad(), InputRanges(weights) as ranges:
        layer(x.relu())
    expected = np.quantile(x.relu().double().numpy(), 0.999)
    assert ranges.of(weights[0], "percentile") == pytest.approx((0, expected), rel=1 / 64)


def test_the_model_comes_back_bit_for_bit_without_a_hook() -> None:
    model = net()
    model[0].register_forward_pre_hook(lambda module, args: None)
    before, hooks = digest(model), [dict(m._forward_pre_hooks) for m in model.modules()]
    x, expected = INPUTS, net().eval()(INPUTS)
    try_quantization(model, evaluate, bits=(8, 4), activation_bits=(8, 4))
    assert digest(model) == before
    assert [dict(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert model.eval()(x).equal(expected)


def test_the_hooks_are_gone_after_a_fault_and_its_row_says_so() -> None:
    model, calls = net(), 0

    def fails_late(model: nn.Module) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            model(INPUTS[:, :2])
        return evaluate(model)

    report = try_quantization(model, fails_late, bits=8, activation_bits=8)
    assert "RuntimeError" in report.rows[2].error
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_it_is_off_by_default_and_other_rows_do_not_change_by_it() -> None:
    plain = try_quantization(net(), evaluate, bits=(8, 4))
    both = try_quantization(net(), evaluate, bits=(8, 4), activation_bits=8, per_layer=1)
    assert [row.name for row in plain.rows] == ["baseline", "int8", "int4"]
    assert [row.name for row in both.rows] == ["baseline", "int8", "int8_a8", "int4", "int4_a8"]
    assert [both.rows[at].metrics for at in (0, 1, 3)] == [row.metrics for row in plain.rows]
    assert {row.name for row in both.alone} == {"int8", "int4"}
    records = both.records()
    assert [record.get("activation_bits") for record in records[:5]] == [None, None, 8, None, 8]
    assert both.rows[2].packed_bytes == both.rows[1].packed_bytes


class Tower(nn.Module):
    """Layers whose inputs are of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.conv = nn.Conv1d(8, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.attention(query=x, key=x, value=x)[0]
        packed = nn.utils.rnn.pack_padded_sequence(
            x, torch.full((len(x),), x.shape[1]), batch_first=True
        )
        x, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        out: Tensor = self.head(self.conv(x.transpose(1, 2)).mean(2))
        return out


def test_inputs_that_cannot_be_quantized_are_named() -> None:
    torch.manual_seed(0)
    model, tokens = Tower(), torch.arange(20).view(2, 10) % 10

    def of_tokens(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(model(tokens).square().mean())}

    report = try_quantization(model, of_tokens, bits=8, activation_bits=8)
    row = report.rows[2]
    assert not row.error
    notes = {layer.name: layer.note for layer in row.layers}
    assert [name for name, note in notes.items() if note] == [
        "table.weight",
        "attention.out_proj.weight",
    ]
    assert "no integer" in notes["table.weight"]
    assert "attention.out_proj.weight (inputs not quantized: they are within" in trial_markdown(
        report
    ).replace("\\_", "_")
    assert row.metrics != report.rows[1].metrics


def test_queries_keys_and_values_that_are_one_tensor_stay_one() -> None:
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True), normal(2, 5, 8)
    same: list[bool] = []

    def of_attention(model: nn.Module) -> dict[str, float]:
        def hook(_: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
            same.append(args[0] is args[1] is args[2])

        with torch.no_grad():
            handle = model.register_forward_pre_hook(hook)
            out = model(x, x, x)[0]
            handle.remove()
        return {"loss": float(out.square().mean())}

    try_quantization(layer, of_attention, bits=8, activation_bits=8)
    assert same == [True] * 3


def test_inputs_that_are_not_finite_are_left_alone_and_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    x = torch.tensor([[1.0, math.inf], [0.3, 2.0]])

    def of_few(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(model[1](x[1:]).sum() + 0 * model[0](x)[1].sum())}  # type: ignore[index]

    row = try_quantization(model, of_few, bits=8, activation_bits=8).rows[2]
    assert [layer.note for layer in row.layers] == ["inputs not quantized: they are not finite", ""]


def test_a_model_without_such_inputs_says_so() -> None:
    model, tokens = nn.Embedding(9, 4), torch.arange(9)
    report = try_quantization(
        model, lambda m: {"loss": float(m(tokens).detach().sum())}, bits=8, activation_bits=8
    )
    assert report.rows[1].error == ""
    assert "no layer has inputs that can be quantized" in report.rows[2].error


def test_gradients_that_an_evaluation_asks_for_go_through() -> None:
    grads: list[Tensor] = []

    def with_gradients(model: nn.Module) -> dict[str, float]:
        x = INPUTS.clone().requires_grad_()
        loss = model.eval()(x).square().mean()
        grads.append(torch.autograd.grad(loss, x)[0])
        return {"loss": float(loss.detach())}

    report = try_quantization(net(), with_gradients, bits=8, activation_bits=8)
    assert [row.error for row in report.rows] == [""] * 3
    torch.testing.assert_close(grads[2], grads[0], atol=1e-3, rtol=0.2)


def test_processes_share_their_ranges() -> None:
    layer, first, second = nn.Linear(3, 1), normal(50, 3), normal(50, 3, seed=1) * 4
    weights = find_targets(layer).weights
    parts = []
    for x in (first, second):
        with torch.no_grad(), InputRanges(weights) as ranges:
            layer(x)
        parts.append(ranges)
    given: list[Tensor] = []

    def kept(values: Tensor) -> Tensor:
        given.append(values)
        return values

    parts[1].merge(total=kept, least=kept)
    ends, cells = given
    parts[0].merge(lambda own: own + cells, lambda own: torch.minimum(own, ends))
    both = torch.cat([first, second])
    with torch.no_grad(), InputRanges(weights) as whole:
        layer(both)
    for clip in ("minmax", "percentile"):
        assert parts[0].of(weights[0], clip) == whole.of(weights[0], clip)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation_bits": 1}, "activation_bits must be a whole number from 2 to 8, got 1"),
        ({"activation_bits": True}, "activation_bits must be a whole number"),
        ({"activation_bits": 16}, "got 16"),
        ({"activation_bits": [8, 8]}, "activation_bits must differ"),
        ({"activation_bits": []}, "activation_bits must be a value or a list"),
        ({"activation_bits": 8, "activation_clip": "mse"}, "activation_clip must be one of"),
    ],
)
def test_what_is_out_of_range_is_refused_before_anything_runs(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        try_quantization(net(), evaluate, **arguments)
