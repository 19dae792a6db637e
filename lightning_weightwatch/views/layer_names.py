"""Names of layers that fit into a figure and can still be told apart."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from lightning_weightwatch.views.tables import one_line

#: Characters a figure has room for beside the data.
LONGEST = 20


def short_names(names: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Each name in at most `longest` characters, as they are where all of them fit.

    Else what all share goes, and then words become initials. What is still too long is cut in the
    middle. Names that then are the same get their position, counted from 0 as in the tags.

    >>> short_names(["net.encoder.layers.11.attention.query", "net.encoder.layers.11.output"])
    ['attention.query', 'output']
    >>> short_names(["a.encoder.layers.11.attention.query", "b.encoder.layers.2.mlp"])
    ['a.e.l.11.a.query', 'b.e.layers.2.mlp']
    """
    drawn = [drawable(name) for name in names]
    if any(len(name) > longest for name in drawn):
        drawn = _distinct_parts(drawn)
    shown = [shortened(_with_initials(name, longest), longest) for name in drawn]
    while len(set(shown)) < len(shown):
        again = Counter(shown)
        for index, name in enumerate(shown):
            if again[name] > 1:
                number = f"#{index}"
                shown[index] = shortened(name, max(longest - len(number), 1)) + number
    return shown


def shortened(name: str, longest: int) -> str:
    """A name cut in the middle, where names differ least."""
    if len(name) <= longest:
        return name
    tail = (longest - 1) // 2
    return f"{name[: longest - 1 - tail]}…{name[len(name) - tail :]}"


def named_rows(count: int, first: Sequence[int], near: float, apart: float) -> list[int]:
    """Which rows of a map have a name beside them.

    Args:
        count: Of the rows.
        first: Those that matter most, the most important first.
        near: No two names may be closer, in rows.
        apart: How far from each other the other names are, in rows.

    >>> named_rows(9, first=[5, 4], near=1.5, apart=3)
    [5, 0, 3]
    """
    named: list[int] = []
    # A twentieth of a row is no overlap.
    for row in [*first, *range(0, count, max(math.ceil(apart - 0.1), 1))]:
        if all(abs(row - other) >= max(near - 0.05, 1) for other in named):
            named.append(row)
    return named


@lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    r"""A text in one line, of characters that matplotlib's own font has; others are escaped.

    >>> print(drawable("über 编"))
    über \u7f16
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    return "".join(
        character
        if font.get_char_index(ord(character))
        else character.encode("unicode_escape").decode()
        for character in one_line(text)
    )


def _distinct_parts(names: Sequence[str]) -> list[str]:
    """The names without the dotted parts that all of them begin or end with."""
    split = [name.split(".") for name in names]
    if len(split) < 2:
        return [".".join(parts) for parts in split]
    shortest = min(map(len, split))
    head = _shared(split, shortest - 1)
    tail = _shared([parts[::-1] for parts in split], shortest - 1 - head)
    return [".".join(parts[head : len(parts) - tail]) for parts in split]


def _shared(split: Sequence[Sequence[str]], most: int) -> int:
    """How many parts, up to a number, all begin with."""
    for index in range(most):
        if any(parts[index] != split[0][index] for parts in split):
            return index
    return max(most, 0)


def _with_initials(name: str, longest: int) -> str:
    """The words of a dotted name as initials, from the left, until it fits; numbers stay.

    >>> _with_initials("layer1.0.downsample.conv", 14)
    'l1.0.d.conv'
    """
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if len(".".join(parts)) <= longest:
            break
        parts[index] = re.sub(r"^([^\W\d])\D*", r"\1", part)
    return ".".join(parts)
