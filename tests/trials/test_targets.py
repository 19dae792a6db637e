"""What a trial changes, what it leaves and why, and how many bytes there are."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.targets import find_targets, size_in_bytes


def names(model: nn.Module) -> list[str]:
    return [weight.name for weight in find_targets(model).weights]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(2, 3), ["weight"]),
        (nn.Embedding(4, 2), ["weight"]),
        (nn.Conv1d(2, 3, 3), ["weight"]),
        (nn.Conv2d(2, 3, 3), ["weight"]),
        (nn.Conv3d(2, 3, 3), ["weight"]),
        (nn.ConvTranspose2d(2, 3, 3), ["weight"]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (nn.GRU(2, 3), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.LSTMCell(2, 3), ["weight_ih", "weight_hh"]),
        (nn.BatchNorm2d(3), []),
        (nn.LayerNorm((3, 3)), []),
        (nn.PReLU(), []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_matrices_and_kernels_are_targets_biases_and_norms_are_not(
    module: nn.Module, expected: list[str]
) -> None:
    assert names(module) == expected


def nan_linear() -> nn.Module:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    return layer


def pruned() -> nn.Module:
    layer = nn.Linear(2, 2)
    prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    return layer


def sparse_linear() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.eye(2).to_sparse())
    return layer


COMPUTED = "its effective weight is computed at each forward pass"


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (nan_linear, "0.weight", "1 of 4 values are NaN or infinite"),
        (pruned, "0.weight_orig", f"pruned or parametrized: {COMPUTED}"),
        (
            lambda: parametrizations.orthogonal(nn.Linear(2, 2)),
            "0.parametrizations.weight.original",
            "ParametrizationList is not tried",
        ),
        (lambda: nn.Bilinear(2, 2, 2), "0.weight", "Bilinear is not tried"),
        (lambda: nn.LayerNorm((3, 3)), "0.weight", "LayerNorm is not tried"),
        (
            lambda: nn.LazyLinear(2),
            "0.weight",
            "lazy: it has no shape before the first forward pass",
        ),
        (
            lambda: nn.Linear(2, 2, device="meta"),
            "0.weight",
            "on the meta device: it has no values",
        ),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "0.weight", "complex"),
        (lambda: nn.ParameterList([torch.zeros(0, 2)]), "0.0", "empty: shape (0, 2)"),
        (sparse_linear, "0.weight", "sparse (torch.sparse_coo)"),
    ],
)
def test_a_matrix_that_is_left_as_it_is_is_named_with_its_reason(
    make: Callable[[], nn.Module], name: str, reason: str
) -> None:
    targets = find_targets(nn.Sequential(make(), nn.Linear(2, 2)))
    assert [weight.name for weight in targets.weights] == ["1.weight"]
    assert Skipped(name, reason) in targets.skipped
    assert not {skip.name for skip in targets.skipped} & {"1.weight", "1.bias"}


@pytest.mark.parametrize(
    "make",
    [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm],
    ids=["weight_norm", "spectral_norm"],
)
def test_factors_of_the_old_reparametrizations_are_no_targets(
    make: Callable[[nn.Module], nn.Module],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = make(nn.Linear(4, 4))
    targets = find_targets(layer)
    assert targets.weights == ()
    assert targets.skipped
    assert {skip.reason for skip in targets.skipped} == {f"pruned or parametrized: {COMPUTED}"}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_weights_do_not_end_the_search(dtype: torch.dtype) -> None:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    targets = find_targets(nn.Sequential(layer, nn.Linear(4, 4)))
    assert "1.weight" in [weight.name for weight in targets.weights]
    assert targets.model_bytes == 16 + 64 + 16


class Everything(nn.Module):
    """Tied weights, two dtypes, buffers that are stored and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embed.weight
        self.short = nn.Linear(4, 4, dtype=torch.float16)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("stored", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("transient", torch.zeros(1000), persistent=False)
        self.register_buffer("alias", self.embed.weight.detach())


def test_model_bytes_count_every_stored_tensor_once() -> None:
    embed, head_bias, half = 10 * 4 * 4, 10 * 4, (16 + 4) * 2
    norm = 4 * 4 * 4 + 8
    targets = find_targets(Everything())
    assert targets.model_bytes == embed + head_bias + half + norm + 3 * 8
    assert [weight.name for weight in targets.weights] == ["embed.weight", "short.weight"]
    assert targets.other_bytes == targets.model_bytes - embed - 32
    assert targets.skipped == (Skipped("head.weight", "tied to embed.weight"),)


def test_model_bytes_are_those_of_the_distinct_storages_of_the_state_dict() -> None:
    model = Everything()
    distinct = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    expected = sum(tensor.nbytes for tensor in distinct.values())
    assert find_targets(model).model_bytes == expected


def test_tensors_without_values_count_by_their_shape_and_lazy_ones_not() -> None:
    model = nn.Sequential(nn.Linear(3, 2, device="meta"), nn.LazyLinear(4), nn.Linear(2, 2))
    assert find_targets(model).model_bytes == 4 * (6 + 2) + 4 * (4 + 2)


def test_a_model_with_a_sparse_buffer_has_targets() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("adjacency", torch.eye(3).to_sparse())
    assert names(model) == ["weight"]
    assert find_targets(model).model_bytes >= 4 * (16 + 4)


def test_weights_that_share_their_memory_are_one_target() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model.get_parameter("1.weight").data = model.get_parameter("0.weight").data
    targets = find_targets(model)
    assert [weight.name for weight in targets.weights] == ["0.weight"]
    assert [skip.name for skip in targets.skipped] == ["1.weight"]
    assert (targets.model_bytes, targets.other_bytes) == (64, 0)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.zeros(3, 4), 48),
        (torch.zeros(3, 4, dtype=torch.bfloat16), 24),
        (torch.zeros(3, dtype=torch.complex128), 48),
        (torch.zeros(0, 4), 0),
        (torch.zeros(()), 4),
    ],
)
def test_the_size_of_a_tensor_is_that_of_its_elements(tensor: Tensor, expected: int) -> None:
    assert size_in_bytes(tensor) == expected
