"""What torchao stores is int8 and what it computes is the layer; the rest is left as it was."""

import copy
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._inductor import config as inductor

from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.int8_kernels import Int8Kernels, available, tied_weights
from lightning_weightwatch.trials.snapshot import digest
from lightning_weightwatch.trials.targets import find_targets

ROOT = Path(__file__).parents[2]
BOTH: list[Literal["float", "int8"]] = ["float", "int8"]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torchao's import, here before ours
    pytest.importorskip("torchao")


class Doubled(nn.Linear):
    """A linear layer that does something of its own with its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ (2 * self.weight.t())


def model_of(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def linear(out: int = 40, inputs: int = 64, dtype: torch.dtype = torch.float32) -> nn.Linear:
    found = model_of(nn.Linear(inputs, out))[0].to(dtype)
    assert isinstance(found, nn.Linear)
    return found


def values_of(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.dequantize()


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)).to(dtype)


def applied(kernels: Int8Kernels, model: nn.Module) -> list[CompressedLayer]:
    return list(kernels.apply(find_targets(model).weights))


def reasons(kernels: Int8Kernels, model: nn.Module) -> dict[str, str]:
    return {left.name: left.reason for left in kernels.left_out(find_targets(model).weights)}


def decibel(signal: Tensor, found: Tensor) -> float:
    noise = (signal.double() - found.double()).square().sum()
    return float(10 * torch.log10(signal.double().square().sum() / noise))


def int8_per_row(weight: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values of w as codes −128 … 127 with s = 2 max|w| / 255, and s, in NumPy's float64."""
    values = weight.detach().double().numpy()
    scale = 2 * np.abs(values).max(axis=1, keepdims=True) / 255
    return np.clip(np.rint(values / scale), -128, 127) * scale, scale


@pytest.mark.parametrize("activations", BOTH)
def test_its_values_are_those_of_the_formula(activations: Literal["float", "int8"]) -> None:
    layer = linear()
    original = layer.weight.detach().clone()
    applied(Int8Kernels(activations), nn.Sequential(layer))
    expected, scale = int8_per_row(original)
    found = values_of(layer).double().numpy()
    # The largest value of a row is 127.5 steps, where float32 rounds to either side.
    largest = np.abs(original.numpy()) == np.abs(original.numpy()).max(axis=1, keepdims=True)
    assert np.abs(found - expected)[~largest].max() < 1e-5 * scale.max()
    assert np.abs(np.abs(found - original.numpy())[largest] / scale[:, 0] - 0.5).max() < 1e-4


def test_the_row_tells_the_bytes_and_the_noise_of_what_is_stored() -> None:
    model = model_of(nn.Linear(64, 40))
    original = next(model.parameters()).detach().clone()
    (row,) = applied(Int8Kernels(), model)
    error = original.double().numpy() - values_of(model[0]).double().numpy()
    assert row.name == "0.weight"
    assert (row.kind, row.shape, row.bytes) == ("linear", (40, 64), 40 * 64 * 4)
    codes_and_scales = 40 * 64 + 40 * 4
    assert codes_and_scales <= row.packed_bytes <= codes_and_scales + 40 * 8  # and zero points
    assert row.signal == pytest.approx(float(original.double().square().sum()))
    assert row.noise == pytest.approx(float(np.square(error).sum()))
    assert row.live == int(torch.count_nonzero(values_of(model[0])))
    assert row.sqnr == pytest.approx(43, abs=3)  # a Gaussian row with its largest value at 127


