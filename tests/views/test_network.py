"""The diagram shows every layer, what feeds it, and which connections matter most."""

import time
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.colorizer import UNet
from lightning_weightwatch.model.graph import Graph, is_layer, trace
from lightning_weightwatch.usage.measurement import measure_usage
from lightning_weightwatch.views.network.arranging import laid_out
from lightning_weightwatch.views.network.deadness import with_dead
from lightning_weightwatch.views.network.edges import Lines, lines_of
from lightning_weightwatch.views.network.figure import draw_network, network_figure, network_png
from lightning_weightwatch.views.network.importance import importances
from lightning_weightwatch.views.network.places import Column
from lightning_weightwatch.views.network.slots import block_of
from lightning_weightwatch.views.png import VERMILION, pixels
from tests.views.networks_to_draw import (
    Bert,
    Branches,
    DigitsCNN,
    ResNet50,
    Written,
    chain,
    made_up,
    tokens,
    usage_of,
)
from tests.views.pictures import contrast, seen, shown_texts, words


def networks() -> dict[str, tuple[nn.Module, Any]]:
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    with torch.device("meta"):
        return {
            "one": (nn.Linear(5, 3), torch.zeros(1, 5)),
            "chain": (chain(4, 10, 6, 2), torch.zeros(1, 4)),
            "seven": (chain(64, 128, 64, 32, 16, 8, 4, 2), torch.zeros(1, 64)),
            "digits": (DigitsCNN(), torch.zeros(1, 1, 8, 8)),
            "branches": (Branches(), torch.zeros(1, 3, 9, 9)),
            "unet": (UNet(), torch.zeros(1, 1, 16, 16)),
            "resnet": (ResNet50(), torch.zeros(1, 3, 32, 32)),
            "bert": (Bert(), tokens()),
            "encoder": (
                nn.TransformerEncoder(encoder, 6, enable_nested_tensor=False),
                torch.zeros(1, 3, 16),
            ),
            "two inputs": (
                nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
                (torch.zeros(1, 3, 16), torch.zeros(1, 2, 16)),
            ),
            "deep": (chain(*[8] * 101), torch.zeros(1, 8)),
        }


NAMES = list(networks())


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return {name: trace(model, batch) for name, (model, batch) in networks().items()}


def drawn(figure: Figure, gid: str) -> LineCollection:
    (found,) = [lines for lines in figure.findobj(LineCollection) if lines.get_gid() == gid]
    assert isinstance(found, LineCollection)
    return found


def dots(figure: Figure) -> PathCollection:
    (found,) = [each for each in figure.findobj(PathCollection) if each.get_gid() == "dots"]
    assert isinstance(found, PathCollection)
    return found


def places(figure: Figure) -> NDArray[np.float64]:
    return np.asarray(dots(figure).get_offsets(), dtype=np.float64)


def hollow(figure: Figure) -> NDArray[np.bool_]:
    return np.asarray((np.asarray(dots(figure).get_facecolor())[:, :3] == 1).all(1))


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_one_column_and_all_of_its_edges(
    name: str, graphs: dict[str, Graph]
) -> None:
    graph = graphs[name]
    layout = laid_out(graph, lines=4)
    columns = [column.node for column in layout.columns.values() if not column.faint]
    expected = [at for at, node in enumerate(graph.nodes) if is_layer(node) or node.kind == "input"]
    assert sorted(columns) == expected
    marks = {mark.node for mark in layout.marks.values() if not mark.faint}
    assert marks >= {at for at, node in enumerate(graph.nodes) if node.kind == "junction"}
    lines = {(line.start, line.end) for line in lines_of(layout, {})}
    arcs = {(arc.start, arc.end) for arc in layout.arcs}
    assert arcs <= set(graph.edges)
    through = {end: {start for start, at in lines if at == end} for _, end in lines}
    for start, end in graph.edges:
        if end == len(graph.nodes) - 1 and end not in marks:
            continue  # the last column is the output
        seen_through = any(
            start in sources and is_layer(graph.nodes[layer]) for layer, sources in through.items()
        )
        passes_on = graph.nodes[start].kind == "junction"
        assert (start, end) in lines | arcs or seen_through or passes_on


