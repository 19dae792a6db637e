"""What a model costs, in words: totals, hot spots, and what the counts leave out."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.flops.report import FlopReport, ModuleCost, Uncounted
from lightning_weightwatch.views.byte_units import human_bytes

#: What all counts rest on.
CONVENTION = (
    "1 MAC = 2 FLOPs; a training step is 3 times the forward pass, less where weights are frozen; "
    "elementwise operations, normalisation and pooling are not counted."
)

_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")
_NAMED = 8


def human_count(count: float, digits: int = 3) -> str:
    """A number with three significant digits and the prefix of a unit to come.

    >>> [human_count(count) for count in (0, 60, 999.6, 122_000, 96_192_167_936)]
    ['0 ', '60 ', '1.00 k', '122 k', '96.2 G']
    """
    power, scaled = 0, float(count)
    while power < len(_UNITS) - 1 and float(f"{scaled:.{digits}g}") >= 1000:
        power, scaled = power + 1, scaled / 1000
    if power == 0:
        return f"{scaled:.{digits}g} "
    return f"{scaled:#.{digits}g}".rstrip(".") + f" {_UNITS[power]}"


def percent(share: float) -> str:
    """A share with one decimal; what is there is never said to be nothing.

    >>> percent(0.2019), percent(0), percent(0.0001)
    ('20.2 %', '0', '< 0.1 %')
    """
    if not share:
        return "0"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def flop_facts(
    report: FlopReport, steps: int | None = None, samples: int | None = None
) -> list[tuple[str, str]]:
    """The totals, each a name and what there is to say.

    Args:
        report: The counts.
        steps: Of a training, to be told the cost of.
        samples: To run the model on, likewise.
    """
    several = report.batch_size > 1
    forward = f"{_flop(report.forward)} = {human_count(report.macs, 4)}MAC"
    if several:
        forward += f", {_flop(report.forward / report.batch_size)} a sample"
    facts = [
        ("parameters", f"{report.parameters:,} ({human_bytes(report.parameter_bytes)})"),
        ("forward pass", forward),
        ("training step", _flop(report.training_step)),
    ]
    if steps is not None:
        facts.append((_counted(steps, "training step"), _flop(report.training(steps))))
    if samples is not None:
        facts.append((_counted(samples, "sample"), f"{_flop(report.inference(samples))} forward"))
    kept = human_bytes(report.activation_bytes)
    facts.append(("activations", f"{kept} kept for the backward pass of this batch"))
    if report.intensity > 0:
        moved = "that counted operations read or write"
        facts.append(("intensity", f"{human_ratio(report.intensity)} FLOP a byte {moved}"))
    seconds = report.modules[0].seconds if report.modules else None
    if seconds:
        rate = f"{_flop(report.forward / seconds, 3)} a second"
        facts.append(("time", f"{human_seconds(seconds)} a forward pass, {rate}"))
    return facts


def human_ratio(ratio: float) -> str:
    """A ratio with three significant digits, without an exponent.

    >>> [human_ratio(ratio) for ratio in (0.0456, 3.14159, 348.2, 12345.6)]
    ['0.0456', '3.14', '348', '12,346']
    """
    return f"{ratio:.3g}" if ratio < 999.5 else f"{ratio:,.0f}"


def human_seconds(seconds: float) -> str:
    """A time with three significant digits.

    >>> [human_seconds(seconds) for seconds in (12.3456, 0.0123456, 0.0000123)]
    ['12.3 s', '12.3 ms', '12.3 µs']
    """
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e6:.3g} µs"


@dataclass(frozen=True)
class HotSpot:
    """A module that alone, without those within it, makes up much of the cost or of the size.

    Attributes:
        module: The module.
        forward_share: Of all FLOPs.
        parameters_share: Of all parameters.
        forward_place: 1 for the module with most FLOPs, the same for equal ones; 0 without any.
        parameters_place: The same by parameters.
    """

    module: ModuleCost
    forward_share: float
    parameters_share: float
    forward_place: int
    parameters_place: int


def hot_spots(report: FlopReport, top: int) -> list[HotSpot]:
    """The modules with most FLOPs and those with most parameters, in the order of the model.

    Args:
        report: The counts.
        top: How many of each; of equal ones the first.
    """
    forward = [module.own_forward for module in report.modules]
    parameters = [module.own_parameters for module in report.modules]
    chosen = {*_largest(forward, top), *_largest(parameters, top)}
    return [
        HotSpot(
            report.modules[at],
            forward[at] / max(report.forward, 1),
            parameters[at] / max(report.parameters, 1),
            _place(forward, at),
            _place(parameters, at),
        )
        for at in sorted(chosen)
    ]


def _largest(costs: Sequence[int], top: int) -> list[int]:
    order = sorted(range(len(costs)), key=lambda at: -costs[at])
    return [at for at in order[:top] if costs[at] > 0]


def _place(costs: Sequence[int], at: int) -> int:
    return 1 + sum(cost > costs[at] for cost in costs) if costs[at] > 0 else 0


def unknown_costs(report: FlopReport) -> str:
    """The operations that may cost much and could not be counted; empty without any."""
    if not report.unknown:
        return ""
    named = _some([_named(item) for item in report.unknown])
    return f"Not counted, of unknown cost: {named}. The sums are too low by these."


def flop_notes(report: FlopReport) -> list[str]:
    """What has to be known to read the counts, a sentence each."""
    left_out = [item for item in report.uncounted if item.elementwise]
    notes = []
    if left_out:
        notes.append(f"Not counted, by convention: {_some(list(map(_named, left_out)))}.")
    if report.ran not in ("forward", "run"):
        notes.append(f"The model has no forward: its {report.ran} was run.")
    if report.fallback:
        reason = report.fallback.rstrip(".")
        notes.append(f"Counted on {report.device} and not on the meta device: {reason}.")
    reasons: dict[str, list[Skipped]] = {}
    for item in report.skipped:
        reasons.setdefault(item.reason, []).append(item)
    notes += [
        f"Left out ({reason}): {_some([item.name for item in items])}."
        for reason, items in reasons.items()
    ]
    return [*notes, CONVENTION]


def _named(item: Uncounted) -> str:
    return f"{item.operation} ×{item.calls:,}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _flop(count: float, digits: int = 4) -> str:
    return f"{human_count(count, digits)}FLOP"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
