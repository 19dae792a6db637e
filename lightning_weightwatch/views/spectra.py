"""The spectra of a model in the terminal: a row for each layer, and what to make of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_weightwatch.model.matrices import Matrices
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.analysis import ShapeReport
from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.report import ALPHA_BAND, LARGE_D, SpectralReport
from lightning_weightwatch.views.tables import Column, fitted_table, one_line

_NAMED = 3
_REASONS = 12


def spectral_view(report: SpectralReport, title: str, width: int | None) -> RenderableType:
    """A table of the layers, the summary, and what was left out.

    Args:
        report: The spectra.
        title: What was measured.
        width: Of the terminal: columns that do not fit are left out, and named. None for no limit.
    """
    return _view(
        report.layers,
        _spectral_columns(report),
        report.skipped,
        title,
        width,
        sentences=_summary(report) if report.layers else [],
        failed=[(_name(row).plain, row.status) for row in report.layers if row.status != "success"],
    )


def shape_view(report: ShapeReport, title: str, width: int | None) -> RenderableType:
    """The same for shapes alone."""
    summary = report.summary()
    sentence = (
        f"{summary['num_evals']:,.0f} eigenvalues of {summary['num_params']:,.0f} parameters "
        "would be measured."
    )
    return _view(
        report.layers,
        _SHAPE_COLUMNS,
        report.skipped,
        title,
        width,
        sentences=[sentence] if report.layers else [],
    )


def _view(
    rows: Sequence[Any],
    columns: Sequence[Column[Any]],
    skipped: Sequence[Skipped],
    title: str,
    width: int | None,
    *,
    sentences: list[str],
    failed: Sequence[tuple[str, str]] = (),
) -> RenderableType:
    heading = f"{one_line(title)}: {_counted(len(rows), 'layer')}, {len(skipped)} left out"
    parts: list[RenderableType] = [Text(heading, style="bold", overflow="fold"), Text()]
    if rows:
        table, left_out = fitted_table(rows, columns, width)
        parts += [table, Text()]
        if left_out:
            sentences = [*sentences, f"No room for: {', '.join(left_out)}. --csv has all columns."]
        parts += [Text(sentence, overflow="fold") for sentence in sentences]
    else:
        parts.append(Text("No layer to measure."))
    parts += _grouped("No power law:", failed)
    parts += _grouped("Left out:", [(item.name, item.reason) for item in skipped])
    return Group(*parts)


def _spectral_columns(report: SpectralReport) -> list[Column[LayerSpectrum]]:
    """Columns that nothing was asked for, or that hold nothing, are not there."""
    columns = [
        Column("layer", _name, 0, left=True),
        Column("kind", lambda row: Text(row.kind), 10, left=True),
        Column("N×M", lambda row: _shape(row.N, row.M, row.rf), 4),
        Column("evals", lambda row: Text(str(row.num_evals)), 9),
        Column("alpha", _alpha, 0),
        Column("D", _distance, 0),
        Column("tail", lambda row: Text(str(row.num_pl_spikes)), 2),
        Column("log norm", _number("log_norm", 2), 7),
        Column("log spec", _number("log_spectral_norm", 2), 8),
        Column("stable rank", _number("stable_rank", 1), 6),
    ]
    if any(row.mp_softrank is not None for row in report.layers):
        columns += [
            Column("soft rank", _number("mp_softrank", 3), 1),
            Column("spikes", _spikes, 1),
            Column("sigma mp", _number("sigma_mp", 3), 5),
        ]
    if any(row.rand_distance is not None for row in report.layers):
        columns += [
            Column("rand dist", _number("rand_distance", 3), 1),
            Column("traps", _number("num_traps", 0), 1),
        ]
    if any(_note(row).plain for row in report.layers):
        columns.append(Column("note", _note, 3, left=True))
    return columns


_SHAPE_COLUMNS: list[Column[Matrices]] = [
    Column("layer", lambda row: Text(one_line(row.name)), 0, left=True),
    Column("kind", lambda row: Text(row.kind), 3, left=True),
    Column("N×M", lambda row: _shape(row.N, row.M, row.count), 1),
    Column("evals", lambda row: Text(str(row.num_evals)), 2),
    Column("Q", lambda row: Text(f"{row.N / row.M:.2f}"), 4),
    Column("parameters", lambda row: Text(f"{row.count * row.N * row.M:,}"), 2),
]


def _name(row: LayerSpectrum) -> Text:
    return Text(one_line(row.name) + ("" if row.slice_id is None else f"[{row.slice_id}]"))


def _shape(N: int, M: int, count: int) -> Text:
    return Text(f"{N}×{M}" + (f" ({count})" if count > 1 else ""))


def _number(attribute: str, digits: int) -> Callable[[LayerSpectrum], Text]:
    return lambda row: Text(_fixed(getattr(row, attribute), digits))


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _spikes(row: LayerSpectrum) -> Text:
    return Text(str(row.num_spikes) if row.mp_status == "success" else "–")


def _alpha(row: LayerSpectrum) -> Text:
    if math.isnan(row.alpha):
        return Text("–")
    return Text(f"{row.alpha:.2f} ± {_fixed(row.sigma, 2)}", style=_style(row))


def _distance(row: LayerSpectrum) -> Text:
    return Text(_fixed(row.D, 3), style="dim" if row.D > LARGE_D else "")


def _note(row: LayerSpectrum) -> Text:
    return Text(row.warning if row.status == "success" else "no fit", _style(row))


def _style(row: LayerSpectrum) -> str:
    """A colour for an alpha outside the band, unless its fit says little."""
    low, high = ALPHA_BAND
    if row.D > LARGE_D:
        return "dim"
    return "red" if row.alpha < low else "yellow" if row.alpha > high else ""


def _summary(report: SpectralReport) -> list[str]:
    """What `report.summary()` holds, and how far alpha is to be believed, in sentences."""
    least, (low, high) = report.summary_min_evals, ALPHA_BAND
    fitted = [row for row in report.layers if row.num_evals >= least and row.status == "success"]
    summary = report.summary()
    if not fitted:
        return [f"No layer has {least} eigenvalues or more and a power-law fit: no alpha."]
    alphas = [row.alpha for row in fitted]
    under, over = sum(alpha > high for alpha in alphas), sum(alpha < low for alpha in alphas)
    poor = sum(row.D > LARGE_D for row in fitted)
    values = (
        f"alpha of the {_counted(len(fitted), 'layer')} with {least} eigenvalues or more and a fit:"
        f" mean {summary['alpha_mean']:.2f}, median {summary['alpha_median']:.2f},"
        f" from {summary['alpha_min']:.2f} to {summary['alpha_max']:.2f};"
        f" {over} over-trained (below {low:g}), {under} under-trained (above {high:g})."
    )
    alarm = (
        "alpha is an alarm, not a verdict: it tells how heavy a tail is, not whether signal or "
        f"noise made it. Where D is above {LARGE_D}, here in {poor} of {len(fitted)}, it says "
        "little."
    )
    return [values, alarm]


def _grouped(title: str, items: Iterable[tuple[str, str]]) -> list[RenderableType]:
    """Names with reasons, by reason, the commonest first, each with some of its names."""
    names: dict[str, list[str]] = {}
    for name, reason in items:
        names.setdefault(one_line(reason), []).append(one_line(name))
    if not names:
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", min_width=5)
    table.add_column(overflow="fold")
    by_count = sorted(names.items(), key=lambda group: -len(group[1]))
    for reason, group in by_count[:_REASONS]:
        more = len(group) - _NAMED
        and_more = f" and {more} more" if more > 0 else ""
        shown = f"{reason}: {', '.join(group[:_NAMED])}{and_more}"
        table.add_row(str(len(group)), Text(shown))
    if len(by_count) > _REASONS:
        rest = sum(len(group) for _, group in by_count[_REASONS:])
        table.add_row(str(rest), Text("for other reasons: --json has all"))
    return [Text(), Text(title), table]


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