@pytest.mark.parametrize("name", NAMES)
def test_lines_join_what_feeds_a_layer_in_the_graph(name: str, graphs: dict[str, Graph]) -> None:
    graph = graphs[name]
    before: dict[int, set[int]] = {at: set() for at in range(len(graph.nodes))}
    for start, end in graph.edges:
        before[end] |= {start} | (set() if is_layer(graph.nodes[start]) else before[start])
    for line in lines_of(laid_out(graph, lines=3), {}):
        assert line.start in before[line.end]


def test_a_model_without_layers_is_its_input() -> None:
    assert words(draw_network(nn.ReLU(), torch.zeros(1, 3)))[:2] == ["input", "ReLU: 0 layers"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_texts_are_whole_apart_and_readable(
    name: str, known: bool, graphs: dict[str, Graph]
) -> None:
    figure = network_figure(graphs[name], made_up(graphs[name]) if known else None, title=name)
    height, width = pixels(figure).shape[:2]
    assert width in (700, 1400)
    boxes = []
    for text in shown_texts(figure):
        box = text.get_window_extent()
        assert float(text.get_fontsize()) >= 6
        assert not text.get_parse_math()
        if text.get_color() != "#B4BDC3":  # what is drawn again
            assert contrast(str(text.get_color())) >= 4.5
        assert box.x0 >= -1
        assert box.x1 <= width + 1
        assert box.y0 >= -1
        assert box.y1 <= height + 1
        boxes.append((str(text.get_text()), box))
    for (one, first), (other, second) in combinations(boxes, 2):
        x = min(first.x1, second.x1) - max(first.x0, second.x0)
        y = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert x < 4 or y < 5, f"{one!r} touches {other!r}"


def test_labels_say_name_kind_sizes_and_what_is_used() -> None:
    values = np.zeros((4, 3))
    values[0, 0] = values[1, 1] = 1.0  # two weights of the same importance, of twelve
    graph = trace(nn.Sequential(nn.Linear(3, 4)), torch.zeros(1, 3))
    shown = words(network_figure(graph, usage_of({"0": values})))
    assert shown[shown.index("0") :][:5] == ["0", "linear", "3 → 4", "17% used", "2 dead"]
    assert "1 layer" in shown


def test_the_thickest_and_darkest_line_is_the_strongest_connection() -> None:
    generator = np.random.default_rng(1)
    graph = trace(chain(4, 6, 3), torch.zeros(1, 4))
    values = {"0": generator.uniform(0, 1, (6, 4)), "2": generator.uniform(0, 1, (3, 6))}
    values["0"][5, 1], values["2"][0, 3] = 5.0, 9.0
    figure = network_figure(graph, usage_of(values))
    columns = np.unique(places(figure)[:, 0])
    heights = [
        np.sort(places(figure)[places(figure)[:, 0] == column, 1])[::-1] for column in columns
    ]
    lines = drawn(figure, "importance")
    segments = np.array([each[:2] for each in lines.get_segments()])
    widths = np.asarray(lines.get_linewidth())
    lightness = np.asarray(lines.get_color())[:, :3].sum(1)
    assert len(segments) == 6 * 4 + 3 * 6
    for layer, matrix in enumerate(values.values()):
        own = np.flatnonzero(segments[:, 0, 0] == columns[layer])
        found = np.array([
            matrix[
                np.flatnonzero(heights[layer + 1] == end[1])[0],
                np.flatnonzero(heights[layer] == start[1])[0],
            ]
            for start, end in segments[own]
        ])  # fmt: skip
        assert np.argmax(widths[own]) == np.argmax(found)
        assert np.argmin(lightness[own]) == np.argmax(found)
        by_importance = np.argsort(found)
        assert (np.diff(widths[own][by_importance]) >= 0).all()
    assert (np.diff(widths) >= 0).all(), "the strongest are drawn last, on top"
    assert widths[-1] == widths.max()


def test_where_all_connections_are_alike_none_stands_out() -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 4)), torch.zeros(1, 3))
    one_of_many = np.ones((4, 3))
    one_of_many[0, 0] = 9
    alike, standing_out = (
        drawn(network_figure(graph, usage_of({"0": values})), "importance").get_linewidth()
        for values in (np.ones((4, 3)), one_of_many)
    )
    assert np.ptp(alike) == 0
    assert np.max(alike) < np.max(standing_out) / 2


