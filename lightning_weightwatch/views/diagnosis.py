"""The verdict on the learning curves in sentences, each borne by a number of the run."""

import math

from lightning_weightwatch.losses.diagnosis import LossReport


def diagnosis_sentences(report: LossReport, monitor: str, checkpoint: str | None) -> list[str]:
    """What the curves say; epochs are counted from 1, as people do.

    Args:
        report: The curves.
        monitor: The name of the validation metric.
        checkpoint: The file that holds the best epoch's weights; None when no file does.
    """
    if report.best_epoch is None:
        return [f"There was no validation with a finite {monitor}, so nothing can be said."]
    sentences = [
        f"{monitor} was best in epoch {report.best_epoch + 1} ({report.best_value:.4g})"
        + (
            f", kept in {checkpoint}."
            if checkpoint
            else "; no ModelCheckpoint keeps the best by it."
        )
    ]
    last, change = report.epochs[-1] + 1, f"{100 * report.rise:.1f} %"
    if report.severity == "unknown":
        sentences.append("Too few epochs, or no training loss, for a verdict on overfitting.")
    elif report.rise == 0:
        sentences.append(f"Epoch {last}, the last, is as good as the best: no overfitting seen.")
    elif not report.training_fell:
        sentences.append(
            f"By epoch {last} it is {change} worse, but the training loss did not fall either: "
            "that is not overfitting."
        )
    elif report.severity == "none":
        sentences.append(f"By epoch {last} it is {change} worse, which is less than 1 %.")
    else:
        verdict = f"{report.severity} overfitting" if report.overfitting else "a mild rise"
        sentences.append(
            f"Since then it rose by {change} while the training loss fell: {verdict}."
            if report.mode == "min"
            else f"Since then it is {change} worse while the training loss fell: {verdict}."
        )
    if math.isfinite(report.gap):
        sentences.append(f"Validation minus training loss at the end: {report.gap:.4g}.")
    return sentences
