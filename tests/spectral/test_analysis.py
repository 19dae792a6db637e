"""Every weight of a model, a state dict or a file has its row, or its reason."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.report import SpectralReport
from lightning_weightwatch.spectral.unchanged import KnownSpectra
from tests.model.zoo import ALL, PLAIN, Animal, Array, pruned

# Torch computes some effective weights by more than one route, in float32.
RELATIVE = 2e-5
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose")


def squares(matrices: list[Array]) -> Array:
    """The squared singular values of all matrices, ascending."""
    values = [np.linalg.svd(matrix, compute_uv=False) ** 2 for matrix in matrices]
    return np.asarray(np.sort(np.concatenate(values)))


def owner(row: str, model: nn.Module) -> int:
    """The place of the module whose weight, or a part of it, a row is."""
    places = [path for path, _ in model.named_modules()]
    while row not in places:
        row = row.rpartition(".")[0]
    return places.index(row)


@pytest.mark.parametrize("animal", ALL.values(), ids=ALL)
def test_the_spectrum_is_that_of_the_matrices_that_the_layer_multiplies_with(
    animal: Animal,
) -> None:
    model = animal.model()
    report = analyze(model, min_evals=1)
    expected = animal.expected(model)
    assert {row.name for row in report.layers} == expected.keys()
    for row in report.layers:
        matrices = expected[row.name]
        evals = squares(matrices) / (2 if row.kind in CONVOLUTIONS else 1)
        assert (row.num_evals, row.rf) == (len(evals), len(matrices))
        assert (max(matrices[0].shape), min(matrices[0].shape)) == (row.N, row.M)
        assert row.norm == pytest.approx(evals.sum(), rel=RELATIVE)
        assert row.spectral_norm == pytest.approx(evals[-1], rel=RELATIVE)
        assert row.layer_id == owner(row.name, model)
    assert {skip.reason for skip in report.skipped} <= {
        "a 0-D weight has no spectrum",
        "a 1-D weight has no spectrum",
    }


@pytest.mark.parametrize("animal", ALL.values(), ids=ALL)
def test_each_kernel_position_can_have_a_row_of_its_own(animal: Animal) -> None:
    model = animal.model()
    rows = analyze(model, min_evals=1, pool=False, convention="plain").layers
    expected = animal.expected(model)
    assert len({(row.name, row.slice_id) for row in rows}) == len(rows)
    assert len(rows) == sum(map(len, expected.values()))
    for row in rows:
        assert row.slice_id is not None
        matrix = expected[row.name][row.slice_id]
        evals = squares([matrix])
        assert row.norm == pytest.approx(evals.sum(), rel=RELATIVE, abs=1e-12)
        assert row.spectral_norm == pytest.approx(evals[-1], rel=RELATIVE, abs=1e-12)


def everything() -> nn.Module:
    """A model with all the layers whose names tell in a file what they are."""
    torch.manual_seed(0)
    animals = {name: animal for name, animal in ALL.items() if animal.kind_in_state != ""}
    return nn.ModuleDict({f"a {name}": animal.model() for name, animal in animals.items()})


def numbers_of(report: SpectralReport) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {
        row.name: (row.N, row.M, row.rf, row.num_evals, row.norm, row.spectral_norm)
        for row in report.layers
    }
    assert len(found) == len(report.layers)
    return found


def as_state_dict(model: nn.Module, folder: Path) -> Any:
    return model.state_dict()


def as_pickle(model: nn.Module, folder: Path) -> Any:
    torch.save(model.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def as_checkpoint(model: nn.Module, folder: Path) -> Any:
    content = {"epoch": 3, "state_dict": model.state_dict(), "optimizer_states": []}
    torch.save(content, folder / "model.ckpt")
    return str(folder / "model.ckpt")


def as_safetensors(model: nn.Module, folder: Path) -> Any:
    state = {name: values.contiguous() for name, values in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("saved", [as_state_dict, as_pickle, as_checkpoint, as_safetensors])
def test_files_have_the_numbers_of_the_model(
    saved: Callable[[nn.Module, Path], Any], tmp_path: Path
) -> None:
    model = everything()
    expected = numbers_of(analyze(model))
    report = analyze(saved(model, tmp_path))
    found = numbers_of(report)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=RELATIVE), name
    ids = [row.layer_id for row in report.layers]
    assert min(ids) >= 1
    assert {row.name.rsplit(".", 1)[0] for row in report.layers if "lstm" in row.name}


def test_layers_of_a_safetensors_file_come_in_their_natural_order(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(9, 9) for _ in range(12)))
    report = analyze(as_safetensors(model, tmp_path))
    assert [row.name for row in report.layers] == [str(place) for place in range(12)]


def nan_linear() -> nn.Module:
    layer = nn.Linear(40, 40)
    with torch.no_grad():
        layer.weight[3, 4] = math.nan
        layer.weight[5, 6] = -math.inf
    return layer


class Deceitful(Tensor):
    """A tensor that is read with another shape than it has: packed values."""

    def dequantize(self) -> Tensor:
        return torch.ones(80, 40)


class Unreadable(Tensor):
    def detach(self) -> Any:
        raise RuntimeError("the disk is gone")


def linear_of(kind: type[Tensor]) -> nn.Module:
    layer = nn.Linear(40, 40)
    values = torch.ones(40, 40).as_subclass(kind)
    layer._parameters["weight"] = values  # type: ignore[assignment]
    return layer


class Failing(nn.Module):
    """A parametrization that fails with values, not with shapes, once it is not in training."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training and not values.is_meta:
            raise RuntimeError("out of order")
        return values


