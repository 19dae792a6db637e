"""What a fit has cost in operations, in a sentence."""

import math

from lightning_weightwatch.views.flop_words import human_count


def run_sentence(flops: float, saved: float) -> str:
    """What was spent, and what an early end saved; empty where it is not known.

    Args:
        flops: Operations of the fit.
        saved: About those that were planned and not run.

    >>> run_sentence(3.1e15, 0.0)
    'The fit took 3.10 PFLOP of training and validation.'
    >>> run_sentence(3e12, 9e12)  # doctest: +NORMALIZE_WHITESPACE
    'The fit took 3.00 TFLOP of training and validation. It ended early, which saved about
     9.00 TFLOP, 75 % of what was planned.'
    """
    if not math.isfinite(flops) or flops <= 0:
        return ""
    spent = f"The fit took {human_count(flops)}FLOP of training and validation."
    share = round(100 * saved / (flops + saved))
    if share == 0:
        return spent
    planned = f"saved about {human_count(saved)}FLOP, {share} % of what was planned"
    return f"{spent} It ended early, which {planned}."