def test_lines_without_importance_are_not_drawn_and_no_more_than_some_hundred_are() -> None:
    graph = trace(nn.Sequential(nn.Linear(32, 32)), torch.zeros(1, 32))
    values = np.zeros((32, 32))
    values[:3, :2] = 1.0
    assert len(drawn(network_figure(graph, usage_of({"0": values})), "importance").get_paths()) == 6
    values = np.random.default_rng(0).uniform(size=(32, 32))
    lines = drawn(network_figure(graph, usage_of({"0": values})), "importance")
    assert len(lines.get_paths()) == 300


def test_grouped_importance_is_a_sum_and_none_is_lost() -> None:
    values = np.random.default_rng(0).uniform(size=(100, 70))
    graph = trace(nn.Sequential(nn.Linear(70, 100)), torch.zeros(1, 70))
    (known,) = importances(graph, usage_of({"0": values})).values()
    found = known.between(7, np.arange(70), 70, 5)
    assert found is not None
    assert found.sum() == pytest.approx(values.sum())
    first, last = np.where(np.arange(70) < 35, np.arange(70), -1), np.full(70, -1)
    last[35:] = np.arange(35)
    halves = [known.between(100, part, count, 3) for part, count in ((first, 70), (last, 35))]
    assert sum(half.sum() for half in halves if half is not None) == pytest.approx(values.sum())
    sums = known.into(7)
    assert sums is not None
    assert sums.sum() == pytest.approx(values.sum())


def test_lines_of_a_concatenation_have_their_part_of_the_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(2, 3), nn.Linear(2, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.head(torch.cat([self.left(x), self.right(x)], 1))
            return made

    graph = trace(Two(), torch.zeros(1, 2))
    values = np.arange(1.0, 9).reshape(2, 4)
    usage = usage_of({"left": np.ones((3, 2)), "right": np.ones((1, 2)), "head": values})
    layout = laid_out(graph, lines=4)
    ends = [node.name for node in graph.nodes]
    found = {
        ends[line.start]: line
        for line in lines_of(layout, importances(graph, usage))
        if ends[line.end] == "head"
    }
    top = max(values.max(), 2 * values.mean())
    assert sorted(found["right"].strength) == pytest.approx([4 / top, 8 / top])
    expected = sorted((values[:, :3] / top).ravel())
    assert sorted(found["left"].strength) == pytest.approx(expected)


def test_dead_neurons_are_hollow_and_counted() -> None:
    values = np.ones((8, 3))
    values[[1, 6]] = 0
    graph = trace(nn.Sequential(nn.Linear(3, 8)), torch.zeros(1, 3))
    figure = network_figure(graph, usage_of({"0": values}))
    gone = hollow(figure)
    assert gone.sum() == 2
    assert "2 dead" in words(figure)
    edges = np.asarray(dots(figure).get_edgecolor())[gone, :3]
    assert edges == pytest.approx(np.array([to_rgb(VERMILION)] * 2))
    column = places(figure)[3:, 1]
    assert np.flatnonzero(gone[3:]).tolist() == [1, 6]
    assert (np.diff(column) < 0).all(), "the first neuron is at the top"


def test_a_neuron_behind_relu_that_the_next_layer_never_sees_is_dead() -> None:
    model = chain(3, 4, 2)
    first: Any = model[0]
    with torch.no_grad():
        first.weight.abs_()
        first.bias.zero_()
        first.bias[2] = -1e6
    batch = torch.rand(16, 3)
    figure = draw_network(model, batch, measure_usage(model, batch))
    assert np.flatnonzero(hollow(figure)).tolist() == [3 + 2]


def test_a_channel_before_a_linear_layer_is_dead_where_all_its_places_are() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2)),
                  torch.zeros(1, 1, 4, 4))  # fmt: skip
    usage = usage_of({"0": np.ones((3, 1)), "2": np.ones((2, 12))})
    layers = (usage.layers[0], replace(usage.layers[1], dead_inputs=(0, 4, 5, 6, 7)))
    usage = replace(usage, layers=layers)
    (first, _) = with_dead(graph, usage, importances(graph, usage)).values()
    assert first.dead.tolist() == [False, True, False]


