"""Reports of trials with chosen results, for the figures and tables of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.report import TrialReport, TrialRow

WHOLE = 124_123_456
Mode = Literal["min", "max"]
Settings = Mapping[str, bool | int | float | str]


def layer_of(name: str = "net.0.weight", sqnr: float = 30.0, zeros: int = 0) -> CompressedLayer:
    """1000 values of float32 with that SQNR and so many zeros."""
    noise = 0.0 if math.isinf(sqnr) else 10 ** (-sqnr / 10)
    return CompressedLayer(name, "linear", (10, 100), 4000, 1000, 1.0, noise, 1000 - zeros)


def row_of(
    name: str,
    value: float,
    size: float = 0.25,
    reach: float | None = None,
    *,
    baseline: float = 0.5,
    layers: Sequence[CompressedLayer] = (),
    error: str = "",
    layer: str = "",
    settings: Settings | None = None,
    **more: bool | int | float | str,
) -> TrialRow:
    """A variant with a value of `val_loss`, a share of the size, and a symmetric interval."""
    change = value - baseline
    return TrialRow(
        name,
        {} if error else {"val_loss": value},
        round(size * WHOLE),
        1.25,
        error,
        {**(settings or {}), **more},
        0.25,
        None if reach is None else (change - reach, change + reach),
        tuple(layers),
        layer,
    )


def report_of(*rows: TrialRow, baseline: float = 0.5, mode: Mode = "min") -> TrialReport:
    """These variants after their baseline."""
    first = TrialRow("baseline", {"val_loss": baseline}, WHOLE, 1.0)
    return TrialReport((first, *rows), "val_loss", mode, planned=1 + len(rows), disk_bytes=WHOLE)


def quantized(
    bits: Sequence[int] = (8, 6, 4),
    variants: Sequence[Settings] = ({},),
    *,
    intervals: bool = True,
    mode: Mode = "min",
    baseline: float = 0.5,
    names: Sequence[str] = ("net.0.weight",),
) -> TrialReport:
    """Each number of bits less does about three times the harm."""
    chance = np.random.default_rng(0)
    rows = []
    for settings in variants:
        for b in bits:
            harm = 0.002 * 3.2 ** (6 - b) * chance.uniform(0.5, 2) - 0.0005 * chance.uniform()
            harm = harm if mode == "min" else min(harm, 0.6 * baseline)
            rows.append(
                row_of(
                    "_".join([f"int{b}", *map(str, [*settings.values()][:2])]),
                    baseline + (harm if mode == "min" else -harm),
                    b / 32 + 0.02 + 0.01 * chance.uniform(),
                    0.001 + 0.2 * abs(harm) if intervals else None,
                    baseline=baseline,
                    layers=[layer_of(n, 6.02 * b - 8 + chance.uniform(-3, 3)) for n in names],
                    settings={"bits": b, **settings},
                )
            )
    return report_of(*rows, baseline=baseline, mode=mode)


GRID: list[Settings] = [
    {
        "granularity": granularity,
        "clip": clip,
        "scheme": "symmetric",
        "range": "restricted",
        **({"group_size": 32} if granularity == "group" else {}),
        **({"percentile": 99.9} if clip == "percentile" else {}),
    }
    for granularity in ("tensor", "channel", "group")
    for clip in ("absmax", "mse", "percentile")
]


def pruned(
    amounts: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *,
    intervals: bool = True,
    mode: Mode = "min",
    patterns: bool = True,
) -> TrialReport:
    """By magnitude, over the model and over each layer, at random, and in patterns."""
    chance = np.random.default_rng(1)
    rows = []

    def added(
        name: str, amount: float, factor: float, **settings: bool | int | float | str
    ) -> None:
        harm = factor * 0.0004 * math.exp(9 * amount) * chance.uniform(0.8, 1.2) - 0.001
        harm = harm if mode == "min" else min(harm, 0.3)
        rows.append(
            row_of(
                name,
                0.5 + (harm if mode == "min" else -harm),
                min(1 - amount + 1 / 32, 1),
                0.002 + 0.2 * abs(harm) if intervals else None,
                layers=[layer_of(sqnr=20 - 20 * amount, zeros=round(1000 * amount))],
                settings={"amount": amount, **settings},
            )
        )

    for ending, factor, settings in (
        ("", 1.0, {"method": "magnitude", "scope": "global"}),
        ("_layer", 2.0, {"method": "magnitude", "scope": "layer"}),
        ("_wanda", 6.0, {"method": "wanda", "scope": "row"}),
    ):
        for amount in amounts:
            added(f"pruned{100 * amount:g}{ending}", amount, factor, **settings)
    if patterns:
        added("pruned2of4", 0.5, 3.0, pattern="2:4", method="magnitude")
        added("pruned1of4", 0.75, 3.0, pattern="1:4", method="magnitude")
    return report_of(*rows, mode=mode)
