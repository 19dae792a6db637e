"""What an evaluation of a model returns, and the confidence interval of a difference of two."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

#: Batches below which no interval is given: with fewer, its own width is a matter of chance.
FEWEST_BATCHES = 5
#: Of the interval.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Batches:
    """A metric that is the mean over batches, batch by batch.

    Attributes:
        values: [batches], the metric of each.
        sizes: [batches], the weight of each in the mean.
    """

    values: NDArray[np.float64]
    sizes: NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model.

    Attributes:
        metrics: By their names.
        batches: Those of them that are means over batches.
        seen: A checksum of the batches themselves; 0 where it is not known.
    """

    metrics: Mapping[str, float]
    batches: Mapping[str, Batches] = field(default_factory=dict)
    seen: float = 0.0


#: Evaluates a model. Called with the same model each time, whose weights differ.
Evaluate = Callable[[nn.Module], Mapping[str, float] | Evaluation]


def paired_interval(baseline: Batches | None, trial: Batches | None) -> tuple[float, float] | None:
    """The 95 % confidence interval of the difference of two means over the same batches.

    Paired: the batches are sampling units, d_i the differences in each, n_i their sizes. The mean
    is Δ = Σ n_i d_i / Σ n_i, its variance B/(B−1) · Σ n_i² (d_i − Δ)² / (Σ n_i)² (the linearised
    ratio estimator; Cochran, Sampling Techniques, 3rd ed., 6.4), and the interval Δ ± t·s with
    Student's t for B − 1 degrees of freedom.

    Returns:
        Its ends; None where the batches are not the same, are fewer than 5, or hold values that are
        not finite.
    """
    if baseline is None or trial is None or not np.array_equal(baseline.sizes, trial.sizes):
        return None
    count, differences, sizes = len(trial.values), trial.values - baseline.values, trial.sizes
    if count < FEWEST_BATCHES or not np.isfinite(differences).all() or not sizes.sum() > 0:
        return None
    from scipy.special import stdtrit

    mean = float((sizes * differences).sum() / sizes.sum())
    spread = float(np.square(sizes * (differences - mean)).sum()) * count / (count - 1)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(spread) / float(sizes.sum())
    return mean - reach, mean + reach


def interval_of(baseline: Evaluation, trial: Evaluation, monitor: str) -> tuple[float, float] | str:
    """The interval of the difference of a metric, or why it has none though the baseline could.

    An empty string where the baseline has none: see `no_interval`.
    """
    before, after = baseline.batches.get(monitor), trial.batches.get(monitor)
    if before is None or len(before.values) < FEWEST_BATCHES or monitor not in trial.metrics:
        return ""
    if baseline.seen != trial.seen:
        return "its batches were not those of the baseline"
    if after is None or not np.array_equal(before.sizes, after.sizes):
        return "its batches have other sizes than those of the baseline"
    interval = paired_interval(before, after)
    if interval is None:
        return "a batch has no finite value"
    delta = trial.metrics[monitor] - baseline.metrics.get(monitor, math.nan)
    middle, reach = sum(interval) / 2, (interval[1] - interval[0]) / 2
    # Lightning adds up in float32.
    slack = 0.01 * reach + 1e-5 * max(abs(baseline.metrics.get(monitor, math.nan)), abs(delta))
    if not math.isclose(middle, delta, rel_tol=0, abs_tol=slack):
        return "the metric is not the mean of its batches"
    return delta - reach, delta + reach


def no_interval(baseline: Evaluation, monitor: str) -> str:
    """Why differences of a metric have no interval; an empty string where they can have one."""
    if not monitor or monitor not in baseline.metrics:
        return ""
    batches = baseline.batches.get(monitor)
    if batches is None:
        return f"the values of {monitor} are not known batch by batch"
    count = len(batches.values)
    if count < FEWEST_BATCHES:
        batches_of = "1 batch" if count == 1 else f"{count} batches"
        return f"{monitor} has {batches_of}, and an interval needs {FEWEST_BATCHES}"
    return ""
