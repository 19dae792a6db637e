"""Short names stay apart, fit, and can be drawn."""

import pytest

from lightning_weightwatch.views.layer_names import drawable, named_rows, short_names
from tests.views.spectra_to_draw import HOSTILE


@pytest.mark.parametrize("longest", [8, 20])
@pytest.mark.parametrize(
    "names",
    [
        HOSTILE,
        [f"model.layers.{i}.self_attention.out_projection.weight" for i in range(300)],
        ["a" * 100 + str(i) + "b" * 100 for i in range(300)],
        ["same"] * 300,
        ["x#0", "x", "x"],
    ],
)
def test_names_fit_and_differ(names: list[str], longest: int) -> None:
    shown = short_names(names, longest)
    assert len(set(shown)) == len(names)
    assert max(map(len, shown)) <= longest


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], []),
        (["net.0.weight"], ["net.0.weight"]),
        (["net.0.weight", "net.2.weight"], ["net.0.weight", "net.2.weight"]),
        (["network.encoder.0.weight", "network.encoder.2.weight"], ["0", "2"]),
        (["fc", "fc.bias"], ["fc", "fc.bias"]),
        (["backbone.layer1.0.downsample.0", "head"], ["b.l1.0.downsample.0", "head"]),
    ],
)
def test_where_names_are_too_long_what_all_share_goes_then_words_become_initials(
    names: list[str], shown: list[str]
) -> None:
    assert short_names(names) == shown


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_drawn_is_one_line_of_known_letters(name: str) -> None:
    shown = drawable(name)
    assert "\n" not in shown
    assert drawable(shown) == shown


def test_what_matters_is_named_and_its_neighbours_give_way() -> None:
    assert named_rows(10, [], near=0.8, apart=0.8) == [*range(10)]
    assert named_rows(10, [], near=1.5, apart=1.5) == [0, 2, 4, 6, 8]
    assert named_rows(10, [7, 3], near=1.5, apart=1.5) == [7, 3, 0]
    assert named_rows(10, [7, 9], near=1.5, apart=4.5) == [7, 9, 0, 5]
