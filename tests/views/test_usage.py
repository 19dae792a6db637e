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
        "conv2: of its 64 channels 2 are dead, and 36 carry 99 % of the importance: as far as "
        "this layer goes, 36 channels would do. Its 9,216 weights matter as much as 2,304 of one "
        "importance (25 %)."
    )


def test_all_readers_of_a_tensor_are_named_at_each() -> None:
    others = [replace(ROW, name=f"conv{at}", shares_input_with="conv2") for at in (3, 4)]
    _, *told, _ = usage_sentences(report(ROW, *others))
    pairs = ("conv3 and conv4", "conv2 and conv4", "conv2 and conv3")
    for each, names in zip(told, pairs, strict=True):
        assert f"36 carry 99 % of the importance of it and of {names}, which read the" in each
        assert "as far as these layers go, 36 channels would do." in each
    more = [replace(ROW, name=f"c{at}", shares_input_with="conv2") for at in range(7)]
    assert "of it and of c0, c1, c2, c3 and 3 more" in usage_sentences(report(ROW, *more))[1]


def test_rows_of_one_module_are_one_layer() -> None:
    parts = [
        replace(ROW, name=f"a.in_proj_weight.{which}", kind="attention", suggested_inputs=width)
        for which, width in zip("qkv", (36, 60, 60), strict=True)
    ]
    full = replace(ROW, name="full", suggested_inputs=60)
    assert "1 of 2 layers draws on 75 % of" in usage_sentences(report(*parts, full))[0]


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.995, "99.5 %"), (0.999, "99.9 %"), (0.99999, ">99.9 %"), (1.0, "100 %"),
        (0.99, "99 %"), (0.256, "26 %"), (0.0456, "4.6 %"), (1e-6, "<0.01 %"),
    ],
)  # fmt: skip
def test_only_all_is_a_hundred_percent(share: float, shown: str) -> None:
    layer = replace(ROW, weights=10**6, effective_weights=share * 10**6)
    assert sentence(layer).endswith(f"({shown}).")


def test_where_nothing_was_measured_the_reason_is_the_answer() -> None:
    skipped = [Skipped(f"norm{at}", "a 1-D weight is left out", "norm") for at in range(9)]
    skipped += [Skipped(f"conv{at}", "its inputs are not finite", "conv2d") for at in range(2)]
    skipped += [Skipped("head", "no input was seen", "linear")]
    answer = usage_sentences(report(skipped=tuple(skipped)))[0]
    assert answer.endswith("Nothing could be measured: its inputs are not finite.")


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
        (
            [ROW, replace(ROW, name="full", suggested_inputs=60)],
            "room: 1 of 2 layers draws on",
        ),
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
    assert "- 17 more have less room, or none; the table has the numbers." in page
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
    assert any("draws on" in line for line in lines)
