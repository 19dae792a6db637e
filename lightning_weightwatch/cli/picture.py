"""The pictures that a command writes: their formats, by the names of their files."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_weightwatch.cli.refusal import Refusal
from lightning_weightwatch.views.png import in_our_style, png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg", ".pdf")


def check_picture(target: str | None) -> None:
    """Refuse the name of a picture whose format cannot be written.

    Raises:
        Refusal: If it has another ending.
    """
    if target is not None and Path(target).suffix.lower() not in _FORMATS:
        raise Refusal(f"--figure {target}: the name must end in {', '.join(_FORMATS)}")


def picture_bytes(figure: "Figure", target: str) -> bytes:
    """A figure in the format that the name of its file says."""
    form, file = Path(target).suffix.lower().removeprefix("."), io.BytesIO()
    if form == "png":
        return png_bytes(figure)
    in_our_style(figure.savefig)(file, format=form)
    return file.getvalue()
