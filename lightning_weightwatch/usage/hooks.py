"""Looking at a model while it runs: what its weights meet, what its layers give; then a report."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.effective import EffectiveWeight, effective_weights
from lightning_weightwatch.model.hooked import Hooked
from lightning_weightwatch.model.weights import Weight, matches, non_finite
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.activations import Activations, observed_modules
from lightning_weightwatch.usage.importance import importance
from lightning_weightwatch.usage.inputs import InputSums
from lightning_weightwatch.usage.order import Order, tensors_in
from lightning_weightwatch.usage.oriented import oriented
from lightning_weightwatch.usage.output_means import OutputMeans
from lightning_weightwatch.usage.reading import reader_within
from lightning_weightwatch.usage.report import MODES, LayerUsage, Mode, UsageReport
from lightning_weightwatch.usage.widths import dead_channels, suggested
from lightning_weightwatch.values.blocks import on_one_core

_QKV = ("q", "k", "v")
_COMPILED = "it is compiled, and hooks on it would be too"


class UsageHooks(Hooked):
    """Sees how every forward pass within the block uses a model.

    No value changes, and the hooks are gone after the block; but while there are hooks,
    `nn.TransformerEncoderLayer` does not take its fused path in evaluation, whose results may
    differ in the last bits. `measure_usage` runs batches within one; around an epoch that runs
    anyway it costs no pass of its own.

    Args:
        model: The model that will be run.
        mode: See `measure_usage`.
        keep: See `measure_usage`.
        layers: Names or shell patterns of layers or weights; None for all.
        activations: Whether to look at what layers give, too.
        passing_over: Modules that get no hooks.

    Attributes:
        paused: While it is True nothing is looked at.

    Raises:
        ValueError: For an argument out of its range.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with UsageHooks(model) as hooks:
        ...     _ = model(torch.tensor([[1.0, 0.0]]))
        >>> hooks.report(batches=1, samples=1).layers[0].dead_inputs
        (1,)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mode: Mode = "wanda",
        keep: float = 0.99,
        layers: Sequence[str] | None = None,
        activations: bool = True,
        passing_over: Sequence[nn.Module] = (),
    ) -> None:
        check(mode, keep, layers)
        without = set(map(id, passing_over))
        self._mode, self._keep = mode, keep
        self._skipped: list[Skipped] = []
        self._chosen: list[tuple[EffectiveWeight, Weight]] = []
        modules = list(model.modules())
        for item in effective_weights(model):
            owner = item.name.rpartition(".")[0]
            layer = owner if isinstance(item, Skipped) else item.layer
            if not (matches(layer, layers) or matches(item.name, layers)):
                continue
            if isinstance(item, Skipped):
                self._skipped.append(item)
            elif id(modules[item.layer_id]) in without:
                self._skipped.append(Skipped(item.layer, _COMPILED, item.kind))
            else:
                self._chosen.append((item, _weight(item, modules[item.layer_id])))
        holders = {id(m.out_proj): m for m in modules if isinstance(m, nn.MultiheadAttention)}
        weights = [weight for _, weight in self._chosen]
        self._order = Order(model, without)
        self._inputs = InputSums(weights, partial(reader_within, holders), self._order)
        self._outputs = OutputMeans(weights, holders) if mode == "wua" else None
        observed = observed_modules(model) if activations else []
        self._activations = Activations(
            [
                (name, module)
                for name, module in observed
                if matches(name, layers) and id(module) not in without
            ]
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that are looked at."""
        return tuple(weight.name for _, weight in self._chosen)

    @property
    def paused(self) -> bool:
        """Whether nothing is looked at for now."""
        return self._inputs.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._inputs.paused = self._activations.paused = paused
        if self._outputs is not None:
            self._outputs.paused = paused

    def put_on(self, on: ExitStack) -> None:
        """Those of inputs, of outputs and of their means."""
        on.enter_context(self._inputs)
        on.enter_context(self._activations)
        if self._outputs is not None:
            on.enter_context(self._outputs)

    def given(self, batch: Any) -> None:
        """Say what the next pass is given, for what comes from the data not to count as dead."""
        self._order.given(tensors_in(batch))

    def merge(self, reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Put together what several processes have seen.

        Args:
            reduce: The `"sum"`, `"min"` or `"max"` of a tensor over all processes. Called as often
                and in the same order everywhere, whatever a process has seen.
        """
        add = partial(_sum, reduce)
        self._inputs.merge(add)
        if self._outputs is not None:
            self._outputs.merge(add)
        self._activations.merge(reduce)

    def report(self, batches: int, samples: int) -> UsageReport:
        """What was seen so far, with the weights as they are now.

        A collective where weights are sharded. The statistics are computed on the CPU, weight by
        weight, in blocks.

        Args:
            batches: How many were looked at.
            samples: How many those held.
        """
        rows: list[LayerUsage | Skipped] = []
        with on_one_core():
            for effective, weight in self._chosen:
                rows += self._rows(effective, weight)
        skipped = [*self._skipped, *(row for row in rows if isinstance(row, Skipped))]
        named = {item.name for item in skipped}
        skipped += [item for item in self._activations.skipped if item.name not in named]
        found = [row for row in rows if isinstance(row, LayerUsage)]
        groups = {_shown(one): int(getattr(one.module, "groups", 1)) for _, one in self._chosen}
        return UsageReport(
            layers=tuple(suggested(found, groups, self._keep)),
            activations=self._activations.of_layers(),
            mode=self._mode,
            batches=batches,
            samples=samples,
            keep=self._keep,
            skipped=tuple(skipped),
        )

    def _rows(self, effective: EffectiveWeight, weight: Weight) -> Iterator[LayerUsage | Skipped]:
        """The rows of a weight: one, or one for each of query, key and value."""
        name = weight.name
        reason = self._inputs.missing(name)
        if not reason and self._outputs is not None:
            reason = self._outputs.missing(name)
        if not reason and not all(self._inputs.rows(name)):
            reason = "its inputs were empty"
        if reason:
            yield Skipped(_shown(weight), reason, weight.kind)
            return
        try:
            # In a mixed-precision fit a weight would be computed in half precision.
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                values = effective.read().detach()
            reason = non_finite(values) or ""
            parts = [] if reason else list(self._of_parts(weight, oriented(weight, values)))
        except Exception as error:  # whatever a tensor subclass or a parametrization raises
            reason = f"cannot be measured: {error}"
        if reason:
            yield Skipped(_shown(weight), reason, weight.kind)
        else:
            yield from parts

    def _of_parts(self, weight: Weight, values: Tensor) -> Iterator[LayerUsage]:
        groups, outputs, inputs, offsets = values.shape
        squares = self._inputs.squares(weight.name).cpu().double()
        squares = squares.view(groups, 1, inputs, offsets)
        rows = torch.tensor(self._inputs.rows(weight.name), dtype=torch.float64, device="cpu")
        if self._outputs is None:
            sizes = (squares / rows.view(-1, 1, 1, 1)).sqrt()
        else:
            sizes = self._outputs.of(weight.name).cpu().double().view(groups, outputs, 1, 1)
        parts = len(rows)
        for part in range(parts):
            own = slice(part, part + 1) if parts > 1 else slice(None)
            of_the_original = self._mode == "wua"
            found = importance(values[own], sizes[own], of_the_original=of_the_original)
            dead = squares[own].sum((1, 3)).flatten() == 0
            shares = self._shares(weight.name, part)
            from_data = self._inputs.is_from_data(weight.name, part)
            once = not shares and not from_data and weight.kind != "embedding"
            read = self._inputs.channels_read(weight.name, part) if once else 0
            yield LayerUsage(
                name=_shown(weight, part if parts > 1 else None),
                kind=weight.kind,
                shape=tuple(weight.parameter.shape) if parts == 1 else (outputs, inputs),
                weights=values[own].numel(),
                inputs=found.inputs.numel(),
                outputs=found.outputs.numel(),
                entropy=found.entropy,
                effective_weights=found.effective_weights,
                participation_ratio=found.participation_ratio,
                low_share=found.low_share,
                top90_share=found.top90_share,
                dead_inputs=_numbers(dead),
                dead_outputs=_numbers(found.outputs == 0),
                input_importance=found.inputs,
                output_importance=found.outputs,
                blocks=found.blocks,
                suggested_inputs=0,
                shares_input_with=shares,
                from_data=from_data,
                channels_read=abs(read),
                dead_channels=dead_channels(dead, read),
            )

    def _shares(self, name: str, part: int) -> str | None:
        """The row that got the very same tensor first."""
        found = self._inputs.shares_with(name, part)
        if found is None:
            return None
        first = next(weight for _, weight in self._chosen if weight.name == found[0])
        several = len(self._inputs.rows(found[0])) > 1
        return _shown(first, found[1] if several else None)


def check(mode: str, keep: float, layers: Sequence[str] | None) -> None:
    """Refuse arguments that are out of their range.

    Raises:
        ValueError: If one is.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be {' or '.join(map(repr, MODES))}, got {mode!r}")
    known = isinstance(keep, int | float) and not isinstance(keep, bool)
    if not known or not 0 < keep <= 1:
        raise ValueError(f"keep must be a share, above 0 and up to 1, got {keep!r}")
    if isinstance(layers, str):
        raise ValueError(f"layers must be a list of names or patterns, got {layers!r}")


def _weight(effective: EffectiveWeight, module: nn.Module) -> Weight:
    """What a layer multiplies with, in the form that parameters have."""
    parameter = effective.parameter
    if parameter is None or tuple(parameter.shape) != effective.shape:
        parameter = torch.empty(effective.shape, device="meta")
    return Weight(
        effective.layer, effective.name, effective.kind, module, cast(nn.Parameter, parameter)
    )


def _shown(weight: Weight, part: int | None = None) -> str:
    """The name of a row."""
    name = weight.layer if weight.attribute == "weight" else weight.name
    return name if part is None else f"{name}.{_QKV[part]}"


def _numbers(flags: Tensor) -> tuple[int, ...]:
    return tuple(flags.nonzero().flatten().tolist())


def _sum(reduce: Callable[[Tensor, str], Tensor], values: Tensor) -> Tensor:
    return reduce(values, "sum")
