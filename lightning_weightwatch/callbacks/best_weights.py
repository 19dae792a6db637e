"""The weights of the best checkpoint, in the model for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.ranks import TrainerRanks
from lightning_weightwatch.files.checkpoint import BadFile, MissingFile, WeightFile, open_weights
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
            _load(model, _best_path(trainer, monitor), since)
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


@torch.no_grad()
def _load(model: nn.Module, path: str, since: float) -> None:
    with _opened(path, since) as file:
        names = set(file.names())
        places = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        wanted = [name for name in model.state_dict(keep_vars=True) if name in places]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise BadFile(
                f"{path}: it lacks {len(missing)} of the {len(wanted)} tensors of the model, such "
                f"as {missing[0]}"
            )
        for name in wanted:
            values = file.read(name)
            if values.shape != places[name].shape:
                raise BadFile(
                    f"{path}: {name} is {tuple(values.shape)} there and "
                    f"{tuple(places[name].shape)} in the model"
                )
            places[name].copy_(values)


def _opened(path: str, since: float) -> WeightFile:
    try:
        return open_weights(path)
    except MissingFile:
        raise
    except BadFile:
        if Path(path).stat().st_mtime >= since:
            return open_weights(path, trust=True)
        raise