def failing() -> nn.Module:
    return parametrize.register_parametrization(nn.Linear(40, 40), "weight", Failing())


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (nn.CrossEntropyLoss, "0", "CrossEntropyLoss has weight=None"),
        (lambda: nn.LayerNorm(40), "0", "a 1-D weight has no spectrum"),
        (lambda: nn.Linear(40, 7), "0", "7 eigenvalues, fewer than 8"),
        (lambda: nn.Conv2d(1, 40, (1, 7)), "0", "7 eigenvalues, fewer than 8"),
        (lambda: nn.LazyLinear(40), "0", "lazy: it has no shape before the first forward pass"),
        (lambda: nn.GRU(40, 40, device="meta"), "0", "on the meta device: it has no values"),
        (nan_linear, "0", "2 of 1600 values are NaN or infinite"),
        (lambda: pruned(nan_linear(), "random"), "0", "values are NaN or infinite"),
        (lambda: linear_of(Deceitful), "0", "it has the shape (80, 40), not (40, 40)"),
        (lambda: linear_of(Unreadable), "0", "cannot be read: the disk is gone"),
        (failing, "0", "out of order"),
        (
            lambda: nn.ParameterList([torch.zeros(9, 8, 7)]),
            "0.0",
            "of the 3 axes of (9, 8, 7) it is not known which two form a matrix",
        ),
    ],
)
@pytest.mark.parametrize("known", [None, KnownSpectra()])
def test_a_layer_that_cannot_be_measured_is_named_with_its_reason(
    make: Callable[[], nn.Module], name: str, reason: str, known: KnownSpectra | None
) -> None:
    report = analyze(nn.Sequential(make(), nn.Linear(40, 50)), known=known)
    assert [layer.name for layer in report.layers] == ["1"]
    (skip,) = report.skipped
    assert skip.name == name
    assert reason in skip.reason


def test_what_a_state_dict_cannot_give_is_named() -> None:
    state = {
        "a.weight": torch.ones(9, 9, device="meta"),
        "b.weight": torch.eye(9).to_sparse(),
        "c.weight": torch.full((9, 9), math.nan),
        "d.weight": torch.zeros(9, 9, dtype=torch.int8),
        "e.weight": torch.randn(9, 9),
    }
    report = analyze(state)
    assert [row.name for row in report.layers] == ["e"]
    reasons = {skip.name: skip.reason for skip in report.skipped}
    assert reasons.keys() == set("abcd")
    assert "on the meta device: it has no values" in reasons["a"]
    assert "sparse (torch.sparse_coo)" in reasons["b"]
    assert reasons["c"] == "81 of 81 values are NaN or infinite"
    assert reasons["d"] == "quantized or integer (torch.int8)"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_weights_are_measured(dtype: torch.dtype) -> None:
    layer = nn.Linear(40, 40, bias=False)
    layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    (row,) = analyze(layer).layers
    evals = squares([layer.weight.detach().double().numpy()])
    assert row.norm == pytest.approx(evals.sum(), rel=1e-9)
    assert row.spectral_norm == pytest.approx(evals[-1], rel=1e-9)


