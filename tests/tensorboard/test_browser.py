"""What a person sees of the demo in a real browser: every tab of TensorBoard, with either loader.

Without a Chromium these are skipped. WEIGHTWATCH_SCREENSHOTS=folder keeps a picture of each tab.
"""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.tensorboard.chromium import Window
from tests.tensorboard.server import TensorBoard

RUN = "digits/noisy"
RUNS = ("digits/clean", RUN)
ALPHAS = "weightwatch/alpha_layers"
FIGURES = ("loss_curve", "alpha_depth", "alpha_heat_map", "weight_grid", "pareto")
SEEN_ABOVE = {
    "timeseries",
    "scalars",
    "custom_scalars",
    "images",
    "distributions",
    "histograms",
    "text",
    "hparams",
}


def test_time_series_shows_curves_with_their_values_figures_and_histograms(window: Window) -> None:
    window.open("timeseries", "weightwatch/(alpha_min|loss$|loss_curve|weights)")
    for tag, runs in (("alpha_min", RUNS), ("loss", [f"{RUN}/train", f"{RUN}/val"])):
        card = window.card("scalar-card", f"weightwatch/{tag}")
        for run in runs:
            window.within(card, "tb-data-table-content-row", run)
    assert window.picture_width(window.card("image-card", "weightwatch/loss_curve")) == 700
    window.within(window.card("histogram-card", "weightwatch/weights"), "svg path")
    assert window.errors == []


def test_scalars_show_a_curve_and_say_what_it_is(window: Window) -> None:
    window.open("scalars", "weightwatch/alpha_min")
    card = window.card("tf-scalar-card", "alpha_min")
    window.within(card, "vz-line-chart2")
    window.within(card, "tf-card-heading paper-icon-button[icon='info']")
    assert window.errors == []


def test_custom_scalars_show_alpha_with_its_margin_and_both_losses(window: Window) -> None:
    window.open("custom_scalars")
    margin = window.card("tf-custom-scalar-margin-chart-card", "alpha")
    window.within(margin, "vz-line-chart2")
    losses = window.card("tf-custom-scalar-multi-line-chart-card", "loss")
    window.within(losses, "vz-line-chart2")
    window.within(losses, "#matches-container", "Matches (4)")
    assert window.errors == []


def test_every_figure_is_700_pixels_wide(window: Window) -> None:
    window.open("images", f"weightwatch/({'|'.join(FIGURES)})")
    for figure in FIGURES:
        card = window.card("tf-image-loader", f"weightwatch/{figure}")
        assert window.picture_width(card) == 700, figure
    assert window.errors == []


@pytest.mark.parametrize(
    ("tab", "kind", "drawing"),
    [
        ("distributions", "tf-distribution-loader", "vz-distribution-chart svg path"),
        ("histograms", "tf-histogram-loader", "vz-histogram-timeseries svg path"),
    ],
    ids=["distributions", "histograms"],
)
def test_histograms_are_drawn(tab: str, kind: str, drawing: str, window: Window) -> None:
    window.open(tab, "weightwatch/weights|002_net.2.weight|alpha_layers")
    for tag in ("weightwatch/weights", "weightwatch-weights/002_net.2.weight", ALPHAS):
        window.within(window.card(kind, tag), drawing)
    assert window.errors == []


def test_text_shows_the_trials_as_tables(window: Window) -> None:
    window.open("text", "weightwatch/quantization")
    card = window.card("tf-text-loader", "weightwatch/quantization")
    for trial in ("baseline", "int8", "int4"):
        window.within(card, "td", trial)
    assert window.errors == []


def test_hparams_show_a_row_for_each_trial(window: Window) -> None:
    window.open("hparams")
    table = window.card("tf-hparams-table-view", "")
    for trial in ("int8", "pruned50"):
        window.within(table, "vaadin-grid-cell-content", trial)
    assert window.errors == []


def test_no_other_tab_has_an_error(window: Window, server: TensorBoard) -> None:
    plugins = server.get("plugins_listing")
    for tab in {name for name, plugin in plugins.items() if plugin["enabled"]} - SEEN_ABOVE:
        window.open(tab)
        window.page.locator(f"[aria-selected=true] [data-plugin-id={tab}]").wait_for()
    assert window.errors == []


def test_the_link_of_the_demo_opens_a_dashboard_with_every_card_pinned(
    window: Window, demo_link: str
) -> None:
    cards = json.loads(parse_qs(urlsplit(demo_link).query)["pinnedCards"][0])
    assert len(cards) >= 5
    window.page.goto(f"{window.url}{demo_link}")
    pinned = "metrics-pinned-view card-view"
    window.page.wait_for_function(
        "([cards, count]) => document.querySelectorAll(cards).length === count",
        arg=[pinned, len(cards)],
    )
    for card in cards:
        shown = window.page.locator(pinned).filter(has_text=card["tag"]).first
        shown.wait_for()
        if card["plugin"] == "images":
            assert window.picture_width(shown) == 700
    assert window.errors == []
