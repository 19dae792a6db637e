"""QuantizationTrial: what fewer bits per weight would cost, on the user's own validation."""

from collections.abc import Sequence

from lightning_weightwatch.callbacks.monitored import Mode
from lightning_weightwatch.callbacks.trial import PostFitTrial
from lightning_weightwatch.trials.quantization import Quantization


class QuantizationTrial(PostFitTrial):
    """After training, evaluate the model with its weights rounded to a few bits.

    Symmetric, one scale per output channel, weights only: matrices and kernels of Linear, Conv,
    ConvTranspose, Embedding, attention and recurrent layers; biases and norms stay. The rounding is
    simulated: sizes are those of packed codes and scales, no integer kernel runs.

    | key, known only after training        | meaning                                 |
    |---------------------------------------|-----------------------------------------|
    | `weightwatch/quantization_int8_delta` | the monitored metric minus its baseline |
    | `weightwatch/quantization_int8_bytes` | bytes of the model, stored so           |

    The bytes are those of the codes, of float32 scales, and of everything else at its own width.
    The table is the text `weightwatch/quantization`. A delta has the noise of the validation set
    in it; a small one, of either sign, may be nothing else.

    Args:
        bits: Numbers of bits to try, each from 2 to 8.
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

    Examples:
        >>> from lightning_weightwatch import QuantizationTrial
        >>> QuantizationTrial(bits=(8, 4)).logged_keys[0]
        'weightwatch/quantization_int8_delta'
    """

    AREA = "quantization"

    def __init__(
        self,
        *,
        bits: Sequence[int] = (8,),
        monitor: str | None = None,
        mode: Mode | None = None,
        verbose: bool = True,
        hparams: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(
            monitor=monitor, mode=mode, verbose=verbose, hparams=hparams, prefix=prefix
        )
        if not isinstance(bits, Sequence) or not bits:
            raise ValueError(f"bits must be a list such as [8, 4], got {bits!r}")
        for value in bits:
            if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 8:
                raise ValueError(
                    f"bits must be integers between 2 and 8, got {value!r}. To remove weights "
                    "altogether, use PruningTrial"
                )
        if len(set(bits)) < len(bits):
            raise ValueError(f"bits must differ from each other, got {list(bits)}")
        self.bits = tuple(bits)

    def compressions(self) -> list[Quantization]:
        """One for each number of bits."""
        return [Quantization(bits) for bits in self.bits]
