"""Trials without a Trainer: a model, and a function that evaluates it."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from lightning_weightwatch.trials.bench import Bench, ChooseMonitor
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.evaluation import Evaluate
from lightning_weightwatch.trials.grid import (
    check_kernels,
    prunings,
    quantizations,
    with_activations,
    with_kernels,
)
from lightning_weightwatch.trials.plan import Limits
from lightning_weightwatch.trials.pruning import Method, Scope
from lightning_weightwatch.trials.quantization import Clip, CodeRange, Granularity, Scheme
from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.trials.trial import Given, run_trials
from lightning_weightwatch.usage.input_ranges import RangeClip

_USUAL = ("val_loss", "loss")


def try_quantization(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    bits: int | Sequence[int] = (8, 6, 4),
    granularity: Granularity | Sequence[Granularity] = "channel",
    clip: Clip | Sequence[Clip] = "mse",
    scheme: Scheme | Sequence[Scheme] = "symmetric",
    range: CodeRange = "restricted",
    group_size: int = 32,
    percentile: float = 99.9,
    int8_kernels: bool = False,
    activation_bits: int | Sequence[int] | None = None,
    activation_clip: RangeClip = "percentile",
    per_layer: int = 0,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    max_seconds: float | None = None,
    max_evaluations: int | None = None,
    tolerance: float = 0.01,
) -> TrialReport:
    """Evaluate a model with its weights quantized in several ways; leave it bit for bit as it was.

    Args:
        model: Its weights are overwritten in place for each evaluation, and put back.
        evaluate: Given the model, returns its metrics: a dict of numbers. To be in eval mode, and
            without gradients, is its own business; it is always given the same random numbers.
        bits: Of a weight, 2 to 8.
        granularity: What shares a scale: `"model"` all weights, `"tensor"` a weight, `"channel"` an
            output channel, `"group"` a run of `group_size` values in a channel.
        clip: How scales are found: `"absmax"` reaches the largest value, `"percentile"` a quantile
            of the absolute values, `"mse"` brings the mean squared error near its least.
        scheme: `"symmetric"` about 0, or `"asymmetric"` with a zero point.
        range: Of symmetric codes: `"restricted"` to ±(2^(bits−1) − 1), or `"full"`.
        group_size: Values of a group.
        percentile: For `clip="percentile"`.
        int8_kernels: Try torchao's int8 weights too, with real kernels, where it has any (the extra
            `torchao`); each row says which weights it left as they are.
        activation_bits: Numbers of bits, each from 2 to 8, to which the inputs of the quantized
            layers are rounded too, in variants of their own (`int8_a8`), each a further evaluation;
            None for weights alone. A layer has one range, found in the first call of
            `evaluate`, which is slightly in its favour.
        activation_clip: The range of activations: up to the 99.9 % quantile of their absolute
            values (`"percentile"`), or to their ends (`"minmax"`).
        per_layer: So many of the largest weights are also quantized alone.
        monitor: The metric to compare by. None: `val_loss` or `loss`, or the only one there is.
        mode: `"min"` if it is to fall, `"max"` if it is to rise.
        max_seconds: No evaluation begins that would probably end later; None for no limit.
        max_evaluations: At most so many, that of the model as it is included; None for no limit.
        tolerance: The share of its baseline by which the metric may be worse in `report.best`.

    Returns:
        The baseline and a row for each combination: metrics, packed bytes, errors of each weight.

    Raises:
        ValueError: For an argument out of its range, or when there is no telling which metric is
            meant.

    Examples:
        >>> import torch
        >>> from lightning_weightwatch import try_quantization
        >>> model = torch.nn.Linear(64, 10)
        >>> x = torch.randn(32, 64)
        >>> y = model(x).detach()
        >>> def evaluate(model):
        ...     with torch.no_grad():
        ...         return {"loss": float((model(x) - y).square().mean())}
        >>> report = try_quantization(model, evaluate)
        >>> [row.name for row in report.rows]
        ['baseline', 'int8', 'int6', 'int4']
    """
    weights = quantizations(bits, granularity, clip, scheme, range, group_size, percentile)
    with_activations(weights, activation_bits, activation_clip)  # raises for what is wrong
    check_kernels(int8_kernels)
    limits = Limits(max_seconds, max_evaluations)
    bench = _bench(evaluate, monitor, mode, limits, per_layer, tolerance)

    def compressions(given: Given) -> Sequence[Compression]:
        simulated = with_activations(weights, activation_bits, activation_clip, given.ranges)
        return with_kernels(simulated, int8_kernels, given.tied)

    return run_trials(
        _checked(model), bench, compressions, needs_ranges=activation_bits is not None
    )


def try_pruning(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    amounts: str | float | Sequence[str | float] = (0.2, 0.5, 0.9),
    method: Method | Sequence[Method] = "magnitude",
    scope: Scope | Sequence[Scope] = "global",
    per_layer: int = 0,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    max_seconds: float | None = None,
    max_evaluations: int | None = None,
    tolerance: float = 0.01,
) -> TrialReport:
    """Evaluate a model with some of its weights set to zero; leave it bit for bit as it was.

    Args:
        model: Its weights are overwritten in place for each evaluation, and put back.
        evaluate: Given the model, returns its metrics: a dict of numbers. For Wanda, the inputs of
            its layers are taken in the first call.
        amounts: Shares of the weights that go, each between 0 and 1, or patterns such as `"2:4"`:
            of each four neighbours in a row two stay.
        method: What goes: the least `"magnitude"`, or the least |w|·‖x‖ in each output row,
            `"wanda"`.
        scope: Of magnitudes: compared over all weights, `"global"`, or within each, `"layer"`.
        per_layer: So many of the largest weights are also pruned alone.
        monitor: See `try_quantization`, as for all that follows.
        mode: `"min"` or `"max"`.
        max_seconds: The limit of time.
        max_evaluations: The limit of evaluations.
        tolerance: For `report.best`.

    Raises:
        ValueError: For an argument out of its range, or when there is no telling which metric is
            meant.
    """
    compressions = prunings(amounts, method, scope)
    limits = Limits(max_seconds, max_evaluations)
    bench = _bench(evaluate, monitor, mode, limits, per_layer, tolerance)

    def with_norms(given: Given) -> Sequence[Compression]:
        return prunings(amounts, method, scope, given.norms)

    wanda = any(pruning.method == "wanda" for pruning in compressions)
    return run_trials(_checked(model), bench, with_norms, needs_norms=wanda)


def check_bench(per_layer: int, tolerance: float) -> None:
    """Refuse what cannot be a number of weights or a share.

    Raises:
        ValueError: For either.
    """
    if isinstance(per_layer, bool) or not isinstance(per_layer, int) or per_layer < 0:
        raise ValueError(
            f"per_layer must be the number of weights to try alone, 0 for none, got {per_layer!r}"
        )
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not number or not 0 <= tolerance < float("inf"):
        raise ValueError(
            f"tolerance must be a share of the baseline such as 0.01, 0 or more, got {tolerance!r}"
        )


def _bench(
    evaluate: Evaluate,
    monitor: str | None,
    mode: Literal["min", "max"],
    limits: Limits,
    per_layer: int,
    tolerance: float,
) -> Bench:
    if not callable(evaluate):
        raise ValueError(f"evaluate must be a function of the model, got {evaluate!r}")
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' (the metric is to fall) or 'max', got {mode!r}")
    check_bench(per_layer, tolerance)
    choose = _chooser(monitor, mode)
    return Bench(evaluate, choose, limits, per_layer=per_layer, tolerance=tolerance)


def _chooser(monitor: str | None, mode: Literal["min", "max"]) -> ChooseMonitor:
    def choose(metrics: Mapping[str, float]) -> tuple[str, Literal["min", "max"]]:
        wishes = (
            [monitor] if monitor is not None else [*_USUAL, *list(metrics)[: len(metrics) == 1]]
        )
        name = next((wish for wish in wishes if wish in metrics), None)
        if name is None and metrics:
            raise ValueError(
                f"monitor must be one of the metrics that evaluate returns ({', '.join(metrics)}), "
                f"got {monitor!r}"
            )
        return name or "", mode

    return choose


def _checked(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return model
