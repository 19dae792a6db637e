"""The traced graph is what the forward pass says, whatever it is written like."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.colorizer import UNet
from lightning_weightwatch.model.graph import Graph, trace
from lightning_weightwatch.model.running import CannotRun
from tests.trials.layers import Conv1D
from tests.views.networks_to_draw import Bert, DigitsCNN, ResNet50, chain, tokens


def feeds(graph: Graph) -> dict[str, list[str]]:
    """What each node is fed by, and the order, numbers and uniqueness of edges checked."""
    assert len(set(graph.edges)) == len(graph.edges)
    assert all(start < end for start, end in graph.edges)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    assert (names[0], names[-1]) == ("input", "output")
    return {
        name: [names[start] for start, end in graph.edges if end == at]
        for at, name in enumerate(names)
        if at
    }


class Written(nn.Module):
    """Layers a, b and c of four features, and a forward pass."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.written = forward

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


def traced(forward: Callable[..., Any]) -> dict[str, list[str]]:
    return feeds(trace(Written(forward), torch.randn(2, 4)))


def test_a_chain_is_a_chain() -> None:
    graph = trace(chain(4, 10, 6, 2), torch.zeros(3, 4))
    assert feeds(graph) == {"0": ["input"], "2": ["0"], "4": ["2"], "output": ["4"]}
    sizes = [(node.inputs, node.outputs, node.kind, node.operation) for node in graph.layers]
    assert sizes == [(n, m, "linear", "Linear") for n, m in ((4, 10), (10, 6), (6, 2))]
    assert graph.nodes[0].outputs == 4


def test_pooling_norms_activations_and_flattening_pass_on() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(), nn.LayerNorm(4), nn.Identity(), nn.Linear(4, 2), nn.Softmax(-1),
    )  # fmt: skip
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    assert feeds(graph) == {"0": ["input"], "8": ["0"], "output": ["8"]}
    assert feeds(trace(DigitsCNN(), torch.zeros(1, 1, 8, 8)))["hidden"] == ["features.2"]


JOINED: dict[str, tuple[Callable[..., Any], str]] = {
    "+": (lambda m, x: m.b(x + m.a(x)), "add"),
    "torch.add": (lambda m, x: m.b(torch.add(x, m.a(x))), "add"),
    "+= of a branch": (lambda m, x: m.b(_iadd(m.a(x), x)), "add"),
    "add_": (lambda m, x: m.b(m.a(x).add_(x)), "add"),
    "out=": (lambda m, x: m.b(torch.add(x, m.a(x), out=torch.empty_like(x))), "add"),
    "in a view": (lambda m, x: m.b((x.view(2, 2, 2) + m.a(x).view(2, 2, 2)).flatten(1)), "add"),
    "-": (lambda m, x: m.b(x - m.a(x)), "sub"),
    "rsub": (lambda m, x: m.b(torch.rsub(x, m.a(x))), "sub"),
    "*": (lambda m, x: m.b(x * m.a(x).sigmoid()), "mul"),
    "/": (lambda m, x: m.b(x / m.a(x)), "div"),
    "cat": (lambda m, x: m.b(torch.cat([x, m.a(x)], 1)[:, :4]), "cat"),
    "hstack": (lambda m, x: m.b(torch.hstack([x, m.a(x)])[:, :4]), "cat"),
    "stack": (lambda m, x: m.b(torch.stack([x, m.a(x)]).mean(0)), "stack"),
    "where": (lambda m, x: m.b(torch.where(x > 0, x, m.a(x))), "where"),
    "maximum": (lambda m, x: m.b(torch.maximum(x, m.a(x))), "maximum"),
    "@": (lambda m, x: m.b(x @ m.a(x).T @ torch.ones(2, 4, device=x.device)), "matmul"),
    "einsum": (lambda m, x: m.b(torch.einsum("ni,nj->ni", x, m.a(x))), "einsum"),
    "lerp": (lambda m, x: m.b(torch.lerp(x, m.a(x), 0.5)), "lerp"),
    "in a slice": (lambda m, x: m.b(_written(x, m.a(x))), "set"),
}  # fmt: skip


