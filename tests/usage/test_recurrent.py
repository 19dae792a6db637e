"""Recurrent layers are weighed by their inputs and hidden states, as steps one by one give them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_weightwatch.usage.measurement import measure_usage
from tests.trials.layers import normal
from tests.usage.measured import Array, assert_importance, matrix, rms, rows_of

RECURRENT: list[tuple[Callable[..., nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 3, "bidirectional": True, "dropout": 0.5}),
    (nn.LSTM, {"num_layers": 2, "proj_size": 3, "bias": False}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    (nn.RNN, {"num_layers": 2, "nonlinearity": "relu"}),
]


def met_by_steps(
    layer: nn.RNNBase, sequences: list[Tensor], first: list[Tensor] | None
) -> dict[str, Array]:
    """The rows that weights meet: each sequence alone, step by step, with cells of the same kind.

    `first` has the states [layers · directions, sequences, ...] to begin with.
    """
    rows: dict[str, list[Tensor]] = {}
    directions = 2 if layer.bidirectional else 1
    for at, sequence in enumerate(sequences):
        steps = list(sequence)
        for number in range(layer.num_layers):
            outputs: list[list[Tensor]] = []
            for direction in range(directions):
                suffix = f"_l{number}" + "_reverse" * direction
                own: dict[str, Tensor] = {
                    name.removesuffix(suffix): value
                    for name, value in layer.named_parameters()
                    if name.endswith(suffix)
                }
                place = number * directions + direction
                width = layer.proj_size or layer.hidden_size
                states = [torch.zeros(width), torch.zeros(layer.hidden_size)]
                if first is not None:
                    states = [state[place, at] for state in first]
                given: list[Tensor] = []
                for x in reversed(steps) if direction else steps:
                    rows.setdefault(f"weight_ih{suffix}", []).append(x)
                    rows.setdefault(f"weight_hh{suffix}", []).append(states[0])
                    states = one_step(layer, own, x, states)
                    given.append(states[0])
                outputs.append(given[::-1] if direction else given)
            steps = [torch.cat(parts) for parts in zip(*outputs, strict=True)]
    return {name: torch.stack(seen).detach().double().numpy() for name, seen in rows.items()}


def one_step(
    layer: nn.RNNBase, own: dict[str, Tensor], x: Tensor, states: list[Tensor]
) -> list[Tensor]:
    h = states[0]
    a = F.linear(x, own["weight_ih"], own.get("bias_ih"))
    b = F.linear(h, own["weight_hh"], own.get("bias_hh"))
    if isinstance(layer, nn.LSTM):
        i, f, g, o = (a + b).chunk(4)
        c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return [own["weight_hr"] @ h if "weight_hr" in own else h, c]
    if isinstance(layer, nn.GRU):
        (ar, az, an), (br, bz, bn) = a.chunk(3), b.chunk(3)
        z = (az + bz).sigmoid()
        return [(1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * h]
    return [F.relu(a + b)]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("manner", ["steps first", "batch first", "unbatched", "packed", "states"])
@pytest.mark.parametrize(("kind", "options"), RECURRENT, ids=str)
def test_of_recurrent_layers_by_inputs_and_hidden_states(
    kind: Callable[..., nn.RNNBase], options: dict[str, Any], manner: str
) -> None:
    torch.manual_seed(0)
    layer = kind(4, 5, **options, batch_first=manner == "batch first")
    sequences, first = list(normal(3, 6, 4)), None
    args: tuple[Any, ...] = (torch.stack(sequences, 1),)
    if manner == "batch first":
        args = (torch.stack(sequences),)
    elif manner == "unbatched":
        sequences = sequences[:1]
        args = (sequences[0],)
    elif manner == "packed":
        sequences = [part[:length] for part, length in zip(sequences, (3, 6, 2), strict=True)]
        padded = nn.utils.rnn.pad_sequence(sequences)
        args = (pack_padded_sequence(padded, torch.tensor([3, 6, 2]), enforce_sorted=False),)
    if manner in ("states", "packed"):
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        first = [normal(count, 3, layer.proj_size or 5, seed=3), normal(count, 3, 5, seed=4)]
        args = (*args, tuple(first) if kind is nn.LSTM else first[0])
    report = measure_usage(layer, [None], run=lambda model, _: model(*args))
    found = {layer.name: layer for layer in report.layers}
    expected = met_by_steps(layer, sequences, first)
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert_importance(found[name], matrix(getattr(layer, name)) * rms(rows))
    named = {item.name for item in report.skipped if "hr" in item.name}
    assert bool(named) == bool(layer.proj_size)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("begun", [False, True])
def test_of_recurrent_cells(kind: Callable[..., nn.RNNCellBase], begun: bool) -> None:
    cell, x, h = kind(4, 5), normal(3, 4), normal(3, 5, seed=1)
    state = (h, normal(3, 5)) if kind is nn.LSTMCell else h
    found = rows_of(cell, [x], run=lambda model, _: model(x, state) if begun else model(x))
    assert_importance(found["weight_ih"], matrix(cell.weight_ih) * rms(x))
    if begun:
        assert_importance(found["weight_hh"], matrix(cell.weight_hh) * rms(h))
    else:
        assert not found["weight_hh"].input_importance.any()
