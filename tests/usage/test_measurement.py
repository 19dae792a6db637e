"""Measuring takes batches of any form, names what it cannot see, and leaves no trace."""

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.usage.measurement import UsageHooks, measure_usage
from lightning_weightwatch.usage.report import UsageReport
from tests.trials.layers import normal
from tests.usage.measured import (
    Attending,
    assert_importance,
    matrix,
    quick_start,
    rms,
    rows_of,
)


def test_a_tied_weight_counts_where_it_stands_first() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids))  # type: ignore[no-any-return]

    report = measure_usage(Tied(), torch.tensor([[1, 2]]))
    assert [(layer.name, layer.kind) for layer in report.layers] == [("table", "embedding")]
    assert [(item.name, item.reason) for item in report.skipped] == [
        ("head.weight", "tied to table.weight")
    ]


def test_what_a_layer_multiplies_with_is_what_counts() -> None:
    torch.manual_seed(0)
    pruned = nn.Linear(4, 3)
    prune.random_unstructured(pruned, "weight", 0.5)  # type: ignore[no-untyped-call]
    normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 1))
    x, y = normal(5, 4), normal(5, 2, 1)
    (of_pruned,) = rows_of(pruned, x).values()
    assert of_pruned.low_share == 0.5
    assert_importance(of_pruned, matrix(pruned.weight) * rms(x))
    (of_normed,) = (row for row in rows_of(normed, y).values() if row.kind == "conv1d")
    assert_importance(of_normed, matrix(normed.weight) * rms(y.movedim(1, -1))[:, None])


def test_batches_in_parts_are_what_all_at_once_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3, stride=2))
    x = normal(12, 3, 9)
    whole, parts = (rows_of(model, given) for given in (x, iter(torch.split(x, 5))))
    for name, layer in whole.items():
        assert parts[name].entropy == pytest.approx(layer.entropy, rel=1e-12)
        torch.testing.assert_close(parts[name].blocks, layer.blocks)


def in_step(ranks: list[UsageHooks]) -> None:
    """Merge hooks as processes do: each in a thread, which waits for the others to reduce."""
    reductions: dict[str, Callable[..., Tensor]] = {
        "sum": torch.sum,
        "min": torch.amin,
        "max": torch.amax,
    }
    given: dict[int, tuple[Tensor, str]] = {}
    barrier = Barrier(len(ranks))

    def reduce(rank: int, own: Tensor, how: str) -> Tensor:
        given[rank] = (own.clone(), how)
        barrier.wait()
        assert {how for _, how in given.values()} == {how}
        result = reductions[how](torch.stack([values for values, _ in given.values()]), 0)
        barrier.wait()
        return result

    with ThreadPoolExecutor(len(ranks)) as pool:
        merging = [
            pool.submit(hooks.merge, partial(reduce, rank)) for rank, hooks in enumerate(ranks)
        ]
        for each in merging:
            each.result(timeout=60)


@pytest.mark.parametrize("mode", ["wanda", "wua"])
def test_what_processes_have_seen_in_parts_is_what_one_sees_of_all(mode: Any) -> None:
    torch.manual_seed(0)
    model = Attending(batch_first=True).eval()
    x = normal(6, 4, 8)
    ranks = [UsageHooks(model, mode=mode) for _ in range(3)]
    for hooks, part in zip(ranks, (x[:2], x[2:]), strict=False):  # the third has seen nothing
        with hooks, torch.no_grad():
            model(part, part, part)
    in_step(ranks)
    report = ranks[2].report(2, 6)
    with UsageHooks(model, mode=mode) as hooks, torch.no_grad():
        model(x, x, x)
    expected = hooks.report(1, 6)
    assert [layer.name for layer in report.layers] == [layer.name for layer in expected.layers]
    assert report.skipped == expected.skipped
    for found, layer in zip(report.layers, expected.layers, strict=True):
        assert found.entropy == pytest.approx(layer.entropy, rel=1e-6)
        assert found.shares_input_with == layer.shares_input_with
        assert (found.from_data, found.channels_read) == (layer.from_data, layer.channels_read)
        torch.testing.assert_close(found.input_importance, layer.input_importance)


def test_channels_that_a_relu_keeps_at_zero_are_dead_and_no_more_are_needed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3)
            self.second = nn.Conv2d(8, 4, 3)
            self.beside = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = F.relu(self.first(x))
            return self.second(x), self.beside(x)

    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        assert model.first.bias is not None
        model.first.bias[[2, 5, 7]] = -1e6
    report = measure_usage(model, normal(4, 1, 9, 9))
    first, second, beside = report.layers
    assert (first.dead_inputs, first.from_data) == ((), True)
    assert second.dead_inputs == beside.dead_inputs == (2, 5, 7)
    assert second.suggested_inputs <= 5
    assert (second.shares_input_with, beside.shares_input_with) == (None, "second")
    assert report.summary()["dead_channels"] == 3
    assert report.summary()["dead_channels_share"] == 3 / 8


