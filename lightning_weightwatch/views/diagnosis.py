"""The verdict on the learning curves in sentences, each borne by a number of the run."""

import math
import re
from collections.abc import Sequence

from lightning_weightwatch.losses.noise import MIN_AFTER_BEST
from lightning_weightwatch.losses.phases import Phase
from lightning_weightwatch.losses.report import MILD_RISE, MIN_POINTS, OVERFIT_RISE, LossReport
from lightning_weightwatch.views.tables import escape_markdown, one_line

_TITLES = {
    "rapid": "Rapid initial learning",
    "slower": "Slower convergence",
    "steady": "Steady learning",
    "plateau": "Plateau",
}
_IN_A_CAPTION = {
    "rapid": "rapid initial learning",
    "slower": "slower convergence",
    "steady": "steady learning",
    "plateau": "a plateau",
}
_MOST_LISTED = 5
# What is printed as 0.0 % is nothing to tell.
_LEAST_TOLD = 0.0005


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
            f", kept in {checkpoint}." if checkpoint else "; no checkpoint of that epoch was found."
        ),
        _verdict(report),
    ]
    knee = _knee_sentence(report)
    if knee:
        sentences.append(knee)
    if math.isfinite(report.gap):
        sentences.append(f"Validation minus training loss at the end: {report.gap:.4g}.")
    return sentences


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
    caption = _caption(report, metric, checkpoint)
    sections = {
        "Key observations": _bullets(_observations(report, metric)),
        "Practical inferences": _bullets(_inferences(report, monitor, checkpoint)),
        "Recommendations": _bullets(_recommendations(report, monitor)),
        "Suggested caption for the figure": f"> {caption}" if caption else "",
        "Notes": _bullets([escape_markdown(note) for note in notes]),
    }
    parts = [f"# What the learning curves say: {metric}"]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def _verdict(report: LossReport) -> str:
    last, change = report.epochs[-1] + 1, _percent(report.rise)
    if report.severity == "unknown":
        return "Too few epochs, or no training loss, for a verdict on overfitting."
    if report.rise == 0:
        return f"Epoch {last}, the last, is as good as the best: no overfitting seen."
    worse = f"By epoch {last} it is {change} worse"
    if report.severity != "none":
        verdict = f"{report.severity} overfitting" if report.overfitting else "a mild rise"
        changed = f"it rose by {change}" if report.mode == "min" else f"it is {change} worse"
        return f"Since then {changed} while {_training_improved(report)}: {verdict}."
    if report.rise > MILD_RISE and report.within_noise:
        return f"{worse}, which is no more than its noise (±{_percent(report.noise)}) makes it."
    if report.training_fell:
        return f"{worse}, which is less than 1 %."
    if not report.epochs_since_best:
        return f"{worse}, all within the epoch of the best: too early for a verdict."
    if report.train_mode == "max":
        return f"{worse}, but the training metric did not rise either: that is not overfitting."
    return f"{worse}, but the training loss did not fall either: that is not overfitting."


def _knee_sentence(report: LossReport) -> str | None:
    """Where the descent became slower."""
    parts = {phase.name: phase for phase in report.phases}
    if "rapid" not in parts or "slower" not in parts:
        return None
    rapid, slower = parts["rapid"], parts["slower"]
    if any(map(math.isnan, (rapid.train_from, rapid.train_to, slower.train_to))):
        return None
    return (
        f"Learning was rapid until epoch {rapid.last_epoch + 1} ({_training(report)} "
        f"{rapid.train_from:.4g} → {rapid.train_to:.4g}) and slower until epoch "
        f"{slower.last_epoch + 1} (→ {slower.train_to:.4g})."
    )


def _observations(report: LossReport, metric: str) -> list[str]:
    if report.best_epoch is None:
        return [
            f"There was no validation with a finite {metric}, so nothing can be said.",
            *_left_out(report),
        ]
    found, best_told = [], False
    best = f"Validation best in epoch {report.best_epoch + 1} ({metric} {report.best_value:.4g})."
    for phase in report.phases:
        if phase.name in ("overfit", "rise"):
            found.append(best)
            best_told = True
        found.append(_phase_sentence(report, phase, metric))
    if not best_told:
        found.append(best)
    if report.severity == "unknown":
        found.append(_why_unknown(report))
    elif not report.phases or report.phases[-1].name not in ("overfit", "rise"):
        found.append(_verdict(report))
    after = len(report.val_values) - 1 - (report.best_index or 0)
    if report.noise >= _LEAST_TOLD and after >= MIN_AFTER_BEST:
        found.append(
            f"From its best on, {metric} varies by ±{_percent(report.noise)} from one validation "
            "to the next (standard deviation)."
        )
    if math.isfinite(report.gap):
        found.append(f"Validation minus training loss at the end: {report.gap:.4g}.")
    found += [
        f"The learning rate {escape_markdown(drop.name)} drops from {drop.before:.4g} to "
        f"{drop.after:.4g} by epoch {report.epochs[drop.index] + 1}."
        for drop in report.lr_drops
    ]
    return found + _left_out(report)


