"""What a user has to be told of a trial, because no reader of a table would guess it."""

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.trials.report import TrialReport

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


def refusal(trainer: Trainer) -> str | None:
    """Why nothing can be tried on this Trainer, or None."""
    strategy = type(trainer.strategy).__name__
    if any(word in strategy for word in _SHARDED):
        return f"{strategy} shards the weights, which cannot be changed in place layer by layer"
    return None


def surprises(report: TrialReport, monitor: str | None) -> list[str]:
    """Sentences, each of them worth a warning.

    Args:
        report: The results.
        monitor: The metric that was asked for.
    """
    baseline, found = report.rows[0], []
    if baseline.metrics and not report.monitor:
        found.append(
            f"there is no validation metric {monitor or 'val_loss'!r}: the validation logs "
            f"{', '.join(sorted(baseline.metrics))}. Set monitor to one of them"
        )
    if report.changed_by_evaluation:
        names = ", ".join(report.changed_by_evaluation[:5])
        found.append(f"the validation itself has changed {names}, which was put back")
    if report.unmoved:
        found.append(
            "no variant has changed any metric. Does the validation take other weights than these, "
            "such as an average that the module keeps itself?"
        )
    return found
