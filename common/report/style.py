"""The style of all figures: sizes that are readable on a phone, colours for colour-blind readers, no decoration."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Tol's muted palette, of sources and of models of unknown kind; a method has a colour of its own (method_look.py).
COLOURS = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499", "#DDCC77")
# Lines also differ in their dashes, for readers who see no colours.
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (3, 1, 1, 1)), (0, (5, 1)), ":", (0, (1, 1)))
MARKERS = ("o", "D", "s", "P", "^", "v", "X", "*", "<", ">")
REFERENCE: dict[str, Any] = {"color": "0.55", "linewidth": 0.8, "linestyle": ":"}
GRADED = "cividis"  # perceptually uniform, also for colour-blind readers
Kind = Literal["svg", "png"]
KINDS: tuple[Kind, ...] = ("svg", "png")
WIDTH, HEIGHT = 4.6, 3.3  # inches; text stays readable at the 360 points of a phone

_RC: Any = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a patient's ID may contain a dollar sign
    "svg.fonttype": "path",  # so that the SVG does not depend on the installed fonts
}
_DPI = 160
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LETTERS_PER_INCH, _LINE = 14.5, 0.135  # letters per inch, and line height in inches, of the title's font


@contextmanager
def canvas(title: str, who: str, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Figure]:
    """A figure to draw on, without a window system; ``width`` and ``height`` in inches, without title and ``who``.

    ``who``, the data (site, n, folds, seeds), is drawn in the figure, because it may be used without its page.
    """
    import matplotlib as mpl  # noqa: PLC0415 (takes half a second, so only when drawing)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_RC):
        letters = int(width * _LETTERS_PER_INCH)
        lines = [line for text in (title, who) for line in textwrap.wrap(text, letters)]
        figure = Figure(figsize=(width, height + _LINE * len(lines)), layout="constrained")
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=8.5, color="0.1")
        yield figure
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # so that the layout is computed once, not for every file


def encoded(figure: Figure, kind: Kind, salt: str = "fedsteph") -> bytes:
    """A figure's file; the same figure gives the same bytes. ``salt`` makes the ids in an SVG unique in a document."""
    import matplotlib as mpl  # noqa: PLC0415

    buffer = io.BytesIO()
    # By default the writers record the date and the software.
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(_RC | {"svg.hashsalt": salt}):
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    # Matplotlib writes texts into XML comments.
    return without_control(buffer.getvalue().decode()).encode() if kind == "svg" else buffer.getvalue()


def without_control(text: str) -> str:
    """A text without the characters that XML and HTML forbid; a patient's ID may hold one."""
    return _NO_XML.sub("", text)


def bar_of(value: float, interval: Sequence[float] | None) -> list[list[float]] | None:
    """Lengths of the error bar from a value to the ends of its interval; None without an interval."""
    return None if interval is None else [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def legend_above(axes: Any, ncols: int = 1, title: str | None = None) -> None:
    """A legend above the axes, where no curve can be below it; ``title`` stands over it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, title=title, alignment="left", borderaxespad=0.2)


def line_look(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th source's line; two lines never share both."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[(i + i // len(COLOURS)) % len(DASHES)]}