def _why_unknown(report: LossReport) -> str:
    count = len(report.val_values)
    if count < MIN_POINTS:
        return f"A verdict on overfitting takes {MIN_POINTS} validations; this run has {count}."
    known = sum(map(math.isfinite, report.train_losses))
    return (
        f"No verdict on overfitting: {known} of the {count} training losses are known, and it "
        "takes one after the best validation and one no later than it."
    )


def _phase_sentence(report: LossReport, phase: Phase, metric: str) -> str:
    where = _span(phase.first_epoch, phase.last_epoch)
    training = _moves(f"the {_training(report)}", phase.train_from, phase.train_to)
    validation = _moves(metric, phase.val_from, phase.val_to)
    if phase.name == "overfit":
        verdict = (
            f"{report.severity} overfitting"
            if report.overfitting
            else f"no overfitting, which begins at {100 * OVERFIT_RISE:.0f} %"
        )
        title = phase.label.capitalize()
        worse = f"{validation}, {_percent(report.rise)} worse than its best"
        improved = training or _training_improved(report)
        return f"{title} ({where}): {worse}, while {improved}: {verdict}."
    if phase.name == "rise":
        verdict = "" if report.severity == "unknown" else ": that is not overfitting"
        return (
            f"{phase.label.capitalize()} ({where}): {validation}, {_percent(report.rise)} worse "
            f"than its best{f', and {training}' if training else ''}{verdict}."
        )
    if phase.name == "plateau":
        values = report.val_values[phase.first : phase.last + 1]
        validation = f"{metric} stays between {min(values):.4g} and {max(values):.4g}"
    said = "; ".join(filter(None, (training, validation)))
    return f"{_TITLES[phase.name]} ({where}): {said}."


def _left_out(report: LossReport) -> list[str]:
    """What was skipped, counted and with epochs from 1 on."""
    validations, losses, others = [], [], []
    for skipped in report.skipped:
        epoch = re.fullmatch(r"(training loss of )?epoch (\d+)", skipped.name)
        if epoch and epoch[1]:
            losses.append(int(epoch[2]) + 1)
        elif epoch and skipped.reason.startswith("the validation metric is"):
            validations.append(int(epoch[2]) + 1)
        else:
            name = f"epoch {int(epoch[2]) + 1}" if epoch else skipped.name
            others.append(escape_markdown(f"Left out: {name}, {skipped.reason}."))
    kinds = (
        ("validation", "validations", "NaN or infinite", validations),
        ("training loss", "training losses", "unknown, NaN or infinite", losses),
    )
    return [_not_finite(*kind) for kind in kinds if kind[-1]] + others


def _not_finite(one: str, many: str, how: str, epochs: list[int]) -> str:
    distinct = list(dict.fromkeys(epochs))
    shown = ", ".join(map(str, distinct[:_MOST_LISTED]))
    more = f" and {len(distinct) - _MOST_LISTED} more" if len(distinct) > _MOST_LISTED else ""
    counted = f"1 {one} was" if len(epochs) == 1 else f"{len(epochs)} {many} were"
    return f"{counted} {how}: epoch{'s' if len(distinct) > 1 else ''} {shown}{more}."


def _inferences(report: LossReport, monitor: str, checkpoint: str | None) -> list[str]:
    if report.best_epoch is None:
        return []
    metric, best = escape_markdown(monitor), report.best_epoch
    held = f"epoch {best + 1} (`epoch={best}` in the file names of ModelCheckpoint)"
    value = f"{metric} {report.best_value:.4g}"
    if checkpoint:
        found = [f"Best checkpoint: {escape_markdown(checkpoint)} holds {held}, {value}."]
    else:
        keeps = _code(f"ModelCheckpoint(monitor={monitor!r}, mode={report.mode!r})")
        found = [f"Best checkpoint: no file is known to hold {held}, {value}; {keeps} keeps it."]
    after = len(report.val_values) - 1 - (report.best_index or 0)
    if report.early_stop_epoch is not None:
        many = "validation after it is" if after == 1 else "validations after it are"
        found.append(
            f"Early stopping candidate: epoch {report.early_stop_epoch + 1}; the {after} {many} "
            "no better."
        )
    elif len(report.val_values) > 1:
        found.append(
            f"No early stopping candidate: the last validation, in epoch {best + 1}, is the best "
            f"of {len(report.val_values)}."
        )
    share = _rapid_share(report)
    if share is not None:
        found.append(share)
    return found


