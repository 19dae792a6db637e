"""The one shape that every capability returns: what was measured, and what was left out and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Skipped:
    """Something that was not measured.

    Attributes:
        name: Dotted path of the module or parameter, as `named_modules` or `named_parameters`
            gives it, without the wrappers that `torch.compile` and FSDP put in.
        reason: Why, in words that make sense after "left out: ".
        kind: The kind of its layer, where that is known; it does not count in comparisons.
    """

    name: str
    reason: str
    kind: str | None = field(default=None, compare=False, repr=False)


class Report(Protocol):
    """What a measurement found. Every consumer (logs, tables, files, figures) uses only this."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out, each with its reason."""
        ...

    def summary(self) -> Mapping[str, float]:
        """The scalars to log and to monitor. Finite values only: what is unknown is absent."""
        ...

    def records(self) -> list[dict[str, Any]]:
        """One row per layer, epoch or trial, of plain Python values."""
        ...
