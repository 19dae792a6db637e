"""Running a model on some batches to see how it uses its weights."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_weightwatch.model.batch_size import batch_size
from lightning_weightwatch.model.compiled import as_written
from lightning_weightwatch.model.effective import effective_weights
from lightning_weightwatch.model.running import (
    Run,
    device_of,
    dtype_of,
    run_on_batch,
    to_device,
    without_a_trace,
)
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.hooks import UsageHooks
from lightning_weightwatch.usage.report import Mode, UsageReport

__all__ = ["UsageHooks", "measure_usage"]

# Of a module without a forward, those first that are run in evaluation.
_STEPS = ("validation_step", "test_step", "predict_step", "training_step")
# A single array of more rows is a data set: it is run in parts, for activations to stay small.
_MANY = 1024
_PART = 256
_NAMED = 8


def measure_usage(
    model: nn.Module,
    batches: Any,
    *,
    mode: Mode = "wanda",
    max_batches: int | None = None,
    keep: float = 0.99,
    run: Run | None = None,
    layers: Sequence[str] | None = None,
    activations: bool = True,
) -> UsageReport:
    """How much each weight of a model matters to some batches, and what the layers give.

    The importance of a weight is I = |w| · (root mean square of the input that it multiplies), up
    to a constant the score of Wanda (Sun et al., arXiv:2306.11695). The model is run in evaluation
    mode without gradients, and nothing of it changes: hooks, modes, buffers and random numbers are
    afterwards as they were before, also after an exception.

    | layer                    | inputs, and what their mean square is over                      |
    |--------------------------|-----------------------------------------------------------------|
    | linear                   | features, over samples and positions                            |
    | convolution              | channels at an offset of the kernel, over all windows           |
    | transposed convolution   | channels, over samples and positions                            |
    | `Embedding`              | entries: its inputs are one-hot vectors, whose root mean square |
    |                          | is the root of an entry's share of the lookups                  |
    | `MultiheadAttention`     | features of query, key and value; of `out_proj` the heads,      |
    |                          | which are computed a second time                                |
    | recurrent layers         | features and hidden states, of deeper layers computed a second  |
    |                          | time                                                            |

    `mode="wua"` is the definition of WeightUsageAnalyzer: I = |w| · |mean output of the neuron|,
    before what follows the layer, and the entropy of the shares + 1e-8. It is there to compare
    with. Positive and negative outputs cancel each other, so that a neuron that tells apart well
    may count for nothing; biases count as if they were inputs; and a weight from an input that is
    always 0 counts like any other.

    Args:
        model: The model. Where a layer is called several times, all of them count.
        batches: What to run it on, by its type:

            - a tensor, an array, a mapping or a tuple is one batch, and so is a list that begins
              with a tensor or an array (`[x, y]`, as loaders give them);
            - a tensor or array alone with more than 1,024 rows is a data set, and run 256 rows at
              a time;
            - all else is gone through, and gives batches: a loader, a generator, a list of tuples.
              For a list of tensors that are a batch each give `iter(...)` of it.
        mode: `"wanda"` or `"wua"`.
        max_batches: Look at so many at most; None for all that there are.
        keep: The share of a layer's importance that `suggested_inputs` is to carry.
        run: Runs the model on a batch, where its arguments cannot be told from that; see
            `model.running.run_on_batch`.
        layers: Names or shell patterns of layers or weights; None for all.
        activations: Whether to look at what layers give, too.

    Returns:
        The report.

    Raises:
        ValueError: For an argument out of its range, patterns without a match, or no batch at all.
        CannotRun: If the model has nothing to run, or a batch does not fit.

    Example::

        >>> import numpy as np
        >>> from torch import nn
        >>> X_np = np.random.default_rng(0).random((100, 10))
        >>> usage = measure_usage(nn.Linear(10, 1, bias=False), X_np)
        >>> usage.samples, usage.layers[0].weights, usage.layers[0].dead_inputs
        (100, 10, ())
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if max_batches is not None and (not isinstance(max_batches, int) or max_batches < 1):
        raise ValueError(f"max_batches must be at least 1, or None for all, got {max_batches!r}")
    hooks = UsageHooks(model, mode=mode, keep=keep, layers=layers, activations=activations)
    if layers is not None and not hooks.names:
        raise ValueError(f"no layer with weights fits {list(layers)!r}; there {_named(model)}")
    seen = samples = 0
    with without_a_trace(model), as_written(), hooks:
        for cpu_batch in islice(_batches(batches), max_batches):
            batch = to_device(cpu_batch, device_of(model), dtype_of(model))
            hooks.given(batch)
            run(model, batch) if run else run_on_batch(model, batch, _STEPS)
            seen += 1
            samples += batch_size(batch)
    if not seen:
        raise ValueError("batches held none: a generator may have been used up before")
    return hooks.report(seen, samples)


def _named(model: nn.Module) -> str:
    """Which layers with weights there are, of many the first."""
    names = [each.layer for each in effective_weights(model) if not isinstance(each, Skipped)]
    names = list(dict.fromkeys(names))
    shown = ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
    return f"are {shown}" if names else "are none"


def _batches(given: Any) -> Iterator[Any]:
    if isinstance(given, Tensor | np.ndarray):
        if given.ndim > 1 and len(given) > _MANY:
            return (given[start : start + _PART] for start in range(0, len(given), _PART))
        return iter((given,))
    one = isinstance(given, Mapping | tuple)
    if one or (isinstance(given, list) and given and isinstance(given[0], Tensor | np.ndarray)):
        return iter((given,))
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ValueError(
            "batches must be a loader, a batch, an array or something that gives batches, got "
            f"{type(given).__name__}"
        )
    return iter(given)
