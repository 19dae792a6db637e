"""Which parameters a description is of: by name, by kind, the largest ones."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_weightwatch.model.weights import KINDS, Weight, matches, unreadable, walk
from lightning_weightwatch.report import Skipped


def check_selection(
    names: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    top_k: int | None = None,
    outlier_mads: float = 10.0,
) -> None:
    """Check the arguments of `describe_weights`, without a model.

    Raises:
        ValueError: For an argument out of its range.
    """
    _check_patterns("names", names, "['encoder.*']")
    _check_patterns("kinds", kinds, "['linear', 'conv*']")
    for kind in kinds or ():
        if not any(matches(known, [kind]) for known in KINDS):
            raise ValueError(
                f"kinds: there is no kind {kind!r}. There are: {', '.join(KINDS)}; shell patterns "
                "such as 'conv*' are allowed"
            )
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ValueError(
            f"top_k must be a whole number of at least 1, got {top_k!r}; leave it out for all"
        )
    is_number = isinstance(outlier_mads, int | float) and not isinstance(outlier_mads, bool)
    if not (is_number and outlier_mads > 0 and math.isfinite(outlier_mads)):
        raise ValueError(
            "outlier_mads must be a positive number of median absolute deviations, got "
            f"{outlier_mads!r}; 10 are 6.7 standard deviations of a Gaussian"
        )


def _check_patterns(argument: str, patterns: object, example: str) -> None:
    if isinstance(patterns, str):
        raise ValueError(
            f"{argument} must be a list of names or patterns, got the string {patterns!r}; write "
            f"{argument}=[{patterns!r}]"
        )
    if patterns is not None and not (
        isinstance(patterns, Sequence)
        and len(patterns) > 0
        and all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise ValueError(
            f"{argument} must be a list of one name or pattern at least, such as {example}, got "
            f"{patterns!r}; leave it out for all"
        )


def choose(
    model: nn.Module,
    read: Callable[[Weight], Tensor | None],
    *,
    names: Sequence[str] | None,
    kinds: Sequence[str] | None,
    top_k: int | None,
) -> tuple[list[Weight], list[Skipped]]:
    """The parameters that are asked for and can be read, and those that cannot.

    Args:
        model: The model.
        read: What of a parameter is to be described; None when it has none.
        names: Names or shell patterns of parameters; None for all.
        kinds: Kinds or shell patterns of kinds; None for all.
        top_k: Only so many of those that can be read, the ones with the most elements; of equal
            ones those that come first.
    """
    chosen: list[Weight] = []
    skipped: list[Skipped] = []
    for found in walk(model):
        of_a_kind = kinds is None or (found.kind is not None and matches(found.kind, kinds))
        if not (of_a_kind and matches(found.name, names)):
            continue
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        values = read(found)
        if values is None:
            skipped.append(Skipped(found.name, "no gradient", found.kind))
        elif (reason := unreadable(values)) is not None:
            skipped.append(Skipped(found.name, reason, found.kind))
        else:
            chosen.append(found)
    if top_k is not None:
        largest = sorted(chosen, key=lambda weight: -weight.parameter.numel())[:top_k]
        kept = {weight.name for weight in largest}
        chosen = [weight for weight in chosen if weight.name in kept]
    return chosen, skipped
