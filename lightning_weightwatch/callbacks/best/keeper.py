"""BestKeeper: a monitor that keeps the weights of its best epoch, and puts them back."""

from typing import Any

from lightning_weightwatch.callbacks._lightning import (
    LightningModule,
    Trainer,
    rank_zero_info,
)
from lightning_weightwatch.callbacks.best.weights import BestWeights, check_trainer
from lightning_weightwatch.callbacks.keys import TrainerConfigurationError, keyed
from lightning_weightwatch.callbacks.monitor import EpochMonitor


class BestKeeper(EpochMonitor):
    """An EpochMonitor that knows where the weights of the best epoch are.

    Args:
        save_best: Write them to `best.pt` at each new best.
        restore_best: Put them back into the model in `on_fit_end`.
        every_n_epochs: See `EpochMonitor`.
        at_start: See `EpochMonitor`.
        prefix: In place of `weightwatch`.

    Raises:
        ValueError: For an argument out of its range.
    """

    CHEAPER = "leave out save_best and restore_best"

    def __init__(
        self,
        *,
        save_best: bool,
        restore_best: bool,
        every_n_epochs: int,
        at_start: bool,
        prefix: str,
    ) -> None:
        for name, given in (("save_best", save_best), ("restore_best", restore_best)):
            if not isinstance(given, bool):
                raise ValueError(f"{name} must be True or False, got {given!r}")
        self.save_best = save_best
        self.restore_best = restore_best
        super().__init__(every_n_epochs=every_n_epochs, at_start=at_start, prefix=prefix)

    def _reset(self) -> None:
        super()._reset()
        self._restored_at: int | None = None
        self._forget_best()

    def _forget_best(self) -> None:
        self._best = BestWeights(save=self.save_best, restore=self.restore_best)

    def _keep_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The weights as they are now are the best so far. A collective."""
        self._best.new_best(trainer)
        with self._guarded("could not keep the weights of the best epoch"):
            self._best.copy(pl_module)
        with self._guarded("could not write best.pt"):
            self._best.write(trainer, pl_module, self.prefix)

    def _best_epoch(self) -> int | None:
        """Which it is, 0-based; None before there is one."""
        return None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the combination with the other callbacks and the strategy.

        Raises:
            TrainerConfigurationError: If the best weights are wanted, and another callback averages
                weights or puts its own best back, or the strategy is FSDP or DeepSpeed.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or not (self.save_best or self.restore_best):
            return
        check_trainer(trainer, "save_best" if self.save_best else "restore_best")
        others = [found for found in keyed(trainer) if getattr(found, "restore_best", False)]
        if self.restore_best and len(others) > 1:
            raise TrainerConfigurationError(
                f"{len(others)} callbacks have restore_best=True, and a model has one set of "
                "weights: leave it out of all but one"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note what was written before the weights change."""
        with self._guarded("could not look at the checkpoints"):
            self._best.moving_on(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note what is written, and keep the state."""
        with self._guarded("could not look at the checkpoints"):
            self._best.saving(trainer)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back, on request: every checkpoint is written by now."""
        trained = trainer.fit_loop.total_batch_idx
        if self.restore_best and trained not in (-1, self._restored_at):
            self._restored_at = trained
            self._put_back(trainer, pl_module)
        super().on_fit_end(trainer, pl_module)

    def _put_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        name, best = type(self).__name__, self._best_epoch()
        if best is None:
            rank_zero_info(f"{name} has no best weights: no validation gave a finite metric")
            return
        with self._guarded(f"keeps the last weights, not those of its best epoch, {best + 1}"):
            place = self._best.put_back(trainer, pl_module)
            rank_zero_info(f"{name} put the weights of epoch {best + 1} back, from {place}")

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "best": self._best.state()}

    def _restore(self, state: dict[str, Any], source: str | None) -> None:
        super()._restore(state, source)
        self._best.restore(state["best"], source)
