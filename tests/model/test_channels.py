"""Wirings say which output of a layer each input of another is: changing one changes the other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_weightwatch.model.graph import trace
from tests.views.networks_to_draw import Written

LINEAR: dict[str, Callable[..., Any]] = {
    "as it is": lambda a, x: a(x),
    "relu in place": lambda a, x: F.relu_(a(x)),
    "gated by itself": lambda a, x: a(x).mul(2.0).sigmoid() + 1,
    "flatten": lambda a, x: a(x).flatten(1),
    "view": lambda a, x: a(x).view(len(x), -1),
    "turned and flat": lambda a, x: a(x).transpose(1, 2).flatten(1),
    "first half": lambda a, x: a(x).chunk(2, -1)[0],
    "last half": lambda a, x: a(x)[..., 3:],
    "every second": lambda a, x: a(x)[..., ::2],
    "chosen": lambda a, x: a(x)[..., [5, 0, 0, 2]],
    "flipped": lambda a, x: a(x).flip(-1),
    "rolled": lambda a, x: torch.roll(a(x), 2, -1),
    "split": lambda a, x: a(x).split([1, 4, 1], -1)[1],
    "last step": lambda a, x: a(x)[:, -1],
    "mean": lambda a, x: a(x).mean(1),
    "mean, kept": lambda a, x: a(x).mean(1, keepdim=True),
    "heads and back": lambda a, x: a(x).unflatten(-1, (2, 3)).transpose(1, 2).flatten(2).flatten(1),
    "heads": lambda a, x: a(x).unflatten(-1, (2, 3)).transpose(-1, -2).flatten(2),
    "repeated": lambda a, x: a(x).repeat(1, 1, 2),
    "cat with itself": lambda a, x: (lambda y: torch.cat([y, y[..., :2]], -1))(a(x)),
    "stacked": lambda a, x: (lambda y: torch.stack([y, y], -1).flatten(2))(a(x)),
    "pooled": lambda a, x: F.adaptive_avg_pool1d(a(x).transpose(1, 2), 1).squeeze(-1),
    "padded": lambda a, x: F.pad(a(x).transpose(1, 2), (1, 1)).transpose(1, 2),
    "T": lambda a, x: a(x).mT.mT,
}  # fmt: skip
CONVOLUTION: dict[str, Callable[..., Any]] = {
    "flatten": lambda a, x: a(x).flatten(1),
    "pooled": lambda a, x: F.max_pool2d(a(x), 2).flatten(1),
    "channels last": lambda a, x: a(x).permute(0, 2, 3, 1).flatten(1),
    "tokens": lambda a, x: a(x).flatten(2).transpose(1, 2),
    "global": lambda a, x: a(x).mean((2, 3)),
    "normed": lambda a, x: F.avg_pool2d(a(x).relu(), 4).view(len(x), -1),
}
MIXED: dict[str, Callable[..., Any]] = {
    "glu": lambda a, x: F.glu(a(x)),
    "sum of halves": lambda a, x: a(x)[..., :3] + a(x)[..., 3:],
    "product of halves": lambda a, x: (lambda y: y[..., :3] * y[..., 3:])(a(x)),
    "pooled channels": lambda a, x: F.avg_pool1d(a(x), 2),
    "shuffled by data": lambda a, x: a(x).sort(-1)[0],
    "summed": lambda a, x: a(x).unflatten(-1, (2, 3)).sum(-1),
    "transformed": lambda a, x: torch.fft.rfft(a(x)).abs(),
    "cumulative": lambda a, x: a(x).cumsum(-1),
    "product": lambda a, x: a(x) @ torch.ones(6, 4, device=x.device),
    "written": lambda a, x: _written(a(x)),
    "steps as features": lambda a, x: a(x).transpose(1, 2),
}


def _written(y: Tensor) -> Tensor:
    y[..., 0] = y[..., 1]
    return y


def wired(a: nn.Module, forward: Callable[..., Any], x: Tensor) -> tuple[Any, nn.Module]:
    """The wiring from `a` to a linear layer that reads what comes of it, and the model."""
    features = forward(a, x).shape[-1]
    model = Written(lambda m, x: m.b(forward(m.a, x)), a=a, b=nn.Linear(features, 2))
    graph = trace(model, x)
    names = [node.name for node in graph.nodes]
    return graph.wirings.get((names.index("a"), names.index("b"))), model


def changed(model: Any, x: Tensor, channel: int, axis: int) -> list[int]:
    """The inputs of `b` that change with one output channel of `a`."""
    given: list[Tensor] = []
    changes = [0.0, 100.0]

    def altered(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output.select(axis, channel).add_(changes[len(given)])
        return output

    hooks = [
        model.a.register_forward_hook(altered),
        model.b.register_forward_pre_hook(lambda _, args: given.append(args[0].clone())),
    ]
    with torch.no_grad():
        for _ in changes:
            model(x)
    for hook in hooks:
        hook.remove()
    before, after = given
    return torch.nonzero((before != after).flatten(0, -2).any(0)).flatten().tolist()


@pytest.mark.parametrize("how", LINEAR)
def test_inputs_are_the_features_that_change_them(how: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5)
    wiring, model = wired(nn.Linear(5, 6), LINEAR[how], x)
    assert wiring is not None
    for channel in range(6):
        assert np.flatnonzero(wiring == channel).tolist() == changed(model, x, channel, -1)


@pytest.mark.parametrize("how", CONVOLUTION)
def test_inputs_are_the_channels_that_change_them(how: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 6, 6)
    wiring, model = wired(nn.Conv2d(1, 3, 3), CONVOLUTION[how], x)
    assert wiring is not None
    for channel in range(3):
        assert np.flatnonzero(wiring == channel).tolist() == changed(model, x, channel, 1)


@pytest.mark.parametrize("how", MIXED)
def test_of_what_mixes_features_nothing_is_claimed(how: str) -> None:
    wiring, _ = wired(nn.Linear(5, 6), MIXED[how], torch.randn(3, 4, 5))
    assert wiring is None


def test_parts_of_a_concatenation_come_one_after_the_other() -> None:
    model = Written(
        lambda m, x: m.b(torch.cat([m.right(x), x, m.left(x)[:, :2]], 1)),
        left=nn.Linear(2, 3), right=nn.Linear(2, 1), b=nn.Linear(5, 2),
    )  # fmt: skip
    graph = trace(model, torch.zeros(4, 2))
    names = [node.name for node in graph.nodes]
    cat = names.index("cat")
    found = {names[at]: graph.wirings[at, cat].tolist() for at, end in graph.edges if end == cat}
    assert found == {
        "right": [0, -1, -1, -1, -1],
        "input": [-1, 0, 1, -1, -1],
        "left": [-1, -1, -1, 0, 1],
    }
    assert graph.wirings[cat, names.index("b")].tolist() == [0, 1, 2, 3, 4]


def test_the_same_values_read_in_two_ways_are_no_features_of_the_second() -> None:
    model = Written(
        lambda m, x: m.a(x) + m.b(x.transpose(1, 2)), a=nn.Linear(4, 2), b=nn.Linear(4, 2)
    )
    graph = trace(model, torch.zeros(3, 4, 4))
    names = [node.name for node in graph.nodes]
    assert graph.wirings[0, names.index("a")].tolist() == [0, 1, 2, 3]
    assert (0, names.index("b")) not in graph.wirings
    assert graph.nodes[0].outputs == 4


def test_the_last_states_of_both_directions_are_the_outputs() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        _, (states, _) = m.a(x)
        made: Tensor = m.b(torch.cat([states[-1], states[-2]], 1))
        return made

    model = Written(forward, a=nn.LSTM(3, 2, 2, bidirectional=True), b=nn.Linear(4, 1))
    graph = trace(model, torch.zeros(5, 2, 3))
    assert graph.wirings[1, 2].tolist() == [2, 3, 0, 1]


def test_what_was_written_to_is_no_longer_what_it_was() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        seen = y.view(-1, 4)
        y[:, [0, 1]] = y[:, [1, 0]].clone()
        made: Tensor = m.b(seen)
        return made

    graph = trace(Written(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 1)), torch.zeros(5, 3))
    assert (1, 2) not in graph.wirings


@pytest.mark.parametrize(
    "norm",
    [
        lambda y: y * (y.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt(),
        lambda y: (y - y.mean(-1, keepdim=True)) / y.std(-1).unsqueeze(-1),
        lambda y: F.layer_norm(y, (4,)),
        lambda y: y / y.norm(dim=-1, keepdim=True),
        lambda y: y.masked_fill(y > 1, 0.0),
    ],
)
def test_norms_leave_each_feature_what_it_is(norm: Callable[[Tensor], Tensor]) -> None:
    wiring, _ = wired(nn.Linear(5, 4), lambda a, x: norm(a(x)), torch.randn(3, 5))
    assert wiring.tolist() == [0, 1, 2, 3]


def test_masks_are_no_source() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        made: Tensor = m.b(m.a(x) * (x[..., :1] > 0))
        return made

    graph = trace(Written(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 1)), torch.zeros(5, 3))
    assert graph.wirings[1, 2].tolist() == [0, 1, 2, 3]
    assert graph.wirings[0, 1].tolist() == [0, 1, 2]


def test_a_sum_has_the_features_of_each_in_its_own_order() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        made: Tensor = m.c(m.a(x)[:, [1, 0, 3, 2]] + m.b(x))
        return made

    layers = {name: nn.Linear(4, 4) for name in "abc"}
    graph = trace(Written(forward, **layers), torch.zeros(5, 4))
    names = [node.name for node in graph.nodes]
    add = names.index("add")
    assert graph.wirings[names.index("a"), add].tolist() == [1, 0, 3, 2]
    assert graph.wirings[names.index("b"), add].tolist() == [0, 1, 2, 3]
