"""What the weight of a layer meets in a forward pass: Σ x² of each input, and of how many rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.values.blocks import has_doubles, values_at_once

#: The arguments of a forward pass, by position and by name.
Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True)
class Seen:
    """What a weight has met.

    Attributes:
        squares: Σ x² [g, n]; see `InputNorms.of`.
        rows: Over how many rows: of all g, or of each.
        given: The tensors as the layer got them, one for each of `rows`.
    """

    squares: Tensor
    rows: tuple[int, ...]
    given: tuple[Any, ...]


#: From the arguments of a forward pass; None where they are no inputs of the layer.
Read = Callable[[Args, Kwargs], Seen | None]


def read_linear(args: Args, kwargs: Kwargs) -> Seen | None:
    """Columns, over all leading dimensions."""
    given = first_of(args, kwargs)
    squares = over_columns(real(given))
    return None if squares is None else Seen(squares, (_rows(given),), (given,))


def read_attention(named: tuple[str, ...], args: Args, kwargs: Kwargs) -> Seen | None:
    """Columns of some of `query`, `key` and `value`."""
    by_name = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs)
    given = tuple(by_name.get(name) for name in named)
    same = all(values is given[0] for values in given)
    seen = [over_columns(real(values)) for values in (given[:1] if same else given)]
    found = [part for part in seen if part is not None]
    if len(found) < len(seen):
        return None
    squares = torch.cat(found).expand(len(named), -1)
    return Seen(squares, tuple(map(_rows, given)), given)


def read_embedding(module: nn.Embedding | nn.EmbeddingBag, args: Args, kwargs: Kwargs) -> Seen:
    """Entries, of as many one-hot vectors as there are lookups.

    What a bag passes over, for being padding, counts as no lookup; its weights count as values.
    """
    given = first_of(args, kwargs)
    entries, sizes = given.detach().flatten(), None
    if isinstance(module, nn.EmbeddingBag):
        sizes = args[2] if len(args) > 2 else kwargs.get("per_sample_weights")
        if module.padding_idx is not None:
            real_ones = entries != module.padding_idx
            entries = entries[real_ones]
            sizes = None if sizes is None else sizes.flatten()[real_ones]
    # On the CPU: the weighted counts of a GPU differ from one time to the next.
    entries = entries.cpu()
    if sizes is None:
        counts = torch.bincount(entries, minlength=module.num_embeddings)
    else:
        squares = sizes.detach().flatten().cpu().double().square()
        counts = torch.bincount(entries, squares, minlength=module.num_embeddings)
    return Seen(counts.double().unsqueeze(0), (entries.numel(),), (given,))


def read_transposed_convolution(
    module: TransposedConvolution, args: Args, kwargs: Kwargs
) -> Seen | None:
    """Channels, the same for all offsets of the kernel."""
    squares = _over_samples(module, args, kwargs)
    if squares is None:
        return None
    given = first_of(args, kwargs)
    channels = squares.flatten(1).sum(1)
    repeated = channels.repeat_interleave(math.prod(module.kernel_size)).view(module.groups, -1)
    return Seen(repeated, (given.numel() // max(module.in_channels, 1),), (given,))


def read_convolution(module: Convolution, args: Args, kwargs: Kwargs) -> Seen | None:
    """Channels at each offset of the kernel, over all windows.

    Summing over samples commutes with padding, and a window is a product of intervals: axis after
    axis, what the offset o of the kernel meets is every stride-th value from o · dilation on.
    """
    squares = _over_samples(module, args, kwargs)
    if squares is None:
        return None
    given = first_of(args, kwargs)
    windows = given.numel() // max(math.prod(squares.shape), 1)  # so far samples
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    squares = F.pad(squares.unsqueeze(0), _padding(module), mode).squeeze(0)
    for size, step, apart in zip(module.kernel_size, module.stride, module.dilation, strict=True):
        met = squares.unfold(1, apart * (size - 1) + 1, step)[..., ::apart]
        windows *= met.shape[1]
        squares = met.sum(1)
    return Seen(squares.reshape(module.groups, -1), (windows,), (given,))


def first_of(args: Args, kwargs: Kwargs) -> Any:
    """The first argument, however it was given."""
    return args[0] if args else next(iter(kwargs.values()), None)


def over_columns(x: Tensor | None) -> Tensor | None:
    """Σ x² [1, n], over all leading dimensions."""
    if x is None or x.dim() == 0:
        return None
    if x.is_nested:  # nn.TransformerEncoder leaves the padding out so
        return torch.stack([_over_first_axis(part) for part in x.unbind()]).sum(0, keepdim=True)
    return _over_first_axis(x.reshape(-1, x.shape[-1])).unsqueeze(0)


def real(given: object) -> Tensor | None:
    """What can be multiplied with a weight, else None."""
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.is_meta:
        return None
    return given.detach() if given.layout == torch.strided or given.is_nested else None


def home_of(weight: Weight) -> torch.device:
    """Where sums about a weight are kept; of one that is computed, where its factors are."""
    device = weight.parameter.device
    if device.type != "meta":
        return device
    return next((held.device for held in weight.module.parameters()), torch.device("cpu"))


def wide(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64 where there is."""
    return torch.float64 if has_doubles(device) else torch.float32


