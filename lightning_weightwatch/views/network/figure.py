"""The diagram of a network: a column a layer, a dot a neuron, lines as strong as they matter."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from lightning_weightwatch.model.graph import Graph, trace
from lightning_weightwatch.model.running import Run
from lightning_weightwatch.usage.report import UsageReport
from lightning_weightwatch.views.network.arranging import laid_out
from lightning_weightwatch.views.network.deadness import with_dead
from lightning_weightwatch.views.network.edges import lines_of
from lightning_weightwatch.views.network.importance import importances
from lightning_weightwatch.views.network.labels import (
    lines_of_text,
    write_heading,
    write_labels,
    write_legend,
)
from lightning_weightwatch.views.network.look import (
    AREAS,
    draw_arcs,
    draw_blocks,
    draw_dots,
    draw_lines,
    draw_marks,
    kept_colours,
)
from lightning_weightwatch.views.png import DPI, in_our_style, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_network(
    model: nn.Module,
    batch: Any,
    usage: UsageReport | None = None,
    *,
    run: Run | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Draw a network as it runs: its layers, what feeds what, and what matters.

    A column is a layer, a dot one of its neurons or channels, or several where there are many.
    A line to a dot is the thicker and the darker the more importance its weights have, as a share
    of the strongest line of its layer, or of twice the mean if that is more: where all lines are
    alike none stands out. It is plain grey where importance is not known, or not from which
    channel: a line joins two dots only if each input of the layer is known to be that output. If
    not, lines meet halfway, and on either side show the sums that are known. Skips and branches go
    over the columns to where they are added, multiplied or concatenated. A hollow dot is dead: it
    gave 0 for every sample, or came as 0 to the only layer that reads it.

    Many layers are drawn in rows, as the lines of a text: a row begins with what the one above it
    ended with.

    Args:
        model: The model; it runs once on a copy without values, see `trace`.
        batch: As it comes from a loader.
        usage: Of `measure_usage`: how important the weights are. Without it all lines are plain.
        run: Runs the model on the batch where that cannot be told from the batch.
        path: Where to write it: `.png`, `.svg` or `.pdf`.

    Raises:
        ValueError: If the path ends in none of these.
        CannotRun: If the forward pass fails.
    """
    if path is not None:
        _kind(Path(path))
    figure = network_figure(trace(model, batch, run=run), usage, title=type(model).__name__)
    if path is not None:
        write_network(figure, path)
    return figure


@in_our_style
def network_figure(graph: Graph, usage: UsageReport | None = None, *, title: str = "") -> "Figure":
    """The diagram of a traced network; see `draw_network`.

    Args:
        graph: Of `trace`.
        usage: Of the same model.
        title: Goes before the number of layers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = with_dead(graph, usage, importances(graph, usage))
    layout = laid_out(graph, lines=lines_of_text(known))
    figure = Figure(figsize=(layout.scale.width, layout.height), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    draw_blocks(axes, layout)
    lines = lines_of(layout, known)
    draw_lines(axes, layout, lines)
    draw_arcs(axes, layout)
    draw_dots(axes, layout, known)
    draw_marks(axes, layout)
    write_labels(figure, axes, layout, known)
    write_heading(axes, layout, title)
    plain = {line.end for line in lines if np.isnan(line.strength).any()}
    foot = write_legend(figure, axes, layout, known, plain)
    figure.set_size_inches(layout.scale.width, layout.height + foot)
    axes.set_xlim(0, layout.scale.width)
    axes.set_ylim(-foot, layout.height)
    return figure


def network_png(figure: "Figure") -> bytes:
    """A diagram as a PNG with a palette that keeps pale blue and grey lines apart.

    That of other figures keeps areas exactly and few shades between them; here most is thin lines.
    The commonest shades are kept, and with them those of rare signs and of the strongest lines.
    """
    from PIL import Image

    image = pixels(figure)
    picture = Image.fromarray(image)
    kept = [round(255 * part) for colour in kept_colours() for part in colour]
    common = picture.quantize(256 - len(kept) // 3, Image.Quantize.MEDIANCUT)
    palette = Image.new("P", (1, 1))
    palette.putpalette([*kept, *(common.getpalette() or [])][: 3 * 256])
    few = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    # Pillow takes the nearest colour but for some levels: areas would be seen to be off.
    for index in range(AREAS):
        few[(image == kept[3 * index : 3 * index + 3]).all(-1)] = index
    shown = Image.frombytes("P", few.shape[::-1], few.tobytes())
    shown.putpalette(palette.getpalette() or [])
    file = BytesIO()
    shown.save(file, "PNG")
    return file.getvalue()


@in_our_style
def write_network(figure: "Figure", path: str | Path) -> None:
    """Write a diagram as a PNG, SVG or PDF, by the end of the path.

    Raises:
        ValueError: If the path ends in none of these.
    """
    kind, file = _kind(Path(path)), BytesIO()
    if kind == "png":
        file.write(network_png(figure))
    else:
        figure.savefig(file, format=kind)
    Path(path).write_bytes(file.getvalue())


def _kind(path: Path) -> str:
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"path must end in .png, .svg or .pdf, got {str(path)!r}")
    return kind
