"""What a model costs: FLOPs, parameters and memory of each of its modules."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from lightning_weightwatch.report import Skipped


@dataclass(frozen=True)
class ModuleCost:
    """What one module costs, and all modules below it together.

    Attributes:
        name: Dotted path, without the wrappers of `torch.compile` and FSDP; the class name for the
            model itself.
        type: Name of its class.
        depth: 0 for the model itself.
        own_forward: FLOPs of one run within its own forward, without those of its children.
        own_backward: The same of the backward pass.
        forward: FLOPs of one run, with all modules below it.
        backward: The same of the backward pass.
        own_parameters: Numbers in its own parameters; a tied one counts where it stands first.
        parameters: The same, with all modules below it.
        parameter_bytes: What `parameters` take, each in its dtype.
        activation_bytes: What is kept for the backward pass by all that runs within it. Where two
            modules keep the same tensor, it counts in each, and once in the module above them. Of
            recurrent layers an estimate: gates, states and outputs of every step.
        own_bytes: Read and written by its own counted operations: inputs, weights and outputs.
        calls: How often its forward ran.
        output_shape: Of the first tensor that its last call returned; None where there was none.
        seconds: Median time of its forward, with all it calls, over a few runs; None unless
            profiled. Where it runs several times in a run, the sum.
    """

    name: str
    type: str
    depth: int
    own_forward: int
    own_backward: int
    forward: int
    backward: int
    own_parameters: int
    parameters: int
    parameter_bytes: int
    activation_bytes: int
    own_bytes: int
    calls: int
    output_shape: tuple[int, ...] | None
    seconds: float | None = None


@dataclass(frozen=True)
class Uncounted:
    """An operation that was seen and is in no FLOP.

    Attributes:
        operation: Its name, such as `aten.fft_r2c`.
        calls: How often it ran.
        values: Numbers in its outputs, over all calls.
        elementwise: Whether convention leaves it out, as it is little beside matrix products:
            elementwise operations, reductions, normalisation, pooling, softmax, copies. Otherwise
            its cost is not known.
    """

    operation: str
    calls: int
    values: int
    elementwise: bool


@dataclass(frozen=True)
class FlopReport:
    """What one batch costs, by module.

    A multiplication with its addition is 2 FLOPs. What counts, and what backward means, is told by
    `count_flops`.

    Attributes:
        modules: In the order of `named_modules`; the first is the model itself.
        uncounted: Operations that are in no FLOP: those of unknown cost first, then those with most
            values.
        batch_size: Samples in the batch.
        device: `"meta"`, or where the batch really ran.
        fallback: Why it did not run on meta; an empty string where it did.
        ran: `"forward"`, the step that ran in its place, such as `"training_step"`, or `"run"`.
        skipped: Modules that were never called.
    """

    modules: tuple[ModuleCost, ...]
    uncounted: tuple[Uncounted, ...]
    batch_size: int
    device: str
    fallback: str
    ran: str
    skipped: tuple[Skipped, ...] = ()

    @property
    def forward(self) -> int:
        """FLOPs of a forward pass of the batch."""
        return self.modules[0].forward

    @property
    def backward(self) -> int:
        """FLOPs of its backward pass."""
        return self.modules[0].backward

    @property
    def training_step(self) -> int:
        """FLOPs of forward and backward pass together."""
        return self.forward + self.backward

    @property
    def macs(self) -> int:
        """Multiplications with their additions in a forward pass of the batch."""
        return self.forward // 2

    @property
    def parameters(self) -> int:
        """Numbers in all parameters, tied ones once."""
        return self.modules[0].parameters

    @property
    def parameter_bytes(self) -> int:
        """What the parameters take."""
        return self.modules[0].parameter_bytes

    @property
    def activation_bytes(self) -> int:
        """What the batch leaves in memory for the backward pass."""
        return self.modules[0].activation_bytes

    @property
    def intensity(self) -> float:
        """FLOPs of a forward pass by byte that its counted operations read or write.

        NaN where nothing was counted.
        """
        return _ratio(self.forward, sum(module.own_bytes for module in self.modules))

    @property
    def unknown(self) -> tuple[Uncounted, ...]:
        """The uncounted operations whose cost is not known."""
        return tuple(found for found in self.uncounted if not found.elementwise)

    def training(self, steps: int) -> int:
        """FLOPs of training for so many steps with batches of this size."""
        _check(steps, "steps")
        return steps * self.training_step

    def inference(self, samples: int) -> float:
        """FLOPs of a forward pass of so many samples."""
        _check(samples, "samples")
        return samples * self.forward / self.batch_size

    def summary(self) -> dict[str, float]:
        """Of one batch of `batch_size` samples; FLOPs of a sample are those of its forward pass."""
        values = {
            "forward_flops": float(self.forward),
            "backward_flops": float(self.backward),
            "training_step_flops": float(self.training_step),
            "sample_flops": self.inference(1),
            "macs": float(self.macs),
            "parameters": float(self.parameters),
            "parameter_bytes": float(self.parameter_bytes),
            "activation_bytes": float(self.activation_bytes),
            "intensity": self.intensity,
            "unknown_operations": float(sum(found.calls for found in self.unknown)),
            "seconds": math.nan if self.modules[0].seconds is None else self.modules[0].seconds,
        }
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def records(self) -> list[dict[str, Any]]:
        """A row per module, with its shares of the model and its intensity, all below included.

        `None` stands for what is not known: the intensity of what counted nothing, times that were
        not taken, outputs that are no tensors.
        """
        rows = []
        for place, module in enumerate(self.modules):
            shape = module.output_shape
            intensity = _ratio(module.forward, self._bytes_within(place))
            rows.append(
                {
                    **vars(module),
                    "output_shape": None if shape is None else list(shape),
                    "forward_share": module.forward / self.forward if self.forward else 0.0,
                    "parameters_share": module.parameters / max(self.parameters, 1),
                    "intensity": intensity if math.isfinite(intensity) else None,
                }
            )
        return rows

    def _bytes_within(self, place: int) -> int:
        """Read and written by a module and all below it, which follow it in `modules`."""
        total = self.modules[place].own_bytes
        for module in self.modules[place + 1 :]:
            if module.depth <= self.modules[place].depth:
                break
            total += module.own_bytes
        return total


def _ratio(flops: int, moved: int) -> float:
    return flops / moved if moved else math.nan


def _check(count: Any, name: str) -> None:
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
        raise ValueError(f"{name} must be a whole number of 0 or more, got {count}.")
