"""Reading a tensor in blocks that stay in a core's cache, in a fixed order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Argument = TypeVar("Argument")
Result = TypeVar("Result")

#: Values of a block: few enough to stay near a core, many enough for Python not to count.
BLOCK = 1 << 17
#: Values of a stretch, after which the results of its blocks are put together.
STRETCH = 1 << 19
#: On an accelerator launching a kernel costs more than reading a few million values.
DEVICE_BLOCK = 1 << 24
#: Of values that are written back, which need four times as much memory each.
WRITTEN_BLOCK = 1 << 22


def stretches(values: Tensor) -> Iterator[Tensor]:
    """The values in parts of `STRETCH` at most, in no particular but a fixed order.

    A complex number comes as its real and its imaginary part. Parts are views of the tensor, not
    always flat ones: what is strided or expanded is copied by `blocks`, and only a part at a time.
    """
    values = values.detach()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    order = sorted(range(values.dim()), key=values.stride, reverse=True)
    values = values.permute(order)  # transposed weights lie in one piece all the same
    yield from views(values, STRETCH if values.device.type == "cpu" else DEVICE_BLOCK)


def views(values: Tensor, limit: int) -> Iterator[Tensor]:
    """Views of `limit` values at most, in the order of the elements; flat where they can be."""
    if values.is_contiguous():
        yield from torch.split(values.view(-1), limit)
    elif values.numel() <= limit:
        yield values
    else:
        rows = limit // (values.numel() // len(values))
        for part in torch.split(values, max(rows, 1)):
            yield from views(part if rows else part[0], limit)


def has_doubles(device: torch.device) -> bool:
    """Whether float64 is known there; what lies elsewhere is moved to the CPU, block by block."""
    return device.type in ("cpu", "cuda")


def values_at_once(device: torch.device) -> int:
    """How many values are changed together; what lacks float64 is moved to the CPU."""
    return WRITTEN_BLOCK if device.type == "cuda" else BLOCK


def blocks(stretch: Tensor) -> Iterator[Tensor]:
    """Flat float32 or float64 blocks; on the CPU where the device has no float64."""
    limit = DEVICE_BLOCK if stretch.device.type == "cuda" else BLOCK
    as_it_is = stretch.dtype in (torch.float32, torch.float64)  # float8 can do next to nothing
    # What is moved to the CPU is as large as the memory for it there.
    for block in torch.split(stretch.reshape(-1), limit):
        moved = block if has_doubles(block.device) else block.cpu()
        yield moved if as_it_is else moved.float()


def for_each(
    work: Callable[[Tensor, Argument], Result],
    tensors: Iterable[Tensor],
    arguments: Sequence[Argument],
) -> Iterator[list[Result]]:
    """What `work` returns for the stretches of each tensor, tensor after tensor.

    A tensor is asked for when its turn comes, which may mean to gather it.
    """
    for tensor, argument in zip(tensors, arguments, strict=True):
        yield [work(stretch, argument) for stretch in stretches(tensor)]


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep torch from splitting operations on the CPU, for the calling thread and for the while.

    Of operations as short as ours most of the time would go into waiting: for the other threads of
    torch on a busy machine, for Python's lock with threads of our own. And no sum depends on how
    many there are.
    """
    torch.get_num_threads()  # the first time it sets the number for this thread
    with _thread_pools().limit(limits=1, user_api="openmp"):
        yield


@cache
def _thread_pools() -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController  # sets an environment variable when imported

    return ThreadpoolController()  # which looks through all loaded libraries