def test_a_matrix_of_several_blocks_is_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = applied(Int8Kernels(), model_of(nn.Linear(64, 40)))
    module = import_module("lightning_weightwatch.trials.int8_kernels")
    monkeypatch.setattr(module, "_BLOCK", 3 * 64)
    (blocked,) = applied(Int8Kernels(), model_of(nn.Linear(64, 40)))
    assert blocked.signal == pytest.approx(whole[0].signal, rel=1e-12)
    assert blocked.noise == pytest.approx(whole[0].noise, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activations", BOTH)
def test_a_converted_layer_computes_what_the_layer_did(
    activations: Literal["float", "int8"], dtype: torch.dtype
) -> None:
    layer = linear(dtype=dtype)
    for rows in (normal(64), normal(1, 64), normal(3, 5, 64)):
        with torch.inference_mode():
            expected = copy.deepcopy(layer)(rows.to(dtype))
            converted = copy.deepcopy(layer)
            applied(Int8Kernels(activations), nn.Sequential(converted))
            found = converted(rows.to(dtype))
        assert found.dtype == dtype
        assert 35 < decibel(expected, found) < 70


def test_quantized_activations_add_their_own_noise() -> None:
    layer, rows = linear(), normal(200, 64)
    expected = layer(rows).detach()
    found = {}
    for activations in BOTH:
        converted = copy.deepcopy(layer)
        applied(Int8Kernels(activations), nn.Sequential(converted))
        with torch.no_grad():
            found[activations] = decibel(expected, converted(rows))
    assert found["int8"] < found["float"] - 1


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_layer_runs_without_its_fast_path(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first).eval()
    rows = normal(3, 6, 32)
    for mode in (torch.no_grad, torch.inference_mode):
        converted = copy.deepcopy(layer)
        with mode():
            done = applied(Int8Kernels(), converted)
            assert [row.name for row in done] == ["linear1.weight", "linear2.weight"]
            assert decibel(layer(rows), converted(rows)) > 35


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 8, 3), "torchao has no int8 kernel for Conv2d"),
        (nn.ConvTranspose1d(3, 8, 3), "torchao has no int8 kernel for ConvTranspose1d"),
        (nn.Embedding(10, 8), "torchao has no int8 kernel for Embedding"),
        (nn.LSTM(8, 8), "torchao has no int8 kernel for LSTM"),
        (Doubled(8, 8), "Doubled has a forward pass of its own"),
        (nn.Linear(8, 8).double(), "torchao: AssertionError: Unsupported input dtype"),
        (nn.Linear(1, 8), "torchao: RuntimeError: shape"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_it_cannot_do_is_left_out_untouched(layer: nn.Module, reason: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16), layer)
    before = {name: (id(p), p.detach().clone()) for name, p in layer.named_parameters()}
    done = applied(Int8Kernels(), model)
    assert [row.name for row in done] == ["0.weight"]
    for name, parameter in layer.named_parameters():
        number, values = before[name]
        assert id(parameter) == number
        assert torch.equal(parameter, values)
    left = reasons(Int8Kernels(), nn.Sequential(nn.Linear(16, 16), layer))
    assert set(left) == {f"1.{name}" for name in before if "bias" not in name}
    assert all(why.startswith(reason) and "\n" not in why for why in left.values())


def test_the_projections_of_attention_are_left_out() -> None:
    left = reasons(Int8Kernels(), nn.MultiheadAttention(16, 2))
    assert left["in_proj_weight"] == "torchao has no int8 kernel for MultiheadAttention"
    assert "without its forward pass" in left["out_proj.weight"]


def test_asking_what_is_left_out_changes_nothing() -> None:
    model = model_of(nn.Linear(16, 16), nn.Conv1d(4, 4, 3))
    before = digest(model), [id(parameter) for parameter in model.parameters()]
    left = Int8Kernels().left_out(find_targets(model).weights)
    assert [(found.name, found.kind) for found in left] == [("1.weight", "conv1d")]
    assert (digest(model), [id(parameter) for parameter in model.parameters()]) == before


def test_with_its_parameters_put_back_a_model_is_what_it_was() -> None:
    model = model_of(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    tables = [(module._parameters, dict(module._parameters)) for module in model.modules()]
    before = digest(model), list(model.state_dict()), [id(p) for p in model.parameters()]
    grown = [sorted(vars(module)) for module in model.modules()]
    applied(Int8Kernels("int8"), model)
    assert list(model.state_dict()) == before[1]
    assert [id(parameter) for parameter in model.parameters()] != before[2]
    for table, entries in tables:
        table.update(entries)
    assert (digest(model), list(model.state_dict()), [id(p) for p in model.parameters()]) == before
    assert [sorted(vars(module)) for module in model.modules()] == grown
    assert all(parameter.requires_grad for parameter in model.parameters())


class Tied(nn.Module):
    """A language model's head and embedding on one weight, the head first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 50, bias=False)
        self.middle = nn.Linear(16, 16)
        self.embedding = nn.Embedding(50, 16)
        self.embedding.weight = self.head.weight


def test_a_tied_weight_is_left_out_whole() -> None:
    model = Tied()
    assert tied_weights(model) == {"head.weight"}
    kernels = Int8Kernels(tied=tied_weights(model))
    assert reasons(kernels, model) == {
        "head.weight": "tied: another module uses it too, and would keep the float weight"
    }
    assert [row.name for row in applied(kernels, model)] == ["middle.weight"]
    assert model.head.weight is model.embedding.weight


def test_only_what_shares_its_values_is_tied() -> None:
    shared = nn.Linear(8, 8)
    assert tied_weights(nn.Sequential(shared, shared, nn.Linear(8, 8), nn.LSTM(8, 8))) == set()
    two = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    same_memory = next(two[0].parameters()).detach()
    two[1].weight = nn.Parameter(same_memory)
    assert tied_weights(two) == {"0.weight", "1.weight"}


def do_nothing(*_: object, **__: object) -> None:
    pass


def halve(layer: nn.Module, *_: object, **__: object) -> None:
    """As torchao's, with other values."""
    config = import_module("torchao.quantization").Int8WeightOnlyConfig(
        set_inductor_config=False, version=2
    )
    assert isinstance(layer, nn.Linear)
    layer.weight = nn.Parameter(layer.weight / 2, requires_grad=False)
    REAL(layer, config)


def mistaken_kernel(layer: nn.Module, config: object) -> None:
    """As torchao's, with scales that only its kernel sees."""
    REAL(layer, config)
    assert isinstance(layer, nn.Linear)
    kept, held = values_of(layer), layer.weight
    held.scale.mul_(3)  # type: ignore[attr-defined]
    held.dequantize = lambda: kept  # type: ignore[method-assign]


REAL: Callable[..., None] = import_module("torchao.quantization").quantize_


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        (do_nothing, "torchao changed nothing"),
        (halve, "torchao's values are more than a step away from the weight"),
        (mistaken_kernel, "torchao's kernel does not compute with the values that it holds"),
    ],
)
def test_a_conversion_that_is_none_is_noticed(
    monkeypatch: pytest.MonkeyPatch, instead: Callable[..., None], reason: str
) -> None:
    monkeypatch.setattr("torchao.quantization.quantize_", instead)
    model = model_of(nn.Linear(16, 16))
    weight = next(model.parameters())
    assert reasons(Int8Kernels(), model) == {"0.weight": reason}
    with pytest.raises(RuntimeError, match=f"none of 1 weights .* 0.weight: {reason}"):
        applied(Int8Kernels(), model)
    assert model[0].weight is weight


