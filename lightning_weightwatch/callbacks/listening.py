"""ListeningMonitor: hooks on the model over batches that a fit runs anyway, then a report."""

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from itertools import takewhile
from typing import Any

from lightning_weightwatch.callbacks._lightning import LightningModule, Trainer, TrainerFn
from lightning_weightwatch.callbacks.epoch_mean import scalars_on
from lightning_weightwatch.callbacks.keys import TrainerConfigurationError
from lightning_weightwatch.callbacks.monitor import EpochMonitor
from lightning_weightwatch.callbacks.ranks import TrainerRanks
from lightning_weightwatch.model.batch_size import known_batch_size
from lightning_weightwatch.usage.fused_layers import beside_fused_layers
from lightning_weightwatch.usage.hooks import UsageHooks
from lightning_weightwatch.usage.report import UsageReport


class Listening:
    """Hooks that are on for so many batches, and then off, whatever happens between.

    Args:
        num_batches: How many batches to listen to; None for all.

    Attributes:
        on: Whether the hooks are.
        hooks: Those of the last time; None before the first, and after `forget`.
        batches: How many batches were heard.
        samples: How many samples those held; a batch that does not tell counts as one.
    """

    def __init__(self, num_batches: int | None) -> None:
        self.num_batches = num_batches
        self._hooks_on = ExitStack()
        self.forget()

    def forget(self) -> None:
        """Take the hooks off, and what they heard."""
        self.stop()
        self.hooks: UsageHooks | None = None
        self.batches = self.samples = 0

    def start(self, put_on: Callable[[], AbstractContextManager[UsageHooks]]) -> None:
        """Forget the last time, and put hooks on."""
        self.forget()
        with ExitStack() as hooks_on:
            self.hooks = hooks_on.enter_context(put_on())
            self._hooks_on = hooks_on.pop_all()
        self.on = True

    def given(self, batch: Any) -> None:
        """Tell the hooks what is data: its zeros are no dead channels."""
        if self.on and self.hooks is not None:
            self.hooks.given(batch)

    def heard(self, batch: Any, *, is_last: bool) -> None:
        """Count a batch, and take the hooks off after the last one."""
        if self.on:
            self.batches += 1
            self.samples += known_batch_size(batch) or 1
            enough = self.num_batches is not None and self.batches >= self.num_batches
            if enough or is_last:
                self.stop()

    def stop(self) -> None:
        """Take the hooks off."""
        self.on = False
        self._hooks_on.close()


