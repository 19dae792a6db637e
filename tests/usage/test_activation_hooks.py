"""A model whose outputs are observed does not notice, and what processes see is put together."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.usage.activations import (
    Activations,
    LayerActivations,
    observed_modules,
)
from tests.trials.layers import normal


def model_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def fitted(observed: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters, buffers and gradients after some steps."""
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    activations = Activations(observed_modules(model) if observed else [])
    for step in range(3):
        with activations:
            loss = model(normal(8, 3, 9, 9, seed=step)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return list(model.state_dict().values()), grads


def test_a_fit_leaves_the_same_bits() -> None:
    (state, grads), (expected, expected_grads) = fitted(True), fitted(False)
    assert len(grads) == len(expected_grads) == 6
    for found, wanted in zip(state + grads, expected + expected_grads, strict=True):
        assert found.numpy().tobytes() == wanted.numpy().tobytes()


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_numbers_do_not_depend_on_the_mode_and_can_be_used_in_any(
    context: type[Any],
) -> None:
    model = model_of().eval()
    activations = Activations(observed_modules(model))
    modes: list[type[Any]] = [context, torch.enable_grad]
    for at, mode in enumerate(modes):
        with mode(), activations:
            output = model(normal(8, 3, 9, 9, seed=at))
            assert output.requires_grad == (mode is torch.enable_grad)
    activations.merge(lambda tensor, _: tensor.mul_(1))
    with Activations(observed_modules(model)) as expected:
        for at in range(2):
            model(normal(8, 3, 9, 9, seed=at))
    for found, wanted in zip(activations.of_layers(), expected.of_layers(), strict=True):
        assert found.channel_mean.numpy() == pytest.approx(wanted.channel_mean.numpy(), rel=1e-6)
        assert not found.channel_mean.requires_grad
        assert not found.channel_mean.is_inference()


def test_no_graph_is_kept() -> None:
    layer = nn.Linear(3, 3)
    with Activations([("layer", layer)]) as activations:
        for rows in (4, 20_000):
            output = layer(normal(rows, 3).requires_grad_())
            assert output.grad_fn is not None
            (running,) = vars(activations)["_running"].values()
            held = list(vars(running)["_small"])
            held += [each.totals for each in vars(running)["_readings"]]
            assert held
            assert not any(tensor.requires_grad for tensor in held)
    assert activations.of_layers()[0].count == 3 * 20_004


def hooks_of(model: nn.Module) -> list[Any]:
    return [list(module._forward_hooks.items()) for module in model.modules()]


def test_the_hooks_are_gone_afterwards_also_after_an_exception() -> None:
    model = model_of()
    model[0].register_forward_hook(lambda module, args, output: None)
    before = hooks_of(model)
    with Activations(observed_modules(model)):
        assert hooks_of(model) != before
    assert hooks_of(model) == before
    with pytest.raises(RuntimeError), Activations(observed_modules(model)):
        model(normal(2, 4, 9, 9))
    assert hooks_of(model) == before


def test_a_script_module_says_that_it_takes_no_hook() -> None:
    class Shy(nn.ReLU):
        def register_forward_hook(self, *args: object, **kwargs: object) -> Any:
            raise RuntimeError("not here")

    model = nn.Sequential(Shy(), nn.Linear(2, 2))
    with Activations(observed_modules(model)) as activations:
        model(normal(2, 2))
    assert [skipped.reason for skipped in activations.skipped] == ["takes no hook: not here"]
    assert len(activations.of_layers()) == 1


class Ranks:
    """Processes one after the other: what each gives is reduced once all have given it."""

    def __init__(self, parts: list[Activations]) -> None:
        self._parts = parts

    def merge(self) -> None:
        import threading

        count = len(self._parts)
        barrier = threading.Barrier(count, timeout=20)
        given: list[Tensor | None] = [None] * count

        def work(rank: int) -> None:
            def reduce(tensor: Tensor, how: str) -> Tensor:
                given[rank] = tensor.clone()
                barrier.wait()
                stacked = torch.stack([each for each in given if each is not None])
                barrier.wait()
                if how == "sum":
                    return stacked.sum(0)
                return stacked.amin(0) if how == "min" else stacked.amax(0)

            self._parts[rank].merge(reduce)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def observed(model: nn.Module, batches: list[Tensor]) -> Activations:
    with torch.no_grad(), Activations(observed_modules(model)) as activations:
        for batch in batches:
            model(batch)
    return activations


def same(found: LayerActivations, wanted: LayerActivations) -> None:
    for name, value in vars(wanted).items():
        other = getattr(found, name)
        if isinstance(value, Tensor):
            assert other.numpy() == pytest.approx(value.numpy(), rel=1e-5, abs=1e-6), name
        elif isinstance(value, float):
            assert other == pytest.approx(value, rel=1e-5, abs=1e-6), name
        else:
            assert other == value, name


def test_processes_together_have_seen_what_one_would_have() -> None:
    model = model_of().eval()
    batches = [normal(4, 3, 9, 9, seed=seed) + 50 * seed for seed in range(5)]
    parts = [observed(model, batches[:3]), observed(model, batches[3:]), observed(model, [])]
    Ranks(parts).merge()
    whole = observed(model, batches).of_layers()
    for part in parts:
        assert part.skipped == ()
        for found, wanted in zip(part.of_layers(), whole, strict=True):
            same(found, wanted)


def test_processes_agree_on_what_none_of_them_or_not_all_could_read() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.long() if len(x) == 3 else x

    model = nn.Sequential(nn.Linear(2, 2), Odd(), nn.ModuleList([nn.ReLU()])[0])
    parts = [observed(model, [normal(4, 2)]), observed(model, [normal(3, 2)])]
    Ranks(parts).merge()
    reasons = [[(each.name, each.reason) for each in part.skipped] for part in parts]
    assert reasons[0] == [("1", "it failed on another process"), ("2", reasons[0][1][1])]
    assert reasons[1][0][1].startswith("its outputs are not real numbers")
    assert [each.name for each in parts[0].of_layers()] == ["0"]


def test_a_layer_with_other_channels_elsewhere_has_one() -> None:
    model = nn.Sequential(nn.ReLU())
    parts = [observed(model, [normal(4, 2)]), observed(model, [normal(3, 5, seed=1)])]
    Ranks(parts).merge()
    both = torch.cat([normal(4, 2).flatten(), normal(3, 5, seed=1).flatten()]).relu().double()
    for part in parts:
        (found,) = part.of_layers()
        assert (found.channels, found.count) == (1, 23)
        assert found.std == pytest.approx(np.std(both.numpy()), rel=1e-5)
        assert math.isclose(found.channel_mean.item(), found.mean)


def test_that_no_process_saw_anything_is_no_error() -> None:
    parts = [observed(model_of(), []), observed(model_of(), [])]
    Ranks(parts).merge()
    assert {each.reason for each in parts[0].skipped} == {"it was not called"}


class Permuted(nn.LayerNorm):
    """Normalises the channels of images, as ConvNeXt does."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_norm_that_puts_its_axis_elsewhere_follows_the_layer_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 2), Permuted(5))
    conv, norm = observed(model, [normal(2, 3, 8, 9)]).of_layers()
    assert (conv.channels, norm.channels) == (5, 5)
    assert norm.count == 2 * 5 * 7 * 8


def test_modes_of_torch_do_not_matter() -> None:
    model = model_of().eval()
    plain = observed(model, [normal(4, 3, 9, 9)])
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        strict = observed(model, [normal(4, 3, 9, 9)])
    finally:
        torch.use_deterministic_algorithms(before)
    for found, wanted in zip(strict.of_layers(), plain.of_layers(), strict=True):
        same(found, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = observed(model, [normal(4, 3, 9, 9)])
        with torch.no_grad():
            expected = model[0](normal(4, 3, 9, 9)).double()
    assert half.skipped == ()
    assert half.of_layers()[0].mean == pytest.approx(float(expected.mean()), abs=1e-6)
    assert half.of_layers()[0].std == pytest.approx(float(expected.std(correction=0)), rel=1e-5)


def test_other_transforms_are_not_disturbed() -> None:
    layer, x = nn.Linear(3, 2), normal(4, 3)
    expected = torch.func.vmap(layer)(x)
    with Activations([("layer", layer)]) as activations:
        assert torch.func.vmap(layer)(x).equal(expected)
    assert len(activations.of_layers()) + len(activations.skipped) == 1
