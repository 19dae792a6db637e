"""The trials themselves: compress, evaluate, put back, one variant after another."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from lightning_weightwatch.model.compiled import as_written
from lightning_weightwatch.model.own_data import own_data_kept
from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.activation_quantization import ActivationQuantization
from lightning_weightwatch.trials.bench import Bench
from lightning_weightwatch.trials.compression import CompressedLayer, Compression
from lightning_weightwatch.trials.evaluation import Evaluation, interval_of, no_interval
from lightning_weightwatch.trials.int8_kernels import tied_weights
from lightning_weightwatch.trials.plan import Plan, Step
from lightning_weightwatch.trials.report import BASELINE, TrialReport, TrialRow
from lightning_weightwatch.trials.snapshot import Snapshot, restored, same_random_numbers
from lightning_weightwatch.trials.targets import Targets, find_targets, size_in_bytes
from lightning_weightwatch.usage.fused_layers import beside_fused_layers
from lightning_weightwatch.usage.input_ranges import InputRanges
from lightning_weightwatch.usage.inputs import InputNorms

# A weight of about so many values tells how long compressing takes; of far fewer, only what it
# costs to begin; of far more, at a price.
_SAMPLE, _FEW, _MANY = 2**18, 2**16, 2**22


@dataclass(frozen=True)
class Given:
    """What some compressions have to know of the model, beside the weights.

    Attributes:
        norms: Of the inputs of layers, in the evaluation of the baseline; None where not collected.
        tied: Names of the weights that are used in several places.
        ranges: Of the inputs of layers, there too; None where not collected.
    """

    norms: InputNorms | None = None
    tied: frozenset[str] = frozenset()
    ranges: InputRanges | None = None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the midst of trials; the model is as it was.

    Attributes:
        report: What there was until then.
    """

    def __init__(self, report: TrialReport, *arguments: object) -> None:
        super().__init__(*arguments)
        self.report = report


def run_trials(
    model: nn.Module,
    bench: Bench,
    compressions: Callable[[Given], Sequence[Compression]],
    *,
    needs_norms: bool = False,
    needs_ranges: bool = False,
) -> TrialReport:
    """Evaluate the model as it is, then under each compression; leave it bit for bit as it was.

    The weights are changed in place, one after another, so hooks, optimizers and wrappers around
    the model see what they always see, and no more memory is needed than for the values that were
    there. Every evaluation begins with the same random numbers. A variant that raises becomes a row
    with its error; so does the baseline, and then nothing is compared.

    Args:
        model: The trained model.
        bench: How it is evaluated, and for how long.
        compressions: What to try, given what is known then.
        needs_norms: Whether to collect those, in the evaluation of the baseline.
        needs_ranges: The same of the ranges of inputs.

    Raises:
        NotRestored: See `restored`.
        Interrupted: For Ctrl-C, once there is a baseline.
    """
    started = time.perf_counter()
    targets = find_targets(model)
    norms = InputNorms(targets.weights) if needs_norms else None
    ranges = InputRanges(targets.weights) if needs_ranges else None
    with restored(model, [weight.parameter for weight in targets.weights]) as snapshot:
        runner = _Runner(model, bench, targets, snapshot)
        with _looking(model, [hooks for hooks in (norms, ranges) if hooks is not None]):
            baseline, evaluated = runner.row(Step(None))
        if norms is not None and not baseline.error:
            norms.merge(bench.ranks.sum)
        if ranges is not None and not baseline.error:
            ranges.merge(bench.ranks.sum, bench.ranks.least)
        monitor, mode = bench.choose_monitor(baseline.metrics)
        given = Given(norms, tied_weights(model), ranges)
        steps = _steps(compressions(given), targets, bench.per_layer)
        rows: list[TrialRow] = []
        stopped, interrupted = "", None
        if not bench.ranks.all_agree(bool(monitor) and not baseline.error):
            here = monitor and "there is no metric to compare by in another process"
            stopped = baseline.error or here or "there is no metric to compare by"
        else:
            plan = runner.planned(steps, baseline)
            bench.watcher.planned(plan)
            try:
                for done, step in enumerate(steps, start=1):
                    expected = plan.seconds_of(step, [row.compress_seconds for row in rows])
                    reason = bench.limits.reached(done, time.perf_counter() - started, expected)
                    if not bench.ranks.all_agree(not reason):
                        stopped = reason or "another process has reached its limit"
                        break
                    bench.watcher.begins(step.name, done, len(steps) + 1)
                    row, result = runner.row(step)
                    interval = interval_of(evaluated, result, monitor)
                    if isinstance(interval, str):
                        rows.append(replace(row, no_interval=interval))
                    else:
                        rows.append(replace(row, interval=interval))
            except KeyboardInterrupt as stop:
                stopped, interrupted = "interrupted", stop
    report = TrialReport(
        (baseline, *(row for row in rows if not row.layer)),
        monitor,
        mode,
        targets.skipped,
        alone=tuple(row for row in rows if row.layer),
        planned=len(steps) + 1,
        stopped=stopped,
        no_interval=no_interval(evaluated, monitor),
        tolerance=bench.tolerance,
        disk_bytes=targets.model_bytes,
        changed_by_evaluation=runner.changed,
    )
    if interrupted is not None:
        raise Interrupted(report, *interrupted.args)
    return report


@contextmanager
def _looking(
    model: nn.Module, hooks: Sequence[AbstractContextManager[InputNorms | InputRanges]]
) -> Iterator[None]:
    """Put hooks on, without a change of what the model computes."""

    @contextmanager
    def all_of_them() -> Iterator[None]:
        with ExitStack() as on:
            for each in hooks:
                on.enter_context(each)
            yield

    if not hooks:
        yield
        return
    # Compiled modules would pass over hooks that are newer than they are.
    with as_written(), beside_fused_layers(model, all_of_them()):
        yield


