"""weightwatch(): every callback with its defaults."""

from lightning_weightwatch.callbacks._lightning import Callback
from lightning_weightwatch.callbacks.losses import OverfittingMonitor
from lightning_weightwatch.callbacks.monitored import Mode
from lightning_weightwatch.callbacks.pruning import PruningTrial
from lightning_weightwatch.callbacks.quantization import QuantizationTrial
from lightning_weightwatch.callbacks.spectral import SpectralMonitor
from lightning_weightwatch.callbacks.usage import WeightUsageMonitor
from lightning_weightwatch.callbacks.weights import WeightHistogram


def weightwatch(
    *,
    monitor: str | None = None,
    mode: Mode | None = None,
    trials: bool = True,
    prefix: str = "weightwatch",
) -> list[Callback]:
    """The default callbacks, for `Trainer(callbacks=weightwatch())`.

    Args:
        monitor: The validation metric of OverfittingMonitor and the trials. None: that of
            ModelCheckpoint or EarlyStopping, else `val_loss`.
        mode: `"min"` or `"max"`. None: that of ModelCheckpoint or EarlyStopping, else
            `"min"`.
        trials: Whether to try 8, 6 and 4 bits a weight, and to prune 20, 50 and 90 % of the
            weights after training, which runs the validation loop eight times.
        prefix: The first part of every key and tag.

    Examples:
        >>> from lightning_weightwatch import weightwatch
        >>> [type(callback).__name__ for callback in weightwatch(trials=False)]
        ['WeightHistogram', 'SpectralMonitor', 'OverfittingMonitor', 'WeightUsageMonitor']
    """
    callbacks: list[Callback] = [
        WeightHistogram(prefix=prefix),
        SpectralMonitor(prefix=prefix),
        OverfittingMonitor(monitor=monitor, mode=mode, prefix=prefix),
        WeightUsageMonitor(prefix=prefix),
    ]
    if trials:
        callbacks.append(QuantizationTrial(monitor=monitor, mode=mode, prefix=prefix))
        callbacks.append(PruningTrial(monitor=monitor, mode=mode, prefix=prefix))
    return callbacks
