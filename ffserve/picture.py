"""A figure as a file, written whole or not at all, the same bytes each time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffcore.errors import UsageError
from ffcore.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")


def check_picture(option: str, path: Path) -> None:
    """Raises UsageError unless a picture can be written under this name, ModuleNotFoundError without matplotlib."""
    if path.suffix.lower() not in PICTURES:
        raise UsageError(f"{option} is {str(path)!r}: its name must end in {', '.join(PICTURES)}")
    import matplotlib  # noqa: F401


@contextmanager
def drawn(path: Path, font_size: float, *, tight: bool = False, **settings: Any) -> Iterator[Figure]:
    """Gives a figure to draw on, and writes it when the block ends well.

    Args:
        path: a name that `check_picture` lets pass.
        font_size: in points.
        tight: cut off what is empty around it.
        settings: of matplotlib's Figure.

    Raises:
        FFStudyError: where the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"font.size": font_size, "text.parse_math": False, "svg.hashsalt": "ffstudy"}
    form = path.suffix.lower().removeprefix(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
    with matplotlib.rc_context(style), replacing(path) as partial:
        figure = Figure(dpi=200, **settings)
        yield figure
        with warnings.catch_warnings():  # letters that matplotlib's font lacks are drawn as boxes
            warnings.filterwarnings("ignore", r"Glyph \d+|Matplotlib currently does not support", UserWarning)
            figure.savefig(partial, format=form, metadata=undated, bbox_inches="tight" if tight else None)
