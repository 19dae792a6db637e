"""What the terminal view of spectra shows, at each width, and what it says below."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console, RenderableType
from torch import nn

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.analysis import analyze, describe
from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.report import SpectralReport
from lightning_weightwatch.views.spectra import shape_view, spectral_view


def rendered(view: RenderableType, width: int | None, *, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width or 10_000,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=False,
        highlight=False,
        legacy_windows=False,
    )
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(report: SpectralReport, width: int | None = None, *, colour: bool = False) -> str:
    return rendered(spectral_view(report, "model.pt", width), width, colour=colour)


def sentences(report: SpectralReport) -> str:
    """What stands below the table, in one line."""
    return " ".join(shown(report, None).split())


def layer(name: str = "net.0") -> LayerSpectrum:
    torch.manual_seed(0)
    (measured,) = analyze({f"{name}.weight": torch.randn(64, 48)}).layers
    return replace(measured, alpha=3.0, sigma=0.25, D=0.05, status="success", warning="")


def report(*layers: LayerSpectrum, skipped: tuple[Skipped, ...] = ()) -> SpectralReport:
    return SpectralReport(layers, skipped)


def test_a_wide_terminal_shows_every_column() -> None:
    row = replace(
        layer(), num_pl_spikes=17, log_norm=3.456, log_spectral_norm=-1.25, stable_rank=12.34,
        warning="under-trained", alpha=7.125, sigma=1.5, D=0.0625,
    )  # fmt: skip
    (line,) = [line for line in shown(report(row), 200).splitlines() if "net.0 " in line]
    assert line.split() == [
        "net.0", "linear", "64×48", "48", "7.12", "±", "1.50", "0.062", "17", "3.46", "-1.25",
        "12.3", "under-trained",
    ]  # fmt: skip


def test_what_was_asked_for_has_a_column_and_only_then() -> None:
    plain = report(layer())
    telling = replace(
        layer(), mp_softrank=0.125, num_spikes=4, sigma_mp=0.75, rand_distance=0.25, num_traps=2
    )
    for header in ("soft rank", "spikes", "sigma mp", "rand dist", "traps"):
        assert header in shown(report(telling), 200)
        assert header not in shown(plain, 200)
    for header in ("soft rank", "spikes", "rand dist", "traps"):
        assert header in shown(report(telling), 80)


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("count", [3, 300])
def test_names_are_whole_and_lines_fit_at_every_width(width: int, count: int) -> None:
    names = [f"model.backbone.stages.{i}.blocks.{i}.attention.projection" for i in range(count)]
    text = shown(report(*(replace(layer(), name=name) for name in names)), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    first_column = "".join("".join(line.split()[:1]) for line in lines)
    assert "".join(names) in first_column
    assert "…" not in text


def test_columns_without_room_are_named() -> None:
    table, _, below = shown(report(layer("a.rather.long.name.of.a.layer")), 60).partition("No room")
    assert "kind" not in table
    assert "N×M" not in table
    assert below.startswith(" for: kind, N×M, ")
    assert "No room for:" not in shown(report(layer()), 200)


def test_a_long_table_ends_with_its_header() -> None:
    few, many = (shown(report(*[layer()] * count), 80).count("alpha   ") for count in (3, 300))
    assert many == few + 1


RED, YELLOW, DIM = "\x1b[31m", "\x1b[33m", "\x1b[2m"


@pytest.mark.parametrize(
    ("alpha", "D", "colour"),
    [
        (1.5, 0.05, RED),
        (2.0, 0.05, None),
        (6.0, 0.05, None),
        (6.5, 0.05, YELLOW),
        (1.5, 0.15, DIM),
        (6.5, 0.15, DIM),
        (3.0, 0.15, DIM),
    ],
)
def test_colour_says_that_alpha_is_outside_the_band_or_says_little(
    alpha: float, D: float, colour: str | None
) -> None:
    text = shown(report(replace(layer(), alpha=alpha, D=D)), 200, colour=True)
    assert {code for code in (RED, YELLOW, DIM) if code in text} == ({colour} - {None})


def test_the_sentences_count_what_the_table_shows() -> None:
    rows = [
        replace(layer(), alpha=1.0, D=0.2),
        replace(layer(), alpha=4.0, D=0.2),
        replace(layer(), alpha=7.0, D=0.01),
        replace(layer(), alpha=8.0, D=0.01),
        replace(layer(), alpha=100.0, num_evals=9),
    ]
    said = sentences(report(*rows))
    assert "alpha of the 4 layers with 32 eigenvalues or more" in said
    assert "mean 5.00, median 5.50, from 1.00 to 8.00" in said
    assert "1 over-trained (below 2), 2 under-trained (above 6)" in said
    assert "an alarm, not a verdict" in said
    assert "above 0.1, here in 2 of 4" in said


def test_a_layer_without_a_fit_is_in_no_mean_and_says_why() -> None:
    failed = replace(
        layer("net.7"), alpha=math.nan, sigma=math.nan, D=math.nan, status="all values are zero"
    )
    said = sentences(report(layer(), failed))
    assert "alpha of the 1 layer with" in said
    assert "– – " in said
    assert "no fit" in said
    assert "No power law: 1 all values are zero: net.7" in said
    assert "no alpha" in sentences(report(failed))


def test_what_was_left_out_is_grouped_by_reason_the_commonest_first() -> None:
    skipped = (
        Skipped("out", "2 eigenvalues, fewer than 8"),
        *(Skipped(f"norm{number}", "a 1-D weight has no spectrum") for number in range(5)),
    )
    said = sentences(report(layer(), skipped=skipped))
    assert said.endswith(
        "Left out: 5 a 1-D weight has no spectrum: norm0, norm1, norm2 and 2 more "
        "1 2 eigenvalues, fewer than 8: out"
    )


def test_many_reasons_end_with_their_number() -> None:
    skipped = tuple(Skipped(f"layer{number}", f"reason {number}") for number in range(40))
    said = sentences(report(layer(), skipped=skipped))
    named = [item for item in skipped if f"{item.reason}:" in said]
    assert said.endswith(f"{40 - len(named)} for other reasons: --json has all")
    assert 5 < len(named) < 40


def test_a_kernel_position_has_its_number() -> None:
    torch.manual_seed(0)
    found = analyze({"conv.weight": torch.randn(12, 10, 1, 3)}, pool=False)
    text = shown(found)
    for number in range(3):
        assert f"conv[{number}] " in text
    assert "12×10 (3)" in text


@pytest.mark.parametrize("name", ["\x1b[31mred", "[red]x[/red]", "a\nb", "\u202ex", ":smile:"])
def test_hostile_names_stand_there_as_text(name: str) -> None:
    found = report(replace(layer(), name=name), skipped=(Skipped(name, f"like {name}"),))
    text = rendered(spectral_view(found, name, 120), 120)
    assert all(character.isprintable() or character == "\n" for character in text)
    kept = name.replace("\n", " ").encode("unicode_escape").decode()
    assert text.count(kept) == 4


def test_shapes_are_listed_without_a_value() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3000, 2000), nn.LayerNorm(2000), nn.Conv2d(8, 16, 3))
    view = shape_view(describe(model.state_dict()), "model", 100)
    lines = [line.split() for line in rendered(view, 100).splitlines()]
    assert ["0", "linear", "3000×2000", "2000", "1.50", "6,000,000"] in lines
    assert ["2", "conv2d", "16×8", "(9)", "72", "2.00", "1,152"] in lines
    assert ["2,072", "eigenvalues", "of", "6,001,152", "parameters"] in [line[:5] for line in lines]
    assert lines[-1][-1] == "1"