def test_a_tensor_that_was_written_to_in_between_is_another() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = x + 1
            a = self.first(x)
            b = self.second(x.mul_(0))
            return a + b + self.third(x)  # type: ignore[no-any-return]

    _, second, third = measure_usage(Net(), normal(4, 3)).layers
    assert (second.shares_input_with, third.shares_input_with) == (None, "second")


def test_dead_features_of_the_data_are_not_dead_channels() -> None:
    x = normal(8, 2, 3)
    x[..., 1] = 0
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    for given in (x, x.numpy(), x.double().numpy(), TensorDataset(x)[:], [x, x]):
        report = measure_usage(model, given)
        assert report.layers[0].dead_inputs == (1, 4)
        assert report.layers[0].from_data
        assert report.summary()["dead_channels"] == 0
        assert report.summary()["dead_channels_share"] == 0


def test_what_a_batch_is_is_told_by_its_type() -> None:
    X, y = normal(6, 10), torch.zeros(6)
    loader = DataLoader(TensorDataset(X, y), batch_size=4)
    generator = (X[start : start + 2] for start in (0, 2, 4))
    expected = rows_of(quick_start(), X)["2"].entropy
    given: dict[str, tuple[Any, int]] = {
        "tensor": (X, 1), "array": (X.numpy(), 1), "float64": (X.double().numpy(), 1),
        "tuple": ((X, y), 1), "list": ([X, y], 1), "mapping": ({"input": X, "y": y}, 1),
        "loader": (loader, 2), "generator": (generator, 3),
        "list of batches": ([(X[:4], y[:4]), (X[4:], y[4:])], 2),
        "iterator of tensors": (iter([X[:4], X[4:]]), 2),
    }  # fmt: skip
    for name, (batches, count) in given.items():
        report = measure_usage(quick_start(), batches)
        assert (report.batches, report.samples) == (count, 6), name
        assert report.layers[1].entropy == pytest.approx(expected, rel=1e-6), name


def test_a_large_array_is_run_in_parts() -> None:
    seen: list[int] = []

    def run(model: nn.Module, batch: Tensor) -> Any:
        seen.append(len(batch))
        return model(batch)

    X = normal(1100, 10)
    report = measure_usage(quick_start(), X.numpy(), run=run)
    assert seen == [256] * 4 + [76]
    assert report.samples == 1100
    assert_importance(report.layers[0], matrix(quick_start()[0].weight) * rms(X))
    assert measure_usage(quick_start(), (X,)).batches == 1


def test_a_loader_that_shuffles_leaves_the_random_numbers_alone() -> None:
    loader = DataLoader(TensorDataset(normal(6, 10)), batch_size=2, shuffle=True)
    model = quick_start()
    before = torch.get_rng_state()
    measure_usage(model, loader)
    assert torch.get_rng_state().equal(before)


