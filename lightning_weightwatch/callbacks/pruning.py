"""PruningTrial: what removing the smallest weights would cost, on the user's own validation."""

from collections.abc import Sequence

from lightning_weightwatch.callbacks.monitored import Mode
from lightning_weightwatch.callbacks.trial import PostFitTrial
from lightning_weightwatch.trials.pruning import Pruning


class PruningTrial(PostFitTrial):
    """After training, evaluate the model with its smallest weights set to zero.

    Global magnitude pruning: the given share of all matrices and kernels together, wherever the
    smallest stand; biases and norms stay. Nothing is retrained, so what a model with batch
    normalisation loses here is more than it would lose after a few batches of recalibration.

    | key, known only after training       | meaning                                 |
    |--------------------------------------|-----------------------------------------|
    | `weightwatch/pruning_pruned50_delta` | the monitored metric minus its baseline |
    | `weightwatch/pruning_pruned50_bytes` | bytes of the model, stored so           |

    The bytes are those of the live values, of a bitmap, and of everything else at its own width.
    The table is the text `weightwatch/pruning`. Zeros make no ordinary kernel faster.

    Args:
        amounts: Shares to try, each between 0 and 1.
        monitor: The metric to compare by. None: that of ModelCheckpoint or EarlyStopping, else
            `val_loss`.
        mode: `"min"` if it is to fall, `"max"` if it is to rise. None: that of ModelCheckpoint
            or EarlyStopping for this metric, else `"min"`.
        verbose: Print the table at the end of the fit.
        hparams: Show the variants, the best 10 of all trials, in TensorBoard's tab HParams, as runs
            of their own. The columns there are then those of the trials and of the module's
            hyperparameters, without `hp_metric`.
        prefix: In place of `weightwatch`.

    Raises:
        ValueError: For an argument out of its range.
    """

    AREA = "pruning"

    def __init__(
        self,
        *,
        amounts: Sequence[float] = (0.5,),
        monitor: str | None = None,
        mode: Mode | None = None,
        verbose: bool = True,
        hparams: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(
            monitor=monitor, mode=mode, verbose=verbose, hparams=hparams, prefix=prefix
        )
        if not isinstance(amounts, Sequence) or not amounts:
            raise ValueError(f"amounts must be a list such as [0.2, 0.5], got {amounts!r}")
        for amount in amounts:
            if isinstance(amount, bool) or not isinstance(amount, int | float):
                raise ValueError(f"amounts must be numbers between 0 and 1, got {amount!r}")
            if not 0 < amount < 1:
                raise ValueError(
                    f"amounts must be shares between 0 and 1, both excluded, got {amount}; 0.5 "
                    "removes half of the weights"
                )
        if len({Pruning(amount).name for amount in amounts}) < len(amounts):
            raise ValueError(f"amounts must differ from each other, got {list(amounts)}")
        self.amounts = tuple(amounts)

    def compressions(self) -> list[Pruning]:
        """One for each amount."""
        return [Pruning(amount) for amount in self.amounts]