def between(model: nn.Module, batch: Any, start: str, end: str) -> list[Lines]:
    """The lines from one layer of a measured model to another; all neurons have a dot."""
    graph = trace(model, batch)
    layout = laid_out(graph, lines=4)
    names = [node.name for node in graph.nodes]
    known = importances(graph, measure_usage(model, batch))
    return [
        line
        for line in lines_of(layout, known)
        if (names[line.start], names[line.end]) == (start, end)
    ]


def strongest(model: nn.Module, batch: Any, start: str, end: str) -> tuple[int, int]:
    """(from, to): between which dots the strongest line of two layers is."""
    (found,) = between(model, batch, start, end)
    assert not np.isnan(found.strength).any()
    graph = trace(model, batch)
    layout = laid_out(graph, lines=4)
    ends = []
    for name, (_, y) in zip((start, end), found.segments[-1], strict=True):
        (column,) = [c for c in layout.columns.values() if graph.nodes[c.node].name == name]
        ends.append(int(np.argmin(np.abs(layout.heights(column) - y))))
    return ends[0], ends[1]


def dominated(weight: Tensor, *at: int) -> None:
    """One weight that matters more than all others."""
    with torch.no_grad():
        weight.uniform_(-0.01, 0.01)
        weight[at] = 50.0


def fused(m: Any, x: Tensor) -> Tensor:
    n, length, _ = x.shape
    q, k, v = m.qkv(x).view(n, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
    made: Tensor = m.p(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return made


def halves(m: Any, x: Tensor) -> Tensor:
    p, q = m.a(x).chunk(2, 1)
    made: Tensor = m.b(p) + m.c(q)
    return made


def test_lines_to_what_follows_fused_attention_come_from_its_values() -> None:
    model = Written(fused, qkv=nn.Linear(8, 24), p=nn.Linear(8, 8))
    dominated(model.get_parameter("p.weight"), 3, 2)
    assert strongest(model, torch.randn(4, 5, 8), "qkv", "p") == (18, 3)


def test_lines_from_chunks_come_from_the_neurons_of_the_chunk() -> None:
    torch.manual_seed(0)
    a, b, c = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(4, 4)
    dominated(b.get_parameter("weight"), 2, 3)
    dominated(c.get_parameter("weight"), 0, 0)
    model, batch = Written(halves, a=a, b=b, c=c), torch.randn(9, 4)
    graph = trace(model, batch)
    names = [node.name for node in graph.nodes]
    assert graph.wirings[names.index("a"), names.index("b")].tolist() == [0, 1, 2, 3]
    assert graph.wirings[names.index("a"), names.index("c")].tolist() == [4, 5, 6, 7]
    assert strongest(model, batch, "a", "b")[0] == 3
    assert strongest(model, batch, "a", "c")[0] == 4


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.b(F.glu(m.a(x))),
        lambda m, x: m.b((lambda y: y[:, :4] * y[:, 4:].sigmoid())(m.a(x))),
        lambda m, x: m.b(m.a(x).view(-1, 4, 2).sum(-1)),
        lambda m, x: m.b(m.a(x).sort(1)[0][:, :4]),
        lambda m, x: m.b(torch.fft.rfft(m.a(x)).abs()[:, :4]),
    ],
    ids=["glu", "gate", "sums of pairs", "sorted", "transformed"],
)
def test_where_no_input_is_one_output_no_line_joins_their_dots(forward: Any) -> None:
    model, batch = Written(forward, a=nn.Linear(4, 8), b=nn.Linear(4, 3)), torch.randn(9, 4)
    dominated(model.get_parameter("b.weight"), 2, 1)
    found = between(model, batch, "a", "b")
    assert np.isnan(found[0].strength).all()
    if len(found) > 1:  # by halves: what is known of the targets
        assert len(np.unique(found[1].segments[:, 0], axis=0)) == 1
        assert found[1].strength.argmax() == found[1].segments[:, 1, 1].argmin(), "the lowest dot"
    assert "channel not known" in words(draw_network(model, batch, measure_usage(model, batch)))