class ListeningMonitor(EpochMonitor):
    """A monitor of what happens in the model while it runs.

    It listens to the first batches of each validation that is due; in an epoch without one, to the
    last batches of training. No batch is run for it, and no value changes.

    Args:
        num_batches: How many batches to listen to, on each process; None for all.
        every_n_epochs: See `EpochMonitor`.
        prefix: See `EpochMonitor`.

    Raises:
        ValueError: For an argument out of its range.
    """

    OF_WEIGHTS = False
    CHEAPER = "lower num_batches"

    def __init__(
        self,
        *,
        num_batches: int | None = 8,
        every_n_epochs: int = 1,
        prefix: str = "weightwatch",
    ) -> None:
        whole = isinstance(num_batches, int) and not isinstance(num_batches, bool)
        if num_batches is not None and (not whole or num_batches < 1):
            raise ValueError(
                "num_batches must be how many batches to listen to, 1 or more, or None for all, "
                f"got {num_batches!r}"
            )
        self.num_batches = num_batches
        super().__init__(every_n_epochs=every_n_epochs, prefix=prefix)

    def _reset(self) -> None:
        super()._reset()
        self._listening = Listening(self.num_batches)
        self._listened_in: int | None = None
        self._validated = 0

    @abstractmethod
    def hooks(self, pl_module: LightningModule) -> UsageHooks:
        """What listens to the model."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to be behind a callback that exchanges the weights for a validation.

        Raises:
            TrainerConfigurationError: For that, and see `KeyedCallback.setup`.
        """
        super().setup(trainer, pl_module, stage)
        before = takewhile(lambda each: each is not self, trainer.callbacks)  # type: ignore[attr-defined]
        for other in before if stage == "fit" else ():
            if any(base.__name__ == "WeightAveraging" for base in type(other).__mro__):
                raise TrainerConfigurationError(
                    f"{type(other).__name__} is listed before {type(self).__name__}: it puts its "
                    "averaged weights away before they are looked at. List it after"
                )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Listen, from the first of the last batches on, if no validation is listened to."""
        if self._listened_in != trainer.current_epoch and super()._due(trainer):
            is_one = False
            with self._guarded("could not tell whether a validation follows"):
                end = epoch_end(trainer, batch_idx)
                last = among_the_last(batch_idx, end, self.num_batches)
                is_one = last and not validates_before(trainer, batch_idx, end)
            if is_one:
                self._listen(trainer, pl_module)
        self._tell(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        with self._guarded("could not count a batch"):
            is_last = batch_idx + 1 >= trainer.num_training_batches
            self._listening.heard(batch, is_last=is_last)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, if this validation is due."""
        if in_a_fit(trainer) and super()._due(trainer):
            self._validated = 0
            self._listen(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say what is data."""
        self._tell(batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        self._validated += 1
        with self._guarded("could not count a batch"):
            is_last = self._validated >= sum(trainer.num_val_batches)
            self._listening.heard(batch, is_last=is_last)

    def _listen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listened_in = trainer.current_epoch
        with self._guarded("could not listen to the model"):
            self._listening.start(lambda: beside_fused_layers(pl_module, self.hooks(pl_module)))

    def _tell(self, batch: Any) -> None:
        with self._guarded("could not look at a batch"):
            self._listening.given(batch)

    def _due(self, trainer: Trainer) -> bool:
        """When something was heard that is not measured yet."""
        return self._listening.hooks is not None and super()._due(trainer)

    def heard(self, trainer: Trainer) -> UsageReport:
        """A report of what all processes have heard, which is then forgotten. A collective."""
        heard, ranks = self._listening, TrainerRanks(trainer)
        heard.stop()
        hooks, counts = heard.hooks, scalars_on(trainer, [heard.batches, heard.samples])
        assert hooks is not None
        try:
            hooks.merge(ranks.reduce)
            batches, samples = map(int, ranks.sum(counts).tolist())
            return hooks.report(batches, samples)
        finally:
            heard.forget()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the hooks off too when a fit breaks off."""
        self._listening.forget()
        super().on_exception(trainer, pl_module, exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks off."""
        self._listening.forget()
        super().teardown(trainer, pl_module, stage)


def in_a_fit(trainer: Trainer) -> bool:
    """Whether what runs is a fit, and no check whether it would."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def epoch_end(trainer: Trainer, batch_idx: int) -> float:
    """After how many batches this epoch ends, infinite where that is not known.

    Args:
        trainer: About to run a batch.
        batch_idx: Of that batch.
    """
    end = float(trainer.num_training_batches)
    if trainer.max_steps > 0:
        steps = trainer.max_steps - trainer.global_step
        if trainer.lightning_module.automatic_optimization:
            end = min(end, batch_idx + steps * trainer.accumulate_grad_batches)
        else:  # it may step each of its optimizers in a batch
            end = min(end, batch_idx + math.ceil(steps / max(len(trainer.optimizers), 1)))
    return end


def validates_before(trainer: Trainer, batch_idx: int, end: float) -> bool:
    """Whether this epoch has a validation yet to come before it ends, as far as can be told.

    One by the clock cannot. If it comes after all, it is listened to in its turn.
    """
    every, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or every is None:
        return False
    if epochs is None:  # every so many batches of the fit
        done = trainer.fit_loop.total_batch_idx
        return math.isinf(end) or (done + end - batch_idx) // every > done // every
    reached = math.isinf(end) if math.isinf(every) else every <= end
    return (trainer.current_epoch + 1) % epochs == 0 and reached


def among_the_last(batch_idx: int, end: float, num_batches: int | None) -> bool:
    """Whether a batch is one of the last of an epoch; of an endless one, of the first."""
    if num_batches is None:
        return True
    return batch_idx < num_batches if math.isinf(end) else batch_idx >= end - num_batches
