"""Is a model oversized? A table of how its weights are used, and a sentence for each layer."""

from collections import Counter
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.report import LayerUsage, UsageReport
from lightning_weightwatch.views.tables import (
    MAX_ROWS,
    Column,
    escape_markdown,
    fitted_table,
    markdown_table,
    one_line,
)

#: exp(H) / n of weights from a normal distribution whose inputs are of one size. The mean of x ln x
#: over that of x is (ln 2 − γ) / 2 for |x|, and the logarithm of its mean is ln(2 / π) / 2.
GAUSSIAN_SHARE = 0.753

# A layer that could do with so few of its inputs has room.
_ROOM = 0.75
_REASONS = 5
# Of the readers of one tensor so many are named.
_NAMED = 4
# Up to so many layers the page has a sentence for each; of more only for those with room.
_FEW = 12

_COLUMNS = (
    "name", "shape", "weights", "effective_share", "low_share", "top90_share", "inputs",
    "dead_inputs", "suggested_inputs",
)  # fmt: skip


def usage_sentences(report: UsageReport) -> list[str]:
    """Whether the model is oversized: the answer, a sentence for each layer, and what it is worth.

    Args:
        report: The usage.
    """
    return _sentences(report, one_line, list(report.layers))


def usage_markdown(report: UsageReport) -> str:
    """The answer, a sentence for each layer, and a table; of many layers those with room.

    Args:
        report: The usage.
    """
    if not report.layers:
        return "\n\n".join(["No weight was measured.", *_left_out(report.skipped, escape_markdown)])
    chosen = list(report.layers)
    if len(chosen) > _FEW:
        chosen = [layer for layer in chosen if _has_room(layer) or not layer.suggested_inputs]
    first, *told, last = _sentences(report, escape_markdown, chosen[:MAX_ROWS])
    if more := len(report.layers) - len(told):
        told.append(
            f"{more:,} more {'has' if more == 1 else 'have'} less room, or none; the table has the "
            "numbers."
        )
    listed = "\n".join(f"- {sentence}" for sentence in told)
    table = markdown_table(report.records(), _COLUMNS)
    return "\n\n".join([first, listed, last, table, *_left_out(report.skipped, escape_markdown)])


def usage_view(report: UsageReport, title: str, width: int | None) -> RenderableType:
    """The same for the terminal, with a sentence for every layer.

    Args:
        report: The usage.
        title: What was measured.
        width: Of the terminal: columns that do not fit are left out. None for no limit.
    """
    parts: list[RenderableType] = [Text(one_line(title), style="bold", overflow="fold"), Text()]
    if report.layers:
        table, _ = fitted_table(report.layers, _TERMINAL_COLUMNS, width)
        parts += [table, Text()]
        parts += [Text(sentence, overflow="fold") for sentence in usage_sentences(report)]
    else:
        parts.append(Text("No weight was measured."))
    left_out = _left_out(report.skipped, one_line)
    return Group(*parts, *(Text(line, overflow="fold") for line in left_out))


_TERMINAL_COLUMNS: list[Column[LayerUsage]] = [
    Column("layer", lambda row: Text(one_line(row.name)), 0, left=True),
    Column("shape", lambda row: Text("×".join(map(str, row.shape))), 5),
    Column("weights", lambda row: Text(f"{row.weights:,}"), 3),
    Column("effective", lambda row: Text(_share(row.effective_share)), 0),
    Column("low", lambda row: Text(_share(row.low_share)), 4),
    Column("top 90 %", lambda row: Text(_share(row.top90_share)), 4),
    Column("inputs", lambda row: Text(f"{row.inputs:,}"), 1),
    Column("dead", lambda row: Text(f"{len(row.dead_inputs):,}"), 1),
    Column("draws on", lambda row: Text(f"{row.suggested_inputs:,}"), 0),
]


def _sentences(
    report: UsageReport, shown: Callable[[str], str], told: list[LayerUsage]
) -> list[str]:
    readers: dict[str, list[str]] = {}
    for layer in report.layers:
        readers.setdefault(layer.shares_input_with or layer.name, []).append(layer.name)
    return [
        _answer(report),
        *(
            _of_layer(layer, report.keep, shown, readers[layer.shares_input_with or layer.name])
            for layer in told
        ),
        "This is a hint, about these weights and these data: what an input carries is not what "
        "the model loses without it, and what else reads it, such as a skip connection, is not "
        "seen here. PruningTrial tries it.",
    ]