def small(dtype: torch.dtype) -> float:
    """Below this the squares of inputs are no longer as exact as the inputs."""
    return torch.finfo(dtype).tiny * 2.0**32


def _rows(x: Any) -> int:
    width = x.shape[-1] if not x.is_nested else x.size(-1)
    return int(x.numel() // max(width, 1))


def _padding(module: Convolution) -> list[int]:
    """Before and after each axis, the last axis first, as `F.pad` wants them."""
    sides: list[int] = []
    for axis, (size, apart) in enumerate(zip(module.kernel_size, module.dilation, strict=True)):
        padding: str | tuple[int, ...] = module.padding
        if isinstance(padding, str):
            reach = apart * (size - 1) if padding == "same" else 0
            sides = [reach // 2, reach - reach // 2, *sides]
        else:
            sides = [padding[axis], padding[axis], *sides]
    return sides


def _over_samples(
    module: Convolution | TransposedConvolution, args: Args, kwargs: Kwargs
) -> Tensor | None:
    """[C, *size], summed over the batch."""
    x = real(first_of(args, kwargs))
    axes = len(module.kernel_size)
    if x is not None and x.dim() == axes + 1:
        x = x.unsqueeze(0)
    if x is None or x.dim() != axes + 2 or x.shape[1] != module.in_channels:
        return None
    return _over_first_axis(x)


def _over_first_axis(x: Tensor) -> Tensor:
    rows = max(values_at_once(x.device) // max(math.prod(x.shape[1:]), 1), 1)
    summed = torch.zeros(x.shape[1:], dtype=wide(x.device), device=x.device)
    if rows > 1 or x.dim() < 3:
        for part in torch.split(x, rows):
            summed += part.to(summed.dtype).square().sum(0)
            _keep_in_range(summed, part)
        return summed
    # One sample is more than stays near a core: some of its channels at a time.
    channels = max(values_at_once(x.device) // max(math.prod(x.shape[2:]), 1), 1)
    for part in x:
        for some, values in zip(
            torch.split(summed, channels), torch.split(part, channels), strict=True
        ):
            some += values.to(summed.dtype).square()
            _keep_in_range(some, values.unsqueeze(0))
    return summed


def _keep_in_range(summed: Tensor, part: Tensor) -> None:
    """No sum of squares is 0 for inputs that are not; only in the widest type it could be.

    Raises:
        ValueError: If finite inputs have no finite sum.
    """
    if part.dtype != summed.dtype or not part.numel():
        return
    largest = part.abs().amax(0)
    summed.masked_fill_((summed == 0) & (largest > 0), torch.finfo(summed.dtype).tiny)
    if bool((summed.isinf() & largest.isfinite()).any()) and bool(part.isfinite().all()):
        raise ValueError("its inputs are too large to be squared")
