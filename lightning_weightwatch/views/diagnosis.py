"""What the learning curves say: in a few sentences, and as a page of Markdown."""

import math
from collections.abc import Sequence

from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.diagnosis_page import (
    caption_of,
    inferences,
    observations,
)
from lightning_weightwatch.views.diagnosis_recommendations import recommendations
from lightning_weightwatch.views.diagnosis_skipped import left_out
from lightning_weightwatch.views.diagnosis_verdict import (
    about_percentages,
    gap_at_the_end,
    nothing_said,
    verdict,
)
from lightning_weightwatch.views.tables import escape_markdown


def diagnosis_sentences(report: LossReport, monitor: str, checkpoint: str | None) -> list[str]:
    """What the curves say; epochs are counted from 1, as people do.

    Args:
        report: The curves.
        monitor: The name of the validation metric.
        checkpoint: The file that holds the best epoch's weights; None when no file does.
    """
    if report.best_epoch is None:
        return [nothing_said(monitor), *left_out(report)]
    kept = f", kept in {checkpoint}" if checkpoint else "; no checkpoint of that epoch is known"
    sentences = [
        f"{monitor} was best in epoch {report.best_epoch + 1} ({report.best_value:.4g}){kept}.",
        verdict(report),
        about_percentages(report),
        _knee(report),
        gap_at_the_end(report, monitor),
    ]
    return [*filter(None, sentences), *left_out(report)]


def diagnosis_markdown(
    report: LossReport, monitor: str, checkpoint: str | None, notes: Sequence[str] = ()
) -> str:
    """What the curves say as a page of Markdown, with a caption for their figure.

    A sentence that would need a number the run does not have is left out, and so is a section
    without sentences.

    Args:
        report: The curves.
        monitor: The name of the validation metric.
        checkpoint: The file that holds the best epoch's weights; None when no file does.
        notes: What else the reader has to know, such as where the curves were found.
    """
    metric = escape_markdown(monitor)
    caption = caption_of(report, metric, checkpoint)
    sections = {
        "Key observations": _bullets(observations(report, monitor)),
        "Practical inferences": _bullets(inferences(report, monitor, checkpoint)),
        "Recommendations": _bullets(recommendations(report, monitor)),
        "Suggested caption for the figure": f"> {caption}" if caption else "",
        "Notes": _bullets([escape_markdown(note) for note in notes]),
    }
    parts = [f"# What the learning curves say: {metric}"]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def _knee(report: LossReport) -> str | None:
    """Where the descent became slower."""
    parts = {phase.name: phase for phase in report.phases}
    if "rapid" not in parts or "slower" not in parts:
        return None
    rapid, slower = parts["rapid"], parts["slower"]
    if any(map(math.isnan, (rapid.train_from, rapid.train_to, slower.train_to))):
        return None
    return (
        f"Learning was rapid until epoch {rapid.last_epoch + 1} ({report.training_word} "
        f"{rapid.train_from:.4g} → {rapid.train_to:.4g}) and slower until epoch "
        f"{slower.last_epoch + 1} (→ {slower.train_to:.4g})."
    )


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
