"""A model that is observed does not notice, and nothing is left behind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.usage.inputs import InputNorms
from tests.trials.layers import matrices, normal
from tests.usage.test_inputs import column_norms


class Block(nn.Module):
    """Most of what can be observed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 3, padding="same", padding_mode="circular")
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.up(x.transpose(1, 2)).transpose(1, 2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_outputs_are_the_same_bits(training: bool, context: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, x = Block().train(training), normal(2, 3, 16)
    with context():
        expected = model(x)
        with InputNorms(matrices(model)):
            observed = model(x)
    assert observed.view(torch.int32).equal(expected.view(torch.int32))
    assert observed.requires_grad == expected.requires_grad


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("nested", [True, False])
def test_an_encoder_that_leaves_its_fused_path_differs_in_last_bits_at_most(nested: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
    x, padding = normal(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    weights = matrices(model)
    with torch.no_grad(), InputNorms(weights) as norms:
        observed = model(x, src_key_padding_mask=padding)
        linear = matrices(model.layers[0].linear1)
    with torch.no_grad():
        torch.testing.assert_close(observed, model(x, src_key_padding_mask=padding))
    assert len(linear) == 1
    assert [w.name.partition(".self_attn.")[2] for w in weights if norms.missing(w)] == [
        "out_proj.weight"
    ] * 2
    real = x[~padding] if nested else x
    first = norms.of(weights[0])
    assert first is not None
    assert first[0].numpy() == pytest.approx(column_norms(real), rel=1e-12)


def hooks_of(model: nn.Module) -> list[Any]:
    return [
        (list(module._forward_pre_hooks.items()), list(module._forward_pre_hooks_with_kwargs))
        for module in model.modules()
    ]


def test_the_hooks_are_gone_afterwards_and_others_stay_in_their_order() -> None:
    model = Block()
    for _ in range(2):
        model.head.register_forward_pre_hook(lambda module, args: None)
    before = hooks_of(model)
    with InputNorms(matrices(model)):
        assert len(model.head._forward_pre_hooks) == 3
        model.head.register_forward_pre_hook(lambda module, args: None).remove()
    assert hooks_of(model) == before
    with pytest.raises(RuntimeError), InputNorms(matrices(model)):
        model(normal(2, 9, 16))
    assert hooks_of(model) == before


class Shy(nn.Linear):
    """Takes no hooks."""

    def register_forward_pre_hook(self, *args: object, **kwargs: object) -> Any:
        raise RuntimeError("no hooks")


def test_no_hook_stays_where_one_cannot_be_registered() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Shy(2, 2))
    with pytest.raises(RuntimeError, match="no hooks"), InputNorms(matrices(model)):
        pass
    assert not model[0]._forward_pre_hooks
