"""How every picture looks: sizes that a phone can show, colours that the colour-blind can tell apart, no junk."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette; black last, which text and reference lines have too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
# Whoever sees no colour tells lines apart by their dashes.
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
REFERENCE: dict[str, Any] = {"color": "0.55", "linewidth": 0.8, "linestyle": ":"}
GRADED = "cividis"  # perceptually uniform, and the same to the colour-blind
Kind = Literal["svg", "png"]
KINDS: tuple[Kind, ...] = ("svg", "png")
WIDTH, HEIGHT = 4.6, 3.3  # inches: on a phone's 360 points text stays legible

_RC: Any = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a patient's ID may hold a dollar sign
    "svg.fonttype": "path",  # the same on every machine, whatever fonts it has
}
_DPI = 160
_NO_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LETTERS_PER_INCH, _LINE = 14.5, 0.135  # of the title's font


@contextmanager
def canvas(title: str, who: str, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Figure]:
    """A figure to draw on; no window system is asked for.

    Args:
        title: what is seen.
        who: whose data: site, n, folds, seeds. It stands in the figure, which may leave the page.
        width: in inches, and so is ``height``, to which the lines of both texts are added.
    """
    import matplotlib as mpl  # noqa: PLC0415 (half a second, for those who draw)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_RC):
        letters = int(width * _LETTERS_PER_INCH)
        lines = [line for text in (title, who) for line in textwrap.wrap(text, letters)]
        figure = Figure(figsize=(width, height + _LINE * len(lines)), layout="constrained")
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=8.5, color="0.1")
        yield figure
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out now, and need not be again for every file


def encoded(figure: Figure, kind: Kind, salt: str = "fedsteph") -> bytes:
    """A figure as the bytes of a file, the same for the same figure; no date and no path is in them.

    Args:
        salt: makes the ids within an SVG its own, so that several can stand in one document.
    """
    import matplotlib as mpl  # noqa: PLC0415

    buffer = io.BytesIO()
    # The SVG writer names its maker, and the day, unless told not to.
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(_RC | {"svg.hashsalt": salt}):
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    # Texts stand in comments, and a control character, as an ID from a file may hold, would make the SVG no XML.
    return _NO_XML.sub(b"", buffer.getvalue()) if kind == "svg" else buffer.getvalue()


def line_look(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th line: two lines share one of them at most."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[(i + i // len(COLOURS)) % len(DASHES)]}
