"""What is measured is chosen by name, kind and size, and what is left out says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.files.checkpoint import BadFile
from lightning_weightwatch.model.effective import effective_weights
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.analysis import analyze, describe
from lightning_weightwatch.spectral.selection import MAX_SIDE, Selection, opened, select


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.encoder = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16))
        self.attention = nn.MultiheadAttention(16, 2)
        self.lstm = nn.LSTM(16, 8)
        self.loss = nn.CrossEntropyLoss()
        self.conv = nn.Conv2d(16, 16, 3)
        self.table = nn.Parameter(torch.randn(16, 16))
        self.head = nn.Linear(16, 3)
        self.tied = nn.Linear(16, 20, bias=False)
        self.tied.weight = self.embed.weight


GATES = [f"lstm.weight_{side}_l0.{gate}" for side in ("ih", "hh") for gate in "ifgo"]
QKV = [f"attention.in_proj_weight.{letter}" for letter in "qkv"]
ROWS = [
    "table", "embed", "encoder.0", "encoder.2", *QKV, "attention.out_proj", *GATES, "conv",
]  # fmt: skip
SKIPPED = {
    "encoder.1": "a 1-D weight has no spectrum",
    "loss": "CrossEntropyLoss has weight=None",
    "head": "3 eigenvalues, fewer than 8",
    "tied.weight": "tied to embed.weight",
}


def chosen(**filters: Any) -> Selection:
    return select(effective_weights(Network()), **filters)


def rows(selection: Selection) -> list[str]:
    return [part.name for part in selection.matrices]


def test_without_a_filter_every_weight_is_in_one_of_the_two_lists() -> None:
    selection = chosen()
    assert rows(selection) == ROWS
    assert {skip.name: skip.reason for skip in selection.skipped} == SKIPPED
    assert len(selection.skipped) == len(SKIPPED)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["conv"], ["conv"]),
        (["encoder.*"], ["encoder.0", "encoder.2"]),
        (["*.0", "embed"], ["embed", "encoder.0"]),
        (["lstm"], GATES),
        (["lstm.weight_hh_l0"], GATES[4:]),
        (["lstm.weight_hh_l0.f"], ["lstm.weight_hh_l0.f"]),
        (["lstm.*.[if]"], [GATES[0], GATES[1], GATES[4], GATES[5]]),
        (["attention"], QKV),
        (["attention*"], [*QKV, "attention.out_proj"]),
        (["table"], ["table"]),
        (["embed.weight"], ["embed"]),
        (("conv", "table"), ["table", "conv"]),
        (["Encoder.0"], []),
        ([], []),
    ],
)
def test_layers_weights_and_rows_are_chosen_by_name_or_pattern(
    layers: list[str], expected: list[str]
) -> None:
    assert rows(chosen(layers=layers)) == expected


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["conv"], []),
        (["encoder.*"], ["encoder.1"]),
        (["loss", "head"], ["loss", "head"]),
        (["tied"], ["tied.weight"]),
        (["tied.weight"], ["tied.weight"]),
        (["head.weight"], ["head"]),
        ([], []),
    ],
)
def test_only_what_was_asked_for_is_named_as_left_out(
    layers: list[str], expected: list[str]
) -> None:
    assert sorted(skip.name for skip in chosen(layers=layers).skipped) == sorted(expected)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["linear"], ["encoder.0", "encoder.2", "attention.out_proj"]),
        (["rnn", "conv2d"], [*GATES, "conv"]),
        (["attention"], QKV),
        (["other"], ["table"]),
        (["norm"], []),
        ([], []),
    ],
)
def test_kinds_are_chosen(kinds: list[str], expected: list[str]) -> None:
    assert rows(chosen(kinds=kinds)) == expected


def test_names_and_kinds_are_asked_for_together() -> None:
    selection = chosen(layers=["encoder.*", "conv", "head"], kinds=["linear"])
    assert rows(selection) == ["encoder.0", "encoder.2"]
    assert selection.skipped == (Skipped("head", SKIPPED["head"]),)


@pytest.mark.parametrize(("least", "measured"), [(1, True), (3, True), (4, False)])
def test_layers_with_too_few_eigenvalues_are_left_out(least: int, measured: bool) -> None:
    selection = chosen(layers=["head"], min_evals=least)
    assert rows(selection) == (["head"] if measured else [])
    assert (selection.skipped == ()) is measured


def test_eigenvalues_are_those_of_all_kernel_positions() -> None:
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    assert select(effective_weights(depthwise), min_evals=9).skipped == ()
    (skip,) = select(effective_weights(depthwise), min_evals=10).skipped
    assert skip.reason == "9 eigenvalues, fewer than 10"
    (skip,) = select(effective_weights(nn.Linear(9, 1))).skipped
    assert skip.reason == "1 eigenvalue, fewer than 8"


@pytest.mark.parametrize("over", [0, 1])
def test_only_the_smaller_side_may_be_too_large(over: int) -> None:
    layer = nn.Linear(1, 1)
    layer.weight = nn.Parameter(torch.zeros(1).expand(MAX_SIDE + over, 10 * MAX_SIDE))
    selection = select(effective_weights(nn.Sequential(layer)))
    assert rows(selection) == ([] if over else ["0"])
    assert selection.skipped == (
        (Skipped("0", f"its smaller side is {MAX_SIDE + 1}, above {MAX_SIDE}"),) if over else ()
    )


class Homonym(nn.Module):
    """A root with a weight of its own, which is called like its class: so is a layer of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 12))
        self.Homonym = nn.Linear(10, 12)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Homonym(), ["Homonym", "Homonym.weight"]),
        ({"a": torch.ones(10, 12), "a.weight": torch.ones(12, 10)}, ["a", "a.weight"]),
        (
            {f"{wrapper}a.weight": torch.ones(10, 12 + at) for at, wrapper in enumerate(
                ["", "_orig_mod.", "_orig_mod._orig_mod."])},
            ["a", "a.weight", "a#2"],
        ),
    ],
    ids=["model", "parameter and layer", "wrappers"],
)  # fmt: skip
def test_no_two_rows_share_a_name(model: Any, names: list[str]) -> None:
    with opened(model) as found:
        assert rows(select(found)) == names
    assert [row.name for row in analyze(model).layers] == names


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"layers": "conv"}, r"layers must be a list of strings, .* 'conv'; write layers=\['conv'\]"),
    ({"kinds": "linear"}, r"kinds must be a list of strings, got the string 'linear'"),
    ({"layers": [1, 2]}, r"layers must be None or a list of strings, got \[1, 2\]"),
    ({"layers": 3}, "layers must be None or a list of strings, got 3"),
    ({"kinds": [None]}, r"kinds must be None or a list of strings, got \[None\]"),
    ({"kinds": ["dense"]}, "kinds must be among linear, embedding, .*, got 'dense'"),
    ({"min_evals": 0}, "min_evals must be an integer of 1 or more, got 0"),
    ({"min_evals": 2.0}, "min_evals must be an integer of 1 or more, got 2.0"),
    ({"min_evals": True}, "min_evals must be an integer of 1 or more, got True"),
]  # fmt: skip
WRONG_TO_ANALYZE: list[tuple[dict[str, Any], str]] = [
    *WRONG,
    ({"dtype": torch.float16}, "dtype must be torch.float64 or torch.float32, got torch.float16"),
    ({"convention": "ww"}, "convention must be 'weightwatcher' or 'plain', got 'ww'"),
    ({"seed": -1}, "seed must be an integer of 0 or more, got -1"),
    ({"seed": 1.5}, "seed must be an integer of 0 or more, got 1.5"),
    ({"device": "gpu"}, "device must be 'cpu' or 'cuda', got 'gpu'"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_wrong_filters_say_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select([], **given)
    with pytest.raises(ValueError, match=message):
        describe(nn.Linear(9, 9), **given)


@pytest.mark.parametrize(("given", "message"), WRONG_TO_ANALYZE)
def test_wrong_arguments_say_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyze(nn.Linear(9, 9), **given)


@pytest.mark.parametrize("call", [analyze, describe])
@pytest.mark.parametrize("model", [None, 3, b"model.pt", [torch.ones(9, 9)], torch.ones(9, 9)])
def test_what_is_no_model_is_refused(call: Callable[[Any], object], model: Any) -> None:
    message = "model must be a module, a state dict or the path of a file, got "
    with pytest.raises(TypeError, match=f"{message}{type(model).__name__}"):
        call(model)


@pytest.mark.parametrize("call", [analyze, describe])
def test_what_holds_no_weights_is_refused(call: Callable[[Any], object], tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        call(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(BadFile, match="it is text"):
        call(str(tmp_path / "text.pt"))
    with pytest.raises(BadFile, match="the mapping holds no weights, only an empty mapping"):
        call({})
    with pytest.raises(BadFile, match="only the keys 'epoch'"):
        call({"epoch": 3})


def test_a_file_is_closed_again_and_a_state_dict_keeps_its_tensors(tmp_path: Path) -> None:
    state = nn.Linear(9, 12).state_dict()
    torch.save(state, tmp_path / "model.pt")
    with opened(tmp_path / "model.pt") as found:
        (weight,) = [item for item in found if not isinstance(item, Skipped)]
    with pytest.raises(ValueError, match="is closed"):
        weight.read()
    before = dict(state)
    analyze(state)
    assert state == before


def test_what_a_state_dict_holds_beside_tensors_is_named() -> None:
    state: dict[Any, Any] = {
        "fc.weight": torch.ones(9, 12),
        "fc._packed_params": (1, 2),
        7.5: torch.ones(9, 9),
    }
    assert analyze(state).skipped == (
        Skipped("fc._packed_params", "tuple, not a tensor"),
        Skipped("<float>", "its key is neither a string nor a number"),
    )


class Guarded(Tensor):
    """A tensor whose shape can be asked for, and no value."""

    def detach(self) -> Any:
        raise AssertionError("read")


def guarded() -> nn.Module:
    model = Network()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                values = parameter.detach().as_subclass(Guarded)
                module._parameters[name] = values  # type: ignore[assignment]
    return model


def test_describe_reads_no_value() -> None:
    rows_described = [row["name"] for row in describe(guarded()).records()]
    assert rows_described == [*ROWS, "tied"]  # other tensors now: no tie
    reasons = {skip.reason for skip in analyze(guarded()).skipped}  # the check can fail
    assert "cannot be read: read" in reasons


@pytest.mark.parametrize(
    "filters", [{}, {"layers": ["lstm.*"]}, {"kinds": ["linear"]}, {"min_evals": 20}]
)
@pytest.mark.parametrize("form", [lambda model: model, lambda model: model.state_dict()])
def test_describe_tells_which_rows_analyze_will_have(
    form: Callable[[nn.Module], Any], filters: dict[str, Any]
) -> None:
    model = form(Network())
    described, measured = describe(model, **filters), analyze(model, **filters)
    assert described.skipped == measured.skipped
    columns = ("layer_id", "name", "kind", "N", "M", "Q", "rf", "num_evals")
    assert [[row[c] for c in columns] for row in described.records()] == [
        [row[c] for c in columns] for row in measured.records()
    ]
    assert described.summary()["layers"] == len(measured.layers)
    assert described.summary()["num_evals"] == sum(row.num_evals for row in measured.layers)


def test_describe_counts_the_parameters_that_are_measured() -> None:
    sizes = {row["name"]: row["num_params"] for row in describe(Network()).records()}
    assert sizes["conv"] == 16 * 16 * 9
    assert sizes["lstm.weight_ih_l0.i"] == 8 * 16
    assert describe(Network()).summary()["num_params"] == sum(sizes.values())


def test_a_kind_that_is_asked_for_and_cannot_be_read_is_named() -> None:
    unread = nn.Sequential(nn.Linear(9, 9, device="meta"), nn.Conv2d(9, 9, 3), nn.LayerNorm(9))
    report = analyze(unread, kinds=["linear"])
    assert report.skipped == (Skipped("0", "on the meta device: it has no values"),)
    assert [skip.name for skip in analyze(unread, kinds=["conv2d"]).skipped] == []
