"""Where a fit stands: how much of it is done, and whether the weights are looked at next."""

import math

from lightning_weightwatch.callbacks._lightning import Trainer


def looks_before_next_step(trainer: Trainer) -> bool:
    """Whether a validation, or the end of the epoch, follows before the optimizer's next step.

    To be asked in a step, of which Lightning's counters know nothing yet. What cannot be known
    then is not: that a callback stops the fit, or that it is time for a validation by the clock.
    """
    if 0 < trainer.max_steps <= trainer.global_step + 1:
        return True
    stride = 1
    if trainer.lightning_module.automatic_optimization:
        stride = trainer.accumulate_grad_batches
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    ahead = stride - done % stride if done % stride else stride  # batches to the next step
    return any(_looks_after(trainer, more) for more in range(ahead))


def _looks_after(trainer: Trainer, more: int) -> bool:
    """Whether a look follows the batch that is so many after this one, itself no step."""
    loop = trainer.fit_loop.epoch_loop
    done = loop.batch_progress.current.ready + more
    if more == 0 and (loop.batch_progress.is_last_batch or done == trainer.num_training_batches):
        return True
    if done >= trainer.num_training_batches:  # the last batch steps, whatever is accumulated
        return False
    every, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if every is None or not math.isfinite(every) or every < 1 or not trainer.enable_validation:
        return False
    if epochs is None:  # batches are counted from the beginning of the fit
        return (trainer.fit_loop.total_batch_idx + 1 + more) % every == 0
    return (trainer.current_epoch + 1) % epochs == 0 and done % every == 0


def share_done(trainer: Trainer) -> float | None:
    """The share of the fit that is done, by epochs or by steps; None where it has no end."""
    loop, shares = trainer.fit_loop, []
    batches = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        if math.isfinite(batches) and batches > 0:
            shares.append((loop.total_batch_idx + 1) / (batches * trainer.max_epochs))
        else:
            shares.append((trainer.current_epoch + 1) / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    return min(max(shares), 1.0) if shares else None
