"""The loggers of a Trainer, each as what it can take."""

from lightning_weightwatch.callbacks._lightning import Logger, Trainer
from lightning_weightwatch.callbacks.loggers import mlflow, wandb
from lightning_weightwatch.callbacks.loggers.sink import Sink
from lightning_weightwatch.callbacks.loggers.table import TableSink
from lightning_weightwatch.callbacks.loggers.tensorboard import EventSink, WriterSink, is_of_torch


def loggers_of(trainer: Trainer) -> list[Logger]:
    """Those to write to: none on all ranks but the first, nor under `fast_dev_run`.

    Its dummy would take everything and keep nothing.
    """
    if getattr(trainer, "fast_dev_run", False) or not trainer.is_global_zero:
        return []
    return list(trainer.loggers)


def sink_of(logger: Logger, epoch: int) -> Sink:
    """A logger, told by what it can do: of every kind there is more than one class.

    Args:
        logger: Any.
        epoch: The current one, a column of those that keep tables.
    """
    writer = getattr(logger, "experiment", None)
    if is_of_torch(writer):
        return EventSink(logger, writer)
    if callable(getattr(writer, "add_histogram_raw", None)):
        return WriterSink(logger, writer)
    if wandb.accepts(logger):
        return wandb.WandbSink(logger, epoch)
    if mlflow.accepts(logger):
        return mlflow.MLflowSink(logger, epoch)
    return TableSink(logger, epoch)