def _iadd(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


def _written(x: Tensor, y: Tensor) -> Tensor:
    made = x.clone()
    made[:, 1:] = y[:, 1:]
    return made


@pytest.mark.parametrize("how", JOINED)
def test_two_that_meet_are_a_junction(how: str) -> None:
    forward, operation = JOINED[how]
    found = traced(forward)
    assert sorted(found.pop(operation)) == ["a", "input"]
    assert found == {"a": ["input"], "b": [operation], "output": ["b"]}


def test_the_order_in_which_cat_was_given_them_is_kept() -> None:
    for swapped in (False, True):
        found = traced(
            lambda m, x, swapped=swapped: torch.cat(
                [m.a(x), m.b(x)] if swapped else [m.b(x), m.a(x)], 1
            )
        )
        assert found["cat"] == (["a", "b"] if swapped else ["b", "a"])


def test_one_source_alone_is_no_junction() -> None:
    def forward(m: Written, x: Tensor) -> Any:
        y = m.a(x)
        y = y + y.mean(0) * 2 - torch.ones_like(y)
        y = y * (y > 0) + m.a.bias
        q, k, v = torch.stack([y, y, y]).unbind()
        return m.b(F.scaled_dot_product_attention(q[None], k[None], v[None])[0])

    assert traced(forward) == {"a": ["input"], "b": ["a"], "output": ["b"]}


def test_a_long_sum_is_one_junction_unless_its_parts_are_read() -> None:
    found = traced(lambda m, x: m.a(x) + m.b(x) + m.c(x) + x)
    assert found["add"] == ["a", "b", "c", "input"]
    assert found["output"] == ["add"]

    def read_twice(m: Written, x: Tensor) -> Any:
        y = x + m.a(x)
        return y + m.b(y) + m.c(y)

    found = traced(read_twice)
    assert (found["add"], found["add_2"]) == (["input", "a"], ["add", "b", "c"])


def test_a_residual_stream_is_fed_by_the_last_junction() -> None:
    def forward(m: Written, x: Tensor) -> Any:
        x = x + m.a(x)
        x = x + m.b(x)
        return m.c(x)

    found = traced(forward)
    assert found["add"] == ["input", "a"]
    assert found["add_2"] == ["add", "b"]
    assert found["c"] == ["add_2"]


def test_a_unet_concatenates_what_comes_up_with_what_was_kept() -> None:
    found = feeds(trace(UNet(), torch.zeros(1, 1, 16, 32)))
    for number, level in enumerate((4, 3, 2, 1), start=1):
        cat = "cat" if number == 1 else f"cat_{number}"
        assert found[cat] == [f"up{level}", f"enc{level}.3"]
        assert found[f"dec{level}.0"] == [cat]
    assert found["enc2.0"] == ["enc1.3"]
    assert sum(name.startswith("cat") for name in found) == 4


def test_a_resnet_50_has_sixteen_sums_four_of_them_with_a_projection() -> None:
    graph = trace(ResNet50(width=4), torch.zeros(1, 3, 32, 32))
    found = feeds(graph)
    sums = [sources for name, sources in found.items() if name.startswith("add")]
    assert len(graph.layers) == 54
    assert len(sums) == 16
    assert sum(any("downsample" in source for source in sources) for sources in sums) == 4
    assert found["layer1.1.conv1"] == ["add"]
    assert found["add_2"] == ["layer1.1.conv3", "add"]
    assert found["fc"] == ["add_16"]
    assert graph.nodes[1].outputs == 4


def test_the_layers_of_an_encoder_attend_and_add() -> None:
    graph = trace(Bert(layers=2, width=16, heads=2), tokens())
    found = feeds(graph)
    assert found["words"] == ["input"]
    assert found["positions"] == []
    assert found["add"] == ["words", "positions"]
    for part in ("query", "key", "value"):
        assert found[f"layer.0.{part}"] == ["add"]
        assert found[f"layer.1.{part}"] == ["add_3"]
    assert set(found["attention"]) == {f"layer.0.{part}" for part in ("query", "key", "value")}
    assert found["layer.0.attended"] == ["attention"]
    assert found["add_2"] == ["add", "layer.0.attended"]
    assert found["add_3"] == ["add_2", "layer.0.output"]
    assert found["output"] == ["add_5", "pooler"]
    assert sum(node.operation == "attention" for node in graph.nodes) == 2
    assert {node.outputs for node in graph.nodes if node.kind == "junction"} == {16}


def test_attention_of_one_function_is_a_junction_of_three() -> None:
    def forward(m: Written, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(m.a(x)[None], m.b(x)[None], m.c(x)[None])

    assert traced(forward)["attention"] == ["a", "b", "c"]


@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_encoder_is_not_hidden_by_its_fused_path(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = feeds(trace(model, torch.zeros(1, 3, 8)))
    assert found["layers.0.self_attn"] == ["input"]
    assert found["layers.0.linear1"] == ["add"]
    assert found["layers.0.linear2"] == ["layers.0.linear1"]
    assert found["layers.1.self_attn"] == ["add_2"]
    assert set(found["add_3"]) == {"add_2", "layers.1.self_attn"}
    assert found["output"] == ["add_4"]


def test_a_decoder_attends_to_the_encoder() -> None:
    batch = (torch.zeros(1, 3, 8), torch.zeros(1, 2, 8))
    graph = trace(nn.Transformer(8, 2, 1, 1, 16, batch_first=True), batch)
    found = feeds(graph)
    assert found["decoder.layers.0.self_attn"] == ["input_2"]
    assert len(found["decoder.layers.0.multihead_attn"]) == 2
    assert [node.name for node in graph.nodes if node.kind == "input"] == ["input", "input_2"]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_one_node(cell: type[nn.LSTM | nn.GRU | nn.RNN]) -> None:
    graph = trace(cell(4, 8, num_layers=2, bidirectional=True), torch.zeros(5, 2, 4))
    assert feeds(graph) == {cell.__name__: ["input"], "output": [cell.__name__]}
    assert (graph.nodes[1].kind, graph.nodes[1].inputs, graph.nodes[1].outputs) == ("rnn", 4, 16)


def test_a_loop_over_a_sequence_ends_with_the_fourth_call() -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(4, 4)
            self.head = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            state, states = torch.zeros_like(x[0]), torch.zeros_like(x)
            for at, step in enumerate(x):
                state = self.cell(step, state)
                states[at] = state
            made: Tensor = self.head(states)
            return made

    found = feeds(trace(Unrolled(), torch.zeros(100, 2, 4)))
    assert found["cell (2)"] == ["input", "cell"]
    assert "cell (4)" in found
    assert len(found) < 12
    assert "cell (5)" not in found


def test_each_input_that_is_used_is_a_node() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = nn.Linear(6, 4), nn.Embedding(9, 4)
            self.head = nn.Bilinear(4, 4, 2)

        def forward(self, image: Tensor, unused: Tensor, text: Tensor) -> Tensor:
            made: Tensor = self.head(self.image(image), self.text(text))
            return made

    batch = {"image": torch.zeros(2, 6), "text": torch.zeros(2, dtype=torch.long)}
    graph = trace(Towers(), batch | {"unused": torch.zeros(2, 3)})
    assert feeds(graph) == {
        "input_2": [], "image": ["input"], "text": ["input_2"], "head": ["image", "text"],
        "output": ["head"],
    }  # fmt: skip
    assert [node.outputs for node in graph.nodes[:2]] == [6, None]


def test_a_layer_that_is_called_again_is_a_node_again() -> None:
    found = traced(lambda m, x: m.b(m.a(m.a(x))))
    assert found == {"a": ["input"], "a (2)": ["a"], "b": ["a (2)"], "output": ["b"]}
    shared = nn.Linear(4, 4)
    found = feeds(trace(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(1, 4)))
    assert found == {"0": ["input"], "0 (2)": ["0"], "output": ["0 (2)"]}


def test_functions_of_parameters_are_layers() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3))
            self.scale = nn.Parameter(torch.ones(6, 1, 1))
            self.places = nn.Parameter(torch.zeros(1, 6, 4, 4))
            self.words = nn.Parameter(torch.randn(6, 5))
            self.mask = nn.Parameter(torch.ones(6, 5))
            self.last = nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(x, self.kernel, padding=1) * self.scale + self.places
            x = x.mean((2, 3)) @ self.words
            return F.linear(x, self.last.weight * self.mask, self.last.bias)

    graph = trace(Functional(), torch.zeros(2, 3, 4, 4))
    assert feeds(graph) == {
        "kernel": ["input"], "words": ["kernel"], "last": ["words"], "output": ["last"],
    }  # fmt: skip
    kinds = [(node.kind, node.inputs, node.outputs) for node in graph.layers]
    assert kinds == [("other", 3, 6), ("other", 6, 5), ("linear", 5, 6)]


def test_a_tied_head_is_the_embedding_again() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(11, 4)
            self.mix = Conv1D(4, 4)

        def forward(self, ids: Tensor) -> Tensor:
            x: Tensor = self.mix(self.words(ids))
            return x @ self.words.weight.T

    graph = trace(Tied(), torch.zeros(1, 3, dtype=torch.long))
    assert feeds(graph) == {
        "words": ["input"], "mix": ["words"], "words (2)": ["mix"], "output": ["words (2)"],
    }  # fmt: skip
    mixed, tied = graph.nodes[2:4]
    assert (mixed.kind, mixed.inputs, mixed.outputs) == ("linear", 4, 4)
    assert (tied.inputs, tied.outputs) == (4, 11)


def test_a_users_layer_is_a_node_and_its_container_is_not() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres = nn.Parameter(torch.randn(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(x, self.centres)

    graph = trace(nn.Sequential(nn.Linear(4, 4), Own(), nn.Linear(5, 2)), torch.randn(3, 4))
    assert feeds(graph) == {"0": ["input"], "1": ["0"], "2": ["1"], "output": ["2"]}
    assert (graph.nodes[2].kind, graph.nodes[2].operation, graph.nodes[2].outputs) == (
        "other", "Own", 5,
    )  # fmt: skip


def test_functions_that_torch_does_not_tell_of_pass_on() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = Doubled.apply(x)  # type: ignore[no-untyped-call]
            return made

    model = nn.Sequential(nn.Linear(4, 4), Double(), nn.Linear(4, 2))
    assert feeds(trace(model, torch.zeros(1, 4)))["2"] == ["0"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_part_passes_on() -> None:
    part = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Tanh()))
    model = nn.Sequential(nn.Linear(4, 4), part, nn.Linear(4, 2))
    assert feeds(trace(model, torch.zeros(1, 4)))["2"] == ["0"]


def test_images_of_bytes_are_an_input_and_masks_are_not() -> None:
    found = traced(lambda m, x: m.b(m.a(x).masked_fill(x > 0, 0) * (x > 0)))
    assert found["b"] == ["a"]
    model = Written(lambda m, x: m.a(x.float() / 255))
    assert feeds(trace(model, torch.zeros(1, 4, dtype=torch.uint8)))["a"] == ["input"]


def test_feeding_sees_through_sums_but_not_through_cat() -> None:
    graph = trace(ResNet50(width=4), torch.zeros(1, 3, 32, 32))
    names = [node.name for node in graph.feeding("layer1.1.conv1")]
    assert names == ["layer1.0.conv3", "layer1.0.downsample.0"]
    names = [node.name for node in graph.feeding("layer1.2.conv1")]
    assert names == ["layer1.0.conv3", "layer1.0.downsample.0", "layer1.1.conv3"]
    assert [node.name for node in graph.feeding("layer1.1.conv2")] == ["layer1.1.conv1"]
    assert graph.feeding("conv1") == ()
    unet = trace(UNet(), torch.zeros(1, 1, 16, 16))
    assert unet.feeding("dec4.0") == ()
    assert [node.name for node in unet.feeding("up4")] == ["bottleneck.3"]
    with pytest.raises(KeyError, match=r"no layer 'cat' ran; those that did: enc1\.0, "):
        unet.feeding("cat")


def test_a_lightning_module_without_forward_runs_its_step() -> None:
    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            loss = F.mse_loss(self.head(self.body(x).relu()), y)
            self.log("loss", loss)
            return loss

    found = feeds(trace(Module(), (torch.zeros(3, 4), torch.zeros(3, 2))))
    assert found == {"body": ["input"], "head": ["body"], "output": ["head"]}


def test_values_that_the_model_asks_for_are_there() -> None:
    def forward(m: Written, x: Tensor) -> Tensor:
        made: Tensor = m.a(x) if float(x.sum()) > 0 else m.b(x)
        return made

    model = Written(forward)
    assert list(feeds(trace(model, torch.ones(1, 4)))) == ["a", "output"]
    assert list(feeds(trace(model, -torch.ones(1, 4)))) == ["b", "output"]
    assert list(feeds(trace(model, -np.ones((1, 4))))) == ["b", "output"]


def test_run_says_how_a_model_runs() -> None:
    model = Written(lambda m, x: m.a(x["data"]))
    graph = trace(model, torch.zeros(1, 4), run=lambda m, batch: m({"data": batch}))
    assert feeds(graph) == {"a": ["input"], "output": ["a"]}


@pytest.mark.parametrize("name", ["add", "cat", "input", "output"])
def test_layers_may_be_called_like_what_is_no_layer(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = x + x.abs() + self.get_submodule(name)(x)
            return made

    graph = trace(Named(), torch.zeros(1, 4))
    assert [node.kind for node in graph.nodes] == ["input", "linear", "junction", "output"]
    assert graph.nodes[1].name == name
    assert graph.nodes[2].name != name
    assert graph.feeding(name) == ()


class Failing(nn.Module):
    """Changes all that it can, and then raises."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout()
        self.fails = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.first(x)))
        x = x + torch.rand(4, device=x.device) + random.random() + np.random.random()
        if self.fails:
            raise ValueError("this cannot be")
        return x


def _numpy_state() -> Any:
    state: Any = np.random.get_state()
    return state[1].copy()


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("on_meta", [True, False])
def test_nothing_is_changed_also_where_the_forward_fails(fails: bool, on_meta: bool) -> None:
    torch.manual_seed(0)
    model = Failing().train()
    model.norm.eval()
    model.fails = fails
    calls: list[str] = []
    model.first.register_forward_hook(lambda *_: calls.append("mine"))
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state(), random.getstate(), _numpy_state()
    batch = torch.randn(3, 4) if on_meta else [torch.randn(3, 4)]
    torch.set_rng_state(state[0])

    def run(m: nn.Module, given: Any) -> Any:
        x = given if on_meta else given[0]
        if not on_meta:
            float(x.sum())
        return m(x)

    if fails:
        with pytest.raises(CannotRun, match="Failing failed after first: this cannot be"):
            trace(model, batch, run=run)
    else:
        trace(model, batch, run=run)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    for module in model.modules():
        assert len(module._forward_pre_hooks) == 0
        assert len(module._forward_hooks) == (module is model.first)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert (_numpy_state() == state[2]).all()
    assert calls == ([] if on_meta and not fails else ["mine"])


def test_lazy_parameters_are_not_made() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(CannotRun, match="Sequential has lazy parameters"):
        trace(model, torch.zeros(1, 3))
    assert isinstance(model[0].weight, nn.UninitializedParameter)


def test_a_large_model_is_traced_without_its_memory() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(20_000, 20_000) for _ in range(50)))
    graph = trace(model, torch.zeros(1, 20_000))
    assert len(graph.layers) == 50


def test_a_compiled_model_is_traced_as_written() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    whole: Any = torch.compile(copy.deepcopy(model))
    expected = feeds(trace(model, torch.zeros(1, 4)))
    assert feeds(trace(whole, torch.zeros(1, 4))) == expected


def test_a_step_that_needs_values_runs_on_a_copy() -> None:
    class Counts(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)
            self.calls = 0

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.calls += 1
            loss: Tensor = self.layer(batch) * batch.sum().item()
            return loss

    model = Counts()
    graph = trace(model, torch.ones(3, 2))
    assert [node.name for node in graph.layers] == ["layer"]
    assert model.calls == 0
