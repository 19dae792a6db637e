"""Norms of inputs are those of the patches that a kernel meets."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_weightwatch.usage.inputs import InputNorms
from tests.trials.layers import Conv1D, matrices, normal


def norms_of(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    weights = matrices(model)
    with InputNorms(weights) as norms:
        model(*args, **kwargs)
    found = {weight.name: norms.of(weight) for weight in weights}
    return {name: values for name, values in found.items() if values is not None}


def column_norms(x: Tensor) -> NDArray[np.float64]:
    rows = x.detach().double().numpy().reshape(-1, x.shape[-1])
    return np.asarray(np.sqrt((rows**2).sum(0)))


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), Conv1D(3, 5)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (2, 0, 5), (300_000, 5)], ids=str)
def test_of_a_linear_layer_they_are_over_all_leading_dimensions(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = normal(*shape)
    assert norms_of(layer, x)["weight"].numpy() == pytest.approx(column_norms(x)[None], rel=1e-12)


PADDINGS: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"padding": (2, 0)},
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": "same", "dilation": (2, 1)},
    {"padding": 1, "stride": 2},
    {"padding": (1, 2), "stride": (3, 1), "dilation": (1, 2)},
    {"padding": 1, "groups": 2},
    {"stride": 2, "groups": 4},
]
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", PADDINGS, ids=str)
def test_of_a_convolution_they_are_those_of_its_unfolded_patches(
    options: dict[str, Any], mode: str
) -> None:
    kernel, x = (3, 2), normal(3, 4, 8, 7)
    layer = nn.Conv2d(4, 8, kernel, **{**options, "padding_mode": mode})
    dilation, stride = layer.dilation, layer.stride
    padding: Any = options.get("padding", 0)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(r // 2, r - r // 2) for r in reach]
    elif padding == "valid" or isinstance(padding, int):
        sides = [(0 if padding == "valid" else padding,) * 2] * 2
    else:
        sides = [(p, p) for p in padding]
    padded = np.pad(x.double().numpy(), [(0, 0), (0, 0), *sides], mode=MODES[mode])  # type: ignore[call-overload]
    patches = F.unfold(torch.tensor(padded), kernel, dilation=dilation, stride=stride)
    expected = patches.square().sum((0, 2)).sqrt().view(layer.groups, -1)
    torch.testing.assert_close(norms_of(layer, x)["weight"], expected)


LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MANNERS: list[dict[str, Any]] = [
    {},
    {"padding": 2, "stride": 2},
    {"padding": "same", "dilation": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "replicate", "stride": 3},
    {"padding": 2, "padding_mode": "reflect", "groups": 2},
]


@pytest.mark.parametrize("dimensions", LAYERS)
@pytest.mark.parametrize("options", MANNERS, ids=str)
def test_of_a_convolution_they_are_what_a_kernel_of_one_weight_lets_through(
    options: dict[str, Any], dimensions: int
) -> None:
    channels, offsets = 4, 3**dimensions
    x = normal(2, channels, *(7, 6, 5)[:dimensions])
    layer = LAYERS[dimensions](channels, 6, 3, **options)
    probe = LAYERS[dimensions](
        channels, channels * offsets, 3, bias=False, **{**options, "groups": 1}
    ).double()
    with torch.no_grad():
        probe.weight.copy_(torch.eye(channels * offsets).view_as(probe.weight))
        met = probe(x.double()).transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms_of(layer, x)["weight"], met.view(layer.groups, -1))
    alone = norms_of(layer, x[0])["weight"]
    torch.testing.assert_close(alone, norms_of(layer, x[:1])["weight"])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d], ids=lambda k: k.__name__
)
def test_of_a_transposed_convolution_all_offsets_have_the_norm_of_their_channel(
    kind: type[nn.Module], groups: int
) -> None:
    dimensions = int(kind.__name__[-2])
    layer = kind(4, 6, 2, stride=2, groups=groups)
    x = normal(3, 4, *(5, 3, 2)[:dimensions])
    channels = column_norms(x.movedim(1, -1))
    expected = np.repeat(channels, 2**dimensions).reshape(groups, -1)
    assert norms_of(layer, x)["weight"].numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_of_attention_each_third_has_the_norms_of_its_own_input(batch_first: bool) -> None:
    layer = nn.MultiheadAttention(4, 2, batch_first=batch_first)
    query, key, value = normal(3, 3, 4), normal(3, 3, 4, seed=1), normal(3, 3, 4, seed=2)
    expected = np.stack([column_norms(x) for x in (query, key, value)])
    for found in (norms_of(layer, query, key, value), norms_of(layer, query, value=value, key=key)):
        assert found["in_proj_weight"].numpy() == pytest.approx(expected, rel=1e-12)
    itself = norms_of(layer, query, query, query)["in_proj_weight"].numpy()
    assert itself == pytest.approx(expected[[0, 0, 0]], rel=1e-12)


def test_of_attention_with_own_widths_each_matrix_has_the_norms_of_its_input() -> None:
    layer = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    inputs = {"q": normal(6, 2, 4), "k": normal(7, 2, 3), "v": normal(7, 2, 5)}
    found = norms_of(layer, *inputs.values())
    assert found.keys() == {f"{letter}_proj_weight" for letter in "qkv"}
    for letter, x in inputs.items():
        expected = column_norms(x)[None]
        assert found[f"{letter}_proj_weight"].numpy() == pytest.approx(expected, rel=1e-12)


REASONS: list[tuple[nn.Module, tuple[Any, ...], str, str]] = [
    (nn.MultiheadAttention(4, 2), (normal(3, 2, 4),) * 3, "out_proj.weight", "MultiheadAttention"),
    (nn.LSTM(4, 4), (normal(3, 2, 4),), "weight_hh_l0", "hidden states"),
    (nn.Embedding(4, 4), (torch.tensor([1, 2]),), "weight", "table to look up"),
    (nn.Bilinear(2, 2, 2), (normal(3, 2), normal(3, 2)), "weight", "inputs of Bilinear"),
    (nn.Linear(4, 4), (torch.full((2, 4), math.nan),), "weight", "not finite"),
    (nn.Linear(4, 4), (torch.tensor([0.0, math.inf, 0.0, 0.0]),), "weight", "not finite"),
]


@pytest.mark.parametrize(("layer", "args", "name", "reason"), REASONS)
def test_where_there_are_none_the_reason_is_given(
    layer: nn.Module, args: tuple[Any, ...], name: str, reason: str
) -> None:
    (weight,) = (weight for weight in matrices(layer) if weight.name == name)
    with InputNorms([weight]) as norms:
        layer(*args)
    assert reason in norms.missing(weight)
    assert norms.of(weight) is None


class Careless(nn.Linear):
    """Takes whatever it is given, and nothing for a linear layer."""

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        return torch.zeros(1)


@pytest.mark.parametrize(
    "args",
    [(), (None,), ("x",), (torch.arange(5),), (normal(3, 4),), (torch.ones(5).to_sparse(),)],
    ids=["none", "None", "text", "integers", "of another width", "sparse"],
)
def test_what_is_no_input_of_the_layer_is_ignored(args: tuple[Any, ...]) -> None:
    layer = Careless(5, 3)
    (weight,) = matrices(layer)
    with InputNorms([weight]) as norms:
        layer(*args)
    assert norms.missing(weight) == "no input was seen"
    with norms:
        layer(x=torch.ones(5))
    assert norms.missing(weight) == ""


def test_several_passes_and_shared_modules_add_up() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    first, second = normal(3, 4), normal(5, 4, seed=1)
    seen = [x for given in (first, second) for x in (given, shared(given).tanh())]
    (weight,) = matrices(model)
    with InputNorms([weight]) as norms:
        model(first)
        model(second)
    found = norms.of(weight)
    assert found is not None
    assert found.numpy() == pytest.approx(column_norms(torch.cat(seen))[None], rel=1e-12)


def test_large_halves_do_not_overflow() -> None:
    x = torch.full((9, 4), 60_000.0, dtype=torch.float16)
    assert norms_of(nn.Linear(4, 4).half(), x)["weight"].tolist() == [[180_000.0] * 4]


def test_what_processes_have_seen_in_parts_is_what_one_sees_of_all() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    weights, x = matrices(model), normal(6, 4)
    parts = [InputNorms(weights) for _ in range(3)]
    for part, batch in zip(parts, (x[:2], x[2:]), strict=False):  # the third has seen nothing
        with part, torch.inference_mode():
            model(batch)
    given: list[list[Tensor]] = [[], [], []]
    for part, kept in zip(parts, given, strict=True):
        copy.deepcopy(part).merge(lambda own, kept=kept: kept.append(own) or own)  # type: ignore[misc]
    sums = iter([torch.stack(ranks).sum(0) for ranks in zip(*given, strict=True)])
    parts[2].merge(lambda own: own.copy_(next(sums)))  # in place, as collectives are
    for weight, expected in zip(weights, norms_of(model, x).values(), strict=True):
        found = parts[2].of(weight)
        assert found is not None
        torch.testing.assert_close(found, expected)
