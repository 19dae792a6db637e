"""PruningTrial: what removing the smallest weights would cost, on the user's own validation."""

from collections.abc import Sequence
from typing import ClassVar

from lightning_weightwatch.callbacks.monitored import Mode
from lightning_weightwatch.callbacks.trial import NOTHING, PostFitTrial, Which
from lightning_weightwatch.callbacks.validation import BatchLimit
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.grid import prunings
from lightning_weightwatch.trials.pruning import Method, Scope
from lightning_weightwatch.trials.trial import Given


class PruningTrial(PostFitTrial):
    """After training, evaluate the model with some of its weights set to zero.

    Of all matrices and kernels; biases and norms stay. Nothing is retrained, so what a model with
    batch normalisation loses here is more than it would lose after a few batches of recalibration.

    | key, known only after training       | meaning                                 |
    |--------------------------------------|-----------------------------------------|
    | `weightwatch/pruning_pruned50_delta` | the monitored metric minus its baseline |
    | `weightwatch/pruning_pruned50_bytes` | bytes of the model, stored so           |

    A variant is called after what goes, and what it does not share with the default settings:
    `pruned50`, `pruned90_layer`, `pruned50_wanda`, `pruned2of4`. The bytes are those of the live
    values, of a bitmap (or of their places among each m), and of everything else at its own width.
    Zeros make no ordinary kernel faster.

    | in TensorBoard beside the keys | what it shows                                              |
    |--------------------------------|------------------------------------------------------------|
    | `weightwatch/pruning`          | the table of all variants                                  |
    | `weightwatch/pruning_damage`   | the change of the metric against the share that goes       |
    | `weightwatch/pruning_layers`   | weights x amounts: damage of each alone, or its SQNR       |
    | `weightwatch/pareto`           | the metric against bytes, of all trials together           |

    The rows are also files in the folder `weightwatch` of the log folder: `pruning.jsonl`,
    `pruning.csv`, and those of single weights `pruning_layers.csv`.

    Args:
        amounts: Shares to try, each between 0 and 1, or patterns such as `"2:4"`: of each four
            neighbours in a row two stay.
        method: What goes: the least `"magnitude"`, or the least |w|·‖x‖ in each output row,
            `"wanda"`. Its inputs x are those of the baseline's own validation batches, which is
            slightly in its favour.
        scope: Of magnitudes: compared over all weights, `"global"`, or within each, `"layer"`.
        monitor: The metric to compare by. None: that of ModelCheckpoint or EarlyStopping, else
            `val_loss`.
        mode: `"min"` if it is to fall, `"max"` if it is to rise. None: that of ModelCheckpoint
            or EarlyStopping for this metric, else `"min"`.
        weights: `"last"` for those at the end of training, or `"best"` for those of the best
            checkpoint, which are loaded for the trials alone.
        limit_batches: Of each validation loader take so many batches at most (an integer), or such
            a share (a float up to 1.0). None: all that the fit validates on.
        max_seconds: No evaluation begins that would probably end later; None for no limit.
        max_evaluations: At most so many, the baseline included; None for no limit.
        per_layer: So many of the largest weights are also pruned alone, for the heat map.
        tolerance: The share of its baseline by which the metric may be worse in `report.best`.
        verbose: Print the table at the end of the fit.
        hparams: Show the best variants in TensorBoard's tab HParams, as runs of their own: ten of
            the Trainer, shared evenly between its trials. The columns there are then those of the
            trials and of the module's hyperparameters, without `hp_metric`.
        prefix: In place of `weightwatch`.

    Raises:
        ValueError: For an argument out of its range.
    """

    AREA = "pruning"
    CHARTS: ClassVar[dict[str, str]] = {
        "pruning_damage": "the change of the metric against the share that goes",
        "pruning_layers": "weights x amounts: damage of each alone, or its SQNR in dB",
        "pareto": "the metric against bytes, of all trials together",
    }

    def __init__(
        self,
        *,
        amounts: str | float | Sequence[str | float] = (0.2, 0.5, 0.9),
        method: Method | Sequence[Method] = "magnitude",
        scope: Scope | Sequence[Scope] = "global",
        monitor: str | None = None,
        mode: Mode | None = None,
        weights: Which = "last",
        limit_batches: BatchLimit | None = None,
        max_seconds: float | None = None,
        max_evaluations: int | None = None,
        per_layer: int = 0,
        tolerance: float = 0.01,
        verbose: bool = True,
        hparams: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            weights=weights,
            limit_batches=limit_batches,
            max_seconds=max_seconds,
            max_evaluations=max_evaluations,
            per_layer=per_layer,
            tolerance=tolerance,
            verbose=verbose,
            hparams=hparams,
            prefix=prefix,
        )
        self._settings = (amounts, method, scope)
        prunings(*self._settings)  # raises for what is wrong

    @property
    def needs_norms(self) -> bool:
        """Whether any of it is Wanda's."""
        return any(pruning.method == "wanda" for pruning in prunings(*self._settings))

    def compressions(self, given: Given = NOTHING) -> Sequence[Compression]:
        """One for each combination of the settings."""
        return prunings(*self._settings, given.norms)
