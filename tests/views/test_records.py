"""What other programs read back is what the report holds."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.views.records import csv_text, json_text

NAMES = [
    "plain",
    "réseau.層",
    'quotes "and", commas',
    "two\nlines",
    "\x1b[31mred\x1b[0m",
    "\x9b31m",
    "\u202ereversed",
    "lone \udce9",
    "tag \U000e0001",
    "back\\slash \\n",
]


@dataclass(frozen=True)
class Found:
    rows: tuple[dict[str, Any], ...]
    skipped: tuple[Skipped, ...] = ()

    def summary(self) -> dict[str, float]:
        return {"mean": 0.1}

    def records(self) -> list[dict[str, Any]]:
        return list(self.rows)


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("name", NAMES)
def test_any_name_comes_back_out_of_json_and_prints(name: str) -> None:
    report = Found(({"name": name},), (Skipped(name, f"because {name}"),))
    text = json_text(report, name, {"layers": [name]})
    assert all(character.isprintable() or character == "\n" for character in text)
    assert json.loads(text.encode("utf-8")) == {
        "file": name,
        "settings": {"layers": [name]},
        "summary": {"mean": 0.1},
        "layers": [{"name": name}],
        "skipped": [{"name": name, "reason": f"because {name}"}],
    }


def test_json_has_null_for_what_is_not_finite_and_every_digit_of_the_rest() -> None:
    row = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1 / 3, "e": 7, "f": True, "g": None}
    text = json_text(Found((row,)), "model.pt", {})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (found,) = json.loads(text, parse_constant=refuse)["layers"]
    assert found == row | {"a": None, "b": None, "c": None}


def test_csv_has_a_column_for_every_key_of_any_row() -> None:
    text = csv_text([{"name": "a", "x": 1}, {"name": "b", "y": 1 / 3}])
    assert read(text) == [["name", "x", "y"], ["a", "1", ""], ["b", "", repr(1 / 3)]]


def test_csv_is_empty_where_a_number_is_unknown() -> None:
    row = {"name": "a", "nan": math.nan, "inf": math.inf, "none": None, "zero": 0.0}
    assert read(csv_text([row]))[1] == ["a", "", "", "", "0.0"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r="])
def test_no_text_in_csv_is_a_formula(start: str) -> None:
    ((_, cell),) = zip(*read(csv_text([{"name": f"{start}1+1"}])), strict=True)
    assert cell.startswith("'")


def test_a_negative_number_in_csv_stays_a_number() -> None:
    assert read(csv_text([{"log_norm": -0.5, "count": -1}]))[1] == ["-0.5", "-1"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_line_of_csv_that_prints(name: str) -> None:
    text = csv_text([{"name": name, "x": 1}])
    assert len(text.splitlines()) == 2
    assert all(line.isprintable() for line in text.split("\n"))
    assert read(text)[1][1] == "1"


def test_no_rows_are_a_header() -> None:
    assert read(csv_text([])) == [["name"]]
