"""How strongly variants compress: bits a weight, or the share of weights that is pruned."""

import math
from collections.abc import Sequence

from lightning_weightwatch.trials.report import TrialRow

#: The settings that say it; all others tell variants of one strength apart.
STRENGTH_SETTINGS = ("bits", "amount")


def strengths(rows: Sequence[TrialRow]) -> tuple[str, list[float]]:
    """What is counted, `"bits"` or `"sparsity, %"`, and how much of it each row has.

    Patterns such as 2:4 have the sparsity that they came to. NaN for what has none.
    """
    if any("bits" in row.settings for row in rows):
        return "bits", [_number(row.settings.get("bits")) for row in rows]
    return "sparsity, %", [_sparsity(row) for row in rows]


def _sparsity(row: TrialRow) -> float:
    amount = _number(row.settings.get("amount"))
    share = row.sparsity if math.isnan(amount) and row.layers else amount
    # 0.29 × 100 is not 29.
    return round(100 * share, 6)


def _number(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else math.nan  # type: ignore[arg-type]
