"""What a fit costs in floating-point operations: so far, and what an early end saved."""

import math
from typing import Any

from lightning_weightwatch.callbacks._lightning import LightningModule, Trainer
from lightning_weightwatch.callbacks.epoch_mean import scalars_on
from lightning_weightwatch.model.batch_size import known_batch_size
from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.usage.flops.count import count_flops, count_training_step
from lightning_weightwatch.usage.flops.report import FlopReport


class RunCost:
    """Counts a training step once, and then samples: of training and of validation.

    Samples of other lengths than those of the first batch cost as much as these.

    Attributes:
        report: Of the first batch; None before it, and where it could not be counted.
    """

    def __init__(self) -> None:
        self.report: FlopReport | None = None
        self._trained = self._validated = 0

    def count(self, module: LightningModule, batch: Any) -> None:
        """Count a training step of this batch, or three forward passes where it cannot be.

        Raises:
            CannotRun: If neither can be counted.
        """
        try:
            self.report = count_training_step(module, batch)
        except CannotRun:
            self.report = count_flops(module, batch)

    def trained(self, batch: Any) -> None:
        """A batch was trained on."""
        self._trained += known_batch_size(batch) or 1

    def validated(self, batch: Any) -> None:
        """A batch was validated on."""
        self._validated += known_batch_size(batch) or 1

    def so_far(self, trainer: Trainer) -> float:
        """The operations of all processes; NaN where a step could not be counted. A collective."""
        mine = math.nan
        if self.report is not None:
            per_sample = self.report.training_step / self.report.batch_size
            mine = self._trained * per_sample + self.report.inference(self._validated)
        total = trainer.strategy.reduce(scalars_on(trainer, [mine]), reduce_op="sum")
        return float(total)

    def state(self) -> dict[str, int]:
        """Plain numbers to go on from."""
        return {"trained": self._trained, "validated": self._validated}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from `state()`."""
        self._trained, self._validated = state["trained"], state["validated"]


def share_left(trainer: Trainer) -> float:
    """How much of its planned batches a fit left out, as a multiple of those it ran.

    0 for a fit without an end that was planned.
    """
    done, batches = trainer.fit_loop.total_batch_idx + 1, float(trainer.num_training_batches)
    planned = math.inf
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        planned = trainer.max_epochs * batches
    if trainer.max_steps > 0:
        planned = min(planned, trainer.max_steps * trainer.accumulate_grad_batches)
    return max(planned / done - 1, 0.0) if math.isfinite(planned) and done > 0 else 0.0
