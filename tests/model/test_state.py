"""Of a state dict the same matrices are measured as of the model that it came from."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_weightwatch.files.state_dict import in_memory
from lightning_weightwatch.model.effective import EffectiveWeight, effective_weights
from lightning_weightwatch.model.matrices import matrices
from lightning_weightwatch.model.state import effective_weights_of_state
from lightning_weightwatch.report import Skipped
from tests.model.zoo import ALL, Animal, Array, numbers, old, pruned

Found = list[EffectiveWeight | Skipped]


def of_state(tensors: dict[Any, Any]) -> Found:
    return list(effective_weights_of_state(in_memory(tensors)))


def names(found: Found) -> list[str]:
    return [item.name for item in found if isinstance(item, EffectiveWeight)]


def skipped(found: Found) -> dict[str, str]:
    return {item.name: item.reason for item in found if isinstance(item, Skipped)}


def stacks(found: Iterable[EffectiveWeight | Skipped]) -> dict[str, tuple[str, Array]]:
    """The kind and the matrices of every row."""
    rows: dict[str, tuple[str, Array]] = {}
    for item in found:
        parts = matrices(item) if isinstance(item, EffectiveWeight) else ""
        for part in () if isinstance(parts, str) else parts:
            assert part.name not in rows
            rows[part.name] = (part.kind, numbers(part.of(part.weight.read())))
    return rows


TELLING = {name: animal for name, animal in ALL.items() if animal.kind_in_state != ""}
SILENT = {name: animal for name, animal in ALL.items() if animal.kind_in_state == ""}


@pytest.mark.parametrize("animal", TELLING.values(), ids=TELLING)
def test_every_layer_gives_the_matrices_that_its_module_gives(animal: Animal) -> None:
    model = animal.model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = stacks(of_state(state))
    expected = stacks(effective_weights(model))
    assert found.keys() == expected.keys()
    for name, (kind, values) in found.items():
        np.testing.assert_allclose(values, expected[name][1], rtol=1e-5, atol=1e-6)
        assert kind == (animal.kind_in_state or expected[name][0])


@pytest.mark.parametrize("animal", SILENT.values(), ids=SILENT)
def test_what_only_the_module_knows_how_to_compute_is_named(animal: Animal) -> None:
    found = of_state(animal.model().state_dict())
    assert names(found) == ["first.weight"]
    assert skipped(found) == {"layer": "parametrized in a way that its tensors alone do not tell"}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(9, 12),
        parametrizations.weight_norm(nn.Linear(9, 12)),
        parametrizations.spectral_norm(nn.Linear(9, 12)),
        pruned(nn.Linear(9, 12), "l1"),
    ],
    ids=["plain", "weight_norm", "spectral_norm", "pruned"],
)
def test_a_model_that_is_a_single_layer_has_names_without_a_layer(layer: nn.Module) -> None:
    (expected,) = stacks(effective_weights(layer)).values()
    found = stacks(of_state(layer.state_dict()))
    assert list(found) == ["weight"]
    np.testing.assert_allclose(found["weight"][1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 12), (9, 9)])
def test_the_axis_of_a_spectral_norm_is_told_by_its_vectors(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = parametrizations.spectral_norm(nn.Linear(*size), dim=1)
    ((_, values),) = stacks(of_state(layer.state_dict())).values()
    np.testing.assert_allclose(values[0], numbers(layer.eval().weight), rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]


def test_a_spectral_norm_of_a_torch_before_1_0_has_no_second_vector() -> None:
    layer = old(torch.nn.utils.spectral_norm, nn.Linear(9, 12)).train()
    layer(torch.ones(9))
    state = layer.state_dict()
    del state["weight_v"]
    ((_, values),) = stacks(of_state(state)).values()
    original, u = numbers(state["weight_orig"]), numbers(state["weight_u"])
    v = original.T @ u / np.linalg.norm(original.T @ u)
    np.testing.assert_allclose(values[0], original / (u @ original @ v), rtol=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        {"weight_g": torch.ones(12, 1)},
        {"weight_orig": torch.ones(12, 9)},
        {"weight_mask": torch.ones(12, 9)},
        {"gate_g": torch.ones(12, 9), "gate_v": torch.ones(12, 9)},
        {"a_orig": torch.ones(12, 9), "a_mask": torch.ones(9, 12)},
        {"a_orig": torch.ones(12, 9), "a_u": torch.ones(9, 12)},
        {"g": torch.ones(12, 9), "v": torch.ones(12, 9)},
        {"orig": torch.ones(12, 9), "mask": torch.ones(12, 9)},
        {"_g": torch.ones(12, 1), "_v": torch.ones(12, 9)},
    ],
    ids=lambda extra: " ".join(extra),
)
def test_names_that_only_look_like_factors_are_weights(extra: dict[str, Tensor]) -> None:
    found = of_state({f"net.{name}": values for name, values in extra.items()})
    assert names(found) == [f"net.{name}" for name in extra]
    for item in found:
        assert isinstance(item, EffectiveWeight)
        assert torch.equal(item.read(), extra[item.name.removeprefix("net.")])


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.", "module.", "model._orig_mod.net."])
def test_prefixes_stay_and_wrappers_go(prefix: str) -> None:
    state = parametrizations.weight_norm(nn.Linear(9, 12)).state_dict(prefix=f"{prefix}fc.")
    (name,) = names(of_state(state))
    assert name == f"{prefix}fc.weight".replace("_orig_mod.", "")


def test_buffers_and_biases_are_no_weights() -> None:
    model = nn.Sequential(nn.BatchNorm2d(9), nn.Conv2d(9, 12, 3), nn.MultiheadAttention(9, 3))
    model.register_buffer("position_ids", torch.arange(9)[None])
    model.register_buffer("step", torch.tensor(3))
    found = of_state(model.state_dict())
    assert names(found) == ["0.weight", "1.weight", "2.in_proj_weight", "2.out_proj.weight"]
    assert skipped(found) == {"position_ids": "quantized or integer (torch.int64)"}


def test_embeddings_are_told_by_the_name_of_their_layer() -> None:
    places = [
        "embed_tokens", "word_embeddings", "Embedding_0", "emb", "transformer.wte", "wpe",
        "embedder.query", "fc", "member", "webpage",
    ]  # fmt: skip
    found = stacks(of_state({f"{place}.weight": torch.ones(12, 9) for place in places}))
    kinds = {place: kind for place, (kind, _) in found.items()}
    embeddings = [place for place, kind in kinds.items() if kind == "embedding"]
    assert embeddings == places[:6]
    assert set(kinds.values()) == {"embedding", "linear"}


def test_the_factors_of_lora_are_matrices_by_themselves() -> None:
    state = {
        "q.base_layer.weight": torch.ones(12, 9),
        "q.lora_A.default.weight": torch.ones(8, 9),
        "q.lora_B.default.weight": torch.ones(12, 8),
        "k.lora_A": torch.ones(8, 9),
    }
    kinds = {name: kind for name, (kind, _) in stacks(of_state(state)).items()}
    assert kinds == {
        "q.base_layer": "linear",
        "q.lora_A.default": "linear",
        "q.lora_B.default": "linear",
        "k.lora_A": "other",
    }


def test_tied_tensors_are_measured_once() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(12, 9), "head": nn.Linear(9, 12, bias=False)})
    model["head"].weight = model["embed"].weight
    found = of_state(model.state_dict())
    assert names(found) == ["embed.weight"]
    assert skipped(found) == {"head.weight": "tied to embed.weight"}


def test_layers_that_prune_one_tensor_differently_are_not_tied() -> None:
    first, second = nn.Linear(9, 9, bias=False), nn.Linear(9, 9, bias=False)
    second.weight = first.weight
    model = nn.ModuleDict({"a": pruned(first, "l1"), "b": pruned(second, "random")})
    found = of_state(model.state_dict())
    assert names(found) == ["a.weight", "b.weight"]
    for name, (_, values) in stacks(found).items():
        np.testing.assert_allclose(values[0], numbers(model[name].weight))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, :UserWarning")
def test_a_quantized_tensor_is_measured_as_it_is_multiplied_with() -> None:
    values = torch.quantize_per_tensor(torch.randn(12, 9), 0.1, 0, torch.qint8)
    (found,) = stacks(of_state({"fc.weight": values})).values()
    np.testing.assert_allclose(found[1][0], numbers(values.dequantize()), rtol=1e-6)


class Scaled(Tensor):
    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor) * 0.5


def test_a_quantized_subclass_is_measured_as_it_is_multiplied_with() -> None:
    (found,) = stacks(of_state({"fc.weight": torch.ones(12, 9).as_subclass(Scaled)})).values()
    assert np.array_equal(found[1][0], np.full((12, 9), 0.5))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_small_floats_are_read(dtype: torch.dtype) -> None:
    values = torch.randn(12, 9).to(dtype)
    (found,) = stacks(of_state({"fc.weight": values})).values()
    assert np.array_equal(found[1][0], numbers(values))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_is_named() -> None:
    nested = torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(2, 4)])
    assert skipped(of_state({"fc.weight": nested})) == {
        "fc": "a nested tensor: it has no one shape"
    }


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (torch.ones(12, 9, dtype=torch.int8), "quantized or integer (torch.int8)"),
        (torch.ones(12, 9, dtype=torch.bool), "quantized or integer (torch.bool)"),
        (torch.ones(0, 9), "empty: shape (0, 9)"),
    ],
)
def test_what_has_no_real_values_is_named(values: Tensor, reason: str) -> None:
    found = of_state({"fc.weight": values, "head.weight": torch.ones(12, 9)})
    assert names(found) == ["head.weight"]
    assert skipped(found) == {"fc": reason}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (torch.ones(12, 9, device="meta"), "on the meta device: it has no values"),
        (torch.eye(9).to_sparse(), r"sparse \(torch.sparse_coo\)"),
    ],
)
def test_what_cannot_be_known_before_it_is_read_fails_then(values: Tensor, reason: str) -> None:
    (weight,) = of_state({"fc.weight": values})
    assert isinstance(weight, EffectiveWeight)
    with pytest.raises(ValueError, match=reason):
        weight.read()


def test_a_type_that_torch_does_not_have_is_named() -> None:
    class Foreign:
        def names(self) -> tuple[str, ...]:
            return ("fc.weight", "fc.scale", "odd.weight")

        def info(self, name: str) -> Any:
            unreadable = "a type F4" if name == "odd.weight" else None
            return SimpleNamespace(shape=(12, 9), dtype=None, unreadable=unreadable)

        def read(self, name: str) -> Tensor:
            raise AssertionError("nothing is to be read")

        def same_as(self, name: str) -> None:
            return None

    assert skipped(list(effective_weights_of_state(Foreign()))) == {
        "fc": "quantized or integer (None)",
        "fc.scale": "quantized or integer (None)",
        "odd": "a type F4",
    }


def test_keys_that_are_no_names_do_not_stop_the_reading() -> None:
    hostile = [
        "",
        ".",
        "..weight",
        ".a",
        "a",
        "a\nb.weight",
        "b.parametrizations.weight.",
        "b.weight",
        "\x1b[31m",
        "x" * 5000,
        "weight.",
        "é.weight",
    ]
    state: dict[Any, Any] = {name: torch.ones(12, 9) for name in hostile}
    state |= {0: torch.ones(12, 9), (1, 2): torch.ones(3, 3), None: torch.ones(3, 3), "n": 3}
    found = of_state(state)
    assert len(names(found)) == len(hostile) + 1
    for item in found:
        assert isinstance(item, EffectiveWeight)
        assert item.read().shape == (12, 9)


def test_many_names_are_placed_in_no_time() -> None:
    values = torch.ones(2, 2)
    state = {f"layers.{layer}.weight": values for layer in range(20_000)}
    assert len(of_state(state)) == 20_000


@pytest.mark.parametrize(
    ("shapes", "gates"),
    [
        ({"weight_ih_l0": (40, 9), "weight_hh_l0": (40, 10)}, ("i", "f", "g", "o")),
        ({"weight_ih_l0": (30, 9), "weight_hh_l0": (30, 10)}, ("r", "z", "n")),
        ({"weight_ih_l0": (10, 9), "weight_hh_l0": (10, 10)}, ()),
        (
            {"weight_ih_l0": (40, 9), "weight_hh_l0": (40, 8), "weight_hr_l0": (8, 10)},
            ("i", "f", "g", "o"),
        ),
        ({"weight_ih_l0": (40, 9)}, ()),
        ({"weight_ih_l0": (41, 9), "weight_hh_l0": (41, 10)}, ()),
        ({"weight_ih_l0": (40, 9), "weight_hh_l0": (40,)}, ()),
        ({"weight_ih_l0": (40, 9), "weight_hh_l0": (40, 0)}, ()),
    ],
)
def test_gates_are_told_by_the_sides_of_the_hidden_weight(
    shapes: dict[str, tuple[int, ...]], gates: tuple[str, ...]
) -> None:
    found = of_state({f"rnn.{name}": torch.ones(shape) for name, shape in shapes.items()})
    parts = {item.name: item.parts for item in found if isinstance(item, EffectiveWeight)}
    assert parts["rnn.weight_ih_l0"] == gates
    assert parts.get("rnn.weight_hr_l0", ()) == ()