def test_weights_that_lie_across_memory_are_measured() -> None:
    layer, storage = nn.Linear(1, 1), torch.randn(60, 100)
    layer.weight = nn.Parameter(storage.t()[::2, 5:45])
    (row,) = analyze(layer).layers
    evals = squares([storage.double().numpy().T[::2, 5:45]])
    assert row.spectral_norm == pytest.approx(evals[-1], rel=1e-9)
    conv = nn.Conv2d(8, 12, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = nn.Conv2d(8, 12, 3)
    plain.load_state_dict(conv.state_dict())
    found, expected = (numbers_of(analyze(layer))["Conv2d"] for layer in (conv, plain))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("threads", [2, 3])
def test_rows_do_not_depend_on_the_threads(threads: int) -> None:
    # Weights as they stand: those that torch computes depend on its threads in their last bits.
    plain = {f"a {name}": animal.model() for name, animal in PLAIN.items()}
    model = nn.ModuleDict({**plain, "nan": nan_linear(), "broken": failing()})
    torch.set_num_threads(1)
    alone = analyze(model, mp_fit=True, randomize=True)
    torch.set_num_threads(threads)
    together = analyze(model, mp_fit=True, randomize=True)
    assert torch.get_num_threads() == threads
    assert repr(together) == repr(alone)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("restored_threads")
def test_the_progress_rises_to_the_whole(threads: int) -> None:
    torch.set_num_threads(threads)
    shares: list[float] = []
    analyze(nn.Sequential(nn.Linear(9, 9), nan_linear(), nn.LSTM(9, 9)), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == pytest.approx(1.0)
    reports = len(shares)
    analyze(nn.LayerNorm(3), progress=shares.append)
    assert len(shares) == reports


def test_the_model_and_the_generators_are_left_as_they_were() -> None:
    model = everything()
    last = nn.Linear(16, 16)
    last.weight.grad = torch.ones(16, 16)
    model.add_module("last", nn.Sequential(nn.BatchNorm2d(16).eval(), nn.Dropout(), last))
    gradients = [parameter.grad for parameter in model.parameters()]
    flags = [(module.training, sorted(vars(module))) for module in model.modules()]
    versions = [(id(p), p._version, p.requires_grad) for p in model.parameters()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    analyze(model, mp_fit=True, randomize=True)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [(module.training, sorted(vars(module))) for module in model.modules()] == flags
    assert [(id(p), p._version, p.requires_grad) for p in model.parameters()] == versions
    assert all(a is b for a, b in zip(gradients, (p.grad for p in model.parameters()), strict=True))
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert repr(np.random.get_state(legacy=False)) == numpy_state


def test_what_was_measured_before_is_what_would_be_measured_now() -> None:
    model, known = everything().requires_grad_(False), KnownSpectra()
    first = analyze(model, known=known)
    assert repr(analyze(model, known=known)) == repr(first)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    again = analyze(model, known=known)
    assert repr(again) == repr(analyze(model))
    assert repr(again) != repr(first)


def test_a_model_without_weights_has_a_report_without_rows() -> None:
    for model in (nn.Module(), nn.ReLU(), nn.Sequential()):
        assert analyze(model) == SpectralReport((), ())


def test_further_matrices_of_a_layer_do_not_share_its_name() -> None:
    layer = nn.Linear(40, 40)
    layer.lora_A = nn.Parameter(torch.randn(10, 40))
    rows = analyze(nn.Sequential(layer)).layers
    assert [(row.name, row.kind) for row in rows] == [("0", "linear"), ("0.lora_A", "other")]
    weights = (layer.weight, layer.lora_A)
    for row, weight in zip(rows, weights, strict=True):
        assert row.norm == pytest.approx(float(weight.detach().double().square().sum()))


def test_a_tied_weight_is_measured_once_and_its_second_place_named() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(40, 16), "head": nn.Linear(16, 40, bias=False)})
    model["head"].weight = model["embed"].weight
    for source in (model, model.state_dict()):
        report = analyze(source)
        assert [(layer.name, layer.kind) for layer in report.layers] == [("embed", "embedding")]
        assert report.skipped == (Skipped("head.weight", "tied to embed.weight"),)


def test_a_power_method_that_has_not_begun_does_not_begin() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(40, 40))
    vectors = [buffer.clone() for buffer in layer.buffers()]
    analyze(layer.train())
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), vectors, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: parametrizations.orthogonal(nn.Linear(32, 32)),
        lambda: parametrizations.weight_norm(nn.Linear(32, 32)),
        lambda: parametrizations.spectral_norm(nn.Linear(32, 32)),
    ],
    ids=["orthogonal", "weight_norm", "spectral_norm"],
)
def test_within_a_mixed_precision_step_weights_are_computed_in_full(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = analyze(model)
    assert repr(mixed) == repr(analyze(model))


@pytest.mark.parametrize("device", ["meta", "mps", "nowhere", 3.5])
def test_a_device_that_cannot_compute_is_refused(device: Any) -> None:
    with pytest.raises(ValueError, match=r"device must be 'cpu' or 'cuda', got"):
        analyze(nn.Linear(9, 9), device=device)


@pytest.mark.parametrize("given", [0, -1, "a", True, 2.0])
def test_the_least_eigenvalues_for_the_summary_are_a_number(given: Any) -> None:
    with pytest.raises(ValueError, match="summary_min_evals must be an integer of 1 or more"):
        analyze(nn.Linear(9, 9), summary_min_evals=given)


def test_a_matrix_that_would_take_hours_is_named() -> None:
    endless = torch.zeros(1).expand(14_000, 10**9)
    report = analyze({"layer.weight": endless})
    assert report.layers == ()
    ((name, reason),) = [(skip.name, skip.reason) for skip in report.skipped]
    assert name == "layer"
    assert reason.endswith("multiplications, above 1e+14")


def test_where_there_is_no_bulk_to_fit_the_row_says_why() -> None:
    (row,) = analyze({"layer.weight": torch.zeros(32, 32)}, mp_fit=True, randomize=True).layers
    assert math.isnan(row.sigma_mp or 0.0)
    assert row.mp_status == row.rand_mp_status == "all eigenvalues are zero"
    (row,) = analyze({"layer.weight": torch.ones(32, 32)}, mp_fit=True).layers
    assert row.mp_status == "fewer than 2 eigenvalues above zero"
    (sound,) = analyze({"layer.weight": torch.randn(40, 32)}, mp_fit=True, randomize=True).layers
    assert sound.mp_status == sound.rand_mp_status == "success"
