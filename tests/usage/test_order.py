"""What no layer gave is data, and a dead channel counts once, however it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_weightwatch.usage.hooks import UsageHooks
from lightning_weightwatch.usage.measurement import measure_usage
from lightning_weightwatch.usage.report import UsageReport
from tests.trials.layers import normal
from tests.usage.measured import rows_of


class Net(nn.Module):
    """Two layers, and something done to the data before them."""

    def __init__(self, before: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 2)
        self.before = before

    def forward(self, x: Any) -> Tensor:
        return self.second(self.first(self.before(x)).tanh())  # type: ignore[no-any-return]


@dataclass
class Batch:
    x: Tensor


def zeros_in_data() -> Tensor:
    x = normal(8, 6)
    x[:, :3] = 0
    return x


def counted(report: UsageReport) -> tuple[float, float]:
    summary = report.summary()
    return summary["dead_channels"], summary["dead_channels_share"]


@pytest.mark.parametrize(
    ("before", "batch"),
    [
        (lambda x: x / 255, zeros_in_data()),
        (lambda x: x.float(), zeros_in_data().to(torch.uint8)),
        (lambda x: torch.cat([x[:, :3], x[:, 3:]], 1), zeros_in_data()),
        (lambda x: F.batch_norm(x, torch.zeros(6), torch.ones(6)), zeros_in_data()),
    ],
    ids=["scaled", "cast", "joined", "normalised"],
)
def test_what_is_done_to_the_data_before_the_first_layer_leaves_them_data(
    before: Callable[[Tensor], Tensor], batch: Tensor
) -> None:
    report = measure_usage(Net(before), (batch,))
    first, second = report.layers
    assert {0, 1, 2} <= set(first.dead_inputs)
    assert (first.from_data, second.from_data) == (True, False)
    assert counted(report) == (0, 0)


def test_whatever_runs_the_model_and_whatever_holds_the_batch_data_are_data() -> None:
    model = Net(lambda x: x)
    runs: list[tuple[Any, Any]] = [
        ({"x": zeros_in_data()}, lambda m, b: m(b["x"].clone())),
        (iter([Batch(zeros_in_data())]), lambda m, b: m(b.x * 2)),
    ]
    for batch, run in runs:
        report = measure_usage(model, batch, run=run)
        assert [layer.from_data for layer in report.layers] == [True, False]
        assert counted(report) == (0, 0)


def test_each_pass_begins_with_data_even_if_nobody_says_what_they_are() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    with UsageHooks(model) as hooks, torch.no_grad():
        for _ in range(3):
            model(zeros_in_data() / 2)
    report = hooks.report(3, 24)
    assert [layer.from_data for layer in report.layers] == [True, False]


def test_a_layer_that_is_not_asked_for_still_gives_what_the_next_one_reads() -> None:
    (layer,) = measure_usage(Net(lambda x: x), zeros_in_data(), layers=["second"]).layers
    assert not layer.from_data
    assert layer.channels_read == 4


def test_a_view_of_the_batch_is_data_for_later_layers_too() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.both = nn.Linear(6, 3), nn.Linear(3, 3), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.left(x), self.right(x[:, :3])
            return self.both(torch.cat(parts, 1))  # type: ignore[no-any-return]

    found = rows_of(Wide(), zeros_in_data())
    assert [layer.from_data for layer in found.values()] == [True, True, False]


def test_memory_that_is_used_again_is_not_data() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(6)))

    def run(model: nn.Module, batch: Tensor) -> Any:
        x = batch * 2
        for layer in model.children():
            x = layer(x)  # frees what it was given
        return x

    layers = measure_usage(model, normal(64, 64), run=run, activations=False).layers
    assert [layer.from_data for layer in layers] == [True] + [False] * 5


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_run_again_in_the_backward_pass_are_seen_once(reentrant: bool) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = checkpoint(super().forward, x, use_reentrant=reentrant)
            return hidden.sum()  # type: ignore[no-any-return]

    model, x = Checkpointed(lambda x: x / 255), zeros_in_data().requires_grad_(reentrant)
    with UsageHooks(model) as hooks:
        model(x).backward()
    first, second = hooks.report(1, 8).layers
    assert (first.from_data, second.from_data) == (True, False)
    assert (first.channels_read, second.channels_read) == (0, 4)


def dead_convolution(inputs: int, channels: int, *dead: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, channels, 3, padding=1)
    with torch.no_grad():
        assert layer.bias is not None
        layer.bias.fill_(5)
        layer.bias[list(dead)] = -1e6
    return layer


def dead_linear(inputs: int, channels: int, *dead: int) -> nn.Linear:
    layer = nn.Linear(inputs, channels)
    with torch.no_grad():
        layer.bias.fill_(5)
        layer.bias[list(dead)] = -1e6
    return layer


def test_a_flattened_channel_counts_once() -> None:
    model = nn.Sequential(
        dead_convolution(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 49, 10)
    )
    report = measure_usage(model, normal(4, 1, 7, 7))
    assert len(report.layers[1].dead_inputs) == 49
    assert report.layers[1].dead_channels == (3,)
    assert counted(report) == (1, 1 / 16)


def test_a_feature_that_is_dead_at_every_position_counts_once() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = dead_linear(3, 6, 2), nn.Linear(60, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.all(self.each(x).relu().flatten(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    x = normal(4, 10, 3)
    model = Tokens()
    report = measure_usage(model, x)
    assert report.layers[1].dead_channels == (2,)
    assert counted(report) == (1, 1 / 6)
    # The last positions are padding: no feature is dead for that.
    with torch.no_grad():
        model.each.bias.zero_()
    x[:, 8:] = 0
    report = measure_usage(model, x)
    assert len(report.layers[1].dead_inputs) >= 12
    assert counted(report) == (0, 0)


def test_dead_units_behind_a_function_count_each() -> None:
    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = dead_linear(4, 8, 1, 5), dead_linear(8, 8, 1), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(F.relu(self.b(F.relu(self.a(x)))))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    assert counted(measure_usage(Mlp(), normal(16, 4))) == (3, 3 / 16)


def test_a_channel_that_is_joined_to_others_again_and_again_counts_once() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = dead_convolution(1, 8, 2)
            self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(5))
            self.head = nn.Linear(28, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            for layer in self.layers:
                x = torch.cat([x, layer(x).abs()], 1)
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    report = measure_usage(Dense(), normal(2, 1, 9, 9))
    assert sum(2 in layer.dead_inputs for layer in report.layers) == 6
    assert counted(report)[0] == 1


@pytest.mark.parametrize("apart", [True, False])
def test_query_key_and_value_of_one_tensor_count_it_once(apart: bool) -> None:
    class Itself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = dead_linear(4, 8, 0, 6)
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.attention = nn.MultiheadAttention(8, 2)
            nn.init.ones_(self.attention.in_proj_bias)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            if apart:
                q, k, v = self.q(x), self.k(x), self.v(x)
                return F.scaled_dot_product_attention(q, k, v)
            return self.attention(x, x, x)[0]  # type: ignore[no-any-return]

    assert counted(measure_usage(Itself(), normal(5, 3, 4)))[0] == 2


def test_layers_of_a_recurrent_layer_read_each_other() -> None:
    model = nn.Sequential(dead_linear(3, 5, 4), nn.ReLU(), nn.LSTM(5, 4, 2, bidirectional=True))
    found = rows_of(model, normal(6, 2, 3))
    read = {name: layer.channels_read for name, layer in found.items() if layer.channels_read}
    assert read == {"2.weight_ih_l0": 5, "2.weight_ih_l1": 8}
    assert found["2.weight_ih_l0"].dead_channels == (4,)


def test_what_is_joined_is_not_taken_for_a_flattened_layer() -> None:
    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Linear(12, 2)
            with torch.no_grad():
                self.a.weight[:3], self.a.bias[:3] = 0, 0  # type: ignore[index]

        def forward(self, x: Tensor) -> Tensor:
            a = F.relu(self.a(x))
            made: Tensor = self.o(torch.cat([a, self.b(a)], 1).mean((2, 3)))
            return made

    report = measure_usage(Joins(), normal(4, 3, 5, 5))
    assert {layer.name: layer.dead_channels for layer in report.layers}["o"] == ()
    assert report.summary()["dead_channels"] == 3