def test_a_half_precision_layer_whose_codes_overflow_is_left_out() -> None:
    layer = nn.Linear(784, 10, bias=False, dtype=torch.float16)
    with torch.no_grad():
        layer.weight.fill_(0.3)  # 784 · 127 is beyond float16, 784 · 0.3 is not
    assert bool(torch.isfinite(layer(torch.ones(1, 784, dtype=torch.float16))).all())
    assert reasons(Int8Kernels(), nn.Sequential(layer)) == {
        "0.weight": "torchao's kernel does not compute with the values that it holds"
    }


def test_a_model_without_linear_layers_is_no_trial() -> None:
    with pytest.raises(RuntimeError, match=r"none of 1 weights .*0.weight: .* for Conv2d"):
        applied(Int8Kernels(), nn.Sequential(nn.Conv2d(3, 3, 3)))


def test_a_weight_is_asked_for_by_the_name_of_its_parameter() -> None:
    biases = [w for w in walk(nn.Linear(8, 8)) if isinstance(w, Weight) and w.kind == "bias"]
    (left,) = Int8Kernels().left_out(biases)
    assert left.reason == "torchao has no int8 kernel for the bias of Linear"


def test_rows_of_zeros_and_of_huge_and_tiny_values_go_through() -> None:
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 1e-7, 1e30, 1.0]).unsqueeze(1).expand(4, 8))
    (row,) = applied(Int8Kernels(), nn.Sequential(layer))
    assert values_of(layer)[0].tolist() == [0.0] * 8
    assert row.live == 24


def test_no_random_number_and_no_setting_of_torch_is_touched() -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            repr(inductor.get_config_copy()),  # what torchao has recommendations for
            torch.get_float32_matmul_precision(),
            list(warnings.filters),
            [logging.getLogger(name).filters for name in ("torchao", "torch.utils._pytree")],
        )

    with inductor.patch(coordinate_descent_tuning=False, force_fuse_int_mm_with_mul=False):
        model, before = model_of(nn.Linear(16, 16)), state()
        for activations in BOTH:
            Int8Kernels(activations).left_out(find_targets(model).weights)
        applied(Int8Kernels("int8"), model)
        assert state() == before


def test_the_import_of_torchao_prints_nothing() -> None:
    code = (
        "import logging, sys, warnings; logging.basicConfig(level=logging.INFO)\n"
        "from lightning_weightwatch.trials.int8_kernels import available\n"
        "before, filters = 'torchao' in sys.modules, list(warnings.filters)\n"
        "print(before, available(), 'torchao' in sys.modules, warnings.filters == filters)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["False", "None", "True", "True"], done.stderr
    assert done.stderr == ""


def test_without_torchao_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() is None
    monkeypatch.setitem(sys.modules, "torchao", None)
    remedy = "torchao is not installed: pip install 'lightning-weightwatch[torchao]'"
    assert available() == remedy
    weights = find_targets(nn.Linear(4, 4)).weights
    with pytest.raises(ImportError, match="torchao is not installed: pip install"):
        list(Int8Kernels().apply(weights))


def test_a_torchao_for_another_torch_is_to_be_upgraded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchao.py").write_text("import torch\ntorch.nothing_of_the_kind\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = available() or ""
    assert found.startswith("torchao cannot be imported (AttributeError: module 'torch' has no")
    assert found.endswith("pip install 'lightning-weightwatch[torchao]' --upgrade")


def test_settings_tell_apart_what_names_tell_apart() -> None:
    plain, dynamic = Int8Kernels(), Int8Kernels("int8")
    assert (plain.name, dynamic.name) == ("int8_torchao", "int8_dynamic_torchao")
    assert plain.settings == {
        "bits": 8,
        "granularity": "channel",
        "kernels": "torchao",
        "activations": "float",
    }
    assert dynamic.settings == {**plain.settings, "activations": "int8"}
    assert plain == Int8Kernels(tied=frozenset({"head.weight"})) != dynamic
    with pytest.raises(ValueError, match="activations must be 'float' or 'int8', got 'int4'"):
        Int8Kernels("int4")  # type: ignore[arg-type]
