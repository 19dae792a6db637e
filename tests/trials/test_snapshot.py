"""Whatever happens within the block, the model comes back with every bit that it had."""

import copy
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric, MetricCollection, MinMaxMetric
from torchmetrics.classification import BinaryPrecision, BinaryRecall

from lightning_weightwatch.trials.snapshot import (
    NotRestored,
    digest,
    restored,
    same_random_numbers,
)

# Quiet and signalling NaNs with payloads, both zeros, infinity, a subnormal.
ODD_BITS = [0x7FC12345, 0xFFC00001, 0x7F800001, 0x80000000, 0x00000000, 0xFF800000, 0x00000001]


def odd_values() -> Tensor:
    signed = [struct.unpack("<i", struct.pack("<I", bits))[0] for bits in ODD_BITS]
    return torch.tensor(signed, dtype=torch.int32).view(torch.float32)


class Net(nn.Module):
    """A net with odd bits, buffers of all sorts and metrics inside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.odd = nn.Parameter(odd_values())
        self.short = nn.Parameter(torch.randn(3, 5, dtype=torch.float16))
        self.register_buffer("odd_buffer", odd_values())
        self.register_buffer("transient", torch.arange(3), persistent=False)
        self.register_buffer("nothing", None)
        self.mean = MeanMetric()
        self.seen = CatMetric()
        self.mean.update(3.0)
        self.seen.update(torch.tensor([1.0, 2.0]))


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def everything(model: nn.Module) -> dict[str, bytes]:
    """The bytes of all parameters and buffers, read on their own."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: bits(tensor) for name, tensor in tensors}


