"""The weights of the best checkpoint, in the model for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.best.load import load_weights
from lightning_weightwatch.callbacks.ranks import TrainerRanks
from lightning_weightwatch.files.checkpoint import BadFile
from lightning_weightwatch.trials.snapshot import restored


def has_best(trainer: Trainer) -> bool:
    """Whether a ModelCheckpoint of the Trainer knows a best checkpoint: it has a `monitor`."""
    return any(getattr(found, "monitor", None) for found in trainer.checkpoint_callbacks)


@contextmanager
def best_weights(
    trainer: Trainer, model: nn.Module, monitor: str | None, since: float
) -> Iterator[None]:
    """Within the block the model has the weights of the best checkpoint, after it again its own.

    Tensor by tensor out of the mapped file. No code in it is run, unless this process has written
    it itself: hyperparameters of the user's own classes are code to a reader. A collective.

    Args:
        trainer: Whose ModelCheckpoint knows the file: the one that monitors the metric, else the
            first that monitors any.
        model: Its weights are overwritten, and put back.
        monitor: The metric.
        since: When the fit began. A file that is younger was written by it.

    Raises:
        BadFile: When there is none, it cannot be read, or it does not fit the model, in any
            process. The model is then as it was.
    """
    with restored(model, list(model.parameters())):
        fault = None
        try:
            load_weights(model, _best_path(trainer, monitor), since)
        except Exception as error:
            fault = error
        if not TrainerRanks(trainer).all_agree(fault is None):
            raise fault or BadFile("another process could not load the best checkpoint")
        yield


def _best_path(trainer: Trainer, monitor: str | None) -> str:
    watching: list[Any] = [c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)]
    watching.sort(key=lambda found: found.monitor != monitor)
    path = next((found.best_model_path for found in watching if found.best_model_path), "")
    if not path:
        raise BadFile(
            "weights='best', but ModelCheckpoint has written no best checkpoint (in a fast_dev_run "
            "it writes none)"
        )
    return str(path)