def test_flattened_tokens_are_no_runs_of_one_neuron() -> None:
    model = Written(lambda m, x: m.o(m.a(x).flatten(1)), a=nn.Linear(4, 3), o=nn.Linear(15, 2))
    dominated(model.get_parameter("o.weight"), 1, 3 * 4 + 2)
    assert strongest(model, torch.randn(6, 5, 4), "a", "o") == (2, 1)


@pytest.mark.parametrize("turned", [False, True])
def test_lines_from_a_convolution_find_its_channel_turned_or_not(turned: bool) -> None:
    model = Written(
        lambda m, x: m.o((m.a(x).permute(0, 2, 3, 1) if turned else m.a(x)).flatten(1)),
        a=nn.Conv2d(1, 4, 1), o=nn.Linear(16, 2),
    )  # fmt: skip
    dominated(model.get_parameter("o.weight"), 1, 6)
    channel = 6 % 4 if turned else 6 // 4
    assert strongest(model, torch.randn(6, 1, 2, 2), "a", "o") == (channel, 1)


def test_sums_of_many_inputs_are_not_drawn_from_channels_that_they_mix() -> None:
    model = Written(
        lambda m, x: m.o(m.a(x).permute(0, 2, 3, 1).flatten(1)),
        a=nn.Conv2d(1, 16, 1), o=nn.Linear(1024, 2),
    )  # fmt: skip
    left, right = between(model, torch.randn(2, 1, 8, 8), "a", "o")
    assert (left.segments[:, 1] == right.segments[0, 0]).all()
    assert not np.isnan(left.strength).any(), "the sums of channels are known"
    assert len(left.strength) == 16


def test_zero_padding_of_tokens_is_no_dead_neuron() -> None:
    model = Written(
        lambda m, x: m.o(m.a(x).relu().flatten(1)),
        a=nn.Linear(3, 6, bias=False), o=nn.Linear(60, 2),
    )  # fmt: skip
    batch = torch.randn(8, 10, 3)
    batch[:, 8:] = 0
    figure = draw_network(model, batch, measure_usage(model, batch))
    assert not hollow(figure).any()
    assert not any("dead" in word for word in words(figure))


def test_a_neuron_with_a_bias_alone_is_not_dead() -> None:
    model = chain(3, 4, 2)
    first: Any = model[0]
    last: Any = model[2]
    with torch.no_grad():
        first.weight[1] = 0
        first.bias.fill_(1)
        last.weight[:, 1] = 5
    batch = torch.randn(16, 3)
    figure = draw_network(model, batch, measure_usage(model, batch))
    assert not hollow(figure).any()
    assert not any("dead" in word for word in words(figure))


@pytest.mark.parametrize("gates", [4, 3, 1])
@pytest.mark.parametrize("gate", [0, -1])
def test_a_unit_of_a_direction_is_the_dot_of_its_half(gates: int, gate: int) -> None:
    cell: Any = {4: nn.LSTM, 3: nn.GRU, 1: nn.RNN}[gates]
    model = cell(4, 4, bidirectional=True)
    dominated(model.weight_ih_l0, 0, 0)
    with torch.no_grad():
        model.weight_ih_l0.mul_(0.01)
    dominated(model.weight_ih_l0_reverse, (4 * gates + 4 * gate) % (4 * gates) + 1, 2)
    name = type(model).__name__
    assert strongest(model, torch.randn(5, 3, 4), "input", name) == (2, 4 + 1)


