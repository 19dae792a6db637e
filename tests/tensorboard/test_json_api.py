"""What a real TensorBoard makes of the demo's log folder, with either of its loaders."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from examples import digits
from tests.callbacks.test_event_files import DOCUMENTED
from tests.tensorboard.server import PLUGINS, Steps, TensorBoard

RUNS = ("digits/clean", "digits/noisy")
PARTS = ("train", "val")
OPTED_IN = "options/opted_in"
EVERY_RUN = pytest.mark.parametrize("run", RUNS)
FIGURES = {
    "weightwatch/loss_curve",
    "weightwatch/alpha_depth",
    "weightwatch/alpha_heat_map",
    "weightwatch/weight_grid",
    "weightwatch/network",
    "weightwatch/activation_ranges",
    "weightwatch/flop_hot_spots",
    "weightwatch-esd/000_net.0",
    "weightwatch-esd/001_net.2",
    "weightwatch/pareto",
    "weightwatch/quantization_damage",
    "weightwatch/quantization_layers",
    "weightwatch/quantization_weights",
    "weightwatch/pruning_damage",
    "weightwatch/pruning_layers",
}
ONLY_AT_FIRST = "weightwatch/flop_hot_spots"  # the same in every epoch
ONLY_AT_THE_END = re.compile("quantization|pruning|pareto|diagnosis|loss_curve")
PARAMETERS = {name: values.numel() for name, values in digits.DigitsClassifier().named_parameters()}


def ours(steps: dict[str, list[int]]) -> dict[str, list[int]]:
    """Without the tags that Lightning and the demo itself log."""
    return {tag: found for tag, found in steps.items() if tag.startswith("weightwatch")}


def epochs_of(served: Steps, run: str) -> list[int]:
    """The steps at which the epochs of a run ended, by what `self.log` wrote."""
    return served[run]["scalars"]["val_loss"]


def served_under(documented: str, run: str, served: Steps) -> dict[str, list[int]]:
    """What a tag of the documentation stands for, in a run and in its sub-runs."""
    group, _, name = documented.partition("/")
    if group != "weightwatch":  # of a layer, a parameter or a kind of the reader's model
        pattern = re.compile(rf"{re.escape(group)}/.+")
    else:
        pattern = re.compile(rf"weightwatch/{re.escape(name)}(/text_summary)?")
    return {
        f"{name}: {tag}": steps
        for name in (run, *(f"{run}/{part}" for part in PARTS))
        for tags in served.get(name, {}).values()
        for tag, steps in tags.items()
        if pattern.fullmatch(tag)
    }


def test_every_point_that_was_written_is_served(logged: Steps, served: Steps) -> None:
    assert set(served) == set(logged) >= set(RUNS)
    for run in logged:
        for plugin in PLUGINS:
            assert ours(served[run][plugin]) == ours(logged[run][plugin]), (run, plugin)


def test_the_steps_of_a_tag_increase(served: Steps) -> None:
    for run, kinds in served.items():
        for plugin, tags in kinds.items():
            for tag, steps in ours(tags).items():
                assert steps == sorted(set(steps)), (run, plugin, tag)


@pytest.mark.parametrize("tag", DOCUMENTED)
def test_a_documented_tag_is_served_to_its_last_step(tag: str, served: Steps) -> None:
    for run in [OPTED_IN] if "gradient" in tag else RUNS:
        found = served_under(tag, run, served)
        assert found
        last = epochs_of(served, run)[0 if tag == ONLY_AT_FIRST else -1]
        assert {name: steps[-1] for name, steps in found.items()} == dict.fromkeys(found, last)


@EVERY_RUN
def test_every_curve_has_every_epoch(run: str, served: Steps) -> None:
    epochs = epochs_of(served, run)
    for tag, steps in ours(served[run]["scalars"]).items():
        expected = epochs[-1:] if ONLY_AT_THE_END.search(tag) else epochs
        if tag.endswith("prechelt_pq"):  # a strip of five validations comes first
            expected = epochs[4:]
        assert [step for step in steps if step] == expected, tag


@EVERY_RUN
def test_every_histogram_has_every_epoch_and_not_more_than_tensorboard_shows(
    run: str, served: Steps
) -> None:
    for tag, steps in ours(served[run]["histograms"]).items():
        assert [step for step in steps if step] == epochs_of(served, run), tag
        assert len(steps) <= 51


@EVERY_RUN
def test_a_histogram_counts_every_weight_once(run: str, server: TensorBoard) -> None:
    sizes = {"weightwatch/weights": sum(PARAMETERS.values())}
    for index, (name, size) in enumerate(PARAMETERS.items()):
        sizes[f"weightwatch-weights/{index:03d}_{name}"] = size
    for tag, size in sizes.items():
        for _, _, buckets in server.points("histograms", run, tag):
            assert sum(count for _, _, count in buckets) == pytest.approx(size, abs=0.01), tag


@EVERY_RUN
def test_the_alphas_of_both_layers_are_a_histogram(run: str, server: TensorBoard) -> None:
    _, _, buckets = server.points("histograms", run, "weightwatch/alpha_layers")[-1]
    assert sum(count for _, _, count in buckets) == pytest.approx(2)
    for layer in ("000_net.0", "001_net.2"):
        _, _, alpha = server.points("scalars", run, f"weightwatch-alpha/{layer}")[-1]
        left, right = buckets[0][0], buckets[-1][1]
        assert left - 1e-3 <= alpha <= right + 1e-3


@EVERY_RUN
def test_the_figures_are_pngs_of_700_pixels_at_ten_steps_at_most(
    run: str, server: TensorBoard, served: Steps
) -> None:
    pictures = ours(served[run]["images"])
    assert set(pictures) == FIGURES
    for tag in pictures:
        points = server.points("images", run, tag)
        assert 1 <= len(points) <= 10
        assert set(pictures[tag]) <= {0, *epochs_of(served, run)}
        for point in points:
            key = point["query"].removeprefix("blob_key=")
            png = server.read("plugin/images/individualImage", blob_key=key)
            assert png[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack(">II", png[16:24])
            assert width == 700
            assert height <= 1300


@EVERY_RUN
def test_the_tables_have_25_rows_at_most(run: str, server: TensorBoard, served: Steps) -> None:
    texts = ours(served[run]["text"])
    assert {f"weightwatch/{name}/text_summary" for name in ("quantization", "pruning")} <= set(
        texts
    )
    for tag in texts:
        for point in server.points("text", run, tag):
            for table in point["text"].split("<thead>")[1:]:
                body = table.partition("</table>")[0].partition("<tbody>")[2]
                assert 1 <= body.count("<tr>") <= 25, tag


@pytest.mark.parametrize("plugin", ["scalars", "histograms", "images"])
def test_every_card_of_ours_describes_itself(plugin: str, server: TensorBoard) -> None:
    for run, tags in server.tags(plugin).items():
        for tag, said in tags.items():
            assert said["description"] or not tag.startswith("weightwatch"), (run, tag)


@EVERY_RUN
def test_training_and_validation_loss_overlay_in_one_card(run: str, server: TensorBoard) -> None:
    train, val = (server.points("scalars", f"{run}/{part}", "weightwatch/loss") for part in PARTS)
    for points, tag in ((train, "weightwatch/train_loss"), (val, "val_loss")):
        of_the_run = server.points("scalars", run, tag)
        assert [point[1:] for point in points] == [point[1:] for point in of_the_run]


def charts(server: TensorBoard, kind: str) -> list[dict[str, Any]]:
    """What the charts of a kind show, in our category of the custom scalars."""
    layout = server.get("plugin/custom_scalars/layout")
    (ours,) = (found for found in layout["category"] if found["title"] == "weightwatch")
    return [chart[kind] for chart in ours["chart"] if kind in chart]


def test_custom_scalars_have_alpha_with_its_margin(server: TensorBoard) -> None:
    (margin,) = charts(server, "margin")
    (series,) = margin["series"]
    assert series == {
        "value": "weightwatch/alpha_mean",
        "lower": "weightwatch/alpha_min",
        "upper": "weightwatch/alpha_max",
    }
    for run in RUNS:
        assert set(series.values()) <= set(server.tags("scalars")[run])


@EVERY_RUN
def test_a_chart_of_custom_scalars_has_both_losses_and_nothing_else(
    run: str, server: TensorBoard
) -> None:
    (chart,) = charts(server, "multiline")
    (pattern,) = chart["tag"]
    drawn = set()
    for part in (run, f"{run}/train", f"{run}/val"):
        found = server.get("plugin/custom_scalars/scalars", run=part, tag=pattern)
        drawn |= {(part, tag) for tag in found["tag_to_events"]}
    assert drawn == {(f"{run}/{part}", "weightwatch/loss") for part in ("train", "val")}


def test_the_served_weight_norm_is_that_of_the_last_weights(
    server: TensorBoard, demo_log: Path
) -> None:
    for run in RUNS:
        weights = torch.load(demo_log / run / "final.ckpt", weights_only=True)["state_dict"]
        norm = torch.cat([w.double().flatten() for w in weights.values()]).norm()
        _, _, value = server.points("scalars", run, "weightwatch/weight_norm")[-1]
        assert value == pytest.approx(float(norm), rel=1e-6)
