"""What a fit costs in floating-point operations: so far, and what an early end saved."""

import math
from typing import Any

from lightning_weightwatch.callbacks._lightning import LightningModule, Trainer
from lightning_weightwatch.callbacks.epoch_mean import scalars_on
from lightning_weightwatch.model.batch_size import known_batch_size
from lightning_weightwatch.usage.flops.count import count_without_values
from lightning_weightwatch.usage.flops.report import FlopReport


class RunCost:
    """Counts a batch, and takes every sample, of training and of validation, to cost as much.

    Attributes:
        report: Of the batch that was counted last; None where none could be.
        processes: How many share the fit.
        batches: How many batches this process has trained on, since it counts.
    """

    def __init__(self) -> None:
        self.report: FlopReport | None = None
        self.processes = 1
        self.batches = 0
        self._flops = 0.0
        self._trainable: tuple[bool, ...] | None = None

    def is_outdated(self, module: LightningModule) -> bool:
        """Whether nothing was counted yet, or other parameters are trained since."""
        return self._trainable != _trainable(module)

    def count(self, module: LightningModule, batch: Any) -> None:
        """Count what a training step of this batch costs.

        Raises:
            CannotRun: If neither can be counted.
        """
        self._trainable = _trainable(module)
        self.report = count_without_values(module, batch)

    def trained(self, batch: Any) -> None:
        """A batch was trained on."""
        self.batches += 1
        if self.report is not None:
            samples = known_batch_size(batch) or 1
            self._flops += samples * self.report.training_step / self.report.batch_size

    def validated(self, batch: Any) -> None:
        """A batch was validated on."""
        if self.report is not None:
            self._flops += self.report.inference(known_batch_size(batch) or 1)

    def so_far(self, trainer: Trainer) -> float:
        """The operations of all processes; NaN where none could be counted. A collective."""
        mine = math.nan if self.report is None else self._flops
        total = trainer.strategy.reduce(scalars_on(trainer, [mine]), reduce_op="sum")
        return float(total)

    def saved(self, trainer: Trainer, so_far: float) -> float:
        """About how many operations an early end saved; 0 for a fit that ended as it was to."""
        left = batches_left(trainer)
        return so_far / self.batches * left if self.batches and left > 0 else 0.0

    def state(self) -> dict[str, float]:
        """Plain numbers to go on from, also on another number of processes."""
        return {"flops": self._flops * self.processes, "batches": self.batches}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from `state()`."""
        self._flops = state["flops"] / self.processes
        self.batches = int(state["batches"])


def _trainable(module: LightningModule) -> tuple[bool, ...]:
    return tuple(parameter.requires_grad for parameter in module.parameters())


def batches_left(trainer: Trainer) -> float:
    """How many batches of training a fit that was stopped has left out; 0 where none was planned.

    Planned are `max_epochs` epochs of a known length. Where `max_steps` or a Timer set an end, too,
    it is not told which of them would have come first.
    """
    batches, epochs = float(trainer.num_training_batches), trainer.max_epochs
    timed = any(hasattr(each, "time_remaining") for each in trainer.callbacks)  # type: ignore[attr-defined]
    planned = epochs is not None and epochs > 0 and math.isfinite(batches)
    if not trainer.should_stop or not planned or trainer.max_steps > 0 or timed:
        return 0.0
    assert epochs is not None
    return max(epochs * batches - (trainer.fit_loop.total_batch_idx + 1), 0.0)
