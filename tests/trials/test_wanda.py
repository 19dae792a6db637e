"""Wanda removes what its paper says, of every kind of layer, and names what it cannot."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch import try_pruning
from lightning_weightwatch.trials.pruning import Pruning
from lightning_weightwatch.usage.inputs import InputNorms
from tests.trials.layers import Conv1D, kept_of_runs, matrices, normal

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "linear": (lambda: nn.Linear(10, 7), (normal(9, 10),)),
    "Conv1D of GPT-2": (lambda: Conv1D(7, 10), (normal(9, 10),)),
    "convolution": (lambda: nn.Conv2d(3, 5, 3, padding=1), (normal(2, 3, 6, 6),)),
    "groups": (lambda: nn.Conv2d(6, 4, 3, groups=2), (normal(2, 6, 6, 6),)),
    "depthwise": (lambda: nn.Conv1d(6, 12, 3, groups=6), (normal(2, 6, 9),)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 2), (normal(2, 4, 3, 3),)),
    "transposed, groups": (lambda: nn.ConvTranspose1d(6, 4, 3, groups=2), (normal(2, 6, 5),)),
    "channels last": (
        lambda: nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        (normal(2, 3, 6, 6),),
    ),
}


def output_rows(layer: nn.Module, values: Tensor) -> list[Tensor]:
    """Of each output its weights, written out kind by kind."""
    if isinstance(layer, Conv1D):
        return list(values.t())
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        parts = torch.split(values, layer.in_channels // layer.groups)
        return [part[:, out].flatten() for part in parts for out in range(part.shape[1])]
    return [row.flatten() for row in values]


def wanda(model: nn.Module, *args: Tensor, amount: float | str) -> Pruning:
    weights = matrices(model)
    with InputNorms(weights) as norms:
        model(*args)
    return Pruning(amount, "wanda", norms=norms)


@pytest.mark.parametrize("amount", [0.3, 0.5, 0.01, "2:4"])
@pytest.mark.parametrize("kind", LAYERS)
def test_wanda_removes_the_lowest_of_each_row_by_weight_times_norm(
    kind: str, amount: float | str
) -> None:
    layer, args = LAYERS[kind][0](), LAYERS[kind][1]
    (weight,) = matrices(layer)
    before = output_rows(layer, weight.parameter.detach().clone())
    pruning = wanda(layer, *args, amount=amount)
    assert pruning.norms is not None
    norms = pruning.norms.of(weight)
    assert norms is not None
    list(pruning.apply([weight]))
    after = output_rows(layer, weight.parameter.detach())
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        scores = old.abs().double() * norms[index * len(norms) // len(before)]
        if isinstance(amount, str):
            mask = kept_of_runs(scores.numpy(), 2, 4)
        else:  # W_metric of the paper's code, arXiv:2306.11695, lib/prune.py
            lowest = torch.sort(scores, stable=True).indices[: int(len(scores) * amount)]
            mask = torch.ones(len(scores), dtype=torch.bool).index_fill(0, lowest, False).tolist()
        assert torch.equal(new, torch.where(torch.tensor(mask), old, 0))


def test_wanda_with_inputs_of_one_size_is_magnitude_within_rows_and_with_others_is_not() -> None:
    values = normal(8, 20)
    even, odd = torch.eye(20), torch.diag(torch.logspace(-3, 3, 20))
    masks = []
    for inputs in (even, odd):
        layer = nn.Linear(20, 8)
        layer.weight = nn.Parameter(values.clone())
        list(wanda(layer, inputs, amount=0.5).apply(matrices(layer)))
        masks.append(layer.weight != 0)
    by_magnitude = values.abs() >= values.abs().sort(dim=1).values[:, 10:11]
    assert torch.equal(masks[0], by_magnitude)
    assert not torch.equal(masks[1], by_magnitude)
    assert masks[1][:, -3:].all()


def test_wanda_compares_each_third_of_attention_by_its_own_input() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(2, 1)
    with torch.no_grad():
        layer.in_proj_weight.fill_(1.0)
    first, second = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[1.0, 2.0]]])
    weights = matrices(layer)
    pruning = wanda(layer, first, second, first, amount=0.5)
    assert [done.name for done in pruning.apply(weights)] == ["in_proj_weight"]
    assert layer.in_proj_weight.tolist() == [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 2


def test_what_wanda_knows_no_inputs_of_stays_and_is_named() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(4, 4), "used": nn.Linear(4, 4)})
    model["idle"] = nn.Linear(4, 4)
    weights = matrices(model)
    with InputNorms(weights) as norms:
        model["used"](model["table"](torch.tensor([1, 2])))
    pruning = Pruning(0.5, "wanda", norms=norms)
    left = pruning.left_out(weights)
    assert [skipped.name for skipped in left] == ["table.weight", "idle.weight"]
    assert "table to look up" in left[0].reason
    assert left[1].reason == "not by Wanda: no input was seen"
    assert [done.name for done in pruning.apply(weights)] == ["used.weight"]
    assert [int((weight.parameter == 0).sum()) for weight in weights] == [0, 8, 0]
    assert Pruning(0.5).left_out(weights) == []


def test_wanda_without_norms_says_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"pruned50_wanda needs the norms .* InputNorms\(weights\)"
    ):
        list(Pruning(0.5, "wanda").apply(matrices(nn.Linear(2, 2))))


def test_looking_at_inputs_leaves_fused_layers_their_bits() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = normal(3, 5, 16)

    def evaluate(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(model(x).double().square().mean())}

    alone = evaluate(model)["loss"]
    for method in ("magnitude", "wanda"):
        report = try_pruning(model, evaluate, amounts=0.5, method=method)
        assert report.rows[0].metrics["loss"] == alone
        assert report.rows[1].error == ""
