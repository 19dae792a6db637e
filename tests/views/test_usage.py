"""Sentences on size name the width of what feeds a layer, the numbers, and what they are worth."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.report import LayerUsage
from lightning_weightwatch.views.usage import (
    GAUSSIAN_SHARE,
    usage_markdown,
    usage_sentences,
    usage_view,
)
from tests.usage.test_report import ROW, UNKNOWN, report


def sentence(layer: LayerUsage) -> str:
    (_, told, _) = usage_sentences(report(layer))
    return told


def test_a_layer_with_room_is_told_how_wide_what_feeds_it_could_be() -> None:
    assert sentence(ROW) == (
        "conv2: of its 64 channels 2 are dead, and 36 carry 99 % of the importance: 36 channels "
        "would do. Its 9,216 weights matter as much as 2,304 of one importance (25 %)."
    )
    shared = sentence(replace(ROW, shares_input_with="conv1"))
    assert "36 channels would do, if they do for conv1 too." in shared


def test_a_layer_without_room_is_told_so() -> None:
    full = sentence(replace(ROW, kind="linear", dead_inputs=(), suggested_inputs=63))
    assert full.startswith(
        "conv2: of its 64 features none is dead, and 63 carry 99 % of the importance: no room to "
        "speak of."
    )


def test_nothing_is_said_of_the_width_of_data_and_tables() -> None:
    data = sentence(replace(ROW, from_data=True))
    assert data.startswith("conv2: of the 64 channels of the data 2 are dead, and 36 carry 99 %")
    table = sentence(replace(ROW, kind="embedding", dead_inputs=(4,)))
    assert table.startswith("conv2: of its 64 entries 1 was never looked up, and 36 carry 99 %")
    for told in (data, table):
        assert "would do" not in told
        assert "room" not in told


def test_where_nothing_matters_that_is_said() -> None:
    assert sentence(UNKNOWN) == "zero: nothing of it matters: all it was given was 0."
    assert "its weights are 0" in sentence(replace(UNKNOWN, dead_inputs=()))


@pytest.mark.parametrize(
    ("layers", "verdict"),
    [
        ([ROW, replace(ROW, suggested_inputs=60)], "there is room in 1 of 2 layers"),
        ([replace(ROW, suggested_inputs=60)], "no room to speak of"),
        ([replace(ROW, from_data=True)], "nothing is said of widths"),
        ([UNKNOWN], "Nothing can be said"),
    ],
)
def test_the_first_sentence_answers(layers: list[LayerUsage], verdict: str) -> None:
    answer, *_, worth = usage_sentences(report(*layers))
    assert answer.startswith("Is the model oversized?")
    assert verdict in answer
    assert worth.startswith("This is a hint")
    assert "PruningTrial" in worth


def test_the_yardstick_is_what_normal_weights_come_to() -> None:
    # For x = |z|, E[x ln x] / E[x] = (ln 2 − γ) / 2, and ln E[x] = ln(2 / π) / 2.
    euler = 0.5772156649015329
    share = math.exp(math.log(2 / math.pi) / 2 - (math.log(2) - euler) / 2)
    assert pytest.approx(share, abs=5e-4) == GAUSSIAN_SHARE


def test_the_page_tells_of_layers_with_room_and_counts_the_others() -> None:
    layers = [replace(ROW, name=f"conv{number}") for number in range(30)]
    full = [replace(ROW, name=f"full{number}", suggested_inputs=60) for number in range(12)]
    page = usage_markdown(report(*layers, *full))
    assert page.count("would do.") == 25
    assert "- 17 layers more have less room, or none; the table has the numbers." in page
    assert "| conv0 | 16x64x3x3 | 9,216 | 0.25 |" in page
    assert "full0:" not in page


def test_names_are_shown_as_they_stand() -> None:
    odd = replace(ROW, name="a_*<b>|c")
    page = usage_markdown(report(odd, skipped=(Skipped("x_<y>", "empty | _really_"),)))
    assert "a\\_\\*&#60;b&#62;&#124;c: of its" in page
    assert "x\\_&#60;y&#62;" in page
    assert "empty &#124; \\_really\\_" in page
    assert "\x1b" not in usage_sentences(report(replace(ROW, name="\x1b[31m")))[1]


def test_a_report_of_nothing_says_why() -> None:
    left_out = [Skipped(f"norm{number}", "a 1-D weight") for number in range(3)]
    page = usage_markdown(report(skipped=(*left_out, Skipped("head", "tied to table"))))
    assert page == (
        "No weight was measured.\n\n"
        "Left out: 3 (norm0, ...): a 1-D weight; 1 (head): tied to table."
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_terminal(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    usage = report(ROW, replace(ROW, name="encoder.layers.0.self_attn.out_proj"))
    console.print(usage_view(usage, "model.pt", width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("model.pt")
    assert any("would do" in line for line in lines)