def overwrite(model: Net) -> None:
    """What a careless evaluation may do to a model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.train()
    model.norm(torch.randn(8, 4))
    model.odd_buffer.add_(1.0)  # type: ignore[operator]
    model.transient.mul_(2)  # type: ignore[operator]
    model.linear.eval()
    model.mean.update(100.0)
    model.mean.compute()
    model.seen.update(torch.tensor([9.0]))
    model.seen.reset()


class Stop(BaseException):
    """No Exception: like KeyboardInterrupt and SystemExit."""


@pytest.mark.parametrize(
    "fault", [None, ValueError("within"), KeyboardInterrupt("within"), Stop("within")], ids=repr
)
def test_every_bit_flag_and_state_comes_back_whatever_is_raised(
    fault: BaseException | None,
) -> None:
    model = Net()
    model.norm.eval()
    model.linear.eval()
    before, flags = everything(model), [module.training for module in model.modules()]

    def change() -> None:
        with restored(model, list(model.parameters())):
            overwrite(model)
            assert everything(model) != before
            if fault is not None:
                raise fault

    if fault is None:
        change()
    else:
        with pytest.raises(type(fault), match="within"):
            change()
    assert everything(model) == before
    assert [module.training for module in model.modules()] == flags
    assert model.mean.update_count == 1
    assert float(model.mean.compute()) == 3.0
    assert model.seen.compute().tolist() == [1.0, 2.0]


def test_a_metric_that_was_never_updated_comes_back_empty() -> None:
    mean, seen = MeanMetric(), CatMetric()
    with restored(nn.ModuleList([mean, seen]), []):
        mean.update(5.0)
        seen.update(torch.ones(3))
        mean.compute()
    mean.update(1.0)
    seen.update(torch.zeros(2))
    assert float(mean.compute()) == 1.0
    assert torch.equal(torch.as_tensor(seen.compute()), torch.zeros(2))


def test_a_collection_with_compute_groups_goes_on_counting_as_before() -> None:
    prediction, target = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 0, 1])
    undisturbed, disturbed = (
        MetricCollection([BinaryPrecision(), BinaryRecall()]) for _ in range(2)
    )
    with restored(nn.Sequential(disturbed), []):
        for _ in range(3):
            disturbed.update(1 - prediction, target)
        disturbed.compute()
    for scores in (undisturbed, disturbed):
        scores.update(prediction, target)
        scores.update(target, target)
    assert disturbed.compute() == undisturbed.compute()


def test_a_metric_around_a_metric_comes_back() -> None:
    extremes = MinMaxMetric(MeanMetric())
    extremes.update(2.0)
    extremes.compute()
    with restored(nn.Sequential(extremes), []):
        for value in (-100.0, 100.0):
            extremes.update(value)
            extremes.compute()
    found = {key: float(value) for key, value in extremes.compute().items()}
    assert found == {"raw": 2.0, "min": 2.0, "max": 2.0}


class Counter(nn.Module):
    """A buffer that is replaced rather than written to, as many models do."""

    seen: Tensor
    average: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("average", None)
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + len(x)
        self.average = x.mean(0)
        return torch.as_tensor(self.linear(x))


def test_a_buffer_that_was_replaced_comes_back() -> None:
    model = Counter()
    model(torch.ones(3, 2))
    model.average = None
    before = digest(model)
    with restored(model, []), torch.inference_mode():
        model(torch.ones(5, 2))
    assert digest(model) == before
    assert dict(model.named_buffers()).keys() == {"seen"}
    model(torch.ones(1, 2))
    assert float(model.seen) == 4


def test_a_buffer_that_was_added_goes_again() -> None:
    model = nn.Linear(2, 2)
    before = digest(model)
    with restored(model, []):
        model.register_buffer("cache", torch.ones(3), persistent=False)
        assert digest(model) != before
    assert digest(model) == before
    assert not hasattr(model, "cache")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_scripted_part_comes_back() -> None:
    model = nn.Sequential(torch.jit.script(nn.BatchNorm1d(4)), nn.Linear(4, 4))
    before = digest(model)
    with restored(model, list(model.parameters())), torch.no_grad():
        model.train()(torch.randn(8, 4))
        for parameter in model.parameters():
            parameter.zero_()
        assert digest(model) != before
    assert digest(model) == before


def test_the_objects_stay_the_same() -> None:
    model = Net()
    before = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    order = list(model.state_dict())
    with restored(model, list(model.parameters())):
        overwrite(model)
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == before
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    assert list(model.state_dict()) == order


def test_what_was_changed_can_be_put_back_several_times() -> None:
    model = Net()
    before = everything(model)
    with restored(model, list(model.parameters())) as snapshot:
        for _ in range(3):
            overwrite(model)
            snapshot.put_back()
            assert everything(model) == before
    assert float(model.mean.compute()) == 3.0


def test_a_change_to_a_large_weight_that_was_not_named_does_not_go_unseen() -> None:
    model = nn.Linear(600, 600)
    with (
        pytest.raises(NotRestored, match="does not have the bits it had before"),
        restored(model, [model.get_parameter("bias")]),
        torch.no_grad(),
    ):
        model.weight.add_(1.0)


def test_a_change_to_a_small_weight_that_was_not_named_is_told_and_put_back() -> None:
    model = nn.Linear(3, 3)
    before = digest(model)
    with restored(model, [model.get_parameter("weight")]) as snapshot, torch.no_grad():
        assert snapshot.changed_by_others() == []
        model.bias.add_(1.0)
        assert snapshot.changed_by_others() == ["bias"]
    assert digest(model) == before


def test_objects_their_order_hooks_gradients_and_flags_come_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    hook = model[0].register_forward_hook(lambda *_: None)
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones(3, 3)

    def state() -> list[Any]:
        parameters = list(model.named_parameters())
        return [
            [(name, id(p), p.data_ptr(), p.requires_grad, id(p.grad)) for name, p in parameters],
            list(model.state_dict()),
            [list(module._forward_hooks) for module in model.modules()],
            [list(module._forward_pre_hooks) for module in model.modules()],
        ]

    before, bits_before = state(), digest(model)
    with restored(model, [model.get_parameter("0.weight")]):
        model[0].weight.data = torch.zeros(3, 3)
        weight = model.get_parameter("0.weight")
        del model[0].weight  # comes after the bias when it is set again
        model[0].weight = nn.Parameter(weight.detach().clone())
        model[0].weight.grad = None
        model[0].bias.requires_grad_(True)
        model.get_parameter("1.weight").grad = torch.ones(3)
        hook.remove()
        model[1].register_forward_pre_hook(lambda *_: None)
        assert state() != before
    assert state() == before
    assert digest(model) == bits_before


def test_random_numbers_go_on_as_if_nothing_had_been() -> None:
    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    def seeded() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seeded()
    expected = drawn()
    seeded()
    with same_random_numbers():
        assert drawn() == expected
        torch.manual_seed(7)
    assert drawn() == expected


def test_a_fault_within_is_not_covered_by_the_one_about_the_bits() -> None:
    model = nn.Linear(3, 3)

    def change() -> None:
        with restored(model, []):
            nn.init.ones_(model.bias)
            raise ZeroDivisionError("within")

    with pytest.raises(ZeroDivisionError, match="within"):
        change()


def fill(value: float) -> Callable[[nn.Linear], Any]:
    return lambda model: nn.init.constant_(model.bias, value)


def with_bits(pattern: int) -> Callable[[nn.Linear], Any]:
    def change(model: nn.Linear) -> None:
        with torch.no_grad():
            model.bias.view(torch.int32)[0] = pattern

    return change


def reshape(model: nn.Linear) -> None:
    model.weight = nn.Parameter(model.weight.detach().reshape(3, 2))


def cast(model: nn.Linear) -> None:
    model.bias = nn.Parameter(model.bias.detach().view(torch.int32), requires_grad=False)


def rename(model: nn.Linear) -> None:
    model.register_parameter("offset", model.bias)
    model.register_parameter("bias", None)


def buffer(model: nn.Linear) -> None:
    model.register_buffer("extra", torch.zeros(1), persistent=False)


@pytest.mark.parametrize(
    "change",
    [fill(-0.0), with_bits(1), with_bits(0x7FC00000), reshape, cast, rename, buffer],
    ids=["minus zero", "subnormal", "NaN", "shape", "dtype", "name", "buffer"],
)
def test_the_digest_tells_what_equality_does_not(change: Callable[[nn.Linear], Any]) -> None:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.bias)
    nn.init.ones_(model.weight)
    changed = copy.deepcopy(model)
    assert digest(changed) == digest(model)
    change(changed)
    assert digest(changed) != digest(model)


def test_the_digest_tells_one_nan_from_another() -> None:
    one, other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for model, pattern in ((one, 0x7FC00000), (other, 0x7FC00001)):
        model.weight = nn.Parameter(
            torch.tensor([[pattern]], dtype=torch.int32).view(torch.float32)
        )
    assert digest(one) == digest(copy.deepcopy(one))
    assert digest(one) != digest(other)


def test_the_digest_reads_values_not_their_place_in_memory() -> None:
    plain, transposed = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    transposed.weight = nn.Parameter(plain.weight.detach().T.contiguous().T)
    assert not transposed.weight.is_contiguous()
    assert digest(transposed) == digest(plain)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool]
)
def test_every_dtype_has_a_digest_and_comes_back(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.register_buffer("values", torch.ones(5).to(dtype))
    before = digest(model)
    with restored(model, []):
        model.get_buffer("values").zero_()
        assert digest(model) != before
    assert digest(model) == before


def test_a_conjugated_view_has_a_digest_and_comes_back() -> None:
    model = nn.Module()
    model.register_buffer("filter", torch.fft.fft(torch.arange(4.0)).conj())
    assert model.get_buffer("filter").is_conj()
    before = digest(model)
    with restored(model, []):
        model.get_buffer("filter").zero_()
    assert digest(model) == before


def test_models_with_parts_that_hold_no_values_come_back() -> None:
    model = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))
    before = digest(model)
    weight = model[2].get_parameter("weight")
    with restored(model, [weight]), torch.no_grad():
        weight.zero_()
    assert digest(model) == before


def test_a_sparse_buffer_comes_back() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("adjacency", torch.eye(3).to_sparse())
    before = digest(model)
    with restored(model, [model.get_parameter("weight")]):
        model.get_buffer("adjacency").mul_(2.0)
        assert digest(model) != before
    assert digest(model) == before
    assert torch.equal(model.get_buffer("adjacency").to_dense(), torch.eye(3))


def test_modules_that_were_exchanged_come_back_to_their_places() -> None:
    model = nn.Module()
    model.net, model.average = nn.Linear(2, 2), nn.Linear(2, 2)
    before, modules = digest(model), list(model.named_modules())
    with restored(model, list(model.parameters())):
        model.net, model.average = model.average, model.net
        assert digest(model) != before
    assert digest(model) == before
    assert list(model.named_modules()) == modules


def test_an_evaluation_that_goes_backward_adds_nothing_to_the_gradients() -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    gradient = model.weight.grad
    assert gradient is not None
    values = gradient.clone()
    with restored(model, [model.get_parameter("weight")]) as snapshot:
        for _ in range(2):
            assert model.weight.grad is None
            model(torch.ones(1, 2)).sum().backward()
            snapshot.put_back()
    assert model.weight.grad is gradient
    assert torch.equal(gradient, values)