@contextmanager
def _quantized_inputs(compression: Compression | None, weights: Sequence[Weight]) -> Iterator[None]:
    """Where a compression is of activations too, they are quantized within the block."""
    if isinstance(compression, ActivationQuantization):
        with compression.evaluating(weights), as_written():
            yield
    else:
        yield


def _steps(compressions: Sequence[Compression], targets: Targets, per_layer: int) -> list[Step]:
    """All weights under every compression; then single ones, the largest first.

    Those under the first simulated compression of each strength: number of bits, or amount.
    """
    steps = [Step(compression) for compression in compressions]
    strengths: dict[object, Compression] = {}
    for compression in compressions:
        settings = compression.settings
        if "kernels" not in settings:
            strengths.setdefault(settings.get("bits", settings.get("amount")), compression)
    simulated = list(strengths.values())
    if not simulated or not per_layer:
        return steps
    left_out = {item.name for item in simulated[0].left_out(targets.weights)}
    weights = [weight for weight in targets.weights if weight.name not in left_out]
    largest = sorted(weights, key=lambda weight: -weight.parameter.numel())[:per_layer]
    return steps + [Step(found, weight) for weight in largest for found in simulated]


class _Runner:
    """Evaluates one step after another."""

    def __init__(
        self, model: nn.Module, bench: Bench, targets: Targets, snapshot: Snapshot
    ) -> None:
        self._model, self._bench = model, bench
        self._targets, self._snapshot = targets, snapshot
        #: What the evaluation of the model as it is has changed by itself.
        self.changed: tuple[str, ...] = ()

    def row(self, step: Step) -> tuple[TrialRow, Evaluation]:
        """Compress, evaluate, put back, and keep what came of it."""
        started = time.perf_counter()
        layers: tuple[CompressedLayer, ...] = ()
        left_out: tuple[Skipped, ...] = ()
        result, error = Evaluation({}), ""
        compressed = started
        try:
            with same_random_numbers(), own_data_kept(self._model):
                if step.compression is not None:
                    layers, left_out = self._compressed(step.compression, self._weights(step))
                    compressed = time.perf_counter()
                with _quantized_inputs(step.compression, self._weights(step)):
                    result = self._evaluated()
        except Exception as fault:
            error = f"{type(fault).__name__}: {fault}"
        finally:
            if step.compression is None:
                self.changed = tuple(self._snapshot.changed_by_others())
            self._snapshot.put_back([weight.parameter for weight in self._weights(step)])
        if not self._bench.ranks.all_agree(not error):
            result, error = Evaluation({}), error or "it failed on another process"
        row = TrialRow(
            step.compression.name if step.compression else BASELINE,
            result.metrics,
            self._packed_bytes(layers) if layers or step.compression is None else 0,
            time.perf_counter() - started,
            error,
            settings=dict(step.compression.settings) if step.compression else {},
            compress_seconds=compressed - started,
            layers=layers,
            layer=step.weight.name if step.weight else "",
            left_out=left_out,
        )
        return row, result

    def _evaluated(self) -> Evaluation:
        result = self._bench.evaluate(self._model)
        if isinstance(result, Evaluation):
            return result
        if not isinstance(result, Mapping):
            raise TypeError(
                f"evaluate(model) must return a dict such as {{'loss': 0.3}}, got {result!r}"
            )
        return Evaluation({str(name): float(value) for name, value in result.items()})

    def planned(self, steps: Sequence[Step], baseline: TrialRow) -> Plan:
        """How long each step will take, by the baseline and by one weight of a middling size."""
        sizes = {weight.parameter.numel(): weight for weight in self._targets.weights}
        nearest = min(sizes, key=lambda size: abs(math.log(size / _SAMPLE)), default=_MANY + 1)
        values = sum(weight.parameter.numel() for weight in self._targets.weights)
        paces: dict[str, float] = {}
        for compression in dict.fromkeys(s.compression for s in steps if nearest <= _MANY):
            if compression is not None:
                started = time.perf_counter()
                try:
                    list(self._applied(compression, [sizes[nearest]]))
                except Exception:
                    continue  # its row will say why
                finally:
                    self._snapshot.put_back([sizes[nearest].parameter])
                paces[compression.name] = (time.perf_counter() - started) / max(nearest, _FEW)
        return Plan(tuple(steps), baseline.seconds, paces, values)

    def _weights(self, step: Step) -> Sequence[Weight]:
        return [step.weight] if step.weight else self._targets.weights

    def _compressed(
        self, compression: Compression, weights: Sequence[Weight]
    ) -> tuple[tuple[CompressedLayer, ...], tuple[Skipped, ...]]:
        layers = tuple(self._applied(compression, weights))
        left_out = tuple(compression.left_out(weights))
        if not layers:
            reasons = "; ".join(f"{item.name}: {item.reason}" for item in left_out[:3])
            raise ValueError(f"it leaves every weight as it is ({reasons or 'there are none'})")
        return layers, left_out

    @torch.no_grad()
    def _applied(
        self, compression: Compression, weights: Sequence[Weight]
    ) -> Iterator[CompressedLayer]:
        yield from compression.apply(weights)

    def _packed_bytes(self, layers: Sequence[CompressedLayer]) -> int:
        packed = {layer.name: layer.packed_bytes for layer in layers}
        sizes = (
            packed.get(weight.name, size_in_bytes(weight.parameter))
            for weight in self._targets.weights
        )
        return self._targets.other_bytes + sum(sizes)