def test_units_of_a_recurrent_layer_before_the_last_are_no_outputs() -> None:
    model = nn.LSTM(4, 4, 2)
    dominated(model.get_parameter("weight_ih_l0"), 1, 0)
    dominated(model.get_parameter("weight_ih_l1"), 3, 3)
    found = between(model, torch.randn(5, 3, 4), "input", "LSTM")
    left, right = found
    top = left.segments[:, 0, 1].max()
    assert left.segments[left.strength.argmax(), 0, 1] == top, "input 0"
    assert np.isnan(right.strength).all()


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_states_are_no_units() -> None:
    model = nn.LSTM(4, 4, proj_size=2)
    _, right = between(model, torch.randn(5, 3, 4), "input", "LSTM")
    assert np.isnan(right.strength).all()


def test_channels_of_groups_are_joined_to_their_own_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 4, 1, groups=4))
    dominated(model.get_parameter("1.weight"), 2, 1, 0, 0)
    assert strongest(model, torch.randn(2, 1, 3, 3), "0", "1") == (5, 2)


def test_attention_is_drawn_by_the_sums_of_what_it_takes_and_gives() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.m(x, x, x)[0]
            return made

    model = Attends()
    dominated(model.get_parameter("m.in_proj_weight"), 17, 5)
    dominated(model.get_parameter("m.out_proj.weight"), 6, 1)
    left, right = between(model, torch.randn(4, 3, 8), "input", "m")
    heights = np.unique(left.segments[:, 0, 1])[::-1]
    assert left.segments[left.strength.argmax(), 0, 1] == heights[5]
    assert right.segments[right.strength.argmax(), 1, 1] == np.unique(
        right.segments[:, 1, 1]
    )[::-1][6]  # fmt: skip


def test_layers_that_were_not_measured_are_plain() -> None:
    graph = trace(chain(4, 6, 3), torch.zeros(1, 4))
    figure = network_figure(graph, usage_of({"2": np.ones((3, 6))}))
    assert len(drawn(figure, "plain").get_paths()) == 4 * 6
    assert len(drawn(figure, "importance").get_paths()) == 3 * 6
    assert "importance not known" in words(figure)
    plain = network_figure(graph)
    assert len(drawn(plain, "plain").get_paths()) == 4 * 6 + 6 * 3
    assert not drawn(plain, "importance").get_paths()
    assert not any("used" in word for word in words(plain))


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (nn.LSTM(4, 8), torch.randn(3, 2, 4)),
        (nn.Sequential(nn.Linear(4, 8), nn.GRU(8, 8)), torch.randn(3, 4)),
        (
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
                2,
                enable_nested_tensor=False,
            ),
            torch.randn(2, 3, 8),
        ),
    ],
    ids=["LSTM", "GRU", "encoder"],
)
def test_measured_usage_of_all_kinds_of_layers_is_found(model: nn.Module, batch: Any) -> None:
    figure = draw_network(model, batch, measure_usage(model, batch))
    assert "importance not known" not in words(figure)
    assert drawn(figure, "importance").get_paths()


def test_a_row_begins_with_what_the_one_above_ended_with(graphs: dict[str, Graph]) -> None:
    layout = laid_out(graphs["resnet"], lines=4)
    last: list[Column] = []
    for row in range(len(layout.directions)):
        columns = [column for column in layout.columns.values() if column.row == row]
        faint = [column.node for column in columns if column.faint]
        assert faint == [column.node for column in last]
        ends = max(column.x for column in columns)
        last = [column for column in columns if column.x == ends]
    for arc in layout.arcs:
        assert arc.rows[0] == arc.rows[1], "no residual block is broken"


