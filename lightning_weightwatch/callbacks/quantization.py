"""QuantizationTrial: what fewer bits per weight would cost, on the user's own validation."""

from collections.abc import Sequence
from typing import ClassVar

from lightning_weightwatch.callbacks._lightning import LightningModule
from lightning_weightwatch.callbacks.monitored import Mode
from lightning_weightwatch.callbacks.trial import NOTHING, PostFitTrial, Which
from lightning_weightwatch.callbacks.validation import BatchLimit
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.grid import (
    check_kernels,
    quantizations,
    with_activations,
    with_kernels,
)
from lightning_weightwatch.trials.quantization import Clip, CodeRange, Granularity, Scheme
from lightning_weightwatch.trials.quantized_model import largest_quantized
from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.trials.trial import Given
from lightning_weightwatch.usage.input_ranges import RangeClip
from lightning_weightwatch.views.quantized import QuantizedLayer

# Weights whose histograms are drawn.
_DRAWN = 6


class QuantizationTrial(PostFitTrial):
    """After training, evaluate the model with its weights rounded to a few bits.

    Weights only, unless `activation_bits` asks for more: matrices and kernels of Linear, Conv,
    ConvTranspose, Embedding, attention and recurrent layers; biases and norms stay. Every
    combination of the settings is a variant. The
    rounding is simulated: sizes are those of packed codes and scales, no integer kernel runs but
    with `int8_kernels`.

    | key, known only after training        | meaning                                 |
    |---------------------------------------|-----------------------------------------|
    | `weightwatch/quantization_int8_delta` | the monitored metric minus its baseline |
    | `weightwatch/quantization_int8_bytes` | bytes of the model, stored so           |

    A variant is called after what it does not share with the default settings: `int8`,
    `int4_tensor`, `int4_group32_absmax`. The bytes are those of the codes, of float32 scales, of
    zero points, and of everything else at its own width.

    | in TensorBoard beside the keys     | what it shows                                          |
    |------------------------------------|--------------------------------------------------------|
    | `weightwatch/quantization`         | the table of all variants                              |
    | `weightwatch/quantization_damage`  | the change of the metric against bits                  |
    | `weightwatch/quantization_layers`  | weights x bits: damage of each alone, or its SQNR      |
    | `weightwatch/quantization_weights` | histograms of the largest weights before and after     |
    | `weightwatch/pareto`               | the metric against bytes, of all trials together       |

    The rows are also files in the folder `weightwatch` of the log folder: `quantization.jsonl`,
    `quantization.csv`, and those of single weights `quantization_layers.csv`.

    A delta has the noise of the validation set in it; what its confidence interval does not tell
    from 0, if it has one, may be nothing else.

    Args:
        bits: Numbers of bits to try, each from 2 to 8.
        granularity: What shares a scale: `"tensor"` a weight, `"channel"` an output channel,
            `"group"` a run of `group_size` values in one; `"model"` all weights together.
        clip: How scales are found: `"absmax"` reaches the largest value, `"percentile"` a quantile
            of the absolute values, `"mse"` brings the mean squared error near its least.
        scheme: `"symmetric"` about 0, or `"asymmetric"` with a zero point.
        range: Of symmetric codes: `"restricted"` to ±(2^(bits−1) − 1), or `"full"`.
        group_size: Values of a group.
        percentile: For `clip="percentile"`.
        int8_kernels: Try torchao's int8 weights too, with real kernels, where it has any (the extra
            `torchao`); the table names the layers where it has none.
        activation_bits: Numbers of bits, each from 2 to 8, to which the inputs of the quantized
            layers are rounded too, in variants of their own (`int8_a8`), each a further evaluation;
            None for weights alone. A layer has one range, found in the baseline's own validation
            batches, which is slightly in its favour.
        activation_clip: The range of activations: up to the 99.9 % quantile of their absolute
            values (`"percentile"`), or to their ends (`"minmax"`).
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
        per_layer: So many of the largest weights are also quantized alone, for the heat map.
        tolerance: The share of its baseline by which the metric may be worse in `report.best`.
        verbose: Print the table at the end of the fit.
        hparams: Show the best variants in TensorBoard's tab HParams, as runs of their own: ten of
            the Trainer, shared evenly between its trials. The columns there are then those of the
            trials and of the module's hyperparameters, without `hp_metric`.
        prefix: In place of `weightwatch`.

    Raises:
        ValueError: For an argument out of its range.

    Examples:
        >>> from lightning_weightwatch import QuantizationTrial
        >>> QuantizationTrial(bits=(8, 4)).logged_keys[0]
        'weightwatch/quantization_int8_delta'
    """

    AREA = "quantization"
    CHARTS: ClassVar[dict[str, str]] = {
        "quantization_damage": "the change of the metric against bits",
        "quantization_layers": "weights x bits: damage of each alone, or its SQNR in dB",
        "quantization_weights": "histograms of the largest weights before and after",
        "pareto": "the metric against bytes, of all trials together",
    }

    def __init__(
        self,
        *,
        bits: int | Sequence[int] = (8, 6, 4),
        granularity: Granularity | Sequence[Granularity] = "channel",
        clip: Clip | Sequence[Clip] = "mse",
        scheme: Scheme | Sequence[Scheme] = "symmetric",
        range: CodeRange = "restricted",
        group_size: int = 32,
        percentile: float = 99.9,
        int8_kernels: bool = False,
        activation_bits: int | Sequence[int] | None = None,
        activation_clip: RangeClip = "percentile",
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
        self._simulated = quantizations(
            bits, granularity, clip, scheme, range, group_size, percentile
        )
        check_kernels(int8_kernels)
        self.int8_kernels = int8_kernels
        with_activations(self._simulated, activation_bits, activation_clip)  # raises if it is wrong
        self.activation_bits = activation_bits
        self.activation_clip: RangeClip = activation_clip

    @property
    def needs_ranges(self) -> bool:
        """Whether activations are quantized too."""
        return self.activation_bits is not None

    def compressions(self, given: Given = NOTHING) -> Sequence[Compression]:
        """One for each combination of the settings."""
        simulated = with_activations(
            self._simulated, self.activation_bits, self.activation_clip, given.ranges
        )
        return with_kernels(simulated, self.int8_kernels, given.tied)

    def _looked_at(
        self, pl_module: LightningModule, report: TrialReport
    ) -> Sequence[QuantizedLayer]:
        """The largest weights as the best variant leaves them, or the first one if none is best."""
        best = report.best.name if report.best else None
        apart = [tried for tried in self._simulated if tried.granularity != "model"]
        shown = next((tried for tried in apart if tried.name == best), next(iter(apart), None))
        if shown is None or report.rows[0].error:
            return ()
        return [
            QuantizedLayer(
                layer.name,
                histograms.before,
                histograms.after,
                histograms.low_after,
                histograms.high_after,
                layer.sqnr,
            )
            for layer, histograms in largest_quantized(pl_module, shown, _DRAWN)
        ]
