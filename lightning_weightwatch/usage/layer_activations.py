"""What a layer gave: moments, range, zeros and a histogram of its outputs, per channel too."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.weights import parametrizations_of
from lightning_weightwatch.usage.channel_sums import ChannelSums
from lightning_weightwatch.usage.value_cells import histogram_of, size_quantile
from lightning_weightwatch.values.statistics import Histogram


@dataclass(frozen=True)
class LayerActivations:
    """The outputs of a layer over all calls.

    Of the finite values, all of them: range, zeros, `dead` and `constant` are exact; means are off
    by 1e-6 of the standard deviation and mean together at most, standard deviations by 1e-5. `p999`
    and the histogram come from counts in cells, which of large outputs are those of a sample.

    Attributes:
        name: Dotted path of the layer.
        type: Its class.
        channels: How many it has; 1 where their number changed from call to call.
        count: Finite values.
        nonfinite: NaN and infinite values.
        mean: Of all values.
        std: Population standard deviation.
        min: The smallest value.
        max: The largest value.
        p999: The 99.9 % quantile of |x|, off by 1/64 of it at most; below 2^-31 and above 2^33 by
            1/8. Of more than 2^15 values in a call, also by what a sample of that size leaves open.
            NaN beyond float32.
        zero_share: Share of the values that are 0.
        channel_mean: float64 [channels]; NaN where a channel had no finite value, as in what
            follows.
        channel_std: float64 [channels].
        channel_min: float64 [channels].
        channel_max: float64 [channels].
        channel_zero_share: float64 [channels].
        dead: Channels whose output was 0 in every sample and position, of two values at least.
        constant: Channels that gave always the same, and not 0.
        histogram: Of all values in 64 equal bins from `min` to `max`. Its counts add up to `count`;
            which bin a value is in is known as well as `p999`.
    """

    name: str
    type: str
    channels: int
    count: int
    nonfinite: int
    mean: float
    std: float
    min: float
    max: float
    p999: float
    zero_share: float
    channel_mean: Tensor = field(compare=False)
    channel_std: Tensor = field(compare=False)
    channel_min: Tensor = field(compare=False)
    channel_max: Tensor = field(compare=False)
    channel_zero_share: Tensor = field(compare=False)
    dead: tuple[int, ...]
    constant: tuple[int, ...]
    histogram: Histogram


def of_layer(name: str, module: nn.Module, found: ChannelSums, cells: Tensor) -> LayerActivations:
    """Of the sums and cells of its outputs.

    Args:
        name: Of the layer.
        module: The layer.
        found: With a finite value at least.
        cells: Of the same values, or of a sample of them.
    """
    sums = found.to(torch.device("cpu")).settled()
    whole = sums.in_one().settled()
    count, low, high = int(whole.counts), whole.lows.item(), whole.highs.item()
    empty = sums.counts == 0
    spread = (sums.deviations / sums.counts).sqrt()
    same = (sums.lows == sums.highs) & (sums.counts == sums.seen) & (sums.seen > 1)
    counted = cells.cpu().numpy()
    return LayerActivations(
        name=name,
        type=_class_of(module).__name__,
        channels=len(sums),
        count=count,
        nonfinite=whole.seen - count,
        mean=whole.means.item(),
        std=math.sqrt(whole.deviations.item() / count),
        min=low,
        max=high,
        p999=size_quantile(counted, 0.999, low, high),
        zero_share=whole.zeros.item() / whole.seen,
        channel_mean=sums.means.masked_fill(empty, math.nan),
        channel_std=spread,
        channel_min=sums.lows.masked_fill(empty, math.nan),
        channel_max=sums.highs.masked_fill(empty, math.nan),
        channel_zero_share=sums.zeros / sums.seen,
        dead=_numbers(same & (sums.lows == 0)),
        constant=_numbers(same & (sums.lows != 0)),
        histogram=histogram_of(counted, count, low, high),
    )


def _numbers(flags: Tensor) -> tuple[int, ...]:
    return tuple(int(number) for number in flags.nonzero().flatten().tolist())


def _class_of(module: nn.Module) -> type[nn.Module]:
    return type(module).__bases__[0] if parametrizations_of(module) else type(module)