def test_the_two_arms_of_a_unet_are_above_each_other(graphs: dict[str, Graph]) -> None:
    layout = laid_out(graphs["unet"], lines=4)
    assert layout.directions == [1, -1]
    at = {layout.graph.nodes[c.node].name: c for c in layout.columns.values() if not c.faint}
    for level in (1, 2, 3):
        assert abs(at[f"enc{level}.3"].x - at[f"dec{level}.0"].x) < 3 * layout.step
        assert at[f"enc{level}.3"].row < at[f"dec{level}.0"].row


@pytest.mark.parametrize(
    ("name", "block"),
    [("layer.11.attention.query", "layer.11"), ("fc", ""), ("a.b.c", "a.b"), ("0 (2)", "")],
)
def test_blocks_end_with_the_last_number(name: str, block: str) -> None:
    assert block_of(name) == block


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_files_are_what_their_names_say(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{kind.upper()}"
    draw_network(DigitsCNN(), torch.zeros(1, 1, 8, 8), path=path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert path.read_bytes().startswith(start)


def test_a_png_has_the_colours_of_the_figure(graphs: dict[str, Graph]) -> None:
    figure = network_figure(graphs["encoder"], made_up(graphs["encoder"]))
    with Image.open(BytesIO(network_png(figure))) as shown:
        image = np.asarray(shown.convert("RGB"), dtype=np.int64)
    off = np.abs(image - pixels(figure)).max(-1)
    assert off.mean() < 1
    assert np.quantile(off, 0.99) < 16
    assert seen(image.astype(np.uint8), VERMILION) > 20
    white = (pixels(figure) == 255).all(-1)
    assert (image[white] == 255).all()


def test_other_files_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must end in \.png, \.svg or \.pdf, got .*a\.jpg"):
        draw_network(nn.Linear(3, 4), "no batch", path=tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["$x_1$", r"\frac", "编", "<b>&", "a\nb", "x" * 300])
def test_names_are_shown_as_they_are_and_never_cut_the_figure(name: str) -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 4)), torch.zeros(1, 3))
    renamed = replace(graph.nodes[1], name=name)
    figure = network_figure(
        Graph((graph.nodes[0], renamed, graph.nodes[2]), graph.edges), title=name
    )
    width = pixels(figure).shape[1]
    for text in shown_texts(figure):
        box = text.get_window_extent()
        assert box.x0 >= -1
        assert box.x1 <= width + 1
    if name.startswith("$"):
        assert name in words(figure)


def test_a_residual_network_is_drawn_fast(graphs: dict[str, Graph]) -> None:
    usage = made_up(graphs["resnet"])
    network_figure(graphs["chain"])
    start = time.process_time()
    figure = network_figure(graphs["resnet"], usage)
    assert time.process_time() - start < 1.5
    assert len(figure.axes[0].get_children()) < 700


def test_three_hundred_layers_are_a_readable_page(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = chain(*[32] * 301)
    graph = trace(model, torch.zeros(1, 32))
    usage = made_up(graph)
    start = time.process_time()
    figure = network_figure(graph, usage)
    image = pixels(figure)
    assert time.process_time() - start < 6
    assert image.shape[1] == 1400
    assert image.shape[0] < 4500
    assert len(words(figure)) > 900
    path = tmp_path / "deep.png"
    draw_network(model, torch.zeros(1, 32), usage, path=path)
    assert path.stat().st_size < 3_000_000
    with Image.open(path) as shown:
        assert shown.size == (image.shape[1], image.shape[0])


def test_the_users_style_is_untouched_and_no_figure_stays_open(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt  # noqa: TID251

    with matplotlib.rc_context():
        plt.style.use("dark_background")
        before = dict(matplotlib.rcParams)
        dark = pixels(draw_network(chain(3, 4, 2), torch.zeros(1, 3), path=tmp_path / "a.svg"))
        assert dict(matplotlib.rcParams) == before
    light = pixels(draw_network(chain(3, 4, 2), torch.zeros(1, 3)))
    assert (dark == light).all()
    assert plt.get_fignums() == []
