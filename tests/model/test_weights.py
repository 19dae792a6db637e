"""One walk over a model names every parameter once, says what it is, and reads it whole."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.utils import parametrizations

from lightning_weightwatch.model.weights import (
    Weight,
    clean_name,
    kind_of,
    matches,
    non_finite,
    unreadable,
    walk,
    whole,
)
from lightning_weightwatch.report import Skipped
from tests.model.zoo import Conv1D


def weights(model: nn.Module) -> list[Weight]:
    return [found for found in walk(model) if isinstance(found, Weight)]


def skipped(model: nn.Module) -> list[Skipped]:
    return [found for found in walk(model) if isinstance(found, Skipped)]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(2, 3), [("weight", "linear", 0), ("bias", "bias", 0)]),
        (nn.Embedding(4, 2), [("weight", "embedding", 0)]),
        (nn.EmbeddingBag(4, 2), [("weight", "embedding", 0)]),
        (nn.Conv1d(2, 3, 3, bias=False), [("weight", "conv1d", 0)]),
        (nn.Conv2d(2, 3, 3, bias=False), [("weight", "conv2d", 0)]),
        (nn.Conv3d(2, 3, 3, bias=False), [("weight", "conv3d", 0)]),
        (nn.ConvTranspose1d(2, 3, 3, bias=False), [("weight", "conv_transpose", 1)]),
        (nn.ConvTranspose2d(2, 3, 3), [("weight", "conv_transpose", 1), ("bias", "bias", 0)]),
        (nn.ConvTranspose3d(2, 3, 3, bias=False), [("weight", "conv_transpose", 1)]),
        (
            nn.MultiheadAttention(4, 2),
            [
                ("in_proj_weight", "attention", 0),
                ("in_proj_bias", "bias", 0),
                ("out_proj.weight", "linear", 0),
                ("out_proj.bias", "bias", 0),
            ],
        ),
        (
            nn.LSTM(2, 3),
            [
                ("weight_ih_l0", "rnn", 0),
                ("weight_hh_l0", "rnn", 0),
                ("bias_ih_l0", "bias", 0),
                ("bias_hh_l0", "bias", 0),
            ],
        ),
        (
            nn.GRUCell(2, 3),
            [
                ("weight_ih", "rnn", 0),
                ("weight_hh", "rnn", 0),
                ("bias_ih", "bias", 0),
                ("bias_hh", "bias", 0),
            ],
        ),
        (nn.LayerNorm(3), [("weight", "norm", 0), ("bias", "bias", 0)]),
        (nn.RMSNorm(3), [("weight", "norm", 0)]),
        (nn.GroupNorm(1, 3), [("weight", "norm", 0), ("bias", "bias", 0)]),
        (nn.BatchNorm2d(3), [("weight", "norm", 0), ("bias", "bias", 0)]),
        (nn.InstanceNorm1d(3, affine=True), [("weight", "norm", 0), ("bias", "bias", 0)]),
        (nn.InstanceNorm1d(3), []),
        (nn.CrossEntropyLoss(), []),
        (nn.Bilinear(2, 2, 3, bias=False), [("weight", "bilinear", 0)]),
        (Conv1D(3, 2), [("weight", "linear", 1), ("bias", "bias", 0)]),
        (nn.ParameterList([torch.zeros(2, 2)]), [("0", "other", 0)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_each_parameter_has_its_name_its_kind_and_the_axis_of_its_outputs(
    module: nn.Module, expected: Sequence[tuple[str, str, int]]
) -> None:
    found = [(weight.name, weight.kind, weight.output_axis) for weight in weights(module)]
    assert found == list(expected)


def test_the_walk_follows_named_parameters_and_gives_them_alive() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2), nn.LSTM(2, 2)))
    found = weights(model)
    expected = dict(model.named_parameters())
    assert [weight.name for weight in found] == list(expected)
    for weight in found:
        assert weight.parameter is expected[weight.name]
        assert weight.module is model.get_submodule(weight.layer)
        assert f"{weight.layer}.{weight.attribute}" == weight.name


def test_the_layer_of_a_bare_model_is_its_class() -> None:
    assert [(w.layer, w.name) for w in walk(nn.Linear(2, 2)) if isinstance(w, Weight)] == [
        ("Linear", "weight"),
        ("Linear", "bias"),
    ]


class TiedEnds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_a_tied_parameter_comes_once_and_its_second_place_is_named() -> None:
    model = TiedEnds()
    assert [weight.name for weight in weights(model)] == ["embed.weight"]
    assert skipped(model) == [Skipped("head.weight", "tied to embed.weight")]


def test_a_parameter_tied_within_one_module_comes_once() -> None:
    cell = nn.RNNCell(3, 3, bias=False)
    cell.weight_hh = cell.weight_ih
    assert [weight.name for weight in weights(cell)] == ["weight_ih"]
    assert skipped(cell) == [Skipped("weight_hh", "tied to weight_ih")]


def test_equal_parameters_that_are_not_the_same_are_not_tied() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].load_state_dict(model[0].state_dict())
    assert [weight.name for weight in weights(model)] == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    ("module", "attribute", "kind"),
    [
        (nn.LSTM(2, 2), "bias_ih_l0", "bias"),
        (nn.MultiheadAttention(2, 1), "in_proj_bias", "bias"),
        (nn.MultiheadAttention(2, 1, add_bias_kv=True), "bias_k", "bias"),
        (nn.Linear(2, 2), "bias", "bias"),
        (nn.Linear(2, 2), "weight", "linear"),
        (nn.Module(), "scale", "other"),
    ],
)
def test_whatever_is_called_a_bias_is_one(module: nn.Module, attribute: str, kind: str) -> None:
    assert kind_of(module, attribute) == kind


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        checkpoint_wrapper,
        lambda model: torch.compile(checkpoint_wrapper(model), backend="eager"),
    ],
    ids=["torch.compile", "checkpoint_wrapper", "both"],
)
def test_wrappers_leave_no_trace_in_names(wrap: Callable[[nn.Module], nn.Module]) -> None:
    def layers(inner: nn.Module) -> nn.Module:
        return nn.ModuleDict({"net": inner, "head": nn.Linear(2, 2)})

    plain = layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    wrapped = layers(wrap(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
    assert list(dict(wrapped.named_parameters())) != list(dict(plain.named_parameters()))
    assert [(w.layer, w.name) for w in weights(wrapped)] == [
        (w.layer, w.name) for w in weights(plain)
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("_orig_mod", ""),
        ("_orig_mod.net.0", "net.0"),
        ("net._fsdp_wrapped_module._checkpoint_wrapped_module.0.weight", "net.0.weight"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
        ("", ""),
    ],
)
def test_only_whole_parts_of_a_path_are_wrappers(path: str, expected: str) -> None:
    assert clean_name(path) == expected


def _quantized() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, :UserWarning")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.LazyLinear(3).weight, "lazy: it has no shape before the first forward pass"),
        (lambda: nn.Linear(2, 2, device="meta").weight, "on the meta device: it has no values"),
        (lambda: nn.Parameter(torch.zeros(0, 3)), "empty: shape (0, 3)"),
        (
            lambda: nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False),
            "quantized or integer (torch.int8)",
        ),
        (lambda: torch.eye(3).to_sparse(), "sparse (torch.sparse_coo)"),
        (_quantized, "quantized or integer (torch.qint8)"),
        (lambda: torch.ones(2, dtype=torch.bool), "quantized or integer (torch.bool)"),
        (lambda: nn.Parameter(torch.ones(2, 2)), None),
        (lambda: torch.ones(2, dtype=torch.float16), None),
        (lambda: torch.ones(2, dtype=torch.bfloat16), None),
        (lambda: torch.ones(2, dtype=torch.complex64), None),
        (lambda: torch.tensor([float("nan")]), None),
    ],
    ids=[
        "lazy",
        "meta",
        "empty",
        "int8",
        "sparse",
        "qint8",
        "bool",
        "f32",
        "f16",
        "bf16",
        "c64",
        "nan",
    ],
)
def test_what_has_no_real_values_is_refused_with_its_reason(
    make: Callable[[], Tensor], reason: str | None
) -> None:
    assert unreadable(make()) == reason


class HalfOfIt(Tensor):
    """A tensor that holds one of two equal shards, as a DTensor would."""

    def full_tensor(self) -> Tensor:
        part = self.as_subclass(Tensor)
        return torch.cat([part, part])


def test_a_sharded_parameter_is_read_whole() -> None:
    part = torch.arange(6.0).view(2, 3)
    parameter = nn.Parameter(part.as_subclass(HalfOfIt))
    assert type(parameter.detach()) is HalfOfIt
    gathered = whole(parameter)
    assert gathered.shape == (4, 3)
    assert torch.equal(gathered, torch.cat([part, part]))
    assert not gathered.requires_grad


def test_a_dtensor_parameter_is_read_as_a_plain_tensor() -> None:
    values = torch.arange(12.0).view(4, 3)
    dist.init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    try:
        mesh = init_device_mesh("cpu", (1,))
        parameter = nn.Parameter(distribute_tensor(values, mesh, [Shard(0)]))
        assert isinstance(parameter.detach(), DTensor)
        gathered = whole(parameter)
        assert type(gathered) is Tensor
        assert torch.equal(gathered, values)
    finally:
        dist.destroy_process_group()


def test_a_plain_parameter_is_read_in_place_and_without_a_graph() -> None:
    parameter = nn.Parameter(torch.randn(3, 2))
    values = whole(parameter)
    assert values.data_ptr() == parameter.data_ptr()
    assert not values.requires_grad


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0, 2.0], None),
        ([1.0, float("nan")], "1 of 2 values are NaN or infinite"),
        ([float("inf"), float("-inf"), 0.0], "2 of 3 values are NaN or infinite"),
    ],
)
def test_non_finite_values_are_counted(values: list[float], sentence: str | None) -> None:
    assert non_finite(torch.tensor(values)) == sentence


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_weights_are_looked_through_for_nans(dtype: torch.dtype) -> None:
    assert non_finite(torch.ones(3).to(dtype)) is None
    assert non_finite(torch.tensor([1.0, float("nan")]).to(dtype)) == (
        "1 of 2 values are NaN or infinite"
    )


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("encoder.0", None, True),
        ("encoder.0", [], False),
        ("encoder.0", ["encoder.0"], True),
        ("encoder.0", ["encoder.*"], True),
        ("encoder.0", ["decoder.*", "*.0"], True),
        ("encoder.0", ["encoder"], False),
        ("Encoder.0", ["encoder.*"], False),
        ("layer1", ["layer[12]"], True),
        ("block[0]", ["block[0]"], True),
    ],
)
def test_a_name_is_chosen_by_itself_or_by_a_shell_pattern(
    name: str, patterns: list[str] | None, expected: bool
) -> None:
    assert matches(name, patterns) is expected


def test_the_walk_changes_nothing() -> None:
    model: Any = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.LSTM(3, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    list(walk(model))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(hasattr(module, "longname") for module in model.modules())


def test_a_shared_module_is_named_at_its_second_place() -> None:
    model = nn.Module()
    model.first = nn.Linear(3, 3)
    model.again = model.first
    found = list(walk(model))
    assert [item.name for item in found] == ["first.weight", "first.bias", "again"]
    assert found[-1] == Skipped("again", "the same module as first")


def test_a_lazy_layer_that_is_called_like_that_of_gpt2_has_no_shape_to_ask_for() -> None:
    lazy = type("Conv1D", (nn.LazyLinear,), {})(3)
    assert [weight.kind for weight in weights(lazy)] == ["linear", "bias"]
    assert kind_of(type("Conv1D", (nn.Conv1d,), {})(2, 3, 3)) == "conv1d"


def test_what_is_passed_over_is_neither_given_nor_named_nor_tied_to() -> None:
    model = TiedEnds()
    found = list(walk(model, lambda module, name: module is model.embed and name == "weight"))
    assert [item.name for item in found] == ["head.weight"]
    assert isinstance(found[0], Weight)
    model.again = model.embed
    assert list(walk(model, lambda module, name: module is not model)) == []
