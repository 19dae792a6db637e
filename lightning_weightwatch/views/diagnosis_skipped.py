"""What was left out of the learning curves, in sentences."""

import math
import re
from collections.abc import Sequence

from lightning_weightwatch.losses.report import MIN_POINTS, LossReport
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.views.diagnosis_words import trainings

_MOST_LISTED = 5
_NOT_FINITE = "the validation metric is "


def skipped_validations(report: LossReport, values: str = "nan|-?inf") -> list[int]:
    """Epochs, 0-based, of the validations whose metric was NaN or infinite.

    Args:
        report: The curves.
        values: A pattern of those that are asked for.
    """
    return [
        int(skipped.name.removeprefix("epoch "))
        for skipped in report.skipped
        if re.fullmatch(f"{_NOT_FINITE}({values})", skipped.reason)
    ]


def validations(report: LossReport, count: int) -> str:
    """So many validations, called finite where others were not."""
    finite = "finite " if skipped_validations(report) else ""
    return f"{count} {finite}validation{'' if count == 1 else 's'}"


def left_out(report: LossReport) -> list[str]:
    """What was skipped, counted and with epochs from 1 on."""
    odd = skipped_validations(report)
    said = [_not_finite("validation", "validations", "NaN or infinite", odd)] if odd else []
    losses, others = [], []
    for skipped in report.skipped:
        epoch = re.fullmatch(r"(training loss of )?epoch (\d+)", skipped.name)
        if epoch and epoch[1]:
            losses.append(int(epoch[2]))
        elif not skipped.reason.startswith(_NOT_FINITE):
            others.append(f"Left out: {name_in_prose(skipped)}, {skipped.reason}.")
    # That none of many is known is the verdict.
    if losses and (any(map(math.isfinite, report.train_losses)) or len(losses) < MIN_POINTS):
        one = "training loss" if report.train_mode == "min" else "value of the training metric"
        said.append(_not_finite(one, trainings(report), "unknown, NaN or infinite", losses))
    return said + others


def name_in_prose(skipped: Skipped) -> str:
    """What was left out, its epoch counted from 1."""
    return re.sub(r"epoch (\d+)$", lambda found: f"epoch {int(found[1]) + 1}", skipped.name)


def _not_finite(one: str, many: str, how: str, epochs: Sequence[int]) -> str:
    stretches: list[list[int]] = []
    for epoch in epochs:
        if not stretches or epoch > stretches[-1][1] + 1:
            stretches.append([epoch, epoch])
        stretches[-1][1] = epoch
    shown = [
        f"{first + 1}" if first == last else f"{first + 1}–{last + 1}"
        for first, last in stretches[:_MOST_LISTED]
    ]
    more = sum(last - first + 1 for first, last in stretches[_MOST_LISTED:])
    counted = f"1 {one} was" if len(epochs) == 1 else f"{len(epochs)} {many} were"
    plural = "s" if len(set(epochs)) > 1 else ""
    listed = ", ".join(shown) + (f" and {more} more" if more else "")
    return f"{counted} {how}: epoch{plural} {listed}."
