"""Learning curves to tell of and to draw."""

import math

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import LossReport

NAN = math.nan
FALLING = [1.0, 0.5, 0.25, 0.125]

# The curves of the hand-written diagnosis that `diagnosis_markdown` is to say from numbers alone.
COLORIZER_TRAIN = [0.1159, 0.098, 0.086, 0.079, 0.0755, 0.073, 0.0708, 0.0685, 0.0665, 0.065]
COLORIZER_TRAIN += [0.0648, 0.0646, 0.0645, 0.0643, 0.0642]
COLORIZER_VAL = [0.118, 0.1, 0.088, 0.081, 0.0782, 0.0755, 0.073, 0.0712, 0.0698, 0.0688]
COLORIZER_VAL += [0.069, 0.0692, 0.0694, 0.0697, 0.07]


def run(epochs: int, *, rise: float = 0.5) -> LossReport:
    """A run whose validation loss is best after three fifths of it."""
    best = max(3 * epochs // 5, 1) - 1
    train = [0.05 + 0.1 * math.exp(-4 * i / epochs) for i in range(epochs)]
    val = [0.07 + 0.1 * abs(i - best) / epochs * (1 if i < best else rise) for i in range(epochs)]
    return diagnose(train, val)


HUMP = [0.5 + abs(i - 12) / 60 for i in range(29)]
HUMP_TOO = [1e6, *HUMP]

CASES = {
    "1 epoch": diagnose([0.9], [0.8]),
    "2 epochs": diagnose([0.9, 0.5], [0.8, 0.7]),
    "3 epochs": diagnose([0.9, 0.5, 0.3], [0.8, 0.6, 0.7]),
    "15 epochs": run(15),
    "300 epochs": run(300),
    "10,000 epochs": run(10_000),
    "the last epoch": diagnose(
        [1 - i / 40 for i in range(20)], [*(1 - i / 50 for i in range(19)), 0.9]
    ),
    "the first epoch": diagnose([1.0, 0.5, 0.4, 0.2], [0.5, 0.6, 0.7, 0.9]),
    "several validations an epoch": diagnose(
        [0.9, 0.8, 0.5, 0.3], [0.8, 0.7, 0.6, 0.7], epochs=[0, 0, 1, 1]
    ),
    "no training loss": diagnose([NAN] * 4, [0.8, 0.6, 0.7, 0.9]),
    "an infinite training loss": diagnose([math.inf, 0.5, 0.4, 0.3], [0.8, 0.6, 0.7, 0.9]),
    "constant": diagnose([0.5] * 4, [0.5] * 4),
    "zeros": diagnose([0.0] * 4, [0.0] * 4),
    "1e30": diagnose([1e30, 1e20, 1e10, 5.0], [1e30, 1e25, 1e26, 1e27]),
    "1e-30": diagnose([3e-30, 2e-30, 1e-30], [3e-30, 2e-30, 2.5e-30]),
    "thousandths": diagnose([0.00315, 0.00208, 0.00101], [0.00311, 0.00205, 0.00263]),
    "ten thousands": diagnose([98765.4, 54321.0, 12345.6], [98765.4, 64321.0, 75000.0]),
    "negative": diagnose([-1.0, -2.0, -3.0], [-1.0, -2.0, -1.5]),
    "nearly constant": diagnose([1.00001, 1.000005, 1.000001], [1.00002, 1.00001, 1.000011]),
    "to maximise": diagnose([0.9, 0.5, 0.3, 0.2], [0.5, 0.8, 0.7, 0.6], mode="max"),
    "accuracy beside a large loss": diagnose(
        [1e4 / i for i in range(1, 21)],
        [0.5 + 0.04 * min(i, 8) - 0.01 * max(0, i - 8) for i in range(20)],
        mode="max",
    ),
    "both to maximise": diagnose([0.5, 0.7, 0.8, 0.9], [0.5, 0.8, 0.7, 0.6], mode="max"),
    "a huge first loss": diagnose([1e6, *[1 / i for i in range(1, 30)]], HUMP_TOO),
    "a huge first loss, then below zero": diagnose([1e6, *[-1.0] * 29], [v - 1 for v in HUMP_TOO]),
    "the largest numbers": diagnose([1.7e308, 1e300, 5.0, 4.0], [1.7e308, 1e30, 5.0, 6.0]),
    "every other training loss": diagnose([NAN, 0.5] * 10, [0.9 - i / 30 for i in range(20)]),
    "a single training loss": diagnose([NAN, 0.5, NAN, NAN], [0.9, 0.6, 0.7, 0.8]),
    "two epochs of other quantities": diagnose([1.0, 0.9], [1e-8, 2e-8], mode="max"),
    "one epoch of other quantities": diagnose([0.9], [0.5], mode="max"),
    "a million epochs before": diagnose(HUMP, HUMP, epochs=range(10**6, 10**6 + 29)),
}