def test_no_more_batches_are_asked_for_than_wanted() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield normal(2, 10)

    assert measure_usage(quick_start(), endless(), max_batches=3).samples == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": []}, "held none"),
        ({"batches": iter(())}, "held none"),
        ({"batches": 3}, "batches must be a loader.* got int"),
        ({"batches": "data"}, "batches must be a loader.* got str"),
        ({"model": len}, "model must be a torch.nn.Module, got builtin"),
        ({"mode": "magnitude"}, "mode must be 'wanda' or 'wua', got 'magnitude'"),
        ({"keep": 0}, "keep must be a share, above 0"),
        ({"keep": 99}, "keep must be a share, above 0"),
        ({"max_batches": 0}, "max_batches must be at least 1"),
        ({"layers": "0"}, "layers must be a list"),
        (
            {"layers": ["encoder"]},
            r"no layer with weights fits \['encoder'\]; there are '0', '2'",
        ),
        ({"layers": ["1"]}, r"no layer with weights fits \['1'\]; there are '0', '2'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"model": quick_start(), "batches": normal(2, 10), **arguments}
    with pytest.raises(ValueError, match=message):
        measure_usage(given.pop("model"), given.pop("batches"), **given)


def test_a_batch_that_does_not_fit_says_so() -> None:
    with pytest.raises(CannotRun, match="is called like an entry of the batch"):
        measure_usage(quick_start(), {"x": normal(2, 10)})


def test_layers_are_chosen_by_name_or_pattern() -> None:
    report = measure_usage(quick_start(), normal(3, 10), layers=["2"])
    assert [layer.name for layer in report.layers] == ["2"]
    assert [layer.name for layer in report.activations] == ["2"]
    without = measure_usage(quick_start(), normal(3, 10), activations=False)
    assert without.activations == ()
    assert "zero_activations_share" not in without.summary()


def test_what_cannot_be_measured_is_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.idle, self.bad = (nn.Linear(3, 3) for _ in range(3))
            self.norm = nn.LayerNorm(3)
            self.both = nn.Bilinear(3, 3, 2)
            self.scale = nn.Parameter(torch.ones(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.good(x)) @ self.scale
            return self.both(self.bad(x), x)  # type: ignore[no-any-return]

    model = Net()
    with torch.no_grad():
        model.bad.weight[1, 1] = torch.nan
    report = measure_usage(model, normal(4, 3), activations=False)
    assert [layer.name for layer in report.layers] == ["good"]
    assert {item.name: item.reason for item in report.skipped} == {
        "scale": "the inputs of Net are not known",
        "idle": "no input was seen",
        "bad": "1 of 9 values are NaN or infinite",
        "norm": "a 1-D weight is not multiplied with inputs",
        "both": "the inputs of Bilinear are not known",
    }


@pytest.mark.parametrize("mode", ["wanda", "wua"])
def test_paused_hooks_see_nothing(mode: Any) -> None:
    model, x = quick_start().eval(), normal(4, 10)
    with UsageHooks(model, mode=mode) as hooks, torch.no_grad():
        model(x[:2])
        hooks.paused = True
        model(x[2:] * 1e6)
    assert hooks.paused
    expected = measure_usage(model, x[:2], mode=mode)
    assert (
        hooks.report(1, 2).summary().items()
        >= {key: value for key, value in expected.summary().items() if "dead" not in key}.items()
    )


class Everything(nn.Module):
    """Most of what hooks go to."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.recurrent = nn.GRU(8, 4, 2, dropout=0.5, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.seen: list[int] = []
        self.fault: BaseException | None = None

    def forward(self, ids: Tensor) -> Tensor:
        self.seen.append(len(ids))
        x = self.table(ids)
        x = x + self.attention(x, x, x)[0]
        x = self.norm(self.recurrent(x)[0].mean(1))
        if self.fault is not None:
            raise self.fault
        return self.head(self.drop(x))  # type: ignore[no-any-return]


def state_of(model: nn.Module) -> list[Any]:
    """All that must not change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.is_grad_enabled(),
        [(module.training, sorted(vars(module))) for module in model.modules()],
        [len(getattr(module, kind)) for module in model.modules() for kind in hooks],
        {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        [(p.requires_grad, p.grad is None, p._version) for p in model.parameters()],
    ]


@pytest.mark.parametrize("mode", ["wanda", "wua"])
@pytest.mark.parametrize("fault", [None, ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_nothing_of_the_model_changes(mode: Any, fault: BaseException | None) -> None:
    torch.manual_seed(0)
    model = Everything()
    model.norm.eval()
    ids = torch.arange(8).view(2, 4)
    model(ids)
    model.fault = fault
    before = state_of(model)
    if fault is None:
        measure_usage(model, ids, mode=mode)
    else:
        with pytest.raises(type(fault)):
            measure_usage(model, ids, mode=mode)
        assert model.seen == [2]
    assert state_of(model) == before


@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_the_same_bits_while_hooks_look(training: bool) -> None:
    torch.manual_seed(0)
    model, ids = Everything().train(training), torch.arange(8).view(2, 4)
    outputs = []
    for observed in (False, True):
        torch.manual_seed(1)
        if observed:
            with UsageHooks(model):
                outputs.append(model(ids))
        else:
            outputs.append(model(ids))
    first, second = outputs
    assert first.view(torch.int32).equal(second.view(torch.int32))
    assert second.requires_grad


@pytest.mark.parametrize("mode", ["wanda", "wua"])
def test_gradients_are_the_same_bits_under_autocast(mode: Any) -> None:
    torch.manual_seed(0)
    model, ids = Everything(), torch.arange(8).view(2, 4)
    gradients = []
    for observed in (False, True):
        model.zero_grad()
        torch.manual_seed(1)
        with UsageHooks(model, mode=mode) if observed else nullcontext():
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(ids).float().square().sum()
            loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert first is not None
        assert second is not None
        assert first.equal(second)


def test_the_default_device_is_of_no_account() -> None:
    torch.manual_seed(0)
    model, ids = Everything().eval(), torch.arange(8).view(2, 4)
    with UsageHooks(model, activations=False) as hooks, torch.no_grad():
        model(ids)
    expected = hooks.report(1, 2)
    with torch.device("meta"):
        assert hooks.report(1, 2) == expected


def test_a_layer_that_gets_something_strange_is_named_and_the_pass_goes_on() -> None:
    class Strange(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return torch.zeros(2)

    report: UsageReport = measure_usage(Strange(4, 2), [(normal(3) - 9,)])
    (item,) = (item for item in report.skipped if item.name == "Strange")
    assert "what it was given cannot be read" in item.reason


def test_what_one_process_could_not_read_no_process_reports() -> None:
    class Moody(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids.clamp(0, 3))

    model = Moody(4, 2)
    ranks = [UsageHooks(model, activations=False) for _ in range(2)]
    for hooks, ids in zip(ranks, (torch.tensor([1]), torch.tensor([-1])), strict=True):
        with hooks, torch.no_grad():
            model(ids)
    in_step(ranks)
    first, second = (hooks.report(2, 2) for hooks in ranks)
    assert first.layers == second.layers == ()
    assert "another process could not read" in first.skipped[0].reason
    assert "what it was given cannot be read" in second.skipped[0].reason


def test_the_original_names_outputs_that_it_cannot_average() -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return None if bool((x == 0).all()) else super().forward(x) * x.sum()

    for x, reason in (
        (torch.zeros(3), "what it gave cannot be read"),
        (torch.full((3,), 1e30), "not finite"),
    ):
        report = measure_usage(Odd(3, 3), [(x * x,)], mode="wua", activations=False)
        assert report.layers == ()
        assert reason in report.skipped[0].reason


def test_a_subclass_with_a_forward_of_its_own_is_named() -> None:
    class Own(nn.LSTM):
        def forward(self, x: Any, hx: Any = None) -> Any:
            return x

    class Mine(nn.MultiheadAttention):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Any:  # type: ignore[override]
            return query

    report = measure_usage(Own(2, 2), normal(3, 2), activations=False)
    assert {item.reason for item in report.skipped} == {"the insides of Own are not known"}
    report = measure_usage(Mine(8, 2), (normal(3, 8),) * 3, activations=False)
    assert ("out_proj", "the insides of Mine are not known") in {
        (item.name, item.reason) for item in report.skipped
    }


def test_inputs_that_are_complex_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64))
    report = measure_usage(model, normal(4, 3).to(torch.complex64), activations=False)
    assert [(item.name, item.reason) for item in report.skipped] == [
        ("0", "its inputs are complex")
    ]


def test_an_empty_batch_is_named() -> None:
    report = measure_usage(quick_start(), torch.zeros(0, 10), activations=False)
    assert {item.reason for item in report.skipped} == {"its inputs were empty"}


@pytest.mark.parametrize(("size", "said"), [(1e200, "large"), (1e-200, "small"), (1e-160, "small")])
def test_doubles_that_have_no_square_are_neither_dead_nor_infinite(size: float, said: str) -> None:
    x = size * (1 + normal(5, 10).double().abs())
    report = measure_usage(quick_start().double(), x, layers=["0"], activations=False)
    assert report.layers == ()
    (item,) = report.skipped
    assert f"its inputs are too {said} to be squared" in item.reason


def test_a_small_double_beside_others_is_not_dead() -> None:
    x = normal(5, 10).double()
    x[:, 3] = 1e-200
    x[:, 4] = 0
    (layer,) = measure_usage(quick_start().double(), x, layers=["0"], activations=False).layers
    assert layer.dead_inputs == (4,)
    assert_importance(layer, matrix(quick_start()[0].weight) * rms(x))


def test_doubles_that_are_not_finite_are_named_so() -> None:
    x = normal(5, 10).double()
    x[1, 1] = torch.inf
    report = measure_usage(quick_start().double(), x, layers=["0"], activations=False)
    assert [item.reason for item in report.skipped] == ["its inputs are not finite"]


def test_sequences_in_a_pack_are_one_batch() -> None:
    packed: PackedSequence = pack_padded_sequence(normal(4, 2, 3), torch.tensor([4, 2]))
    assert measure_usage(nn.GRU(3, 3), packed).samples == 2


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_that_is_made_meanwhile_has_no_hooks_of_effect(
    how: Callable[[nn.Module], nn.Module],
) -> None:
    """Over and over: what was copied of the hooks once freed memory twice."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = normal(5, 3)
    made: list[nn.Module] = []

    def run(model: nn.Module, batch: Tensor) -> Any:
        made.append(how(model))
        return model(made[-1](batch)[:, :1].expand(-1, 3))

    for _ in range(5):
        report = measure_usage(model, iter([x] * 3), run=run)
    assert report.layers[0].weights == 12
    for copied in made:
        copied(x)
        again = copy.deepcopy(copied)
        assert torch.equal(again(x), model(x))
