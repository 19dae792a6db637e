"""What a cell holds is what a reader sees, in TensorBoard's Markdown and in the terminal."""

import io
import math
import warnings
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from lightning_weightwatch.views.tables import (
    MAX_ROWS,
    escape_markdown,
    format_value,
    markdown_table,
    terminal_table,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # html5lib, vendored in TensorBoard
    from tensorboard.plugin_util import markdown_to_safe_html

HOSTILE = {
    "pipe": "a|b||c",
    "script": "<script>alert('x')</script>",
    "image": "<img src=x onerror=alert(1)>",
    "autolink": "<http://example.org>",
    "link": "[text](http://example.org)",
    "image link": "![alt](http://example.org/x.png)",
    "reference": "[text][1]",
    "brackets": "block[0]",
    "code": "`rm -rf`",
    "double code": "``x`|`y``",
    "emphasis": "*a* **b** _c_ __d__",
    "dunder": "net.__init__.weight_v",
    "heading": "# heading",
    "backslash": "a\\b\\|c\\",
    "escaped bracket": "\\[x\\]",
    "entity": "a&lt;b&amp;c&#124;d",
    "ampersand": "R&D & co;",
    "comment": "<!-- hidden -->",
    "rule": "---",
    "table row": "| --- |",
    "list": "1. one",
    "list item": "+ one",
    "quote": "> quoted",
    "math": "$\\alpha$",
    "braces": "{x}",
    "unicode": "réseau.層",
    "fence": "```python",
    "rich": "[red]text[/red]",
    "rich end": "[/]",
    "rich after a backslash": "a\\[b]c",
    "emoji code": ":smile:",
    "link in rich": "[link=http://example.org]x[/link]",
    "quotes": "\"a\" 'b'",
}
LINES = {"newline": "a\nb", "return": "a\rb", "both": "a\r\nb", "paragraph": "a\n\n# b"}


class Page(HTMLParser):
    """The cells of a table and the tags around them, as a browser would read them."""

    def __init__(self, markdown: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.outside = ""
        self._in_cell = False
        self.feed(markdown_to_safe_html(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data
        else:
            self.outside += data.strip()


TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_any_name_stands_in_its_markdown_cell_as_it_is(name: str) -> None:
    page = Page(
        markdown_table([{"name": name, "value": 1}, {"name": "b", "value": 2}], ["name", "value"])
    )
    assert page.rows == [["name", "value"], [name, "1"], ["b", "2"]]
    assert set(page.tags) == TABLE_TAGS
    assert page.outside == ""


@pytest.mark.parametrize("name", LINES.values(), ids=LINES)
def test_a_line_break_does_not_break_the_markdown_row(name: str) -> None:
    page = Page(
        markdown_table([{"name": name, "value": 1}, {"name": "b", "value": 2}], ["name", "value"])
    )
    assert [row[1] for row in page.rows] == ["value", "1", "2"]
    assert page.rows[1][0].split() == name.split()
    assert set(page.tags) == TABLE_TAGS


@pytest.mark.parametrize("name", [*HOSTILE.values(), *LINES.values()], ids=[*HOSTILE, *LINES])
def test_any_name_stands_in_a_sentence_as_it_is(name: str) -> None:
    page = Page(f"the metric {escape_markdown(name)} was best")
    assert page.tags == ["p"]
    assert page.outside.split() == f"the metric {name} was best".split()


@pytest.mark.parametrize("name", [*HOSTILE.values(), *LINES.values()], ids=[*HOSTILE, *LINES])
def test_any_name_stands_in_its_terminal_cell_as_it_is(name: str) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(terminal_table([{"name": name, "value": 7}], ["name", "value"], "title"))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line[1:-1].rsplit("│", 1)] for line in lines]
    assert " ".join(cell for cell, _ in cells).split() == name.split()
    assert [number for _, number in cells if number] == ["7"]


def test_a_hostile_title_is_shown_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    title = "Trial: [/] [red]val_loss[/red] :smile: on validation"
    console.print(terminal_table([{"a": 1}], ["a"], title))
    assert isinstance(console.file, io.StringIO)
    above, _, _ = console.file.getvalue().partition("┏")
    assert "".join(above.split()) == "".join(title.split())


@pytest.mark.parametrize("rows", [1, MAX_ROWS, MAX_ROWS + 1, MAX_ROWS + 40])
def test_long_tables_end_with_the_number_of_rows_left_out(rows: int) -> None:
    page = Page(markdown_table([{"i": i} for i in range(rows)], ["i"]))
    shown = min(rows, MAX_ROWS)
    assert page.rows == [["i"], *([str(i)] for i in range(shown))]
    expected = f"{rows - MAX_ROWS} more rows are not shown." if rows > MAX_ROWS else ""
    assert page.outside == expected


def test_only_the_asked_columns_are_shown_in_their_order() -> None:
    page = Page(markdown_table([{"a": 1, "b": 2, "c": 3}], ["c", "a"]))
    assert page.rows == [["c", "a"], ["3", "1"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (1234567, "1,234,567"),
        (-1234, "-1,234"),
        (0.5, "0.5"),
        (2.0, "2"),
        (1 / 3, "0.3333"),
        (123456.0, "1.235e+05"),
        (-1e-9, "-1e-09"),
        (math.nan, "–"),
        (math.inf, "inf"),
        (True, "True"),
        (None, "None"),
        ("text", "text"),
        ("", ""),
    ],
)
def test_values_are_written_for_people(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    table = terminal_table([{"layer_name": "x", "alpha": math.nan}], ["layer_name", "alpha"], "t")
    assert [column.justify for column in table.columns] == ["left", "right"]
    assert [column.header for column in table.columns] == ["layer name", "alpha"]
