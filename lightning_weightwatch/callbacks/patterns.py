"""Names and patterns that a user selects layers by: checked when given, and against the model."""

from collections.abc import Sequence

from lightning_weightwatch.callbacks.keys import TrainerConfigurationError
from lightning_weightwatch.model.weights import matches


def checked_patterns(argument: str, patterns: Sequence[str] | None) -> tuple[str, ...] | None:
    """The patterns as a tuple.

    Raises:
        ValueError: For a bare string, an empty list or anything but strings.
    """
    if patterns is None:
        return None
    if isinstance(patterns, str):
        raise ValueError(
            f"{argument} must be a list of names or patterns, got the string {patterns!r}; "
            f"write {argument}=[{patterns!r}]"
        )
    if not isinstance(patterns, Sequence):
        raise ValueError(f"{argument} must be a list of names or patterns, got {patterns!r}")
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            f"{argument} must be a list of one name or pattern at least, such as "
            f"['encoder.*'], got {list(patterns)!r}; leave it out for all"
        )
    return tuple(patterns)


def check_matches(argument: str, patterns: Sequence[str] | None, names: Sequence[str]) -> None:
    """Refuse a pattern that fits no name of the model.

    Raises:
        TrainerConfigurationError: With the names that there are.
    """
    for pattern in patterns or ():
        if not any(matches(name, [pattern]) for name in names):
            raise TrainerConfigurationError(
                f"{argument}: {pattern!r} fits nothing in this model. There are: "
                + (", ".join(names) or "none")
            )
