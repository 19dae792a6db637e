"""A weight that has not changed is not measured again; one that has, however, always is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral import measurement
from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.layer import LayerSpectrum, layer_spectrum
from lightning_weightwatch.spectral.report import SpectralReport
from lightning_weightwatch.spectral.unchanged import KnownSpectra, digest


class Measured:
    """What is measured: the names of the layers, each time that they are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.known = KnownSpectra()
        monkeypatch.setattr(measurement, "layer_spectrum", self._counted)

    def _counted(self, values: Any, *, name: str, **how: Any) -> LayerSpectrum:
        self.names.append(name)
        return layer_spectrum(values, name=name, **how)

    def by(self, model: Any, **how: Any) -> list[str]:
        """The layers that an analysis measured; its report is that of a fresh one."""
        self.names.clear()
        report = analyze(model, known=self.known, **how)
        measured = sorted(self.names)
        assert repr(report) == repr(analyze(model, **how))
        return measured


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    return Measured(monkeypatch)


def net() -> nn.Sequential:
    """Two frozen layers and one that trains."""
    model = nn.Sequential(nn.Linear(16, 12), nn.Conv2d(8, 8, 2), nn.Linear(12, 10))
    model[:2].requires_grad_(False)
    return model


def step(model: nn.Module) -> None:
    """One step of an optimizer on all that asks for a gradient."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(trained, lr=0.1).step()


def test_frozen_layers_are_measured_once_and_trained_ones_every_time(measured: Measured) -> None:
    model = net()
    assert measured.by(model) == ["0", "1", "2"]
    for _ in range(4):
        step(model)
        assert measured.by(model) == ["2"]


def test_a_layer_at_rest_that_could_train_is_known_from_the_third_time_on(
    measured: Measured,
) -> None:
    model = nn.Linear(16, 12)
    assert [measured.by(model) for _ in range(4)] == [["Linear"], ["Linear"], [], []]
    step(model)
    assert [measured.by(model) for _ in range(4)] == [["Linear"], ["Linear"], [], []]


def test_a_layer_that_is_frozen_late_is_measured_until_it_was_seen_at_rest(
    measured: Measured,
) -> None:
    model = nn.Linear(16, 12)
    measured.by(model)
    step(model)
    model.requires_grad_(False)
    assert [measured.by(model) for _ in range(2)] == [["Linear"], []]
    model.requires_grad_(True)
    step(model)
    assert measured.by(model) == ["Linear"]


def through_data(weight: Tensor) -> None:
    weight.data.mul_(2)


def through_one_entry_of_data(weight: Tensor) -> None:
    weight.data[3, 4] += 1e-3


def by_other_data(weight: Tensor) -> None:
    weight.data = weight.data * 2


def through_numpy(weight: Tensor) -> None:
    weight.detach().numpy()[:] *= 2


def in_place(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(2)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    "change", [through_data, through_one_entry_of_data, by_other_data, through_numpy, in_place]
)
def test_every_change_of_the_values_is_seen(
    measured: Measured, change: Callable[[Tensor], None], frozen: bool
) -> None:
    model = nn.Linear(16, 12)
    model.requires_grad_(not frozen)
    for _ in range(3):
        measured.by(model)
    assert measured.by(model) == []
    change(model.weight)
    assert measured.by(model) == ["Linear"]


def test_loaded_values_and_other_parameters_are_seen(measured: Measured) -> None:
    model, other = net(), net()
    for _ in range(3):
        measured.by(model)
    model.load_state_dict(other.state_dict())
    assert measured.by(model) == ["0", "1", "2"]
    model[0].weight = nn.Parameter(torch.randn(12, 16), requires_grad=False)
    assert "0" in measured.by(model)
    model.load_state_dict(net().state_dict(), assign=True)
    assert {"0", "1"} <= set(measured.by(model))


def test_another_shape_dtype_or_name_is_measured_anew(measured: Measured) -> None:
    weight = torch.randn(12, 16)
    assert measured.by({"a.weight": weight}) == ["a"]
    assert measured.by({"a.weight": weight}) == []
    assert measured.by({"a.weight": weight.reshape(16, 12)}) == ["a"]
    assert measured.by({"a.weight": weight.reshape(16, 12).double()}) == ["a"]
    assert measured.by({"b.weight": weight}) == ["b"]


SETTINGS: list[dict[str, Any]] = [
    {"mp_fit": True},
    {"randomize": True},
    {"randomize": True, "seed": 1},
    {"pool": False},
    {"dtype": torch.float32},
    {"convention": "plain"},
    {"device": "cpu"},
]


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_other_settings_are_measured_anew(measured: Measured, how: dict[str, Any]) -> None:
    model = nn.Conv2d(9, 10, 2).requires_grad_(False)
    rows = 1 if how.get("pool", True) else 4
    assert measured.by(model) == ["Conv2d"]
    assert measured.by(model, **how) == ["Conv2d"] * rows
    assert measured.by(model, **how) == []
    assert measured.by(model) == ["Conv2d"]


def test_what_was_asked_of_a_part_of_a_weight_is_not_all_of_it(measured: Measured) -> None:
    model = nn.MultiheadAttention(16, 2).requires_grad_(False)
    stacked = [f"in_proj_weight.{part}" for part in "kqv"]
    assert measured.by(model, layers=["*.q"]) == [stacked[1]]
    assert measured.by(model, layers=["*.q"]) == []
    assert measured.by(model) == [*stacked, "out_proj"]
    assert measured.by(model) == []
    assert measured.by(model, layers=["*.v"]) == [stacked[2]]


def test_a_layer_that_moves_within_the_model_keeps_no_old_number(measured: Measured) -> None:
    frozen = nn.Linear(16, 12).requires_grad_(False)
    assert measured.by(nn.ModuleDict({"frozen": frozen})) == ["frozen"]
    assert measured.by(nn.ModuleDict({"first": nn.ReLU(), "frozen": frozen})) == ["frozen"]


def test_the_kind_of_a_layer_is_part_of_what_is_known(measured: Measured) -> None:
    embedding, linear = nn.Embedding(16, 12), nn.Linear(12, 16, bias=False)
    linear.weight = embedding.weight
    embedding.requires_grad_(False)
    for model in (embedding, linear):
        assert measured.by(nn.ModuleDict({"layer": model})) == ["layer"]


def test_computed_weights_are_known_by_their_values(measured: Measured) -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(16, 12))
    assert [measured.by(model) for _ in range(2)] == [["Linear"], []]
    step(model)
    assert measured.by(model) == ["Linear"]


def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    model, known = nn.Linear(16, 12).requires_grad_(False), KnownSpectra()

    def without_memory(*args: Any, **how: Any) -> LayerSpectrum:
        raise MemoryError("for once")

    with monkeypatch.context() as patch:
        patch.setattr(measurement, "layer_spectrum", without_memory)
        report = analyze(model, known=known)
    assert report == SpectralReport((), (Skipped("Linear", "failed: for once"),))
    assert len(analyze(model, known=known).layers) == 1


def test_a_layer_that_becomes_nan_is_named_and_one_that_recovers_measured() -> None:
    model, known = nn.Linear(16, 12).requires_grad_(False), KnownSpectra()
    assert len(analyze(model, known=known).layers) == 1
    kept = model.weight.data.clone()
    model.weight.data[0, 0] = float("nan")
    for _ in range(2):
        report = analyze(model, known=known)
        assert report.skipped == (Skipped("Linear", "1 of 192 values are NaN or infinite"),)
    model.weight.data = kept
    assert repr(analyze(model, known=known)) == repr(analyze(model))


@pytest.mark.parametrize("threads", [2, 3])
def test_known_layers_keep_their_place_with_several_threads(
    measured: Measured, threads: int
) -> None:
    model = nn.Sequential(*(nn.Linear(16, 8 + i) for i in range(10)))
    for index in range(0, 10, 2):
        model[index].requires_grad_(False)
    torch.set_num_threads(threads)
    try:
        assert len(measured.by(model)) == 10
        step(model)
        assert measured.by(model) == [str(i) for i in range(1, 10, 2)]
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "dtype",
    [*(torch.float64, torch.float32, torch.bfloat16), torch.float8_e4m3fn, torch.complex64],
)
def test_a_digest_is_of_the_values_and_not_of_their_layout(dtype: torch.dtype) -> None:
    values = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert digest(values) == digest(values.clone()) == digest(values.T.contiguous().T)
    assert digest(values) == digest(torch.stack([values, values], 2)[:, :, 0])
    others: list[Tensor] = [values.T, values.reshape(10, 6), values.reshape(-1), values.flip(0)]
    assert len({digest(other) for other in [values, *others]}) == 5


def test_a_digest_tells_zeros_of_other_shapes_dtypes_and_signs() -> None:
    zeros = [
        torch.zeros(4, 4), torch.zeros(4, 2), torch.zeros(2, 8), -torch.zeros(4, 4),
        torch.zeros(4, 4).half(), torch.zeros(4, 4).bfloat16(), torch.zeros(4, 2).double(),
    ]  # fmt: skip
    assert len(set(map(digest, zeros))) == len(zeros)


def test_a_digest_takes_conjugated_and_negated_views() -> None:
    values = torch.randn(3, 4, dtype=torch.complex64)
    assert digest(values.conj()) == digest(values.conj().resolve_conj())
    assert digest(values.conj().imag) == digest(-values.imag)