def _rapid_share(report: LossReport) -> str | None:
    """How much of what was learned was learned before the knee."""
    if not report.phases or report.phases[0].name != "rapid" or report.best_index is None:
        return None
    rapid = report.phases[0]
    gained = rapid.train_from - rapid.train_to
    whole = rapid.train_from - report.train_losses[report.best_index]
    if not (math.isfinite(gained) and math.isfinite(whole) and whole and 0 < gained / whole <= 1):
        return None
    return (
        f"Learning dynamics: {_span(0, rapid.last_epoch)} brought {100 * gained / whole:.0f} % of "
        f"what the {_training(report)} gained until epoch {report.epochs[report.best_index] + 1}."
    )


def _recommendations(report: LossReport, monitor: str) -> list[str]:
    found = []
    if report.patience and report.best_epoch is not None and report.best_index:
        least, most = report.patience
        mode = ", mode='max'" if report.mode == "max" else ""
        stopping = _code(f"EarlyStopping(monitor={monitor!r}{mode}, patience={least})")
        waited = f"{least - 1} validation{'s' if least > 2 else ''}"
        found.append(
            f"{stopping}, a patience of {least}–{most} validations, would not have stopped this "
            f"run before its best: until epoch {report.best_epoch + 1} it never went more than "
            f"{waited} without a new one."
        )
    window = report.lr_decay_window
    if window is not None:
        first, last = window
        dropped = any(first <= report.epochs[drop.index] <= last for drop in report.lr_drops)
        if not dropped:
            found.append(
                f"A suggestion without proof: let the learning rate decay around "
                f"{_span(first, last)}, where learning stops being rapid."
            )
    if report.overfitting and report.best_epoch is not None:
        found.append(
            f"Against the {_percent(report.rise)} lost after epoch {report.best_epoch + 1}: more "
            "data or more regularisation (weight decay, dropout); more epochs only add to it."
        )
    return found


def _caption(report: LossReport, metric: str, checkpoint: str | None) -> str | None:
    if report.best_epoch is None:
        return None
    count = len(report.val_values)
    words = [
        f"{_IN_A_CAPTION[phase.name]} ({_span(phase.first_epoch, phase.last_epoch)})"
        for phase in report.phases
        if phase.name in _IN_A_CAPTION
    ]
    known = any(map(math.isfinite, report.train_losses))
    curves = f"{_training(report).capitalize()} and {metric}" if known else metric
    over = f"{count} validation{'s' if count > 1 else ''}"
    parts = [f"{curves} over {over} ({_span(report.epochs[0], report.epochs[-1])})."]
    if words:
        said = ", ".join(words)
        parts.append(f"{said[0].upper()}{said[1:]}.")
    best = f"The best {metric} is {report.best_value:.4g}, in epoch {report.best_epoch + 1}"
    if report.phases and report.phases[-1].name in ("overfit", "rise"):
        best += f"; by epoch {report.epochs[-1] + 1} it is {_percent(report.rise)} worse"
        if report.severity in ("mild", "moderate", "severe"):
            what = f"{report.severity} overfitting" if report.overfitting else "a mild rise"
            best += f" ({what})"
    parts.append(f"{best}.")
    if checkpoint:
        parts.append(f"The checkpoint of that epoch is {escape_markdown(checkpoint)}.")
    return " ".join(parts)


def _training(report: LossReport) -> str:
    return "training loss" if report.train_mode == "min" else "training metric"


def _training_improved(report: LossReport) -> str:
    return "the training loss fell" if report.train_mode == "min" else "the training metric rose"


def _moves(name: str, before: float, after: float) -> str | None:
    """What became of a value; None where it is unknown."""
    if not (math.isfinite(before) and math.isfinite(after)):
        return None
    old, new = f"{before:.4g}", f"{after:.4g}"
    if old == new:
        return f"{name} stays at {new}"
    return f"{name} {'falls' if after < before else 'rises'} from {old} to {new}"


def _span(first: int, last: int) -> str:
    """0-based epochs as people count them."""
    return f"epoch {first + 1}" if first == last else f"epochs {first + 1}–{last + 1}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _code(text: str) -> str:
    """Text as code, in which Markdown has no escapes: only a longer fence."""
    shown = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{fence}{shown}{fence}"


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
