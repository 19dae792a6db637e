"""The costs of a model in the terminal, as Markdown and as a figure."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from rich.console import Console

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.flops.report import FlopReport, Uncounted
from lightning_weightwatch.views.flop_figure import flop_figure
from lightning_weightwatch.views.flop_words import flop_facts, hot_spots
from lightning_weightwatch.views.flops import flop_markdown, flop_view
from lightning_weightwatch.views.png import BLUE, MID_GREY, VERMILION
from tests.views.flops_to_draw import FFT, RELU, chain, cost, hostile, report_of, unet
from tests.views.pictures import assert_legible, words
from tests.views.spectra_to_draw import HOSTILE


def shown(report: FlopReport, width: int | None, **settings: Any) -> str:
    """What a console of some width prints; without one nothing is wrapped."""
    console = Console(file=StringIO(), width=width or 10_000, legacy_windows=False)
    console.print(flop_view(report, "net.py:Net on 8×16", width, **settings))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.split("\n"))


def table(text: str, header: str = "module") -> list[str]:
    """The lines of a table below its header, without the one that repeats it."""
    lines = text.split("\n")
    start = next(at for at, line in enumerate(lines) if line.startswith(f"{header} "))
    found = lines[start + 1 : lines.index("", start)]
    return [line for line in found if not line.startswith(f"{header} ")]


def rows(text: str, header: str = "module") -> dict[str, list[str]]:
    """The cells of a table by the first of each row."""
    parts = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in table(text, header)
    ]
    return {cells[0]: cells[1:] for cells in parts}


def names(text: str) -> list[str]:
    """The first column of the table of modules."""
    return [line.strip().partition("  ")[0] for line in table(text)]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_deepest_rows_have_their_names_behind_their_indent(width: int) -> None:
    path = ".".join(f"level{depth}" for depth in range(40))
    lines = table(shown(report_of(cost(path, 600, 30)), width, depth=40))
    assert len(lines) == 41
    assert all(line.split()[0] == f"level{depth}" for depth, line in enumerate(lines[1:]))
    indents = [len(line) - len(line.lstrip()) for line in lines]
    assert indents == sorted(indents)
    assert indents[-1] == width // 4


def facts(report: FlopReport, **asked: int) -> dict[str, str]:
    return dict(flop_facts(report, **asked))


def test_the_totals_are_those_of_the_report_in_units_that_people_read() -> None:
    # 2 · 9 · Σ inputs · outputs · pixels of the 18 convolutions, and the weights of 4 bytes.
    found = facts(unet(batch_size=4))
    assert found["parameters"] == "28,256,256 (113.0 MB)"
    assert found["forward pass"] == "94.22 GFLOP = 47.11 GMAC, 23.56 GFLOP a sample"
    assert found["training step"] == "282.7 GFLOP"


def test_a_training_and_an_inference_are_told_where_they_are_asked_for() -> None:
    report = report_of(cost("fc", 1000, 10), batch_size=8)
    assert {"1,000 training steps", "1 sample"}.isdisjoint(facts(report))
    found = facts(report, steps=1000, samples=1)
    assert found["1,000 training steps"] == "3.000 MFLOP"
    assert found["1 sample"] == "125 FLOP forward"
    text = shown(report, 80, steps=1000, samples=1)
    assert "1,000 training steps  3.000 MFLOP\n" in text
    assert "- 1 sample: 125 FLOP forward\n" in flop_markdown(report, steps=1000, samples=1)


def test_measured_time_is_told_with_its_rate() -> None:
    assert "time" not in facts(unet())
    whole, *others = report_of(cost("fc", 2_000_000, 10)).modules
    timed = replace(unet(), modules=(replace(whole, seconds=0.004), *others))
    assert facts(timed)["time"] == "4.00 ms a forward pass, 500 MFLOP a second"
    found = rows(shown(timed, None))
    assert [cells[-1] for cells in found.values()] == ["4.00 ms", "–"]


def test_a_tree_on_a_terminal_and_whole_names_in_a_pipe() -> None:
    report = report_of(cost("body.0.fc", 300, 10), cost("head", 100, 30))
    tree = [line.partition("  Seq")[0].partition("  Lin")[0] for line in table(shown(report, 100))]
    assert [line.rstrip() for line in tree[1:]] == ["  body", "    0", "      fc", "  head"]
    assert list(rows(shown(report, None))) == ["Net", "body", "body.0", "body.0.fc", "head"]


def test_a_row_has_the_costs_of_its_module_and_of_what_is_below_it() -> None:
    report = report_of(
        cost("body.fc", 3000, 10, activation_bytes=4096, own_bytes=1500, output_shape=(8, 3, 2)),
        cost("head", 1000, 30, activation_bytes=0, own_bytes=500, output_shape=None),
    )
    found = rows(shown(report, None))
    assert found["body.fc"] == [
        "Linear", "8×3×2", "10", "25.0 %", "3,000", "75.0 %", "4.1 kB", "2",
    ]  # fmt: skip
    assert found["body"][2:6] == ["10", "25.0 %", "3,000", "75.0 %"]
    assert found["head"] == ["Linear", "–", "30", "75.0 %", "1,000", "25.0 %", "0", "2"]
    assert found["Net"][2:] == ["40", "100.0 %", "4,000", "100.0 %", "4.1 kB", "2"]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("count", [3, 300])
def test_a_terminal_is_not_overrun(width: int, count: int) -> None:
    report = chain(count)
    text = shown(report, width)
    assert max(map(len, text.split("\n"))) <= width
    for name in ("module", "FLOPs", "FLOPs %", "hot spot", "by params"):
        assert name in text
    assert ("No room for: " in text) == (width < 120)


def test_only_what_did_not_run_once_has_a_number_of_calls() -> None:
    leaves = [cost("a", 9, 1), cost("b", 9, 1, calls=12), cost("c", 0, 1, calls=0)]
    found = rows(shown(report_of(*leaves), None))
    assert [found[name][8:] for name in "abc"] == [[], ["12"], ["0"]]
    assert "calls" not in shown(report_of(leaves[0]), None)


def test_300_layers_are_40_rows_and_the_rest_is_said_to_be_there() -> None:
    report = chain(300)
    text = shown(report, 100)
    found = names(text)
    assert len(found) == 40
    assert found[:2] == ["Net", "layers"]
    assert f"{len(report.modules) - 40} of {len(report.modules)} modules are not shown" in text
    assert "--depth 3 shows all" in text
    # Of the blocks, of which there is no room for all, the costliest are there, in their order.
    blocks = [module for module in report.modules if module.depth == 2]
    share = {m.name: m.forward / report.forward + m.parameters / report.parameters for m in blocks}
    costliest = sorted(share, key=lambda name: -share[name])[:38]
    expected = [module.name for module in blocks if module.name in costliest]
    assert [f"layers.{name}" for name in found[2:]] == expected


@pytest.mark.parametrize(("depth", "count"), [(0, 1), (1, 2), (2, 62), (3, 362), (9, 362)])
def test_a_depth_that_is_asked_for_is_shown_to_the_last_module(depth: int, count: int) -> None:
    report = chain(300)
    for width in (100, None):
        text = shown(report, width, depth=depth)
        assert len(names(text)) == count
        assert ("are not shown" in text) == (count < 362)


def test_in_a_pipe_all_modules_and_all_columns_are_there() -> None:
    text = shown(chain(300), None)
    assert len(rows(text)) == 362
    assert "No room" not in text
    assert "not shown" not in text


def test_hot_spots_are_the_largest_by_flops_and_the_largest_by_parameters() -> None:
    leaves = [cost(f"l{i}", (7 * i % 10) * 100, (3 * i % 10) * 10) for i in range(10)]
    report = report_of(*leaves)
    spots = {spot.module.name: spot for spot in hot_spots(report, 3)}
    by_flops = sorted(leaves, key=lambda leaf: -leaf.own_forward)[:3]
    by_parameters = sorted(leaves, key=lambda leaf: -leaf.own_parameters)[:3]
    assert set(spots) == {leaf.name for leaf in (*by_flops, *by_parameters)}
    for place, leaf in enumerate(by_flops, 1):
        assert spots[leaf.name].forward_place == place
        assert spots[leaf.name].forward_share == leaf.own_forward / 4500
    for place, leaf in enumerate(by_parameters, 1):
        assert spots[leaf.name].parameters_place == place
        assert spots[leaf.name].parameters_share == leaf.own_parameters / 450


def test_a_hot_spot_is_one_by_what_is_its_own() -> None:
    report = report_of(cost("body.fc", 900, 1), cost("head", 100, 9))
    assert [spot.module.name for spot in hot_spots(report, 5)] == ["body.fc", "head"]


def test_equal_modules_have_the_same_place_and_the_first_are_named() -> None:
    report = report_of(*(cost(f"l{i}", 100, 0) for i in range(6)))
    assert [spot.module.name for spot in hot_spots(report, 2)] == ["l0", "l1"]
    assert {spot.forward_place for spot in hot_spots(report, 6)} == {1}
    assert {spot.parameters_place for spot in hot_spots(report, 6)} == {0}


def test_both_places_of_a_hot_spot_stand_beside_each_other() -> None:
    text = shown(unet(), None, top=1)
    found = rows(text, "hot spot")
    assert list(found) == ["dec4.0", "bottleneck.3"]  # by FLOPs, in the model it is the other way
    assert found == {
        "dec4.0": ["Conv2d", "10.3 % #1", "16.7 % #2"],
        "bottleneck.3": ["Conv2d", "5.1 % #5", "33.4 % #1"],
    }


def test_what_the_counts_leave_out_is_named_the_unknown_first() -> None:
    report = unet(
        uncounted=(FFT, RELU),
        skipped=(Skipped("aux.fc", "never called"), Skipped("aux", "never called")),
        device="cpu",
        fallback="aten.nonzero has no shape on meta",
        ran="training_step",
    )
    for text in (shown(report, None), flop_markdown(report).replace("\\", "")):
        assert "Not counted, of unknown cost: aten.fft_r2c ×2. The sums are too low" in text
        assert "Not counted, by convention: aten.relu ×12." in text
        assert text.index("aten.fft_r2c") < text.index("aten.relu")
        assert "Left out (never called): aux.fc, aux." in text
        assert "on cpu and not on the meta device: aten.nonzero has no shape on meta." in text
        assert "its training_step was run" in text
        assert "1 MAC = 2 FLOPs; a training step is 3 times the forward pass" in text
    plain = shown(unet(), None)
    for word in ("Not counted", "Left out", "meta", "no forward"):
        assert word not in plain
    assert "1 MAC = 2 FLOPs" in plain


def test_of_many_uncounted_operations_some_are_named() -> None:
    many = tuple(Uncounted(f"aten.op{i}", 1, 100 - i, True) for i in range(20))
    text = shown(unet(uncounted=many), None)
    assert "aten.op7 ×1 and 12 more." in text
    assert "aten.op8" not in text


def test_a_model_that_costs_nothing_has_no_hot_spots_and_no_nan() -> None:
    report = report_of(cost("act", 0, 0, type="ReLU"))
    for text in (shown(report, 80), flop_markdown(report)):
        assert "hot spot" not in text
        assert "nan" not in text
        assert "intensity" not in text
        assert "0 FLOP = 0 MAC" in text
    assert flop_figure(report) is None


@pytest.mark.parametrize("width", [80, None])
def test_hostile_names_do_no_harm(width: int | None) -> None:
    hostiles = [*HOSTILE, "[red]a[/red]", "a|b", "<script>", "=cmd", "\x1b[31m"]
    report = hostile(hostiles)
    text = shown(report, width, depth=1)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[red]a[/red]" in text
    markdown = flop_markdown(report, top=20)
    assert "<script>" not in markdown
    assert all(character.isprintable() or character == "\n" for character in markdown)
    tables = [line for line in markdown.split("\n") if line.startswith("|")]
    assert {line.count("|") for line in tables} == {10, 5}
    figure = flop_figure(report, top=16, title="$\\alpha$\n[red]")
    assert figure is not None
    assert_legible(figure)


def test_markdown_has_25_modules_and_says_how_many_there_are() -> None:
    report = chain(300)
    markdown = flop_markdown(report)
    table = markdown.split("\n\n")[1].split("\n")
    assert len(table) == 2 + 25
    assert "| layers.10 | Sequential |" in markdown
    assert "337 of 362 modules are not shown." in markdown
    assert "--depth" not in markdown


def drawn(report: FlopReport, **settings: Any) -> Figure:
    figure = flop_figure(report, **settings)
    assert figure is not None
    return figure


def lengths(axes: Axes) -> NDArray[np.float64]:
    return np.array([bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)])


FIGURES = {
    "3": chain(3),
    "300": chain(300),
    "unet": unet(),
    "no parameters": report_of(cost("a", 100), cost("b", 200)),
    "no FLOPs": report_of(cost("a", 0, 100), cost("b", 0, 3)),
    "one": report_of(cost("a", 2**70, 100)),
    "long": report_of(*(cost("encoder.layer." * 4 + f"{i}.fc", i + 1, 40 - i) for i in range(40))),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("title", ["", "net.py:UNet on " + "1×1×256×256, " * 9])
def test_any_number_of_modules_is_legible(name: str, title: str) -> None:
    assert_legible(drawn(FIGURES[name], title=title))
    assert_legible(drawn(FIGURES[name], title=title, top=99))


def test_bars_are_the_shares_in_the_order_of_the_model() -> None:
    report = unet()
    spots = hot_spots(report, 8)
    left, right = drawn(report).axes
    np.testing.assert_allclose(lengths(left), [spot.forward_share for spot in spots])
    np.testing.assert_allclose(lengths(right), [spot.parameters_share for spot in spots])
    shown = words(drawn(report))
    expected_names = [spot.module.name for spot in spots]
    assert [word for word in shown if word in expected_names] == expected_names
    assert {"94.2 GFLOP", "28.3 M params", "10.3 %", "33.4 %", "0.3 %"} <= set(shown)


def test_bars_in_colour_are_the_largest_of_their_side() -> None:
    report = unet()
    spots = hot_spots(report, 4)
    for axes, colour, value in zip(
        drawn(report, top=4).axes,
        (BLUE, VERMILION),
        ("own_forward", "own_parameters"),
        strict=True,
    ):
        costs = [getattr(spot.module, value) for spot in spots]
        fourth = sorted((getattr(module, value) for module in report.modules), reverse=True)[3]
        colours = [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
        assert colours == [colour if cost >= fourth else MID_GREY for cost in costs]
        assert {colour, MID_GREY} == set(colours)