def _answer(report: UsageReport) -> str:
    summary = report.summary()
    if not report.layers and report.skipped:
        return f"Is the model oversized? Nothing could be measured: {_commonest(report.skipped)}."
    seen = f"in {_counted(report.batches, 'batch', 'batches')}"
    if "effective_weights_share" not in summary:
        return f"Is the model oversized? Nothing can be said: no weight mattered {seen}."
    judged = {layer.module for layer in report.layers if _is_fed_by_a_layer(layer)}
    roomy = len({layer.module for layer in report.layers if _has_room(layer)})
    if not judged:
        verdict = "no layer is fed by another, so nothing is said of widths"
    elif roomy:
        verdict = (
            f"there may be room: {roomy} of {_counted(len(judged), 'layer')} "
            f"{'draws' if roomy == 1 else 'draw'} on {_share(_ROOM)} of the inputs or fewer for "
            f"{_share(report.keep)} of the importance"
        )
    else:
        verdict = (
            f"no room to speak of: each of {_counted(len(judged), 'layer')} draws on more than "
            f"{_share(_ROOM)} of its inputs"
        )
    weights = sum(layer.weights for layer in report.weighed)
    dead = int(summary.get("dead_channels", 0))
    return (
        f"Is the model oversized? Judged by {seen[3:]}, {verdict}. "
        f"{_counted(dead, 'channel')} of layers {'is' if dead == 1 else 'are'} dead where the next "
        "layer reads them; "
        f"{weights:,} weights matter as much as "
        f"{summary['effective_weights_share'] * weights:,.0f} of one importance would "
        f"({_share(summary['effective_weights_share'])}; weights from a normal distribution with "
        f"inputs of one size: {_share(GAUSSIAN_SHARE)}), and {_share(summary['top90_share'])} of "
        "them carry 90 % of the importance."
    )


def _of_layer(
    layer: LayerUsage, keep: float, shown: Callable[[str], str], readers: list[str]
) -> str:
    """The width of what feeds a layer and other readers, and how its importance is spread."""
    name, unit, dead = shown(layer.name), _unit(layer), len(layer.dead_inputs)
    if not layer.suggested_inputs:
        dead_or_zero = "all it was given was 0" if dead == layer.inputs else "its weights are 0"
        also = "" if dead in (0, layer.inputs) else " where its inputs are not"
        return f"{name}: nothing of it matters: {dead_or_zero}{also}."
    are = "is" if dead == 1 else "are"
    carry = "carries" if layer.suggested_inputs == 1 else "carry"
    if layer.kind == "embedding":
        were = "was" if dead == 1 else "were"
        what = (
            f"of its {_counted(layer.inputs, 'entry', 'entries')} {dead:,} {were} never looked up, "
            f"and {layer.suggested_inputs:,} {carry} {_share(keep)} of the importance"
        )
    else:
        counted = _counted(layer.inputs, unit)
        of = f"the {counted} of the data" if layer.from_data else f"its {counted}"
        own = "" if layer.module in ("", layer.name) else f"{layer.module}."
        others = [shown(each.removeprefix(own)) for each in readers if each != layer.name]
        those = f" of it and of {_listed(others)}, which read the same" if others else ""
        what = (
            f"of {of} {f'{dead:,}' if dead else 'none'} {are if dead else 'is'} dead, and "
            f"{layer.suggested_inputs:,} {carry} {_share(keep)} of the importance{those}"
        )
        if _has_room(layer):
            alone = "these layers go" if others else "this layer goes"
            would = _counted(layer.suggested_inputs, unit)
            what += f": as far as {alone}, {would} would do"
        elif not layer.from_data:
            what += ": no room to speak of"
    return (
        f"{name}: {what}. Its {layer.weights:,} weights matter as much as "
        f"{layer.effective_weights:,.0f} of one importance ({_share(layer.effective_share)})."
    )


def _is_fed_by_a_layer(layer: LayerUsage) -> bool:
    return not layer.from_data and layer.kind != "embedding" and layer.suggested_inputs > 0


def _has_room(layer: LayerUsage) -> bool:
    return _is_fed_by_a_layer(layer) and layer.suggested_inputs <= _ROOM * layer.inputs


def _unit(layer: LayerUsage) -> str:
    return "channel" if layer.kind.startswith("conv") else "feature"


def _left_out(skipped: tuple[Skipped, ...], shown: Callable[[str], str]) -> list[str]:
    """How many places were left out, by reason, the commonest first; vectors are not named."""
    names: dict[str, list[str]] = {}
    for item in skipped:
        names.setdefault(item.reason, []).append(item.name)
    by_count = sorted(names.items(), key=lambda group: -len(group[1]))
    told = [
        f"{len(group):,} ({shown(group[0])}{', ...' if len(group) > 1 else ''}): {shown(reason)}"
        for reason, group in by_count[:_REASONS]
    ]
    more = len(by_count) - _REASONS
    told += [f"{_counted(more, 'more reason')}"] if more > 0 else []
    return [f"Left out: {'; '.join(told)}."] if told else []


def _share(value: float) -> str:
    """A percentage in about two digits, more of them near 100, which only all of it is."""
    if value != value:
        return "–"
    percent = 100 * value
    if 0 < percent < 0.01:
        return "<0.01 %"
    if 99 < percent < 100:
        return f"{percent:.4g} %" if percent < 99.99 else ">99.9 %"
    rough = percent >= 10 or percent == 0
    return f"{percent:.0f} %" if rough or percent == round(percent) else f"{percent:.2g} %"


def _listed(names: list[str]) -> str:
    """A few names; of more how many."""
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _commonest(skipped: tuple[Skipped, ...]) -> str:
    """The reason why most were left out, of weights of layers if there are such among them."""
    layers = [item for item in skipped if item.kind not in (None, "norm", "bias", "other")]
    return Counter(item.reason for item in layers or skipped).most_common(1)[0][0]


def _counted(count: int, word: str, several: str | None = None) -> str:
    return f"{count:,} {word if count == 1 else several or f'{word}s'}"
