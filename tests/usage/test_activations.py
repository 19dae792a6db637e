"""Statistics of outputs are those that numpy finds in all outputs at once."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.activations import (
    Activations,
    LayerActivations,
    observed_modules,
)
from lightning_weightwatch.usage.value_cells import FAR_WIDTH, RELATIVE_WIDTH, SAMPLE
from tests.trials.layers import normal

Floats = NDArray[np.float64]


class Gives(nn.Module):
    """A layer that gives what it gets."""

    def forward(self, x: Any) -> Any:
        return x


class Normalizes(nn.BatchNorm2d):
    """The same, with its channels after the batch."""

    def forward(self, input: Tensor) -> Tensor:
        return input


def seen(module: nn.Module, *inputs: Any) -> LayerActivations:
    """What is found of a single layer."""
    with torch.no_grad(), Activations([("layer", module)]) as activations:
        for given in inputs:
            module(given)
    assert activations.skipped == ()
    (found,) = activations.of_layers()
    return found


def check(found: LayerActivations, rows: Floats) -> None:
    """Compare with numpy, given [channels, values]."""
    assert (found.channels, found.count, found.nonfinite) == (len(rows), rows.size, 0)
    size = 1e-6 * (np.abs(rows.mean(1)) + rows.std(1))
    assert abs(found.mean - rows.mean()) <= size.max()
    assert found.std == pytest.approx(rows.std(), rel=1e-5, abs=1e-12)
    assert (found.min, found.max) == (rows.min(), rows.max())
    assert found.zero_share == (rows == 0).mean()
    assert (np.abs(found.channel_mean.numpy() - rows.mean(1)) <= size + 1e-12).all()
    np.testing.assert_allclose(found.channel_std, rows.std(1), rtol=1e-5, atol=1e-12)
    assert found.channel_min.tolist() == rows.min(1).tolist()
    assert found.channel_max.tolist() == rows.max(1).tolist()
    assert found.channel_zero_share.tolist() == (rows == 0).mean(1).tolist()
    expected = np.quantile(np.abs(rows), 0.999, method="inverted_cdf")
    sampled = rows.size > SAMPLE
    assert found.p999 == pytest.approx(expected, rel=0.05 if sampled else RELATIVE_WIDTH)
    assert sum(found.histogram.counts) == rows.size
    assert (found.histogram.edges[0], found.histogram.edges[-1]) == (found.min, found.max)


def rows_of(x: Tensor, axis: int) -> Floats:
    return x.detach().double().movedim(axis, 0).reshape(x.shape[axis], -1).numpy()


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((4, 5, 6, 7), 1),
        ((1, 3, 800, 900), 1),  # a sample of several blocks
        ((300, 8, 4, 4), 1),  # short rows
        ((70_000, 9), -1),
        ((3, 50, 16), -1),
        ((2, 1, 9, 9), 1),
        ((400, 20_000), -1),  # so many blocks that their sums are put together on the way
        ((1, 600_000), -1),  # more channels than a block has values
        ((7,), -1),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_all_of_it_is_what_numpy_finds(shape: tuple[int, ...], axis: int, shift: float) -> None:
    x = normal(*shape) + shift
    x[normal(*shape, seed=1) > 1] = 0
    module = Normalizes(1) if axis == 1 else Gives()
    check(seen(module, x), rows_of(x, axis))


def test_a_small_spread_about_a_large_mean_is_found() -> None:
    x = normal(64, 3, 32, 32) + 1e4
    found, rows = seen(Normalizes(3), x), rows_of(x, 1)
    assert found.channel_std.numpy() == pytest.approx(rows.std(1), rel=1e-5)
    check(found, rows)
    wide = x.double() + 1e7
    assert seen(Normalizes(3), wide).std == pytest.approx(rows_of(wide, 1).std(), rel=1e-9)


@pytest.mark.parametrize("parts", [2, 5])
def test_a_stream_of_batches_is_the_same_as_all_at_once(parts: int) -> None:
    x = normal(20, 4, 9, 9) * torch.logspace(-2, 2, 20).view(-1, 1, 1, 1)
    check(seen(Normalizes(4), *x.tensor_split(parts)), rows_of(x, 1))
    whole, streamed = seen(Normalizes(4), x), seen(Normalizes(4), *x.tensor_split(parts))
    assert streamed.histogram == whole.histogram
    assert streamed.p999 == whole.p999


def test_small_outputs_that_are_read_together_are_all_there() -> None:
    wide, narrow = normal(900, 60), normal(500, 3, seed=1)
    for x in (wide, wide.double()):
        check(seen(Gives(), *torch.split(x, 7)), rows_of(x, 1))
    mixed = [
        part
        for pair in zip(torch.split(wide, 9), torch.split(narrow, 5), strict=True)
        for part in pair
    ]
    every = torch.cat([wide.flatten(), narrow.flatten()]).view(1, -1)
    check(seen(Gives(), *mixed), rows_of(every, 0))
    waiting = normal(4, 3)
    with Activations([("layer", layer := Gives())]) as activations:
        layer(waiting)
        waiting.zero_()
    check(activations.of_layers()[0], rows_of(normal(4, 3), 1))
    with activations:
        layer(normal(5, 3, seed=1))
    both = torch.cat([normal(4, 3), normal(5, 3, seed=1)])
    check(activations.of_layers()[0], rows_of(both, 1))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_sizes_whose_squares_are_beyond_float32_are_read_in_float64(scale: float) -> None:
    x = normal(700, 40) * scale
    found, rows = seen(Gives(), x), rows_of(x, 1)
    assert found.std == pytest.approx(rows.std(), rel=1e-9)
    assert found.channel_std.numpy() == pytest.approx(rows.std(1), rel=1e-9)
    expected = np.quantile(np.abs(rows), 0.999, method="inverted_cdf")
    assert found.p999 == pytest.approx(expected, rel=FAR_WIDTH)
    counts, edges = np.histogram(rows, 64, (found.min, found.max))
    apart = np.abs(np.cumsum(counts) - np.cumsum(found.histogram.counts))
    assert apart.max() <= 0.05 * rows.size
    assert found.histogram.edges == pytest.approx(edges)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_sizes_whose_squares_no_number_holds_are_skipped(scale: float) -> None:
    layer = Gives()
    with Activations([("layer", layer)]) as activations:
        layer(normal(20, 3).double() * scale)
    reason = "its outputs are too large or too small to be squared"
    assert activations.skipped == (Skipped("layer", reason),)


def test_findings_of_the_same_outputs_are_equal() -> None:
    found, other = (seen(nn.ReLU(), normal(9, 3)) for _ in range(2))
    assert found == copy.deepcopy(found) == other
    assert found != seen(nn.ReLU(), normal(9, 3, seed=1))


def test_an_empty_batch_is_a_reason_of_its_own() -> None:
    layer, other = Gives(), nn.ReLU()
    with Activations([("layer", layer), ("other", other)]) as activations:
        layer(torch.ones(0, 3))
        other(torch.ones(0, 3))
        other(torch.ones(2, 3))
    assert activations.skipped == (Skipped("layer", "its outputs are empty"),)
    assert activations.of_layers()[0].count == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_widths_are_read_without_a_loss(dtype: torch.dtype) -> None:
    x = normal(8, 3, 20, 20).to(dtype)
    check(seen(Normalizes(3), x), rows_of(x, 1))


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.flip(0).expand(2, -1, -1, -1, -1)[0],
        lambda x: x[:1].expand(6, -1, -1, -1),
    ],
)
def test_the_layout_in_memory_does_not_matter(laid_out: Callable[[Tensor], Tensor]) -> None:
    x = laid_out(normal(6, 5, 12, 12))
    check(seen(Normalizes(5), x), rows_of(x, 1))


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    x = normal(8, 4, 6, 6) + 3
    x[0, 1, 2, 2], x[3, 1, 0, 0], x[4, 2, 1, 1], x[5, 2, 3, 3] = math.nan, math.inf, -math.inf, 0
    x[:, 3] = math.nan
    found, rows = seen(Normalizes(4), x), rows_of(x, 1)
    rows[~np.isfinite(rows)] = math.nan
    assert (found.count, found.nonfinite) == (8 * 3 * 36 - 3, 3 + 8 * 36)
    assert found.mean == pytest.approx(np.nanmean(rows), rel=1e-9)
    assert found.std == pytest.approx(np.nanstd(rows), rel=1e-9)
    assert found.channel_std[:3].numpy() == pytest.approx(np.nanstd(rows[:3], axis=1), rel=1e-9)
    assert found.channel_min[:3].tolist() == np.nanmin(rows[:3], axis=1).tolist()
    assert found.channel_zero_share[2] == 1 / (8 * 36)
    assert found.channel_mean[3].isnan()
    assert found.channel_max[3].isnan()
    assert found.dead == found.constant == ()
    assert sum(found.histogram.counts) == found.count


def test_a_layer_of_which_nothing_is_finite_is_skipped() -> None:
    layer = Gives()
    with Activations([("layer", layer)]) as activations:
        layer(torch.full((2, 3), math.nan))
    assert activations.of_layers() == ()
    assert activations.skipped == (Skipped("layer", "none of its outputs is finite"),)


def test_dead_channels_gave_always_zero_and_constant_ones_always_the_same() -> None:
    x = normal(4, 5, 3, 3)
    x[:, 1], x[:, 3], x[:, 4] = 0.0, 0.3, 0.0
    x[3, 4, 2, 2] = 1e-30
    found = seen(Normalizes(5), x[:2], x[2:])
    assert (found.dead, found.constant) == ((1,), (3,))
    assert found.channel_std[3] == 0
    assert found.channel_mean[3].item() == torch.tensor(0.3).item()
    assert found.channel_zero_share[1] == 1
    negative_zero = torch.tensor([[-0.0, 1.0], [0.0, 1.0]])
    assert seen(Gives(), negative_zero).dead == (0,)


def test_of_a_single_value_nothing_is_said() -> None:
    found = seen(Gives(), torch.tensor([[0.0, 2.0]]))
    assert (found.dead, found.constant) == ((), ())


def test_a_constant_that_changes_between_batches_is_none() -> None:
    x = torch.ones(2, 3)
    found = seen(Gives(), x, 2 * x)
    assert found.constant == ()
    assert (found.mean, found.std) == (1.5, 0.5)


def test_of_a_large_output_a_sample_tells_the_quantile() -> None:
    x = normal(3, 16, 300, 300)
    found = seen(Normalizes(16), x)
    rows = rows_of(x, 1)
    assert abs(found.mean - rows.mean()) <= 1e-6
    assert (found.min, found.max) == (rows.min(), rows.max())
    assert found.p999 == pytest.approx(np.quantile(np.abs(rows), 0.999), rel=0.03)
    assert sum(found.histogram.counts) == x.numel()
    first_channel = torch.eye(12)[0].repeat(100_000, 1)  # a step of 12 would see it alone, or never
    assert seen(Gives(), first_channel).histogram.counts[-1] == pytest.approx(1e5, rel=0.05)


def parts_in(dimensions: int) -> list[tuple[nn.Module, Tensor, int]]:
    """Layers, what they get, the axis of their channels."""
    layers: dict[int, list[tuple[nn.Module, Tensor, int]]] = {
        1: [
            (nn.Conv1d(3, 5, 2), normal(2, 3, 9), 1),
            (nn.Conv1d(3, 5, 2), normal(3, 9), 0),
            (nn.ConvTranspose1d(3, 5, 2), normal(2, 3, 9), 1),
            (nn.BatchNorm1d(3), normal(4, 3), 1),
            (nn.BatchNorm1d(3), normal(4, 3, 5), 1),
            (nn.InstanceNorm1d(3), normal(2, 3, 5), 1),
            (nn.MaxPool1d(2), normal(2, 3, 8), 1),
            (nn.Linear(6, 4), normal(2, 3, 6), 2),
            (nn.Linear(6, 4), normal(6), 0),
            (nn.LayerNorm(6), normal(2, 3, 6), 2),
            (nn.Embedding(9, 4), torch.arange(6).view(2, 3), 2),
            (nn.EmbeddingBag(9, 4), torch.arange(6).view(2, 3), 1),
            (nn.LSTM(6, 4, batch_first=True), normal(2, 3, 6), 2),
            (nn.GRUCell(6, 4), normal(2, 6), 1),
            (nn.LSTMCell(6, 4), normal(2, 6), 1),
        ],
        2: [
            (nn.Conv2d(3, 5, 2), normal(2, 3, 4, 4), 1),
            (nn.Conv2d(3, 5, 2), normal(3, 4, 4), 0),
            (nn.LazyConv2d(5, 2), normal(2, 3, 4, 4), 1),
            (nn.ConvTranspose2d(3, 5, 2), normal(3, 4, 4), 0),
            (nn.GroupNorm(1, 3), normal(2, 3, 4, 4), 1),
            (nn.AdaptiveAvgPool2d(2), normal(2, 3, 4, 4), 1),
            (nn.Upsample(scale_factor=2), normal(2, 3, 4, 4), 1),
            (nn.LayerNorm([3, 4, 4]), normal(2, 3, 4, 4), 1),
            (nn.ReLU(), normal(2, 3, 4, 4), 1),
            (nn.ReLU(), normal(2, 3, 4), 2),
        ],
        3: [(nn.Conv3d(2, 3, 2), normal(1, 2, 3, 3, 3), 1)],
    }
    return layers[dimensions]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_channels_are_where_the_kind_of_a_layer_has_them(dimensions: int) -> None:
    for module, x, axis in parts_in(dimensions):
        found = seen(module, x)
        out = module(x)
        out = out[0] if isinstance(out, tuple) else out
        assert found.channels == out.shape[axis], module
        rows = rows_of(out, axis)
        assert found.channel_mean.numpy() == pytest.approx(rows.mean(1), abs=1e-6), module


def test_what_follows_a_layer_has_its_channels_where_that_has_them() -> None:
    image = nn.Sequential(nn.Conv1d(3, 5, 2), nn.ReLU(), nn.Conv1d(5, 7, 2), nn.GELU())
    with Activations(observed_modules(image)) as activations:
        image(normal(2, 3, 9))
    assert [found.channels for found in activations.of_layers()] == [5, 5, 7, 7]
    text = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.LayerNorm(5), nn.Tanh())
    with Activations(observed_modules(text)) as activations:
        text(normal(2, 9, 4, 3))
    assert [found.channels for found in activations.of_layers()] == [5, 5, 5, 5]
    alone = nn.Sequential(nn.Conv2d(3, 5, 2), nn.ReLU())
    with Activations(observed_modules(alone)) as activations:
        alone(normal(3, 9, 9))
    assert [found.channels for found in activations.of_layers()] == [5, 5]


def test_a_layer_that_is_called_in_several_places_adds_up() -> None:
    relu = nn.ReLU()
    check(seen(relu, normal(2, 3), normal(4, 3, seed=1)), np.concatenate(
        [rows_of(normal(2, 3).relu(), 1), rows_of(normal(4, 3, seed=1).relu(), 1)], axis=1
    ))  # fmt: skip
    found = seen(relu, normal(2, 3), normal(4, 5, seed=1))
    both = torch.cat([normal(2, 3).flatten(), normal(4, 5, seed=1).flatten()]).relu()
    check(found, rows_of(both.view(1, -1), 0))


def test_an_output_that_is_changed_in_place_later_is_seen_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    x = normal(9, 3)
    with torch.no_grad(), Activations(observed_modules(model)) as activations:
        model(x)
    linear, relu = activations.of_layers()
    check(linear, rows_of(model[0](x), 1))
    check(relu, rows_of(model(x), 1))


def test_padding_is_no_output() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(normal(5, 3, 6), torch.tensor([5, 3, 1]))
    found = seen(nn.GRU(6, 4), packed)
    assert (found.channels, found.count) == (4, 9 * 4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_is_the_tensors_in_it() -> None:
    parts = [normal(3, 4), normal(5, 4, seed=1)]
    found = seen(Gives(), torch.nested.nested_tensor(parts))
    check(found, rows_of(torch.cat(parts), 1))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (torch.arange(3), "its outputs are not real numbers (torch.int64)"),
        (torch.ones(2, 2, dtype=torch.bool), "its outputs are not real numbers (torch.bool)"),
        (torch.ones(2, 2, dtype=torch.complex64), "its outputs are not real numbers"),
        (torch.tensor(0.3), "its output is a single number"),
        (torch.ones(2, 2, device="meta"), "its outputs are on the meta device"),
        (torch.eye(2).to_sparse(), "its outputs are sparse (torch.sparse_coo)"),
        ({"nothing": None}, "its output is no tensor"),
        (
            torch.nested.nested_tensor([normal(2, 3)], layout=torch.jagged),
            "its outputs are a nested tensor of the layout torch.jagged",
        ),
    ],
)
def test_what_cannot_be_read_is_skipped_with_its_reason(output: object, reason: str) -> None:
    layer = Gives()
    with Activations([("a", layer), ("b", nn.ReLU())]) as activations:
        layer(output)
    assert activations.of_layers() == ()
    first, second = activations.skipped
    assert first.reason.startswith(reason)
    assert second == Skipped("b", "it was not called")


@pytest.mark.parametrize("shape", [(2, 2), (20_000, 2)])
def test_a_fault_in_a_statistic_is_a_reason_and_no_exception(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("lightning_weightwatch.usage.running_outputs.read", fails)
    layer = nn.Linear(2, 2)
    with Activations([("layer", layer)]) as activations:
        layer(normal(*shape))
    assert activations.skipped == (Skipped("layer", "MemoryError: no room"),)


def test_nothing_is_looked_at_while_it_is_paused() -> None:
    layer = Gives()
    with Activations([("layer", layer)]) as activations:
        layer(normal(2, 3))
        activations.paused = True
        layer(normal(5, 3))
        activations.paused = False
        layer(normal(1, 3))
    assert activations.of_layers()[0].count == 9


class Block(nn.Module):
    """Something of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.tower = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Identity())
        self.again = self.tower[1]
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
        self.loss = nn.MSELoss()
        self.empty = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.normed(self.tower(self.attention(x, x, x)[0]))
        return out


def test_layers_without_layers_are_observed_and_attention_as_one() -> None:
    model = Block()
    assert [name for name, _ in observed_modules(model)] == [
        "attention", "tower.0", "tower.1", "normed",
    ]  # fmt: skip
    assert observed_modules(nn.ReLU())[0][0] == "ReLU"
    with Activations(observed_modules(model)) as activations:
        model(normal(2, 3, 4))
    found = activations.of_layers()
    assert [each.type for each in found] == ["MultiheadAttention", "Linear", "ReLU", "Linear"]
    assert [each.channels for each in found] == [4, 4, 4, 2]


def test_metrics_have_no_outputs_to_look_at() -> None:
    from torchmetrics.classification import BinaryAccuracy

    model = nn.ModuleDict({"layer": nn.Linear(2, 2), "metric": BinaryAccuracy()})
    assert [name for name, _ in observed_modules(model)] == ["layer"]
